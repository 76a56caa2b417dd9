"""From the rows of /proc/PID/pagemap to entries: what is known, and what follows.

`sort_pages` decides what each row is, `pour_entries` fills the page tables, `vmviz.live.pour_frames` the columns of
struct page.  All are vector steps on whole columns.  They write to the arrays of the stores directly, for a machine
that is not sealed yet, and leave nothing to be taken back.  A new column of many pages costs more than the work on it,
for the first touch of its memory: columns are changed in place where they can be.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from vmviz.kernel.arch.x86 import (
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SPECIAL,
    _PAGE_SWP_SOFT_DIRTY,
    _PAGE_SWP_UFFD_WP,
    _PAGE_UFFD_WP,
    PTE_PFN_MASK,
)
from vmviz.kernel.mm.flags import VM_SHARED, VM_SOFTDIRTY, VM_WRITE
from vmviz.kernel.mm.frames import ZERO_PFN
from vmviz.kernel.mm.mm_types import Mm
from vmviz.kernel.mm.page_alloc import Zone, zones_of
from vmviz.kernel.mm.vma_columns import VmaColumns
from vmviz.kernel.trace.store import index_of, rising
from vmviz.live.errors import LiveError
from vmviz.live.image import (
    KPF_NOPAGE,
    PM_FILE,
    PM_MMAP_EXCLUSIVE,
    PM_SOFT_DIRTY,
    PM_UFFD_WP,
    U64,
    ProcessImage,
)

MAX_PFN = 1 << 26
"""Frames are dense columns up to the highest PFN; a machine with more (256 GiB) gets numbers of our own."""
FIRST_OWN = 1 << 20
"""Our own numbers and our own memory lie above 4 GiB: below it are the simulated devices' frames."""
SPARE_FRAMES = (64 << 20) >> 12
MAX_TABLES = 1 << 18
"""Page tables beyond 1 GiB of them are refused: only a hostile snapshot needs so many."""

KPF_REFERENCED, KPF_UPTODATE, KPF_DIRTY, KPF_LRU, KPF_ACTIVE = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6
KPF_SWAPCACHE, KPF_SWAPBACKED, KPF_HUGE = 1 << 13, 1 << 14, 1 << 17
KPF_KSM, KPF_THP, KPF_ZERO_PAGE = 1 << 21, 1 << 22, 1 << 24
Mask: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]


def has(values: U64, bits: int) -> Mask:
    """Which words have any of ``bits``.

    >>> has(np.array([1, 2, 3], np.uint64), 2).tolist()
    [False, True, True]
    """
    mask: Mask = (values & np.uint64(bits)) != 0
    return mask


def set_bits(words: NDArray[Any], mask: Mask, bits: int) -> None:
    """Set ``bits`` in the words that a mask chooses.

    >>> words = np.array([1, 2, 4], np.uint32); set_bits(words, np.array([True, False, True]), 8); words.tolist()
    [9, 2, 12]
    """
    words |= mask * words.dtype.type(bits)


@attrs.frozen(eq=False, repr=False)
class SortedPages:
    """The rows of an image, sorted by what they are.

    ``vma`` is each row's VMA (ordinal).  ``counted``: a page with a struct page that rss counts; ``zero``:
    the shared zero page; ``raw``: a bare frame number (kpageflags NOPAGE); else swapped.  ``number`` is the
    frame number used in the simulator (0 for a swapped row).  ``frames`` are the distinct numbers of
    counted rows, ``first`` the row that showed each first, ``of_row`` the ordinal in ``frames`` of each
    counted row, ``seen`` how many rows map it, ``anon`` whether it is anonymous.  ``hidden``: the numbers are our own.
    """

    vma: Ints
    counted: Mask
    zero: Mask
    raw: Mask
    number: Ints
    frames: Ints
    first: Ints
    of_row: Ints
    seen: Ints
    anon: Mask
    hidden: bool
    warnings: tuple[str, ...]
    nr_frames: int
    zones: tuple[Zone, ...]

    @property
    def spare(self) -> Zone:
        """The frames that the image does not speak of: the simulator's own memory."""
        return self.zones[-1]


