"""The stores below the machine: buddy allocator, table arena, page contents, and the journal over them."""

from __future__ import annotations

import random
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from vmviz.kernel.arch import get_mode
from vmviz.kernel.errors import UnsupportedError
from vmviz.kernel.mm.contents import MAX_CONTENTS, UNKNOWN_CONTENT, Contents
from vmviz.kernel.mm.frame_states import FrameStates
from vmviz.kernel.mm.frames import DeviceRegion, Frames
from vmviz.kernel.mm.page_alloc import ANON, FREE, RESERVED, OutOfMemory, Zone, zones_of
from vmviz.kernel.mm.pgtable import TableArena
from vmviz.kernel.trace.bulk import AddLane, Bulk, CountLane, Ramp, SetLane
from vmviz.kernel.trace.journal import Journal
from vmviz.kernel.trace.store import Column, Counters, Keyed, RangeColumn

# -- buddy


def lists(states: FrameStates) -> dict[int, list[int]]:
    """The free blocks by order, found naively: the largest aligned blocks that are free as a whole."""
    out: dict[int, list[int]] = {}
    free, at = states.array == FREE, 0
    while at < len(free):
        order = 10
        while order >= 0 and (
            at % (1 << order) or at + (1 << order) > len(free) or not free[at : at + (1 << order)].all()
        ):
            order -= 1
        if order >= 0:
            out.setdefault(order, []).append(at)
        at += 1 << max(order, 0)
    return out


def test_the_worked_example() -> None:
    """16 free pages: one block of order 4."""
    states = FrameStates(16)
    buddy = states.buddy

    def take(order: int) -> int:
        pfn = buddy.take(order)
        for i in range(1 << order):
            states.put(pfn + i, ANON)
        return pfn

    def give(pfn: int, order: int) -> None:
        for i in range(1 << order):
            states.put(pfn + i, FREE)

    assert buddy.orders() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert take(0) == 0
    assert lists(states) == {0: [1], 1: [2], 2: [4], 3: [8]}
    assert take(1) == 2
    assert buddy.orders()[:4] == [1, 0, 1, 1]
    assert take(2) == 4
    assert buddy.orders()[:4] == [1, 0, 0, 1]
    give(0, 0)
    assert buddy.orders()[:4] == [0, 1, 0, 1]
    give(2, 1)
    assert buddy.orders()[:4] == [0, 0, 1, 1]
    give(4, 2)
    assert buddy.orders()[:5] == [0, 0, 0, 0, 1]
    assert buddy.check() == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 20), frames=st.sampled_from([64, 1000, 3000, 5000]))
def test_free_blocks_are_what_the_states_say(seed: int, frames: int) -> None:
    dice, states = (
        random.Random(seed),
        FrameStates(
            frames,
            (Zone("a", 0, frames // 2 & -1024 or frames), Zone("b", frames // 2 & -1024 or frames, frames)),
        ),
    )
    for _ in range(60):
        lo = dice.randrange(frames)
        if dice.random() < 0.4:
            states.put(lo, dice.choice([FREE, ANON]))
            continue
        hi = min(frames, lo + dice.randrange(1, 700))
        index = (
            slice(lo, hi)
            if dice.random() < 0.5
            else np.array(dice.sample(range(lo, hi), max(1, (hi - lo) // 2)))
        )
        states.put_many(index, dice.choice([FREE, ANON, RESERVED]))
    found = lists(states)
    assert states.buddy.orders() == [len(found.get(o, [])) for o in range(11)]
    assert states.buddy.check() == []
    assert states.buddy.nr_free() == int((states.array == FREE).sum())
    assert int(states.pyramid[:, FREE].sum()) == states.buddy.nr_free()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 20), n=st.integers(1, 300))
def test_a_range_is_what_single_allocations_hand_out(seed: int, n: int) -> None:
    dice = random.Random(seed)
    frames = Frames(4096 + 128, Journal())  # the highest zone is so small that it runs out
    for _ in range(40):
        lo = dice.randrange(2, 4180)
        frames.states.put_many(slice(lo, lo + dice.randrange(1, 40)), ANON)
    if n > frames.states.buddy.nr_free():
        with pytest.raises(OutOfMemory):
            frames.alloc_range(n)
        return
    ahead = frames.alloc_range(n).tolist()
    assert ahead == [frames.alloc_page(ANON) for _ in range(n)]


def lowest_of_the_smallest(states: FrameStates, border: int, order: int) -> int:
    """What an allocation is handed: the upper zone's if it has any, there the smallest block, the lowest of these."""
    found = lists(states)
    for low, high in ((border, len(states.array)), (0, border)):
        for o in range(order, 11):
            inside = [pfn for pfn in found.get(o, []) if low <= pfn < high]
            if inside:
                return min(inside)
    return -1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("aaaaafflx2"), st.integers(0, 1 << 20)), max_size=60))
