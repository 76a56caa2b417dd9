"""Transparent huge pages of anonymous memory (models mm/huge_memory.c): 2 MiB behind one entry of the PMD level.

A huge leaf keeps a page table in store from its first day (`TableArena.huge`), so that a split needs no
memory.  The page behind it is compound: references and most flags are the head's.  Not simulated: huge pages
of files and shmem, defragmentation (no free block of order 9 means small pages), khugepaged's own scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..arch.tlb import TlbFlush
from ..arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_PSE,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SPECIAL,
    _PAGE_TABLE,
    PTE_PFN_MASK,
    mk_pte,
    pfn_pmd,
    pmd_modify,
    pmd_pfn,
)
from ..errors import KernelError
from ..trace.bulk import Bulk, Lane, SetLane
from .flags import VM_HUGEPAGE, VM_HUGETLB, VM_LOCKED, VM_NOHUGEPAGE, VM_SPECIAL, VM_WRITE
from .frames import ZERO_PFN
from .mlock_pages import mlock_huge_page, munlock_huge_page
from .mmu_gather import MmuGather, flush_tlb
from .page_alloc import ANON, ZERO, OutOfMemory
from .page_flags import (
    HPAGE_PMD_NR,
    PG_ANON,
    PG_DIRTY,
    PG_EXCLUSIVE,
    PG_LRU,
    PG_SWAPBACKED,
    PG_UPTODATE,
    PG_ZERO,
)
from .rmap import anon_vma_prepare

if TYPE_CHECKING:
    from .mm_types import Mm, System
    from .vma import Vma

HPAGE_PMD_SIZE = HPAGE_PMD_NR << 12
HPAGE_PMD_MASK = -HPAGE_PMD_SIZE
POLICIES = ("always", "madvise", "never")
"""What /sys/kernel/mm/transparent_hugepage/enabled can say."""
FAULT_FALLBACK = 0x800
"""VM_FAULT_FALLBACK: no huge page this time, go on with small ones."""


def thp_policy(system: System) -> str:
    """Who gets huge pages: "always", "madvise" or "never" (the default here; transparent_hugepage_flags)."""
    return str(system.thp.get("enabled") or "never")


def set_thp_policy(system: System, policy: str) -> None:
    """Write /sys/kernel/mm/transparent_hugepage/enabled (`enabled_store`); EINVAL for another word."""
    if policy not in POLICIES:
        raise KernelError("EINVAL", "thp", f"{policy!r} is no policy; there are {', '.join(POLICIES)}")
    system.journal.write(system.thp, "enabled", policy)


def transhuge_vma_suitable(vma: Vma, haddr: int) -> bool:
    """Whether the aligned 2 MiB at ``haddr`` lie in the VMA (include/linux/huge_mm.h)."""
    haddr &= HPAGE_PMD_MASK
    return vma.start <= haddr and haddr + HPAGE_PMD_SIZE <= vma.end


def hugepage_vma_check(
    mm: Mm, vma: Vma, *, smaps: bool = False, in_pf: bool = False, enforce_sysfs: bool = True
) -> bool:
    """Whether a VMA may have transparent huge pages (mm/huge_memory.c).

    ``smaps``: as the line THPeligible asks; ``in_pf``: as a fault asks, which checks the size itself;
    without ``enforce_sysfs`` the policy does not matter (MADV_COLLAPSE).  Memory files and files of disks are
    never eligible (shmem_enabled is never, CONFIG_READ_ONLY_THP_FOR_FS is off).

    >>> from vmviz.kernel import Machine
    >>> m = Machine(ram=16 << 20); vma = m.vma(m.mmap(0, 8 << 20, "rw", "private"))
    >>> hugepage_vma_check(m.mm, vma, smaps=True), m.thp("always"), hugepage_vma_check(m.mm, vma, smaps=True)
    (False, 0, True)
    """
    flags = vma.vm_flags
    if flags & (VM_NOHUGEPAGE | VM_SPECIAL | VM_HUGETLB) or not vma.is_anonymous:
        return False
    if not in_pf and not transhuge_vma_suitable(vma, vma.end - HPAGE_PMD_SIZE):
        return False
    policy = thp_policy(mm.sys)
    if enforce_sysfs and policy != "always" and not (policy == "madvise" and flags & VM_HUGEPAGE):
        return False
    return smaps or in_pf or bool(vma.anon_vma)


def is_huge_zero_pmd(system: System, entry: int) -> bool:
    """Whether a huge leaf maps the shared huge page of zeros."""
    return bool(pmd_pfn(entry) == system.thp.get("huge_zero_pfn"))


def do_huge_pmd_anonymous_page(mm: Mm, vma: Vma, address: int, slot: int, write: bool) -> int:
    """A first touch that gets a huge page (mm/huge_memory.c): zeroed memory, or the huge zero page for a read.

    ``slot`` is that of the empty PMD.  `FAULT_FALLBACK`: the aligned range leaves the VMA, or no block of
    order 9 is free.  Raises `OutOfMemory` when there is no frame for the table to keep.
    """
    haddr, j = address & HPAGE_PMD_MASK, mm.sys.journal
    if not transhuge_vma_suitable(vma, haddr):
        return FAULT_FALLBACK
    j.enter("do_huge_pmd_anonymous_page", ("address", address), ("write", write))
    try:
        ret = _huge_fault(mm, anon_vma_prepare(mm, vma), haddr, slot, write)
    except OutOfMemory:
        j.leave("do_huge_pmd_anonymous_page", "VM_FAULT_OOM")
        raise
    j.leave("do_huge_pmd_anonymous_page", "VM_FAULT_FALLBACK" if ret else 0)
    return ret


def _huge_fault(mm: Mm, vma: Vma, haddr: int, slot: int, write: bool) -> int:
    try:
        head = alloc_huge_page(mm, vma, haddr) if write else huge_zero_page(mm.sys)
    except OutOfMemory:
        return FAULT_FALLBACK
    try:
        row = deposit(mm, slot)
    except OutOfMemory:
        if write:
            mm.sys.frames.put_page(head)
        raise
    if write:
        map_huge_page(mm, vma, slot, head)
    else:
        mm.sys.journal.write(mm.sys.arena, slot, pfn_pmd(head, vma.page_prot | _PAGE_PSE))
    assert mm.sys.arena.huge.get(slot) == row
    return 0


def alloc_huge_page(mm: Mm, vma: Vma, haddr: int) -> int:
    """A zeroed compound page for an anonymous VMA (`vma_alloc_folio`); returns the head's pfn."""
    flags = PG_ANON | PG_EXCLUSIVE | PG_LRU | PG_SWAPBACKED | PG_UPTODATE
    index = vma.pgoff + ((haddr - vma.start) >> 12)
    return mm.sys.frames.alloc_compound(ANON, flags, PG_ANON, vma.anon_vma, index)


