"""Vma as a value, and VmaSet against a plain sorted list that does everything the slow way."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmviz.kernel.mm import vma_chunks, vma_gaps
from vmviz.kernel.mm.flags import VM_GROWSDOWN
from vmviz.kernel.mm.vma import Vma
from vmviz.kernel.mm.vma_chunks import ChunkGuide
from vmviz.kernel.mm.vma_columns import VmaColumns
from vmviz.kernel.mm.vma_set import VmaSet
from vmviz.kernel.trace.store import Store

RW, STACK = 0x8100073, 0x100173
TOP = 260

# ---- Vma


def test_vma_is_an_immutable_value() -> None:
    v = Vma(0x1000, 0x3000, RW, 1, 2, 3, 4, "ops", "/x", 5)
    for name in ("start", "vm_flags", "nonsense"):
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            setattr(v, name, 1)
    with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
        del v.start
    assert type(v) is Vma
    assert not hasattr(v, "__dict__")
    same = Vma(
        start=0x1000,
        end=0x3000,
        vm_flags=RW,
        pgoff=1,
        page_prot=2,
        file=3,
        anon_vma=4,
        ops="ops",
        name="/x",
        private=5,
    )
    assert v == same
    assert hash(v) == hash(same)
    assert pickle.loads(pickle.dumps(v)) == copy.copy(v) == copy.deepcopy(v) == v
    with pytest.raises(TypeError):
        Vma(1)  # type: ignore[call-arg]


CHANGES: dict[str, Any] = {
    "start": 0x2000, "end": 0x9000, "vm_flags": 0, "pgoff": 0, "page_prot": 0,
    "file": 0, "anon_vma": 0, "ops": "", "name": "", "private": 0, "chain": 2,
}  # fmt: skip


@pytest.mark.parametrize("field", [a.name for a in attrs.fields(Vma)])
def test_replace_changes_one_field_like_evolve(field: str) -> None:
    v = Vma(0x1000, 0x3000, RW, 1, 2, 3, 4, "ops", "/x", 5)
    new = v.replace(**{field: CHANGES[field]})
    assert new == attrs.evolve(v, **{field: CHANGES[field]}) != v
    assert v.start == 0x1000
    with pytest.raises(TypeError):
        v.replace(colour=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("vm_flags", "perms", "pfnmap", "cow"),
    [
        (RW, "rw-p", False, True),
        (0xC0444FB, "rw-s", True, False),
        (0xC044471, "r--p", True, True),
        (0x51, "r--p", False, False),
    ],
)
def test_vma_properties(vm_flags: int, perms: str, pfnmap: bool, cow: bool) -> None:
    v = Vma(0x1000, 0x4000, vm_flags)
    assert (v.size, v.nr_pages, v.perms, v.is_pfnmap, v.is_cow) == (0x3000, 3, perms, pfnmap, cow)
    assert [a in v for a in (0xFFF, 0x1000, 0x3FFF, 0x4000)] == [False, True, True, False]
    assert v.is_anonymous
    assert not v.replace(ops="dev").is_anonymous


# ---- the model: a dict, and a scan for each question


def naive_holes(vmas: list[Vma]) -> list[tuple[int, int, Vma | None]]:
    holes: list[tuple[int, int, Vma | None]] = []
    end = 0
    for v in vmas:
        holes.append((end, v.start, v))
        end = v.end
    return [*holes, (end, 1 << 64, None)]


def naive_topdown(vmas: list[Vma], length: int, low: int, high: int, guard: int) -> int | None:
    """The kernel's loop: the highest hole that is long enough; a guard gap lowers the limit and retries."""
    while True:
        for start, end, above in reversed(naive_holes(vmas)):
            top, bottom = min(end, high), max(start, low)
            if top - bottom >= length:
                if above is not None and above.vm_flags & VM_GROWSDOWN and max(above.start - guard, 0) < top:
                    high = max(above.start - guard, 0)
                    break
                return top - length
        else:
            return None


