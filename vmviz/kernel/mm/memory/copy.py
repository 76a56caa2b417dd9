"""Copying page tables at fork (models copy_page_range and below of mm/memory.c).

Entries are copied, pages are not: a private page is shared read-only by both until one of them writes.  Each
page table is copied as one record per run of equal entries; the parent's entries, the child's and the counts
move together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_PSE,
    _PAGE_RW,
    _PAGE_SPECIAL,
    _PAGE_SWP_EXCLUSIVE,
    pte_pfn,
)
from ...errors import KernelError
from ...trace.bulk import AddLane, Bulk, CopyLane, CountLane, FlipLane, Lane, SetLane
from ...trace.store import Index, index_of
from ..flags import VM_HUGETLB, VM_MIXEDMAP, VM_PAT, VM_PFNMAP, VM_SHARED, is_cow_mapping
from ..huge_memory import copy_huge_pmd
from ..hugetlb import copy_hugetlb_page_range
from ..mm_types import Mm
from ..page_flags import PG_EXCLUSIVE
from ..swapfile import user_lanes
from ..vma import Vma
from .alike import Alike
from .memtype import memtype_reserve
from .normal_page import ANON_PAGE, OTHER_ENTRY, RAW, RSS_OF_KIND, device_lanes, kinds_of, pfns_of


def vma_needs_copy(vma: Vma) -> bool:
    """Whether fork copies the entries of a VMA (mm/memory.c): what a fault could not bring back must be
    copied.

    >>> vma_needs_copy(Vma(0, 4096, VM_PFNMAP)), vma_needs_copy(Vma(0, 4096, VM_SHARED))
    (True, False)
    """
    return bool(vma.vm_flags & (VM_PFNMAP | VM_MIXEDMAP)) or vma.anon_vma != 0


def track_pfn_copy(mm: Mm, vma: Vma) -> None:
    """Reserve the memory type of a VM_PAT mapping for the child (arch/x86/mm/pat/memtype.c).

    The first page's entry tells which frames are meant; where it is empty or a private copy the fork fails:
    `KernelError` EINVAL, which its caller turns into ENOMEM.
    """
    if not vma.vm_flags & VM_PAT:
        return
    slot = mm.sys.arena.lookup(mm.pgd, vma.start)
    entry = mm.sys.arena.flat[slot] if slot >= 0 else 0
    if not entry & _PAGE_SPECIAL or not entry & (_PAGE_PRESENT | _PAGE_PROTNONE):
        raise KernelError(
            "EINVAL",
            "track_pfn_copy",
            f"the first page of the VM_PAT mapping at {vma.start:#x} is no raw frame any more",
        )
    memtype_reserve(mm.sys, pte_pfn(entry), pte_pfn(entry) + vma.nr_pages)


def copy_page_range(parent: Mm, child: Mm, vma: Vma) -> None:
    """Copy all entries of ``vma`` from ``parent`` to ``child`` (mm/memory.c).

    Tables appear in the child wherever the parent has them in the VMA's range, filled or not.  Raises
    `OutOfMemory` when there is no frame for a table and `KernelError` from `track_pfn_copy`; what was copied
    until then stays for the caller to take away.
    """
    j = parent.sys.journal
    j.enter("copy_page_range", ("start", vma.start), ("end", vma.end))
    try:
        if not vma_needs_copy(vma):
            return
        if vma.vm_flags & VM_PFNMAP:
            track_pfn_copy(parent, vma)
        _copy_tables(parent, child, parent.pgd, 0, 0, vma.start, vma.end)
        if vma.vm_flags & VM_HUGETLB:
            copy_hugetlb_page_range(parent, child, vma)
            return
        for slot, haddr in parent.sys.arena.huge_leaves(parent.pgd, vma.start, vma.end):
            copy_huge_pmd(parent, child, slot, haddr)
        for slot, n, va, cuts in parent.sys.arena.runs(parent.pgd, vma.start, vma.end):
            _copy_run_of_tables(parent, child, vma, slot, n, va, cuts)
    finally:
        j.leave("copy_page_range")


def _copy_tables(parent: Mm, child: Mm, row: int, level: int, base: int, start: int, end: int) -> None:
    """Give the child the tables that the parent has for ``[start, end)``, below the table in ``row``."""
    arena, levels = parent.sys.arena, parent.sys.mode.levels
    if level == len(levels) - 1:
        return
    shift, mask = levels[level].shift, levels[level].entries - 1
    first, last = (start >> shift) & mask, ((end - 1) >> shift) & mask
    if level == len(levels) - 2 and last > first:
        _copy_last_tables(
            parent, child, (row << arena.bits) | first, last - first + 1, base + (first << shift), start
        )
        return
    for i in (np.flatnonzero(arena.rows[row][first : last + 1]) + first).tolist():
        slot = (row << arena.bits) | i
        if arena.flat[slot] & _PAGE_PSE:
            continue
        low = max(start, base + (i << shift))
        arena.ensure_level(child.pgd, low, child.counters, level + 1)
        high = min(end, base + ((i + 1) << shift))
        _copy_tables(parent, child, arena.child_row(slot), level + 1, base + (i << shift), low, high)


def _copy_last_tables(parent: Mm, child: Mm, slot: int, n: int, address: int, start: int) -> None:
    """Give the child last-level tables where the parent has some behind ``n`` entries from ``slot`` on, those that it
    lacks as one record.  ``address`` is what the first entry is for, ``start`` where the VMA begins.
    """
    arena, level = parent.sys.arena, len(parent.sys.mode.levels) - 2
    entries = arena.entries[slot : slot + n]
    where = np.flatnonzero((entries != 0) & (entries & np.uint64(_PAGE_PSE) == 0))
    if not len(where):
        return
    shift = parent.sys.mode.levels[level].shift
    at = np.maximum((where.astype(np.uint64) << np.uint64(shift)) + np.uint64(address), np.uint64(start))
    first = arena.ensure_level(child.pgd, int(at[0]), child.counters, level)
    slots = where + (first - int(where[0]))
    lacking = arena.entries[slots] == 0
    slots, at = slots[lacking], at[lacking]
    if len(slots) > 1:
        arena.hang_tables(slots, arena.frames.alloc_range(len(slots)), at, child.counters)
    elif len(slots):
        arena.ensure_level(child.pgd, int(at[0]), child.counters, level + 1)


def _copy_run_of_tables(
    parent: Mm, child: Mm, vma: Vma, slot: int, n: int, address: int, cuts: tuple[int, ...]
) -> None:
    """Copy tables that lie side by side in the arena, at once where the child's do so too."""
    at = address
    for target, count, _, _ in parent.sys.arena.runs(child.pgd, address, address + (n << 12)):
        skip = (at - address) >> 12
        here = tuple(c - skip for c in cuts if skip <= c < skip + count)
        copy_pte_range(parent, child, vma, slot + skip, count, at, here, target)
        at += count << 12


