"""The ruler: the address taken apart, one line or two, and every way of having no physical address."""

from __future__ import annotations

import pytest

from vmviz.kernel.machine import Machine
from vmviz.views.cells import ROLES, plain
from vmviz.views.ruler import ruler
from vmviz.views.scene import Range, Scene

M = 1 << 20
FB = 0x7FFFF7000000


@pytest.fixture(scope="module")
def machine() -> Machine:
    m = Machine(ram=64 * M, vdso=False)
    m.mmap(FB, 8 * M, "rw", "shared", m.open("/dev/fb0"))
    return m


def lines(scene: Scene, width: int) -> list[str]:
    found = ruler(scene, width)
    assert {role for line in found for _, role in line} <= set(ROLES)
    texts = [plain(line) for line in found]
    assert all(len(text) == width for text in texts)
    return texts


NARROW = [
    (0, " fb       7ffff7000000  PGD 0ff  PUD 1ff  PMD 1b8  PT 000 +000   pa e0000000    "),
    (0x280000, " fb+2560K 7ffff7280000  PGD 0ff  PUD 1ff  PMD 1b9  PT 080 +000   pa e0280000    "),
    (0x1234, " fb+4660  7ffff7001234  PGD 0ff  PUD 1ff  PMD 1b8  PT 001 +234   pa e0001234    "),
    (8 * M, "          7ffff7800000  PGD 0ff  PUD 1ff  PMD 1bc  PT 000 +000   pa --          "),
]


@pytest.mark.parametrize(("offset", "want"), NARROW)
def test_one_line(machine: Machine, offset: int, want: str) -> None:
    assert lines(Scene(machine, FB + offset, labels={"fb": FB}), 80) == [want]


def test_two_lines(machine: Machine) -> None:
    top, low = lines(Scene(machine, FB, labels={"fb": FB}), 120)
    assert top.rstrip() == (
        " 7ffff7000000   PGD 011111111     PUD 111111111     PMD 110111000     PT  000000000     "
        "offset 000000000000"
    )
    assert low.startswith(" fb             0ff → PUD 0")
    assert low.rstrip().endswith("000 → pfn e0000   pa e0000000 + 000")


def test_the_first_page_outside(machine: Machine) -> None:
    scene = Scene(machine, FB + 8 * M, Range(FB + 7 * M, FB + 9 * M, FB + 7 * M), labels={"fb": FB})
    low = lines(scene, 120)[1]
    assert "1bc → --          000 → --          pa -- (first page outside)" in low


def test_unknown_and_swap(machine: Machine) -> None:
    journal, position = machine.journal, machine.journal.position
    slot = machine.arena.lookup(machine.mm.pgd, FB)
    journal.write(machine.arena, slot, machine.arena.mode.swp_entry(1, 0x12))
    journal.write(machine.mm.unknown, FB + 8 * M, FB + 10 * M)
    assert "swap 1:12" in lines(Scene(machine, FB), 120)[1]
    assert lines(Scene(machine, FB + 8 * M), 80)[0].rstrip().endswith("pa ??")
    journal.seek(position)
    journal.truncate()


def test_five_levels_fit() -> None:
    m = Machine(ram=64 * M, mode="x86-64-5l")
    fb = m.mmap(FB, 8 * M, "rw", "shared", m.open("/dev/fb0"))
    for width in (80, 120):
        assert any(
            "e0000000" in line for line in lines(Scene(m, fb + 0x1000, labels={"fb": fb + 0x1000}), width)
        ) or ("e0001000" in " ".join(lines(Scene(m, fb + 0x1000), width)))


@pytest.mark.parametrize("cursor", [0, FB, 1 << 47, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("width", [0, 1, 20, 79, 80, 119, 120, 200])
def test_no_width_breaks_it(machine: Machine, cursor: int, width: int) -> None:
    assert len(lines(Scene(machine, cursor), width)) == (2 if width >= 120 else 1)
