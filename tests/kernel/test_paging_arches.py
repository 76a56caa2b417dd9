"""Entries of arm64 and RISC-V, and what must hold for every mode."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmviz.kernel.arch import MODES, EntryBit, PagingMode, UnknownNameError, get_mode
from vmviz.kernel.arch.riscv import make_satp
from vmviz.kernel.errors import UnsupportedError

ALL = sorted(MODES)
ARM = get_mode("arm64-4k-48")
SV39 = get_mode("sv39")


@pytest.mark.parametrize(
    ("mode", "bit", "name", "level"),
    [
        (ARM, 6, "USER", "pte"),
        (ARM, 7, "RDONLY", "pte"),
        (ARM, 10, "AF", "pte"),
        (ARM, 11, "NG", "pte"),
        (ARM, 50, "GP", "pte"),
        (ARM, 51, "WRITE", "pte"),
        (ARM, 52, "CONT", "pte"),
        (ARM, 53, "PXN", "pte"),
        (ARM, 54, "UXN", "pte"),
        (ARM, 55, "DIRTY", "pte"),
        (ARM, 56, "SPECIAL", "pte"),
        (ARM, 57, "DEVMAP", "pte"),
        (ARM, 1, "TABLE", "pmd"),
        (SV39, 1, "R", "pte"),
        (SV39, 2, "W", "pte"),
        (SV39, 3, "X", "pte"),
        (SV39, 4, "U", "pte"),
        (SV39, 5, "G", "pte"),
        (SV39, 6, "A", "pte"),
        (SV39, 7, "D", "pte"),
        (SV39, 8, "SPECIAL", "pte"),
        (SV39, 63, "N", "pte"),
    ],
)
def test_bit_positions(mode: PagingMode, bit: int, name: str, level: str) -> None:
    assert mode.decode(1 | 1 << bit, level)[1:] == (name,)
    assert mode.encode([name], 0, level) == 1 << bit


def test_arm64_states() -> None:
    page = ARM.encode(
        ["VALID", "PAGE", "ATTRINDX=4", "USER", "RDONLY", "SH=3", "AF", "NG", "WRITE", "PXN", "UXN"], 0x1234
    )
    assert page == 0x0068_0000_0123_4FD3
    assert ARM.pte_write(page)  # writable and still clean: bits 51 and 7
    assert not ARM.pte_dirty(page)
    assert not ARM.pte_exec(page)
    assert ARM.pte_young(page)
    stored = page & ~(1 << 7)
    assert ARM.pte_dirty(stored)
    assert ARM.pte_dirty(page | 1 << 55)
    assert not ARM.pte_soft_dirty(page)
    assert ARM.is_leaf(0x12345_0000_0001 & ~2, "pmd")
    assert ARM.is_table(0x1234003, "pmd")
    assert not ARM.pte_present(0x1234002)
    none = 1 << 58 | 0x1234000
    assert ARM.pte_protnone(none)
    assert ARM.decode(none) == ("PROTNONE",)
    assert ARM.pte_pfn(none) == 0x1234  # only x86 inverts


def test_arm64_pte_modify_keeps_hardware_dirty() -> None:
    dirty = ARM.encode(["VALID", "PAGE", "USER", "AF", "NG", "WRITE"], 0x77)
    readonly = ARM.encode(["VALID", "PAGE", "USER", "RDONLY", "AF", "NG"])
    changed = ARM.pte_modify(dirty, readonly)
    assert ARM.decode(changed) == ("VALID", "PAGE", "USER", "RDONLY", "AF", "NG", "DIRTY")
    assert ARM.pte_pfn(changed) == 0x77


def test_arm64_swap() -> None:
    assert ARM.swp_entry(1, 0x1234) == 0x123408
    assert ARM.swp_entry(1, 0x1234, ["SWP_EXCLUSIVE"]) == 0x12340C
    assert (ARM.swp_type(0x12340C), ARM.swp_offset(0x12340C)) == (1, 0x1234)
    assert ARM.is_swap(0x123408)
    with pytest.raises(UnknownNameError, match="SWP_EXCLUSIVE"):
        ARM.swp_entry(1, 1, ["SWP_SOFT_DIRTY"])


def test_arm64_52_bit_addresses_split_the_frame_number() -> None:
    mode = get_mode("arm64-64k-52")
    physical = 0x000A_1234_5678_0000
    entry = mode.mk_pte(physical >> 16, 3)
    assert entry == 0x0000_1234_5678_A003
    assert mode.pte_pfn(entry) << 16 == physical
    assert get_mode("arm64-64k-48").pfn_mask == 0x0000_FFFF_FFFF_0000
    assert get_mode("arm64-16k-47").pfn_mask == 0x0000_FFFF_FFFF_C000
    assert mode.pfn_mask == 0x0000_FFFF_FFFF_F000


def test_riscv_states() -> None:
    assert SV39.pfn_mask == 0x003F_FFFF_FFFF_FC00
    table = SV39.mk_pte(0x87FFE, 1)
    assert table == 0x21FFF801
    assert SV39.is_table(table, "pgd")
    assert SV39.is_leaf(table | 2, "pgd")
    none = SV39.encode(["R", "PROTNONE"], 0x1234)
    assert none == 0x48D022
    assert SV39.pte_protnone(none)
    assert SV39.pte_present(none)
    assert SV39.pte_pfn(none) == 0x1234
    user = SV39.encode(["V", "R", "W", "U", "A", "D", "PBMT=1"], 0x1234)
    assert user == 0x2000_0000_0048_D0D7
    assert SV39.decode(user)[-1] == "PBMT=1"
    assert SV39.pte_write(user)
    assert not SV39.pte_exec(user)
    assert SV39.pte_exec(user | 8)
    readonly = SV39.encode(["V", "R", "U"])
    assert SV39.decode(SV39.pte_modify(user, readonly)) == ("V", "R", "U", "A", "D")
    assert SV39.is_leaf(SV39.encode(["V", "R"], 1 << 27, "pgd"), "pgd") is True
    with pytest.raises(ValueError, match="not aligned"):
        SV39.encode(["V", "R"], 0x201, "pmd")


def test_riscv_swap() -> None:
    assert SV39.swp_entry(1, 0x1234) == 1 << 6 | 0x1234 << 11
    assert SV39.is_swap(SV39.swp_entry(0, 1))


@pytest.mark.parametrize(
    ("mode", "root", "asid", "satp"),
    [
        ("sv39", 0x87FFF000, 0, 0x8000000000087FFF),
        ("sv48", 0x87FFF000, 0, 0x9000000000087FFF),
        ("sv57", 0x87FFF000, 0xFFFF, 0xAFFFF00000087FFF),
        ("sv32", 0x87FFF000, 1, 0x80487FFF),
    ],
)
def test_satp(mode: str, root: int, asid: int, satp: int) -> None:
    assert make_satp(mode, root, asid) == satp


@pytest.mark.parametrize(("root", "asid"), [(0x87FFF001, 0), (1 << 56, 0), (-4096, 0), (0, 1 << 16)])
def test_satp_refuses_what_does_not_fit(root: int, asid: int) -> None:
    with pytest.raises(ValueError):
        make_satp("sv39", root, asid)
    with pytest.raises(UnknownNameError):
        make_satp("x86-64-4l", root, asid)


def _layouts(mode: PagingMode) -> list[tuple[str, str, str]]:
    return [
        (lv.name, scope, when)
        for lv in mode.levels
        for scope in ("leaf", "table")
        for when in ("present", "absent")
    ]


@pytest.mark.parametrize("name", ALL)
def test_no_two_meanings_share_a_bit(name: str) -> None:
    mode = get_mode(name)
    for layout in _layouts(mode):
        seen, names = 0, set[str]()
        for bit in (b for b in mode.bits if b.applies(*layout)):
            assert seen & bit.mask == 0, (layout, bit)
            assert bit.name not in names
            seen |= bit.mask
            names.add(bit.name)
        assert seen < 1 << (8 * mode.entry_bytes)
    for bit in mode.bits:
        if bit.scope == "any":
            assert bit.mask & mode.pfn_mask == 0, bit


@pytest.mark.parametrize("name", ALL)
def test_bits_come_in_order_and_masks_fit(name: str) -> None:
    mode = get_mode(name)
    assert [b.bit for b in mode.bits] == sorted(b.bit for b in mode.bits)
    limit = 1 << (8 * mode.entry_bytes)
    assert all(0 <= value < limit for value in attrs.astuple(mode.masks))
    assert mode.pfn_mask < limit
    assert mode.pfn_mask & mode.masks.change_keeps == mode.pfn_mask
    assert mode.phys_bits <= mode.pfn_bits + mode.pfn_high[1] + mode.page_shift
    assert mode.leaf_levels[-1] == "pte"


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_encode_takes_decode_back(name: str, data: st.DataObject) -> None:
    mode = get_mode(name)
    flags = data.draw(st.sets(st.sampled_from([b for b in mode.bits if b.applies("pte", "leaf", "present")])))
    pfn = data.draw(st.integers(0, (1 << (mode.pfn_bits + mode.pfn_high[1])) - 1))
    names = [_written(b, data) for b in sorted(flags, key=lambda b: b.bit)]
    entry = mode.encode({mode.bits[0].name, *names}, pfn)
    assert mode.decode(entry)[1:] == tuple(n for n in names if n != mode.bits[0].name)
    assert mode.pte_pfn(entry) == pfn
    assert mode.encode(mode.decode(entry), mode.pte_pfn(entry)) == entry
    assert mode.mk_pte(pfn, mode.pte_flags(entry)) == entry


def _written(bit: EntryBit, data: st.DataObject) -> str:
    if bit.width == 1:
        return bit.name
    return f"{bit.name}={data.draw(st.integers(1, (1 << bit.width) - 1))}"


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_protnone_keeps_the_frame(name: str, data: st.DataObject) -> None:
    mode = get_mode(name)
    pfn = data.draw(st.integers(0, (1 << (mode.pfn_bits + mode.pfn_high[1])) - 1))
    present = mode.mk_pte(pfn, mode.masks.present | mode.masks.write)
    none = mode.pte_modify(present, mode.masks.protnone)
    assert mode.pte_protnone(none)
    assert mode.pte_pfn(none) == pfn
    assert (none & mode.pfn_mask == present & mode.pfn_mask) is not mode.invert_not_present
    assert mode.pte_modify(none, mode.masks.present | mode.masks.write) & ~mode.masks.dirty == present


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_swap_round_trip(name: str, data: st.DataObject) -> None:
    mode = get_mode(name)
    swap = mode.swap
    assert swap is not None
    type_ = data.draw(st.integers(0, (1 << swap.type_bits) - 1))
    offset = data.draw(st.integers(1, (1 << swap.offset_bits) - 2))
    entry = mode.swp_entry(type_, offset, [b.name for b in swap.bits])
    assert (mode.swp_type(entry), mode.swp_offset(entry)) == (type_, offset)
    assert mode.is_swap(entry)
    assert not mode.pte_present(entry)
    assert entry < 1 << (8 * mode.entry_bytes)


def test_a_mode_without_swap_says_so() -> None:
    bare = attrs.evolve(SV39, name="bare", swap=None)
    with pytest.raises(UnsupportedError, match="bare has no swap entries"):
        bare.swp_entry(0, 1)
    assert bare.fmt_entry(0x40) == "not present A"
