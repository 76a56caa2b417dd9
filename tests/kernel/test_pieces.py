"""Runs of neighbours: as indices and as values they are what the cells and numbers one by one are."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from vmviz.kernel.machine import Machine
from vmviz.kernel.mm.frame_states import FrameStates
from vmviz.kernel.mm.page_alloc import ANON, FREE, TABLE
from vmviz.kernel.mm.pgtable import TableArena
from vmviz.kernel.trace.bulk import AddLane, Bulk, CopyLane, FlipLane, SetLane
from vmviz.kernel.trace.journal import Journal
from vmviz.kernel.trace.pieces import Lines, Pieces
from vmviz.kernel.trace.store import Column, cells_of, short

RUNS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=12)
"""Runs as (hole before it, length)."""


def pieces(runs: list[tuple[int, int]]) -> Pieces:
    at, starts, sizes = 0, [], []
    for hole, size in runs:
        at += hole
        starts.append(at)
        sizes.append(size)
        at += size
    return Pieces(starts, sizes)


@settings(max_examples=80, deadline=None)
@given(runs=RUNS, data=st.data())
def test_pieces_are_their_cells(runs: list[tuple[int, int]], data: st.DataObject) -> None:
    p = pieces(runs)
    cells = np.concatenate([np.arange(a, a + n) for a, n in zip(p.starts, p.sizes, strict=True)])
    assert p.cells().tolist() == cells.tolist()
    assert p.apart()
    a = data.draw(st.integers(0, p.n - 1))
    b = data.draw(st.integers(a + 1, p.n))
    assert cells_of(p.part(a, b)).tolist() == cells[a:b].tolist()
    values = np.arange(p.n, dtype=np.int32) + 7
    one, other = np.arange(200, dtype=np.int32), np.arange(200, dtype=np.int32)
    for each in (values, 5):
        p.fill(one, each)
        other[cells] = each
        p.add(one, each)
        other[cells] += each
        p.flip(one, each)
        other[cells] ^= each
        assert one.tolist() == other.tolist()
    assert p.take(one).tolist() == other[cells].tolist()
    assert p.counts(2, 0, 50).tolist() == np.bincount(cells >> 2, minlength=50)[:50].tolist()


def test_runs_that_share_a_cell_are_not_apart() -> None:
    assert not Pieces([4, 0], [2, 5]).apart()
    assert Pieces([5, 0], [2, 5]).apart()


@settings(max_examples=80, deadline=None)
@given(runs=RUNS, step=st.sampled_from([1, 4096]), data=st.data())
def test_lines_are_their_values(runs: list[tuple[int, int]], step: int, data: st.DataObject) -> None:
    values = pieces(runs).cells().astype(np.uint64) * np.uint64(step) + np.uint64(0x27)
    lines = Lines.of(values, step, long=1)
    assert lines is not None
    a = data.draw(st.integers(0, len(values) - 1))
    b = data.draw(st.integers(a + 1, len(values)))
    assert lines.part(a, b).tolist() == values[a:b].tolist()
    assert repr(lines.piece(a, b)) == repr(Lines.of(values[a:b], step, long=1))
    width = data.draw(st.integers(1, 4))
    count = (len(values) - a) // width
    if count:
        told = lines.firsts_at(a, count, width).tolist()
        groups = values[a : a + count * width].reshape(count, width)
        assert told == [int(g[0]) if (np.diff(g) == step).all() else 0 for g in groups]


def test_values_without_long_runs_are_no_lines() -> None:
    assert Lines.of(np.arange(1000, dtype=np.uint64)[::-1].copy()) is None
    every = slice(0, 100)
    assert short(np.array([3] * 99 + [4]), every).tolist() == [3] * 99 + [4]
    assert short(np.full(100, -3, np.int32), every) == -3
    assert short(np.arange(300, dtype=np.int32), np.array([5] * 70)) == 5


@settings(max_examples=60, deadline=None)
@given(runs=RUNS, wrong=st.none() | st.integers(0, 300))
def test_values_that_count_up_are_told(runs: list[tuple[int, int]], wrong: int | None) -> None:
    long = Pieces([s * 40 + i for i, s in enumerate(pieces(runs).starts)], [n * 7 for _, n in runs])
    a = np.zeros(8000, np.uint64)
    long.fill(a, np.arange(long.n, dtype=np.uint64) + np.uint64(900))
    if wrong is not None and wrong < long.n:
        a[long.cells()[wrong]] ^= np.uint64(1)
    told = short(a, long)
    same = told.part(0, long.n) if isinstance(told, Lines) else told
    assert np.broadcast_to(same, long.n).tolist() == a[long.cells()].tolist()
    assert isinstance(told, Lines) == (long.n >= 64 and not (wrong is not None and wrong < long.n))


@settings(max_examples=60, deadline=None)
@given(runs=RUNS, step=st.integers(0, 100))
def test_states_of_pieces_keep_lists_and_counts(runs: list[tuple[int, int]], step: int) -> None:
    p, states = pieces(runs), FrameStates(5000)
    shifted = Pieces([s * 7 + 900 for s in p.starts], p.sizes)
    one_by_one = FrameStates(5000)
    for values in (ANON, TABLE, FREE, np.resize([ANON, FREE, FREE], p.n), FREE):
        states.put_many(shifted, values)
        for cell, value in zip(shifted.cells().tolist(), np.broadcast_to(values, p.n).tolist(), strict=True):
            one_by_one.put(cell, value)
        assert states.array.tolist() == one_by_one.array.tolist()
        assert (states.pyramid == one_by_one.pyramid).all()
        assert states.buddy.check() == []
        assert states.buddy.orders() == one_by_one.buddy.orders()


def test_flips_and_copies_go_both_ways_from_any_place() -> None:
    j, c = Journal(), Column("c", 64, np.int64)
    j.register(c)
    j.bulk(Bulk("fill", 20, (SetLane(c, slice(0, 20), 0, Lines(np.array([7], np.uint64), [20], 1)),)))
    start = j.digest()
    assert c.array[:3].tolist() == [7, 8, 9]
    to, some = Pieces([30, 50], [12, 8]), slice(0, 20)
    j.bulk(Bulk("both", 20, (FlipLane(c, some, 4), CopyLane(c, to, some, 1), AddLane(c, to, 16))))
    assert c.array[to.cells()].tolist() == [(((7 + i) ^ 4) & ~1) + 16 for i in range(20)]
    end = j.digest()
    for step in (5, 13, 1, 19):
        j.seek((1, step))
        assert np.count_nonzero(c.array[30:]) == step
    j.seek((1, 0))
    assert j.digest() == start
    j.seek(j.end)
    assert j.digest() == end


def arena() -> TableArena:
    return Machine(ram=16 << 20, vdso=False).arena


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1536), st.integers(1, 1536)), min_size=1, max_size=8)
)
def test_what_is_known_of_tables_is_what_they_hold(steps: list[tuple[int, int, int]]) -> None:
    """Whatever is written where: a table known to be in line is, and runs are told as they are read."""
    a = arena()
    base = 40 << a.bits
    for kind, first, wanted in steps:
        n = min(wanted, 1536 - first)
        if not n:
            continue
        where = slice(base + first, base + first + n)
        if kind == 0:
            a.put_many(where, Lines(np.array([0x5027], np.uint64), [n]))
        elif kind == 1 and n > 1:
            a.put_many(where, Lines(np.array([0x900027, 0x5027], np.uint64), [n // 2, n - n // 2]))
        elif kind == 2:
            a.flip_many(where, 0x42)
        elif kind == 3:
            a.put_many(np.arange(where.start, where.stop, 3), 0x77)
        elif kind == 4:
            a.put(where.start, 0x1067)
        else:
            a.put_many(where, 0)
        assert a.check() == []
        for at, count in ((0, 1536), (first, n)):
            entries = a.entries[base + at : base + at + count].copy()
            read, told = a.lines(base + at, count), Lines.of(entries)
            assert repr(read) == repr(told)
            if read is not None:
                assert read.part(0, count).tolist() == entries.tolist()