def copy_pte_range(
    parent: Mm, child: Mm, vma: Vma, slot: int, n: int, address: int, cuts: tuple[int, ...], target: int
) -> None:
    """Copy ``n`` entries from ``slot`` on to the slots from ``target`` on (mm/memory.c), by what is behind them;
    ``cuts`` begin page tables.
    """
    arena = parent.sys.arena
    alike = Alike.of(arena, slot, n)
    lanes = _alike_lanes(parent, child, vma, alike, slot, target) if alike is not None else None
    if lanes:
        record = Bulk("copy_present_pte", n, tuple(lanes), address=address, cuts=cuts)
        parent.sys.journal.bulk(record)
        return
    entries = arena.entries[slot : slot + n]
    where = np.flatnonzero(entries)
    if not len(where):
        return
    values = entries[where]
    kinds = kinds_of(parent, values)
    first = 0
    for stop in [*(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(where)]:
        part, old, kind = where[first:stop], values[first:stop], int(kinds[first])
        first = stop
        slots = index_of(slot + part), index_of(target + part)
        if kind == OTHER_ENTRY:
            lanes = _nonpresent_lanes(parent, child, *slots, old)
            func = "copy_nonpresent_pte"
        else:
            lanes = _present_lanes(parent, child, vma, slots, old, kind)
            func = "copy_present_pte"
        dense = isinstance(slots[0], slice)
        addresses = None if dense else (part.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
        at = address + (int(part[0]) << 12)
        here = sorted({c for c in np.searchsorted(part, cuts).tolist() if 0 < c < len(part)})
        record = Bulk(func, len(part), tuple(lanes), address=at, addresses=addresses, cuts=(0, *here))
        parent.sys.journal.bulk(record)


def _alike_lanes(parent: Mm, child: Mm, vma: Vma, alike: Alike, slot: int, target: int) -> list[Lane] | None:
    """`_present_lanes` for entries of anonymous pages that are alike; None for others."""
    arena, frames, n = parent.sys.arena, parent.sys.frames, alike.n
    if alike.entry & _PAGE_SPECIAL or frames.compound_mapcount.data:
        return None
    if not alike.anonymous(frames) or (sole := alike.all_have(frames, PG_EXCLUSIVE)) is None:
        return None
    source, at = slice(slot, slot + n), alike.frames
    lanes: list[Lane] = []
    if alike.entry & _PAGE_RW and is_cow_mapping(vma.vm_flags):
        lanes.append(FlipLane(arena, source, _PAGE_RW))
    drop = _PAGE_ACCESSED | (_PAGE_DIRTY if vma.vm_flags & VM_SHARED else 0)
    lanes += [
        CopyLane(arena, slice(target, target + n), source, drop),
        AddLane(frames.refcount, at, 1),
        AddLane(frames.mapcount, at, 1),
        CountLane(child.counters, RSS_OF_KIND[ANON_PAGE], 1),
    ]
    if sole:
        lanes.append(FlipLane(frames.flags, at, PG_EXCLUSIVE))
    return lanes


def _present_lanes(
    parent: Mm,
    child: Mm,
    vma: Vma,
    slots: tuple[Index, Index],
    old: NDArray[np.uint64],
    kind: int,
) -> list[Lane]:
    """Present entries: write-protected in both where a write has to copy, clean in the child where shared,
    always old there.
    """
    arena, frames = parent.sys.arena, parent.sys.frames
    kept, taken = old, ~np.uint64(_PAGE_ACCESSED)
    lanes: list[Lane] = []
    if is_cow_mapping(vma.vm_flags):
        kept = old & ~np.uint64(_PAGE_RW)
        if (kept != old).any():
            lanes.append(SetLane(arena, slots[0], old, kept))
    if vma.vm_flags & VM_SHARED:
        taken &= ~np.uint64(_PAGE_DIRTY)
    lanes.append(SetLane(arena, slots[1], 0, kept & taken))
    pfns = pfns_of(old)
    if kind == RAW:
        return [*lanes, *device_lanes(frames, pfns, 1)]
    at = index_of(pfns)
    heads = at if isinstance(at, slice) and not frames.compound_mapcount.data else frames.heads(pfns)
    lanes += [AddLane(frames.refcount, heads, 1), AddLane(frames.mapcount, at, 1)]
    lanes.append(CountLane(child.counters, RSS_OF_KIND[kind], 1))
    if kind == ANON_PAGE:  # page_try_dup_anon_rmap: nobody owns the page alone any more
        flags = frames.flags.array[pfns]
        if (flags & PG_EXCLUSIVE).any():
            lanes.append(SetLane(frames.flags, pfns, flags, flags & ~np.uint32(PG_EXCLUSIVE)))
    return lanes


def _nonpresent_lanes(parent: Mm, child: Mm, source: Any, target: Any, old: NDArray[np.uint64]) -> list[Lane]:
    """Swap entries: one more user of each slot, and the mark of a sole owner goes in both."""
    arena = parent.sys.arena
    new = old & ~np.uint64(_PAGE_SWP_EXCLUSIVE)
    lanes: list[Lane] = [SetLane(arena, target, 0, new)]
    if (new != old).any():
        lanes.append(SetLane(arena, source, old, new))
    return lanes + user_lanes(parent.sys, child.counters, old, 1)