def sort_pages(image: ProcessImage) -> SortedPages:
    """Decide what each row is and which frame numbers stand for it.

    Raises `LiveError` when the pages need more page tables than any real process has.
    """
    pages, vmas = image.pages, image.vmas
    warnings: list[str] = []
    vma = np.searchsorted(vmas.start, pages.vpn << np.uint64(12), side="right")
    vma -= 1
    present = pages.present
    told = pages.flags
    none = np.zeros(len(pages), bool)
    if told is not None:
        zero = present & has(told, KPF_ZERO_PAGE)
        raw = present & has(told, KPF_NOPAGE) & ~zero
    else:
        zero, raw = _infer_zero(image, vma, present, warnings), none
    counted = present & ~zero & ~raw
    number, hidden = _number(image, counted, zero, warnings)
    rows = np.flatnonzero(counted)
    frames, first, of_row, seen = frames_of(number[index_of(rows)])
    first = rows[index_of(first)]
    # Bit 61 is of the same moment as the entry; kpageflags are read later, of whoever has the frame then.
    anon = ~has(pages.entry[first], PM_FILE)
    nr_tables, table = 0, pages.vpn
    for _ in range(4):
        table = table >> np.uint64(9)
        table = table[starts_of_runs(table)]
        nr_tables += len(table)
    if nr_tables > MAX_TABLES:
        why = f"its pages need {nr_tables} page tables, and vmviz keeps at most {MAX_TABLES}"
        raise LiveError(f"PID {image.pid} ({image.name})", why, "open a process with fewer scattered pages")
    highest = number.max(initial=-1, where=present & (number < 2 * MAX_PFN))
    top = max(FIRST_OWN, int(highest) + 1)
    top = (top + 1023) & -1024  # a zone begins at a whole buddy block
    nr_frames = top + ((SPARE_FRAMES + nr_tables + 1023) & -1024)
    zones = (*zones_of(top), Zone("Spare", top, nr_frames))
    return SortedPages(
        vma=vma,
        counted=counted,
        zero=zero,
        raw=raw,
        number=number,
        frames=frames,
        first=first,
        of_row=of_row,
        seen=seen,
        anon=anon,
        hidden=hidden,
        warnings=tuple(warnings),
        nr_frames=nr_frames,
        zones=zones,
    )


