"""Writes to present but read-only pages (models do_wp_page and what it calls in mm/memory.c): reuse or copy.

Neighbours with the same outcome are served as one run; a run of one page leaves the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...arch.tlb import TlbFlush
from ...arch.x86 import _PAGE_ACCESSED, _PAGE_RW, _PAGE_SOFT_DIRTY, _PAGE_SPECIAL, pte_pfn
from ...trace.bulk import AddLane, Bulk, CountLane, Lane, SetLane
from ..flags import VM_SHARED
from ..frames import Frames
from ..mlock_pages import mlock_vma_pages, munlock_vma_pages
from ..mmu_gather import flush_tlb
from ..page_alloc import ANON, OutOfMemory
from ..page_flags import PG_ANON, PG_COMPOUND, PG_DIRTY, PG_EXCLUSIVE, PG_SWAPBACKED, PG_SWAPCACHE
from ..rmap import anon_vma_prepare
from ..swapfile import folio_free_swap, free_swap_cache
from .fault import (
    ANON_FLAGS,
    MKDIRTY,
    alloc_lanes,
    anon_entry,
    contents_of,
    entries_of,
    file_counter,
)
from .normal_page import device_lanes, pfns_of
from .pfn import VM_FAULT_OOM

if TYPE_CHECKING:
    from ..mm_types import Mm
    from ..vma import Vma


def handle_write_protected(mm: Mm, vma: Vma, address: int, slot: int, n: int) -> int:
    """A write to present but read-only pages (`do_wp_page`): reuse the page or copy it.

    Serves as many of the ``n`` pages as are of the first one's kind.
    """
    j, arena = mm.sys.journal, mm.sys.arena
    values = arena.entries[slot : slot + n]
    kinds = wp_kinds(mm, vma, values)
    first = kinds[0]
    other = np.flatnonzero(kinds != first)
    m = int(other[0]) if len(other) else n
    j.enter("do_wp_page", ("address", address), ("nr_pages", m))
    try:
        if first == REUSE:
            _wp_page_reuse(mm, vma, address, slot, m)
        else:
            vma = anon_vma_prepare(mm, vma)
            handler: Callable[..., None] = _wp_copy_page if first == COPY_PAGE else _wp_copy_raw
            handler(mm, vma, address, slot, m)
    except OutOfMemory:
        j.leave("do_wp_page", "VM_FAULT_OOM")
        return VM_FAULT_OOM
    j.leave("do_wp_page", 0)
    return 0


REUSE, COPY_RAW, COPY_PAGE = range(3)


def wp_kinds(mm: Mm, vma: Vma, values: NDArray[np.uint64]) -> NDArray[np.int8]:
    """What a write to each read-only entry leads to: reuse, a copy of a raw frame, a copy of a page."""
    if vma.vm_flags & VM_SHARED:
        return np.full(len(values), REUSE, np.int8)
    kinds = np.full(len(values), COPY_RAW, np.int8)
    normal = np.flatnonzero((values & np.uint64(_PAGE_SPECIAL)) == 0)
    if len(normal):
        frames = mm.sys.frames
        pfns = pfns_of(values[normal])
        known = pfns < frames.nr_frames
        flags = frames.flags.array[pfns[known]]
        refs = frames.refcount.array[frames.heads(pfns[known])].copy()
        cached = np.flatnonzero(flags & PG_SWAPCACHE)
        for i in cached.tolist():  # the swap cache's reference goes when no entry names the slot
            slot = mm.sys.swap.slot_of.get(int(pfns[known][i]))
            refs[i] -= not mm.sys.swap.count(slot)
        sole = (flags & PG_EXCLUSIVE != 0) | (refs == 1)
        reusable = (flags & PG_ANON != 0) & sole
        kinds[normal[known]] = np.where(reusable, REUSE, COPY_PAGE)
    return kinds


def _wp_page_reuse(mm: Mm, vma: Vma, address: int, slot: int, n: int, unshare: bool = False) -> None:
    """Make the entries writable and dirty in place (`wp_page_reuse`).

    An anonymous page that nobody else uses any more becomes the writer's own (`page_move_anon_rmap`); with
    ``unshare`` that is all.
    """
    arena, j, frames = mm.sys.arena, mm.sys.journal, mm.sys.frames
    j.enter("wp_page_reuse", ("address", address), ("nr_pages", n))
    old = arena.entries[slot : slot + n].copy()
    pfns = pfns_of(old)
    inside = pfns[(pfns < frames.nr_frames) & ((old & np.uint64(_PAGE_SPECIAL)) == 0)]
    flags = frames.flags.array[inside]
    if (flags & PG_SWAPCACHE).any():
        for pfn in inside[flags & PG_SWAPCACHE != 0].tolist():
            if not flags_of(frames, pfn) & PG_EXCLUSIVE:
                folio_free_swap(mm.sys, pfn)
        flags = frames.flags.array[inside]
    lanes: list[Lane] = []
    shy = inside[(flags & (PG_ANON | PG_EXCLUSIVE)) == PG_ANON]
    if len(shy):
        marked = frames.flags.array[shy]
        lanes.append(SetLane(frames.flags, shy, marked, marked | np.uint32(PG_EXCLUSIVE)))
        heads = frames.heads(shy)
        lanes.append(SetLane(frames.mapping, heads, frames.mapping.array[heads], vma.anon_vma))
    clean = inside[(flags & (PG_ANON | PG_DIRTY)) == 0]
    if len(clean):  # fault_dirty_shared_page
        marked = frames.flags.array[clean]
        lanes.append(SetLane(frames.flags, clean, marked, marked | np.uint32(PG_DIRTY)))
    if lanes:  # a run is of one kind of page: all anonymous, or all of files
        func, m = ("page_move_anon_rmap", len(shy)) if len(shy) else ("fault_dirty_shared_page", len(clean))
        j.bulk(Bulk(func, m, tuple(lanes), address=address))
    if not unshare:
        lane = SetLane(
            arena, slice(slot, slot + n), old, old | np.uint64(_PAGE_RW | _PAGE_ACCESSED | MKDIRTY)
        )
        j.bulk(Bulk("ptep_set_access_flags", n, (lane,), address=address))
    j.leave("wp_page_reuse")


def flags_of(frames: Frames, pfn: int) -> int:
    """The page flags of one frame."""
    return int(frames.flags.flat[pfn])


def _wp_copy_raw(mm: Mm, vma: Vma, address: int, slot: int, n: int) -> None:
    """Copy frames without a struct page into new anonymous pages (`wp_page_copy`); the zero page needs no
    copy.
    """
    frames, j, arena = mm.sys.frames, mm.sys.journal, mm.sys.arena
    n = min(n, frames.states.buddy.nr_free())
    if not n:
        raise OutOfMemory("no frame is free for the copy")
    j.enter("wp_page_copy", ("address", address), ("nr_pages", n))
    old = arena.entries[slot : slot + n].copy()
    contents = contents_of(frames, pfns_of(old))
    pfns = frames.alloc_range(n)
    index = vma.pgoff + ((address - vma.start) >> 12)
    lanes: list[Lane] = [
        *alloc_lanes(frames, pfns, ANON, ANON_FLAGS, vma.anon_vma, index, contents),
        CountLane(mm.counters, "anon", 1),
        SetLane(arena, slice(slot, slot + n), old, entries_of(pfns, anon_entry(vma))),
        *device_lanes(frames, pfns_of(old), -1),
    ]
    j.bulk(Bulk("wp_page_copy", n, tuple(lanes), address=address))
    mlock_vma_pages(mm, vma, pfns)
    # Each copy flushes its own page (ptep_clear_flush): a long run is many single flushes, never a full one.
    flush_tlb(mm, TlbFlush("pages", address, address + (n << 12), n))
    j.leave("wp_page_copy", 0)


def _wp_copy_page(mm: Mm, vma: Vma, address: int, slot: int, n: int, unshare: bool = False) -> None:
    """Copy pages that others use too (`wp_page_copy`): as one run where no source loses its last user."""
    frames, arena = mm.sys.frames, mm.sys.arena
    n = min(n, frames.states.buddy.nr_free())
    if not n:
        raise OutOfMemory("no frame is free for the copy")
    sources = pfns_of(arena.entries[slot : slot + n])
    flags = frames.flags.array[sources]
    kinds = flags & (PG_ANON | PG_SWAPBACKED)
    plain = flags & (PG_SWAPCACHE | PG_COMPOUND) == 0
    safe = (frames.refcount.array[sources] > 1) & plain & (kinds == kinds[0])
    stop = np.flatnonzero(~safe)
    m = int(stop[0]) if len(stop) else n
    if m > 1 and _distinct(sources[:m]):
        _copy_run(mm, vma, address, slot, sources[:m], unshare)
        done = m
    else:
        done = 0
    for i in range(done, n):
        _copy_one(mm, vma, address + (i << 12), slot + i, unshare)


def _distinct(pfns: NDArray[np.int64]) -> bool:
    """Whether no frame comes twice; frames in rising order, the common case, need no sorting."""
    return bool((np.diff(pfns) > 0).all()) or len(np.unique(pfns)) == len(pfns)


def _copy_entry(vma: Vma, old: Any, unshare: bool) -> Any:
    """The bits of a copy's entry: writable and dirty for a write; an unshared one stays as it was."""
    if not unshare:
        return anon_entry(vma)
    return vma.page_prot | (old & _PAGE_SOFT_DIRTY)


