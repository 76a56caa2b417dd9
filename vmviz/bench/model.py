"""Rows 9, 10, 12 and 15: walking many addresses, memory, the frame map's counts, time travel."""

from __future__ import annotations

import os
import sys
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernel.machine import Machine
from ..kernel.mm import flags as F
from ..kernel.mm.page_alloc import ANON, FREE
from ..kernel.mm.pgtable import TableArena
from ..script.runner import Runner
from .harness import Bench, Workload, share
from .memory import PAGE, B, anonymous, timed

MANY = 1_000_000


def _walks(scale: int) -> Bench:
    n = share(MANY, scale, 100)
    size = share(1 << 30, scale, 1 << 22)
    m, at = anonymous(size)
    dice = np.random.default_rng(1)
    addresses = (at + dice.integers(0, size, n)).astype(np.uint64)
    arena, pgd = m.arena, m.mm.pgd
    few = addresses[: max(1, n // 20)].tolist()

    def scalar() -> float:
        begin = perf_counter()
        for va in few:
            arena.entry_at(pgd, va)
        return (perf_counter() - begin) * n / len(few)

    return Bench(lambda: timed(arena.entries_at, pgd, addresses), scalar, note=f"{n} addresses")


def resident(array: NDArray[Any]) -> int:
    """Bytes of memory that an array takes: its pages that are there, where the system tells (/proc/self/pagemap).

    What was reserved and never touched takes none.
    """
    start, size = array.ctypes.data, array.nbytes
    first, end = start // PAGE, -(-(start + size) // PAGE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            told = os.pread(file.fileno(), (end - first) * 8, first * 8)
    except OSError:
        return size
    if len(told) != (end - first) * 8:
        return size
    there = int(np.count_nonzero(np.frombuffer(told, np.uint64) >> np.uint64(62)))
    return min(int(size), there * PAGE)


def table_bytes(arena: TableArena) -> int:
    """Memory of all that the tables need: their entries, and which frame is which row."""
    arrays = (arena.rows, arena.pfn_of.array, arena.level_of.array)
    free = arena.pfn_of.free
    rows = arena.tables_in_use() * arena.row_of.array.itemsize  # in struct page of each
    return sum(map(resident, arrays)) + rows + sys.getsizeof(free) + sum(map(sys.getsizeof, free))


def _memory(scale: int) -> Bench:
    """Not seconds but bytes per mapped PTE, beside the 8 of the entry itself."""
    size = share(1 << 30, scale, 2 << 20)
    m = Machine(ram=size + (64 << 20), vdso=False)
    at = m.mmap(B, size, "rw", "private")
    m.madvise(at, size, F.MADV_POPULATE_WRITE)
    used = table_bytes(m.arena)
    return Bench(
        lambda: used / (size >> 12),
        lambda: 8.0,
        note=f"{m.arena.tables_in_use()} tables, {used >> 10} KiB",
    )


def _frame_map(scale: int) -> Bench:
    """An operation on 4,096 frames and what the map reads of it, beside counting all frames anew."""
    frames = share(1 << 24, scale, 1 << 14)
    m = Machine(ram=frames << 12, vdso=False)
    states = m.frames.states
    where = slice(frames // 2, frames // 2 + 4096)

    def ours() -> float:
        begin = perf_counter()
        states.put_many(where, ANON)
        cells = states.pyramid.reshape(-1, 8)[:: max(1, len(states.pyramid) // 10_000)].argmax(axis=1)
        took = perf_counter() - begin
        assert len(cells)
        states.put_many(where, FREE)
        return took

    blocks = states.array[: frames & -512].reshape(-1, 512)

    def yard() -> float:
        begin = perf_counter()
        for state in range(8):
            (blocks == state).sum(1)
        return perf_counter() - begin

    return Bench(ours, yard, note=f"{frames} frames")


HEAD = """\
boot(mem=64M)
heap = mmap(NULL, 256K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)
fb = mmap(NULL, 8M, PROT_READ|PROT_WRITE, MAP_SHARED, open("/dev/fb0"), 0)
"""
ROUND = (
    *(f"store(heap + {i}p, 1, {i + 1})" for i in range(32)),
    *(f"load(heap + {i + 32}p)" for i in range(16)),
    *(f"zap_vma_ptes(vma(fb), fb + {i}p, 1p)" for i in range(4)),
    "remap_pfn_range(vma(fb), fb, 0xd0000, 4p)",
    "mprotect(heap, 8K, PROT_READ)",
    "mprotect(heap, 8K, PROT_READ|PROT_WRITE)",
    "madvise(heap, 256K, MADV_DONTNEED)",
)
"""What a script of a lesson does: touches, zaps, changes of protection, giving memory back."""


def _journal(records: int) -> tuple[Machine, str]:
    """A machine on which a script has made as many records, and the script."""
    runner, lines = Runner(), HEAD.splitlines()
    for line in lines:
        runner.run_text(line)
    rounds = 0
    while runner.machine.position[0] < records:
        for line in ROUND:
            runner.run_text(line)
        rounds += 1
    return runner.machine, HEAD + "\n".join(ROUND * rounds)


def replay(script: str) -> None:
    """Run a script from its text, as opening it does."""
    runner = Runner()
    for statement in runner.parse(script).statements:
        runner.run(statement, script)


def _seek(scale: int) -> Bench:
    n = 100_000 // scale
    m, script = _journal(n)
    end = m.journal.end

    def ours() -> float:
        took = timed(m.journal.seek, (0, 0))
        m.journal.seek(end)
        return took

    note = f"{end[0]} records of {script.count(chr(10)) + 1} statements"
    return Bench(ours, lambda: timed(replay, script), note=note)


def _step(scale: int) -> Bench:
    """One record forward anywhere, beside a millisecond."""
    m, _ = _journal(100_000 // scale)
    dice = np.random.default_rng(1)
    end = m.journal.end[0]

    def ours() -> float:
        longest = 0.0
        for at in dice.integers(0, end - 1, 20).tolist():
            m.journal.seek((at, 0))
            longest = max(longest, timed(m.journal.seek, (at + 1, 0)))
        return longest

    return Bench(ours, lambda: 0.001)


MODEL: tuple[Workload, ...] = (
    Workload("walks", 9, "translating 1,000,000 random addresses", "the scalar walk", 15, _walks),
    Workload("memory", 10, "bytes per mapped PTE", "8 bytes", 1.1, _memory, at_least=False),
    Workload(
        "frame-map", 12, "counts of 2^24 frames after 4,096 changed", "numpy over all frames", 30, _frame_map
    ),
    Workload("seek", 15, "end to start of 100,000 records", "replaying the script", 20, _seek),
    Workload("step", 15, "one record, anywhere, the slowest of 20", "1 ms", 1, _step),
)