def frames_of(number: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """The distinct numbers, ascending, with the row that shows each first, each row's ordinal among them, and their
    counts: `np.unique`, at a fraction of its time.  Numbers of our own ascend with the rows, and need no sorting.
    """
    n = len(number)
    if rising(number):
        ordinals = np.arange(n)
        return number, ordinals, ordinals, np.ones(n, np.int64)
    order = np.argsort(number)
    ascending = number[order]
    start = starts_of_runs(ascending)
    of_row = np.empty(n, np.int64)
    seen = np.diff(start, append=n)
    of_row[order] = np.repeat(np.arange(len(start)), seen)
    return ascending[start], np.minimum.reduceat(order, start), of_row, seen


def _infer_zero(image: ProcessImage, vma: Ints, present: Mask, warnings: list[str]) -> Mask:
    """Find the zero page without kpageflags: Rss leaves it out, and pagemap sets neither bit 56 nor 61."""
    entry = image.pages.entry
    maybe = present & ~has(entry, PM_FILE | PM_MMAP_EXCLUSIVE)
    rss = image.vmas.smaps.get("Rss")
    if rss is None or not maybe.any():
        return np.zeros(len(entry), bool)
    n = len(image.vmas)
    there = np.bincount(vma[present], minlength=n)
    candidates = np.bincount(vma[maybe], minlength=n)
    # Rss and the entries are of different moments: a VMA that changed in between is not judged.
    missing = there - (rss // np.uint64(4)).astype(np.int64)
    sure = (missing > 0) & (candidates == missing)
    doubtful = int(candidates[(missing > 0) & ~sure].sum())
    if doubtful:
        warnings.append(
            f"{doubtful} pages may be the shared zero page or pages shared with other processes: without "
            "kpageflags they look alike, and are taken as shared"
        )
    zero: Mask = maybe & sure[vma]
    return zero


def _number(image: ProcessImage, counted: Mask, zero: Mask, warnings: list[str]) -> tuple[Ints, bool]:
    """The frame number of each row: the real one, or our own where it is hidden or cannot be kept."""
    number = image.pages.pfn.view(np.int64)
    ours = counted | zero
    if image.pfns_visible:
        lowest, highest = number.min(initial=MAX_PFN, where=ours), number.max(initial=-1, where=ours)
        if highest < 0 or ZERO_PFN < lowest <= highest < MAX_PFN:
            return number, False
        distinct, back = np.unique(number[ours], return_inverse=True)
        number = number.copy()
        number[ours] = back.reshape(-1) + FIRST_OWN
        warnings.append(
            f"the PFNs reach from {int(distinct[0]):#x} to {int(distinct[-1]):#x}, more than vmviz keeps "
            f"({MAX_PFN:#x} frames): the frames have numbers of vmviz's own"
        )
        return number, True
    number = number.copy()
    number[counted] = np.arange(FIRST_OWN, FIRST_OWN + int(counted.sum()))
    number[zero] = ZERO_PFN
    return number, bool(counted.any())


def starts_of_runs(column: NDArray[Any]) -> Ints:
    """Where values begin that differ from the one before.

    >>> starts_of_runs(np.array([4, 4, 7, 9, 9])).tolist()
    [0, 2, 3]
    """
    keep = np.ones(len(column), bool)
    np.not_equal(column[1:], column[:-1], out=keep[1:])
    return np.flatnonzero(keep)


def entry_bits(image: ProcessImage, pages: SortedPages, vmas: VmaColumns) -> U64:
    """The entry of each row.

    A and the rights come from vm_page_prot.  Anonymous pages are dirty, as they came into being by a write,
    and writable when the VMA is and nobody else maps them; pages of shared writable mappings are writable,
    and dirty when kpageflags say so.  In a VMA with VM_SOFTDIRTY bit 55 tells nothing of the entry: there a
    dirty one has it.
    """
    kind = vmas.kind[pages.vma]
    flags, prot = (
        np.array(values, np.uint64)[kind] if len(kind) else np.empty(0, np.uint64)
        for values in ([k.vm_flags for k in vmas.kinds], [k.page_prot for k in vmas.kinds])
    )
    raw, told = image.pages.entry, image.pages.flags
    anon = np.zeros(len(raw), bool)
    anon[pages.counted] = pages.anon[index_of(pages.of_row)]
    if told is not None:
        anon &= ~has(told, KPF_KSM)
    writable, shared = has(flags, VM_WRITE), has(flags, VM_SHARED)
    guarded = has(raw, PM_UFFD_WP)
    dirty = anon.copy()
    if told is not None:
        dirty |= pages.counted & shared & writable & has(told, KPF_DIRTY)
    soft = has(raw, PM_SOFT_DIRTY) & (dirty | ~has(flags, VM_SOFTDIRTY))
    set_bits(prot, anon & writable & ~shared & has(raw, PM_MMAP_EXCLUSIVE), _PAGE_RW)
    prot[guarded] &= np.uint64(~_PAGE_RW & (1 << 64) - 1)
    for mask, bit in (
        (guarded, _PAGE_UFFD_WP),
        (dirty, _PAGE_DIRTY),
        (soft, _PAGE_SOFT_DIRTY),
        (pages.zero | pages.raw, _PAGE_SPECIAL),
    ):
        set_bits(prot, mask, bit)
    entries: U64 = pages.number.view(np.uint64) << np.uint64(12)
    entries ^= ~has(prot, _PAGE_PRESENT) * np.uint64(
        PTE_PFN_MASK
    )  # PROT_NONE: the frame's bits are turned over
    entries &= np.uint64(PTE_PFN_MASK)
    entries |= prot
    away = np.flatnonzero(~image.pages.present)
    entries[away] = swap_bits(raw[away])
    return entries


def swap_bits(raw: U64) -> U64:
    """The swap entries of pagemap words: type and offset as `vmviz.kernel.arch.x86.swp_entry` puts them.

    >>> from vmviz.kernel.arch.x86 import swp_entry
    >>> int(swap_bits(np.array([1 << 62 | 0x1234 << 5 | 3], np.uint64))[0]) == swp_entry(3, 0x1234)
    True
    """
    kind = raw & np.uint64(31)
    offset = (raw >> np.uint64(5)) & np.uint64((1 << 50) - 1)
    out: U64 = kind << np.uint64(59) | (~offset & np.uint64((1 << 50) - 1)) << np.uint64(9)
    out[has(raw, PM_SOFT_DIRTY)] |= np.uint64(_PAGE_SWP_SOFT_DIRTY)
    out[has(raw, PM_UFFD_WP)] |= np.uint64(_PAGE_SWP_UFFD_WP)
    return out


def pour_entries(image: ProcessImage, entries: U64, mm: Mm) -> None:
    """Make the page tables and fill them; the tables' frames come from the spare zone."""
    vpn, arena = image.pages.vpn, mm.sys.arena
    if not len(vpn):
        return
    table = vpn >> np.uint64(9)
    first = starts_of_runs(table)
    bases = [arena.ensure(mm.pgd, va, mm.counters) for va in (table[first] << np.uint64(21)).tolist()]
    slots = np.repeat(np.array(bases, np.int64), np.diff(first, append=len(vpn)))
    slots += (vpn & np.uint64(511)).view(np.int64)
    arena.put_many(slots, entries)


def visible_unknown(image: ProcessImage) -> list[tuple[int, int]]:
    """The unknown ranges as far as there are VMAs, neighbours joined."""
    starts, ends = image.vmas.start, image.vmas.end
    out: list[tuple[int, int]] = []
    for low, high in image.unknown_ranges:
        i = int(np.searchsorted(ends, np.uint64(low), side="right"))
        j = int(np.searchsorted(starts, np.uint64(high), side="left"))
        for start, end in zip(starts[i:j].tolist(), ends[i:j].tolist(), strict=True):
            a, b = max(low, start), min(high, end)
            if out and out[-1][1] == a:
                out[-1] = (out[-1][0], b)
            else:
                out.append((a, b))
    return out
