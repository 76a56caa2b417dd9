"""The swap device: which slots are in use and how often (models mm/swapfile.c and mm/swap_state.c).

One device, type 0, a compressed block device in RAM (zram): it reads and writes at once, and is no rotating
disk.  Slot 0 is its header.  A slot's use count is the number of entries that name it; a page that is in RAM
and in a slot at once is in the swap cache, which holds a reference to the page and keeps the slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arch.x86 import SWP_OFFSET_MASK, swp_entry, swp_offset
from ..trace.bulk import AddLane, Bulk, CountLane, Lane, SetLane
from ..trace.store import Column, Counters, Keyed
from .contents import ContentColumn, Contents
from .page_flags import PG_DIRTY, PG_SWAPCACHE

if TYPE_CHECKING:
    from .mm_types import System

SWAP_PAGES = 16384
"""The size of the device in pages: 64 MiB, as on the machine of the traces."""

SWAP_HAS_CACHE = 1 << 30
"""In a slot's count: the swap cache holds it too (0x40 in the kernel's byte, which overflows elsewhere)."""

SWAP_TYPE = 0
MAX_SWAPFILES = 23
"""Types from here on are migration, poison and marker entries, whatever a kernel is configured with."""


class SwapArea:
    """The slots of the swap device, in columns (struct swap_info_struct).

    ``map`` holds each slot's use count, with `SWAP_HAS_CACHE`; ``content`` what is stored in it; ``cache``
    the frame of each slot in the swap cache, and ``slot_of`` the other way round.
    """

    def __init__(self, contents: Contents, nr_pages: int = SWAP_PAGES) -> None:
        self.nr_pages = nr_pages
        self.map = Column("swap.map", nr_pages, np.int32)
        self.content = ContentColumn("swap.content", nr_pages, contents)
        self.cache = Keyed("swap.cache")
        self.slot_of = Keyed("swap.slot_of")
        self.shmem = Keyed("swap.shmem")  # (inode, index) -> slot of a shmem page
        self.marked = Keyed("swap.marked")  # slots whose cached page a look-ahead has brought (PG_readahead)
        self.readahead = Keyed("swap.readahead")  # (mm id, VMA start) -> what swap_readahead_info keeps

    @property
    def stores(self) -> tuple[Any, ...]:
        """What the journal must know."""
        return self.map, self.content, self.cache, self.slot_of, self.shmem, self.marked, self.readahead

    def count(self, slot: int) -> int:
        """How many entries name a slot (`__swap_count`)."""
        return int(self.map.flat[slot]) & ~SWAP_HAS_CACHE

    def nr_free(self) -> int:
        """Slots that nothing uses."""
        return int(np.count_nonzero(self.map.array[1:] == 0))

    def free_slots(self, n: int) -> NDArray[np.int64]:
        """The ``n`` lowest free slots, fewer when there are not so many (`get_swap_pages`)."""
        return np.flatnonzero(self.map.array[1:] == 0)[:n].astype(np.int64) + 1

    @staticmethod
    def offsets_of(entries: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The slots that a run of swap entries names (`swp_offset`).

        >>> SwapArea.offsets_of(np.array([swp_entry(0, 7)], np.uint64)).tolist()
        [7]
        """
        raw = (entries & np.uint64(SWP_OFFSET_MASK)) ^ np.uint64(SWP_OFFSET_MASK)
        return (raw >> np.uint64(9)).astype(np.int64)


def user_lanes(system: System, counters: Counters, entries: NDArray[np.uint64], delta: int) -> list[Lane]:
    """The lanes that give or take (``delta`` 1 or -1) a use of each slot that ``entries`` name, and of swap.

    Entries of other kinds (migration, markers) count nothing; slots of an imported process's swap files are
    not known here, so only its counter moves.
    """
    area = system.swap
    slots, types = area.offsets_of(entries), (entries >> np.uint64(59)).astype(np.int64)
    known = (types == SWAP_TYPE) & (slots < area.nr_pages)
    known &= area.map.array[np.where(known, slots, 0)] != 0
    return [
        AddLane(area.map, np.where(known, slots, 0), np.where(known, delta, 0)),
        CountLane(counters, "swap", np.where(types < MAX_SWAPFILES, delta, 0)),
    ]


def add_to_swap_cache(system: System, slot: int, pfn: int) -> None:
    """Put a page into the swap cache, which takes a reference (mm/swap_state.c)."""
    j, area, frames = system.journal, system.swap, system.frames
    j.write(area.map, slot, area.map.flat[slot] | SWAP_HAS_CACHE)
    j.write(area.cache, slot, pfn)
    j.write(area.slot_of, pfn, slot)
    j.add(frames.refcount, pfn, 1)
    j.write(frames.flags, pfn, frames.flags.flat[pfn] | PG_SWAPCACHE)


