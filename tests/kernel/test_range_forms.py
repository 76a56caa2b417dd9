"""The range form of an access or a zap leaves what the loop over single pages leaves, also when memory
runs out.
"""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.mm.flags import (
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MLOCK_ONFAULT,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
)
from vmviz.kernel.mm.page_alloc import OutOfMemory
from vmviz.kernel.trace.bulk import Bulk
from vmviz.kernel.trace.journal import Enter, Leave
from vmviz.kernel.verify import leaves, verify, verify_counts

BASE = 0x1000_0000_0000 - (20 << 12)
BAR = "/sys/bus/pci/devices/0000:00:02.0/resource2"
KINDS = ("anon", "shm", "fb private", "fb", "bar", "io", "page private", "file", "file private")
PAGES = 60


def machine(kind: str, ram: int = 16 << 20) -> Machine:
    m = Machine(ram=ram, vdso=False)
    name, _, private = kind.partition(" ")
    flags = MAP_FIXED | (MAP_PRIVATE if private or name == "anon" else MAP_SHARED)
    fd = -1
    if name in ("anon", "shm"):
        flags |= MAP_ANONYMOUS
    elif name == "file":
        fd = m.memfd_create("f")
        m.pwrite(fd, bytes(range(200)) * 1229, 0)
    else:
        fd = m.open({"fb": "/dev/fb0", "bar": BAR}.get(name, f"/dev/{name}"))
    m.mmap(BASE, PAGES << 12, 3, flags, fd)
    m.seal()
    return m


def accesses(single: bool, m: Machine, first: int, n: int, value: int | None) -> int:
    """Touch pages; returns how many were reached."""
    done = 0
    for start, length in [(first + i, 1) for i in range(n)] if single else [(first, n)]:
        addr, size = BASE + (start << 12), ((length - 1) << 12) + 1
        try:
            done += (m.load(addr, size) if value is None else m.store(addr, size, value)).touched
        except SignalRaised as signal:
            return done + signal.touched
    return done


STEPS = st.lists(
    st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES), st.none() | st.integers(0, 255)),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_accesses(kind: str, steps: list[tuple[int, int, int | None]]) -> None:
    ranged, single = machine(kind), machine(kind)
    for first, count, value in steps:
        n = min(count, PAGES - first)
        assert accesses(False, ranged, first, n, value) == accesses(True, single, first, n, value)
        assert ranged.mm.counters.data == single.mm.counters.data
    assert ranged.digest() == single.digest()
    assert verify(ranged) == []


@pytest.mark.parametrize("kind", ["fb", "fb private", "bar"])
@settings(max_examples=15, deadline=None)
@given(steps=STEPS, first=st.integers(0, PAGES - 1), n=st.integers(1, PAGES))
def test_zap(kind: str, steps: list[tuple[int, int, int | None]], first: int, n: int) -> None:
    ranged, single = machine(kind), machine(kind)
    n = min(n, PAGES - first)
    for a, b, value in steps:
        for m in (ranged, single):
            accesses(False, m, a, min(b, PAGES - a), value)
    cleared = ranged.zap_vma_ptes(ranged.vma(BASE), BASE + (first << 12), n << 12).ptes_cleared
    others = [single.zap_vma_ptes(single.vma(BASE), BASE + (i << 12), 4096) for i in range(first, first + n)]
    assert cleared == sum(r.ptes_cleared for r in others)
    assert list(leaves(ranged.mm)) == list(leaves(single.mm))
    assert ranged.mm.counters.data == single.mm.counters.data
    assert list(ranged.mm.vmas) == list(single.mm.vmas)
    assert verify(ranged) == verify(single) == []


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_memory_in_the_middle_of_a_run(kind: str) -> None:
    m = machine(kind, ram=1 << 20)
    hog = min(m.mmap(0, 200 << 12, "rw", "private") for _ in range(2))
    while m.sys.frames.states.buddy.nr_free() > 12:
        m.store(hog)
        hog += 4096
    for access in (m.load, m.store):
        with contextlib.suppress(OutOfMemory):
            access(BASE, PAGES << 12)
    assert verify(m) == []
    depth = 0
    for record in m.journal.records:  # every function that was entered has been left
        depth += {"Enter": 1, "Leave": -1}.get(type(record).__name__, 0)
        assert depth >= 0
    assert depth == 0
    end = m.digest()
    m.journal.seek((0, 0))
    m.journal.seek(m.journal.end)
    assert m.digest() == end


def test_every_position_inside_bulk_records_keeps_the_counts() -> None:
    m = machine("fb private")
    m.store(BASE + (10 << 12), 20 << 12, 7)
    m.zap_vma_ptes(m.vma(BASE), BASE, PAGES << 12)
    m.munmap(BASE, PAGES << 12)
    seen = 0
    for i, record in enumerate(m.journal.records):
        if isinstance(record, Bulk) and record.n > 1:
            for step in range(1, record.n):
                m.journal.seek((i, step))
                assert verify_counts(m) == []
                seen += 1
    assert seen > 60


