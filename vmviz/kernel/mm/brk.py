"""Mappings that grow: the heap by brk, stacks by faults below them (models the end of mm/mmap.c)."""

from __future__ import annotations

from ..arch.x86 import vm_get_page_prot
from ..errors import KernelError
from .flags import (
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_SOFTDIRTY,
    VM_WRITE,
)
from .mm_types import STACK_GUARD_GAP, Mm
from .mmap import PAGE_MASK, charge, expand_neighbour, guarded_start
from .munmap import do_munmap
from .rmap import anon_vma_prepare
from .vma import Vma


def do_brk(mm: Mm, brk: int) -> int:
    """Move the program break (brk(2)); returns the break that results, the old one on failure: there is no
    error.
    """
    j, old = mm.sys.journal, int(mm.field("brk"))
    j.enter("brk", ("brk", brk))
    start = mm.field("start_brk")
    new_end, old_end = (brk + 4095) & PAGE_MASK, (old + 4095) & PAGE_MASK
    if brk < start or brk > mm.task_size:
        j.leave("brk", old)
        return old
    if new_end < old_end:
        do_munmap(mm, new_end, old_end - new_end)
    elif new_end > old_end:
        after = mm.find_vma(old_end)
        if after is not None and new_end + 4096 > guarded_start(after):
            j.leave("brk", old)
            return old
        flags = (
            VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT | mm.field("def_flags")
        )
        try:
            charge(mm, (new_end - old_end) >> 12)
        except KernelError:
            j.leave("brk", old)
            return old
        if expand_neighbour(mm, old_end, new_end, flags, 0, old_end >> 12) is None:
            prot = vm_get_page_prot(flags)
            vma = Vma(old_end, new_end, flags | VM_SOFTDIRTY, old_end >> 12, prot, 0, 0, "", "[heap]")
            j.write(mm.vmas, old_end, vma)
            j.add(mm.counters, "map_count", 1)
        mm.account(flags, (new_end - old_end) >> 12)
    mm.set_field("brk", brk)
    j.leave("brk", brk)
    return brk


def expand_downwards(mm: Mm, vma: Vma, address: int) -> str:
    """Grow a stack down to the page of ``address`` (`expand_stack`); returns why not, empty when it has
    grown.
    """
    j = mm.sys.journal
    j.enter("expand_downwards", ("vma", vma.start), ("address", address))
    grow = (vma.start - address) >> 12
    before = mm.vmas.find_prev(vma.start)
    error = ""
    if address < mm.sys.mmap_min_addr:
        error = "it lies below mmap_min_addr"
    elif (
        before is not None
        and before.vm_flags & 7
        and not before.vm_flags & VM_GROWSDOWN
        and address - before.end < STACK_GUARD_GAP
    ):
        error = f"it would come within the guard gap of 1 MiB of the VMA that ends at {before.end:#x}"
    elif grow > vma.pgoff:
        error = "its offset (vm_pgoff) would fall below 0"
    elif vma.end - address > mm.field("stack_limit"):
        error = f"the stack would exceed RLIMIT_STACK ({mm.field('stack_limit') >> 20} MiB)"
    if error:
        j.leave("expand_downwards", "ENOMEM")
        return error
    vma = anon_vma_prepare(mm, vma)
    if vma.vm_flags & VM_ACCOUNT:
        try:
            charge(mm, grow)
        except KernelError as refused:
            j.leave("expand_downwards", "ENOMEM")
            return refused.why
    j.write(mm.vmas, vma.start, None)
    j.write(mm.vmas, address, vma.replace(start=address, pgoff=vma.pgoff - grow))
    mm.account(vma.vm_flags, grow)
    if vma.vm_flags & VM_LOCKED:
        j.add(mm.counters, "locked_vm", grow)
    j.leave("expand_downwards", 0)
    return error