def map_huge_page(mm: Mm, vma: Vma, slot: int, head: int) -> None:
    """Map a new huge page where nothing is mapped: writable if the VMA is, and dirty
    (``maybe_pmd_mkwrite(pmd_mkdirty(mk_huge_pmd))``).
    """
    j = mm.sys.journal
    prot = vma.page_prot | _PAGE_PSE | _PAGE_DIRTY | _PAGE_SOFT_DIRTY
    j.write(mm.sys.arena, slot, pfn_pmd(head, prot | (_PAGE_RW if vma.vm_flags & VM_WRITE else 0)))
    j.add(mm.counters, "anon", HPAGE_PMD_NR)
    j.write(mm.sys.frames.compound_mapcount, head, 1)
    mlock_huge_page(mm, vma, head)


def huge_zero_page(system: System) -> int:
    """The machine's huge page of zeros, allocated at its first use (`mm_get_huge_zero_page`); its pfn.

    Simplified: it stays for good, as no memory pressure ever takes it back.
    """
    pfn: int | None = system.thp.get("huge_zero_pfn")
    if pfn is None:
        pfn = system.frames.alloc_compound(ZERO, PG_ZERO, PG_ZERO)
        system.journal.write(system.thp, "huge_zero_pfn", pfn)
    return pfn


def deposit(mm: Mm, slot: int) -> int:
    """Keep a page table for the huge leaf that ``slot`` is to get (`pgtable_trans_huge_deposit`)."""
    j, arena = mm.sys.journal, mm.sys.arena
    row = arena.alloc_table(len(arena.mode.levels) - 1)
    j.add(mm.counters, "pgtables", 4096)
    j.write(arena.huge, slot, row)
    return row


def zap_deposited_table(mm: Mm, slot: int) -> None:
    """Give back the table that was kept for a huge leaf (mm/huge_memory.c)."""
    j, arena = mm.sys.journal, mm.sys.arena
    row = arena.huge.get(slot)
    j.write(arena.huge, slot, None)
    j.add(mm.counters, "pgtables", -4096)
    arena.free_table(row)


