"""Rows 1 to 8 and 11: operations of the simulated kernel beside the same ones of the real one."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from functools import partial
from time import perf_counter

import numpy as np

from ..kernel.drivers.base import Driver, add_driver
from ..kernel.machine import Machine
from ..kernel.mm import flags as F
from ..kernel.mm.frames import DeviceRegion
from ..kernel.mm.memory.pfn import remap_pfn_range
from ..kernel.mm.mm_types import Mm, VmOperations
from ..kernel.mm.vma import Vma
from ..kernel.trace.journal import Position
from .harness import Bench, MissingError, Sample, Workload, share
from .kernel import (
    FAILED,
    MADV_DONTNEED,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    Kernel,
    PerfRing,
)

GIB, MIB, PAGE = 1 << 30, 1 << 20, 4096
B = 0x1000_0000_0000
DEVICE_PFN = 0x1_000_000


def device_machine(pages: int) -> tuple[Machine, int]:
    """A machine with ``pages`` raw frames of a device mapped at one go, and the address."""
    m = Machine(ram=64 * MIB, vdso=False)
    m.sys.frames.add_region(DeviceRegion("bench", DEVICE_PFN, pages, m.sys.frames.contents))

    def mmap(mm: Mm, vma: Vma) -> Vma:
        new = vma.replace(ops="bench")
        mm.set_vma(vma, new)
        return remap_pfn_range(mm, new, vma.start, DEVICE_PFN + vma.pgoff, vma.size)

    add_driver(m.sys, Driver("bench", pages << 12, mmap, "a device"), VmOperations("bench"))
    at = m.mmap(B, pages << 12, "rw", "shared", m.open("bench"))
    m.seal()
    return m, at


def map_again(m: Machine, at: int, pages: int) -> None:
    """Fill a device's empty mapping page by page, in effect: without the PAT reservation that one call would make."""
    for first, last in ((0, pages // 2), (pages // 2, pages)):
        start = at + first * PAGE
        remap_pfn_range(m.mm, m.vma(at), start, DEVICE_PFN + first, (last - first) * PAGE)


def timed(call: Callable[..., object], *args: object) -> float:
    """Seconds that a call takes."""
    begin = perf_counter()
    call(*args)
    return perf_counter() - begin


def back(m: Machine, to: Position) -> float:
    """Seconds of the undo; the future is dropped afterwards."""
    took = timed(m.journal.seek, to)
    m.journal.truncate()
    return took


def journaled(m: Machine, call: Callable[..., object], *args: object, undo: bool = False) -> Sample:
    """A sample of a call with the journal on, or of its undo.

    The state is put back just before the call, as the kernel's side has its mapping made just before.
    """
    start = m.position

    def sample() -> float:
        if m.position != start:
            back(m, start)
        took = timed(call, *args)
        return back(m, start) if undo else took

    return sample


def _zap_big(scale: int, *, journal: bool = True, undo: bool = False) -> Bench:
    pages = share(256 * MIB, scale, 16 * PAGE) >> 12
    m, at = device_machine(pages)
    size = pages << 12
    m.zap_vma_ptes(m.vma(at), at, size)
    map_again(
        m, at, pages
    )  # as perf maps its ring, so that there is no reservation to give up on either side
    m.seal()
    vma = m.vma(at)
    if journal:
        ours = journaled(m, m.zap_vma_ptes, vma, at, size, undo=undo)
    else:
        m.journal.enabled = False

        def ours() -> float:
            took = timed(m.zap_vma_ptes, m.vma(at), at, size)
            map_again(m, at, pages)
            return took

    try:
        ring = PerfRing(Kernel(), pages)
    except MissingError as error:
        return Bench(_many(9, ours), why=str(error))
    return Bench(_many(9, ours), _many(9, ring.unmap), close=ring.close, note=f"{pages} pages")


def _zapped_before() -> tuple[Machine, int, Vma]:
    """A device of which a page was zapped before: with the first zap of all goes the PAT reservation."""
    m, at = device_machine(4096)
    m.zap_vma_ptes(m.vma(at), at, PAGE)
    m.seal()
    return m, at + 77 * PAGE, m.vma(at)


def _zap_small(pages: int, _scale: int) -> Bench:
    m, at, vma = _zapped_before()
    ours = _many(200, journaled(m, m.zap_vma_ptes, vma, at, pages * PAGE))
    try:
        kernel = Kernel()
        area = kernel.mmap(64 * MIB)
    except MissingError as error:
        return Bench(ours, why=str(error))

    def yard() -> float:
        kernel.madvise(area, pages * PAGE, MADV_POPULATE_READ)
        return kernel.madvise(area, pages * PAGE, MADV_DONTNEED)

    return Bench(ours, _many(200, yard), close=lambda: void(kernel.munmap(area, 64 * MIB)))


def _one_of_eight(_scale: int) -> Bench:
    m, at, vma = _zapped_before()
    one, eight = (_many(200, journaled(m, m.zap_vma_ptes, vma, at, n * PAGE)) for n in (1, 8))
    return Bench(one, eight)


def void(_value: object) -> None:
    """For closings that tell something nobody asks."""


def _many(n: int, sample: Sample) -> Sample:
    """The median of ``n`` short samples."""
    return lambda: float(np.median([sample() for _ in range(n)]))


def anonymous(size: int, ram: int = 0) -> tuple[Machine, int]:
    """A machine with an anonymous mapping of ``size`` bytes, all of it written to."""
    m = Machine(ram=ram or size + 64 * MIB, vdso=False)
    at = m.mmap(B, size, "rw", "private")
    m.madvise(at, size, F.MADV_POPULATE_WRITE)
    m.seal()
    return m, at


def _with_area(
    ours: Sample, size: int, yard: Callable[[Kernel, int], float], *, apart: bool = False
) -> Bench:
    try:
        kernel = Kernel()
        area = kernel.mmap(size)
        kernel.madvise(area, size, MADV_POPULATE_WRITE)
    except MissingError as error:
        return Bench(ours, why=str(error))
    close = lambda: void(kernel.munmap(area, size))  # noqa: E731
    return Bench(ours, lambda: yard(kernel, area), apart=apart, close=close, note=f"{size >> 20} MiB")


def _dontneed(scale: int) -> Bench:
    size = share(GIB, scale, 2 * MIB)
    m, at = anonymous(size)

    def yard(kernel: Kernel, area: int) -> float:
        kernel.madvise(area, size, MADV_POPULATE_WRITE)
        return kernel.madvise(area, size, MADV_DONTNEED)

    return _with_area(journaled(m, m.madvise, at, size, F.MADV_DONTNEED), size, yard)


def _populate_read(scale: int) -> Bench:
    size = share(GIB, scale, 2 * MIB)
    m = Machine(ram=size + 64 * MIB, vdso=False)
    at = m.mmap(B, size, "rw", "private")
    m.seal()

    def yard(kernel: Kernel, area: int) -> float:
        kernel.madvise(area, size, MADV_DONTNEED)
        return kernel.madvise(area, size, MADV_POPULATE_READ)

    return _with_area(journaled(m, m.madvise, at, size, F.MADV_POPULATE_READ), size, yard)


def _mprotect(scale: int) -> Bench:
    size = share(GIB, scale, 2 * MIB)
    m, at = anonymous(size)

    def yard(kernel: Kernel, area: int) -> float:
        took = kernel.mprotect(area, size, PROT_READ)
        kernel.mprotect(area, size, PROT_READ | PROT_WRITE)
        return took

    return _with_area(journaled(m, m.mprotect, at, size, "r"), size, yard)


def _fork(scale: int) -> Bench:
    size = share(GIB, scale, 2 * MIB)
    m, _ = anonymous(size)
    return _with_area(journaled(m, m.fork), size, lambda kernel, _: kernel.fork(), apart=True)


def _mremap(scale: int) -> Bench:
    size = share(GIB, scale, 2 * MIB)
    m, at = anonymous(size)
    there = at + 4 * GIB + 2 * MIB  # not aligned like the old place but for whole PMDs
    ours = journaled(m, m.mremap, at, size, size, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, there)
    try:
        kernel = Kernel()
        room = kernel.mmap(4 * size + 2 * GIB)
        one = (room + GIB - 1) & -GIB if size == GIB else (room + 2 * MIB - 1) & -2 * MIB
        two = one + 2 * size + 2 * MIB
        kernel.madvise(one, size, MADV_POPULATE_WRITE)
    except MissingError as error:
        return Bench(_many(9, ours), why=str(error))

    def yard() -> float:
        took = kernel.mremap(one, size, two)
        kernel.mremap(two, size, one)
        return took

    close = lambda: void(kernel.munmap(room, 4 * size + 2 * GIB))  # noqa: E731
    return Bench(_many(9, ours), _many(9, yard), close=close)


def _faults(journal: bool, scale: int) -> Bench:
    n = share(65_536, scale, 16)
    m = Machine(ram=(n << 12) + 64 * MIB, vdso=False)
    at = m.mmap(B, n << 12, "rw", "private")
    m.seal()
    addresses = range(at, at + (n << 12), PAGE)

    def ours() -> float:
        start = m.position
        m.journal.enabled = journal
        store = m.store
        begin = perf_counter()
        for address in addresses:
            store(address, 1)
        took = perf_counter() - begin
        if journal:
            back(m, start)
        else:
            m.madvise(at, n << 12, F.MADV_DONTNEED)
        return took

    def yard(kernel: Kernel, area: int) -> float:
        kernel.madvise(area, n << 12, MADV_DONTNEED)
        memory = (ctypes.c_char * (n << 12)).from_address(area)
        begin = perf_counter()
        for offset in range(0, n << 12, PAGE):
            memory[offset] = b"\1"
        return perf_counter() - begin

    return _with_area(ours, n << 12, yard)


def many_vmas(count: int) -> tuple[Machine, int]:
    """A machine with ``count`` VMAs of one page each, side by side up to mmap_base, and the lowest address.

    Every other one is read-only, so that none joins its neighbour; a search for a gap from above finds none.
    """
    m = Machine(ram=(count << 12) + 64 * MIB, vdso=False)
    m.sysctl("vm.max_map_count", 1 << 20)
    base = m.mm.field("mmap_base") - (count << 12)
    for i in range(count):
        m.mmap(base + (i << 12), PAGE, 1 + 2 * (i & 1), F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED)
    m.seal()
    return m, base


def _pairs(m: Machine, base: int, count: int, n: int) -> Sample:
    """Seconds of a pair: a munmap at random, and a mmap that has to find the hole from above."""
    dice = random.Random(1)

    def ours() -> float:
        start = m.position
        spots = [base + (dice.randrange(4, count - 4) << 12) for _ in range(n)]
        begin = perf_counter()
        for at in spots:
            m.munmap(at, PAGE)
            m.mmap(0, PAGE, 3, F.MAP_PRIVATE | F.MAP_ANONYMOUS)
        took = perf_counter() - begin
        back(m, start)
        return took / n

    return ours


def _storm_list(scale: int) -> Bench:
    count, n = max(64, 65_530 // scale), 50
    m, base = many_vmas(count)
    ours = _pairs(m, base, count, 10 * n)
    try:
        from sortedcontainers import SortedKeyList  # type: ignore[import-untyped] # noqa: PLC0415 (may be missing)
    except ImportError:
        return Bench(ours, why="sortedcontainers is not installed")
    ends = [base + (i << 12) for i in range(count)]
    vmas = SortedKeyList([(at, at + PAGE) for at in ends], key=lambda v: v[0])
    dice = random.Random(1)

    def yard() -> float:
        begin = perf_counter()
        for _ in range(n):
            vmas.pop(dice.randrange(4, count - 4))
            end = base + (count << 12)
            for start, stop in reversed(vmas):
                if end - stop >= PAGE:
                    break
                end = start
            vmas.add((end - PAGE, end))
        return (perf_counter() - begin) / n

    return Bench(ours, yard, note=f"{count} VMAs")


_ANON = MAP_PRIVATE | MAP_ANONYMOUS


def _storm_kernel(scale: int) -> Bench:
    count, n = max(64, 60_000 // scale), 500
    m, low = many_vmas(count)
    ours = _pairs(m, low, count, n)
    dice = random.Random(1)
    mapped: list[tuple[int, int]] = []
    try:
        kernel = Kernel()
    except MissingError as error:
        return Bench(ours, why=str(error))
    try:
        base = kernel.mmap(count << 12)
        mapped.append((base, count << 12))
        for i in range(0, count, 2):
            kernel.mprotect(base + (i << 12), PAGE, PROT_READ)
        # What is free above goes first, so that the highest hole is the one that a munmap has made.
        for size in (1 << shift for shift in range(46, 11, -1)):
            while (at := kernel.libc.mmap(None, size, 0, _ANON, -1, 0)) not in (None, FAILED) and at > base:
                mapped.append((at, size))
            if at not in (None, FAILED):
                kernel.munmap(at, size)
    except MissingError as error:
        _unmap(kernel, mapped)
        return Bench(ours, why=str(error))

    def yard() -> float:
        total = 0.0
        spots = [dice.randrange(4, count - 4) for _ in range(n)]
        for i in spots:
            at = base + (i << 12)
            total += kernel.munmap(at, PAGE)
            begin = perf_counter()
            got = kernel.libc.mmap(None, PAGE, PROT_READ | PROT_WRITE, _ANON, -1, 0)
            total += perf_counter() - begin
            if got != at:  # something of this process has been freed above in the meantime
                kernel.libc.mmap(at, PAGE, PROT_READ | PROT_WRITE, _ANON | MAP_FIXED, -1, 0)
                mapped.append((got, PAGE))
        for i in spots:  # what has joined its neighbours is cut off again
            if not i & 1:
                kernel.mprotect(base + (i << 12), PAGE, PROT_READ)
        return total / n

    return Bench(ours, yard, close=lambda: _unmap(kernel, mapped))


def _unmap(kernel: Kernel, mapped: list[tuple[int, int]]) -> None:
    for at, size in mapped:
        kernel.munmap(at, size)


MEMORY: tuple[Workload, ...] = (
    Workload("zap", 1, "zap_vma_ptes of 256 MiB, undoable", "munmap of a perf ring", 5, _zap_big),
    Workload("zap-bare", 2, "the same, journal off", "the same", 10, partial(_zap_big, journal=False)),
    Workload("zap-undo", 3, "undo of the zap", "the same", 20, partial(_zap_big, undo=True)),
    Workload("zap-1", 4, "zap of 1 page", "MADV_DONTNEED", 0.3, partial(_zap_small, 1)),
    Workload("zap-8", 4, "zap of 8 pages", "MADV_DONTNEED", 0.3, partial(_zap_small, 8)),
    Workload("zap-32", 4, "zap of 32 pages", "MADV_DONTNEED", 0.3, partial(_zap_small, 32)),
    Workload("zap-1-of-8", 4, "zap of 1 page", "zap of 8 pages", 3, _one_of_eight, at_least=False),
    Workload("dontneed", 5, "MADV_DONTNEED of 1 GiB anonymous", "the kernel's", 5, _dontneed),
    Workload("populate", 6, "MADV_POPULATE_READ of 1 GiB", "the kernel's", 25, _populate_read),
    Workload("mprotect", 7, "mprotect of 1 GiB", "the kernel's", 8, _mprotect),
    Workload("fork", 7, "fork with 1 GiB", "the kernel's", 3, _fork),
    Workload("mremap", 7, "mremap of 1 GiB by tables", "the kernel's", 4, _mremap),
    Workload(
        "fault-bare", 8, "65,536 write faults, journal off", "the kernel's", 0.5, partial(_faults, False)
    ),
    Workload("fault", 8, "65,536 write faults, all spans", "the kernel's", 0.2, partial(_faults, True)),
    Workload("storm", 11, "munmap and mmap at 65,530 VMAs", "SortedKeyList", 25, _storm_list),
    Workload("storm-kernel", 11, "the same", "the kernel's", 12, _storm_kernel, at_least=False),
)
