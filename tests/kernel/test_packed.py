"""Single faults, accesses and small zaps: what they tell when taken apart is what the whole functions tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from vmviz.kernel import Machine, syscalls
from vmviz.kernel.errors import SignalRaised, VmvizError
from vmviz.kernel.mm import access, flags
from vmviz.kernel.mm.access_one import FaultOne
from vmviz.kernel.mm.contents import Contents
from vmviz.kernel.mm.memory import zap
from vmviz.kernel.mm.memory.zap_few import ZapFew
from vmviz.kernel.trace.journal import Enter
from vmviz.kernel.verify import verify
from vmviz.session.export import dump

ANON, LOCKED, FILE, FB, BAR, FROZEN = range(6)
PAGES = 48
BASE = 0x1000_0000_0000
Step = tuple[str, int, int, int]

KINDS = [
    "store",
    "store",
    "load",
    "load",
    "bytes",
    "zap",
    "zap",
    "zap",
    "odd",
    "drop",
    "ro",
    "fork",
    "other",
    "longer",
]
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, PAGES - 1), st.integers(0, 4095)),
    max_size=40,
)


def machine(cpus: int = 1) -> Machine:
    m = Machine(ram=8 << 20, vdso=False, cpus=cpus)
    for kind in range(6):
        at, size = BASE + (kind << 30), PAGES << 12
        if kind == FB:
            m.mmap(at, size, "rw", "shared", m.open("/dev/fb0"))
        elif kind == BAR:
            m.mmap(at, 16 << 12, "rw", "shared", m.open("/sys/bus/pci/devices/0000:00:02.0/resource0"))
        elif kind == FILE:
            fd = m.memfd_create("f")
            m.ftruncate(fd, size)
            m.mmap(at, size, "rw", "private", fd)
        else:
            m.mmap(at, size, "r" if kind == FROZEN else "rw", "private")
        if kind == LOCKED:
            m.mlock(at, size)
    m.seal()
    return m


def perform(m: Machine, step: Step) -> Any:
    what, kind, page, offset = step
    at = BASE + (kind << 30) + (page << 12)
    calls: dict[str, Callable[[], Any]] = {
        "store": lambda: m.store(at + offset, 1, offset & 0xFF),
        "load": lambda: m.load(at + offset, 1 + offset % 90),
        "bytes": lambda: m.store(at + offset, data=b"text"),
        "zap": lambda: m.zap_vma_ptes(m.vma(at), at, (1 + offset % 40) << 12),
        "odd": lambda: m.zap_vma_ptes(m.vma(at), at + offset, offset),
        "drop": lambda: m.madvise(at, (1 + offset % 9) << 12, flags.MADV_DONTNEED),
        "ro": lambda: m.mprotect(at, 4096, "r" if offset & 1 else "rw"),
        "fork": m.fork,
        "other": lambda: m.switch_to(sorted(m.tasks)[offset % len(m.tasks)]),
        "longer": lambda: m.load(at, 3 << 12),
    }
    try:
        result = calls[what]()
    except SignalRaised as signal:
        return signal.name, signal.code, signal.addr
    except VmvizError as error:
        return str(error)
    if isinstance(result, zap.ZapResult):
        return result, result.tlb, result.checks
    return result if isinstance(result, access.Access | int) else None


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([1, 2]))
def test_what_is_packed_is_what_the_whole_functions_do(steps: list[Step], cpus: int) -> None:
    quick, whole = machine(cpus), machine(cpus)
    for step in steps:
        done = perform(quick, step)
        with (
            mock.patch.object(access, "touch_one", return_value=None),
            mock.patch.object(syscalls, "touch_one", return_value=None),
            mock.patch.object(zap, "zap_few", return_value=None),
        ):
            assert perform(whole, step) == done
        assert quick.position == whole.position
    end, digest = quick.position, quick.digest()
    assert digest == whole.digest()
    assert verify(quick) == []
    quick.journal.seek((0, 0))
    whole.journal.seek((0, 0))
    assert quick.digest() == whole.digest()
    quick.journal.seek(end)
    assert quick.digest() == digest
    assert dump(quick.journal) == dump(whole.journal)
    for rec in range(0, end[0], max(1, end[0] // 7)):
        quick.journal.seek((rec, 0))
        whole.journal.seek((rec, 0))
        assert quick.digest() == whole.digest()


def test_results_of_a_zap_are_equal_whether_it_was_a_short_one() -> None:
    few, whole = Machine(), Machine()
    results = []
    for m, short in ((few, zap.zap_few), (whole, None)):
        fb = m.mmap(0, 8 << 20, "rw", "shared", m.open("/dev/fb0"))
        with mock.patch.object(zap, "zap_few", side_effect=short, return_value=None):
            m.zap_vma_ptes(m.vma(fb), fb, 4096)  # gives the reservation of the memory type back
            results += [m.zap_vma_ptes(m.vma(fb), fb + at, 4096) for at in (4096, 8192)]
    first, second, first_whole, second_whole = results
    assert first._few is not None
    assert first_whole._few is None
    assert (first, second) == (first_whole, second_whole)
    assert first != second
    assert hash(first) == hash(first_whole)


@settings(max_examples=30, deadline=None)
@given(STEPS, st.lists(st.floats(0, 1), max_size=6))
def test_a_position_inside_what_is_packed_is_one_like_any_other(
    steps: list[Step], spots: list[float]
) -> None:
    m = machine()
    for step in steps:
        perform(m, step)
    end = m.journal.end[0]
    whole = machine()
    with (
        mock.patch.object(access, "touch_one", return_value=None),
        mock.patch.object(syscalls, "touch_one", return_value=None),
        mock.patch.object(zap, "zap_few", return_value=None),
    ):
        for step in steps:
            perform(whole, step)
    for spot in spots:
        at = (int(spot * end), 0)
        m.journal.seek(at)
        whole.journal.seek(at)
        assert m.digest() == whole.digest()
    if spots:
        m.journal.truncate()
        whole.journal.truncate()
        assert (m.position, dump(m.journal)) == (whole.position, dump(whole.journal))


def packed(m: Machine) -> list[type]:
    return [type(record) for record in m.journal._packed]


def test_single_faults_and_small_zaps_are_kept_as_one_object() -> None:
    """The shape that keeps them quick: nothing is made for a reader who does not look."""
    m = machine()
    anon, fb = BASE, BASE + (FB << 30)
    m.store(anon, 1)
    m.zap_vma_ptes(m.vma(fb), fb, 4096)  # the first of each goes the long way: a table, the PAT reservation
    m.seal()
    for page in range(1, 9):
        m.store(anon + (page << 12), 1)
        m.load(anon + ((page + 20) << 12))
        m.zap_vma_ptes(m.vma(fb), fb + (page * 4 << 12), 4 << 12)
    assert packed(m) == [FaultOne, FaultOne, ZapFew] * 8
    before = m.position
    assert sum(isinstance(r, Enter) and r.func == "zap_vma_ptes" for r in m.journal.records) == 8
    assert packed(m) == []
    assert m.position == before


def test_a_seek_over_packed_records_does_not_take_them_apart() -> None:
    m = machine()
    m.store(BASE, 1)
    m.seal()
    digest = m.digest()
    for page in range(1, 30):
        m.store(BASE + (page << 12), 1)
    full, end = m.digest(), m.position
    m.journal.seek((0, 0))
    assert m.digest() == digest
    m.journal.seek(end)
    assert m.digest() == full
    assert packed(m) == [FaultOne] * 29
    m.journal.seek((m.journal._packed[3].at, 0))
    assert packed(m) == [FaultOne] * 29
    m.journal.seek((m.journal._packed[3].at + 5, 0))
    assert packed(m) == []
    m.journal.truncate()
    assert m.position[0] == len(m.journal.records)


def test_nothing_is_written_in_the_past() -> None:
    m = machine()
    m.store(BASE, 1)
    m.store(BASE + 4096, 1)
    m.journal.seek((0, 0))
    with pytest.raises(ValueError, match="in the past"):
        m.store(BASE + 8192, 1)
    with pytest.raises(ValueError, match="in the past"):
        m.zap_vma_ptes(m.vma(BASE + (FB << 30)), BASE + (FB << 30), 4096)


def test_one_byte_in_a_page_of_zeros_is_the_content_that_writing_makes() -> None:
    contents = Contents()
    for offset, byte in ((0, 0), (0, 7), (4095, 255), (9, 0)):
        assert contents.with_byte(0, offset, byte) == contents.written(0, offset, bytes([byte]))
        assert contents.with_byte(0, offset, byte) == contents.written(0, offset, bytes([byte]))
    seven = contents.with_byte(0, 0, 7)
    assert contents.read(contents.with_byte(seven, 1, 8), 0, 3) == b"\7\x08\0"
