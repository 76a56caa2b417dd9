"""Making mappings (models mm/mmap.c): the checks of mmap in their order, address choice, merging, brk, stack
growth.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import errorcode
from typing import NoReturn

import attrs

from ..arch.x86 import _PAGE_CHG_MASK, vm_get_page_prot
from ..errors import CallerBugError, KernelError
from ..value import Value
from .filemap import MEMORY_KINDS, get_inode, put_inode
from .flags import (
    F_SEAL_WRITE,
    LEGACY_MAP_MASK,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_TYPE,
    O_ACCMODE,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    PROT_WRITE,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_SPECIAL,
    VM_WRITE,
    accountable_mapping,
    calc_vm_flag_bits,
    calc_vm_prot_bits,
)
from .hugetlb import hugetlb_get_unmapped_area
from .memory.zap import unmap_page_range
from .mm_types import STACK_GUARD_GAP, File, Inode, Mm
from .mmu_gather import MmuGather
from .munmap import do_munmap, free_pgtables
from .page_alloc import OutOfMemory
from .util import (
    OVERCOMMIT_NEVER,
    can_do_mlock,
    max_map_count,
    may_expand_vm,
    mlock_future_ok,
    sysctl,
    vm_enough_memory,
)
from .vma import Vma
from .vma_merge import vma_expand

PAGE_MASK = ~4095
TOP = 1 << 64
HUGE = 2 << 20


@attrs.frozen(eq=False, repr=False)
class Backing(Value):
    """What a file brings to a mapping: its inode, and what its ``mmap`` method does to the new VMA."""

    file: File
    inode: Inode
    mmap: Callable[[Mm, Vma], Vma] | None


def _fail(errno: str, why: str, func: str = "mmap") -> NoReturn:
    raise KernelError(errno, func, why)


def do_mmap(
    mm: Mm,
    addr: int,
    length: int,
    prot: int,
    flags: int,
    backing: Backing | None = None,
    offset: int = 0,
    shmem_setup: Callable[[int], Backing] | None = None,
) -> int:
    """Create a mapping and return its address (mmap(2), ksys_mmap_pgoff, do_mmap); sizes and offset are in
    bytes.

    ``shmem_setup`` makes the file of a shared anonymous mapping of so many bytes (`shmem_zero_setup`).
    Errors: those of `judge_mmap`, ENOMEM, and the driver's own.
    """
    return mmap_region(mm, *judge_mmap(mm, addr, length, prot, flags, backing, offset), backing, shmem_setup)


def judge_mmap(
    mm: Mm, addr: int, length: int, prot: int, flags: int, backing: Backing | None, offset: int
) -> tuple[int, int, int, int]:
    """The checks of do_mmap, and what they make of the arguments: address, size, vm_flags, offset in pages.

    Errors, in the kernel's order: EINVAL, ENOMEM, EPERM, EEXIST, EAGAIN, EOVERFLOW, EACCES, ENODEV.
    """
    if length == 0 or offset & 4095:
        _fail("EINVAL", "length is 0" if length == 0 else f"offset {offset:#x} is not page aligned")
    if flags & MAP_FIXED_NOREPLACE:
        flags |= MAP_FIXED
    if not flags & MAP_FIXED:
        addr &= PAGE_MASK
        if 0 < addr < mm.sys.mmap_min_addr:
            addr = mm.sys.mmap_min_addr
    size = (length + 4095) & PAGE_MASK & (TOP - 1)
    if size == 0:
        _fail("ENOMEM", "length wraps when rounded up to pages")
    pgoff = offset >> 12
    if len(mm.vmas) > (limit := max_map_count(mm)):
        _fail("ENOMEM", f"the process has more than {limit} VMAs (max_map_count)")
    private = backing is None and flags & MAP_TYPE == MAP_PRIVATE
    huge = backing is not None and is_file_hugepages(backing)
    addr = get_unmapped_area(mm, addr, size, flags, huge=huge, private=private)
    if flags & MAP_FIXED_NOREPLACE:
        there = mm.vmas.first_overlap(addr, addr + size)
        if there is not None:
            _fail("EEXIST", f"the VMA {there.start:#x}-{there.end:#x} is in the way")
    vm_flags = (
        calc_vm_prot_bits(prot)
        | calc_vm_flag_bits(flags, stack_nohugepage=mm.sys.version.stack_nohugepage)
        | mm.field("def_flags")
        | VM_MAYREAD
        | VM_MAYWRITE
        | VM_MAYEXEC
    )
    if flags & MAP_LOCKED and not can_do_mlock(mm):
        _fail("EPERM", "RLIMIT_MEMLOCK is 0 and the process may not lock without limit")
    if vm_flags & VM_LOCKED and not mlock_future_ok(mm, vm_flags, size):
        _fail("EAGAIN", "the locked memory would exceed RLIMIT_MEMLOCK")
    kind = flags & MAP_TYPE
    if backing is not None:
        _check_reach(backing, pgoff, size)
        vm_flags = _file_flags(backing, kind, prot, flags, vm_flags)
    elif kind == MAP_SHARED:
        if vm_flags & VM_GROWSDOWN:
            _fail("EINVAL", "MAP_GROWSDOWN needs a private mapping")
        pgoff = 0
        vm_flags |= VM_SHARED | VM_MAYSHARE
    elif kind == MAP_PRIVATE:
        pgoff = addr >> 12
    else:
        _fail("EINVAL", "flags name neither MAP_PRIVATE nor MAP_SHARED")
    if flags & MAP_NORESERVE and (huge or sysctl(mm, "vm.overcommit_memory") != OVERCOMMIT_NEVER):
        vm_flags |= VM_NORESERVE
    return addr, size, vm_flags, pgoff


def is_file_hugepages(backing: Backing | None) -> bool:
    """Whether a file's pages are huge ones of the pool (include/linux/hugetlb.h)."""
    return backing is not None and backing.inode.kind == "hugetlbfs"