def test_without_the_journal_the_state_is_the_same() -> None:
    on, off = machine("fb private"), machine("fb private")
    off.journal.enabled = False
    for m in (on, off):
        m.store(BASE + (3 << 12), 40 << 12, 9)
        m.zap_vma_ptes(m.vma(BASE), BASE, 20 << 12)
        m.munmap(BASE + (30 << 12), 10 << 12)
    assert on.digest() == off.digest()
    assert off.journal.records == []
    assert verify(off) == []


def test_the_calls_of_a_range_with_holes_are_cut_at_its_tables() -> None:
    m = Machine()
    bar = m.mmap(0x7FFF00000000, 16 << 20, "rw", "shared", m.open(BAR))
    for page in range(0, 4096, 2):
        m.load(bar + page * 4096)
    start = m.journal.end[0]
    m.zap_vma_ptes(m.vma(bar), bar, 16 << 20)
    (bulk,) = [r for r in m.journal.records[start:] if isinstance(r, Bulk)]
    assert bulk.cuts == tuple(range(0, 2048, 256)), "one zap_pte_range for each table of 256 pages"


def test_a_table_that_cannot_be_had_leaves_the_calls_balanced() -> None:
    m = Machine(ram=1 << 20, vdso=False)
    a, far = m.mmap(0x10000000, 1 << 20, "rw", "private"), m.mmap(0x20000000, 4096, "rw", "private")
    with contextlib.suppress(OutOfMemory):
        m.store(a, 1 << 20)
    assert m.frames.states.buddy.nr_free() == 0
    start = m.journal.end[0]
    with pytest.raises(OutOfMemory):
        m.store(far)
    calls_are_closed(m, start)


def test_a_fork_that_finds_no_table_leaves_the_calls_balanced() -> None:
    m = Machine(ram=1 << 20, vdso=False)
    a = m.mmap(0x10000000, 1 << 20, "rw", "private")
    with contextlib.suppress(OutOfMemory):
        m.store(a, 1 << 20)
    for _ in range(2):  # room for the root and the first table on the way, not for the next
        m.munmap(a, 4096)
        a += 4096
    free = m.frames.states.buddy.nr_free()
    start = m.journal.end[0]
    with pytest.raises(KernelError, match="ENOMEM"):
        m.fork()
    calls_are_closed(m, start)
    assert (m.frames.states.buddy.nr_free(), verify(m)) == (free, [])


def calls_are_closed(m: Machine, start: int) -> None:
    open_calls: list[str] = []
    for record in m.journal.records[start:]:
        if isinstance(record, Enter):
            open_calls.append(record.func)
        elif isinstance(record, Leave):
            assert record.func == open_calls.pop()
    assert open_calls == []


def test_the_shape_of_large_operations() -> None:
    """Neighbouring tables are one record: what grows with the tables is only what the tables themselves need."""
    size = 32 << 21
    m = Machine(ram=256 << 20, vdso=False)
    at = m.mmap(0x1000_0000_0000, size, "rw", "private")
    m.madvise(at, size, MADV_POPULATE_WRITE)
    start = len(m.journal.records)
    new = m.mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at + (1 << 32) + (1 << 21))
    moves = [r for r in m.journal.records[start:] if isinstance(r, Bulk)]
    assert [(r.func, r.n, r.stride) for r in moves] == [("move_normal_pmd", 32, 1 << 21)]
    assert len(m.journal.records) - start < 60
    start = len(m.journal.records)
    m.fork()
    copies = [r for r in m.journal.records[start:] if isinstance(r, Bulk) and r.func == "copy_present_pte"]
    assert [(r.n, len(r.cuts)) for r in copies] == [(32 * 512, 32)]
    start = len(m.journal.records)
    m.madvise(new, size, MADV_DONTNEED)
    zaps = [r for r in m.journal.records[start:] if isinstance(r, Bulk) and r.func == "zap_pte_range"]
    assert [r.n for r in zaps] == [32 * 512]
    assert verify(m) == []


OPS = ("read", "write", "protect", "drop", "store")
SPANS = st.lists(
    st.tuples(st.sampled_from(OPS), st.integers(0, 1700), st.integers(1, 1700)),
    min_size=1, max_size=5,
)  # fmt: skip


def several_tables(ram: int = 16 << 20) -> tuple[Machine, int]:
    m = Machine(ram=ram, vdso=False)
    at = m.mmap(0x1000_0000_0000 - (300 << 12), 1700 << 12, "rw", "private")
    m.seal()
    return m, at


