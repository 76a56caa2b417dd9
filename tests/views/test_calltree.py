"""The call tree: what ran, cut at the position, folded to the lines there are."""

from __future__ import annotations

import pytest

from vmviz.session import Session
from vmviz.session.story import story_session
from vmviz.views.calltree import Call, calls_between, tree_lines
from vmviz.views.cells import plain, width


def zapped(call: str = "zap_vma_ptes(vma(fb), fb + 1M, 2M)") -> Session:
    """The story's set-up and one statement."""
    session = story_session()
    session.run(call)
    return session


def test_the_calls_of_a_zap_in_their_order() -> None:
    session = zapped()
    done = session.done[-1]
    calls = calls_between(session.machine, done.start, done.end)
    names = [c.name for c in calls]
    wanted = [
        "zap_vma_ptes",
        "zap_page_range_single",
        "unmap_page_range",
        "zap_pte_range",
        "zap_pte_range",
        "tlb_flush",
    ]
    places = []
    at = 0
    for name in wanted:
        at = names.index(name, at) + 1
        places.append(at - 1)
    assert places == sorted(places)
    depths = [calls[i].depth for i in places]
    assert depths[:4] == [depths[0], depths[0] + 1, depths[0] + 2, depths[0] + 3]
    ranges = [c for c in calls if c.name == "zap_pte_range"]
    assert [(c.detail, c.steps, c.open) for c in ranges] == [
        ("1b8.100..1ff", 256, False),
        ("1b9.000..0ff", 256, False),
    ]
    assert [c.passed for c in calls if c.passed is not None] == [True, True, True]
    assert not any(c.open for c in calls)


def test_in_the_middle_the_calls_are_open() -> None:
    session = zapped()
    done = session.done[-1]
    steps = session.steps(done)
    for k in range(1, steps.total):
        at = steps.position_at(k)
        calls = calls_between(session.machine, done.start, at)
        assert calls[0].open
        cleared = sum(c.steps for c in calls if c.name == "zap_pte_range")
        session.seek(at, session.setup)
        assert cleared == 2048 - _present(session)
    opened = [
        c
        for c in calls_between(session.machine, done.start, steps.position_at(100))
        if c.name == "zap_pte_range"
    ]
    assert [c.open for c in opened] == [True]


def _present(session: Session) -> int:
    arena, pgd = session.machine.arena, session.machine.mm.pgd
    slots = (arena.lookup(pgd, va) for va in range(0x7FFFF7000000, 0x7FFFF7800000, 4096))
    return sum(bool(arena.flat[slot]) for slot in slots)


def test_a_refused_call_ends_at_its_check() -> None:
    session = zapped("zap_vma_ptes(vma(heap), heap, 4K)")
    done = session.done[-1]
    calls = calls_between(session.machine, done.start, done.end)
    assert [c.detail for c in calls if c.passed is not None] == ["pass", "pass", "FAIL"]
    assert "zap_pte_range" not in [c.name for c in calls]


@pytest.mark.parametrize("columns", [20, 40, 63, 98])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 9, 30])
def test_the_lines_fit(columns: int, height: int) -> None:
    session = zapped()
    done = session.done[-1]
    lines = tree_lines(calls_between(session.machine, done.start, done.end), columns, height)
    assert 0 < len(lines) <= height
    if columns >= 40:
        assert all(width(line) <= columns for line in lines), [plain(x) for x in lines]


def test_what_clears_is_never_folded_away() -> None:
    session = zapped()
    done = session.done[-1]
    lines = [plain(x) for x in tree_lines(calls_between(session.machine, done.start, done.end), 63, 6)]
    assert sum("zap_pte_range" in line for line in lines) == 2
    assert "zap_vma_ptes" in lines[0]


def test_branches() -> None:
    calls = [Call("a", 0), Call("b", 1), Call("c", 2), Call("d", 1)]
    assert [plain(x).rstrip() for x in tree_lines(calls, 30, 9)] == [" a", " ├ b", "   └ c", " └ d"]
    assert tree_lines([], 30, 9) == []
