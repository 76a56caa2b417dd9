"""Files in memory: their size, holes and seals (models mm/shmem.c and mm/memfd.c, and for other files
do_truncate and vfs_fallocate of fs/open.c).
"""

from __future__ import annotations

import attrs

from ..errors import KernelError
from .filemap import MEMORY_KINDS, inode_of
from .flags import (
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    O_ACCMODE,
    O_RDONLY,
    VM_MAYWRITE,
    VM_SHARED,
)
from .hugetlb import hugetlbfs_punch_hole
from .mm_types import File, Inode, System
from .truncate import END, mappings_of, truncate_inode_pages_range, truncate_pagecache, unmap_mapping_range

F_ALL_SEALS = 31
TOP = 1 << 64
SEAL_NAMES = {
    "seal": F_SEAL_SEAL,
    "shrink": F_SEAL_SHRINK,
    "grow": F_SEAL_GROW,
    "write": F_SEAL_WRITE,
    "future_write": F_SEAL_FUTURE_WRITE,
}


def resize(system: System, file: File, size: int) -> None:
    """Set a file's size in bytes (do_truncate, `shmem_setattr`); what lies behind it goes.

    EINVAL: a device, or not open for writing, or negative.  EPERM: sealed against shrinking or growing.
    """
    inode = inode_of(system, file.id)
    if size >> 63:
        raise KernelError("EINVAL", "ftruncate", "the size is negative")
    if inode.kind not in ("reg", *MEMORY_KINDS):
        raise KernelError("EINVAL", "ftruncate", f"{file.path} is a device")
    if file.flags & O_ACCMODE == O_RDONLY:
        raise KernelError("EINVAL", "ftruncate", f"{file.path} is open read-only")
    if size < inode.size and inode.seals & F_SEAL_SHRINK:
        raise KernelError("EPERM", "ftruncate", f"{file.path} is sealed against shrinking")
    if size > inode.size and inode.seals & F_SEAL_GROW:
        raise KernelError("EPERM", "ftruncate", f"{file.path} is sealed against growing")
    smaller = size < inode.size
    inode = attrs.evolve(inode, size=size)
    system.journal.write(system.inodes, inode.id, inode)
    if smaller:
        truncate_pagecache(system, inode, size)


def punch_hole(system: System, file: File, offset: int, length: int, func: str = "fallocate") -> None:
    """Deallocate bytes ``[offset, offset + length)`` of a file, whose size stays (FALLOC_FL_PUNCH_HOLE).

    Whole pages leave the cache and all mappings; private copies stay.  A hole that ends inside the first page
    loses the entries of all pages behind it: the kernel's last byte to unmap wraps.  Errors, in the kernel's order:
    EINVAL (length 0 or negative), EBADF (not open for writing), ENODEV (a device), EOPNOTSUPP (a file system
    without holes; simplified: all but memory files), EPERM (sealed against writing).
    """
    inode = inode_of(system, file.id)
    if offset >> 63 or not length or length >> 63:
        raise KernelError("EINVAL", func, f"{offset:#x} + {length:#x} is no range of a file")
    if file.flags & O_ACCMODE == O_RDONLY:
        raise KernelError("EBADF", func, f"{file.path} is open read-only")
    if inode.kind not in ("reg", *MEMORY_KINDS):
        raise KernelError("ENODEV", func, f"{file.path} is a device")
    if inode.kind == "hugetlbfs":
        hugetlbfs_punch_hole(system, inode, offset, length)
        return
    if inode.kind != "shmem":
        raise KernelError("EOPNOTSUPP", func, f"the file system of {file.path} has no holes")
    if inode.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
        raise KernelError("EPERM", func, f"{file.path} is sealed against writing")
    j = system.journal
    j.enter("shmem_fallocate", ("inode", inode.id), ("offset", offset), ("len", length))
    low, high = (offset + 4095) & -4096, (offset + length) & -4096
    if high > low or not high:
        unmap_mapping_range(system, inode.id, low, (high - low) % TOP, False)
    truncate_inode_pages_range(system, inode, offset, offset + length)
    j.leave("shmem_fallocate", 0)


def may_write(inode: Inode, file: File, end: int) -> None:
    """EPERM where a seal forbids a write(2) that ends at byte ``end`` (`shmem_write_begin`)."""
    if inode.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
        raise KernelError("EPERM", "pwrite", f"{file.path} is sealed against writing")
    if inode.seals & F_SEAL_GROW and end > inode.size:
        raise KernelError("EPERM", "pwrite", f"{file.path} is sealed against growing")


def add_seals(system: System, file: File, seals: int) -> None:
    """Add seals to a file in memory (fcntl F_ADD_SEALS, `memfd_add_seals`); they cannot be taken off.

    EPERM: not open for writing, or sealed against seals.  EINVAL: an unknown seal, or no memory file.  EBUSY:
    F_SEAL_WRITE while a shared mapping that may write is there.
    """
    inode = inode_of(system, file.id)
    if file.flags & O_ACCMODE == O_RDONLY:
        raise KernelError("EPERM", "fcntl", f"{file.path} is open read-only")
    if seals & ~F_ALL_SEALS:
        raise KernelError("EINVAL", "fcntl", f"{seals:#x} holds no known seals")
    if inode.kind != "shmem":
        raise KernelError("EINVAL", "fcntl", f"{file.path} cannot be sealed")
    if inode.seals & F_SEAL_SEAL:
        raise KernelError("EPERM", "fcntl", f"{file.path} takes no more seals")
    if seals & ~inode.seals & F_SEAL_WRITE:
        for _, vma in mappings_of(system, inode.id, 0, END):
            if vma.vm_flags & (VM_SHARED | VM_MAYWRITE) == VM_SHARED | VM_MAYWRITE:
                raise KernelError("EBUSY", "fcntl", f"{file.path} is mapped shared at {vma.start:#x}")
    system.journal.write(system.inodes, inode.id, attrs.evolve(inode, seals=inode.seals | seals))