def _check_reach(backing: Backing, pgoff: int, size: int) -> None:
    """EOVERFLOW when the mapping ends behind what the file's kind can address (`file_mmap_ok`)."""
    limit = (1 << 63) - 1 if backing.inode.kind in ("reg", *MEMORY_KINDS) else TOP - 1
    if size > limit or pgoff > (limit - size) >> 12:
        _fail("EOVERFLOW", f"the mapping ends behind the largest offset of {backing.file.path}")


def _file_flags(backing: Backing, kind: int, prot: int, flags: int, vm_flags: int) -> int:
    mode = backing.file.flags & O_ACCMODE
    if kind in (MAP_SHARED, MAP_SHARED_VALIDATE):
        if kind == MAP_SHARED_VALIDATE and flags & ~LEGACY_MAP_MASK:
            _fail("EOPNOTSUPP", f"{backing.file.path} does not support {flags & ~LEGACY_MAP_MASK:#x}")
        if prot & PROT_WRITE and mode == O_RDONLY:
            _fail("EACCES", f"{backing.file.path} is open read-only; a shared writable mapping needs O_RDWR")
        vm_flags |= VM_SHARED | VM_MAYSHARE
        if mode != O_RDWR:
            vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
    elif kind != MAP_PRIVATE:
        _fail("EINVAL", "flags name neither MAP_PRIVATE nor MAP_SHARED")
    if mode == O_WRONLY:
        _fail("EACCES", f"{backing.file.path} is open write-only; every mapping needs to read")
    if backing.mmap is None:
        _fail("ENODEV", f"{backing.file.path} cannot be mapped")
    if flags & MAP_GROWSDOWN:
        _fail("EINVAL", "MAP_GROWSDOWN needs an anonymous mapping")
    if vm_flags & VM_SHARED and backing.inode.seals & F_SEAL_WRITE:
        # Before anything is unmapped, unlike F_SEAL_FUTURE_WRITE, which the file's mmap method asks for.
        if vm_flags & VM_WRITE:
            _fail("EPERM", f"{backing.file.path} is sealed against writing: no shared mapping can write")
        vm_flags &= ~VM_MAYWRITE
    return vm_flags


