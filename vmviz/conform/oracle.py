"""The device of the traces, as a driver of the simulated machine: one file, a mode for each kind of mapping.

The file offset is the device page number.  Frames of the modes: reserved RAM from `RES_PFN` on, a hole of the
physical address space from `MMIO_PFN` on, 1,024 pages of RAM that all modes with a fault handler or
vm_insert_page share (``pool``), and 256 reserved pages in a row that have struct pages (``contig``).
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..kernel.drivers.base import Driver, DriverPages, add_driver, in_device
from ..kernel.errors import KernelError
from ..kernel.machine import Machine
from ..kernel.mm.flags import (
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    is_cow_mapping,
)
from ..kernel.mm.frames import DeviceRegion
from ..kernel.mm.memory.fault import FaultContext, insert_pfn_run
from ..kernel.mm.memory.memtype import memtype_intervals
from ..kernel.mm.memory.pfn import (
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    pgprot_noncached,
    remap_pfn_range,
    vm_insert_page,
)
from ..kernel.mm.mm_types import Mm, System, VmOperations
from ..kernel.mm.page_alloc import DRIVER
from ..kernel.mm.page_flags import PG_RESERVED
from ..kernel.mm.vma import Vma

RES_PFN, RES_PAGES = 0x10000, 16384
MMIO_PFN, MMIO_PAGES = 0x4000000, 1 << 20
POOL_PAGES, CONTIG_PAGES = 1024, 256
CONTIG_PFN = 0x6800
"""Where the traced kernel has them: vm_pgoff of a private writable mapping tells it."""
PATH = "/dev/vmoracle"
MODES = ("pfnmap", "pfnhalf", "pfnmmio", "pfnram", "lazy", "lazymmio", "mixed", "lazymixed", "io", "page")

Mmap = Callable[[Mm, Vma], Vma]


@attrs.frozen
class Oracle:
    """The device's frames on one machine, by which a trace names them; ``fds`` are its open files by mode."""

    machine: Machine
    pool: DriverPages
    contig: int
    fds: dict[str, int]

    def frame_class(self, pfn: int) -> tuple[str, int | None]:
        """The class of a frame and its device page number, as the field ``cls`` of a trace names them."""
        for name, first, size in (
            ("res", RES_PFN, RES_PAGES),
            ("mmio", MMIO_PFN, MMIO_PAGES),
            ("contig", self.contig, CONTIG_PAGES),
        ):
            if first <= pfn < first + size:
                return name, pfn - first
        frames = self.machine.sys.frames
        if frames.pfn_valid(pfn) and frames.states.flat[pfn] == DRIVER:
            index = frames.index.flat[pfn]
            if self.pool.pages.get((self.pool.name, index)) == pfn:
                return "pool", index
        return "page", None


def add_oracle(machine: Machine) -> Oracle:
    """Give a machine the device in all its modes, each open for reading and writing."""
    system = machine.sys
    pool = DriverPages(system, PATH, POOL_PAGES)
    contig = _contiguous(system)
    region = DeviceRegion("vmoracle", RES_PFN, RES_PAGES, system.frames.contents, pattern=True)
    system.frames.add_region(region)
    fds = {}
    for mode in MODES:
        name = f"vmoracle:{mode}"
        mmap, ops = _mode(mode, name, pool, contig)
        add_driver(system, Driver(name, MMIO_PAGES << 12, mmap, f"the trace device, mode {mode}"), ops)
        fds[mode] = machine.open(name)
    return Oracle(machine, pool, contig, fds)


def _contiguous(system: System) -> int:
    frames = system.frames
    for i in range(CONTIG_PAGES):
        content = frames.contents.number(bytes([i]) * 16)
        system.journal.write(frames, CONTIG_PFN + i, (DRIVER, 1, 0, PG_RESERVED, 0, i, content))
    return CONTIG_PFN