def do_huge_pmd_wp_page(mm: Mm, vma: Vma, address: int, slot: int, unshare: bool = False) -> int:
    """A write to a read-only huge leaf (mm/huge_memory.c): reuse the page, or split and go on with small ones.

    Only a page that is the process's own is reused; ``unshare``: it only becomes its own.
    """
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    j.enter("do_huge_pmd_wp_page", ("address", address))
    entry = arena.flat[slot]
    head = pmd_pfn(entry)
    if not is_huge_zero_pmd(mm.sys, entry):
        flags = frames.flags.flat[head]
        own = flags & PG_EXCLUSIVE
        if not own and frames.refcount.flat[head] == 1:
            own = True
            j.write(frames.flags, head, flags | PG_EXCLUSIVE)
            if frames.mapping.flat[head] != vma.anon_vma:
                j.write(frames.mapping, head, vma.anon_vma)
        if own:
            if not unshare:
                rw = _PAGE_RW if vma.vm_flags & VM_WRITE else 0
                j.write(arena, slot, entry | rw | _PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_SOFT_DIRTY)
            j.leave("do_huge_pmd_wp_page", 0)
            return 0
    split_huge_pmd(mm, vma, slot, address & HPAGE_PMD_MASK)
    j.leave("do_huge_pmd_wp_page", "VM_FAULT_FALLBACK")
    return FAULT_FALLBACK


def split_huge_pmd(mm: Mm, vma: Vma, slot: int, haddr: int, keep_dirty: bool = False) -> None:
    """Replace a huge leaf by a page table of 512 entries (`__split_huge_pmd`); the page stays compound.

    Rights, accessed and soft-dirty go to each entry.  Dirty goes to the page, and to the entries only with
    ``keep_dirty`` (a split of the page itself, whose entries come back from migration entries).
    """
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    j.enter("__split_huge_pmd", ("address", haddr))
    old, row = arena.flat[slot], arena.huge.get(slot)
    head, base = pmd_pfn(old), row << arena.bits
    lanes: list[Lane] = []
    if is_huge_zero_pmd(mm.sys, old):
        entries = np.full(HPAGE_PMD_NR, mk_pte(ZERO_PFN, vma.page_prot | _PAGE_SPECIAL), np.uint64)
    else:
        entries = _small_entries(vma, old, head, keep_dirty)
        where = np.arange(head, head + HPAGE_PMD_NR)
        flags = frames.flags.array[where]
        new = flags | np.uint32(flags[0] & PG_EXCLUSIVE)
        new[0] |= PG_DIRTY if old & _PAGE_DIRTY else 0
        if (new != flags).any():
            lanes.append(SetLane(frames.flags, where, flags, new))
        lanes.append(
            SetLane(frames.mapcount, where, frames.mapcount.array[where], frames.mapcount.array[where] + 1)
        )
    lanes.append(SetLane(arena, slice(base, base + HPAGE_PMD_NR), 0, entries))
    j.bulk(Bulk("__split_huge_pmd_locked", HPAGE_PMD_NR, tuple(lanes), address=haddr))
    if not is_huge_zero_pmd(mm.sys, old):
        j.write(frames.compound_mapcount, head, frames.compound_mapcount.get(head) - 1)
        j.add(frames.refcount, head, HPAGE_PMD_NR - 1)
        if vma.vm_flags & VM_LOCKED:
            munlock_huge_page(mm, vma, head)
    j.write(arena.huge, slot, None)
    j.write(arena, slot, (arena.pfn_of.flat[row] << 12) | _PAGE_TABLE)
    flush_tlb(mm, TlbFlush.of(haddr, haddr + HPAGE_PMD_SIZE))
    j.leave("__split_huge_pmd")


def _small_entries(vma: Vma, old: int, head: int, keep_dirty: bool) -> NDArray[np.uint64]:
    prot = vma.page_prot | (old & (_PAGE_RW | _PAGE_SOFT_DIRTY))
    if keep_dirty and old & _PAGE_DIRTY:
        prot |= _PAGE_DIRTY | _PAGE_SOFT_DIRTY  # pte_mkdirty
    if not old & _PAGE_ACCESSED:
        prot &= ~_PAGE_ACCESSED
    frames = np.arange(head, head + HPAGE_PMD_NR, dtype=np.uint64) << np.uint64(12)
    if prot & (_PAGE_PRESENT | _PAGE_PROTNONE) == _PAGE_PROTNONE:
        frames ^= np.uint64(PTE_PFN_MASK)
    return frames | np.uint64(prot)


def split_huge_pmd_if_needed(mm: Mm, vma: Vma, address: int) -> None:
    """A border of the VMA comes to lie at ``address`` (bytes): a huge leaf across it is split."""
    if address & ~HPAGE_PMD_MASK:
        slot = mm.sys.arena.huge_slot(mm.pgd, address)
        if slot >= 0 and mm.sys.arena.huge.get(slot) >= 0:
            split_huge_pmd(mm, vma, slot, address & HPAGE_PMD_MASK)


