"""Moving and resizing mappings (models mm/mremap.c)."""

from __future__ import annotations

from ..errors import KernelError
from .filemap import get_inode
from .flags import (
    MAP_FIXED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    VM_ACCOUNT,
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_MAYSHARE,
    VM_PAT,
    VM_PFNMAP,
    VM_SHARED,
)
from .gup import mm_populate
from .mm_types import Mm
from .mmap import get_unmapped_area
from .move import move_page_tables
from .munmap import do_munmap
from .util import max_map_count, may_expand_vm, mlock_future_ok, vm_enough_memory
from .vma import Vma
from .vma_merge import (
    can_vma_merge_after,
    can_vma_merge_before,
    do_split_vma,
    may_split,
    vma_merge,
)

TOP = 1 << 64
HUGE = 2 << 20


def _error(errno: str, why: str) -> KernelError:
    return KernelError(errno, "mremap", why)


def do_mremap(mm: Mm, addr: int, old_len: int, new_len: int, flags: int, new_addr: int = 0) -> int:
    """Resize or move a mapping and return its address (mremap(2)); lengths in bytes.

    Errors in the kernel's order: EINVAL (flags, alignment, a new length of 0), EFAULT (nothing mapped at
    ``addr``), then those of `_mremap_to`, of munmap (a shrink), of `_vma_to_resize`, and ENOMEM: it cannot
    grow where it is and MREMAP_MAYMOVE is missing, a limit, or no hole.  A shrink is allowed for every VMA.
    """
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP):
        raise _error("EINVAL", f"unknown flags {flags:#x}")
    if flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE:
        raise _error("EINVAL", "MREMAP_FIXED needs MREMAP_MAYMOVE")
    if flags & MREMAP_DONTUNMAP and (not flags & MREMAP_MAYMOVE or old_len != new_len):
        raise _error("EINVAL", "MREMAP_DONTUNMAP needs MREMAP_MAYMOVE and equal lengths")
    if addr & 4095:
        raise _error("EINVAL", f"address {addr:#x} is not page aligned")
    old_len, new_len = _align(old_len), _align(new_len)
    if not new_len:
        raise _error("EINVAL", "the new length is 0")
    vma = mm.vma_at(addr)
    if vma is None:
        raise _error("EFAULT", f"nothing is mapped at {addr:#x}")
    if vma.vm_flags & VM_HUGETLB:
        old_len, new_len = -(-old_len // HUGE) * HUGE, -(-new_len // HUGE) * HUGE
        if addr % HUGE or new_addr % HUGE or new_len > old_len:
            raise _error("EINVAL", "huge pages move whole and aligned, and do not grow")
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        ret = _mremap_to(mm, addr, old_len, new_addr, new_len, flags)
    elif old_len >= new_len:
        if old_len > new_len:
            do_munmap(mm, addr + new_len, old_len - new_len)
        return addr
    else:
        ret = _grow(mm, addr, old_len, new_len, flags)
    moved = mm.vma_at(ret)
    if moved is not None and moved.vm_flags & VM_LOCKED and new_len > old_len:
        mm_populate(mm, ret + old_len, new_len - old_len)
    return ret


def _align(length: int) -> int:
    return (length + 4095) & -4096 & (TOP - 1)


def _grow(mm: Mm, addr: int, old_len: int, new_len: int, flags: int) -> int:
    """Grow a mapping, in place if the room behind it is free, else by a move."""
    vma = _vma_to_resize(mm, addr, old_len, new_len, flags)
    if old_len == vma.end - addr and _vma_expandable(mm, vma, new_len - old_len):
        pages, start, end = (new_len - old_len) >> 12, addr + old_len, addr + new_len
        accounted = bool(vma.vm_flags & VM_ACCOUNT)
        if accounted:
            vm_enough_memory(mm, pages, "mremap")
        pgoff = vma.pgoff + vma.nr_pages
        grown = vma_merge(mm, vma, start, end, vma.vm_flags, vma.anon_vma, vma.file, pgoff)
        if grown is None:
            if accounted:
                mm.sys.journal.add(mm.sys.commit, "committed", -pages)
            raise _error("ENOMEM", "the mapping cannot be extended: it does not merge with anything")
        mm.account(grown.vm_flags, pages)
        if grown.vm_flags & VM_LOCKED:
            mm.sys.journal.add(mm.counters, "locked_vm", pages)
        return addr
    if not flags & MREMAP_MAYMOVE:
        raise _error("ENOMEM", "it cannot grow where it is, and MREMAP_MAYMOVE is not given")
    return _move_vma(mm, vma, addr, old_len, new_len, _place(mm, vma, 0, new_len, 0), flags)


def _place(mm: Mm, vma: Vma, hint: int, size: int, flags: int) -> int:
    huge = bool(vma.vm_flags & VM_HUGETLB)
    try:
        return get_unmapped_area(mm, hint, size, flags, huge=huge, private=vma.is_anonymous)
    except KernelError as error:
        raise _error(error.errno, error.why) from None


def _vma_expandable(mm: Mm, vma: Vma, delta: int) -> bool:
    """Whether ``delta`` bytes behind a VMA are free and in user space (`vma_expandable`)."""
    end = vma.end + delta
    return end <= mm.task_size and mm.vmas.first_overlap(vma.end, end) is None


def _vma_to_resize(mm: Mm, addr: int, old_len: int, new_len: int, flags: int) -> Vma:
    """The VMA at ``addr``, if it may have the new length (`vma_to_resize`).

    Errors: EFAULT, EINVAL (old length 0 of a mapping that is not shared; MREMAP_DONTUNMAP of a VM_DONTEXPAND
    or VM_PFNMAP one), EFAULT (the range leaves the VMA; such a one would grow), EINVAL (the offset wraps),
    EAGAIN (RLIMIT_MEMLOCK), ENOMEM (RLIMIT_AS, RLIMIT_DATA).
    """
    vma = mm.vma_at(addr)
    if vma is None:
        raise _error("EFAULT", f"nothing is mapped at {addr:#x} any more")
    fixed_size = vma.vm_flags & (VM_DONTEXPAND | VM_PFNMAP)
    if not old_len and not vma.vm_flags & (VM_SHARED | VM_MAYSHARE):
        raise _error("EINVAL", "an old length of 0 duplicates a mapping, which must be shared")
    if flags & MREMAP_DONTUNMAP and fixed_size:
        raise _error("EINVAL", "MREMAP_DONTUNMAP is not for VM_DONTEXPAND or VM_PFNMAP mappings")
    if old_len > vma.end - addr:
        raise _error("EFAULT", f"the old range leaves the VMA, which ends at {vma.end:#x}")
    if new_len == old_len:
        return vma
    pgoff = vma.pgoff + ((addr - vma.start) >> 12)
    if pgoff + (new_len >> 12) >= TOP:
        raise _error("EINVAL", "the offset in the file would wrap")
    if fixed_size:
        raise _error("EFAULT", "a VM_DONTEXPAND or VM_PFNMAP mapping does not grow")
    if not mlock_future_ok(mm, vma.vm_flags, new_len - old_len):
        raise _error("EAGAIN", "the locked memory would exceed RLIMIT_MEMLOCK")
    if not may_expand_vm(mm, vma.vm_flags, (new_len - old_len) >> 12):
        raise _error("ENOMEM", "RLIMIT_AS or RLIMIT_DATA would be exceeded")
    return vma


def _mremap_to(mm: Mm, addr: int, old_len: int, new_addr: int, new_len: int, flags: int) -> int:
    """Move to a given place (`mremap_to`): what is there goes first, and stays gone if a later check fails.

    Errors before that: EINVAL (unaligned, beyond user space, overlap with the old range), ENOMEM
    (max_map_count is near).
    """
    if new_addr & 4095:
        raise _error("EINVAL", f"the new address {new_addr:#x} is not page aligned")
    if new_len > mm.task_size or new_addr > mm.task_size - new_len:
        raise _error("EINVAL", "the new range ends above the user address space")
    if (addr + old_len) % TOP > new_addr and new_addr + new_len > addr:
        raise _error("EINVAL", "the old and the new range overlap")
    if len(mm.vmas) + 2 >= max_map_count(mm) - 3:
        raise _error("ENOMEM", "max_map_count is too near for a move")
    if flags & MREMAP_FIXED:
        do_munmap(mm, new_addr, new_len)
    if old_len > new_len:
        do_munmap(mm, addr + new_len, old_len - new_len)
        old_len = new_len
    vma = _vma_to_resize(mm, addr, old_len, new_len, flags)
    if flags & MREMAP_DONTUNMAP and not may_expand_vm(mm, vma.vm_flags, old_len >> 12):
        raise _error("ENOMEM", "RLIMIT_AS or RLIMIT_DATA would be exceeded")
    place = _place(mm, vma, new_addr, new_len, MAP_FIXED if flags & MREMAP_FIXED else 0)
    return _move_vma(mm, vma, addr, old_len, new_len, place, flags)


def _copy_vma(mm: Mm, vma: Vma, old_addr: int, addr: int, size: int, keep: bool) -> None:
    """The VMA at the new place (`copy_vma`): joined with neighbours there, else a copy with its own range.

    An anonymous VMA without an anon_vma gets the offset of its new address, so that it merges more easily:
    even with the one it comes from, which must not be when that one stays (``keep``; later kernels let it:
    `KernelVersion.dontunmap_joins`).
    """
    pgoff = vma.pgoff + ((old_addr - vma.start) >> 12)
    if vma.is_anonymous and not vma.anon_vma:
        pgoff = addr >> 12
    prev, above = mm.vmas.find_prev(addr), pgoff + (size >> 12)
    flags, anon_vma, file = vma.vm_flags, vma.anon_vma, vma.file
    with_itself = (
        keep
        and not mm.sys.version.dontunmap_joins
        and (
            (vma.end == addr and can_vma_merge_after(mm, vma, flags, anon_vma, file, pgoff))
            or (vma.start == addr + size and can_vma_merge_before(mm, vma, flags, anon_vma, file, above))
        )
    )
    if not with_itself and vma_merge(mm, prev, addr, addr + size, flags, anon_vma, file, pgoff) is not None:
        return
    mm.sys.journal.write(mm.vmas, addr, vma.replace(start=addr, end=addr + size, pgoff=pgoff))
    mm.sys.journal.add(mm.counters, "map_count", 1)
    if vma.file:
        get_inode(mm.sys, vma.file)


def _move_vma(mm: Mm, vma: Vma, old_addr: int, old_len: int, new_len: int, new_addr: int, flags: int) -> int:
    """Move entries and accounts to the new place, and unmap the old one (`move_vma`).

    Pages, rss and offsets stay as they are.  ENOMEM: max_map_count is near, commit charge, no frame for a
    table (then everything is moved back).  With MREMAP_DONTUNMAP the old VMA stays, empty and unlocked; if
    it moved whole, or was locked, without an anon_vma.
    """
    j, keep = mm.sys.journal, bool(flags & MREMAP_DONTUNMAP)
    if len(mm.vmas) >= max_map_count(mm) - 3:
        raise _error("ENOMEM", "max_map_count is too near for a move")
    for border, edge in ((old_addr, vma.start), (old_addr + old_len, vma.end)):
        if border != edge:
            may_split(mm, vma, border, "mremap")
    account = vma.vm_flags & VM_ACCOUNT
    charged = (new_len if keep else new_len - old_len) >> 12
    if account:
        vm_enough_memory(mm, charged, "mremap")
    j.enter("move_vma", ("old_addr", old_addr), ("new_addr", new_addr), ("new_len", new_len))
    flags_before = vma.vm_flags
    _copy_vma(mm, vma, old_addr, new_addr, new_len, keep)
    done = move_page_tables(mm, vma, old_addr, new_addr, old_len)
    mm.account(flags_before, new_len >> 12)
    if done < old_len:
        move_page_tables(mm, vma, new_addr, old_addr, done)
        if account:
            j.add(mm.sys.commit, "committed", -charged)
        _unmap_quietly(mm, new_addr, new_len, account)
        j.leave("move_vma", "ENOMEM")
        raise _error("ENOMEM", "no frame is left for a page table")
    old = mm.vma_at(old_addr)
    if old is not None and old.vm_flags & VM_HUGETLB:  # clear_vma_resv_huge_pages: the new VMA has them now
        mm.set_vma(old, old.replace(private=0))
    _change_flags(mm, old_addr, VM_PAT if flags_before & VM_PFNMAP else 0)  # untrack_pfn_moved
    if keep:
        _leave_behind(mm, old_addr, old_len, new_addr)
        if flags_before & VM_LOCKED and mm.sys.version.dontunmap_counts_twice:
            j.add(mm.counters, "locked_vm", new_len >> 12)
        j.leave("move_vma", new_addr)
        return new_addr
    if old_len:
        _unmap_quietly(mm, old_addr, old_len, account)
    if flags_before & VM_LOCKED:
        j.add(mm.counters, "locked_vm", new_len >> 12)
    j.leave("move_vma", new_addr)
    return new_addr


def _change_flags(mm: Mm, address: int, clear: int, add: int = 0) -> None:
    vma = mm.vma_at(address)
    if vma is not None and (vma.vm_flags & ~clear) | add != vma.vm_flags:
        mm.set_vma(vma, vma.replace(vm_flags=(vma.vm_flags & ~clear) | add))


def _leave_behind(mm: Mm, old_addr: int, old_len: int, new_addr: int) -> None:
    """What MREMAP_DONTUNMAP does to the old VMA: nothing is there any more, so its offset is that of its
    address again (later kernels: it stays, `KernelVersion.dontunmap_keeps_pgoff`).

    Only the moved part of a locked one is unlocked: it becomes a VMA of its own, and stays one (later kernels
    unlock the whole VMA: `KernelVersion.dontunmap_unlocks_whole`).
    """
    vma = mm.vma_at(old_addr)
    assert vma is not None
    if vma.vm_flags & VM_LOCKED and not mm.sys.version.dontunmap_unlocks_whole:
        if old_addr > vma.start:
            vma = do_split_vma(mm, vma, old_addr, "mremap")[1]
        if old_addr + old_len < vma.end:
            do_split_vma(mm, vma, old_addr + old_len, "mremap")
    _change_flags(mm, old_addr, VM_LOCKED_MASK)
    vma = mm.vma_at(old_addr)
    assert vma is not None
    if (vma.start, vma.end) == (old_addr, old_addr + old_len) and new_addr not in vma:
        own = vma.is_anonymous and not mm.sys.version.dontunmap_keeps_pgoff
        pgoff = vma.start >> 12 if own else vma.pgoff
        if vma.anon_vma or pgoff != vma.pgoff:
            mm.set_vma(vma, vma.replace(anon_vma=0, chain=0, pgoff=pgoff))


def _unmap_quietly(mm: Mm, addr: int, size: int, account: int) -> None:
    """Unmap a range whose charge has moved on: the VMA is uncounted first, what is left of it counted
    again.
    """
    vma = mm.vma_at(addr)
    assert vma is not None
    _change_flags(mm, addr, account)
    do_munmap(mm, addr, size)
    for left in (vma.start if vma.start < addr else -1, addr + size if vma.end > addr + size else -1):
        if left >= 0:
            _change_flags(mm, left, 0, account)
