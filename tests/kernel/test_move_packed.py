"""mremap by whole page tables: its packed record tells what the long way writes, and both leave the same state."""

from __future__ import annotations

import random
from typing import Any

import pytest

from vmviz.bench.memory import anonymous
from vmviz.kernel import syscalls_vma
from vmviz.kernel.errors import VmvizError
from vmviz.kernel.machine import Machine
from vmviz.kernel.mm.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
)
from vmviz.kernel.mm.frame_states import FrameStates
from vmviz.kernel.mm.move_packed import PackedMove
from vmviz.kernel.mm.page_alloc import FREE
from vmviz.kernel.mm.page_alloc import TABLE as TABLE_STATE
from vmviz.kernel.verify import verify
from vmviz.session.export import dump

PAGE, TABLE, GIB = 4096, 2 << 20, 1 << 30
ANON = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
MOVE = MREMAP_MAYMOVE | MREMAP_FIXED
BASE = 0x1000_0000_0000


def machine(dice: random.Random) -> Machine:
    """Memory enough, or nearly: at times a table is refused."""
    m = Machine(
        ram=dice.choice((7 << 20, 64 << 20, 64 << 20)),
        vdso=False,
        cpus=dice.choice((1, 2)),
        kernel=dice.choice(("6.1", "6.1", "6.12", "6.18")),
        mode=dice.choice(("x86-64-4l", "x86-64-4l", "x86-64-5l")),
    )
    m.sysctl("vm.overcommit_memory", dice.choice((0, 1, 1, 1, 2)))
    if dice.random() < 0.1:
        m.sysctl("vm.max_map_count", 9)
    m.seal()
    return m


def moves(seed: int) -> tuple[Machine, list[Any]]:
    """Areas of whole tables are mapped, touched in each table, or nearly, and moved: to free places or others."""
    dice = random.Random(seed)
    m = machine(dice)
    spots = [BASE + GIB * k + TABLE * i for k in (0, 1, 2, 3, 511, 512) for i in (0, 0, 1, 3, 510)]
    told: list[Any] = []
    for _ in range(20):
        what = dice.random()
        vmas = [vma for vma in m.mm.vmas if vma.start >= BASE and vma.size >= TABLE]
        at, n = dice.choice(spots), dice.choice((1, 1, 2, 5, 20, 515))
        try:
            if what < 0.3 or not vmas:
                flags = ANON | dice.choice((0, 0, 0, MAP_NORESERVE))
                m.mmap(at, n * TABLE, dice.choice((1, 3, 3)), flags)
                step = TABLE * dice.choice((1, 1, 1, 1, 3))
                touch = m.store if m.vma(at).vm_flags & 2 else m.load
                for page in range(at, at + n * TABLE, step):
                    touch(page)
            elif what < 0.35:
                m.munmap(dice.choice(vmas).start + dice.choice((0, TABLE)), TABLE)
            elif what < 0.4:
                m.mmap(dice.choice(vmas).end, PAGE, 3, ANON)
            elif what < 0.42:
                m.fork()
            elif what < 0.47:
                m.switch_to(dice.choice(sorted(m.tasks)))
            else:
                vma = dice.choice(vmas)
                at += PAGE * dice.choice((0, 0, 0, 0, 0, 0, 1))
                told.append(m.mremap(vma.start, vma.size, vma.size, MOVE, at))
                m.load(at)
        except VmvizError as error:
            told.append(str(error))
        told.append(m.position)
    return m, told


@pytest.mark.parametrize("seed", range(60))
def test_packed_moves_are_those_of_the_long_way(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, told = moves(seed)
    packed = sum(isinstance(p, PackedMove) for p in quick.journal._packed)
    end, digest = quick.journal.end, quick.digest()
    monkeypatch.setattr(syscalls_vma, "quick_mremap", lambda *_: -1)
    slow, told_slow = moves(seed)
    assert told == told_slow
    assert digest == slow.digest()
    assert verify(quick) == []
    quick.journal.seek((0, 0))
    slow.journal.seek((0, 0))
    assert quick.digest() == slow.digest()
    assert verify(quick) == []
    quick.journal.seek(end)
    assert quick.digest() == digest
    assert verify(quick) == []
    assert dump(quick.journal) == dump(slow.journal)
    slow.journal.seek(end)
    for _ in range(4):
        spot = (random.Random(seed).randrange(end[0]), 0)
        quick.journal.seek(spot)
        slow.journal.seek(spot)
        assert quick.digest() == slow.digest()
    assert packed >= 0


def test_many_moves_are_packed() -> None:
    """Else the test above would compare the long way with itself."""
    counts = [sum(isinstance(p, PackedMove) for p in moves(seed)[0].journal._packed) for seed in range(60)]
    assert sum(n > 0 for n in counts) > 15


@pytest.mark.parametrize("size", [16 << 20, 256 << 20])
def test_a_move_by_tables_is_one_record_at_any_size(size: int) -> None:
    m, at = anonymous(size)
    before = m.digest()
    there = at + 4 * GIB + TABLE
    assert m.mremap(at, size, size, MOVE, there) == there
    assert [type(p) for p in m.journal._packed] == [PackedMove]
    assert m.load(there + size - PAGE).data == b"\0"
    assert m.journal.end[0] < 80
    m.journal.seek((0, 0))
    assert m.digest() == before


@pytest.mark.parametrize("left", range(4))
def test_where_no_frame_is_left_for_a_table_nothing_is_done_quickly(
    left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved() -> tuple[Machine, str]:
        m = Machine(ram=8 << 20, vdso=False)
        m.sysctl("vm.overcommit_memory", 1)
        size, filler = 5 * TABLE, BASE + 100 * GIB
        m.mmap(BASE, size, 3, ANON)
        m.mmap(filler, size, 3, ANON)
        for at in range(BASE, BASE + size, TABLE):
            m.store(at)
        for at in range(filler, filler + size, PAGE):
            if m.sys.frames.states.buddy.nr_free() > left:
                m.store(at)
        assert m.sys.frames.states.buddy.nr_free() == left
        m.seal()
        try:
            return m, hex(m.mremap(BASE, size, size, MOVE, BASE + 3 * GIB - 2 * TABLE))
        except VmvizError as error:
            return m, str(error)

    quick, told = moved()
    assert bool(quick.journal._packed) == (left >= 2)
    monkeypatch.setattr(syscalls_vma, "quick_mremap", lambda *_: -1)
    slow, told_slow = moved()
    assert (told, quick.digest()) == (told_slow, slow.digest())
    assert dump(quick.journal) == dump(slow.journal)
    assert verify(quick) == []


def test_an_allocation_after_an_undo_is_not_searched_for_from_far_below() -> None:
    """What freed a low frame is taken back: the lists begin again where they began before."""
    states = FrameStates(1 << 15)
    for pfn in range((1 << 15) - 5):
        states.put(pfn, TABLE_STATE)
    first = states.take(TABLE_STATE)
    states.put(first, FREE)
    hints = [list(hint) for hint in states.buddy._hint]
    states.put(4097, FREE)
    states.put(4097, TABLE_STATE)
    assert [hint[0] >= before[0] for hint, before in zip(states.buddy._hint, hints, strict=True)] == [
        True,
        True,
    ]
    assert states.buddy.take(0) == first
    assert states.buddy.check() == []
