"""The end of a process (models kernel/exit.c and exit_mmap of mm/mmap.c), as far as its address space shows
it.
"""

from __future__ import annotations

from .arch.tlb import TlbFlush
from .mm.filemap import put_inode
from .mm.flags import VM_ACCOUNT, VM_HUGETLB
from .mm.hugetlb_pool import hugetlb_vm_op_close
from .mm.memory.zap import unmap_single_vma
from .mm.mm_types import Mm
from .mm.mmu_gather import MmuGather, flush_tlb
from .mm.munmap import free_pgtables


def exit_mmap(mm: Mm) -> MmuGather:
    """Take an address space down: entries, tables, VMAs, charges, at last the root table (mm/mmap.c).

    One gather for all; returns it.  Afterwards the mm holds nothing, and its stores are as they were before
    it was made.
    """
    j = mm.sys.journal
    j.enter("exit_mmap", ("mm", mm.id))
    gather = MmuGather(mm)
    vmas = list(mm.vmas)
    for vma in vmas:
        unmap_single_vma(mm, vma, vma.start, vma.end, gather)
    if vmas:
        free_pgtables(mm, vmas[0].start, vmas[-1].end, 0, 0, gather)
    gather.finish()
    for vma in vmas:
        if vma.vm_flags & VM_ACCOUNT:
            j.add(mm.sys.commit, "committed", -vma.nr_pages)
        j.write(mm.vmas, vma.start, None)
        if vma.vm_flags & VM_HUGETLB:
            hugetlb_vm_op_close(mm.sys, vma)
        if vma.file:
            put_inode(mm.sys, vma.file)
    _forget(mm)
    flush_tlb(mm, TlbFlush("full", 0, mm.task_size, mm.task_size >> 12))
    mm.sys.arena.free_table(mm.pgd)
    j.leave("exit_mmap")
    return gather


def _forget(mm: Mm) -> None:
    j = mm.sys.journal
    for name, value in sorted(mm.counters.data.items()):
        if value:
            j.write(mm.counters, name, 0)
    for store in (mm.fields, mm.unknown):
        for key in sorted(store.data):
            j.write(store, key, None)
    for key in sorted(k for k in mm.sys.swap.readahead.data if k[0] == mm.id):
        j.write(mm.sys.swap.readahead, key, None)
