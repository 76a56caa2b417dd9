"""The shape of mmap and munmap among many VMAs: what is written, whatever the number of VMAs."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from vmviz.kernel import syscalls
from vmviz.kernel.errors import VmvizError
from vmviz.kernel.machine import Machine
from vmviz.kernel.mm.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_PRIVATE,
)
from vmviz.kernel.mm.munmap import do_munmap
from vmviz.kernel.mm.vma import Vma
from vmviz.kernel.trace.journal import Enter, Leave, Record
from vmviz.kernel.verify import verify

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


# ---- packed records tell what the long way writes


def plain(records: list[Record]) -> list[Any]:
    """Records as values that compare."""
    return [
        (r[0].name, *r[1:]) if isinstance(r, tuple)
        else (type(r).__name__, r.func, r.fields) if isinstance(r, Enter)
        else (type(r).__name__, r.func, r.ret) if isinstance(r, Leave)
        else repr(r)
        for r in records
    ]  # fmt: skip


def storm(seed: int) -> Machine:
    """Mappings and unmappings at random: in holes, over others, side by side, touched or not, within limits."""
    dice = random.Random(seed)
    kernel = dice.choice(("6.1", "6.12", "6.18"))
    m = Machine(ram=32 << 20, vdso=False, kernel=kernel)
    m.sysctl("vm.overcommit_memory", dice.choice((0, 1, 2)))
    if dice.random() < 0.3:
        m.rlimit("as", 600 * PAGE + m.mm.counters.get("total_vm") * PAGE)
    if dice.random() < 0.3:
        m.sysctl("vm.max_map_count", 12)
    m.seal()
    base = m.mm.field("mmap_base") - (1 << 22)
    shared = m.open("/dev/fb0")
    for _ in range(60):
        at = base + (dice.randrange(900) << 12)
        size = dice.choice((1, 1, 2, 3, 16, 600)) * PAGE
        prot = dice.choice((0, 1, 3, 3, 3, 5))
        choice = dice.random()
        try:
            if choice < 0.25:
                m.mmap(0, size, prot, ANON)
            elif choice < 0.45:
                m.mmap(
                    at,
                    size,
                    prot,
                    ANON | dice.choice((0, MAP_FIXED, MAP_GROWSDOWN, MAP_NORESERVE, MAP_LOCKED)),
                )
            elif choice < 0.5:
                m.mmap(0, size, prot, "shared", dice.choice((-1, shared)))
            elif choice < 0.55:  # a hole inside a VMA, which is then filled: three become one
                vma = dice.choice([*m.mm.vmas, Vma(base, base + PAGE, 0)])
                if vma.start >= base and vma.nr_pages > 2:
                    m.munmap(vma.start + PAGE, PAGE)
                    m.mmap(vma.start + PAGE, PAGE, vma.vm_flags & 7, ANON)
            elif choice < 0.65:
                m.munmap(at, size)
            elif choice < 0.85:
                vma = dice.choice([*m.mm.vmas, Vma(base, base + PAGE, 0)])
                if vma.start >= base:
                    m.munmap(vma.start, vma.size)
            elif choice < 0.95:
                m.store(at, dice.choice((1, 2)) * PAGE)
            else:
                m.mprotect(at, size, prot)
        except VmvizError:
            continue
    return m


@pytest.mark.parametrize("seed", range(24))
def test_packed_records_are_those_of_the_long_way(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = storm(seed)
    packed = len(quick.journal._packed)
    monkeypatch.setattr(syscalls, "quick_mmap", lambda *_: -1)
    monkeypatch.setattr(syscalls, "quick_munmap", lambda *_: None)
    slow = storm(seed)
    assert packed > 3
    assert len(slow.journal._packed) < packed
    assert quick.digest() == slow.digest()
    end = quick.journal.end
    quick.journal.seek((0, 0))
    start = quick.digest()
    quick.journal.seek(end)
    assert quick.digest() == slow.digest()
    assert plain(quick.journal.records) == plain(slow.journal.records)
    quick.journal.seek((0, 0))
    assert quick.digest() == start
    assert verify(quick) == []


def test_without_the_journal_nothing_is_kept() -> None:
    m, base = machine(40)
    m.journal.enabled = False
    m.munmap(base + 8 * PAGE, PAGE)
    assert m.mmap(0, PAGE, 1, ANON) == base + 8 * PAGE
    assert m.journal.end == (0, 0)
    m.journal.enabled = True
    m.munmap(base + 8 * PAGE, PAGE)
    m.journal.seek((0, 0))
    with pytest.raises(ValueError, match="in the past"):
        do_munmap(m.mm, base, PAGE)
    assert m.mm.vma_at(base) is not None
