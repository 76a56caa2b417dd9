"""Reading /proc/kpageflags and /proc/kpagecount for the pages of a process.

Both files hold a word for each page frame, so that what is wanted lies scattered over them.  Consecutive pages mostly
have consecutive frames: such runs are sorted instead of pages, and those that lie close are read with one call.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from vmviz.live.image import KPF_NOPAGE, PM_MMAP_EXCLUSIVE, PM_PFRAME, PM_PRESENT, U64, PageColumns
from vmviz.live.procfs import ProcFs

PFN_GAP = 16  # frames: reading them as well is cheaper than another call
BLOCK = 1 << 20  # pages looked up at a time
PIECE = 1 << 15  # words read with one call: a few milliseconds
_SHARED = 1 << 11  # words: two threads with shorter calls would mostly wait for each other's GIL
_STEP = 1 << 15  # what is computed on the way to a mask stays in the cache

Mask: TypeAlias = NDArray[np.bool_]


@attrs.frozen
class FrameRuns:
    """Where in the files the frames of some pages lie.

    ``first`` and ``length`` are the stretches to read, disjoint and in order, in frames; ``place`` is each page's word
    among all that are read.
    """

    first: NDArray[np.int64]
    length: NDArray[np.int64]
    place: NDArray[np.int64]


def frame_runs(pfn: U64, gap: int = PFN_GAP) -> FrameRuns:
    """Find the stretches that cover ``pfn``, joined over gaps of up to ``gap`` frames.

    >>> runs = frame_runs(np.array([9, 5, 6, 1000, 1001, 6], dtype=np.uint64))
    >>> runs.first.tolist(), runs.length.tolist(), runs.place.tolist()
    ([5, 1000], [5, 2], [4, 0, 1, 5, 6, 1])
    """
    pages = pfn.view(np.int64)
    heads = _run_heads(pages)
    lengths = np.diff(heads, append=len(pages))
    order = np.argsort(pages[heads])
    start = pages[heads[order]]
    end = np.maximum.accumulate(start + lengths[order])
    opens = np.ones(len(start), dtype=bool)
    while True:
        np.greater(start[1:] - end[:-1], gap, out=opens[1:])
        first, last = start[opens], end[np.roll(opens, -1)]
        length = last - first
        if gap == 0 or int(length.sum()) <= 2 * len(pages) + PFN_GAP * PFN_GAP:
            break
        gap //= 4  # few pages in each stretch: the gaps would take too much memory
    shift = np.empty(len(heads), dtype=np.int64)  # from a frame's number to its place, alike within a run
    shift[order] = (np.cumsum(length) - length - first)[np.cumsum(opens) - 1]
    place = np.repeat(shift, lengths)
    place += pages
    return FrameRuns(first, length, place)


def _run_heads(pages: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows whose frame does not follow that of the row before."""
    breaks = np.ones(len(pages), dtype=bool)
    for at in range(1, len(pages), _STEP):
        piece = pages[at - 1 : at + _STEP]
        np.not_equal(piece[1:] - piece[:-1], 1, out=breaks[at : at + _STEP])
    return np.flatnonzero(breaks)


def read_by_pfn(proc: ProcFs, fd: int, pfn: U64, wanted: Mask, absent: int, out: U64) -> None:
    """Fill ``out`` with each page's word of a file: 0 for those not wanted, ``absent`` past the file's end."""
    for at in range(0, len(pfn), BLOCK):
        block = slice(at, at + BLOCK)
        mask = wanted[block]
        if mask.all():
            _read_block(proc, fd, pfn[block], absent, out[block])
            continue
        out[block] = 0
        if mask.any():
            part = np.empty(np.count_nonzero(mask), dtype=np.uint64)
            _read_block(proc, fd, pfn[block][mask], absent, part)
            out[block][mask] = part


