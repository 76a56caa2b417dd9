"""Reading /proc/PID/pagemap in bounded memory.

Adjacent VMAs are read with one call.  A large and mostly empty range is asked about first: PAGEMAP_SCAN
(Linux 6.7) names its populated parts; without it, a range for which smaps counts nothing is skipped, and what
is left is read in chunks up to a stated limit.
"""

from __future__ import annotations

from contextlib import ExitStack

import attrs
import numpy as np
from numpy.typing import NDArray

from vmviz.live.image import U64, VM_PFNMAP, VmaTable, inside_mask, pages_inside
from vmviz.live.procfs import GoneError, ProcFs

CHUNK_PAGES = 1 << 18  # 2 MiB of pagemap, 1 GiB of address space with 4 KiB pages
SLACK = 1 << 12  # rows beyond those that smaps counts: zero pages, and what comes meanwhile
JOIN_GAP = 16  # pages: reading a small hole is cheaper than another call


@attrs.frozen
class Limits:
    """What one reading may cost.

    ``max_pages`` bounds the rows kept (40 bytes each).  ``dense_pages``: ranges up to this length are read
    without asking first.  ``blind_pages`` bounds what is read of large ranges when PAGEMAP_SCAN is missing (8
    bytes a page, about 60 ms per million).  ``max_text`` bounds maps and smaps in bytes.  ``attempts``: how
    often a changing process is read again.
    """

    max_pages: int = 1 << 24
    dense_pages: int = 1 << 16
    blind_pages: int = 1 << 28
    max_text: int = 1 << 30
    attempts: int = 8


@attrs.define
class Scratch:
    """The buffers of a reading, made before it begins: reading oneself must not change one's own maps."""

    words: U64 = attrs.field(factory=lambda: np.zeros(CHUNK_PAGES, dtype=np.uint64))


@attrs.frozen
class PagemapResult:
    """The rows found, the byte ranges left unknown because of a limit, and the warnings about it."""

    vpn: U64
    entry: U64
    unread: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()


def resident_kb(vmas: VmaTable) -> U64 | None:
    """Return what smaps counts as mapped or swapped, in kB per VMA, or None without smaps.

    The shared zero page and VM_PFNMAP entries count nothing.
    """
    if "Rss" not in vmas.smaps:
        return None
    total = np.zeros(len(vmas), dtype=np.uint64)
    for name in ("Rss", "Swap", "Shared_Hugetlb", "Private_Hugetlb"):
        if name in vmas.smaps:
            total += vmas.smaps[name]
    return total


def plan_runs(vmas: VmaTable, page_size: int, dense_pages: int) -> list[tuple[int, int, int]]:
    """Return the ranges to look at as (first vpn, end vpn, row), row -1 for a joined run of small VMAs.

    VM_PFNMAP VMAs are left out.  A VMA longer than ``dense_pages`` stands alone, with its row.

    >>> from vmviz.live.image import VmaRecord
    >>> def vma(start, end, flags=0x73):
    ...     return VmaRecord(start, end, "rw-p", 0, "00:00", 0, "", flags, "")
    >>> table = VmaTable.of([vma(0x1000, 0x2000), vma(0x2000, 0x5000), vma(0x5000, 0x6000, 0x400)])
    >>> plan_runs(table, 4096, dense_pages=64)
    [(1, 5, -1)]
    """
    size = np.uint64(page_size)
    first, end = vmas.start // size, vmas.end // size
    rows = np.flatnonzero((vmas.vm_flags & np.uint64(VM_PFNMAP)) == 0)
    if not len(rows):
        return []
    low, high = first[rows], end[rows]
    large = high - low > np.uint64(dense_pages)
    joined = (low[1:] - high[:-1] <= np.uint64(JOIN_GAP)) & ~large[1:] & ~large[:-1]
    # A hole may be a PFNMAP VMA: its entries read as empty, so joining over it is harmless.
    heads = np.flatnonzero(np.concatenate((np.ones(1, dtype=bool), ~joined)))
    tails = np.concatenate((heads[1:], np.array([len(rows)], dtype=np.int64))) - 1
    own = np.where(large[heads], rows[heads], -1)
    return list(zip(low[heads].tolist(), high[tails].tolist(), own.tolist(), strict=True))


def _disjoint(vmas: VmaTable, page_size: int) -> bool:
    """Whether the readable VMAs are in order and do not overlap; they may where they changed while read."""
    size = np.uint64(page_size)
    plain = (vmas.vm_flags & np.uint64(VM_PFNMAP)) == 0
    start, end = vmas.start[plain] // size, vmas.end[plain] // size
    return not ((end < start).any() or (start[1:] < end[:-1]).any())


