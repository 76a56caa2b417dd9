"""Mappings of huge pages from the pool (models mm/hugetlb.c and fs/hugetlbfs/inode.c): MAP_HUGETLB.

Each page is one leaf of the PMD level that is never split; a range that is no multiple of 2 MiB is refused.
The pages count in no rss.  Not simulated: hugetlbfs as a file system, huge pages of 1 GiB, PMD sharing, and
PG_dirty of such pages, which nothing ever writes back.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np

from ..arch.tlb import TlbFlush
from ..arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PSE,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    pfn_pmd,
    pmd_pfn,
    pte_modify,
)
from ..errors import KernelError
from ..trace.bulk import Bulk, Lane, SetLane
from .flags import (
    MAP_FIXED,
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_MAYSHARE,
    VM_SHARED,
    VM_WRITE,
    is_cow_mapping,
)
from .hugetlb_pool import (
    HPAGE_MASK,
    HPAGE_RESV_OWNER,
    HPAGE_RESV_UNMAPPED,
    HPAGE_SHIFT,
    HPAGE_SIZE,
    alloc_huge_page,
    cached_page,
    hugetlb_reserve_pages,
    remove_inode_hugepages,
    vma_hugecache_offset,
)
from .memory.fault import FaultContext
from .memory.pfn import VM_FAULT_NOPAGE, VM_FAULT_SIGBUS
from .mm_types import Inode, Mm, System, VmOperations
from .mmu_gather import MmuGather, flush_tlb
from .page_alloc import ANON, FILE
from .page_flags import HPAGE_PMD_NR, PG_ANON, PG_EXCLUSIVE
from .pgtable import NO_DEPOSIT
from .rmap import anon_vma_prepare
from .vma import Vma

HUGETLB_ANON_PATH = "/anon_hugepage (deleted)"
KIND = "hugetlbfs"
"""The kind of an inode of huge pages."""


def may_split(_vma: Vma, address: int) -> str:
    """A mapping of huge pages is cut between them only (`hugetlb_vm_op_split`)."""
    return "EINVAL" if address & ~HPAGE_MASK else ""


def hugetlbfs_file_mmap(mm: Mm, vma: Vma) -> Vma:
    """The mmap method of a file of huge pages (fs/hugetlbfs/inode.c).

    EINVAL: the offset is no multiple of 2 MiB; ENOMEM: the pool has too few unreserved pages.
    """
    vma = vma.replace(vm_flags=vma.vm_flags | VM_HUGETLB | VM_DONTEXPAND, ops=HUGETLB_OPS.name)
    mm.set_vma(vma, vma)
    if vma.pgoff % HPAGE_PMD_NR:
        raise KernelError("EINVAL", "mmap", f"offset {vma.pgoff << 12:#x} is no multiple of 2 MiB")
    inode: Inode = mm.sys.inodes.get(mm.sys.files.get(vma.file).inode)
    first, last = vma_hugecache_offset(vma, vma.start), vma_hugecache_offset(vma, vma.end)
    owner = hugetlb_reserve_pages(mm.sys, inode, first, last, vma)
    if owner is None:
        raise KernelError("ENOMEM", "mmap", f"the pool has no {last - first} unreserved huge pages")
    if vma.vm_flags & VM_WRITE and inode.size < last << HPAGE_SHIFT:
        mm.sys.journal.write(mm.sys.inodes, inode.id, attrs.evolve(inode, size=last << HPAGE_SHIFT))
    mm.set_vma(vma, owner)
    return owner


def hugetlb_get_unmapped_area(mm: Mm, addr: int, size: int, flags: int) -> int:
    """The address of a mapping of huge pages (arch/x86/mm/hugetlbpage.c): a multiple of 2 MiB.

    EINVAL: a fixed address that is none; ENOMEM: no hole is large enough.  Simplified: no search upwards.
    """
    if size > mm.task_size:
        raise KernelError("ENOMEM", "mmap", f"length {size:#x} is larger than the address space")
    if flags & MAP_FIXED:
        if addr & ~HPAGE_MASK:
            raise KernelError("EINVAL", "mmap", f"the fixed address {addr:#x} is no multiple of 2 MiB")
        return addr
    if addr:
        hint = addr & HPAGE_MASK
        after = mm.find_vma(hint)
        if hint <= mm.task_size - size and (after is None or hint + size <= after.start):
            return hint
    slack = HPAGE_SIZE - 4096
    found = mm.vmas.find_gap_topdown(size + slack, 4096, mm.field("mmap_base"))
    if found is None:
        raise KernelError("ENOMEM", "mmap", f"no hole of {size:#x} bytes at a multiple of 2 MiB is left")
    return (found + slack) & HPAGE_MASK


# Faults


def hugetlb_no_page(ctx: FaultContext) -> int:
    """A first touch (mm/hugetlb.c): the file's page if it has one, else one from the pool.

    SIGBUS where the pool has none for this mapping, or a page was taken from the VMA after a fork.
    """
    mm, vma = ctx.mm, ctx.vma
    haddr = ctx.address & HPAGE_MASK
    index = vma_hugecache_offset(vma, haddr)
    if vma.private & HPAGE_RESV_UNMAPPED and not vma.vm_flags & VM_MAYSHARE:
        return VM_FAULT_SIGBUS
    j, frames = mm.sys.journal, mm.sys.frames
    j.enter("hugetlb_no_page", ("address", haddr))
    inode: Inode = mm.sys.inodes.get(mm.sys.files.get(vma.file).inode)
    head = cached_page(mm.sys, inode.id, index) if vma.vm_flags & VM_MAYSHARE else -1
    if head < 0 and index < inode.size >> HPAGE_SHIFT:
        head = alloc_huge_page(mm.sys, vma, index)
        if head >= 0 and vma.vm_flags & VM_MAYSHARE:
            j.write(mm.sys.hugetlb, ("page", inode.id, index), head)
            j.add(frames.refcount, head, 1)
            _own(mm.sys, head, FILE, 0, inode.id, index)
            frames.put_page(head)
        elif head >= 0:
            vma = anon_vma_prepare(mm, vma)
            _own(mm.sys, head, ANON, PG_ANON | PG_EXCLUSIVE, vma.anon_vma, index << 9)
    if head < 0:
        j.leave("hugetlb_no_page", "VM_FAULT_SIGBUS")
        return VM_FAULT_SIGBUS
    if vma.vm_flags & VM_MAYSHARE:
        j.add(frames.refcount, head, 1)
    writable = vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED
    slot = mm.sys.arena.ensure(mm.pgd, haddr, mm.counters, leaf=False)
    j.write(frames.compound_mapcount, head, frames.compound_mapcount.get(head) + 1)
    _set_leaf(mm, slot, make_huge_pte(vma, head, writable))
    ret = 0
    if ctx.write and not vma.vm_flags & VM_SHARED:
        ret = hugetlb_wp(mm, vma, haddr, slot)
    j.leave("hugetlb_no_page", ret)
    return ret or VM_FAULT_NOPAGE


def _own(system: System, head: int, state: int, flags: int, mapping: int, index: int) -> None:
    """Give a page from the pool, of zeros, to a file or to an anonymous mapping."""
    j, frames = system.journal, system.frames
    where = slice(head, head + HPAGE_PMD_NR)
    states = frames.states.array[where].copy()
    lanes: list[Lane] = [SetLane(frames.states, where, states, state)]
    if frames.content.array[where].any():
        lanes.append(SetLane(frames.content, where, frames.content.array[where].copy(), 0))
    j.bulk(Bulk("clear_huge_page", HPAGE_PMD_NR, tuple(lanes), address=head << 12))
    j.write(frames.flags, head, frames.flags.flat[head] | flags)
    j.write(frames.mapping, head, mapping)
    j.write(frames.index, head, index)


def make_huge_pte(vma: Vma, head: int, writable: bool) -> int:
    """The leaf for a huge page of a mapping (mm/hugetlb.c): young; dirty if it is writable."""
    prot = vma.page_prot | _PAGE_PSE | _PAGE_ACCESSED
    rights = _PAGE_RW | _PAGE_DIRTY | _PAGE_SOFT_DIRTY
    return pfn_pmd(head, prot | rights if writable else prot & ~_PAGE_RW)


def _set_leaf(mm: Mm, slot: int, entry: int) -> None:
    mm.sys.journal.write(mm.sys.arena, slot, entry)
    mm.sys.journal.write(mm.sys.arena.huge, slot, NO_DEPOSIT if entry else None)


def hugetlb_wp(mm: Mm, vma: Vma, address: int, slot: int, unshare: bool = False) -> int:
    """A write to a read-only leaf (mm/hugetlb.c): reuse the page, or copy it to another one of the pool.

    A copy never uses the reservation of this place.  If there is no page for the process that has made the
    mapping, its forked relatives lose theirs: their next touch is SIGBUS.  With ``unshare`` the page only
    becomes its own.
    """
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    haddr = address & HPAGE_MASK
    j.enter("hugetlb_wp", ("address", haddr))
    entry = arena.flat[slot]
    head = pmd_pfn(entry)
    if _reuse(mm, vma, slot, head, unshare):
        j.leave("hugetlb_wp", 0)
        return 0
    owner = bool(vma.private & HPAGE_RESV_OWNER)
    index = vma_hugecache_offset(vma, haddr)
    new = alloc_huge_page(mm.sys, vma, index, avoid_reserve=owner)
    if new < 0:
        if owner:
            unmap_ref_private(mm, vma, head, haddr)
            _reuse(mm, vma, slot, head, unshare)
        j.leave("hugetlb_wp", 0 if owner else "VM_FAULT_SIGBUS")
        return 0 if owner else VM_FAULT_SIGBUS
    vma = anon_vma_prepare(mm, vma)
    _own(mm.sys, new, ANON, PG_ANON | PG_EXCLUSIVE, vma.anon_vma, index << 9)
    source = slice(head, head + HPAGE_PMD_NR)
    if frames.content.array[source].any():
        contents = frames.content.array[source].copy()
        lane = SetLane(frames.content, slice(new, new + HPAGE_PMD_NR), 0, contents)
        j.bulk(Bulk("copy_user_huge_page", HPAGE_PMD_NR, (lane,), address=haddr))
    j.write(frames.compound_mapcount, head, frames.compound_mapcount.get(head) - 1)
    j.write(frames.compound_mapcount, new, frames.compound_mapcount.get(new) + 1)
    j.write(arena, slot, make_huge_pte(vma, new, not unshare))
    flush_tlb(mm, TlbFlush.of(haddr, haddr + HPAGE_SIZE))
    frames.put_page(head)
    j.leave("hugetlb_wp", 0)
    return 0


def _reuse(mm: Mm, vma: Vma, slot: int, head: int, unshare: bool) -> bool:
    """Make the leaf writable in place, where the mapping is shared or nobody else maps the page."""
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    if not vma.vm_flags & VM_MAYSHARE:
        flags = frames.flags.flat[head]
        if frames.compound_mapcount.get(head) != 1 or not flags & PG_ANON:
            return False
        if not flags & PG_EXCLUSIVE:
            j.write(frames.flags, head, flags | PG_EXCLUSIVE)
            j.write(frames.mapping, head, vma.anon_vma)
    if not unshare:
        rights = _PAGE_RW | _PAGE_DIRTY | _PAGE_SOFT_DIRTY | _PAGE_ACCESSED
        j.write(arena, slot, arena.flat[slot] | rights)
    return True


def unmap_ref_private(mm: Mm, vma: Vma, head: int, haddr: int) -> None:
    """Take a page from all private mappings that have no reservation for it (mm/hugetlb.c)."""
    index = vma_hugecache_offset(vma, haddr)
    for other, it in list(_mappings_of(mm.sys, mm.sys.files.get(vma.file).inode)):
        mine = other is mm and it.start == vma.start
        if mine or it.vm_flags & VM_MAYSHARE or it.private & HPAGE_RESV_OWNER:
            continue
        at = it.start + ((index - vma_hugecache_offset(it, it.start)) << HPAGE_SHIFT)
        slot = other.sys.arena.huge_slot(other.pgd, at) if at in it else -1
        if slot >= 0 and pmd_pfn(other.sys.arena.flat[slot]) == head:
            gather = MmuGather(other)
            other.set_vma(it, it.replace(private=it.private | HPAGE_RESV_UNMAPPED))
            unmap_hugepage_range(other, it, at, at + HPAGE_SIZE, gather)
            gather.finish()


def _mappings_of(system: System, inode: int) -> Iterator[tuple[Mm, Vma]]:
    for mm in system.mms():
        for vma in mm.vmas:
            if vma.vm_flags & VM_HUGETLB and system.files.get(vma.file).inode == inode:
                yield mm, vma


# Ranges


def unmap_hugepage_range(mm: Mm, vma: Vma, start: int, end: int, gather: MmuGather) -> int:
    """Clear the leaves of a range (`__unmap_hugepage_range`); returns how many small pages they mapped."""
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    leaves = arena.huge_leaves(mm.pgd, start, end)
    if not leaves:
        return 0
    j.enter("__unmap_hugepage_range", ("start", start), ("end", end), ("vma", vma.start))
    for slot, haddr in leaves:
        head = pmd_pfn(arena.flat[slot])
        _set_leaf(mm, slot, 0)
        gather.note(haddr, haddr + HPAGE_SIZE)
        j.write(frames.compound_mapcount, head, frames.compound_mapcount.get(head) - 1)
        gather.pages.append(np.array([head], np.int64))
    j.leave("__unmap_hugepage_range")
    return len(leaves) * HPAGE_PMD_NR


def hugetlb_change_protection(mm: Mm, vma: Vma, start: int, end: int, gather: MmuGather) -> int:
    """Give the leaves of a range the protection of their VMA (mm/hugetlb.c); returns how many small pages.

    As Linux does, a PROT_NONE leaf holds the frame number inverted down to bit 12, unlike one of
    transparent huge pages.
    """
    j, arena, changed = mm.sys.journal, mm.sys.arena, 0
    for slot, haddr in arena.huge_leaves(mm.pgd, start, end):
        old = arena.flat[slot]
        new = pte_modify(old, vma.page_prot)
        changed += HPAGE_PMD_NR
        if new != old:
            j.enter("hugetlb_change_protection", ("address", haddr))
            j.write(arena, slot, new)
            gather.note(haddr, haddr + HPAGE_SIZE)
            j.leave("hugetlb_change_protection")
    return changed


def move_hugetlb_page_tables(mm: Mm, old_addr: int, new_addr: int, length: int) -> int:
    """Move the leaves of a range (mm/hugetlb.c); returns how many bytes were done.

    Raises `OutOfMemory` when there is no frame for a table.
    """
    arena = mm.sys.arena
    mm.sys.journal.enter("move_hugetlb_page_tables", ("old_addr", old_addr), ("new_addr", new_addr))
    for slot, haddr in arena.huge_leaves(mm.pgd, old_addr, old_addr + length):
        to = arena.ensure(mm.pgd, haddr - old_addr + new_addr, mm.counters, leaf=False)
        entry = arena.flat[slot]
        _set_leaf(mm, slot, 0)
        _set_leaf(mm, to, entry)
    flush_tlb(mm, TlbFlush.of(old_addr, old_addr + length))
    mm.sys.journal.leave("move_hugetlb_page_tables", length)
    return length


def copy_hugetlb_page_range(parent: Mm, child: Mm, vma: Vma) -> None:
    """Share the leaves of a private mapping with a forked child (mm/hugetlb.c): read-only in both."""
    j, arena, frames = parent.sys.journal, parent.sys.arena, parent.sys.frames
    for slot, haddr in arena.huge_leaves(parent.pgd, vma.start, vma.end):
        j.enter("copy_hugetlb_page_range", ("address", haddr))
        entry = arena.flat[slot]
        head = pmd_pfn(entry)
        j.add(frames.refcount, head, 1)
        j.write(frames.compound_mapcount, head, frames.compound_mapcount.get(head) + 1)
        if frames.flags.flat[head] & PG_ANON and frames.flags.flat[head] & PG_EXCLUSIVE:
            j.write(frames.flags, head, frames.flags.flat[head] & ~PG_EXCLUSIVE)
        if is_cow_mapping(vma.vm_flags) and entry & _PAGE_RW:
            entry &= ~_PAGE_RW
            j.write(arena, slot, entry)
        _set_leaf(child, arena.walk(child.pgd, haddr)[-1], entry)
        j.leave("copy_hugetlb_page_range")


def hugetlbfs_punch_hole(system: System, inode: Inode, offset: int, length: int) -> None:
    """Drop the whole huge pages of a range of a file, zero the rest (fs/hugetlbfs/inode.c); bytes."""
    end = offset + length
    low, high = (offset + HPAGE_SIZE - 1) & HPAGE_MASK, end & HPAGE_MASK
    for first, last in ((offset, min(end, low)), (max(high, low), end)):
        for page in range(first >> 12, last >> 12):
            head = cached_page(system, inode.id, page >> 9)
            if head >= 0:
                system.frames.write_bytes(head + page % HPAGE_PMD_NR, 0, bytes(4096))
    if high <= low:
        return
    for mm, vma in list(_mappings_of(system, inode.id)):
        base = vma.start - (vma.pgoff << 12)
        start, stop = max(vma.start, base + low), min(vma.end, base + high)
        if start < stop:
            gather = MmuGather(mm)
            unmap_hugepage_range(mm, vma, start, stop, gather)
            gather.finish()
    remove_inode_hugepages(system, inode.id, low >> HPAGE_SHIFT, high >> HPAGE_SHIFT)


HUGETLB_OPS = VmOperations(
    "hugetlb_vm_ops",
    hugetlb_no_page,
    explain="the pool of huge pages fills a missing 2 MiB page",
    may_split=may_split,
)
