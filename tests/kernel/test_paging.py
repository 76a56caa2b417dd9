"""Geometry: the modes' levels, address splits, canonical addresses, table counts."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmviz.kernel.arch import MODES, Level, PagingMode, UnknownNameError, get_mode
from vmviz.kernel.arch.layout import make_levels
from vmviz.kernel.errors import VmvizError

K, M, G, T, P = (1 << shift for shift in (10, 20, 30, 40, 50))
ALL = sorted(MODES)

# name, va bits, page, index widths, entry bytes, user bytes, leaf sizes
GEOMETRY = [
    ("i386", 32, 4 * K, (10, 10), 4, 3 * G, (4 * K, 4 * M)),
    ("i386-pae", 32, 4 * K, (2, 9, 9), 8, 3 * G, (4 * K, 2 * M)),
    ("x86-64-4l", 48, 4 * K, (9, 9, 9, 9), 8, 128 * T - 4 * K, (4 * K, 2 * M, G)),
    ("x86-64-5l", 57, 4 * K, (9, 9, 9, 9, 9), 8, 64 * P - 4 * K, (4 * K, 2 * M, G)),
    ("arm64-4k-39", 39, 4 * K, (9, 9, 9), 8, 512 * G, (4 * K, 2 * M, G)),
    ("arm64-4k-48", 48, 4 * K, (9, 9, 9, 9), 8, 256 * T, (4 * K, 2 * M, G)),
    ("arm64-16k-36", 36, 16 * K, (11, 11), 8, 64 * G, (16 * K, 32 * M)),
    ("arm64-16k-47", 47, 16 * K, (11, 11, 11), 8, 128 * T, (16 * K, 32 * M)),
    ("arm64-16k-48", 48, 16 * K, (1, 11, 11, 11), 8, 256 * T, (16 * K, 32 * M)),
    ("arm64-64k-42", 42, 64 * K, (13, 13), 8, 4 * T, (64 * K, 512 * M)),
    ("arm64-64k-48", 48, 64 * K, (6, 13, 13), 8, 256 * T, (64 * K, 512 * M)),
    ("arm64-64k-52", 52, 64 * K, (10, 13, 13), 8, 4 * P, (64 * K, 512 * M)),
    ("sv32", 32, 4 * K, (10, 10), 4, 0x9FC00000, (4 * K, 4 * M)),
    ("sv39", 39, 4 * K, (9, 9, 9), 8, 256 * G, (4 * K, 2 * M, G)),
    ("sv48", 48, 4 * K, (9, 9, 9, 9), 8, 128 * T, (4 * K, 2 * M, G, 512 * G)),
    ("sv57", 57, 4 * K, (9, 9, 9, 9, 9), 8, 64 * P, (4 * K, 2 * M, G, 512 * G, 256 * T)),
    ("teach-8x2", 12, 64, (3, 3), 8, 4096, (64,)),
    ("teach-4x3", 11, 32, (2, 2, 2), 8, 2048, (32,)),
]


@pytest.mark.parametrize("row", GEOMETRY, ids=lambda row: row[0])
def test_geometry(row: tuple[str, int, int, tuple[int, ...], int, int, tuple[int, ...]]) -> None:
    name, va_bits, page, widths, entry, user, leaves = row
    mode = get_mode(name)
    assert (mode.va_bits, mode.page_size, mode.entry_bytes) == (va_bits, page, entry)
    assert tuple(lv.bits for lv in mode.levels) == widths
    assert (mode.task_size, mode.leaf_sizes) == (user, leaves)
    assert mode.page_mask == 2**64 - page


def test_the_table_names_every_mode() -> None:
    assert sorted(row[0] for row in GEOMETRY) == ALL
    assert next(iter(MODES)) == "x86-64-4l"
    assert all(MODES[name].name == name for name in MODES)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("x86-64-4l", "pgd pud pmd pte"),
        ("x86-64-5l", "pgd p4d pud pmd pte"),
        ("i386", "pgd pte"),
        ("i386-pae", "pgd pmd pte"),
        ("sv39", "pgd pmd pte"),
        ("sv48", "pgd pud pmd pte"),
        ("sv57", "pgd p4d pud pmd pte"),
        ("arm64-4k-48", "pgd pud pmd pte"),
        ("arm64-4k-39", "pgd pmd pte"),
        ("arm64-64k-42", "pgd pte"),
    ],
)
def test_level_names(name: str, levels: str) -> None:
    assert " ".join(lv.name for lv in get_mode(name).levels) == levels


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("arm64")])
def test_arm64_levels_follow_the_formulas(name: str) -> None:
    mode = get_mode(name)
    count = -(-(mode.va_bits - mode.page_shift) // (mode.page_shift - 3))
    assert len(mode.levels) == count
    for level, arm_level in zip(reversed(mode.levels), range(3, -1, -1), strict=False):
        assert level.shift == (4 - arm_level) * (mode.page_shift - 3) + 3


@pytest.mark.parametrize(
    ("name", "level", "span", "table"),
    [
        ("x86-64-4l", "pte", 4 * K, 2 * M),
        ("x86-64-4l", "pmd", 2 * M, G),
        ("x86-64-4l", "pud", G, 512 * G),
        ("x86-64-4l", "pgd", 512 * G, 256 * T),
        ("x86-64-5l", "p4d", 512 * G, 256 * T),
        ("x86-64-5l", "pgd", 256 * T, 128 * P),
    ],
)
def test_spans(name: str, level: str, span: int, table: int) -> None:
    found = get_mode(name).level(level)
    assert (found.span, found.span * found.entries) == (span, table)


SPLITS = [
    ("x86-64-4l", 0x0000000000400000, (0, 0, 2, 0, 0)),
    ("x86-64-4l", 0x0000555555554000, (170, 341, 170, 340, 0)),
    ("x86-64-4l", 0x00007FFFF7FFF000, (255, 511, 447, 511, 0)),
    ("x86-64-4l", 0x00007F1234567ABC, (254, 72, 418, 359, 0xABC)),
    ("x86-64-4l", 0x00007FFFFFFFE000, (255, 511, 511, 510, 0)),
    ("x86-64-4l", 0xFFFF888000000000, (273, 0, 0, 0, 0)),
    ("x86-64-4l", 0xFFFFFFFF81000000, (511, 510, 8, 0, 0)),
    ("x86-64-4l", 0xFFFFFFFFFF600000, (511, 511, 507, 0, 0)),
    ("x86-64-5l", 0x00007F1234567ABC, (0, 254, 72, 418, 359, 0xABC)),
    ("x86-64-5l", 0xFFFFFFFF81000000, (511, 511, 510, 8, 0, 0)),
    ("sv39", 0x3FFFFFF000, (255, 511, 511, 0)),
    ("sv39", 0x3FFFFFE000, (255, 511, 510, 0)),
    ("sv39", 0x80000000, (2, 0, 0, 0)),
    ("i386", 0x08048000, (32, 72, 0)),
    ("i386", 0xC0000000, (768, 0, 0)),
    ("i386", 0xBFFFF000, (767, 1023, 0)),
    ("i386-pae", 0x08048000, (0, 64, 72, 0)),
    ("i386-pae", 0xC0000000, (3, 0, 0, 0)),
    ("teach-8x2", 0b101_011_000111, (5, 3, 7)),
    ("teach-4x3", 0b11_10_01_00101, (3, 2, 1, 5)),
]


@pytest.mark.parametrize(("name", "va", "parts"), SPLITS)
def test_split_and_join(name: str, va: int, parts: tuple[int, ...]) -> None:
    mode = get_mode(name)
    assert mode.split(va) == parts
    assert mode.join(parts[:-1], parts[-1]) == va
    assert tuple(mode.index(va, no) for no in range(len(mode.levels))) == parts[:-1]


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_join_takes_split_back(name: str, data: st.DataObject) -> None:
    mode = get_mode(name)
    hole = mode.hole
    low = st.integers(0, (hole[0] if hole else 1 << mode.va_bits) - 1)
    va = data.draw(low | st.integers(hole[1], 2**64 - 1) if hole else low)
    *indexes, offset = mode.split(va)
    assert mode.is_canonical(va)
    assert mode.join(indexes, offset, high=va >> 63 == 1) == va
    spans = sum(i * lv.span for i, lv in zip(indexes, mode.levels, strict=True))
    assert spans + offset == va & ((1 << mode.va_bits) - 1)


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_split_takes_join_back(name: str, data: st.DataObject) -> None:
    mode = get_mode(name)
    indexes = [data.draw(st.integers(0, lv.entries - 1)) for lv in mode.levels]
    offset = data.draw(st.integers(0, mode.page_size - 1))
    va = mode.join(indexes, offset, high=data.draw(st.booleans()))
    assert mode.split(va) == (*indexes, offset)
    assert mode.is_canonical(va)


@pytest.mark.parametrize(
    ("name", "hole"),
    [
        ("x86-64-4l", (0x0000800000000000, 0xFFFF800000000000)),
        ("x86-64-5l", (0x0100000000000000, 0xFF00000000000000)),
        ("sv39", (0x0000004000000000, 0xFFFFFFC000000000)),
        ("arm64-4k-48", (0x0001000000000000, 0xFFFF000000000000)),
        ("arm64-64k-52", (0x0010000000000000, 0xFFF0000000000000)),
    ],
)
def test_canonical_borders(name: str, hole: tuple[int, int]) -> None:
    mode = get_mode(name)
    assert mode.hole == hole
    answers = [mode.is_canonical(va) for va in (0, hole[0] - 1, hole[0], hole[1] - 1, hole[1], 2**64 - 1)]
    assert answers == [True, True, False, False, True, True]
    assert not mode.is_canonical(-1)
    assert not mode.is_canonical(2**64)


@pytest.mark.parametrize("name", ["i386", "i386-pae", "sv32", "teach-8x2", "teach-4x3"])
def test_flat_address_spaces_have_no_hole(name: str) -> None:
    mode = get_mode(name)
    assert mode.hole is None
    assert mode.is_canonical((1 << mode.va_bits) - 1)
    assert not mode.is_canonical(1 << mode.va_bits)


@pytest.mark.parametrize(
    ("name", "start", "size", "tables"),
    [
        ("x86-64-4l", 0x7F1234567000, 4 * K, (1, 1, 1, 1)),
        ("x86-64-5l", 0x7F1234567000, 4 * K, (1, 1, 1, 1, 1)),
        ("sv39", 0, 4 * K, (1, 1, 1)),
        ("i386", 0, 4 * K, (1, 1)),
        ("x86-64-4l", 0x40000000, G, (1, 1, 1, 512)),
        ("x86-64-4l", 0x1FF000, 8 * K, (1, 1, 1, 2)),
        ("x86-64-4l", 0x3FFFF000, 8 * K, (1, 1, 2, 2)),
        ("x86-64-4l", 0, 0, (0, 0, 0, 0)),
    ],
)
def test_tables_for(name: str, start: int, size: int, tables: tuple[int, ...]) -> None:
    assert get_mode(name).tables_for(start, size) == tables


@pytest.mark.parametrize(
    ("name", "level", "size"),
    [
        ("x86-64-4l", "pgd", 4096),
        ("i386-pae", "pgd", 32),
        ("arm64-16k-48", "pgd", 16),
        ("teach-8x2", "pte", 64),
    ],
)
def test_table_bytes(name: str, level: str, size: int) -> None:
    assert get_mode(name).table_bytes(level) == size


def test_map_window() -> None:
    assert get_mode("x86-64-5l").map_window == get_mode("x86-64-4l").task_size == 0x7FFFFFFFF000
    assert get_mode("x86-64-4l").map_window == 0x7FFFFFFFF000
    assert get_mode("arm64-64k-52").map_window == 1 << 48
    assert get_mode("arm64-4k-48").contiguous_sizes == (64 * K, 32 * M)


@pytest.mark.parametrize(
    ("indexes", "offset"), [((0, 0, 0, 512), 0), ((0, 0, 0, -1), 0), ((0, 0, 0, 0), 4096), ((0, 0, 0), 0)]
)
def test_join_refuses_what_does_not_fit(indexes: tuple[int, ...], offset: int) -> None:
    with pytest.raises(ValueError):
        get_mode("x86-64-4l").join(indexes, offset)


def test_unknown_names_tell_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_mode("SV-39")
    assert caught.value.nearest[0] == "sv39"
    assert isinstance(caught.value, VmvizError)
    with pytest.raises(UnknownNameError, match="valid: x86-64-4l"):
        get_mode("vax")
    with pytest.raises(UnknownNameError, match="level of sv39"):
        get_mode("sv39").level("pud")


def test_levels_must_fit_together() -> None:
    mode = get_mode("sv39")
    with pytest.raises(ValueError, match="cover 38 bits"):
        _with_levels(mode, make_levels(12, pgd=8, pmd=9, pte=9))
    with pytest.raises(ValueError, match="begins at bit 22"):
        _with_levels(mode, (Level("pgd", 30, 9), Level("pmd", 22, 8), Level("pte", 12, 9)))


def _with_levels(mode: PagingMode, levels: tuple[Level, ...]) -> PagingMode:
    return PagingMode(
        name="odd",
        title="odd",
        arch=mode.arch,
        levels=levels,
        page_shift=12,
        va_bits=39,
        entry_bytes=8,
        task_size=mode.task_size,
        pfn_shift=mode.pfn_shift,
        pfn_bits=mode.pfn_bits,
        bits=mode.bits,
        masks=mode.masks,
    )


def test_modes_are_values() -> None:
    mode = get_mode("sv39")
    assert copy.deepcopy(mode) == mode
    assert hash(copy.copy(mode)) == hash(mode)
    assert mode != get_mode("sv48")
    assert repr(mode) == "<PagingMode sv39>"
    with pytest.raises(AttributeError):
        mode.name = "other"  # type: ignore[misc]
