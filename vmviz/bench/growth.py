"""Row 19: what an operation costs as the model grows: by VMAs, by frames of RAM, and by pages touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

from ..kernel.drivers.base import Driver, add_driver
from ..kernel.machine import Machine
from ..kernel.mm.frames import DeviceRegion
from ..kernel.mm.memory.pfn import remap_pfn_range
from ..kernel.mm.mm_types import Mm, VmOperations
from ..kernel.mm.vma import Vma
from ..live import load_image
from .harness import Bench, Sample, Workload
from .images import image
from .memory import DEVICE_PFN, PAGE, device_machine, journaled, timed
from .screen import Running, keys
from .terminal import DOWN, UP

VMAS = (100, 1_000, 10_000, 65_530)
FRAMES = (1 << 16, 1 << 20, 1 << 24)
PAGES = (1 << 9, 1 << 12, 1 << 16)
DEVICE_PAGES, AREA_PAGES = 64, 512
AREA = 0x1000_0000_0000
MANY = 40


def grown(vmas: int, frames: int) -> tuple[Machine, int, int]:
    """A machine of so many VMAs, or so much RAM, with a device mapping and an anonymous one: their addresses."""
    # An imported machine has at least 4 GiB below its own frames; an empty one has as much RAM as is asked for.
    m = load_image(image(vmas)) if vmas else Machine(ram=frames << 12, vdso=False)
    m.sysctl("vm.max_map_count", 1 << 20)
    m.sys.frames.add_region(DeviceRegion("bench", DEVICE_PFN << 2, DEVICE_PAGES, m.sys.frames.contents))

    def mmap(mm: Mm, vma: Vma) -> Vma:
        new = vma.replace(ops="bench")
        mm.set_vma(vma, new)
        return remap_pfn_range(mm, new, vma.start, (DEVICE_PFN << 2) + vma.pgoff, vma.size)

    add_driver(m.sys, Driver("bench", DEVICE_PAGES << 12, mmap, "a device"), VmOperations("bench"))
    device = m.mmap(AREA, DEVICE_PAGES << 12, "rw", "shared", m.open("bench"))
    area = m.mmap(AREA + (1 << 30), AREA_PAGES << 12, "rw", "private")
    m.seal()
    return m, device, area


def many(sample: Sample, n: int = MANY) -> Sample:
    """The median of short samples."""
    return lambda: median(sample() for _ in range(n))


def _zap(m: Machine, device: int, _area: int) -> Sample:
    return many(journaled(m, m.zap_vma_ptes, m.vma(device), device, 8 * PAGE))


def _fault(m: Machine, _device: int, area: int) -> Sample:
    return many(journaled(m, m.store, area, 1))


def _find(m: Machine, _device: int, _area: int) -> Sample:
    dice, vmas = random.Random(1), m.mm.vmas
    # Among the many: not the mappings of the bench, not the stack.
    low, high = vmas.at(min(2, len(vmas) - 1)).start, vmas.at(max(0, len(vmas) - 2)).end
    addresses = [dice.randrange(low, high) for _ in range(1000)]
    find = m.mm.find_vma

    def sample() -> float:
        begin = perf_counter()
        for address in addresses:
            find(address)
        return perf_counter() - begin

    return many(sample, 5)


def _step(m: Machine, _device: int, area: int) -> Sample:
    """One record back and forward, somewhere in the journal of faults over the area."""
    for at in range(area, area + AREA_PAGES * PAGE, PAGE):
        m.store(at, 1)
    end = m.journal.end[0]
    dice = random.Random(1)

    def sample() -> float:
        at = dice.randrange(end - 1)
        m.journal.seek((at, 0))
        return timed(m.journal.seek, (at + 1, 0))

    return many(sample)


Make = Callable[[Machine, int, int], Sample]


def _bench(sizes: tuple[int, ...], samples: list[Sample], note: str, close: Callable[[], None]) -> Bench:
    def curve() -> list[tuple[int, float]]:
        return [
            (size, median(sample() for _ in range(3))) for size, sample in zip(sizes, samples, strict=True)
        ]

    return Bench(samples[-1], samples[0], note=note, close=close, curve=curve)


def _scaled(sizes: tuple[int, ...], scale: int, least: int) -> tuple[int, ...]:
    """The sizes, divided, as far as they differ then."""
    return tuple(sorted({max(least, size // scale) for size in sizes}))


def _by_vmas(make: Make, scale: int) -> Bench:
    sizes = _scaled(VMAS, scale, 100)
    samples = [make(*grown(vmas, 0)) for vmas in sizes]
    return _bench(sizes, samples, f"VMAs {_list(sizes)}", lambda: None)


def _by_frames(make: Make, scale: int) -> Bench:
    sizes = _scaled(FRAMES, scale, 1 << 14)
    samples = [make(*grown(0, frames)) for frames in sizes]
    return _bench(sizes, samples, f"frames {_list(sizes)}", lambda: None)


def _key_by_vmas(scale: int) -> Bench:
    return _keys([(vmas, 0) for vmas in _scaled(VMAS, scale, 100)], "VMAs", scale)


def _key_by_frames(scale: int) -> Bench:
    # The app is given RAM by a snapshot: up to its highest frame number, and never less than 4 GiB.
    return _keys(
        [(100, frames) for frames in _scaled((1 << 21, 1 << 22, 1 << 24), scale, 1 << 21)], "frames", scale
    )


def _keys(models: list[tuple[int, int]], word: str, scale: int) -> Bench:
    running: list[Running] = []

    def close() -> None:
        for one in running:
            one.close()

    try:
        for vmas, frames in models:
            # Above the highest frame of the process are vmviz's own.
            top = frames - (1 << 16) if frames else 0
            running.append(Running(vmas, top, alone=True, warm=12 if scale == 1 else 1))
    except BaseException:
        close()
        raise
    sizes = tuple(frames if word == "frames" else vmas for vmas, frames in models)
    samples = [keys(one.ours, DOWN, UP) for one in running]
    return _bench(sizes, samples, f"{word} {_list(sizes)}", close)


def _by_pages(scale: int) -> Bench:
    """Seconds per page of a zap of so many pages."""
    sizes = _scaled(PAGES, scale, 64)
    samples: list[Sample] = []
    for pages in sizes:
        m, at = device_machine(pages)
        zap = journaled(m, m.zap_vma_ptes, m.vma(at), at, pages * PAGE)
        samples.append(many(partial(lambda zap, pages: zap() / pages, zap, pages), 5))
    return _bench(sizes, samples, f"pages {_list(sizes)}, time per page", lambda: None)


def _list(sizes: tuple[int, ...]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def _row(name: str, about: str, prepare: Callable[[int], Bench]) -> Workload:
    return Workload(f"growth-{name}", 19, about, "at the smallest size", 2, prepare, at_least=False)


GROWTH: tuple[Workload, ...] = (
    _row("zap", "zap of 8 pages at 65,530 VMAs", partial(_by_vmas, _zap)),
    _row("fault", "a write fault at 65,530 VMAs", partial(_by_vmas, _fault)),
    _row("find", "find_vma at 65,530 VMAs", partial(_by_vmas, _find)),
    _row("step", "a step of the journal at 65,530 VMAs", partial(_by_vmas, _step)),
    _row("key", "key to frame at 65,530 VMAs", _key_by_vmas),
    _row("zap-ram", "zap of 8 pages at 2^24 frames", partial(_by_frames, _zap)),
    _row("fault-ram", "a write fault at 2^24 frames", partial(_by_frames, _fault)),
    _row("step-ram", "a step of the journal at 2^24 frames", partial(_by_frames, _step)),
    _row("key-ram", "key to frame at 2^24 frames", _key_by_frames),
    _row("pages", "zap of 65,536 pages, per page", _by_pages),
)
