"""What is done at once, or remembered to be quick, leaves what the plain way leaves: random operations on two machines,
one of which has every quick form switched off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from vmviz.kernel import KernelError, Machine, SignalRaised, syscalls
from vmviz.kernel.errors import CallerBugError, UnsupportedError
from vmviz.kernel.mm import access, gup
from vmviz.kernel.mm import flags as F
from vmviz.kernel.mm.frame_states import FrameStates
from vmviz.kernel.mm.memory import zap
from vmviz.kernel.mm.memory.alike import Alike
from vmviz.kernel.mm.mmu_gather import MmuGather
from vmviz.kernel.mm.page_alloc import Buddy, OutOfMemory
from vmviz.kernel.mm.pgtable import TableArena
from vmviz.kernel.trace.pieces import Lines
from vmviz.kernel.trace.store import Column, RangeColumn, cells_of
from vmviz.kernel.verify import verify
from vmviz.session.export import dump

PAGE, HUGE = 4096, 2 << 20
B = 0x1000_0000_0000 - 2 * HUGE  # a border of all levels lies in the middle
ANON = F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED
Step = tuple[str, int, int, int]


def as_cells(gather: MmuGather) -> Any:
    return np.concatenate([cells_of(pages) for pages in gather.pages])


def one_by_one(states: FrameStates, index: Any, values: Any) -> None:
    cells = cells_of(index)
    many = values.part(0, values.n) if isinstance(values, Lines) else np.broadcast_to(values, len(cells))
    for cell, value in zip(cells.tolist(), many.tolist(), strict=True):
        states.put(cell, value)


CARVE = Buddy.carve


def split_each_time(buddy: Buddy, pfn: int) -> None:
    buddy._taken = -1
    CARVE(buddy, pfn)


def spread_at_once(column: RangeColumn, index: Any, delta: Any) -> None:
    _ = column.array
    Column.add_many(column, index, delta)


def table_by_table(arena: TableArena, pgd: int, start: int, end: int) -> Any:
    return [(slot, n, va, (0,)) for slot, n, va in arena.segments(pgd, start, end)]


@contextlib.contextmanager
def without_records_in_short() -> Iterator[None]:
    """No packed records and no remembered places: what is recorded must be the same to the letter."""
    with contextlib.ExitStack() as stack:
        for where, name, value in (
            (access, "touch_one", lambda *_: None),
            (syscalls, "touch_one", lambda *_: None),
            (syscalls, "load_one", lambda *_: None),
            (syscalls, "quick_mmap", lambda *_: -1),
            (syscalls, "quick_munmap", lambda *_: None),
            (zap, "zap_few", lambda *_: None),
            (Buddy, "carve", split_each_time),
            (FrameStates, "put_many", one_by_one),
            (RangeColumn, "add_many", spread_at_once),
            (TableArena, "near_slot", TableArena.lookup),
            (TableArena, "_learn", lambda *_: None),
        ):
            stack.enter_context(mock.patch.object(where, name, value))
        yield


@contextlib.contextmanager
def without_ranges() -> Iterator[None]:
    """Nor is anything judged or done for more than what one table maps, or for entries that are alike."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(without_records_in_short())
        for where, name, value in (
            (zap, "_zap_raw_line", lambda *_: False),
            (gup, "missing_tables", lambda *_: 0),
            (Alike, "of", lambda *_: None),
            (TableArena, "runs", table_by_table),
            (MmuGather, "_put_runs", as_cells),
        ):
            stack.enter_context(mock.patch.object(where, name, value))
        yield


def machine(policy: str, ram: int) -> Machine:
    m = Machine(ram=ram, vdso=False, cpus=2)
    m.thp(policy)
    m.sysctl("vm.overcommit_memory", 1)
    m.mmap(B, 5 * HUGE, 3, ANON)
    m.seal()
    return m