def _copy_run(mm: Mm, vma: Vma, address: int, slot: int, sources: NDArray[np.int64], unshare: bool) -> None:
    frames, j, arena = mm.sys.frames, mm.sys.journal, mm.sys.arena
    n = len(sources)
    j.enter("wp_page_copy", ("address", address), ("nr_pages", n))
    old = arena.entries[slot : slot + n].copy()
    pfns = frames.alloc_range(n)
    contents = frames.content.array[sources]
    index = vma.pgoff + ((address - vma.start) >> 12)
    entries = (pfns.astype(np.uint64) << np.uint64(12)) | _bits(_copy_entry(vma, _soft(old), unshare))
    lanes: list[Lane] = [
        *alloc_lanes(frames, pfns, ANON, ANON_FLAGS, vma.anon_vma, index, contents),
        SetLane(arena, slice(slot, slot + n), old, entries),
        AddLane(frames.mapcount, sources, -1),
        AddLane(frames.refcount, sources, -1),
    ]
    if not flags_of(frames, int(sources[0])) & PG_ANON:
        counter = file_counter(frames, int(sources[0]))
        lanes += [CountLane(mm.counters, counter, -1), CountLane(mm.counters, "anon", 1)]
    munlock_vma_pages(mm, vma, sources)
    j.bulk(Bulk("wp_page_copy", n, tuple(lanes), address=address))
    mlock_vma_pages(mm, vma, pfns)
    flush_tlb(mm, TlbFlush("pages", address, address + (n << 12), n))
    j.leave("wp_page_copy", 0)


