"""mremap of later kernels (models mm/mremap.c since 6.17): everything is judged before anything changes, and
MREMAP_FIXED moves as many mappings as the range holds.
"""

from __future__ import annotations

from .flags import (
    MAP_FIXED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SHARED,
)
from .gup import mm_populate
from .mm_types import Mm
from .mremap import HUGE, TOP, _align, _error, _grow, _move_vma, _place
from .munmap import do_munmap
from .util import max_map_count, may_expand_vm, mlock_future_ok
from .vma import Vma


def do_mremap(mm: Mm, addr: int, old_len: int, new_len: int, flags: int, new_addr: int = 0) -> int:
    """Resize or move mappings and return the address (mremap(2)); lengths in bytes.

    Errors in the kernel's order: EINVAL (flags, alignment, a new length of 0 or above user space; of a move
    the new address, lengths that differ with MREMAP_DONTUNMAP, ranges that overlap), ENOMEM (max_map_count
    is near), then those of `check_prep_vma` and of the move.
    """
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP):
        raise _error("EINVAL", f"unknown flags {flags:#x}")
    if addr & 4095:
        raise _error("EINVAL", f"address {addr:#x} is not page aligned")
    old_len, new_len = _align(old_len), _align(new_len)
    if not new_len:
        raise _error("EINVAL", "the new length is 0")
    if new_len > mm.task_size:
        raise _error("EINVAL", "the new length is larger than the address space")
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        _check_target(mm, (addr, old_len), (new_addr, new_len), flags)
    if flags & MREMAP_FIXED and old_len == new_len:
        return remap_move(mm, addr, old_len, new_addr, flags)
    vma = mm.vma_at(addr)
    if vma is None:
        raise _error("EFAULT", f"nothing is mapped at {addr:#x}")
    if vma.vm_flags & VM_HUGETLB:
        old_len, new_len = -(-old_len // HUGE) * HUGE, -(-new_len // HUGE) * HUGE
        if addr % HUGE or new_addr % HUGE or new_len > old_len:
            raise _error("EINVAL", "huge pages move whole and aligned, and do not grow")
    if not flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and old_len >= new_len:
        if old_len > new_len:
            do_munmap(mm, addr + new_len, old_len - new_len)
        return addr
    check_prep_vma(mm, vma, addr, old_len, new_len, flags)
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        ret = _mremap_to(mm, addr, old_len, new_addr, new_len, flags)
    else:
        ret = _grow(mm, addr, old_len, new_len, flags)
    if vma.vm_flags & VM_LOCKED and new_len > old_len:
        mm_populate(mm, ret + old_len, new_len - old_len)
    return ret


def _check_target(mm: Mm, old: tuple[int, int], new: tuple[int, int], flags: int) -> None:
    """The checks of a new address (`check_mremap_params`)."""
    (addr, old_len), (new_addr, new_len) = old, new
    if new_addr > mm.task_size - new_len:
        raise _error("EINVAL", "the new range ends above the user address space")
    if new_addr & 4095:
        raise _error("EINVAL", f"the new address {new_addr:#x} is not page aligned")
    if not flags & MREMAP_MAYMOVE:
        raise _error("EINVAL", "MREMAP_FIXED and MREMAP_DONTUNMAP need MREMAP_MAYMOVE")
    if flags & MREMAP_DONTUNMAP and old_len != new_len:
        raise _error("EINVAL", "MREMAP_DONTUNMAP needs equal lengths")
    if (addr + old_len) % TOP > new_addr and new_addr + new_len > addr:
        raise _error("EINVAL", "the old and the new range overlap")
    if len(mm.vmas) + 2 >= max_map_count(mm) - 3:
        raise _error("ENOMEM", "max_map_count is too near for a move")


def check_prep_vma(mm: Mm, vma: Vma, addr: int, old_len: int, new_len: int, flags: int) -> None:
    """Whether a range of a VMA may move or grow (mm/mremap.c).

    Errors: EINVAL (an old length of 0 of a mapping that is not shared; MREMAP_DONTUNMAP of a VM_DONTEXPAND or
    VM_PFNMAP one), EFAULT (the range leaves the VMA; such a one would grow), EINVAL (the offset
    wraps), EAGAIN (RLIMIT_MEMLOCK), ENOMEM (RLIMIT_AS, RLIMIT_DATA).
    """
    fixed_size = vma.vm_flags & (VM_DONTEXPAND | VM_PFNMAP)
    if not old_len and not vma.vm_flags & (VM_SHARED | VM_MAYSHARE):
        raise _error("EINVAL", "an old length of 0 duplicates a mapping, which must be shared")
    if flags & MREMAP_DONTUNMAP and fixed_size:
        raise _error("EINVAL", "MREMAP_DONTUNMAP is not for VM_DONTEXPAND or VM_PFNMAP mappings")
    old_len = min(old_len, new_len)  # of a shrink the tail goes before anything moves
    if old_len > vma.end - addr:
        raise _error("EFAULT", f"the old range leaves the VMA, which ends at {vma.end:#x}")
    if new_len == old_len:
        return
    if vma.pgoff + ((addr - vma.start) >> 12) + (new_len >> 12) >= TOP:
        raise _error("EINVAL", "the offset in the file would wrap")
    if fixed_size:
        raise _error("EFAULT", "a VM_DONTEXPAND or VM_PFNMAP mapping does not grow")
    if not mlock_future_ok(mm, vma.vm_flags, new_len - old_len):
        raise _error("EAGAIN", "the locked memory would exceed RLIMIT_MEMLOCK")
    if not may_expand_vm(mm, vma.vm_flags, (new_len - old_len) >> 12):
        raise _error("ENOMEM", "RLIMIT_AS or RLIMIT_DATA would be exceeded")


def remap_move(mm: Mm, start: int, length: int, new_addr: int, flags: int) -> int:
    """Move what ``[start, start + length)`` (bytes) maps, gaps included (mm/mremap.c).

    EFAULT: nothing is mapped at its start.  An error leaves the mappings before it moved.
    """
    end, target, last = start + length, new_addr, 0
    for at in [vma.start for vma in mm.vmas.overlapping(start, end)]:
        vma = mm.vma_at(max(at, start))
        if vma is None or (not last and vma.start > start):
            break
        addr = max(vma.start, start)
        size = min(end, vma.end) - addr
        target += vma.start - last if last else 0
        last = vma.end
        check_prep_vma(mm, vma, addr, size, size, flags)
        _mremap_to(mm, addr, size, target, size, flags)
        target += size
    if not last:
        raise _error("EFAULT", f"nothing is mapped at {start:#x}")
    return new_addr


def _mremap_to(mm: Mm, addr: int, old_len: int, new_addr: int, new_len: int, flags: int) -> int:
    """Move to a given place (`mremap_to`): what is there goes first.

    EFAULT: it was what is to move.  ENOMEM: RLIMIT_AS or RLIMIT_DATA with MREMAP_DONTUNMAP.
    """
    if flags & MREMAP_FIXED:
        do_munmap(mm, new_addr, new_len)
    if old_len > new_len:
        do_munmap(mm, addr + new_len, old_len - new_len)
        old_len = new_len
    vma = mm.vma_at(addr)
    if vma is None:
        raise _error("EFAULT", f"nothing is mapped at {addr:#x} any more")
    if flags & MREMAP_DONTUNMAP and not may_expand_vm(mm, vma.vm_flags, old_len >> 12):
        raise _error("ENOMEM", "RLIMIT_AS or RLIMIT_DATA would be exceeded")
    place = _place(mm, vma, new_addr, new_len, MAP_FIXED if flags & MREMAP_FIXED else 0)
    return _move_vma(mm, vma, addr, old_len, new_len, place, flags)


__all__ = ["check_prep_vma", "do_mremap", "remap_move"]
