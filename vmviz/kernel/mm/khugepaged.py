"""Collapsing small pages into a huge one (models mm/khugepaged.c), as MADV_COLLAPSE asks for it.

Simplified: khugepaged itself never runs, and files and shmem are not collapsed.
"""

from __future__ import annotations

import numpy as np

from ..arch.x86 import _PAGE_PRESENT, _PAGE_PROTNONE, _PAGE_RW, is_swap_pte
from ..errors import KernelError
from ..trace.bulk import Bulk, Lane, SetLane
from .huge_memory import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_SIZE,
    alloc_huge_page,
    hugepage_vma_check,
    map_huge_page,
)
from .memory.fault import contents_of
from .memory.normal_page import ANON_PAGE, RAW, kinds_of, pfns_of
from .memory.swap import do_swap_page
from .memory.zap import zap_page_range_single
from .mm_types import Mm
from .page_alloc import OutOfMemory
from .page_flags import HPAGE_PMD_NR, PG_LRU, PG_SWAPCACHE
from .vma import Vma

SCAN_SUCCEED, SCAN_ALLOC_HUGE_PAGE_FAIL, SCAN_PAGE_COUNT, SCAN_FAIL = "", "ENOMEM", "EAGAIN", "EINVAL"
"""What became of one range, by the errno that madvise makes of it (`madvise_collapse_errno`)."""


def madvise_collapse(mm: Mm, vma: Vma, start: int, end: int, _advice: int) -> None:
    """Make the aligned 2 MiB ranges inside ``[start, end)`` (bytes) huge (MADV_COLLAPSE; mm/khugepaged.c).

    The policy does not matter.  EINVAL: the VMA may not have huge pages or has no anonymous page yet, no
    aligned range lies inside, or one has nothing to collapse (no table, no writable entry); EAGAIN: a page is
    held by others; ENOMEM: no block of order 9.
    """
    if not hugepage_vma_check(mm, vma, enforce_sysfs=False):
        raise KernelError("EINVAL", "madvise", "the mapping may not have huge pages, or has no page yet")
    low, high = (start + HPAGE_PMD_SIZE - 1) & HPAGE_PMD_MASK, end & HPAGE_PMD_MASK
    if high < low:
        raise KernelError("EINVAL", "madvise", "the range holds no aligned 2 MiB")
    last, haddr = SCAN_SUCCEED, low
    while haddr < high:
        result = hpage_collapse_scan_pmd(mm, vma, haddr)
        last = result or last
        if result == SCAN_ALLOC_HUGE_PAGE_FAIL:
            break
        haddr += HPAGE_PMD_SIZE
        if result == SCAN_FAIL:  # where there is no table either, the outcome is the same
            haddr = mm.sys.arena.next_parent(mm.pgd, haddr, high)
    if last:
        raise KernelError(last, "madvise", "a part of the range cannot be made huge")


def hpage_collapse_scan_pmd(mm: Mm, vma: Vma, haddr: int) -> str:
    """Look at one aligned range and collapse it if it can be (mm/khugepaged.c); returns an errno or ""."""
    arena = mm.sys.arena
    if arena.huge_slot(mm.pgd, haddr) >= 0:
        return SCAN_SUCCEED
    slot = arena.lookup(mm.pgd, haddr)
    if slot < 0:
        return SCAN_FAIL
    entries = arena.entries[slot : slot + HPAGE_PMD_NR]
    there = entries & np.uint64(_PAGE_PRESENT) != 0
    if (entries & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE) == np.uint64(_PAGE_PROTNONE)).any():
        return SCAN_FAIL
    writable = bool((entries[there] & np.uint64(_PAGE_RW)).any())
    result = _pages_suitable(mm, slot)
    if result:
        return result
    return collapse_huge_page(mm, vma, haddr, slot) if writable else SCAN_FAIL


def _pages_suitable(mm: Mm, slot: int) -> str:
    """Whether all pages are anonymous, on a list, and held by nobody but entries (`is_refcount_suitable`)."""
    frames = mm.sys.frames
    entries = mm.sys.arena.entries[slot : slot + HPAGE_PMD_NR]
    values = entries[entries & np.uint64(_PAGE_PRESENT) != 0]
    kinds = kinds_of(mm, values)
    if ((kinds != ANON_PAGE) & (kinds != RAW)).any():
        return SCAN_FAIL
    for pfn in np.unique(frames.heads(pfns_of(values[kinds == ANON_PAGE]))).tolist():
        flags = frames.flags.flat[pfn]
        compound = frames.compound_mapcount.get(pfn) is not None
        mapped = frames.total_mapcount(pfn) if compound else frames.mapcount.flat[pfn]
        if not flags & PG_LRU or frames.refcount.flat[pfn] != mapped + bool(flags & PG_SWAPCACHE):
            return SCAN_PAGE_COUNT
    return SCAN_SUCCEED


def collapse_huge_page(mm: Mm, vma: Vma, haddr: int, slot: int) -> str:
    """Copy what a page table maps into one huge page, and map that instead (mm/khugepaged.c).

    What is in swap is read first; empty entries and the zero page become zeros.  The table is kept for the
    huge leaf.
    """
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    j.enter("collapse_huge_page", ("address", haddr))
    try:
        for i in range(HPAGE_PMD_NR):
            if is_swap_pte(arena.flat[slot + i]):
                do_swap_page(mm, vma, haddr + (i << 12), slot + i, 1, False)
        head = alloc_huge_page(mm, vma, haddr)
    except OutOfMemory:
        j.leave("collapse_huge_page", "ENOMEM")
        return SCAN_ALLOC_HUGE_PAGE_FAIL
    entries = arena.entries[slot : slot + HPAGE_PMD_NR]
    where = np.flatnonzero(kinds_of(mm, entries) == ANON_PAGE)
    contents = np.zeros(HPAGE_PMD_NR, np.int32)
    contents[where] = contents_of(frames, pfns_of(entries[where]))
    if contents.any():
        lanes: tuple[Lane, ...] = (SetLane(frames.content, slice(head, head + HPAGE_PMD_NR), 0, contents),)
        j.bulk(Bulk("__collapse_huge_page_copy", HPAGE_PMD_NR, lanes, address=haddr))
    zap_page_range_single(mm, vma, haddr, HPAGE_PMD_SIZE)
    row = slot >> arena.bits
    pmd = arena.walk(mm.pgd, haddr)[-2]
    j.write(arena.huge, pmd, row)
    map_huge_page(mm, vma, pmd, head)
    j.leave("collapse_huge_page", 0)
    return SCAN_SUCCEED