def test_single_frames_come_from_where_a_naive_allocator_takes_them(steps: list[tuple[str, int]]) -> None:
    states, border = FrameStates(1024 + 96, (Zone("a", 0, 1024), Zone("b", 1024, 1120))), 1024
    held: list[int] = []
    for kind, dice in steps:
        want = lowest_of_the_smallest(states, border, 2 if kind == "2" else 0)
        if kind in "a2" and want >= 0:
            pfn = states.buddy.take(2 if kind == "2" else 0)
            assert pfn == want
            for i in range(4 if kind == "2" else 1):
                states.put(pfn + i, ANON)
                held.append(pfn + i)
        elif kind == "f" and held:
            states.put(held.pop(dice % len(held)), FREE)
        elif kind == "l" and held:
            states.put(held.pop(), FREE)
        elif kind == "x":
            pfn = dice % 1120
            if states.flat[pfn] == FREE:
                states.put(pfn, ANON)
                held.append(pfn)
    assert states.buddy.check() == []
    assert states.buddy.nr_free() == 1120 - len(held)


def test_the_highest_zone_is_used_first_and_blocks_keep_to_their_zone() -> None:
    zones = zones_of(8192)
    assert [(z.name, z.start_pfn, z.end_pfn) for z in zones] == [("DMA", 0, 4096), ("DMA32", 4096, 8192)]
    states = FrameStates(8192)
    assert states.buddy.take(0) == 4096
    assert states.buddy.orders(0)[10] == 4
    states.put_many(slice(4096, 8192), ANON)
    assert states.buddy.take(3) == 0
    states.put_many(slice(0, 4096), ANON)
    with pytest.raises(OutOfMemory, match="order 0"):
        states.buddy.take(0)


def test_check_finds_a_wrong_list() -> None:
    states = FrameStates(64)
    states.array[5] = ANON  # behind the allocator's back
    assert states.buddy.check()


# -- contents


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=40)), max_size=12))
def test_contents_read_back_what_was_written(writes: list[tuple[int, bytes]]) -> None:
    store, number, page = Contents(), 0, bytearray(4096)
    for offset, text in writes:
        data = text[: 4096 - offset]
        page[offset : offset + len(data)] = data
        number = store.written(number, offset, data)
        assert store.read(number, 0, 4096) == bytes(page)
    assert store.number(bytes(page)) == number, "equal pages have one number"


def test_contents_are_bounded_and_say_so() -> None:
    store = Contents()
    for i in range(MAX_CONTENTS - 2):  # a page of zeros and an unknown one are there from the start
        store.number(i.to_bytes(3, "big") + b"x")
    with pytest.raises(UnsupportedError, match="at most 65536 different page contents"):
        store.number(b"something new")
    assert store.read(store.number(bytes(3) + b"x"), 0, 4) == bytes(3) + b"x", "what is kept is found"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30)), max_size=12))
