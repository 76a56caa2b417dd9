"""Advice about pages, not flags (models the part of mm/madvise.c that walks page tables).

Neighbouring entries with the same outcome are one record per page table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_SPECIAL,
    is_swap_pte,
    pmd_pfn,
    pte_pfn,
    swp_offset,
    swp_type,
)
from ..errors import KernelError
from ..trace.bulk import Bulk, Lane, SetLane
from .flags import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_REMOVE,
    MADV_WILLNEED,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from .gup import faultin_page_range
from .huge_memory import HPAGE_PMD_SIZE, is_huge_zero_pmd
from .huge_split import split_huge_page
from .hugetlb_pool import HPAGE_MASK
from .khugepaged import madvise_collapse
from .madvise_flags import madvise_willneed
from .memory.normal_page import ANON_PAGE, OTHER_ENTRY, RAW, kinds_of, pfns_of
from .memory.swap import read_swap_cache_async
from .memory.zap import zap_page_range_single
from .mm_types import Mm
from .mmu_gather import MmuGather
from .page_alloc import OutOfMemory
from .page_flags import (
    PG_ACTIVE,
    PG_ANON,
    PG_COMPOUND,
    PG_DIRTY,
    PG_LRU,
    PG_REFERENCED,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
)
from .shmem import punch_hole
from .swapfile import SWAP_TYPE, folio_free_swap, slots_dropped, user_lanes
from .vma import Vma
from .vmscan import reclaim_pages


def _refuse(why: str, errno: str = "EINVAL") -> KernelError:
    return KernelError(errno, "madvise", why)


def _not_for_zapping(vma: Vma, advice: int, start: int) -> None:
    """EINVAL where pages must not be taken away (`madvise_dontneed_free_valid_vma`)."""
    if vma.vm_flags & VM_HUGETLB:
        if advice == MADV_FREE or start & ~HPAGE_MASK:
            raise _refuse("of huge pages only whole ones are taken away, and by MADV_DONTNEED")
        return
    if vma.vm_flags & VM_PFNMAP:
        raise _refuse("the mapping holds raw frames (VM_PFNMAP), which only its driver takes away")
    if vma.vm_flags & VM_LOCKED and advice != MADV_DONTNEED_LOCKED:
        raise _refuse("the mapping is locked (VM_LOCKED)")


def madvise_dontneed(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> None:
    """Take the pages of ``[start, end)`` (bytes) away at once (`madvise_dontneed_single_vma`).

    Private pages are lost, others can be faulted in again.  EINVAL: VM_PFNMAP, or VM_LOCKED unless the advice
    is MADV_DONTNEED_LOCKED.
    """
    _not_for_zapping(vma, advice, start)
    if vma.vm_flags & VM_HUGETLB:
        end &= HPAGE_MASK
    if end > start:
        zap_page_range_single(mm, vma, start, end - start)


def madvise_free(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> None:
    """Let the kernel take the pages when it needs them (`madvise_free_single_vma`).

    Anonymous pages become clean, old and not swap-backed ("lazyfree"); a later write keeps them after all.
    What is in swap goes at once.  EINVAL: VM_PFNMAP, VM_LOCKED, or a mapping that is not anonymous.
    """
    _not_for_zapping(vma, advice, start)
    if not vma.is_anonymous:
        raise _refuse("MADV_FREE is for anonymous mappings")
    gather = MmuGather(mm)
    for slot, haddr in mm.sys.arena.huge_leaves(mm.pgd, start, end):
        madvise_free_huge_pmd(mm, slot, haddr, start, end, gather)
    for slot, n, va in list(mm.sys.arena.segments(mm.pgd, start, end)):
        _free_pte_range(mm, slot, _split_sole(mm, slot, n), va, gather)
    gather.finish()


def madvise_free_huge_pmd(mm: Mm, slot: int, haddr: int, start: int, end: int, gather: MmuGather) -> None:
    """MADV_FREE of a huge leaf (mm/huge_memory.c): lazyfree as a whole, or the page split if only a part is.

    A page that others map too is left alone.
    """
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    entry = arena.flat[slot]
    head = pmd_pfn(entry)
    if is_huge_zero_pmd(mm.sys, entry) or frames.total_mapcount(head) != 1:
        return
    if haddr < start or haddr + HPAGE_PMD_SIZE > end:
        split_huge_page(mm.sys, head)
        return
    j.enter("madvise_free_huge_pmd", ("address", haddr))
    if entry & (_PAGE_ACCESSED | _PAGE_DIRTY):
        j.write(arena, slot, entry & ~(_PAGE_ACCESSED | _PAGE_DIRTY))
        gather.note(haddr, haddr + HPAGE_PMD_SIZE)
    j.write(frames.flags, head, int(_lazyfree(frames.flags.array[head : head + 1])[0]))
    j.leave("madvise_free_huge_pmd", 1)


def _lazyfree(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Page flags of clean pages after `mark_page_lazyfree`: those on a list are no longer swap-backed."""
    lazy = (flags & (PG_LRU | PG_ANON | PG_SWAPBACKED) == PG_LRU | PG_ANON | PG_SWAPBACKED) & (
        flags & (PG_SWAPCACHE | PG_UNEVICTABLE) == 0
    )
    off = np.where(lazy, PG_SWAPBACKED | PG_REFERENCED | PG_ACTIVE, 0) | PG_DIRTY
    return flags & ~off.astype(np.uint32)


