"""The range form of mprotect, mlock, madvise and mremap leaves what the loop over single pages leaves."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from vmviz.kernel import KernelError, Machine
from vmviz.kernel.mm import flags as F
from vmviz.kernel.trace.bulk import Bulk
from vmviz.kernel.verify import leaves, verify, verify_counts

from .test_range_forms import BASE, PAGES, STEPS, accesses, machine

P = 4096
FAR = BASE + (1 << 40) + 7 * P
Call = Callable[[Machine, int, int], object]

CALLS: dict[str, tuple[Call, ...]] = {
    "read-only": (lambda m, a, n: m.mprotect(a, n, "r"),),
    "none and back": (lambda m, a, n: m.mprotect(a, n, 0), lambda m, a, n: m.mprotect(a, n, "rw")),
    "read-only and back": (lambda m, a, n: m.mprotect(a, n, "r"), lambda m, a, n: m.mprotect(a, n, "rw")),
    "mlock": (lambda m, a, n: m.mlock(a, n),),
    "mlock and back": (lambda m, a, n: m.mlock(a, n), lambda m, a, n: m.munlock(a, n)),
    "onfault": (lambda m, a, n: m.mlock2(a, n, F.MLOCK_ONFAULT),),
    "advice": (lambda m, a, n: m.madvise(a, n, F.MADV_DONTFORK),),
    "move": (lambda m, a, n: m.mremap(a, n, n, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, a - BASE + FAR),),
}


def pages(m: Machine) -> dict[int, tuple[int, ...]]:
    """What each page's VMA says of it."""
    return {
        v.start + (i << 12): (v.vm_flags, v.pgoff + i, v.page_prot, v.file, bool(v.anon_vma))
        for v in m.mm.vmas
        for i in range(v.nr_pages)
    }


def same(a: Machine, b: Machine) -> None:
    """Everything but what the TLB happens to remember, and where special VMAs, which never merge, are cut."""
    assert pages(a) == pages(b)
    assert list(leaves(a.mm)) == list(leaves(b.mm))
    assert {**a.mm.counters.data, "map_count": 0} == {**b.mm.counters.data, "map_count": 0}
    assert a.sys.commit.data == b.sys.commit.data
    for name in ("flags", "refcount", "mapcount", "mlock_count", "content", "mapping", "index"):
        assert np.array_equal(getattr(a.frames, name).array, getattr(b.frames, name).array), name


@pytest.mark.parametrize("kind", ["anon", "shm", "fb", "file private"])
@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=5, deadline=None)
@given(steps=STEPS, first=st.integers(0, PAGES - 1), n=st.integers(1, PAGES))
def test_ranges(kind: str, call: str, steps: list[tuple[int, int, int | None]], first: int, n: int) -> None:
    ranged, single = machine(kind), machine(kind)
    n = min(n, PAGES - first)
    for a, b, value in steps:
        for m in (ranged, single):
            accesses(False, m, a, min(b, PAGES - a), value)
    if call == "move" and kind == "fb":
        return  # each move of a part ends the reservation of the rest (VM_PAT)
    if call == "move" and len({v.anon_vma for v in ranged.mm.vmas.overlapping(BASE, BASE + PAGES * P)}) == 1:
        first, n = (0, PAGES) if not ranged.vma(BASE).anon_vma else (first, n)
    for do in CALLS[call]:
        outcomes = []
        for m, pieces in ((ranged, [(first, n)]), (single, [(i, 1) for i in range(first, first + n)])):
            done = {_errno(do, m, BASE + (i << 12), k << 12) for i, k in pieces}
            outcomes.append(done)
        assert outcomes[0] == outcomes[1]
    assert verify(ranged) == verify(single) == []
    same(ranged, single)
    end = ranged.digest()
    ranged.journal.seek((0, 0))
    ranged.journal.seek(ranged.journal.end)
    assert ranged.digest() == end


def _errno(do: Call, m: Machine, addr: int, size: int) -> str:
    try:
        do(m, addr, size)
    except KernelError as error:
        return error.errno
    return ""


def test_every_position_inside_the_records_keeps_the_counts() -> None:
    m = machine("fb private")
    m.store(BASE + (10 << 12), 20 << 12, 7)
    m.mprotect(BASE, PAGES << 12, "r")
    m.mprotect(BASE, PAGES << 12, 0)
    m.mremap(BASE, PAGES << 12, PAGES << 12, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, FAR)
    anon = m.mmap(0, 40 * P, "rw", "private")
    m.mlock(anon, 40 * P)
    m.munlock(anon, 30 * P)
    seen = 0
    for i, record in enumerate(m.journal.records):
        if isinstance(record, Bulk) and record.n > 1:
            for step in range(1, record.n, 3):
                m.journal.seek((i, step))
                assert verify_counts(m) == []
                seen += 1
    assert seen > 60


def test_records_grow_with_tables_not_with_pages() -> None:
    lengths = []
    for pages in (64, 8192):
        m = Machine(ram=64 << 20, vdso=False)
        m.sys.cap_ipc_lock = True
        a = m.mmap(1 << 40, pages * P, 3, F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED)
        m.store(a, pages * P)
        m.seal()
        m.mprotect(a, pages * P, "r")
        m.mlock(a, pages * P)
        m.munlock(a, pages * P)
        m.mremap(a, pages * P, pages * P, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, a + (1 << 39) + P)
        lengths.append(len(m.journal.records))
    assert lengths[1] < lengths[0] + 16 * 60  # 16 tables instead of one
