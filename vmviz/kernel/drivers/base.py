"""What a driver is to the simulated kernel: an inode with an ``mmap`` method and a table of VMA
operations.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..errors import KernelError
from ..mm.filemap import MEMORY_KINDS, filemap_fault
from ..mm.flags import F_SEAL_FUTURE_WRITE, VM_MAYWRITE, VM_SHARED, VM_WRITE
from ..mm.hugetlb import hugetlbfs_file_mmap
from ..mm.memory.do_fault import do_fault_page
from ..mm.memory.fault import FaultContext
from ..mm.mm_types import File, Inode, Mm, System, VmOperations
from ..mm.mmap import Backing
from ..mm.page_alloc import DRIVER
from ..mm.vma import Vma
from ..value import Value


@attrs.frozen(eq=False, repr=False)
class Driver(Value):
    """A character device or PCI resource file.

    ``mmap(mm, vma)`` is the file's mmap method: it returns the VMA as it left it, or raises `KernelError`.
    ``size`` is how much can be mapped, in bytes; ``about`` says in a sentence what kind of mapping it makes.
    """

    path: str
    size: int
    mmap: Callable[[Mm, Vma], Vma]
    about: str
    dev: str = "00:05"


FILE_OPS = VmOperations(
    "generic_file_vm_ops", filemap_fault, explain="the page cache fills a missing page", page_mkwrite=True
)
SHMEM_OPS = VmOperations("shmem_vm_ops", filemap_fault, explain="shmem makes a missing page on the spot")


def map_file(mm: Mm, vma: Vma) -> Vma:
    """The mmap method of regular and shmem files (`generic_file_mmap`, `shmem_mmap`)."""
    inode: Inode = mm.sys.inodes.get(mm.sys.files.get(vma.file).inode)
    flags = vma.vm_flags
    if inode.seals & F_SEAL_FUTURE_WRITE and flags & VM_SHARED:  # seal_check_future_write
        if flags & VM_WRITE:
            raise KernelError("EPERM", "mmap", f"{inode.path} is sealed against future writing")
        flags &= ~VM_MAYWRITE
    new = vma.replace(vm_flags=flags, ops=SHMEM_OPS.name if inode.kind == "shmem" else FILE_OPS.name)
    mm.set_vma(vma, new)
    return new


def add_driver(system: System, driver: Driver, *ops: VmOperations) -> Inode:
    """Register a driver and its VMA operations; returns its inode."""
    for table in ops:
        system.vm_ops[table.name] = table
    number = system.new_id("inode")
    inode = Inode(number, driver.path, "chr", driver.size, driver.path, number, driver.dev)
    system.journal.write(system.inodes, number, inode)
    system.drivers[driver.path] = driver
    return inode


def open_backing(system: System, file: File) -> Backing:
    """What an open file brings to a mapping."""
    inode: Inode = system.inodes.get(file.inode)
    if inode.kind == "hugetlbfs":
        return Backing(file, inode, hugetlbfs_file_mmap)
    if inode.kind in ("reg", *MEMORY_KINDS):
        return Backing(file, inode, map_file)
    driver = system.drivers.get(inode.device)
    return Backing(file, inode, driver.mmap if driver else None)


def in_device(driver_size: int, vma: Vma, path: str) -> None:
    """EINVAL unless the VMA lies within the device's memory."""
    if (vma.pgoff + vma.nr_pages) << 12 > (driver_size + 4095) & ~4095:
        raise KernelError(
            "EINVAL", "mmap", f"{path} has {driver_size:#x} bytes; the mapping reaches beyond them"
        )


class DriverPages:
    """Pages of RAM that a driver owns, allocated when first asked for and handed to user space one by one."""

    def __init__(self, system: System, name: str, nr_pages: int) -> None:
        self.system = system
        self.nr_pages = nr_pages
        self.pages = system.driver_pages
        self.name = name

    def pfn(self, index: int) -> int:
        """The frame of page ``index``; -1 behind the last."""
        if not 0 <= index < self.nr_pages:
            return -1
        pfn = self.pages.get((self.name, index))
        if pfn is None:
            content = self.system.frames.contents.number(bytes([index & 0xFF]) * 16)
            pfn = self.system.frames.alloc_page(DRIVER, 0, 0, index, content)
            self.system.journal.write(self.pages, (self.name, index), pfn)
        return int(pfn)

    def fault(self, ctx: FaultContext) -> int:
        """An ordinary fault handler: it finds the page, and the core maps or copies it."""
        return do_fault_page(ctx, lambda: (self.pfn(ctx.pgoff), 0))
