"""The numbers of /proc/PID/pagemap, /proc/kpageflags and /proc/kpagecount (models fs/proc/task_mmu.c and
fs/proc/page.c), and what writing to /proc/PID/clear_refs does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arch.tlb import TlbFlush
from ..arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SPECIAL,
    _PAGE_SWP_SOFT_DIRTY,
    is_swap_pte,
    pmd_pfn,
    pte_pfn,
    swp_offset,
    swp_type,
)
from ..errors import KernelError
from ..mm.flags import VM_HUGETLB, VM_PFNMAP, VM_SOFTDIRTY
from ..mm.memory.normal_page import OTHER_ENTRY, RAW, kinds_of, pfns_of
from ..mm.mm_types import Mm, System
from ..mm.mmap import vma_page_prot
from ..mm.mmu_gather import flush_tlb
from ..mm.page_alloc import FREE
from ..mm.page_flags import (
    PG_ACTIVE,
    PG_ANON,
    PG_COMPOUND,
    PG_DIRTY,
    PG_HEAD,
    PG_HUGETLB,
    PG_LRU,
    PG_MLOCKED,
    PG_PGTABLE,
    PG_REFERENCED,
    PG_RESERVED,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
    PG_UPTODATE,
    PG_ZERO,
)
from ..mm.vma import Vma
from ..trace.bulk import Bulk, SetLane

PM_SOFT_DIRTY, PM_MMAP_EXCLUSIVE, PM_FILE, PM_SWAP, PM_PRESENT = (1 << bit for bit in (55, 56, 61, 62, 63))

KPF_MMAP, KPF_ANON, KPF_BUDDY, KPF_NOPAGE = 1 << 11, 1 << 12, 1 << 10, 1 << 20
KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_HUGE, KPF_THP = 1 << 15, 1 << 16, 1 << 17, 1 << 22
_KPF = {
    PG_REFERENCED: 1 << 2,
    PG_UPTODATE: 1 << 3,
    PG_DIRTY: 1 << 4,
    PG_LRU: 1 << 5,
    PG_ACTIVE: 1 << 6,
    PG_ANON: KPF_ANON,
    PG_SWAPCACHE: 1 << 13,
    PG_SWAPBACKED: 1 << 14,
    PG_UNEVICTABLE: 1 << 18,
    PG_ZERO: 1 << 24,
    PG_PGTABLE: 1 << 26,
    PG_RESERVED: 1 << 32,
    PG_MLOCKED: 1 << 33,
}

CLEAR_REFS_ALL, CLEAR_REFS_ANON, CLEAR_REFS_MAPPED, CLEAR_REFS_SOFT_DIRTY, CLEAR_REFS_MM_HIWATER_RSS = range(
    1, 6
)


def pagemap_entry(mm: Mm, address: int) -> int:
    """The 64-bit word of /proc/PID/pagemap for the page of ``address`` (bytes; `pagemap_pte_range`), as root
    reads it.

    A VM_PFNMAP mapping reads as a hole, filled or not; a hole tells only its VMA's soft-dirty bit.

    >>> from vmviz.kernel import Machine
    >>> m = Machine(ram=16 << 20); at = m.mmap(0, 4096, "rw", "private"); _ = m.store(at)
    >>> hex(pagemap_entry(m.mm, at) >> 55)
    '0x103'
    """
    vma = mm.vma_at(address)
    if vma is None:
        return 0
    word = PM_SOFT_DIRTY if vma.vm_flags & VM_SOFTDIRTY else 0
    entry, huge = mm.sys.arena.entry_at(mm.pgd, address), mm.sys.arena.huge_slot(mm.pgd, address) >= 0
    if vma.vm_flags & VM_PFNMAP or not entry:
        return word
    if is_swap_pte(entry):
        soft = PM_SOFT_DIRTY if entry & _PAGE_SWP_SOFT_DIRTY else 0
        return word | soft | PM_SWAP | swp_type(entry) | swp_offset(entry) << 5
    pfn, frames = pte_pfn(entry), mm.sys.frames
    soft = entry & _PAGE_SOFT_DIRTY and not vma.vm_flags & VM_HUGETLB  # pagemap_hugetlb_range does not look
    word |= PM_PRESENT | pfn | (PM_SOFT_DIRTY if soft else 0)
    if entry & _PAGE_SPECIAL or not frames.pfn_valid(pfn):
        return word
    if huge:  # the leaf speaks for its head (`pagemap_pmd_range`)
        pfn = frames.head_of(pfn)
    if not frames.flags.flat[pfn] & PG_ANON:
        word |= PM_FILE
    return word | (PM_MMAP_EXCLUSIVE if frames.page_mapcount(pfn) == 1 else 0)


def kpagecount(system: System, pfn: int) -> int:
    """How often a frame is mapped, raw mappings aside (`kpagecount_read`); 0 without a struct page."""
    return system.frames.page_mapcount(pfn) if system.frames.pfn_valid(pfn) else 0


def kpageflags(system: System, pfn: int) -> int:
    """The 64-bit word of /proc/kpageflags for a frame (`stable_page_flags`).

    Not simulated: LOCKED, ERROR, WRITEBACK, RECLAIM, SLAB, IDLE, which nothing here keeps between two calls.
    """
    frames = system.frames
    if not frames.pfn_valid(pfn):
        return KPF_NOPAGE
    flags = frames.flags.flat[pfn]
    word = sum(kpf for bit, kpf in _KPF.items() if flags & bit)
    if frames.page_mapcount(pfn):
        word |= KPF_MMAP
    if flags & PG_COMPOUND:
        word |= KPF_COMPOUND_HEAD if flags & PG_HEAD else KPF_COMPOUND_TAIL
        word |= KPF_HUGE if flags & PG_HUGETLB else KPF_THP
        word |= frames.flags.flat[frames.head_of(pfn)] & PG_ANON and KPF_ANON
    if frames.states.flat[pfn] == FREE:
        word |= KPF_BUDDY
    return word


def clear_refs(mm: Mm, kind: int) -> None:
    """What writing ``kind`` to /proc/PID/clear_refs does (`clear_refs_write`); EINVAL for no known kind.

    1, 2 and 3 make the pages of all, anonymous or file mappings old, without a flush: the processor may
    still hold the entry and not mark it again.  4 clears the soft-dirty bits and write-protects, so that the
    next write is noticed.  5 forgets the highest rss.  VM_PFNMAP mappings are left out.
    """
    if not CLEAR_REFS_ALL <= kind <= CLEAR_REFS_MM_HIWATER_RSS:
        raise KernelError("EINVAL", "clear_refs", f"there is no kind {kind}")
    j = mm.sys.journal
    j.enter("clear_refs_write", ("type", kind))
    if kind == CLEAR_REFS_MM_HIWATER_RSS:
        j.write(mm.counters, "hiwater_rss", mm.rss)
        j.leave("clear_refs_write", 0)
        return
    for vma in list(mm.vmas):
        now = _clear_vma(mm, vma) if kind == CLEAR_REFS_SOFT_DIRTY else vma
        skip = kind in (CLEAR_REFS_ANON, CLEAR_REFS_MAPPED) and bool(vma.file) == (kind == CLEAR_REFS_ANON)
        if now.vm_flags & VM_PFNMAP or skip:
            continue
        if now.vm_flags & VM_HUGETLB:
            continue
        for slot, _ in mm.sys.arena.huge_leaves(mm.pgd, now.start, now.end):
            _clear_huge_pmd(mm, slot, kind)
        for slot, n, address in mm.sys.arena.segments(mm.pgd, now.start, now.end):
            _clear_pte_range(mm, slot, n, address, kind)
    if kind == CLEAR_REFS_SOFT_DIRTY:
        flush_tlb(mm, TlbFlush("full", 0, mm.task_size, mm.task_size >> 12))
    j.leave("clear_refs_write", 0)


def _clear_vma(mm: Mm, vma: Vma) -> Vma:
    if not vma.vm_flags & VM_SOFTDIRTY:
        return vma
    flags = vma.vm_flags & ~VM_SOFTDIRTY
    new = vma.replace(vm_flags=flags, page_prot=vma_page_prot(mm, vma, flags))
    mm.set_vma(vma, new)
    return new


def _clear_huge_pmd(mm: Mm, slot: int, kind: int) -> None:
    """A huge leaf (`clear_refs_pte_range`)."""
    arena, frames, j = mm.sys.arena, mm.sys.frames, mm.sys.journal
    old = arena.flat[slot]
    soft = kind == CLEAR_REFS_SOFT_DIRTY
    new = old & ~((_PAGE_RW | _PAGE_SOFT_DIRTY) if soft else _PAGE_ACCESSED)
    if new != old:
        j.write(arena, slot, new)
    head = pmd_pfn(old)
    if not soft and frames.flags.flat[head] & PG_REFERENCED:
        j.write(frames.flags, head, frames.flags.flat[head] & ~PG_REFERENCED)


def _clear_pte_range(mm: Mm, slot: int, n: int, address: int, kind: int) -> None:
    """The entries of one page table (`clear_refs_pte_range`)."""
    arena, frames = mm.sys.arena, mm.sys.frames
    entries = arena.entries[slot : slot + n]
    where = np.flatnonzero(entries)
    old = entries[where]
    present = old & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE) != 0
    lanes: list[Any] = []
    if kind == CLEAR_REFS_SOFT_DIRTY:
        cleared = old & ~np.uint64(_PAGE_RW | _PAGE_SOFT_DIRTY)
        new = np.where(present, cleared, old & ~np.uint64(_PAGE_SWP_SOFT_DIRTY))
    else:
        kinds = kinds_of(mm, old)
        normal = (kinds != RAW) & (kinds != OTHER_ENTRY)
        where, old = where[normal], old[normal]
        new = old & ~np.uint64(_PAGE_ACCESSED)
        pfns = pfns_of(old)
        flags = frames.flags.array[pfns]
        lanes.append(SetLane(frames.flags, pfns, flags, flags & ~np.uint32(PG_REFERENCED)))
    if not len(where):
        return
    lanes.append(SetLane(arena, where + slot, old, new))
    addresses = (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
    mm.sys.journal.bulk(Bulk("clear_refs_pte_range", len(where), tuple(lanes), addresses=addresses))


__all__ = ["clear_refs", "kpagecount", "kpageflags", "pagemap_entry"]