def _split_sole(mm: Mm, slot: int, n: int) -> int:
    """Split the compound pages behind small entries that nobody else maps; returns how many entries from
    ``slot`` on come before one that is shared: where MADV_COLD and its like stop.
    """
    frames, arena = mm.sys.frames, mm.sys.arena
    if not frames.compound_mapcount.data:
        return n
    for i in range(n):
        entry = arena.flat[slot + i]
        if not entry & (_PAGE_PRESENT | _PAGE_PROTNONE) or entry & _PAGE_SPECIAL:
            continue
        pfn = pte_pfn(entry)
        if frames.pfn_valid(pfn) and frames.flags.flat[pfn] & PG_COMPOUND:
            if frames.page_mapcount(pfn) != 1:
                return i
            split_huge_page(mm.sys, frames.head_of(pfn))
    return n


def _free_pte_range(mm: Mm, slot: int, n: int, address: int, gather: MmuGather) -> None:
    """The entries of one page table (`madvise_free_pte_range`)."""
    arena, frames, j = mm.sys.arena, mm.sys.frames, mm.sys.journal
    entries = arena.entries[slot : slot + n]
    where = np.flatnonzero(entries)
    if not len(where):
        return
    kinds = kinds_of(mm, entries[where])
    swapped = where[(kinds == OTHER_ENTRY) & (entries[where] >> np.uint64(59) < 23)]
    if len(swapped):
        old = entries[swapped]
        lanes = [SetLane(arena, swapped + slot, old, 0), *user_lanes(mm.sys, mm.counters, old, -1)]
        j.bulk(Bulk("free_swap_and_cache", len(swapped), tuple(lanes), addresses=_at(swapped, address)))
        slots_dropped(mm.sys, mm.sys.swap.offsets_of(old))
    where = where[kinds == ANON_PAGE]
    pfns = pfns_of(entries[where])
    keep = np.ones(len(where), bool)
    for i in np.flatnonzero(frames.flags.array[pfns] & (PG_SWAPCACHE | PG_DIRTY)).tolist():
        pfn = int(pfns[i])
        shared = frames.mapcount.flat[pfn] != 1
        stuck = frames.flags.flat[pfn] & PG_SWAPCACHE and not shared and not folio_free_swap(mm.sys, pfn)
        keep[i] = not shared and not stuck
    where, pfns = where[keep], pfns[keep]
    if not len(where):
        return
    flags = frames.flags.array[pfns]
    old = entries[where]
    new = old & ~np.uint64(_PAGE_ACCESSED | _PAGE_DIRTY)
    lanes_free: tuple[Lane, ...] = (
        SetLane(arena, where + slot, old, new),
        SetLane(frames.flags, pfns, flags, _lazyfree(flags)),
    )
    j.bulk(Bulk("madvise_free_pte_range", len(where), lanes_free, addresses=_at(where, address)))
    changed = where[new != old]
    if len(changed):
        gather.note(address + (int(changed[0]) << 12), address + ((int(changed[-1]) + 1) << 12))