def test_of_an_unknown_page_only_what_was_written_is_known(writes: list[tuple[int, int]]) -> None:
    store, number, told = Contents(), UNKNOWN_CONTENT, set[int]()
    for offset, length in writes:
        number = store.written(number, offset, b"\0" * length)
        told |= set(range(offset, offset + length))
    for i in range(132):
        assert store.known(number, i, 1) == (i in told)
    assert store.known(number, 0, 132) == (told >= set(range(132)))
    assert store.written(number, 0, bytes(4096)) == 0, "a page that was written whole is known"


def test_device_patterns() -> None:
    region = DeviceRegion("d", 0x100, 600, store := Contents(), pattern=True)
    for i in (0, 1, 255, 256, 599):
        assert store.read(region.content.flat[i], 0, 17) == bytes([i & 0xFF]) * 16 + b"\0"


# -- the arena


def test_tables_are_made_on_the_way_down_and_found_again() -> None:
    j = Journal()
    frames = Frames(4096, j)
    arena, counters = TableArena(get_mode("x86-64-4l"), frames, j, rows=2), Counters("c", ("pgtables",))
    start = j.digest()
    pgd = arena.alloc_table(0)
    assert arena.lookup(pgd, 0x1000) == -1
    addresses = [0x1000, 0x200000, 0x40000000, 1 << 39, 0x7FFFFFFFE000]
    slots = [arena.ensure(pgd, va, counters) for va in addresses]  # the arena grows on the way
    assert counters.get("pgtables") == 4096 * (3 + 1 + 2 + 3 + 3)
    assert [arena.lookup(pgd, va) for va in addresses] == slots
    assert len(arena.walk(pgd, 0x1000)) == 4
    half = arena.ensure(pgd, 2 << 39, counters, leaf=False)
    assert not arena.flat[half]
    assert counters.get("pgtables") == 4096 * 14
    assert arena.lookup(pgd, 2 << 39) == -1
    for slot in slots:
        j.write(arena, slot, 0x8000000000000067)
    segments = list(arena.segments(pgd, 0, 1 << 47))
    assert [va for _, _, va in segments] == [va & -(1 << 21) for va in addresses]
    assert sum(n for _, n, _ in segments) == 512 * 5
    assert list(arena.segments(pgd, 0x1000, 0x3000)) == [(slots[0], 2, 0x1000)]
    end = j.digest()
    j.seek((0, 0))
    assert j.digest() == start
    j.seek(j.end)
    assert j.digest() == end


def test_runs_join_tables_that_lie_side_by_side() -> None:
    j = Journal()
    arena, counters = TableArena(get_mode("x86-64-4l"), Frames(4096, j), j), Counters("c", ("pgtables",))
    pgd = arena.alloc_table(0)
    for i in range(4):
        arena.ensure(pgd, i << 21, counters)
    runs = arena.runs(pgd, 0x1000, 4 << 21)
    covered = sum(n for _, n, _, _ in runs)
    assert covered == 4 * 512 - 1
    assert sum(len(cuts) for *_, cuts in runs) == 4
    assert [(n, cuts) for _, n, _, cuts in runs] == [(4 * 512 - 1, (0, 511, 1023, 1535))]


class Counted:
    """Entries whose reads are counted."""

    def __init__(self, flat: memoryview[int]) -> None:
        self.flat = flat
        self.reads = 0

    def __getitem__(self, slot: int) -> int:
        self.reads += 1
        return self.flat[slot]


def test_a_walk_over_all_of_user_space_reads_no_more_than_there_is() -> None:
    j = Journal()
    arena, counters = TableArena(get_mode("x86-64-5l"), Frames(4096, j), j), Counters("c", ("pgtables",))
    pgd = arena.alloc_table(0)
    for va in (0x1000, 3 << 39, 5 << 48):
        arena.ensure(pgd, va, counters)
    counted = arena.flat = Counted(arena.flat)  # type: ignore[assignment]
    assert [n for _, n, _, _ in arena.runs(pgd, 0, 1 << 56)] == [512] * 3
    assert counted.reads < 20_000  # of 2^26 spans of a table above the last level


