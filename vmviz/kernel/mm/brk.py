"""Mappings that grow: the heap by brk, stacks by faults below them (models the end of mm/mmap.c)."""

from __future__ import annotations

from ..arch.x86 import vm_get_page_prot
from ..errors import KernelError, UnsupportedError
from .flags import (
    PR_SET_MM_BRK,
    PR_SET_MM_START_BRK,
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
from .mmap import PAGE_MASK, guarded_start
from .munmap import do_munmap
from .rmap import anon_vma_prepare
from .util import max_map_count, may_expand_vm, mlock_future_ok, rlimit, vm_enough_memory
from .vma import Vma
from .vma_merge import can_vma_merge_after


def do_brk(mm: Mm, brk: int) -> int:
    """Move the program break (brk(2), mm/mmap.c); returns the break that results, the old one on failure:
    there is no error.

    Refused are a break below its start, above RLIMIT_DATA, within a page or guard gap of the next VMA, and
    what `_grow` refuses.  Simplified: the data segment of the program counts as empty.
    """
    j, old = mm.sys.journal, int(mm.field("brk"))
    j.enter("brk", ("brk", brk))
    start = mm.field("start_brk")
    new_end, old_end = (brk + 4095) & PAGE_MASK, (old + 4095) & PAGE_MASK
    try:
        if brk < start or brk > mm.task_size or brk - start > rlimit(mm, "data"):
            raise KernelError("ENOMEM", "brk", "the break would leave its limits")
        if new_end < old_end:
            here = mm.find_vma(new_end)  # any VMA in what is given back will do, the heap's own or not
            if here is None or here.start >= old_end:
                raise KernelError("ENOMEM", "brk", "nothing is mapped between the new break and the old one")
            do_munmap(mm, new_end, old_end - new_end)
        elif new_end > old_end:
            _grow(mm, old_end, new_end)
    except KernelError:
        j.leave("brk", old)
        return old
    mm.set_field("brk", brk)
    j.leave("brk", brk)
    return brk


def prctl_set_mm(mm: Mm, opt: int, addr: int, arg4: int = 0, arg5: int = 0) -> None:
    """Set the break or its start without mapping anything (prctl(2) with PR_SET_MM, `prctl_set_mm` of
    kernel/sys.c): how a process moves its heap to ``addr`` (bytes).

    Errors, in the kernel's order: EINVAL (a further argument that is not 0), EPERM (no CAP_SYS_RESOURCE), EINVAL
    (an address that a process may not have, another option, a start above the break, a heap above RLIMIT_DATA).
    Simplified: other options than PR_SET_MM_BRK and PR_SET_MM_START_BRK raise `UnsupportedError`.
    """
    if arg4 or arg5:
        raise KernelError("EINVAL", "prctl", "the last arguments must be 0")
    if mm.field("caps_dropped"):
        raise KernelError("EPERM", "prctl", "PR_SET_MM needs CAP_SYS_RESOURCE")
    if not mm.sys.mmap_min_addr <= addr < mm.task_size:
        raise KernelError("EINVAL", "prctl", f"{addr:#x} is no address of a process")
    if opt not in (PR_SET_MM_BRK, PR_SET_MM_START_BRK):
        raise UnsupportedError(f"PR_SET_MM with {opt} is not simulated")
    name = "brk" if opt == PR_SET_MM_BRK else "start_brk"
    low, high = (addr if opt == field else mm.field(text) for field, text in (
        (PR_SET_MM_START_BRK, "start_brk"), (PR_SET_MM_BRK, "brk"),
    ))  # fmt: skip
    if low > high:
        raise KernelError("EINVAL", "prctl", f"the heap would begin at {low:#x}, above its end {high:#x}")
    if high - low > rlimit(mm, "data"):
        raise KernelError("EINVAL", "prctl", "the heap would be larger than RLIMIT_DATA")
    mm.set_field(name, addr)


def _grow(mm: Mm, start: int, end: int) -> None:
    """Extend the heap (`do_brk_flags`): the VMA below grows, or a new one begins; never joined to the one
    above.

    ENOMEM or EAGAIN: the next VMA is too near, RLIMIT_MEMLOCK, RLIMIT_AS or RLIMIT_DATA, max_map_count,
    commit.
    """
    j, size = mm.sys.journal, end - start
    after = mm.find_vma(start)
    if after is not None and end + 4096 > guarded_start(after):
        raise KernelError("ENOMEM", "brk", "the next mapping is in the way")
    flags = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT | mm.field("def_flags")
    if not mlock_future_ok(mm, mm.field("def_flags"), size):
        raise KernelError("EAGAIN", "brk", "the locked memory would exceed RLIMIT_MEMLOCK")
    if not may_expand_vm(mm, flags, size >> 12) or len(mm.vmas) > max_map_count(mm):
        raise KernelError("ENOMEM", "brk", "RLIMIT_AS, RLIMIT_DATA or max_map_count is exceeded")
    vm_enough_memory(mm, size >> 12, "brk")
    below, pgoff = mm.vmas.find_prev(start), start >> 12
    if below is not None and below.end <= mm.field("start_brk"):
        below = None  # it lies before the heap, which is where the search ends
    if below is not None and below.end == start and can_vma_merge_after(mm, below, flags, 0, 0, pgoff):
        j.enter("vma_expand", ("start", below.start), ("end", end))
        mm.set_vma(below, below.replace(end=end, vm_flags=below.vm_flags | VM_SOFTDIRTY))
        j.leave("vma_expand", 0)
    else:
        prot = vm_get_page_prot(flags)
        j.write(mm.vmas, start, Vma(start, end, flags | VM_SOFTDIRTY, pgoff, prot, 0, 0, "", "[heap]"))
        j.add(mm.counters, "map_count", 1)
    mm.account(flags, size >> 12)
    if flags & VM_LOCKED:
        j.add(mm.counters, "locked_vm", size >> 12)


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
    if error:
        j.leave("expand_downwards", "ENOMEM")
        return error
    vma = anon_vma_prepare(mm, vma)  # before the limits: it stays, even if one of them forbids the growth
    if grow > vma.pgoff:
        error = "its offset (vm_pgoff) would fall below 0"
    elif not may_expand_vm(mm, vma.vm_flags, grow):
        error = "RLIMIT_AS would be exceeded"
    elif vma.end - address > rlimit(mm, "stack"):
        error = f"the stack would exceed RLIMIT_STACK ({rlimit(mm, 'stack') >> 10} KiB)"
    elif not mlock_future_ok(mm, vma.vm_flags, grow << 12):
        error = "the locked memory would exceed RLIMIT_MEMLOCK"
    if error:
        j.leave("expand_downwards", "ENOMEM")
        return error
    if vma.vm_flags & VM_ACCOUNT:
        try:
            vm_enough_memory(mm, grow, "expand_stack")
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
