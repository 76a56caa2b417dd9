"""Clearing entries in a batch and flushing once (models mm/mmu_gather.c and include/asm-generic/tlb.h).

The gather keeps the hull of the pages that were present and cleared, and the pages that lost their last
mapping: those are freed only after the flush, because until then a CPU may still reach them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..arch.tlb import TlbFlush
from ..trace.bulk import AddLane, Bulk, Lane, SetLane
from ..trace.pieces import Lines, Pieces, index_of_cells
from ..trace.store import Index, cells_of, distinct, index_of, is_runs, over, runs_of, short
from .frames import Frames
from .page_alloc import FREE
from .page_flags import HPAGE_PMD_NR, PG_COMPOUND, PG_SWAPCACHE
from .swapfile import free_swap_cache

if TYPE_CHECKING:
    from .mm_types import Mm


class MmuGather:
    """One batch (`struct mmu_gather`).  ``flushes`` collects what was flushed, for the result."""

    start = 1 << 64
    end = 0
    freed_tables = False
    freed_pages = 0
    freed_table_pages = 0
    cleared = 0
    unknown = 0
    seq_read = False  # whether the VMA that is being unmapped is VM_SEQ_READ
    locked = False  # whether it locks its pages: each is unlocked only after its use is noted

    def __init__(self, mm: Mm) -> None:
        self.mm = mm
        self.pages: list[Index] = []
        self.tables: list[int] = []
        self.flushes: list[TlbFlush] = []

    def note(self, start: int, end: int) -> None:
        """Present entries of ``[start, end)`` were cleared (`tlb_remove_tlb_entry`)."""
        self.start = min(self.start, start)
        self.end = max(self.end, end)

    def remove_table(self, row: int, address: int) -> None:
        """A table was unhooked; its frame goes back after the flush (`pte_free_tlb`)."""
        self.note(address, address + 4096)
        self.freed_tables = True
        self.tables.append(row)

    def flush(self) -> None:
        """Flush what was noted (`tlb_flush_mmu_tlbonly`); nothing noted, nothing flushed."""
        if self.end <= self.start:
            return
        flush = TlbFlush.of(self.start, self.end, self.freed_tables)
        self.flushes.append(flush)
        flush_tlb(self.mm, flush)
        self.start, self.end, self.freed_tables = 1 << 64, 0, False

    def finish(self) -> None:
        """The end of the batch (`tlb_finish_mmu`): flush, then free the pages and tables that wait for it."""
        j = self.mm.sys.journal
        j.enter("tlb_finish_mmu")
        self.flush()
        if self.pages:
            pages = self._put_runs()
            if pages is not None:
                self._free_pages(pages)
            self.pages = []
        for row in self.tables:
            self.mm.sys.arena.free_table(row)
            self.freed_table_pages += 1
        self.tables = []
        j.leave("tlb_finish_mmu")

    def _put_runs(self) -> NDArray[np.int64] | None:
        """`_free_pages` for pages in runs of neighbours that are alike; those that are left to be judged one by one."""
        frames, j = self.mm.sys.frames, self.mm.sys.journal
        runs = (
            [run for pages in self.pages for run in runs_of(pages)] if all(map(is_runs, self.pages)) else []
        )
        index = index_of_cells(runs) if runs and not frames.compound_mapcount.data else None
        if (
            index is None
            or isinstance(index, np.ndarray)
            or (isinstance(index, Pieces) and not index.apart())
        ):
            return np.concatenate([cells_of(pages) for pages in self.pages])
        refs = short(frames.refcount.array, index)
        cached = over(np.bitwise_or, frames.flags.array, index) & PG_SWAPCACHE
        if cached or isinstance(refs, np.ndarray):
            return cells_of(index)
        n = sum(size for _, size in runs)
        if refs == 1:
            lanes, name = free_lanes(frames, index), "free_unref_page"
            self.freed_pages += n
        else:
            lanes, name = (AddLane(frames.refcount, index, -1),), "put_page"
        firsts = np.array([first << 12 for first, _ in runs], np.uint64)
        at = None if isinstance(index, slice) else Lines(firsts, [size for _, size in runs])
        j.bulk(Bulk(name, n, lanes, address=runs[0][0] << 12, addresses=at))
        return None

    def _free_pages(self, pfns: NDArray[np.int64]) -> None:
        """Drop the gather's reference to each page (`free_pages_and_swap_cache`)."""
        frames = self.mm.sys.frames
        if frames.compound_mapcount.data:
            parts = frames.flags.array[pfns] & PG_COMPOUND != 0
            heads, counts = np.unique(pfns[parts] & -HPAGE_PMD_NR, return_counts=True)
            for head, n in zip(heads.tolist(), counts.tolist(), strict=True):
                self.freed_pages += HPAGE_PMD_NR * frames.put_compound(head, n)
            pfns = pfns[~parts]
        cached = pfns[(frames.flags.array[pfns] & PG_SWAPCACHE) != 0]
        for pfn in cached.tolist():
            free_swap_cache(self.mm.sys, pfn)
        if len(pfns) < 16 or not distinct(pfns):
            for pfn in pfns.tolist():
                self.freed_pages += frames.put_page(pfn)
            return
        refs = frames.refcount.array[pfns]
        last = refs == 1
        j = self.mm.sys.journal
        if not last.all():
            keep = pfns[~last]
            old = frames.refcount.array[keep]
            j.bulk(
                Bulk(
                    "put_page",
                    len(keep),
                    (SetLane(frames.refcount, keep, old, old - 1),),
                    addresses=_pa(keep),
                )
            )
        gone = pfns[last]
        if len(gone):
            j.bulk(Bulk("free_unref_page", len(gone), free_lanes(frames, gone), addresses=_pa(gone)))
        self.freed_pages += len(gone)


def _pa(pfns: NDArray[np.int64]) -> NDArray[np.uint64]:
    return pfns.astype(np.uint64) << np.uint64(12)


def free_lanes(frames: Frames, pfns: Index) -> tuple[Lane, ...]:
    """The lanes that give frames with one reference back to the allocator."""
    at = index_of(pfns) if isinstance(pfns, np.ndarray) else pfns
    columns = (
        frames.refcount,
        frames.flags,
        frames.mapping,
        frames.index,
        frames.content,
        frames.mlock_count,
    )
    lanes: list[Lane] = []
    for column in columns:
        old = short(column.array, at)
        if isinstance(old, Lines) or np.any(old):
            lanes.append(SetLane(column, at, old, 0))
    lanes.append(SetLane(frames.states, at, short(frames.states.array, at), FREE))
    return tuple(lanes)


def flush_tlb(mm: Mm, flush: TlbFlush) -> None:
    """Flush a range on every CPU that runs the mm (`flush_tlb_mm_range`); on others than the first by IPI."""
    j = mm.sys.journal
    j.enter("flush_tlb_mm_range", ("start", flush.start), ("end", flush.end), ("pages", flush.nr_pages))
    j.event("tlb_flush", ("pages", -1 if flush.kind == "full" else flush.nr_pages), ("kind", flush.kind))
    for tlb in mm.sys.tlbs:
        tlb.flush(mm.id, flush)
    j.leave("flush_tlb_mm_range")