@settings(max_examples=12, deadline=None)
@given(steps=SPANS, locked=st.booleans())
def test_ranges_of_several_tables(steps: list[tuple[str, int, int]], locked: bool) -> None:
    (ranged, at), (single, _) = several_tables(), several_tables()
    if locked:
        for m in (ranged, single):
            m.mlock2(at, 1700 << 12, MLOCK_ONFAULT)
    advices = {"read": MADV_POPULATE_READ, "write": MADV_POPULATE_WRITE, "drop": MADV_DONTNEED_LOCKED}
    for what, first, count in steps:
        n, start = min(count, 1700 - first), at + (first << 12)
        if n < 1:
            continue
        for m, size in ((ranged, n), (single, 1)):
            for begin in range(start, start + (n << 12), size << 12):
                if what == "protect":
                    m.mprotect(begin, size << 12, "r")
                    m.mprotect(begin, size << 12, "rw")
                elif what == "store":
                    m.store(begin, ((size - 1) << 12) + 1, 1)
                else:
                    m.madvise(begin, size << 12, advices[what])
    assert list(leaves(ranged.mm)) == list(leaves(single.mm))
    assert ranged.mm.counters.data == single.mm.counters.data
    for column in ("refcount", "mapcount", "flags", "mapping", "index", "content", "states", "mlock_count"):
        one, other = (getattr(m.frames, column) for m in (ranged, single))
        assert one.array.tolist() == other.array.tolist(), column
    assert verify(ranged) == verify(single) == []
    end = ranged.digest()
    ranged.journal.seek((0, 0))
    ranged.journal.seek(ranged.journal.end)
    assert ranged.digest() == end


def test_many_tables_are_made_as_one_record() -> None:
    m, at = several_tables()
    start = len(m.journal.records)
    m.madvise(at, 1700 << 12, MADV_POPULATE_READ)
    records = m.journal.records[start:]
    bulks = [(r.func, r.n, len(r.cuts)) for r in records if isinstance(r, Bulk)]
    assert bulks == [("set_pte_at", 300, 1), ("__pte_alloc", 3, 1), ("set_pte_at", 1400, 3)]
    assert len(records) < 70
    assert verify(m) == []
    assert m.mm.counters.data["min_flt"] == 1700


def busy(scattered: bool = False) -> tuple[Machine, int]:
    """A machine with three full tables and a bit, at frames in runs or, mapped from the top down, one by one."""
    m, at = several_tables(ram=32 << 20)
    if scattered:
        for page in range(1699, -1, -1):
            m.store(at + (page << 12), 1, page & 0xFF)
    else:
        m.madvise(at, 1700 << 12, MADV_POPULATE_WRITE)
    return m, at


@pytest.mark.parametrize("scattered", [False, True])
def test_a_position_inside_any_record_of_a_large_range_keeps_the_counts(scattered: bool) -> None:
    m, at = busy(scattered)
    start = m.journal.end[0]
    m.mprotect(at, 1700 << 12, "r")
    m.mprotect(at, 1700 << 12, "rw")
    child = m.fork()
    m.madvise(at, 1700 << 12, MADV_DONTNEED)
    m.switch_to(child)
    m.madvise(at, 1700 << 12, MADV_DONTNEED)
    assert verify(m) == []
    end, seen = m.digest(), 0
    for i, record in enumerate(m.journal.records[start:], start):
        if isinstance(record, Bulk) and record.n > 64:
            for step in (1, record.n // 3, record.n - 1):
                m.journal.seek((i, step))
                assert verify_counts(m) == []
                assert m.arena.check() == []
                seen += 1
    assert seen >= 20
    m.journal.seek((0, 0))
    m.journal.seek(m.journal.end)
    assert m.digest() == end


def test_large_ranges_are_kept_in_short() -> None:
    """What a record of 1,700 pages in a few runs keeps does not grow with the pages."""
    m, at = busy()
    start = m.journal.end[0]
    m.mprotect(at, 1700 << 12, "r")
    m.fork()
    m.madvise(at, 1700 << 12, MADV_DONTNEED)
    bulks = [r for r in m.journal.records[start:] if isinstance(r, Bulk)]
    halves = [
        (name, n) for name in ("change_pte_range", "copy_present_pte", "zap_pte_range") for n in (300, 1400)
    ]
    assert [(r.func, r.n) for r in bulks] == [
        *halves[:2],
        ("__pte_alloc", 3),
        *halves[2:],
        ("put_page", 1700),
    ]
    for record in bulks:
        if record.n > 64:
            kept = [
                getattr(lane, name, 0)
                for lane in record.lanes
                for name in ("index", "old", "new", "delta", "bits")
            ]
            assert not any(isinstance(values, np.ndarray) for values in (*kept, record.addresses)), record


def test_a_mixed_range_is_judged_entry_by_entry() -> None:
    """Holes, the zero page, swap and pages of the parent's in one range: each entry gets what it should."""
    m, at = busy()
    m.madvise(at + (100 << 12), 50 << 12, MADV_DONTNEED)
    m.madvise(at + (120 << 12), 10 << 12, MADV_POPULATE_READ)
    m.madvise(at + (900 << 12), 30 << 12, MADV_PAGEOUT)
    child = m.fork()
    m.store(at + (400 << 12), 100 << 12, 3)
    m.mprotect(at, 1700 << 12, "r")
    m.mprotect(at, 1700 << 12, "rw")
    assert verify(m) == []
    writable = {va for va, entry in leaves(m.mm) if entry & 2 and entry & 1}
    assert writable == {at + (page << 12) for page in range(400, 500)}, "only what is the parent's alone"
    m.madvise(at, 1700 << 12, MADV_DONTNEED)
    m.switch_to(child)
    assert m.load(at + (450 << 12)).data == b"\0"
    m.munmap(at, 1700 << 12)
    assert verify(m) == []
