"""Steps by number against steps counted one by one, and the player, which needs no clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmviz.kernel.mm.pgtable import TableArena
from vmviz.kernel.mm.vma_set import VmaSet
from vmviz.kernel.trace.bulk import Bulk
from vmviz.kernel.trace.explain import EXPLAINED, explain
from vmviz.kernel.trace.journal import Check, Enter, Event, Journal, Leave, Position
from vmviz.session import Player, Session, StepIndex, ease, story_session
from vmviz.session.player import DURATION, SPEEDS


def naive(journal: Journal, start: Position, end: Position) -> list[Position]:
    """Where each step ends, by walking over everything."""
    out = []
    for rec in range(start[0], end[0]):
        record = journal.records[rec]
        if isinstance(record, Bulk):
            out += [(rec, k) for k in range(1, record.n)] + [(rec + 1, 0)]
        elif isinstance(record, tuple):
            if isinstance(record[0], (TableArena, VmaSet)):
                out.append((rec + 1, 0))
        elif isinstance(record, Check) or (isinstance(record, Event) and record.name == "tlb_flush"):
            out.append((rec + 1, 0))
    return out


@pytest.fixture(scope="module")
def story() -> Session:
    s = story_session()
    while s.run_next() is not None:
        pass
    return s


def test_steps_are_those_counted_one_by_one(story: Session) -> None:
    journal = story.machine.journal
    for done in story.done:
        steps, walked = StepIndex(journal, done.start, done.end), naive(journal, done.start, done.end)
        assert steps.total == len(walked)
        assert steps.position_at(0) == done.start
        for k, position in enumerate(walked, 1):
            assert steps.position_at(k) == (done.end if k == len(walked) else position)
            assert steps.index_of(position) == k
        for rec in range(done.start[0], done.end[0]):
            if rec > done.start[0]:
                assert steps.index_of((rec, 0)) == sum(p <= (rec, 0) for p in walked)
        assert steps.position_at(-5) == done.start
        assert steps.position_at(steps.total + 5) == done.end
        assert steps.index_of(done.end) == steps.total


def test_borders_of_calls(story: Session) -> None:
    journal = story.machine.journal
    for done in story.done:
        steps = StepIndex(journal, done.start, done.end)
        calls, functions = steps.calls(), steps.functions()
        assert calls == sorted(set(calls))
        assert set(functions) <= set(calls)
        assert {done.start, done.end} <= set(functions)
        marks = sum(isinstance(r, (Enter, Leave)) for r in journal.records[done.start[0] : done.end[0]])
        assert len(calls) >= min(marks, 1) + (done.start != done.end)
    zap = next(d for d in story.done if d.outcome.ptes_cleared == 512)
    assert any(step for _, step in StepIndex(journal, zap.start, zap.end).calls()), (
        "a cut between two page tables"
    )


def test_each_function_of_the_story_is_explained(story: Session) -> None:
    named = {r.func for r in story.machine.journal.records if isinstance(r, (Enter, Bulk))}
    assert named
    assert {f for f in named if not explain(f).sentence} == set()


def test_explanations_are_short_sentences() -> None:
    for func, e in EXPLAINED.items():
        assert 5 < len(e.sentence) <= 130, func
        assert e.sentence.endswith("."), func
        assert e.file, func
    assert explain("no_such_function").sentence == ""


class Steps(StepIndex):
    """So many steps, of nothing."""

    def __init__(self, total: int) -> None:
        super().__init__(Journal(), (0, 0), (0, 0))
        self.total = total


@given(st.floats(0, 1), st.floats(0, 1))
def test_ease_rises_from_0_to_1(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= ease(low) <= ease(high) <= 1


def test_ease_ends() -> None:
    assert (ease(0), ease(0.5), ease(1)) == (0, 0.5, 1)


class TestPlayer:
    @given(st.integers(0, 100_000), st.lists(st.floats(0, 0.4), min_size=30, max_size=60))
    def test_it_never_goes_back_and_ends(self, total: int, times: list[float]) -> None:
        p = Player()
        p.start(Steps(total))
        shown = [p.advance(0.0), *(p.advance(t) for t in times), p.advance(DURATION)]
        assert shown == sorted(shown)
        assert shown[-1] == total
        assert not p.playing

    @pytest.mark.parametrize(("total", "seconds"), [(0, 0), (1, 0.15), (10, 1.5), (20, 3.0), (10**6, 3.0)])
    def test_duration(self, total: int, seconds: float) -> None:
        p = Player()
        p.start(Steps(total))
        assert p.duration == pytest.approx(seconds)
        if total:
            assert p.advance(seconds * 0.99) < total
            assert p.playing
        assert p.advance(seconds * 0.02) == total
        assert not p.playing

    @given(st.integers(1, 10**7), st.data())
    def test_it_resumes_where_it_is(self, total: int, data: st.DataObject) -> None:
        done = data.draw(st.integers(0, total))
        p = Player()
        p.start(Steps(total), done)
        first = p.advance(0.0)
        assert done <= first <= done + 1 + total // 1_000_000
        assert p.advance(DURATION) == total

    def test_a_pause_takes_no_time(self) -> None:
        p = Player()
        p.start(Steps(1000))
        shown = p.advance(1.0)
        assert 0 < shown < 1000
        p.pause()
        assert p.advance(100.0) == shown
        assert not p.playing
        p.start(Steps(1000), shown)
        assert p.advance(0.0) == shown

    def test_speeds(self) -> None:
        p = Player()
        assert p.speed == 1.0
        assert [p.faster() for _ in range(5)] == [2.0, 4.0, 8.0, 8.0, 8.0]
        assert [p.slower() for _ in range(8)][-2:] == [0.1, 0.1]
        assert list(SPEEDS) == sorted(SPEEDS)

    @pytest.mark.parametrize("speed", SPEEDS)
    def test_the_pace_divides_the_time(self, speed: float) -> None:
        p = Player()
        while p.speed != speed:
            p.faster() if p.speed < speed else p.slower()
        p.start(Steps(100_000))
        half = p.advance(DURATION / 2 / speed)
        assert half == pytest.approx(50_000, abs=2)

    def test_before_the_first_start(self) -> None:
        p = Player()
        assert (p.advance(1.0), p.duration, p.playing) == (0, 0, False)
