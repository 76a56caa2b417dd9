"""Reclaiming pages at once (models reclaim_pages and shrink_folio_list of mm/vmscan.c, try_to_unmap of
mm/rmap.c), as MADV_PAGEOUT asks for it.

Simplified: there is no reclaim under pressure; only pages that one entry maps come here, already old.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arch.x86 import (
    _PAGE_DIRTY,
    _PAGE_SOFT_DIRTY,
    _PAGE_SWP_EXCLUSIVE,
    _PAGE_SWP_SOFT_DIRTY,
    SWP_OFFSET_MASK,
)
from ..trace.bulk import AddLane, Bulk, CountLane, Lane, SetLane
from .memory.fault import file_counter
from .memory.normal_page import pfns_of
from .mm_types import Mm
from .mmu_gather import MmuGather, free_lanes
from .page_flags import PG_ANON, PG_DIRTY, PG_EXCLUSIVE, PG_SWAPBACKED, PG_SWAPCACHE, PG_UNEVICTABLE
from .swapfile import delete_from_swap_cache, swap_out_shmem


def reclaim_pages(mm: Mm, slot: int, where: NDArray[np.int64], address: int, gather: MmuGather) -> None:
    """Reclaim the pages behind the entries ``slot + where`` of one page table (mm/vmscan.c).

    Anonymous pages go to swap, lazyfree ones that were not written again are dropped, clean pages of regular
    files leave the cache (dirty ones only lose their mapping), shmem pages go to swap.  Unevictable pages
    stay, and anonymous ones when swap is full.
    """
    frames = mm.sys.frames
    pfns = pfns_of(mm.sys.arena.entries[slot + where])
    flags = frames.flags.array[pfns]
    mm.sys.journal.enter("reclaim_pages", ("address", address + (int(where[0]) << 12)), ("n", len(where)))
    movable = flags & PG_UNEVICTABLE == 0
    anon = movable & (flags & PG_ANON != 0)
    fresh = anon & (flags & PG_SWAPBACKED != 0) & (flags & PG_SWAPCACHE == 0)
    slots = mm.sys.swap.free_slots(int(np.count_nonzero(fresh)))
    out = np.flatnonzero(fresh)[: len(slots)]
    if len(out):
        _swap_out(mm, slot + where[out], pfns[out], slots, _at(where[out], address))
    lazy = np.flatnonzero(anon & (flags & PG_SWAPBACKED == 0))
    if len(lazy):
        _drop_lazyfree(mm, slot + where[lazy], pfns[lazy], _at(where[lazy], address))
    for i in np.flatnonzero(anon & (flags & PG_SWAPCACHE != 0)).tolist():
        _unmap_cached(mm, int(slot + where[i]), int(pfns[i]))
    for i in np.flatnonzero(movable & ~anon).tolist():
        _unmap_file(mm, int(slot + where[i]), int(pfns[i]))
    gather.note(address + (int(where[0]) << 12), address + ((int(where[-1]) + 1) << 12))
    mm.sys.journal.leave("reclaim_pages")


def _at(where: NDArray[np.int64], address: int) -> NDArray[np.uint64]:
    return (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)


def swap_entries(
    entries: NDArray[np.uint64], slots: NDArray[np.int64], exclusive: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """The swap entries that take the place of present ones: slot, soft-dirty, sole owner
    (`swp_entry_to_pte`).

    >>> hex(int(swap_entries(np.array([0x867], np.uint64), np.array([0x1234]), np.array([True]))[0]))
    '0x7ffffffffdb960a'
    """
    new = np.uint64(SWP_OFFSET_MASK) & ~(slots.astype(np.uint64) << np.uint64(9))
    soft = entries & np.uint64(_PAGE_SOFT_DIRTY) != 0
    new |= np.where(soft, np.uint64(_PAGE_SWP_SOFT_DIRTY), np.uint64(0))
    return new | np.where(exclusive, np.uint64(_PAGE_SWP_EXCLUSIVE), np.uint64(0))


def _swap_out(
    mm: Mm,
    at: NDArray[np.int64],
    pfns: NDArray[np.int64],
    slots: NDArray[np.int64],
    addresses: NDArray[np.uint64],
) -> None:
    """Anonymous pages go to swap slots of their own: entry, contents, frame and counters in one record."""
    frames, arena, swap = mm.sys.frames, mm.sys.arena, mm.sys.swap
    old = arena.entries[at]
    exclusive = frames.flags.array[pfns] & PG_EXCLUSIVE != 0
    lanes: list[Lane] = [
        SetLane(swap.content, slots, swap.content.array[slots], frames.content.array[pfns]),
        SetLane(swap.map, slots, 0, 1),
        SetLane(arena, at, old, swap_entries(old, slots, exclusive)),
        AddLane(frames.mapcount, pfns, -1),
        CountLane(mm.counters, "anon", -1),
        CountLane(mm.counters, "swap", 1),
        *free_lanes(frames, pfns),
    ]
    mm.sys.journal.bulk(Bulk("swap_writepage", len(at), tuple(lanes), addresses=addresses))


def _drop_lazyfree(
    mm: Mm, at: NDArray[np.int64], pfns: NDArray[np.int64], addresses: NDArray[np.uint64]
) -> None:
    """Lazyfree pages: those still clean are dropped, those written since are ordinary pages again."""
    frames, arena, j = mm.sys.frames, mm.sys.arena, mm.sys.journal
    written = (arena.entries[at] & np.uint64(_PAGE_DIRTY) != 0) | (frames.flags.array[pfns] & PG_DIRTY != 0)
    gone = np.flatnonzero(~written)
    if len(gone):
        lanes: list[Lane] = [
            SetLane(arena, at[gone], arena.entries[at[gone]], 0),
            AddLane(frames.mapcount, pfns[gone], -1),
            CountLane(mm.counters, "anon", -1),
            *free_lanes(frames, pfns[gone]),
        ]
        j.bulk(Bulk("free_unref_page", len(gone), tuple(lanes), addresses=addresses[gone]))
    kept = pfns[written]
    if len(kept):
        flags = frames.flags.array[kept]
        lane = SetLane(frames.flags, kept, flags, flags | np.uint32(PG_SWAPBACKED | PG_DIRTY))
        j.bulk(Bulk("folio_set_swapbacked", len(kept), (lane,), addresses=addresses[written]))


def _unmap_cached(mm: Mm, slot: int, pfn: int) -> None:
    """A page that is in the swap cache already: its entry names the slot, and the page goes."""
    frames, arena, swap, j = mm.sys.frames, mm.sys.arena, mm.sys.swap, mm.sys.journal
    old = arena.flat[slot]
    number = swap.slot_of.get(pfn)
    exclusive = np.array([bool(frames.flags.flat[pfn] & PG_EXCLUSIVE)])
    entry = swap_entries(np.array([old], np.uint64), np.array([number]), exclusive)
    j.add(swap.map, number, 1)
    j.write(swap.content, number, frames.content.flat[pfn])
    j.write(arena, slot, int(entry[0]))
    j.add(frames.mapcount, pfn, -1)
    j.add(mm.counters, "anon", -1)
    j.add(mm.counters, "swap", 1)
    frames.put_page(pfn)
    delete_from_swap_cache(mm.sys, pfn)


def _unmap_file(mm: Mm, slot: int, pfn: int) -> None:
    """A page of a file: unmapped, and out of the cache if it is clean; a shmem page goes to swap."""
    frames, arena, j = mm.sys.frames, mm.sys.arena, mm.sys.journal
    old, flags = arena.flat[slot], frames.flags.flat[pfn]
    j.write(arena, slot, 0)
    j.add(frames.mapcount, pfn, -1)
    j.add(mm.counters, file_counter(frames, pfn), -1)
    frames.put_page(pfn)
    dirty = flags | (PG_DIRTY if old & _PAGE_DIRTY else 0)
    if dirty != flags:
        j.write(frames.flags, pfn, dirty)
    key = (frames.mapping.flat[pfn], frames.index.flat[pfn])
    if dirty & PG_DIRTY and dirty & PG_SWAPBACKED:
        swap_out_shmem(mm.sys, key, pfn)
    elif not dirty & PG_DIRTY:
        j.write(mm.sys.page_cache, key, None)
        frames.put_page(pfn)
