"""The shape of mmap and munmap among many VMAs: what is written, whatever the number of VMAs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from vmviz.kernel.machine import Machine
from vmviz.kernel.mm.flags import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE
from vmviz.kernel.trace.journal import Record

PAGE = 4096
ANON = MAP_PRIVATE | MAP_ANONYMOUS


def machine(count: int) -> tuple[Machine, int]:
    """``count`` VMAs of one page, side by side up to mmap_base, none like its neighbour."""
    m = Machine(ram=64 << 20, vdso=False)
    base = m.mm.field("mmap_base") - (count << 12)
    for i in range(count):
        m.mmap(base + (i << 12), PAGE, 1 + 2 * (i & 1), ANON | MAP_FIXED)
    m.seal()
    return m, base


def writes(records: list[Record]) -> Counter[Any]:
    """The plain writes by what they are about: a VMA, or a counter by its name."""
    return Counter(r[1] if isinstance(r[1], str) else "vma" for r in records if isinstance(r, tuple))


@pytest.mark.parametrize("count", [100, 3000])
def test_a_pair_writes_the_same_few_cells_at_any_size(count: int) -> None:
    m, base = machine(count)
    before = m.digest()
    hole = base + ((count // 2 | 1) << 12)  # its neighbours are read-only: nothing joins it
    m.munmap(hole, PAGE)
    assert writes(m.journal.records) == {
        "vma": 1,
        "map_count": 1,
        "committed": 1,
        "total_vm": 1,
        "data_vm": 1,
    }
    assert len(m.journal.records) <= 17
    half = len(m.journal.records)
    assert m.mmap(0, PAGE, 3, ANON) == hole
    assert writes(m.journal.records[half:]) == writes(m.journal.records[:half])
    assert len(m.journal.records) - half <= 9
    m.journal.seek((0, 0))
    assert m.digest() == before


def test_a_munmap_of_many_writes_a_counter_once_for_each_kind() -> None:
    m, base = machine(600)
    before = m.digest()
    m.munmap(base + 100 * PAGE, 400 * PAGE)
    assert writes(m.journal.records) == {
        "vma": 400, "map_count": 1, "committed": 1, "total_vm": 2, "data_vm": 1,
    }  # fmt: skip
    assert (len(m.mm.vmas), m.mm.counters.get("map_count")) == (201, 201)
    assert m.mm.counters.get("total_vm") == sum(v.nr_pages for v in m.mm.vmas)
    m.journal.seek((0, 0))
    assert m.digest() == before
