"""Taking compound pages apart (models split_huge_page_to_list of mm/huge_memory.c): 512 pages of their own.

All entries that map the page are changed, of all processes: huge leaves become tables first.  In Linux the
entries are migration entries meanwhile; here they keep their place.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..arch.x86 import _PAGE_DIRTY, _PAGE_PRESENT, _PAGE_PROTNONE, _PAGE_SOFT_DIRTY, _PAGE_SPECIAL, pmd_pfn
from ..trace.bulk import AddLane, Bulk, CountLane, Lane, SetLane
from .flags import VM_LOCKED
from .frames import ZERO_PFN
from .huge_memory import split_huge_pmd
from .memory.normal_page import pfns_of
from .mlock_pages import mlock_vma_pages
from .mm_types import Mm, System
from .page_alloc import FREE
from .page_flags import HPAGE_PMD_NR, PG_ANON, PG_COMPOUND, PG_DIRTY, PG_EXCLUSIVE
from .vma import Vma


def mappings_of(system: System, head: int) -> Iterator[tuple[Mm, Vma, int, int]]:
    """Where an anonymous compound page could be mapped (`rmap_walk_anon`): (mm, VMA, first and end address)."""
    index = int(system.frames.index.flat[head])
    for mm in system.mms():
        for vma in list(mm.vmas):
            low, high = max(index, vma.pgoff), min(index + HPAGE_PMD_NR, vma.pgoff + vma.nr_pages)
            if vma.anon_vma and low < high:
                first = vma.start + ((low - vma.pgoff) << 12)
                yield mm, vma, first, first + ((high - low) << 12)


def split_huge_page(system: System, head: int) -> None:
    """Make a compound page 512 pages (mm/huge_memory.c); those that nobody maps any more are freed.

    Each gets the head's flags; dirty entries make all of them dirty.  Nobody but the entries may hold the
    page: callers here never do.
    """
    j, frames, arena = system.journal, system.frames, system.arena
    j.enter("split_huge_page_to_list", ("pfn", head))
    dirty = frames.flags.flat[head] & PG_DIRTY
    locked: list[tuple[Mm, Vma, NDArray[np.int64]]] = []
    for mm, vma, start, end in list(mappings_of(system, head)):
        for slot, haddr in arena.huge_leaves(mm.pgd, start, end):
            if pmd_pfn(arena.flat[slot]) == head:
                split_huge_pmd(mm, vma, slot, haddr, keep_dirty=True)
        for slot, n, address in arena.segments(mm.pgd, start, end):
            dirty |= _entries_come_back(mm, vma, slot, n, address, head, locked)
    where = np.arange(head, head + HPAGE_PMD_NR)
    flags, counts = frames.flags.array[where], frames.mapcount.array[where]
    shared = (frames.flags.flat[head] | dirty) & ~(PG_COMPOUND | PG_EXCLUSIVE)
    own = flags & np.uint32(PG_EXCLUSIVE)
    mapped = counts > 0
    lanes: list[Lane] = [
        SetLane(
            frames.flags,
            where,
            flags,
            np.where(mapped, own | np.uint32(shared | PG_ANON), 0).astype(np.uint32),
        ),
        SetLane(frames.refcount, where, frames.refcount.array[where], counts),
        SetLane(
            frames.mapping, where, frames.mapping.array[where], np.where(mapped, frames.mapping.flat[head], 0)
        ),
    ]
    if not mapped.all():
        for column in (frames.index, frames.content):
            old = column.array[where]
            lanes.append(SetLane(column, where, old, np.where(mapped, old, 0).astype(old.dtype)))
        states = frames.states.array[where]
        lanes.append(
            SetLane(frames.states, where, states, np.where(mapped, states, FREE).astype(states.dtype))
        )
    j.bulk(Bulk("__split_huge_page_tail", HPAGE_PMD_NR, tuple(lanes), address=head << 12))
    j.write(frames.compound_mapcount, head, None)
    if frames.mlock_count.flat[head]:
        j.write(frames.mlock_count, head, 0)
    for mm, vma, pfns in locked:
        mlock_vma_pages(mm, vma, pfns)
    j.leave("split_huge_page_to_list", 0)


def _entries_come_back(
    mm: Mm,
    vma: Vma,
    slot: int,
    n: int,
    address: int,
    head: int,
    locked: list[tuple[Mm, Vma, NDArray[np.int64]]],
) -> int:
    """The small entries of one page table that map parts of the page (`remove_migration_pte`).

    Dirty ones are soft-dirty afterwards (pte_mkdirty), and make the page dirty: returns PG_DIRTY then.  What
    a locked VMA maps goes to ``locked``.
    """
    arena = mm.sys.arena
    entries = arena.entries[slot : slot + n]
    where = np.flatnonzero(entries & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE))
    pfns = pfns_of(entries[where])
    mine = pfns & -HPAGE_PMD_NR == head
    where, pfns = where[mine], pfns[mine]
    if vma.vm_flags & VM_LOCKED and len(pfns):
        locked.append((mm, vma, pfns))
    elif mm.sys.version.split_frees_zeros:
        where = where[~_give_up_zeros(mm, vma, slot, where, pfns, address)]
    where = where[entries[where] & np.uint64(_PAGE_DIRTY) != 0]
    if not len(where):
        return 0
    old = entries[where]
    new = old | np.uint64(_PAGE_SOFT_DIRTY)
    if (new != old).any():
        at = (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
        lane = SetLane(arena, where + slot, old, new)
        mm.sys.journal.bulk(Bulk("remove_migration_pte", len(where), (lane,), addresses=at))
    return PG_DIRTY


def _give_up_zeros(
    mm: Mm, vma: Vma, slot: int, where: NDArray[np.int64], pfns: NDArray[np.int64], address: int
) -> NDArray[np.bool_]:
    """Let the entries of zero-filled pages map the zero page (`try_to_map_unused_to_zeropage`); tells which."""
    frames, arena = mm.sys.frames, mm.sys.arena
    zeros: NDArray[np.bool_] = frames.content.array[pfns] == 0
    at, gone = where[zeros], pfns[zeros]
    if len(at):
        old = arena.entries[slot + at]
        new = np.uint64((ZERO_PFN << 12) | vma.page_prot | _PAGE_SPECIAL) | (
            old & np.uint64(_PAGE_SOFT_DIRTY)
        )
        lanes: list[Lane] = [
            SetLane(arena, slot + at, old, new),
            AddLane(frames.mapcount, gone, -1),
            CountLane(mm.counters, "anon", -1),
        ]
        addresses = (at.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
        mm.sys.journal.bulk(Bulk("try_to_map_unused_to_zeropage", len(at), tuple(lanes), addresses=addresses))
    return zeros