def get_unmapped_area(
    mm: Mm, addr: int, size: int, flags: int, *, huge: bool = False, private: bool = False
) -> int:
    """Choose the address of a mapping (arch_get_unmapped_area_topdown): fixed, at the hint, else the highest
    hole.  ``private``: anonymous memory of the process alone, which later kernels align to 2 MiB where its
    length and the lack of a hint allow it (`KernelVersion.aligns_huge`, thp_get_unmapped_area).

    ENOMEM: no hole is large enough.  EINVAL: a fixed address that is not page aligned.  EPERM: below
    mmap_min_addr.  ``huge``: for huge pages of the pool, at a multiple of their size.
    """
    if huge:
        addr, flags = hugetlb_get_unmapped_area(mm, addr, size, flags), flags | MAP_FIXED
    if size > mm.task_size:
        _fail("ENOMEM", f"length {size:#x} is larger than the address space")
    if flags & MAP_FIXED:
        if addr > TOP - 4096:  # the address that comes back reads as a negative errno (IS_ERR_VALUE)
            _fail(errorcode.get(TOP - addr, str(TOP - addr)), f"the address {addr:#x} reads as an error")
        if addr > mm.task_size - size:
            _fail("ENOMEM", f"the range ends above the user address space ({mm.task_size:#x})")
        if addr & 4095:
            _fail("EINVAL", f"the fixed address {addr:#x} is not page aligned")
        if addr < mm.sys.mmap_min_addr and not mm.sys.cap_sys_rawio:
            _fail("EPERM", f"the address lies below mmap_min_addr ({mm.sys.mmap_min_addr:#x})")
        return addr
    if addr:
        hint = (addr + 4095) & PAGE_MASK
        if hint <= mm.task_size - size and hint >= mm.sys.mmap_min_addr:
            after = mm.find_vma(hint)
            free = after is None or hint + size <= guarded_start(after)
            if free and (after is None or after.start > hint):
                return hint
    if private and not addr and size % HUGE == 0 and mm.sys.version.aligns_huge:
        found = _find_gap(mm, size + HUGE)
        if found is not None:  # with 2 MiB of padding, so that there is room to round up
            return found + HUGE if found % HUGE == 0 else (found + HUGE) & -HUGE
    found = _find_gap(mm, size)
    if found is None:
        _fail("ENOMEM", f"no hole of {size:#x} bytes is left")
    return found


