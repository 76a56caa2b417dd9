"""What mlock does to pages (models the page side of mm/mlock.c): PG_mlocked, the unevictable list, and how
many locked VMAs hold a page.

A page that is mapped by a VM_LOCKED mapping is taken off the lists of what may be reclaimed.  Only pages on a
list (PG_lru) are counted: a driver's own page is marked by the first lock and unmarked by the first unlock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arch.x86 import _PAGE_PRESENT, _PAGE_PROTNONE, _PAGE_SPECIAL, pmd_pfn
from ..trace.bulk import Bulk, SetLane
from .flags import VM_LOCKED, VM_SPECIAL
from .memory.normal_page import pfns_of
from .page_flags import PG_ACTIVE, PG_ANON, PG_COMPOUND, PG_LRU, PG_MLOCKED, PG_UNEVICTABLE

if TYPE_CHECKING:
    from .mm_types import Mm, System
    from .vma import Vma


def locks_pages(vma: Vma) -> bool:
    """Whether pages mapped by the VMA are locked: VM_LOCKED, and not special (`mlock_vma_folio`)."""
    return vma.vm_flags & (VM_LOCKED | VM_SPECIAL) == VM_LOCKED


def locked(flags: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Page flags and lock counts after one more locked VMA holds the pages (`mlock_page`)."""
    lru = flags & PG_LRU != 0
    new = flags | np.where(lru, PG_MLOCKED | PG_UNEVICTABLE, PG_MLOCKED).astype(flags.dtype)
    moved = lru & (flags & PG_UNEVICTABLE == 0)
    new = np.where(moved, new & ~np.uint32(PG_ACTIVE), new).astype(flags.dtype)
    return new, np.where(lru, counts + 1, counts)


def munlocked(
    system: System, pfns: NDArray[np.int64], flags: NDArray[Any], counts: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Page flags and lock counts after one locked VMA fewer holds the pages (`munlock_page`).

    A page that is unevictable for another reason (ramfs) stays so.
    """
    counted = flags & (PG_LRU | PG_UNEVICTABLE) == PG_LRU | PG_UNEVICTABLE
    left = np.where(counted, np.maximum(counts - 1, 0), counts)
    keep = counted & (left > 0)
    free = counted & ~keep & ~_mapping_unevictable(system, pfns, flags)
    new = np.where(keep, flags, flags & ~np.uint32(PG_MLOCKED))
    return np.where(free, new & ~np.uint32(PG_UNEVICTABLE), new).astype(flags.dtype), left


def _mapping_unevictable(system: System, pfns: NDArray[np.int64], flags: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pages belong to a file whose pages are never reclaimed (`mapping_unevictable`): ramfs."""
    out = np.zeros(len(pfns), bool)
    ramfs = [i.id for i in system.inodes.data.values() if i.kind == "ramfs"]
    if ramfs:
        out |= (flags & PG_ANON == 0) & np.isin(system.frames.mapping.array[pfns], ramfs)
    return out


def mlock_vma_pages(mm: Mm, vma: Vma, pfns: NDArray[np.int64] | list[int]) -> None:
    """Pages begin to be mapped by a VMA: a locked one locks them (`mlock_vma_page`, `mlock_new_page`).

    Parts of a compound page are left alone: only a huge leaf locks it (`mlock_huge_page`).
    """
    if locks_pages(vma):
        _write(mm.sys, _small(mm.sys, np.asarray(pfns, np.int64)), True, "mlock_vma_page")


def munlock_vma_pages(mm: Mm, vma: Vma, pfns: NDArray[np.int64] | list[int]) -> None:
    """Mappings of pages by a VMA go: a locked one unlocks them (`munlock_vma_page`)."""
    if locks_pages(vma):
        _write(mm.sys, _small(mm.sys, np.asarray(pfns, np.int64)), False, "munlock_vma_page")


def _small(system: System, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
    frames = system.frames
    if not frames.compound_mapcount.data:
        return pfns
    small: NDArray[np.int64] = pfns[frames.flags.array[pfns] & PG_COMPOUND == 0]
    return small


def mlock_huge_page(mm: Mm, vma: Vma, head: int) -> None:
    """A huge leaf of a locked VMA locks the whole compound page (`mlock_vma_page`, compound)."""
    if locks_pages(vma):
        _write(mm.sys, np.array([head], np.int64), True, "mlock_vma_page")


def munlock_huge_page(mm: Mm, vma: Vma, head: int) -> None:
    """A huge leaf of a locked VMA goes, or is split (`munlock_vma_page`, compound)."""
    if locks_pages(vma):
        _write(mm.sys, np.array([head], np.int64), False, "munlock_vma_page")


def munlock_before_zap(mm: Mm, vma: Vma, start: int, end: int, even_cows: bool = True) -> None:
    """`munlock_vma_pages` for all that a range of a VMA maps; without ``even_cows`` for pages of files only.

    The kernel unlocks each page as its entry goes (page_remove_rmap); here it is a step before.
    """
    if locks_pages(vma):
        _walk(mm, start, end, False, even_cows, huge=False)


def mlock_vma_pages_range(mm: Mm, vma: Vma, start: int, end: int, lock: bool) -> None:
    """Lock or unlock the pages that a range of a VMA maps now (mm/mlock.c), one record per page table."""
    j = mm.sys.journal
    j.enter("mlock_vma_pages_range", ("start", start), ("end", end), ("vma", vma.start))
    _walk(mm, start, end, lock)
    j.leave("mlock_vma_pages_range")


def _walk(mm: Mm, start: int, end: int, lock: bool, even_cows: bool = True, *, huge: bool = True) -> None:
    arena, frames = mm.sys.arena, mm.sys.frames
    for slot, haddr in arena.huge_leaves(mm.pgd, start, end) if huge else ():
        head = pmd_pfn(arena.flat[slot])
        if head != mm.sys.thp.get("huge_zero_pfn"):
            _write(mm.sys, np.array([head]), lock, "mlock_pte_range", np.array([haddr], np.uint64))
    for slot, n, address in arena.segments(mm.pgd, start & -4096, end):
        entries = arena.entries[slot : slot + n]
        present = (entries & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE)) != 0
        where = np.flatnonzero(present & ((entries & np.uint64(_PAGE_SPECIAL)) == 0))
        pfns = pfns_of(entries[where])
        known = pfns < frames.nr_frames
        if frames.compound_mapcount.data:
            known[known] = frames.flags.array[pfns[known]] & PG_COMPOUND == 0
        if not even_cows:
            known[known] = frames.flags.array[pfns[known]] & PG_ANON == 0
        if known.any():
            addresses = (where[known].astype(np.uint64) << np.uint64(12)) + np.uint64(address)
            _write(mm.sys, pfns[known], lock, "mlock_pte_range", addresses)


def _write(
    system: System, pfns: NDArray[np.int64], lock: bool, func: str, at: NDArray[np.uint64] | None = None
) -> None:
    frames = system.frames
    if not len(pfns):
        return
    flags, counts = frames.flags.array[pfns], frames.mlock_count.array[pfns]
    new, left = locked(flags, counts) if lock else munlocked(system, pfns, flags, counts)
    lanes = (SetLane(frames.flags, pfns, flags, new), SetLane(frames.mlock_count, pfns, counts, left))
    if (flags != new).any() or (counts != left).any():
        addresses = pfns.astype(np.uint64) << np.uint64(12) if at is None else at
        system.journal.bulk(Bulk(func, len(pfns), lanes, address=int(addresses[0]), addresses=addresses))
