"""Advice that changes only a VMA's flags, which splits and joins VMAs (models madvise_vma_behavior and
madvise_update_vma of mm/madvise.c, ksm_madvise of mm/ksm.c, hugepage_madvise of mm/khugepaged.c).
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import KernelError
from .filemap import inode_of, read_ahead
from .flags import (
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_RANDOM,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_MAYSHARE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WIPEONFORK,
)
from .mm_types import Mm
from .vma import Vma
from .vma_merge import vma_modify

_FLAGS: dict[int, tuple[int, int]] = {
    MADV_NORMAL: (0, VM_RAND_READ | VM_SEQ_READ),
    MADV_RANDOM: (VM_RAND_READ, VM_SEQ_READ),
    MADV_SEQUENTIAL: (VM_SEQ_READ, VM_RAND_READ),
    MADV_DONTFORK: (VM_DONTCOPY, 0),
    MADV_DOFORK: (0, VM_DONTCOPY),
    MADV_WIPEONFORK: (VM_WIPEONFORK, 0),
    MADV_KEEPONFORK: (0, VM_WIPEONFORK),
    MADV_DONTDUMP: (VM_DONTDUMP, 0),
    MADV_DODUMP: (0, VM_DONTDUMP),
    MADV_HUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
    MADV_NOHUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV_MERGEABLE: (VM_MERGEABLE, 0),
    MADV_UNMERGEABLE: (0, VM_MERGEABLE),
}
"""The flags that an advice sets and clears."""


def madvise_vma_behavior(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> None:
    """Advice on a part of one VMA that only changes its flags (mm/madvise.c).

    EINVAL: MADV_DOFORK on VM_IO, MADV_WIPEONFORK on a file or a shared mapping, MADV_DODUMP on VM_SPECIAL
    (but not hugetlb).  EAGAIN: a split would exceed max_map_count.  MADV_MERGEABLE is ignored on shared and
    special mappings.  Simplified: KSM merges nothing.
    """
    flags = vma.vm_flags
    if advice == MADV_DOFORK and flags & VM_IO:
        raise KernelError("EINVAL", "madvise", "MADV_DOFORK is not for VM_IO mappings")
    if advice == MADV_WIPEONFORK and (vma.file or flags & VM_SHARED):
        raise KernelError("EINVAL", "madvise", "MADV_WIPEONFORK is for private anonymous mappings")
    if advice == MADV_DODUMP and flags & VM_SPECIAL and not flags & VM_HUGETLB:
        raise KernelError("EINVAL", "madvise", "MADV_DODUMP is not for special mappings")
    if advice == MADV_MERGEABLE and flags & (VM_SPECIAL | VM_SHARED | VM_MAYSHARE | VM_HUGETLB):
        return
    add, clear = _FLAGS[advice]
    madvise_update_vma(mm, vma, start, end, (flags & ~clear) | add)


def madvise_update_vma(mm: Mm, vma: Vma, start: int, end: int, vm_flags: int) -> None:
    """Give a part of a VMA new flags (mm/madvise.c): join its neighbours, else split at the ends."""
    if vm_flags == vma.vm_flags:
        return
    j = mm.sys.journal
    j.enter("madvise_update_vma", ("start", start), ("end", end), ("vm_flags", vm_flags))
    try:
        vma = vma_modify(mm, vma, start, end, vm_flags, "madvise")
    except KernelError as error:
        errno = "EAGAIN" if error.errno == "ENOMEM" else error.errno
        j.leave("madvise_update_vma", errno)
        raise KernelError(errno, "madvise", error.why) from None
    if vma.vm_flags != vm_flags:
        mm.set_vma(vma, vma.replace(vm_flags=vm_flags))
    j.leave("madvise_update_vma", 0)


def madvise_willneed(mm: Mm, vma: Vma, start: int, end: int, _advice: int) -> None:
    """Read ahead (mm/madvise.c): missing pages of a regular file enter the page cache; nothing is mapped.

    Simplified: nothing is swapped in, so anonymous and shmem mappings are left as they are.
    """
    if not vma.file or inode_of(mm.sys, vma.file).kind != "reg":
        return
    first = vma.pgoff + ((start - vma.start) >> 12)
    read_ahead(mm.sys, inode_of(mm.sys, vma.file), first, first + ((end - start) >> 12))


FLAG_ADVICE: dict[int, Callable[[Mm, Vma, int, int, int], None]] = {
    **dict.fromkeys(_FLAGS, madvise_vma_behavior),
    MADV_WILLNEED: madvise_willneed,
}