def _read_block(proc: ProcFs, fd: int, pfn: U64, absent: int, out: U64) -> None:
    runs = frame_runs(pfn)
    words = np.empty(int(runs.length.sum()), dtype=np.uint64)
    _read_runs(proc, fd, runs, absent, words)
    np.take(words, runs.place, out=out, mode="clip")  # "raise" would go through a copy


def _read_runs(proc: ProcFs, fd: int, runs: FrameRuns, absent: int, words: U64) -> None:
    """Fill ``words`` with the stretches to read; the helper takes some of the long ones, if it is free."""
    room = memoryview(words.view(np.uint8))  # type: ignore[arg-type]

    def read(first: int, at: int, length: int) -> None:
        got = proc.pread(fd, room[at : at + length], first)
        if got < length:
            words[(at + got) // 8 : (at + length) // 8] = absent

    def work() -> None:
        while long:
            try:
                piece = long.popleft()
            except IndexError:  # the other one was quicker
                return
            read(*piece)

    preadv = os.preadv
    long: deque[tuple[int, int, int]] = deque()  # where in the file, where in the room, how long, in bytes
    short = []
    at = 0
    for first, length in zip((runs.first * 8).tolist(), (runs.length * 8).tolist(), strict=True):
        if length < _SHARED * 8:
            short.append((first, at, length))
        else:
            for part in range(0, length, PIECE * 8):
                long.append((first + part, at + part, min(length - part, PIECE * 8)))
        at += length
    other = proc.helper.submit(work) if proc.helper is not None and len(long) > 1 else None
    try:
        for first, at, length in short:  # thousands, where the frames lie at random
            if preadv(fd, (room[at : at + length],), first) != length:
                read(first, at, length)
        work()
    finally:
        long.clear()
        if other is not None and not other.cancel():
            other.result()


def with_bit(words: U64, bit: int) -> Mask:
    """Which words have a bit set."""
    out = np.empty(len(words), dtype=np.bool_)
    for at in range(0, len(words), _STEP):
        piece = words[at : at + _STEP]
        np.not_equal(piece & np.uint64(bit), 0, out=out[at : at + _STEP])
    return out


def with_frames(proc: ProcFs, vpn: U64, entry: U64) -> tuple[PageColumns, bool, str]:
    """Add PFNs, flags and counts to the rows; return (pages, PFNs visible, the rights that are missing).

    A page that pagemap calls mapped exclusively is mapped once, here: its count is not read again
    (PM_MMAP_EXCLUSIVE and kpagecount come from the same count, fs/proc/task_mmu.c and fs/proc/page.c).
    """
    present = with_bit(entry, PM_PRESENT)
    pfn, flags, count = np.empty((3, len(entry)), dtype=np.uint64)
    np.bitwise_and(entry, np.uint64(PM_PFRAME), out=pfn)
    pfn *= present
    framed = pfn != 0
    if present.any() and not framed.any():
        right = (
            "CAP_SYS_ADMIN in the first user namespace (without it /proc/PID/pagemap shows no page frame "
            "numbers, and so /proc/kpageflags and /proc/kpagecount cannot be looked up)"
        )
        return PageColumns(vpn, entry, pfn), False, right
    alone = framed & with_bit(entry, PM_MMAP_EXCLUSIVE)
    shared = framed & ~alone
    missing: list[str] = []
    columns: list[U64 | None] = []
    for name, wanted, absent, out in (
        ("/kpageflags", framed, KPF_NOPAGE, flags),
        ("/kpagecount", shared, 0, count),
    ):
        try:
            with proc.open(name) as fd:
                read_by_pfn(proc, fd, pfn, wanted, absent, out)
            columns.append(out)
        except OSError as error:
            columns.append(None)
            missing.append(
                f"reading {proc.path(name)} (mode 0400: root or CAP_DAC_READ_SEARCH): {error.strerror}"
            )
    count[alone] = 1
    return PageColumns(vpn, entry, pfn, *columns), True, "; ".join(missing)