def naive_bottomup(vmas: list[Vma], length: int, low: int, high: int, guard: int) -> int | None:
    for start, end, above in naive_holes(vmas):
        limit = end - guard if above is not None and above.vm_flags & VM_GROWSDOWN else end
        bottom = max(start, low)
        if bottom + length <= min(limit, high):
            return bottom
    return None


def compare(s: VmaSet, model: dict[int, Vma], rnd: random.Random) -> None:
    vmas = [model[k] for k in sorted(model)]
    assert list(s) == vmas
    assert s.check() == []
    assert len(s) == len(vmas)
    for _ in range(12):
        a, b = rnd.randrange(TOP + 20), rnd.randrange(TOP + 20)
        after = [v for v in vmas if v.end > a]
        before = [v for v in vmas if v.end <= a]
        assert s.find(a) == (after[0] if after else None)
        assert s.find_prev(a) == (before[-1] if before else None)
        assert s.find_exact(a) == next((v for v in vmas if a in v), None)
        assert s.get(a) == model.get(a)
        assert list(s.iter_from(a)) == after
        assert s.rank(a) == sum(v.start < a for v in vmas)
        assert s.next_start(a) == next((v.start for v in vmas if v.start >= a), None)
        hits = [v for v in vmas if v.start < b and v.end > a] if a < b else []
        assert s.overlapping(a, b) == hits
        assert s.first_overlap(a, b) == (hits[0] if hits else None)
        if a < b:
            below = [v for v in vmas if v.end <= a]
            above = [v for v in vmas if v.start >= b]
            assert s.around(a, b) == (below[-1] if below else None, hits, above[0] if above else None)
        i, j = rnd.randrange(-2, len(vmas) + 3), rnd.randrange(-2, len(vmas) + 3)
        assert s.items_slice(i, j) == vmas[max(i, 0) : max(j, 0)]
        if 0 <= i < len(vmas):
            assert s.at(i) == vmas[i]
        else:
            with pytest.raises(IndexError):
                s.at(i)
        clipped = [(max(x, a), min(y, b)) for x, y, _ in naive_holes(vmas)]
        assert list(s.gaps(a, b)) == [(x, y) for x, y in clipped if x < y]
        length, guard = rnd.choice((1, 2, 3, 5, 9, 40)), rnd.choice((0, 1, 4, 30))
        for low, high in ((a, b), (0, TOP), (min(a, b), max(a, b))):
            want = naive_topdown(vmas, length, low, high, guard)
            assert s.find_gap_topdown(length, low, high, guard) == want
            assert s.find_gap_bottomup(length, low, high, guard) == naive_bottomup(
                vmas, length, low, high, guard
            )
    assert s.check() == []


def unmap(model: dict[int, Vma], start: int, end: int, put: Callable[[int, Vma | None], None]) -> None:
    """As munmap: the ends are split, low half first, so that the halves overlap for a moment in undo."""
    for v in [model[k] for k in sorted(model)]:
        if v.end <= start or v.start >= end:
            continue
        if v.start < start:
            put(v.start, v.replace(end=start))
        if v.end > end:
            put(end, v.replace(start=end))
        if v.start >= start:
            put(v.start, None)