def _soft(old: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return old & np.uint64(_PAGE_SOFT_DIRTY)


def _bits(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else np.uint64(value)


def _copy_one(mm: Mm, vma: Vma, va: int, slot: int, unshare: bool) -> None:
    """Copy one page; its source may lose its last user, or be in the swap cache for nobody any more."""
    frames, j, arena = mm.sys.frames, mm.sys.journal, mm.sys.arena
    j.enter("wp_page_copy", ("address", va))
    old = arena.flat[slot]
    source = pte_pfn(old)
    index = vma.pgoff + ((va - vma.start) >> 12)
    pfn = frames.alloc_page(ANON, ANON_FLAGS, vma.anon_vma, index, frames.content.flat[source], 1)
    if not frames.flags.flat[source] & PG_ANON:
        j.add(mm.counters, file_counter(frames, source), -1)
        j.add(mm.counters, "anon", 1)
    j.write(arena, slot, (pfn << 12) | _copy_entry(vma, old, unshare))
    mlock_vma_pages(mm, vma, [pfn])
    flush_tlb(mm, TlbFlush.of(va, va + 4096))
    munlock_vma_pages(mm, vma, [source])
    j.add(frames.mapcount, source, -1)
    free_swap_cache(mm.sys, source)
    frames.put_page(source)
    j.leave("wp_page_copy", 0)


def handle_unshare(mm: Mm, vma: Vma, address: int, slot: int) -> None:
    """Make a shared private page the process's own without making it writable (FAULT_FLAG_UNSHARE), for one
    who wants to hold on to it.
    """
    values = mm.sys.arena.entries[slot : slot + 1]
    j = mm.sys.journal
    j.enter("do_wp_page", ("address", address), ("nr_pages", 1))
    if wp_kinds(mm, vma, values)[0] == REUSE:
        _wp_page_reuse(mm, vma, address, slot, 1, True)
    else:
        _wp_copy_page(mm, anon_vma_prepare(mm, vma), address, slot, 1, True)
    j.leave("do_wp_page", 0)