def _find_gap(mm: Mm, size: int) -> int | None:
    """The highest hole below mmap_base, else the lowest above a third of user space."""
    found = mm.vmas.find_gap_topdown(size, 4096, mm.field("mmap_base"), STACK_GUARD_GAP)
    if found is None:
        low = (mm.task_size // 3 + 4095) & PAGE_MASK
        found = mm.vmas.find_gap_bottomup(size, low, mm.task_size, STACK_GUARD_GAP)
    return found


def guarded_start(vma: Vma) -> int:
    """Where a VMA starts for its lower neighbour (`vm_start_gap`): a stack keeps its guard gap free."""
    return max(0, vma.start - STACK_GUARD_GAP) if vma.vm_flags & VM_GROWSDOWN else vma.start


def mmap_region(
    mm: Mm,
    addr: int,
    size: int,
    vm_flags: int,
    pgoff: int,
    backing: Backing | None = None,
    shmem_setup: Callable[[int], Backing] | None = None,
) -> int:
    """Put the mapping in place (mm/mmap.c): unmap what is there, charge, join a neighbour or insert a new
    VMA.

    Simplified: what a shared anonymous mapping would charge (shmem_acct_size) is judged, but not kept.
    """
    j = mm.sys.journal
    end = addr + size
    j.enter("mmap_region", ("addr", addr), ("len", size), ("vm_flags", vm_flags))
    try:
        accountable = accountable_mapping(vm_flags) and not (backing and is_file_hugepages(backing))
        shmem = backing is None and shmem_setup is not None
        below, above = _make_room(mm, addr, size, vm_flags, accountable, shmem)
    except KernelError as error:
        j.leave("mmap_region", error.errno)
        raise
    if accountable:
        vm_flags |= VM_ACCOUNT
    if backing is None and vm_flags & VM_SHARED and shmem_setup is not None:
        backing = shmem_setup(size)
    name, ops = ("", "")
    file_id = 0
    if backing is not None:
        file_id, name, ops = backing.file.id, backing.file.path, ""
    if vma_expand(mm, addr, end, vm_flags, file_id, pgoff, below, above) is not None:
        # The file's mmap method is not asked: a neighbour that may grow over the range has been through it.
        mm.account(vm_flags, size >> 12)
        if vm_flags & VM_LOCKED:
            j.add(mm.counters, "locked_vm", size >> 12)
        j.leave("mmap_region", addr)
        return addr
    vma = Vma(addr, end, vm_flags | VM_SOFTDIRTY, pgoff, vm_get_page_prot(vm_flags), file_id, 0, ops, name)
    j.change(mm.vmas, addr, None, vma)
    if backing is not None:
        get_inode(mm.sys, file_id)
        assert backing.mmap is not None
        try:
            j.enter("call_mmap", ("file", backing.file.path))
            vma = backing.mmap(mm, vma)
            j.leave("call_mmap", 0)
        except (KernelError, OutOfMemory, CallerBugError) as error:
            errno = error.errno if isinstance(error, KernelError) else "ENOMEM"
            j.leave("call_mmap", errno)
            _undo_driver(mm, vma)
            j.leave("mmap_region", errno)
            if isinstance(error, OutOfMemory):
                raise KernelError("ENOMEM", "mmap", str(error)) from None
            raise
    j.add(mm.counters, "map_count", 1)
    mm.account(vma.vm_flags, size >> 12)
    if backing is not None or vm_flags & VM_LOCKED:
        _finish(mm, vma)
    j.leave("mmap_region", addr)
    return addr


def _make_room(
    mm: Mm, addr: int, size: int, vm_flags: int, accountable: bool, shmem: bool
) -> tuple[Vma | None, Vma | None]:
    """The limits, the mappings in the way, and the charge, in the kernel's order; returns the VMAs before
    and after the range, which is free then.
    """
    pages, end = size >> 12, addr + size
    if not may_expand_vm(mm, vm_flags, pages):
        replaced = sum((min(v.end, end) - max(v.start, addr)) >> 12 for v in mm.vmas.overlapping(addr, end))
        if not may_expand_vm(mm, vm_flags, pages - replaced):
            _fail("ENOMEM", "the mapping would exceed RLIMIT_AS or RLIMIT_DATA")
    below, there, above = mm.vmas.around(addr, end)
    if there:
        try:
            do_munmap(mm, addr, size)
        except KernelError as error:
            raise KernelError("ENOMEM", "mmap", error.why) from None
        below, _, above = mm.vmas.around(addr, end)
    if accountable:
        vm_enough_memory(mm, pages)
    elif shmem and vm_flags & VM_SHARED and not vm_flags & VM_NORESERVE:
        vm_enough_memory(mm, pages, charge=False)
    return below, above


def _finish(mm: Mm, vma: Vma) -> None:
    """What follows when the driver has had its say: locked pages are counted, the protection is final."""
    flags = vma.vm_flags
    if flags & VM_LOCKED:
        if flags & VM_SPECIAL or flags & VM_HUGETLB:
            flags &= ~VM_LOCKED_MASK
        else:
            mm.sys.journal.add(mm.counters, "locked_vm", vma.nr_pages)
    new = vma.replace(vm_flags=flags, page_prot=vma_page_prot(mm, vma, flags))
    if new != vma:
        mm.set_vma(vma, new)


def vma_page_prot(mm: Mm, vma: Vma, vm_flags: int) -> int:
    """The bits of a new entry of a VMA when it has ``vm_flags`` (`vma_set_page_prot`); cache bits stay.

    Without the write bit where the first write to a page is to be noticed.
    """
    prot = _pgprot_modify(vma.page_prot, vm_flags)
    if vma_wants_writenotify(mm, vma, vm_flags, prot):
        prot = _pgprot_modify(prot, vm_flags & ~VM_SHARED)
    return prot


def _pgprot_modify(old: int, vm_flags: int) -> int:
    return (old & _PAGE_CHG_MASK) | (vm_get_page_prot(vm_flags) & ~_PAGE_CHG_MASK)


def vma_wants_writenotify(mm: Mm, vma: Vma, vm_flags: int, prot: int) -> bool:
    """Whether writes to clean pages of a shared writable mapping must fault (mm/mmap.c): the file wants to
    know, or soft-dirty bits are tracked.
    """
    if vm_flags & (VM_WRITE | VM_SHARED) != VM_WRITE | VM_SHARED:
        return False
    ops = mm.sys.ops_of(vma)
    if ops is not None and ops.page_mkwrite:
        return True
    if prot != _pgprot_modify(prot, vm_flags):
        return False
    return not vm_flags & (VM_SOFTDIRTY | VM_HUGETLB)


def _undo_driver(mm: Mm, vma: Vma) -> None:
    """A driver refused: take away what it has mapped so far, and the VMA (the error path of mmap_region)."""
    current = mm.vmas.get(vma.start)
    assert current is not None
    gather = MmuGather(mm)
    unmap_page_range(mm, current, vma.start, vma.end, gather)
    before, after = mm.vmas.find_prev(vma.start), mm.vmas.find(vma.end)
    floor, ceiling = (before.end if before else 0), (after.start if after else 0)
    free_pgtables(mm, vma.start, vma.end, floor, ceiling, gather)
    gather.finish()
    mm.sys.journal.write(mm.vmas, vma.start, None)
    put_inode(mm.sys, current.file)
    if current.vm_flags & VM_ACCOUNT:
        mm.sys.journal.add(mm.sys.commit, "committed", -current.nr_pages)


__all__ = ["MAP_ANONYMOUS", "Backing", "do_mmap", "get_unmapped_area", "mmap_region"]