def delete_from_swap_cache(system: System, pfn: int) -> None:
    """Take a page out of the swap cache and drop its reference (mm/swap_state.c)."""
    j, area, frames = system.journal, system.swap, system.frames
    slot = area.slot_of.get(pfn)
    j.write(area.cache, slot, None)
    if area.marked.get(slot):
        j.write(area.marked, slot, None)
    j.write(area.slot_of, pfn, None)
    j.write(frames.flags, pfn, frames.flags.flat[pfn] & ~PG_SWAPCACHE)
    j.write(area.map, slot, area.map.flat[slot] & ~SWAP_HAS_CACHE)
    _free_slots(system, np.array([slot], np.int64))
    frames.put_page(pfn)


def folio_free_swap(system: System, pfn: int) -> bool:
    """Take a page out of the swap cache if no entry names its slot (`try_to_free_swap`); it becomes dirty.

    Returns whether the page is out.  The caller holds a reference of its own, or the page is freed.
    """
    area, frames = system.swap, system.frames
    slot = area.slot_of.get(pfn)
    if slot is None or area.count(slot):
        return False
    if not frames.flags.flat[pfn] & PG_DIRTY:  # what is in the slot is lost: the page must be written again
        system.journal.write(frames.flags, pfn, frames.flags.flat[pfn] | PG_DIRTY)
    delete_from_swap_cache(system, pfn)
    return True


def free_swap_cache(system: System, pfn: int) -> None:
    """`folio_free_swap` for a page that nobody maps any more (mm/swap_state.c)."""
    if not system.frames.mapcount.flat[pfn] and system.swap.slot_of.get(pfn) is not None:
        folio_free_swap(system, pfn)


def swap_out_shmem(system: System, key: tuple[int, int], pfn: int) -> None:
    """A dirty shmem page leaves the page cache for a slot (`shmem_writepage`); it stays when swap is full.

    ``key`` is its inode and index.  A fault finds it again, reading the slot back.
    """
    j, area, frames = system.journal, system.swap, system.frames
    free = area.free_slots(1)
    if not len(free):
        return
    slot = int(free[0])
    j.write(area.map, slot, 1)
    j.write(area.content, slot, frames.content.flat[pfn])
    j.write(area.shmem, key, slot)
    j.write(system.page_cache, key, None)
    frames.put_page(pfn)


def shmem_slot_dropped(system: System, key: tuple[int, int]) -> None:
    """Forget the slot of a shmem page, if it is in one (`shmem_free_swap`)."""
    slot = system.swap.shmem.get(key)
    if slot is not None:
        system.journal.write(system.swap.shmem, key, None)
        swap_free(system, slot)


def swap_free(system: System, slot: int) -> None:
    """One entry less names a slot (mm/swapfile.c); the last one gives it back."""
    system.journal.add(system.swap.map, slot, -1)
    _free_slots(system, np.array([slot], np.int64))


def slots_dropped(system: System, slots: NDArray[np.int64]) -> None:
    """What follows when entries have let go of slots (the end of `free_swap_and_cache`).

    Slots that the device does not have belong to an imported process.  A slot without users is free; a page
    that only the swap cache still knows goes with it.
    """
    slots = slots[slots < system.swap.nr_pages]
    for slot in slots[system.swap.map.array[slots] == SWAP_HAS_CACHE].tolist():
        pfn = system.swap.cache.get(slot)
        if not system.frames.mapcount.flat[pfn]:
            folio_free_swap(system, pfn)
    _free_slots(system, slots)


def _free_slots(system: System, slots: NDArray[np.int64]) -> None:
    """Forget what is stored in slots that nothing uses (`swap_range_free`)."""
    area = system.swap
    gone = slots[(area.map.array[slots] == 0) & (area.content.array[slots] != 0)]
    if len(gone) == 1:
        system.journal.write(area.content, int(gone[0]), 0)
    elif len(gone):
        lane = SetLane(area.content, gone, area.content.array[gone], 0)
        system.journal.bulk(Bulk("swap_range_free", len(gone), (lane,), addresses=gone.astype(np.uint64)))


__all__ = [
    "SWAP_HAS_CACHE",
    "SWAP_PAGES",
    "SWAP_TYPE",
    "SwapArea",
    "add_to_swap_cache",
    "delete_from_swap_cache",
    "folio_free_swap",
    "free_swap_cache",
    "slots_dropped",
    "swap_free",
    "swp_entry",
    "swp_offset",
]
