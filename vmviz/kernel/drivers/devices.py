"""The devices themselves: what each does in mmap and in its fault handler."""

from __future__ import annotations

from ..errors import KernelError
from ..mm.flags import VM_DONTDUMP, VM_DONTEXPAND, VM_IO, VM_MIXEDMAP, VM_PFNMAP, is_cow_mapping
from ..mm.frames import DeviceRegion
from ..mm.hugetlb import HUGETLB_OPS
from ..mm.memory.fault import FaultContext, insert_pfn_run
from ..mm.memory.pfn import VM_FAULT_SIGBUS, pgprot_noncached, remap_pfn_range, vm_insert_page
from ..mm.mm_types import Mm, System, VmOperations
from ..mm.vma import Vma
from .base import FILE_OPS, SHMEM_OPS, Driver, DriverPages, add_driver, in_device

FB0 = "/dev/fb0"
RESOURCE0 = "/sys/bus/pci/devices/0000:00:02.0/resource0"
RESOURCE2 = "/sys/bus/pci/devices/0000:00:02.0/resource2"
MIB = 1 << 20


def add_default_devices(system: System, *, fb_size: int = 8 * MIB) -> None:
    """Give the machine its devices."""
    for table in (FILE_OPS, SHMEM_OPS, HUGETLB_OPS):
        system.vm_ops[table.name] = table
    add_frame_buffer(system, FB0, 0xE0000, fb_size)
    add_bar(system, RESOURCE0, 0xFE000, 64 << 10)
    add_bar(system, RESOURCE2, 0xC0000, 256 * MIB)
    add_mixed(system)
    add_plain(system, "/dev/io", VM_IO, "VM_IO only: it maps its own pages through an ordinary fault handler")
    add_plain(
        system, "/dev/page", 0, "no special flag: it maps its own pages through an ordinary fault handler"
    )


def _region(system: System, path: str, pfn: int, size: int) -> DeviceRegion:
    name = path.removeprefix("/dev/").rsplit("/", 1)[-1]
    region = DeviceRegion(name, pfn, (size + 4095) >> 12, system.frames.contents)
    return system.frames.add_region(region)


def add_frame_buffer(system: System, path: str, pfn: int, size: int) -> DeviceRegion:
    """A frame buffer: everything is mapped at mmap by one remap_pfn_range, uncached; there is no fault
    handler.
    """

    def mmap(mm: Mm, vma: Vma) -> Vma:
        in_device(size, vma, path)
        vma = vma.replace(ops=f"{path} vm_ops", page_prot=pgprot_noncached(vma.page_prot))
        mm.set_vma(mm.vmas.get(vma.start) or vma, vma)
        return remap_pfn_range(mm, vma, vma.start, pfn + vma.pgoff, vma.size)

    ops = VmOperations(
        f"{path} vm_ops", None, explain="no fault handler: a touch of an empty entry is SIGBUS"
    )
    add_driver(system, Driver(path, size, mmap, "VM_PFNMAP, populated at mmap, no fault handler"), ops)
    return _region(system, path, pfn, size)


def add_bar(system: System, path: str, pfn: int, size: int) -> DeviceRegion:
    """A PCI BAR that fills lazily: mmap maps nothing, the fault handler inserts one frame per touched
    page.
    """

    def mmap(mm: Mm, vma: Vma) -> Vma:
        in_device(size, vma, path)
        if is_cow_mapping(vma.vm_flags):
            raise KernelError(
                "EINVAL", "mmap", f"{path} refuses private mappings: it inserts raw frames by faults"
            )
        flags = vma.vm_flags | VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP
        new = vma.replace(vm_flags=flags, ops=f"{path} vm_ops", page_prot=pgprot_noncached(vma.page_prot))
        mm.set_vma(vma, new)
        return new

    def fault(ctx: FaultContext) -> int:
        if (ctx.pgoff + ctx.nr_pages) << 12 > size:
            return VM_FAULT_SIGBUS
        return insert_pfn_run(ctx, pfn + ctx.pgoff)

    explain = "its fault handler maps a page when it is touched (vmf_insert_pfn)"
    ops = VmOperations(f"{path} vm_ops", fault, per_page=True, explain=explain)
    add_driver(
        system, Driver(path, size, mmap, "VM_PFNMAP, filled lazily by its fault handler", "00:0d"), ops
    )
    return _region(system, path, pfn, size)


def add_mixed(system: System, path: str = "/dev/mixed", nr_pages: int = 1024) -> None:
    """A MIXEDMAP device: vm_insert_page for each page at mmap; not what zap_vma_ptes accepts."""
    pages = DriverPages(system, path, nr_pages)

    def mmap(mm: Mm, vma: Vma) -> Vma:
        in_device(nr_pages << 12, vma, path)
        new = vma.replace(vm_flags=vma.vm_flags | VM_MIXEDMAP, ops=f"{path} vm_ops")
        mm.set_vma(vma, new)
        for i in range(vma.nr_pages):
            new = vm_insert_page(mm, new, vma.start + (i << 12), pages.pfn(vma.pgoff + i))
        return new

    ops = VmOperations(f"{path} vm_ops", None, explain="no fault handler: all pages are inserted at mmap")
    add_driver(system, Driver(path, nr_pages << 12, mmap, "VM_MIXEDMAP, pages with struct page"), ops)


def add_plain(system: System, path: str, flag: int, about: str, nr_pages: int = 1024) -> None:
    """A device with an ordinary fault handler over its own pages, and ``flag`` on its VMAs."""
    pages = DriverPages(system, path, nr_pages)

    def mmap(mm: Mm, vma: Vma) -> Vma:
        in_device(nr_pages << 12, vma, path)
        new = vma.replace(vm_flags=vma.vm_flags | flag, ops=f"{path} vm_ops")
        mm.set_vma(vma, new)
        return new

    ops = VmOperations(f"{path} vm_ops", pages.fault, explain="its fault handler maps one of its own pages")
    add_driver(system, Driver(path, nr_pages << 12, mmap, about), ops)
