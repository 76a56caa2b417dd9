"""Keeping memory resident: mlock and its kin (models mm/mlock.c)."""

from __future__ import annotations

from ..errors import KernelError
from .flags import (
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MLOCK_ONFAULT,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_LOCKONFAULT,
    VM_SPECIAL,
)
from .gup import mm_populate
from .mlock_pages import mlock_vma_pages_range
from .mm_types import Mm
from .util import can_do_mlock, capable_ipc_lock, rlimit
from .vma import Vma
from .vma_merge import vma_modify

TOP = 1 << 64


def _range(start: int, length: int) -> tuple[int, int]:
    """The whole pages of a range: its start rounded down, its length rounded up (bytes)."""
    size = (length + (start & 4095) + 4095) & -4096 & (TOP - 1)
    return start & -4096, size


def do_mlock(mm: Mm, start: int, length: int, flags: int = 0, func: str = "mlock") -> None:
    """Lock the pages of a range (bytes; mlock(2), mlock2(2), do_mlock) and fault them in.

    Errors in the kernel's order: EINVAL (unknown mlock2 flags), EPERM (RLIMIT_MEMLOCK is 0), ENOMEM (over the
    limit; what is locked already is not counted twice), EINVAL (the range wraps), ENOMEM (a hole; what lies
    before stays locked), and from faulting in: ENOMEM (no access), EAGAIN (no frame).  MLOCK_ONFAULT faults
    in nothing.  VM_SPECIAL and hugetlb mappings are passed over.
    """
    if flags & ~MLOCK_ONFAULT:
        raise KernelError("EINVAL", func, f"unknown flags {flags:#x}")
    if not can_do_mlock(mm):
        raise KernelError("EPERM", func, "RLIMIT_MEMLOCK is 0")
    start, size = _range(start, length)
    limit = rlimit(mm, "memlock") >> 12
    pages = (size >> 12) + mm.counters.data["locked_vm"]
    if pages > limit and not capable_ipc_lock(mm):
        pages -= _locked_pages(mm, start, start + size)
        if pages > limit:
            raise KernelError("ENOMEM", func, f"{pages} pages would be locked, RLIMIT_MEMLOCK allows {limit}")
    _apply_vma_lock_flags(mm, start, size, VM_LOCKED_MASK if flags else VM_LOCKED, func)
    error = mm_populate(mm, start, size, ignore_errors=False)
    if error:
        errno = {"EFAULT": "ENOMEM", "ENOMEM": "EAGAIN"}[error]
        raise KernelError(errno, func, "a page of the range could not be faulted in")


def do_munlock(mm: Mm, start: int, length: int) -> None:
    """Unlock the pages of a range (bytes; munlock(2)); ENOMEM for a hole, EINVAL when the range wraps."""
    start, size = _range(start, length)
    _apply_vma_lock_flags(mm, start, size, 0, "munlock")


def _locked_pages(mm: Mm, start: int, end: int) -> int:
    """Pages of a range that are locked already (`count_mm_mlocked_page_nr`)."""
    return sum(
        (min(v.end, end) - max(v.start, start)) >> 12
        for v in mm.vmas.overlapping(start, end)
        if v.vm_flags & VM_LOCKED
    )


def _apply_vma_lock_flags(mm: Mm, start: int, size: int, flags: int, func: str) -> None:
    end = start + size
    if end >= TOP:
        raise KernelError("EINVAL", func, "the range wraps")
    at = start
    while at < end:
        vma = mm.vma_at(at)
        if vma is None:
            raise KernelError("ENOMEM", func, f"nothing is mapped at {at:#x}")
        stop = min(vma.end, end)
        mlock_fixup(mm, vma, at, stop, (vma.vm_flags & ~VM_LOCKED_MASK) | flags, func)
        at = stop


def mlock_fixup(mm: Mm, vma: Vma, start: int, end: int, newflags: int, func: str = "mlock") -> None:
    """Give a part of one VMA new lock flags, and its pages what follows (mm/mlock.c); special ones are left
    alone.

    ENOMEM: a split would exceed max_map_count.
    """
    old = vma.vm_flags
    if newflags == old or old & VM_SPECIAL or old & VM_HUGETLB:
        return
    j = mm.sys.journal
    j.enter("mlock_fixup", ("start", start), ("end", end), ("newflags", newflags))
    try:
        vma = vma_modify(mm, vma, start, end, newflags, func)
    except KernelError as error:
        j.leave("mlock_fixup", error.errno)
        raise
    pages = (end - start) >> 12
    delta = -pages if not newflags & VM_LOCKED else 0 if old & VM_LOCKED else pages
    if delta:
        j.add(mm.counters, "locked_vm", delta)
    new = vma.replace(vm_flags=newflags)
    if new != vma:
        mm.set_vma(vma, new)
    if not newflags & old & VM_LOCKED:
        mlock_vma_pages_range(mm, new, start, end, bool(newflags & VM_LOCKED))
    j.leave("mlock_fixup", 0)


def do_mlockall(mm: Mm, flags: int) -> None:
    """Lock what is mapped now (MCL_CURRENT), or from now on (MCL_FUTURE), or both (mlockall(2)).

    EINVAL: no flags, unknown ones, or MCL_ONFAULT alone; EPERM: RLIMIT_MEMLOCK is 0; ENOMEM: all that is
    mapped exceeds the limit.
    """
    func = "mlockall"
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        raise KernelError("EINVAL", func, f"flags {flags:#x} name neither MCL_CURRENT nor MCL_FUTURE alone")
    if not can_do_mlock(mm):
        raise KernelError("EPERM", func, "RLIMIT_MEMLOCK is 0")
    limit, total = rlimit(mm, "memlock") >> 12, mm.counters.data["total_vm"]
    if flags & MCL_CURRENT and total > limit and not capable_ipc_lock(mm):
        raise KernelError("ENOMEM", func, f"{total} pages are mapped, RLIMIT_MEMLOCK allows {limit}")
    _apply_mlockall_flags(mm, flags)
    if flags & MCL_CURRENT:
        mm_populate(mm, 0, mm.task_size)


def do_munlockall(mm: Mm) -> None:
    """Unlock everything, and what will be mapped too (munlockall(2))."""
    _apply_mlockall_flags(mm, 0)


def _apply_mlockall_flags(mm: Mm, flags: int) -> None:
    """The flags of new mappings and of those that there are (`apply_mlockall_flags`); errors of single VMAs
    count nothing.
    """
    onfault = VM_LOCKONFAULT if flags & MCL_ONFAULT else 0
    default = mm.field("def_flags") & ~VM_LOCKED_MASK
    if flags & MCL_FUTURE:
        default |= VM_LOCKED | onfault
    if default != mm.field("def_flags"):
        mm.set_field("def_flags", default)
    if flags & MCL_FUTURE and not flags & MCL_CURRENT:
        return
    add = VM_LOCKED | onfault if flags & MCL_CURRENT else 0
    at = 0
    while (vma := mm.find_vma(at)) is not None:
        at = vma.end
        try:
            mlock_fixup(mm, vma, vma.start, vma.end, (vma.vm_flags & ~VM_LOCKED_MASK) | add)
        except KernelError:
            continue
