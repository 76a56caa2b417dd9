"""Faults on swap entries (models do_swap_page of mm/memory.c and the readahead of mm/swap_state.c).

The device is synchronous: a slot that one entry names is read straight into a page of its own; only what
several entries name, and what a look-ahead brings, goes through the swap cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...arch.x86 import (
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SWP_EXCLUSIVE,
    _PAGE_SWP_SOFT_DIRTY,
    is_swap_pte,
    swp_offset,
)
from ...trace.bulk import Bulk, CountLane, Lane, SetLane
from ..flags import VM_LOCKED, VM_WRITE
from ..mlock_pages import mlock_vma_pages
from ..page_alloc import ANON, OutOfMemory
from ..page_flags import PG_ANON, PG_EXCLUSIVE, PG_LRU, PG_SWAPBACKED, PG_UPTODATE
from ..rmap import anon_vma_record
from ..swapfile import add_to_swap_cache, folio_free_swap, swap_free
from .fault import ANON_FLAGS, MKDIRTY, alloc_lanes
from .pfn import VM_FAULT_OOM
from .wp import handle_write_protected

if TYPE_CHECKING:
    from ..mm_types import Mm
    from ..vma import Vma

RA_WINDOW = 8
"""The largest look-ahead in pages, 1 << page_cluster."""
RA_HITS_MAX, RA_FIRST_HITS = 63, 4


def do_swap_page(mm: Mm, vma: Vma, address: int, slot: int, n: int, write: bool) -> int:
    """Serve faults on ``n`` neighbouring swap entries (mm/memory.c); returns a VM_FAULT code.

    Counts the faults itself, a read from the device as a major one.  Fewer than ``n`` may be served: the
    access is tried again.  Slots of swap files that are not simulated never come here.
    """
    j, arena = mm.sys.journal, mm.sys.arena
    j.enter("do_swap_page", ("address", address), ("nr_pages", n), ("write", write))
    try:
        slots = mm.sys.swap.offsets_of(arena.entries[slot : slot + n])
        other = np.flatnonzero(mm.sys.swap.map.array[slots] != 1)
        run = int(other[0]) if len(other) else n
        if run:
            _read_alone(mm, vma, address, slot, slots[:run], write)
        else:
            _read_shared(mm, vma, address, slot, int(slots[0]), write)
    except OutOfMemory:
        j.leave("do_swap_page", "VM_FAULT_OOM")
        return VM_FAULT_OOM
    j.leave("do_swap_page", 0)
    return 0


def _read_alone(mm: Mm, vma: Vma, address: int, slot: int, slots: NDArray[np.int64], write: bool) -> None:
    """Slots that only these entries name: fresh pages, the process's own; the slots are free again."""
    frames, arena, swap = mm.sys.frames, mm.sys.arena, mm.sys.swap
    n = min(len(slots), max(1, frames.states.buddy.nr_free()))
    slots, old = slots[:n], arena.entries[slot : slot + n].copy()
    pfns = frames.alloc_range(n)
    soft = old & np.uint64(_PAGE_SWP_SOFT_DIRTY) != 0
    new = (pfns.astype(np.uint64) << np.uint64(12)) | np.uint64(vma.page_prot | _write_bits(mm, vma, write))
    new |= np.where(soft, np.uint64(_PAGE_SOFT_DIRTY), np.uint64(0))
    contents = swap.content.array[slots]
    index = vma.pgoff + ((address - vma.start) >> 12)
    lanes: list[Lane] = [
        *alloc_lanes(frames, pfns, ANON, ANON_FLAGS, vma.anon_vma, index, contents),
        SetLane(swap.map, slots, 1, 0),
        SetLane(swap.content, slots, contents, 0),
        SetLane(arena, slice(slot, slot + n), old, new),
        CountLane(mm.counters, "anon", 1),
        CountLane(mm.counters, "swap", -1),
        CountLane(mm.counters, "maj_flt", 1),
    ]
    mm.sys.journal.bulk(Bulk("swap_readpage", n, tuple(lanes), address=address))
    mlock_vma_pages(mm, vma, pfns)


def _write_bits(mm: Mm, vma: Vma, write: bool) -> int:
    """The bits beside the VMA's of an entry for a page that is the process's own: a reader's is writable in
    later kernels only (`KernelVersion.swapin_writable`).
    """
    writable = _PAGE_RW if vma.vm_flags & VM_WRITE else 0
    if write:
        return MKDIRTY | writable
    return writable if mm.sys.version.swapin_writable else 0