def split_partial(mm: Mm, vma: Vma, start: int, end: int) -> list[tuple[int, int]]:
    """Split the huge leaves that ``[start, end)`` (bytes) takes only a part of; the others: (slot, address)."""
    whole: list[tuple[int, int]] = []
    for slot, haddr in mm.sys.arena.huge_leaves(mm.pgd, start, end):
        if start <= haddr and haddr + HPAGE_PMD_SIZE <= end:
            whole.append((slot, haddr))
        else:
            split_huge_pmd(mm, vma, slot, haddr)
    return whole


def zap_huge_pmd(mm: Mm, vma: Vma, slot: int, haddr: int, gather: MmuGather) -> int:
    """Clear a huge leaf (mm/huge_memory.c); returns how many pages it mapped."""
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    j.enter("zap_huge_pmd", ("address", haddr))
    old = arena.flat[slot]
    head = pmd_pfn(old)
    gather.note(haddr, haddr + HPAGE_PMD_SIZE)
    j.write(arena, slot, 0)
    if not is_huge_zero_pmd(mm.sys, old):
        munlock_huge_page(mm, vma, head)
        j.write(frames.compound_mapcount, head, frames.compound_mapcount.get(head) - 1)
        j.add(mm.counters, "anon", -HPAGE_PMD_NR)
        gather.pages.append(np.array([head], np.int64))
    zap_deposited_table(mm, slot)
    j.leave("zap_huge_pmd", 1)
    return HPAGE_PMD_NR


def change_huge_pmd(mm: Mm, vma: Vma, slot: int, haddr: int, gather: MmuGather) -> int:
    """Give a huge leaf the protection of its VMA (mm/huge_memory.c); returns how many pages it maps.

    In 6.1 the leaf never becomes writable by this: the next write does it.
    """
    j, arena = mm.sys.journal, mm.sys.arena
    old = arena.flat[slot]
    new = pmd_modify(old, vma.page_prot)
    if new != old:
        j.enter("change_huge_pmd", ("address", haddr))
        j.write(arena, slot, new)
        gather.note(haddr, haddr + HPAGE_PMD_SIZE)
        j.leave("change_huge_pmd", HPAGE_PMD_NR)
    return HPAGE_PMD_NR


def move_huge_pmd(mm: Mm, slot: int, to: int, haddr: int) -> bool:
    """Move a huge leaf to the empty PMD ``to`` (mm/huge_memory.c), and the table that is kept for it."""
    j, arena = mm.sys.journal, mm.sys.arena
    if arena.flat[to]:
        return False
    j.enter("move_huge_pmd", ("old_addr", haddr))
    entry, row = arena.flat[slot], arena.huge.get(slot)
    j.write(arena, slot, 0)
    j.write(arena.huge, slot, None)
    j.write(arena.huge, to, row)
    j.write(arena, to, entry | _PAGE_SOFT_DIRTY)
    flush_tlb(mm, TlbFlush.of(haddr, haddr + HPAGE_PMD_SIZE))
    j.leave("move_huge_pmd", 1)
    return True


def copy_huge_pmd(parent: Mm, child: Mm, slot: int, haddr: int) -> None:
    """Share a huge leaf with a forked child (mm/huge_memory.c): read-only in both, old in the child."""
    j, arena, frames = parent.sys.journal, parent.sys.arena, parent.sys.frames
    j.enter("copy_huge_pmd", ("address", haddr))
    to = arena.walk(child.pgd, haddr)[-1]
    try:
        deposit(child, to)
    except OutOfMemory:
        j.leave("copy_huge_pmd", "ENOMEM")
        raise
    old = arena.flat[slot]
    if not is_huge_zero_pmd(parent.sys, old):
        head = pmd_pfn(old)
        j.add(frames.refcount, head, 1)
        j.write(frames.compound_mapcount, head, frames.compound_mapcount.get(head) + 1)
        if frames.flags.flat[head] & PG_EXCLUSIVE:
            j.write(frames.flags, head, frames.flags.flat[head] & ~PG_EXCLUSIVE)
        j.add(child.counters, "anon", HPAGE_PMD_NR)
    if old & _PAGE_RW:
        j.write(arena, slot, old & ~_PAGE_RW)
    j.write(arena, to, old & ~(_PAGE_RW | _PAGE_ACCESSED))
    j.leave("copy_huge_pmd", 0)