class PagemapReader:
    """Reads every populated entry of VMAs that come in parts, in address order, but for those with VM_PFNMAP.

    pagemap is opened with the first part, for as long as ``files`` are.  Errors wait for `finish`, so that who
    makes the parts meets its own first.
    """

    def __init__(
        self, proc: ProcFs, files: ExitStack, *, page_size: int, limits: Limits, scratch: Scratch
    ) -> None:
        self.proc, self.files, self.page_size = proc, files, page_size
        self.limits, self.words = limits, scratch.words
        self.unread: list[tuple[int, int]] = []
        self._fd = -1
        self._error: OSError | GoneError | None = None
        self._joinable: int | None = None  # where the run of small VMAs ends that came last
        self._rows = np.empty((2, 0), dtype=np.uint64)  # vpn and entry; grows when it must
        self._kept = 0
        self._held = 0  # rows that lie in VMAs, and not in a joined hole
        self._blind = limits.blind_pages
        self._can_scan = True
        self._skipped = 0
        self._over_blind = self._over_kept = False

    def feed(self, vmas: VmaTable) -> None:
        """Read the entries of the next VMAs."""
        if self._error is None:
            try:
                self._feed(vmas)
            except (OSError, GoneError) as error:
                self._error = error

    def finish(self) -> None:
        """Raise what `feed` met: GoneError when the address space ended, OSError where pagemap cannot be read.

        pagemap is opened once more: that tells a process that exits from one that has another address space.
        """
        error, self._error = self._error, None
        if isinstance(error, OSError):
            raise error
        with self.proc.open("pagemap"):
            pass
        if error is not None:
            raise error

    def _feed(self, vmas: VmaTable) -> None:
        if self._fd < 0:
            self._fd = self.files.enter_context(self.proc.open("pagemap"))
        resident = resident_kb(vmas)
        known = 0 if resident is None else int(resident.sum()) * 1024 // self.page_size
        self._reserve(min(self._kept + known + SLACK, self.limits.max_pages))
        kept = self._kept
        for first, end, row in plan_runs(vmas, self.page_size, self.limits.dense_pages):
            if row < 0:
                joined = self._joinable is not None and 0 <= first - self._joinable <= JOIN_GAP
                self.read(self._joinable if joined and self._joinable is not None else first, end)
                self._joinable = end
            else:
                self._joinable = None
                self.read_large(first, end, None if resident is None else int(resident[row]))
        self._held += pages_inside(self._rows[0, kept : self._kept], vmas, self.page_size)

    def result(self, vmas: VmaTable) -> PagemapResult:
        """What was found in ``vmas``, which are all that were given."""
        vpn, entry = self._rows[0, : self._kept], self._rows[1, : self._kept]
        if self._held != len(vpn) or not _disjoint(vmas, self.page_size):
            # A VMA came up in a joined hole meanwhile; the comparison of maps will say so.
            inside = inside_mask(vpn, vmas, self.page_size)
            vpn, entry = vpn[inside], entry[inside]
        return PagemapResult(vpn, entry, tuple(self.unread), tuple(self.warnings()))

    def read(self, first: int, end: int) -> None:
        """Read [first, end) in chunks and keep what is present or swapped."""
        for low in range(first, end, len(self.words)):
            if self._kept >= self.limits.max_pages:
                self._over_kept = True
                self._leave(low, end)
                return
            want = min(len(self.words), end - low)
            chunk = self.words[:want]
            if self.proc.pread_words(self._fd, chunk, low) < want:
                raise GoneError
            hits = np.flatnonzero(chunk >> np.uint64(62)).astype(np.int64, copy=False)
            room = self.limits.max_pages - self._kept
            if len(hits) > room:
                self._over_kept = True
                self._leave(low + int(hits[room]), end)
                hits = hits[:room]
            if len(hits):
                self._keep(hits, low, chunk)
            if self._over_kept:
                return

    def _keep(self, hits: NDArray[np.int64], low: int, chunk: U64) -> None:
        first, stop = self._kept, self._kept + len(hits)
        self._reserve(stop)
        np.add(hits.view(np.uint64), np.uint64(low), out=self._rows[0, first:stop])
        np.take(chunk, hits, out=self._rows[1, first:stop], mode="clip")  # "raise" would go through a copy
        self._kept = stop

    def _reserve(self, rows: int) -> None:
        if rows > self._rows.shape[1]:
            wider = np.empty((2, max(rows, 2 * self._kept)), dtype=np.uint64)
            wider[:, : self._kept] = self._rows[:, : self._kept]
            self._rows = wider

    def read_large(self, first: int, end: int, resident_kb: int | None) -> None:
        """Read a range that may be almost empty."""
        if resident_kb is not None and resident_kb * 1024 * 4 >= (end - first) * self.page_size:
            self.read(first, end)
            return
        first = self._read_scanned(first, end)
        if first >= end:
            return
        if resident_kb == 0:
            self._skipped += 1
            return
        stop = min(end, first + self._blind)
        self._blind -= stop - first
        self.read(first, stop)
        if stop < end:
            self._over_blind = True
            self._leave(stop, end)

    def _read_scanned(self, first: int, end: int) -> int:
        """Read what PAGEMAP_SCAN names; return the page up to which the range is done."""
        size = self.page_size
        while self._can_scan and first < end:
            answer = self.proc.scan_populated(self._fd, first * size, end * size)
            if answer is None:
                self._can_scan = False
                break
            for low, high in self._joined(answer[0]):
                self.read(low, high)
            first = answer[1] // size
            if self._over_kept:
                self._leave(first, end)
                return end
        return first

    def _joined(self, parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
        out: list[tuple[int, int]] = []
        for start, stop in parts:
            low, high = start // self.page_size, stop // self.page_size
            if out and low - out[-1][1] <= JOIN_GAP:
                out[-1] = (out[-1][0], high)
            else:
                out.append((low, high))
        return out

    def _leave(self, first: int, end: int) -> None:
        if first < end:
            self.unread.append((first * self.page_size, end * self.page_size))

    def warnings(self) -> list[str]:
        """Say what was not read."""
        out = []
        if self._skipped:
            out.append(
                f"{self._skipped} large VMAs with Rss and Swap 0 were not read, because the kernel has no "
                "PAGEMAP_SCAN (Linux 6.7): mappings of the shared zero page in them do not show"
            )
        if self._over_blind:
            out.append(
                f"without PAGEMAP_SCAN (Linux 6.7) at most {self.limits.blind_pages} pages of large VMAs "
                "are read: the rest is unknown"
            )
        if self._over_kept:
            out.append(f"the limit of {self.limits.max_pages} pages is reached: the rest is unknown")
        return out