def _read_shared(mm: Mm, vma: Vma, address: int, slot: int, number: int, write: bool) -> None:
    """A slot that others name too, or whose page is cached: map the page of the swap cache."""
    frames, arena, swap, j = mm.sys.frames, mm.sys.arena, mm.sys.swap, mm.sys.journal
    old = arena.flat[slot]
    pfn = swap.cache.get(number)
    major = pfn is None
    if major:
        pfn = swapin_readahead(mm, vma, address, slot, number)
    else:
        _note_hit(mm, vma, address, number)
    exclusive = bool(old & _PAGE_SWP_EXCLUSIVE)
    j.add(frames.refcount, pfn, 1)
    swap_free(mm.sys, number)
    area_full = swap.nr_free() * 2 < swap.nr_pages
    if area_full or vma.vm_flags & VM_LOCKED or (write and frames.refcount.flat[pfn] == 2):
        folio_free_swap(mm.sys, pfn)
    exclusive = exclusive or frames.refcount.flat[pfn] == 1
    entry = (pfn << 12) | vma.page_prot
    if exclusive:
        entry |= _write_bits(mm, vma, write)
    if old & _PAGE_SWP_SOFT_DIRTY:
        entry |= _PAGE_SOFT_DIRTY
    _add_anon_rmap(mm, vma, address, pfn, exclusive)
    j.add(mm.counters, "anon", 1)
    j.add(mm.counters, "swap", -1)
    j.add(mm.counters, "maj_flt" if major else "min_flt", 1)
    j.write(arena, slot, entry)
    if write and not exclusive and vma.vm_flags & VM_WRITE:
        handle_write_protected(mm, vma, address, slot, 1)


def _add_anon_rmap(mm: Mm, vma: Vma, address: int, pfn: int, exclusive: bool) -> None:
    """One more mapping of an anonymous page (`page_add_anon_rmap`); the first one tells whose it is."""
    frames, j = mm.sys.frames, mm.sys.journal
    flags = frames.flags.flat[pfn]
    j.add(frames.mapcount, pfn, 1)
    if not flags & PG_ANON:
        owner = vma.anon_vma if exclusive else anon_vma_record(mm.sys, vma.anon_vma).root
        j.write(frames.mapping, pfn, owner)
        j.write(frames.index, pfn, vma.pgoff + ((address - vma.start) >> 12))
    j.write(frames.flags, pfn, flags | PG_ANON | (PG_EXCLUSIVE if exclusive else 0))
    mlock_vma_pages(mm, vma, [pfn])


def read_swap_cache_async(mm: Mm, number: int) -> int:
    """Bring a slot into the swap cache unless it is there (mm/swap_state.c); returns the pfn."""
    frames, swap = mm.sys.frames, mm.sys.swap
    pfn = swap.cache.get(number)
    if pfn is None:
        flags = PG_LRU | PG_SWAPBACKED | PG_UPTODATE
        pfn = frames.alloc_page(ANON, flags, 0, 0, swap.content.flat[number], 0)
        add_to_swap_cache(mm.sys, number, pfn)
        frames.put_page(pfn)
    return int(pfn)


def swapin_readahead(mm: Mm, vma: Vma, address: int, slot: int, number: int) -> int:
    """Read a slot, and its neighbours in the address space ahead (`swap_vma_readahead`); returns the pfn.

    The window grows with the hits that earlier ones had; it stays in the VMA and in the page table.
    Simplified: a neighbour that finds no frame ends it.
    """
    arena, j = mm.sys.arena, mm.sys.journal
    before, window, hits = mm.sys.swap.readahead.get((mm.id, vma.start)) or (0, 0, RA_FIRST_HITS)
    page = address >> 12
    window = _window(before, page, hits, window)
    j.write(mm.sys.swap.readahead, (mm.id, vma.start), (page, window, 0))
    pfn = read_swap_cache_async(mm, number)
    if window == 1:
        return pfn
    if page == before + 1:
        first = page
    elif before == page + 1:
        first = page - window + 1
    else:
        first = page - (window - 1) // 2
    last = min(first + window, vma.end >> 12, (page | 511) + 1)
    first = max(first, vma.start >> 12, page & ~511)
    for other in range(first, last):
        entry = arena.flat[slot + other - page]
        if other == page or not is_swap_pte(entry) or entry >> 59:
            continue
        neighbour = swp_offset(entry)
        if mm.sys.swap.cache.get(neighbour) is not None:
            continue
        try:
            read_swap_cache_async(mm, neighbour)
        except OutOfMemory:
            break
        j.write(mm.sys.swap.marked, neighbour, True)  # PG_readahead
    return pfn


def _window(before: int, page: int, hits: int, previous: int) -> int:
    """How many pages to read (`__swapin_nr_pages`).

    >>> _window(0, 100, 4, 0), _window(99, 100, 0, 0), _window(50, 100, 0, 8)
    (8, 2, 4)
    """
    pages = hits + 2
    if pages == 2:
        pages = 2 if abs(page - before) == 1 else 1
    else:
        pages = max(4, 1 << (pages - 1).bit_length())
    return max(min(pages, RA_WINDOW), previous // 2)


def _note_hit(mm: Mm, vma: Vma, address: int, number: int) -> None:
    """A page was found in the swap cache: if a look-ahead brought it, that was right
    (`lookup_swap_cache`).
    """
    area, key, j = mm.sys.swap, (mm.id, vma.start), mm.sys.journal
    _, window, hits = area.readahead.get(key) or (0, 0, RA_FIRST_HITS)
    if area.marked.get(number):
        j.write(area.marked, number, None)
        hits = min(hits + 1, RA_HITS_MAX)
    j.write(area.readahead, key, (address >> 12, window, hits))