def _mode(mode: str, name: str, pool: DriverPages, contig: int) -> tuple[Mmap, VmOperations]:
    if mode in ("pfnmap", "pfnhalf", "pfnmmio", "pfnram"):
        first, pages = {
            "pfnmmio": (MMIO_PFN, MMIO_PAGES), "pfnram": (contig, CONTIG_PAGES),
        }.get(mode, (RES_PFN, RES_PAGES))  # fmt: skip
        return _remapped(name, first, pages, mode == "pfnhalf"), VmOperations(name)
    if mode in ("lazy", "lazymmio"):
        first, pages = (RES_PFN, RES_PAGES) if mode == "lazy" else (MMIO_PFN, MMIO_PAGES)
        return _lazy(name, first, pages, mode == "lazymmio")
    if mode == "mixed":
        return _mixed(name, pool), VmOperations(name)
    flag = {"lazymixed": VM_MIXEDMAP, "io": VM_IO}.get(mode, 0)
    return _plain(name, flag), VmOperations(name, _insert_fault(pool) if mode == "lazymixed" else pool.fault)


def _remapped(name: str, first: int, pages: int, half: bool) -> Mmap:
    def mmap(mm: Mm, vma: Vma) -> Vma:
        in_device(pages << 12, vma, PATH)
        new = vma.replace(ops=name)
        mm.set_vma(vma, new)
        size = (vma.nr_pages // 2) << 12 if half else vma.size
        return remap_pfn_range(mm, new, vma.start, first + vma.pgoff, size)

    return mmap


def _lazy(name: str, first: int, pages: int, uncached: bool) -> tuple[Mmap, VmOperations]:
    def mmap(mm: Mm, vma: Vma) -> Vma:
        in_device(pages << 12, vma, PATH)
        if is_cow_mapping(vma.vm_flags):
            raise KernelError("EINVAL", "mmap", f"{PATH} refuses private mappings in mode {name}")
        flags = vma.vm_flags | VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP
        new = vma.replace(vm_flags=flags, ops=name)
        mm.set_vma(vma, new)
        return new

    def fault(ctx: FaultContext) -> int:
        pfn = first + ctx.pgoff
        if not uncached or not (reserved := memtype_intervals(ctx.mm.sys)):
            # Where no memory type is reserved, as for the hole, track_pfn_insert() chooses UC-.
            prot = pgprot_noncached(ctx.vma.page_prot) if uncached else None
            return insert_pfn_run(ctx, pfn, prot)
        known = any(low <= pfn < high for low, high in reserved)
        borders = {edge for pair in reserved for edge in pair if pfn < edge < pfn + ctx.nr_pages}
        run = attrs.evolve(ctx, nr_pages=min(borders, default=pfn + ctx.nr_pages) - pfn)
        return insert_pfn_run(run, pfn, None if known else pgprot_noncached(ctx.vma.page_prot))

    return mmap, VmOperations(name, fault, per_page=True)


def _mixed(name: str, pool: DriverPages) -> Mmap:
    def mmap(mm: Mm, vma: Vma) -> Vma:
        in_device(POOL_PAGES << 12, vma, PATH)
        new = vma.replace(vm_flags=vma.vm_flags | VM_MIXEDMAP, ops=name)
        mm.set_vma(vma, new)
        for i in range(vma.nr_pages):
            new = vm_insert_page(mm, new, vma.start + (i << 12), pool.pfn(vma.pgoff + i))
        return new

    return mmap


def _plain(name: str, flag: int) -> Mmap:
    def mmap(mm: Mm, vma: Vma) -> Vma:
        in_device(POOL_PAGES << 12, vma, PATH)
        new = vma.replace(vm_flags=vma.vm_flags | flag, ops=name)
        mm.set_vma(vma, new)
        return new

    return mmap


def _insert_fault(pool: DriverPages) -> Callable[[FaultContext], int]:
    def fault(ctx: FaultContext) -> int:
        pfn = pool.pfn(ctx.pgoff)
        if pfn < 0:
            return VM_FAULT_SIGBUS
        vm_insert_page(ctx.mm, ctx.vma, ctx.address, pfn)
        return VM_FAULT_NOPAGE

    return fault