# -- the journal


def make() -> tuple[Journal, Column, Column, Counters, Keyed]:
    j = Journal()
    a, b, c, k = Column("a", 32, np.int64), Column("b", 32, np.int32), Counters("c", ("n",)), Keyed("k")
    for store in (a, b, c, k):
        j.register(store)
    return j, a, b, c, k


def fill(stores: tuple[Journal, Column, Column, Counters, Keyed], dice: random.Random) -> None:
    j, a, b, c, k = stores
    for _ in range(dice.randrange(2, 14)):
        kind = dice.randrange(5)
        if kind == 0:
            j.write(a, dice.randrange(32), dice.randrange(9))
        elif kind == 1:
            j.write(k, dice.randrange(3), dice.choice([None, "x", "y"]))
        elif kind == 2:
            j.event("e")
        else:
            n = dice.randrange(2, 9)
            at = slice(lo := dice.randrange(20), lo + n) if kind == 3 else np.array(dice.sample(range(32), n))
            new = np.array([dice.randrange(9) for _ in range(n)])
            j.bulk(
                Bulk(
                    "f",
                    n,
                    (SetLane(a, at, a.array[at].copy(), new), AddLane(b, at, 2), CountLane(c, "n", new)),
                )
            )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 20))
def test_any_position_can_be_reached_from_any_other(seed: int) -> None:
    dice = random.Random(seed)
    stores = make()
    fill(stores, dice)
    j = stores[0]
    places = [(i, s) for i, r in enumerate(j.records) for s in range(r.n if isinstance(r, Bulk) else 1)] + [
        j.end
    ]
    seen = {}
    for place in places:
        j.seek(place)
        seen[place] = (j.digest(), j.position)
    assert all(at == place for place, (_, at) in seen.items())
    for _ in range(25):
        place = dice.choice(places)
        j.seek(place)
        assert j.digest() == seen[place][0]


def test_positions_that_do_not_exist() -> None:
    j, a, b, *_ = make()
    j.write(a, 0, 1)
    j.bulk(Bulk("f", 3, (AddLane(b, slice(0, 3), 1),)))
    for place in ((3, 0), (-1, 0), (0, 1), (1, 3), (1, -1)):
        with pytest.raises(IndexError):
            j.seek(place)
    assert j.position == j.end


def test_truncate_drops_the_future_at_borders_only() -> None:
    j, a, b, *_ = make()
    j.write(a, 0, 1)
    j.bulk(Bulk("f", 3, (AddLane(b, slice(0, 3), 1),)))
    j.seek((1, 2))
    with pytest.raises(ValueError, match="inside"):
        j.truncate()
    j.seek((1, 0))
    j.truncate()
    assert (len(j.records), j.position) == (1, (1, 0))
    assert b.array.sum() == 0
    j.write(a, 1, 2)
    assert j.end == (2, 0)


def test_between_tells_what_changed() -> None:
    j, a, b, *_ = make()
    j.write(a, 0, 1)
    j.event("e")
    j.bulk(Bulk("f", 5, (AddLane(b, slice(0, 5), 1),)))
    steps = [(type(r).__name__, lo, hi) for r, lo, hi in j.between((0, 0), (2, 3))]
    assert steps == [("tuple", 0, 1), ("Event", 0, 0), ("Bulk", 0, 3)]
    assert [(lo, hi) for _, lo, hi in j.between((2, 3), j.end)] == [(3, 5)]


def test_addresses_of_a_bulk() -> None:
    even = Bulk("f", 4, (), address=0x1000)
    assert [even.address_of(i) for i in range(4)] == [0x1000, 0x2000, 0x3000, 0x4000]
    odd = Bulk("f", 3, (), addresses=np.array([0x1000, 0x5000, 0x9000], np.uint64))
    assert odd.address_of(2) == 0x9000


