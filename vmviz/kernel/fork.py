"""Making a process (models kernel/fork.c), as far as its address space shows it.

The child gets copies of the parent's VMAs and, where a fault could not bring them back, of its entries.  No
page is copied: private pages are shared read-only until one side writes.
"""

from __future__ import annotations

from collections.abc import Iterable

from .arch.tlb import TlbFlush
from .errors import KernelError
from .exit import exit_mmap
from .mm.filemap import get_inode
from .mm.flags import (
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_NOHUGEPAGE,
    VM_WIPEONFORK,
)
from .mm.memory.copy import copy_page_range, vma_needs_copy
from .mm.mm_types import Mm
from .mm.mmu_gather import flush_tlb
from .mm.page_alloc import OutOfMemory
from .mm.rmap import Census, anon_vma_fork
from .mm.util import vm_enough_memory
from .mm.vma import Vma

VM_INIT_DEF_MASK = VM_NOHUGEPAGE
"""What a child inherits of mm->def_flags: what mlockall() asked for the future is not among it."""


def dup_mm(parent: Mm, child: Mm, mms: Iterable[Mm]) -> None:
    """Make ``child``, a fresh address space, a copy of ``parent``; ``mms`` are all that live (kernel/fork.c).

    Raises `KernelError` ENOMEM when commit, memory for tables, or the memory type of a VM_PAT mapping whose
    first page is no raw frame any more cannot be had; the child is empty then, and the parent is as it was
    but for the write protection of what had been copied.
    """
    j = parent.sys.journal
    j.enter("dup_mm", ("mm", parent.id))
    for name, value in sorted(parent.fields.data.items()):
        child.set_field(name, value & VM_INIT_DEF_MASK if name == "def_flags" else value)
    try:
        dup_mmap(parent, child, Census.take(parent.sys, mms))
    except (KernelError, OutOfMemory) as error:
        exit_mmap(child)
        j.leave("dup_mm", "ENOMEM")
        raise KernelError("ENOMEM", "fork", str(error)) from None
    j.write(child.counters, "hiwater_rss", child.rss)
    j.leave("dup_mm", 0)


def dup_mmap(parent: Mm, child: Mm, census: Census) -> None:
    """Copy the VMAs and what must be copied of the entries (kernel/fork.c).

    VM_DONTCOPY leaves a VMA out, VM_WIPEONFORK leaves it empty, VM_LOCKED is cleared, VM_ACCOUNT is charged
    again.  The parent's TLB is flushed once, whole, because its writable entries have been narrowed.
    """
    j = parent.sys.journal
    j.enter("dup_mmap", ("mm", parent.id))
    try:
        for vma in list(parent.vmas):
            if vma.vm_flags & VM_DONTCOPY:
                continue
            if vma.vm_flags & VM_ACCOUNT:
                vm_enough_memory(parent, vma.nr_pages, "fork")
            copy = _dup_vma(child, vma, census)
            if not vma.vm_flags & VM_WIPEONFORK and vma_needs_copy(vma):
                copy_page_range(parent, child, vma)
            info = parent.sys.swap.readahead.get((parent.id, vma.start))
            if info is not None:
                j.write(parent.sys.swap.readahead, (child.id, copy.start), info)
    finally:
        flush_tlb(parent, TlbFlush("full", 0, parent.task_size, parent.task_size >> 12))
        j.leave("dup_mmap")


def _dup_vma(child: Mm, vma: Vma, census: Census) -> Vma:
    j = child.sys.journal
    wiped = vma.vm_flags & VM_WIPEONFORK
    anon_vma, chain = (0, 0) if wiped else anon_vma_fork(child.sys, vma, census)
    flags = vma.vm_flags & ~(VM_LOCKED | VM_LOCKONFAULT)
    private = 0 if vma.vm_flags & VM_HUGETLB else vma.private  # a reservation is its maker's alone
    copy = vma.replace(vm_flags=flags, anon_vma=anon_vma, chain=chain, private=private)
    j.write(child.vmas, copy.start, copy)
    j.add(child.counters, "map_count", 1)
    child.account(copy.vm_flags, copy.nr_pages)
    if copy.file:
        get_inode(child.sys, copy.file)
    return copy