@pytest.mark.parametrize("chunk", [2, 3, 5, 16, 128])
@settings(max_examples=25, deadline=None)
@given(
    rnd=st.randoms(use_true_random=False),
    steps=st.integers(1, 60),
    longest=st.sampled_from([2, 12, 80]),
    shift=st.sampled_from([1, 5]),
    coarse=st.sampled_from([0, 2]),
)
def test_random_runs_forwards_and_back(
    chunk: int, rnd: random.Random, steps: int, longest: int, shift: int, coarse: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:  # small blocks, so that there are several
        patch.setattr(vma_gaps, "_BLOCK_SHIFT", shift)
        patch.setattr(vma_gaps, "_BLOCK", 1 << shift)
        patch.setattr(vma_chunks, "_MANY", rnd.choice((2, 12)))
        patch.setattr(vma_chunks, "_LONG", rnd.choice((1, 64)))
        make = ChunkGuide.__init__

        def coarser(guide: ChunkGuide, low: list[int]) -> None:
            make(guide, low)
            guide.shift += coarse  # whatever the shift, the answers are right

        patch.setattr(ChunkGuide, "__init__", coarser)
        run_forwards_and_back(chunk, rnd, steps, longest)


def run_forwards_and_back(chunk: int, rnd: random.Random, steps: int, longest: int) -> None:
    s = VmaSet("mm1.vmas", chunk=chunk)
    model: dict[int, Vma] = {}
    log: list[tuple[int, Vma | None, Vma | None]] = []

    def put(start: int, vma: Vma | None) -> None:
        log.append((start, s.get(start), vma))
        if rnd.random() < 0.5:
            s.around(start, start + 1)  # what it finds helps the put
        s.put(start, vma)
        if vma is None:
            model.pop(start, None)
        else:
            model[start] = vma

    history = [(0, s.serial())]
    for _ in range(steps):
        start = rnd.randrange(1, TOP)
        end = min(TOP, start + rnd.randrange(1, longest))
        choice = rnd.random()
        if choice < 0.7:
            unmap(model, start, end, put)
            if start < end and choice < 0.5:
                put(start, Vma(start, end, rnd.choice((RW, RW, STACK)), name=rnd.choice(("", "/é"))))
        elif model:
            v = model[rnd.choice(sorted(model))]
            if choice > 0.92:  # a merge: one grows over holes and neighbours first, then these go
                later = [model[k] for k in sorted(model) if k >= v.start][: rnd.randrange(1, 5)]
                put(v.start, v.replace(end=later[-1].end))
                for gone in later[1:]:
                    put(gone.start, None)
            elif v.size > 1:
                middle = rnd.randrange(v.start + 1, v.end)
                if choice < 0.85:  # the low half replaces the whole, then the high half comes
                    put(v.start, v.replace(end=middle))
                    put(middle, v.replace(start=middle))
                else:  # the high half comes first and lies inside the whole until that shrinks
                    put(middle, v.replace(start=middle))
                    put(v.start, v.replace(end=middle))
        put(TOP + 5, None)  # nothing starts there
        if rnd.random() < 0.4:
            compare(s, model, rnd)
        history.append((len(log), s.serial()))
    compare(s, model, rnd)
    assert s.serial() == VmaSet("other", list(s), chunk=7).serial()
    filled = VmaSet("mm1.vmas", chunk=chunk)
    filled.fill(VmaColumns.of(list(s)))
    if rnd.random() < 0.5:  # else what is undone meets chunks that nobody has looked into
        compare(filled, model, rnd)
    for start, old, _ in reversed(log):
        filled.put(start, old)
    assert (len(filled), filled.check()) == (0, [])

    while history:
        length, serial = history.pop()
        for start, old, _ in reversed(log[length:]):
            s.put(start, old)
        replay = log[length:]
        del log[length:]
        assert s.serial() == serial
        assert s.check() == []
        if replay and rnd.random() < 0.2:
            for start, _, new in replay:
                s.put(start, new)
            assert s.check() == []
            for start, old, _ in reversed(replay):
                s.put(start, old)
            assert s.serial() == serial
    assert s.serial() == b""
    assert len(s) == 0
    assert s.check() == []


# ---- by hand


def test_it_is_a_store() -> None:
    store: Store = VmaSet("mm1.vmas")
    assert store.name == "mm1.vmas"
    assert store.serial() == b""
    store.put(4096, Vma(4096, 8192, RW))
    assert store.get(4096) == Vma(4096, 8192, RW)


@pytest.mark.parametrize("field", [a.name for a in attrs.fields(Vma)])
def test_serial_sees_every_field(field: str) -> None:
    v = Vma(0x1000, 0x3000, RW, 1, 2, 3, 4, "ops", "/x", 5)
    w = v.replace(**{field: CHANGES[field]})
    assert VmaSet("a", [v]).serial() != VmaSet("a", [w]).serial()


def test_serial_keeps_texts_apart_and_does_not_depend_on_history() -> None:
    ab = Vma(1, 2, 0, ops="ab", name="c")
    assert VmaSet("s", [ab]).serial() != VmaSet("s", [ab.replace(ops="a", name="bc")]).serial()
    vmas = [Vma(k, k + 1, RW) for k in range(0, 300, 2)]
    shuffled = random.Random(1).sample(vmas, len(vmas))
    assert VmaSet("s", vmas).serial() == VmaSet("s", shuffled, chunk=4).serial()


def test_first_mmap_without_address_randomisation_lands_below_the_base() -> None:
    assert VmaSet("s").find_gap_topdown(0x1000, 0x1000, 0x7FFFF7FFF000) == 0x7FFFF7FFE000
    assert VmaSet("s").find_gap_bottomup(0x1000, 0x2AAAAAAAB000, 0x7FFFFFFFF000) == 0x2AAAAAAAB000


MIB = 1 << 20


@pytest.mark.parametrize(
    ("vmas", "length", "high", "topdown", "bottomup"),
    [
        ([], 4, 3, None, None),
        ([], 3, 3, 0, 0),
        # A plain VMA leaves the whole hole, a stack the hole without its guard gap.
        ([Vma(10 * MIB, 11 * MIB, RW)], MIB, 11 * MIB, 9 * MIB, 0),
        ([Vma(10 * MIB, 11 * MIB, STACK)], MIB, 11 * MIB, 8 * MIB, 0),
        # A stack so low that its guard gap reaches 0 has no hole under it.
        ([Vma(MIB // 2, MIB, STACK)], 4096, MIB, None, None),
        # The limit may cut the hole below the guard gap: then it costs nothing.
        ([Vma(10 * MIB, 11 * MIB, STACK)], MIB, 9 * MIB, 8 * MIB, 0),
        # A hole refused for its guard gap takes all below it inside the guard gap along, top-down only.
        ([Vma(0, 9 * MIB, RW), Vma(9 * MIB + 8192, 10 * MIB, STACK)], 4096, 10 * MIB, None, None),
        (
            [Vma(4096, 8 * MIB, RW), Vma(9 * MIB, 9 * MIB + 4096, RW), Vma(9 * MIB + 8192, 10 * MIB, STACK)],
            4096, 10 * MIB, 8 * MIB + 8192 - 4096, 0,
        ),
        # A hole too small to be looked at leaves the limit alone.
        (
            [Vma(4096, 8 * MIB, RW), Vma(9 * MIB, 9 * MIB + 4096, RW), Vma(9 * MIB + 8192, 10 * MIB, STACK)],
            8192, 10 * MIB, 9 * MIB - 8192, 8 * MIB,
        ),
    ],
)  # fmt: skip
def test_gap_searches(
    vmas: list[Vma], length: int, high: int, topdown: int | None, bottomup: int | None
) -> None:
    s = VmaSet("s", vmas)
    assert s.find_gap_topdown(length, 0, high, MIB) == topdown
    assert s.find_gap_bottomup(length, 0, high, MIB) == bottomup


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_many_vmas_keep_their_derived_numbers(order: str) -> None:
    """Enough chunks for several blocks of the second level; then most go, and the chunks are joined."""
    rnd = random.Random(7)
    vmas = [Vma(3 * k, 3 * k + 2, RW) for k in range(1, 6001)]
    given_order = {"rising": vmas, "falling": vmas[::-1], "shuffled": rnd.sample(vmas, len(vmas))}[order]
    s = VmaSet("s", given_order, chunk=16)
    assert s.check() == []
    assert len(s._block) > 10
    assert s.find_gap_topdown(2, 4, 18000) is None
    s.put(9000, None)
    assert s.find_gap_topdown(4, 4, 18000) == 8999 == s.find_gap_bottomup(4, 4, 18000)
    assert s.items_slice(2998, 3001) == [vmas[2998], vmas[3000], vmas[3001]]
    for v in rnd.sample(vmas, 5500):
        s.put(v.start, None)
    assert s.check() == []
    assert len(s._low) < 120
    kept = list(s)
    for length in (4, 10, 40, 100):
        assert s.find_gap_topdown(length, 4, 18000) == naive_topdown(kept, length, 4, 18000, 0)
        assert s.find_gap_bottomup(length, 4, 18000) == naive_bottomup(kept, length, 4, 18000, 0)
    assert s.check() == []


def test_check_names_what_is_wrong() -> None:
    s = VmaSet("s", [Vma(10, 20, RW), Vma(30, 40, RW)])
    s.put(10, Vma(10, 35, RW))
    assert any("begins below" in text for text in s.check())
    s.put(10, Vma(10, 20, RW))
    assert s.check() == []
    s._gaps[0][1] = 3
    s._len = 5
    assert len(s.check()) == 2
    with pytest.raises(ValueError, match="at least 2"):
        VmaSet("s", chunk=1)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_mappings_side_by_side_fill_their_chunks(order: str) -> None:
    """One mapping beside the other is how address spaces grow: no half-empty chunk stays behind."""
    vmas = [Vma(3 * k, 3 * k + 2, RW) for k in range(10, 2010)]
    s = VmaSet("s", [Vma(1, 2, RW), Vma(9000, 9001, STACK)], chunk=16)
    for v in vmas if order == "rising" else vmas[::-1]:
        s.put(v.start, v)
    assert len(s._low) <= 2002 // 15 + 3
    assert s.check() == []


def test_a_chunk_without_holes_gets_one_when_it_is_joined() -> None:
    s = VmaSet("s", [Vma(k, k + 1, RW) for k in range(32)], chunk=16)
    border = s._low[-1]
    assert (s.find_gap_topdown(1, 0, 32), s._holed) == (None, 0)
    for k in (*range(border - 1, 3, -1), *range(31, border + 2, -1)):
        s.put(k, None)
    assert (s._low, s.check()) == ([0], [])
    assert s.find_gap_topdown(1, 0, border) == border - 1
    assert s._holed == 1


def test_a_search_among_many_chunks_asks_for_few() -> None:
    """Addresses with the same upper bits lead to the same chunk, at any number of chunks."""
    vmas = [Vma(3 * k << 12, (3 * k + 2) << 12, RW) for k in range(10, 20010)]
    s = VmaSet("s", vmas)
    guide = s._guide
    assert guide is not None
    assert guide._low is s._low
    for v in vmas[:400]:
        assert s.find(v.start) is s.find(v.start - 1) is s.find(v.end - 1) is v
    assert len(guide) <= 1 + 10 * 400 // 48
    for v in vmas[::-7]:
        assert s.find(v.start) is s.find(v.start - 1) is s.find(v.end - 1) is v
    assert len(guide) <= 10 * len(s._low)
    assert s.find(vmas[-1].end) is None
    assert s.find(1 << 63) is None
    assert s.check() == []
    s.put(s._low[100], None)
    assert (len(guide), s.check()) == (0, [])
    one = VmaSet("s")
    one.fill(VmaColumns.of(vmas))
    assert one._guide is not None
    assert one.find(vmas[777].end) == vmas[778]


def test_a_guide_does_not_outgrow_its_chunks() -> None:
    """A VMA that is a million times longer than the others has a million times their upper bits."""
    vmas = [Vma(3 * k << 12, (3 * k + 2) << 12, RW) for k in range(2000)]
    s = VmaSet("s", [*vmas, Vma(1 << 40, 1 << 41, RW)])
    for addr in range(1 << 40, 1 << 41, 1 << 28):
        assert s.find(addr) is s.at(2000)
    assert s._guide is not None
    assert len(s._guide) < 64


def test_the_guide_of_a_set_that_grows_is_for_chunks_as_they_are() -> None:
    vmas = [Vma(k << 40, (k << 40) + 1, RW) for k in range(1000)]
    s = VmaSet("s", vmas)
    assert s._guide is not None
    assert s._guide.shift > 40
    for k in range(1, 20000):
        s.put((7 << 40) + 3 * k, Vma((7 << 40) + 3 * k, (7 << 40) + 3 * k + 2, RW))
    for addr in range(7 << 40, (7 << 40) + 60000, 1000):
        found = s.find(addr)
        assert found is not None
        assert found.start <= addr + 2
    assert s._guide.shift < 10
    assert s.check() == []


def test_only_an_empty_set_is_filled() -> None:
    s = VmaSet("s", [Vma(1, 2, RW)])
    with pytest.raises(ValueError, match="holds VMAs already"):
        s.fill(VmaColumns.of([Vma(3, 4, RW)]))
    assert len(s) == 1


def test_only_chunks_that_are_looked_into_are_made() -> None:
    vmas = [Vma(3 * k, 3 * k + 2, RW, anon_vma=k, chain=1) for k in range(10, 2010)]
    s = VmaSet("s")
    s.fill(VmaColumns.of(vmas))

    def made() -> int:
        return sum(type(chunk) is list for chunk in s._vmas)

    assert (len(s), made(), s.rank(3000), s.next_start(3001), made()) == (2000, 0, 990, 3003, 0)
    assert (s.find(3000), s.find(3001), made()) == (vmas[990], vmas[990], 1)
    assert (s.items_slice(5, 9), made()) == (vmas[5:9], 2)
    s.put(3002, Vma(3002, 3003, RW))
    s.put(vmas[-1].start, None)
    assert (made(), s.check(), made()) == (3, [], len(s._low))
    assert list(s) == [*vmas[:991], Vma(3002, 3003, RW), *vmas[991:-1]]


def test_the_numbers_of_a_chunk_are_made_when_they_are_looked_at() -> None:
    s = VmaSet("s")
    s.fill(VmaColumns.of([Vma(3 * k, 3 * k + 2, RW) for k in range(10, 2010)]))

    def made() -> list[int]:
        return [sum(type(part) is list for part in lists) for lists in (s._starts, s._ends, s._gaps)]

    assert made() == [0, 0, 0]
    assert s.find(3000) is not None
    assert made() == [0, 1, 0]
    assert (
        s.find_gap_topdown(2, 40, 6029) is None
    )  # all holes but the first are of one byte, and that is known
    assert sum(made()) <= 6
    assert s.find_gap_bottomup(2, 0, 6029) == 0
    assert s.find_gap_topdown(1, 3000, 4000) == 3998
    assert sum(made()) <= 12
    for lists in (s._starts, s._ends, s._gaps):
        assert lists[7] == list(lists[7])
        assert (len(lists[8]), lists[8].count(1), lists[8].index(lists[8][3])) == (
            48, 48 if lists is s._gaps else 0, 0 if lists is s._gaps else 3,
        )  # fmt: skip
        assert type(lists[8]) is list
    assert s.check() == []


def test_a_search_among_narrow_chunks_beside_many_wide_ones_asks_for_few() -> None:
    """The guide is cut for the chunks of middling length: all narrow ones may have the same upper bits."""
    narrow = [Vma(k << 12, (k + 1) << 12, RW) for k in range(100, 3100)]
    s = VmaSet("s")
    s.fill(VmaColumns.of([*narrow, *(Vma(k << 30, (k << 30) + 4096, RW) for k in range(1, 6000))]))
    asked: list[int] = []

    class Counted(list[list[int]]):
        def __getitem__(self, i: Any) -> Any:
            asked.append(i)
            return super().__getitem__(i)

    s._ends = Counted(s._ends)
    for vma in narrow[::100]:
        asked.clear()
        assert s.find(vma.start) == vma
        assert len(asked) <= 8
