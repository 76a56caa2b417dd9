"""Huge leaves in what the views and ``--state`` show."""

from __future__ import annotations

import pytest

from vmviz.kernel.arch.x86 import pmd_pfn
from vmviz.kernel.machine import Machine
from vmviz.script.state import leaf_runs
from vmviz.views.cells import plain
from vmviz.views.frame_info import mappers
from vmviz.views.ruler import ruler
from vmviz.views.scene import Scene
from vmviz.views.vma_index import mapped_pfns, present_in

B, PAGE, HUGE = 0x1000_0000_0000, 4096, 2 << 20


@pytest.fixture
def m() -> Machine:
    machine = Machine(ram=64 << 20, vdso=False)
    machine.thp("always")
    machine.mmap(B, 4 * HUGE, "rw", "private")
    machine.store(B, 2 * HUGE)
    return machine


def head(m: Machine, at: int) -> int:
    return pmd_pfn(m.arena.flat[m.arena.huge_slot(m.mm.pgd, at)])


def test_state_tells_huge_leaves_in_runs(m: Machine) -> None:
    m.store(B + 2 * HUGE)
    m.munmap(B + 3 * HUGE, HUGE)
    runs = leaf_runs(m, m.mm)
    assert [(r["va"], r["n"], r["level"], r["pfn"]) for r in runs] == [
        (f"{B:#x}", 3, "pmd", f"{head(m, B):#x}"),
    ]
    assert "PSE" in runs[0]["bits"].split()
    m.munmap(B + PAGE, PAGE)
    assert [(r["n"], r["level"]) for r in leaf_runs(m, m.mm)] == [(1, "pte"), (510, "pte"), (2, "pmd")]


def test_each_small_page_counts_and_has_its_frame(m: Machine) -> None:
    first = head(m, B)
    assert present_in(m, m.vma(B)) == 1024
    assert mapped_pfns(m, B + 3 * PAGE, B + 5 * PAGE).tolist() == [first + 3, first + 4]
    assert mappers(m, first + 7) == [(m.mm.id, B + 7 * PAGE)]
    m.fork()
    assert [va for _, va in mappers(m, first + 7)] == [B + 7 * PAGE] * 2


def test_the_ruler_goes_to_the_page_inside_the_leaf(m: Machine) -> None:
    at = B + HUGE + 5 * PAGE
    line = plain(ruler(Scene(m, cursor=at), 80)[0])
    assert f"pa {(head(m, B + HUGE) + 5) << 12:x}" in line