def perform(m: Machine, step: Step) -> Any:
    what, page, pages, number = step
    at, size = B + page * PAGE, pages * PAGE
    advice = (F.MADV_DONTNEED, F.MADV_FREE, F.MADV_PAGEOUT, F.MADV_POPULATE_READ, F.MADV_POPULATE_WRITE)
    calls: dict[str, Callable[[], Any]] = {
        "mmap": lambda: m.mmap(at, size, (3, 1, 3, 7)[number & 3], ANON),
        "device": lambda: m.mmap(at, size, 3, F.MAP_SHARED | F.MAP_FIXED, m.open("/dev/fb0")),
        "anywhere": lambda: m.mmap(0, size & 0xFFFF or PAGE, 3, ANON & ~F.MAP_FIXED),
        "munmap": lambda: m.munmap(at, size),
        "vma": lambda: m.munmap(m.vma(at).start, m.vma(at).size),
        "protect": lambda: m.mprotect(at, size, (1, 3, 0)[number % 3]),
        "store": lambda: m.store(at, size, number & 0xFF),
        "load": lambda: m.load(at, size),
        "store1": lambda: m.store(at + number % PAGE, 1, number & 0xFF),
        "load1": lambda: m.load(at + number % PAGE, 1),
        "advise": lambda: m.madvise(at, size, advice[number % 5]),
        "zap": lambda: m.zap_vma_ptes(m.vma(at), at, size),
        "zap1": lambda: m.zap_vma_ptes(m.vma(at), at, (number % 40 + 1) * PAGE),
        "lock": lambda: m.mlock(at, size) if number & 1 else m.munlock(at, size),
        "fork": lambda: m.fork() if len(m.living()) < 3 else None,
        "switch": lambda: m.switch_to(m.living()[number % len(m.living())]),
        "exit": lambda: m.exit() if m.pid != m.first_pid else None,
        "clear": lambda: m.clear_refs(4),
    }
    try:
        result = calls[what]()
    except (KernelError, SignalRaised, CallerBugError, UnsupportedError, OutOfMemory) as error:
        return str(error)
    except syscalls.VmaNotFound:
        return "no VMA"
    if isinstance(result, MmuGather):
        return result.flushes, result.freed_pages, result.freed_table_pages
    if isinstance(result, zap.ZapResult):
        return result, result.tlb, result.checks
    return result


WHAT = (
    "mmap", "device", "anywhere", "munmap", "vma", "protect", "store", "load", "store1", "store1", "load1", "advise",
    "advise", "zap", "zap1", "lock", "fork", "switch", "exit", "clear", "undo",
)  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.sampled_from(WHAT),
        st.one_of(st.integers(0, 5 * 512 - 1), st.integers(0, 40), st.integers(0, 4).map(lambda n: n * 512)),
        st.one_of(st.integers(1, 24), st.integers(64, 200), st.integers(500, 1600)),
        st.integers(0, 1 << 16),
    ),
    min_size=4,
    max_size=25,
)
machines = st.tuples(st.sampled_from(("never", "always")), st.sampled_from((4 << 20, 32 << 20)))


@settings(max_examples=25)
@given(STEPS, machines)
def test_what_is_remembered_does_not_show_in_records(steps: list[Step], kind: tuple[str, int]) -> None:
    quick, plain = machine(*kind), machine(*kind)
    places = [(quick.position, quick.digest())]
    for step in steps:
        if step[0] == "undo":
            place, digest = places[step[3] % len(places)]
            del places[step[3] % len(places) + 1 :]
            for m in (quick, plain):
                with without_records_in_short() if m is plain else contextlib.nullcontext():
                    m.journal.seek(place)
                    m.journal.truncate()
                assert m.digest() == digest
            continue
        done = perform(quick, step)
        with without_records_in_short():
            assert perform(plain, step) == done
        places.append((quick.position, quick.digest()))
        assert (plain.position, plain.digest()) == places[-1]
        assert quick.arena.check() == []
    assert verify(quick) == []
    assert dump(quick.journal) == dump(plain.journal)


@settings(max_examples=25)
@given(STEPS, machines)
def test_ranges_leave_what_their_parts_leave(steps: list[Step], kind: tuple[str, int]) -> None:
    quick, plain = machine(*kind), machine(*kind)
    for step in steps:
        if step[0] == "undo":
            continue
        done = perform(quick, step)
        with without_ranges():
            assert perform(plain, step) == done
        assert quick.digest() == plain.digest()
    assert verify(quick) == []
    end = quick.digest()
    for m in (quick, plain):
        m.journal.seek((0, 0))
    assert quick.digest() == plain.digest()
    quick.journal.seek(quick.journal.end)
    assert quick.digest() == end


def test_a_table_that_has_gone_is_not_remembered() -> None:
    m = machine("never", 32 << 20)
    m.store(B, 1)
    m.store(B + PAGE, 1)
    m.journal.seek((0, 0))
    m.journal.truncate()
    m.store(B + HUGE, 1)  # has the row and the frame that the table had
    m.store(B + 2 * PAGE, 1)
    assert verify(m) == []