def _at(where: NDArray[np.int64], address: int) -> NDArray[np.uint64]:
    return (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)


def madvise_remove(mm: Mm, vma: Vma, start: int, end: int, _advice: int) -> None:
    """Punch a hole into the file behind ``[start, end)`` (bytes; mm/madvise.c), in all its mappings.

    EINVAL: VM_LOCKED, or no file.  EACCES: not a shared mapping that may be written.  Then what fallocate
    says: ENODEV for a device, EOPNOTSUPP for a file system without holes, EPERM for a sealed file.
    """
    if vma.vm_flags & VM_LOCKED:
        raise _refuse("the mapping is locked (VM_LOCKED)")
    if not vma.file:
        raise _refuse("the mapping has no file to punch a hole into")
    if vma.vm_flags & (VM_SHARED | VM_MAYWRITE) != VM_SHARED | VM_MAYWRITE:
        raise _refuse("the mapping is not shared, or its file not open for writing", "EACCES")
    offset = (start - vma.start) + (vma.pgoff << 12)
    punch_hole(mm.sys, mm.sys.files.get(vma.file), offset, end - start, "madvise")


def madvise_populate(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> None:
    """Fault ``[start, end)`` (bytes) in for reading or for writing (mm/madvise.c).

    EINVAL: VM_IO, VM_PFNMAP, or the right is missing; EFAULT: a page cannot be served (SIGBUS, SIGSEGV);
    ENOMEM: no frame is left.
    """
    write = advice == MADV_POPULATE_WRITE
    if vma.vm_flags & (VM_IO | VM_PFNMAP):
        raise _refuse("the pages of a device mapping cannot be had (VM_IO, VM_PFNMAP)")
    if not vma.vm_flags & (VM_WRITE if write else VM_READ):
        raise _refuse(f"the mapping is {vma.perms}")
    error = faultin_page_range(mm, start, end, write)
    if error:
        raise _refuse("a page of the range could not be faulted in", error)


def madvise_cold_or_pageout(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> None:
    """Make pages old, and for MADV_PAGEOUT reclaim them now (`madvise_cold`, `madvise_pageout`).

    Only pages on the LRU that nobody else maps are meant.  EINVAL: VM_LOCKED, VM_PFNMAP, hugetlb.
    """
    if vma.vm_flags & (VM_LOCKED | VM_PFNMAP | VM_HUGETLB):
        raise _refuse("the mapping is locked, or its pages are not on the LRU lists")
    gather = MmuGather(mm)
    for slot, haddr in mm.sys.arena.huge_leaves(mm.pgd, start, end):
        _cold_huge_pmd(mm, slot, haddr, start, end, gather, pageout=advice == MADV_PAGEOUT)
    for slot, where, address in _evictable(mm, start, end):
        entries = mm.sys.arena.entries[slot + where]
        keep = advice == MADV_PAGEOUT and mm.sys.version.pageout_keeps_accessed
        _deactivate(mm, slot + where, entries, _at(where, address), gather, keep=keep)
        if advice == MADV_PAGEOUT:
            reclaim_pages(mm, slot, where, address, gather)
    gather.finish()


def _cold_huge_pmd(
    mm: Mm, slot: int, haddr: int, start: int, end: int, gather: MmuGather, pageout: bool
) -> None:
    """A huge leaf: made old as a whole; its page is split when only a part is meant or it is to be reclaimed.

    Simplified: Linux reclaims a huge page as one where swap has a free cluster, with the same result.
    """
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    entry = arena.flat[slot]
    head = pmd_pfn(entry)
    if is_huge_zero_pmd(mm.sys, entry) or frames.page_mapcount(head) != 1:
        return
    if haddr < start or haddr + HPAGE_PMD_SIZE > end:
        split_huge_page(mm.sys, head)
        return
    if entry & _PAGE_ACCESSED:
        j.write(arena, slot, entry & ~_PAGE_ACCESSED)
        gather.note(haddr, haddr + HPAGE_PMD_SIZE)
    flags = frames.flags.flat[head]
    if flags & (PG_REFERENCED | PG_ACTIVE):
        j.write(frames.flags, head, flags & ~(PG_REFERENCED | PG_ACTIVE))
    if pageout and not flags & PG_UNEVICTABLE:
        split_huge_page(mm.sys, head)


def _evictable(mm: Mm, start: int, end: int) -> Iterator[tuple[int, NDArray[np.int64], int]]:
    """For each page table, the entries whose pages may be aged: (slot, offsets, address)."""
    arena, frames = mm.sys.arena, mm.sys.frames
    for slot, n, address in list(arena.segments(mm.pgd, start, end)):
        entries = arena.entries[slot : slot + _split_sole(mm, slot, n)]
        where = np.flatnonzero(entries & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE))
        if not len(where):
            continue
        kinds = kinds_of(mm, entries[where])
        where = where[(kinds != RAW) & (kinds != OTHER_ENTRY)]
        pfns = pfns_of(entries[where])
        mine = (frames.flags.array[pfns] & PG_LRU != 0) & (frames.mapcount.array[pfns] == 1)
        if mine.any():
            yield slot, where[mine], address


def _deactivate(
    mm: Mm,
    slots: NDArray[np.int64],
    entries: NDArray[np.uint64],
    addresses: NDArray[np.uint64],
    gather: MmuGather,
    *,
    keep: bool,
) -> None:
    """Clear the accessed bits, unless ``keep``, and what the LRU remembers (`deactivate_page`)."""
    frames = mm.sys.frames
    pfns = pfns_of(entries)
    flags = frames.flags.array[pfns]
    new = entries if keep else entries & ~np.uint64(_PAGE_ACCESSED)
    lanes = (
        SetLane(mm.sys.arena, slots, entries, new),
        SetLane(frames.flags, pfns, flags, flags & ~np.uint32(PG_REFERENCED | PG_ACTIVE)),
    )
    mm.sys.journal.bulk(Bulk("deactivate_page", len(slots), lanes, addresses=addresses))
    young = addresses[new != entries]
    if len(young):
        gather.note(int(young[0]), int(young[-1]) + 4096)


def madvise_willneed_pages(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> None:
    """Read ahead what an anonymous mapping has in swap, into the swap cache (`swapin_walk_pmd_entry`).

    Nothing is mapped by it.  A file's missing pages are read into the page cache.
    """
    if vma.file:
        madvise_willneed(mm, vma, start, end, advice)
        return
    for slot, n, _ in mm.sys.arena.segments(mm.pgd, start, end):
        entries = mm.sys.arena.entries[slot : slot + n]
        for entry in entries[np.flatnonzero(entries)].tolist():
            if is_swap_pte(entry) and swp_type(entry) == SWAP_TYPE:
                try:
                    read_swap_cache_async(mm, swp_offset(entry))
                except OutOfMemory:
                    return


PAGE_ADVICE: dict[int, Callable[[Mm, Vma, int, int, int], None]] = {
    MADV_DONTNEED: madvise_dontneed,
    MADV_DONTNEED_LOCKED: madvise_dontneed,
    MADV_FREE: madvise_free,
    MADV_REMOVE: madvise_remove,
    MADV_WILLNEED: madvise_willneed_pages,
    MADV_POPULATE_READ: madvise_populate,
    MADV_POPULATE_WRITE: madvise_populate,
    MADV_COLD: madvise_cold_or_pageout,
    MADV_PAGEOUT: madvise_cold_or_pageout,
    MADV_COLLAPSE: madvise_collapse,
}
"""The advices that are about pages, by number, for each VMA of the range."""