@given(
    st.lists(
        st.tuples(st.integers(0, 19), st.integers(0, 19), st.sampled_from([-1, 1, 3]), st.sampled_from("rpa"))
    )
)
def test_range_column_counts_like_a_column(steps: list[tuple[int, int, int, str]]) -> None:
    noted, plain = RangeColumn("maps", 20, np.int32), Column("maps", 20, np.int32)
    for a, b, delta, kind in steps:
        low, high = min(a, b), max(a, b)
        for column in (noted, plain):
            if kind == "r":
                column.add_many(slice(low, high), delta)
            elif kind == "p":
                column.put(low, delta)
            else:
                column.add(low, delta)
        assert [noted.get(i) for i in range(20)] == plain.array.tolist()
        if kind == "p":
            assert noted.flat.tolist() == plain.flat.tolist()
    assert noted.serial() == plain.serial()
    assert noted.array.tolist() == plain.array.tolist()


def test_range_column_keeps_few_additions_and_forgets_what_is_taken_back() -> None:
    column = RangeColumn("maps", 1000, np.int32)
    for i in range(500):
        column.add_many(slice(i, i + 400), 1)
        assert len(column._noted) <= RangeColumn._SPREAD
    held = column.array.copy()
    column.add_many(slice(3, 900), -1)
    column.add_many(slice(3, 900), 1)
    assert column._noted == []
    assert (column.array == held).all()


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30, unique=True),
    st.integers(0, 41 << 9),
    st.integers(0, 41 << 9),
)
def test_runs_are_the_segments_with_neighbours_joined(tables: list[int], a: int, b: int) -> None:
    j = Journal()
    arena = TableArena(get_mode("x86-64-4l"), Frames(4096, j), j)
    counters, base = Counters("c", ("pgtables",)), (1 << 30) - (20 << 21)  # across the border of a pud entry
    lowest = arena.alloc_table(0)
    pgd = arena.alloc_table(0)
    arena.free_table(lowest)  # so that row 0 is one of the tables on the way or of the last level
    for table in tables:
        arena.ensure(pgd, base + (table << 21), counters)
    start, end = base + (min(a, b) << 12), base + (max(a, b) << 12)
    pieces = []
    for slot, n, va, cuts in arena.runs(pgd, start, end):
        assert cuts[0] == 0
        for first, stop in zip(cuts, (*cuts[1:], n), strict=True):
            pieces.append((slot + first, stop - first, va + (first << 12)))
    assert pieces == list(arena.segments(pgd, start, end))
    joined = list(arena.runs(pgd, start, end))
    for (slot, n, va, _), (then, _, after, _) in pairwise(joined):
        assert slot + n != then or va + (n << 12) != after


def test_a_table_of_frames_in_line_is_known_until_an_entry_changes() -> None:
    j = Journal()
    arena = TableArena(get_mode("x86-64-4l"), Frames(4096, j), j)
    whole = SetLane(arena, slice(512 - 7, 4 * 512 + 9), 0, Ramp(0x10_0225, 7 + 3 * 512 + 9))
    j.bulk(Bulk("remap_pte_range", 7 + 3 * 512 + 9, (whole,)))
    first = 0x10_0225 + (7 << 12)
    assert arena.line[:6].tolist() == [0, *(first + (i << 21) for i in range(3)), 0, 0]
    assert arena.check() == []
    for slot, lost in ((512, 1), (3 * 512 - 1, 2)):
        j.write(arena, slot, 0)
        assert not arena.line[lost]
    j.seek((1, 0))
    assert arena.check() == []
    j.seek((0, 0))
    assert not arena.line.any()
    j.seek((1, 0))
    j.seek((0, 700))
    assert arena.line[:4].tolist() == [0, first, 0, 0]
    assert arena.entries[512:1024].tolist() == [first + (i << 12) for i in range(512)]
    j.seek((0, 0))
    assert not arena.entries.any()
    assert not arena.line.any()
