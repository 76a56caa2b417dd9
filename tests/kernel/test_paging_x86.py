"""x86 entries: bit names, frame numbers, PROT_NONE inversion, protection map, swap, cache modes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmviz.kernel.arch import UnknownNameError, get_mode, x86

MODE = get_mode("x86-64-4l")
NX = 1 << 63

# Entries that a real kernel wrote: level, value, names, frame number.
REAL = [
    ("pgd", 0x0000000006AEE067, "P RW US A D", 0x6AEE),
    ("pmd", 0x0000000006AF0067, "P RW US A D", 0x6AF0),
    ("pmd", 0x80000000078000A5, "P US A PSE NX", 0x7800),
    ("pmd", 0x8000000007A008C5, "P US D PSE SOFTDIRTY NX", 0x7A00),
    ("pmd", 0x8000000007A008E7, "P RW US A D PSE SOFTDIRTY NX", 0x7A00),
    ("pte", 0x0000000010007207, "P RW US SPECIAL", 0x10007),
    ("pte", 0x000000001000A225, "P US A SPECIAL", 0x1000A),
    ("pte", 0x000FFFFFEFFF8300, "PROTNONE SPECIAL", 0x10007),
    ("pte", 0x000FFFFFEFFF8320, "A PROTNONE SPECIAL", 0x10007),
    ("pte", 0x000FFFFFEFFF8B00, "PROTNONE SPECIAL SOFTDIRTY", 0x10007),
    ("pte", 0x000FFFFFFE0C3940, "D PROTNONE SOFTDIRTY", 0x1F3C),
    ("pte", 0x000FFFFFFE0C3960, "A D PROTNONE SOFTDIRTY", 0x1F3C),
    ("pte", 0x8000000003239065, "P US A D NX", 0x3239),
    ("pte", 0x8000004000005237, "P RW US PCD A SPECIAL NX", 0x4000005),
    ("pte", 0x80000040BFFFF277, "P RW US PCD A D SPECIAL NX", 0x40BFFFF),
    ("pte", 0x80000000069E9867, "P RW US A D SOFTDIRTY NX", 0x69E9),
    ("pte", 0x0000000001F39867, "P RW US A D SOFTDIRTY", 0x1F39),
    # computed in the fact sheet
    ("pte", 0x8000000001234867, "P RW US A D SOFTDIRTY NX", 0x1234),
    ("pte", 0x80000000FE000237, "P RW US PCD A SPECIAL NX", 0xFE000),
    ("pte", 0x8000000002000225, "P US A SPECIAL NX", 0x2000),
]


@pytest.mark.parametrize(("level", "entry", "names", "pfn"), REAL)
def test_real_entries(level: str, entry: int, names: str, pfn: int) -> None:
    assert " ".join(MODE.decode(entry, level)) == names
    assert MODE.pte_pfn(entry, level) == pfn
    assert MODE.encode(names.split(), pfn, level) == entry
    assert MODE.pte_present(entry, level)
    assert not MODE.pte_none(entry)
    assert MODE.is_leaf(entry, level) is (level == "pte" or "PSE" in names)
    assert MODE.is_table(entry, level) is not MODE.is_leaf(entry, level)
    if level == "pte":
        assert x86.pte_pfn(entry) == pfn
        assert x86.mk_pte(pfn, x86.pte_flags(entry)) == entry
    else:
        assert x86.pmd_pfn(entry) == pfn
        assert x86.pmd_leaf(entry) is ("PSE" in names)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PAGE_NONE", 0x120),
        ("PAGE_READONLY", 0x8000000000000025),
        ("PAGE_COPY", 0x8000000000000025),
        ("PAGE_READONLY_EXEC", 0x25),
        ("PAGE_COPY_EXEC", 0x25),
        ("PAGE_SHARED", 0x8000000000000027),
        ("PAGE_SHARED_EXEC", 0x27),
        ("PAGE_KERNEL", 0x8000000000000163),
        ("_PAGE_TABLE", 0x67),
        ("PTE_PFN_MASK", 0x000FFFFFFFFFF000),
    ],
)
def test_constants(name: str, value: int) -> None:
    assert getattr(x86, name) == value
    assert name in x86.__all__


def test_every_exported_name_exists() -> None:
    assert [name for name in x86.__all__ if not hasattr(x86, name)] == []


# vm_flags & 15 -> vm_page_prot, as a 6.1 kernel's traces show it (those without VM_READ follow pgprot.c).
PROTECTION = {
    0: 0x120,
    1: NX | 0x25,
    2: NX | 0x25,
    3: NX | 0x25,
    4: 0x25,
    5: 0x25,
    6: 0x25,
    7: 0x25,
    8: 0x120,
    9: NX | 0x25,
    10: NX | 0x27,
    11: NX | 0x27,
    12: 0x25,
    13: 0x25,
    14: 0x27,
    15: 0x27,
}


@pytest.mark.parametrize("flags", range(16))
def test_protection_map(flags: int) -> None:
    assert x86.protection_map[flags] == PROTECTION[flags]
    assert x86.vm_get_page_prot(flags | 0x08100070) == PROTECTION[flags]
    assert x86.vm_get_page_prot(flags | 0xF << 32) == PROTECTION[flags] | 0xF << 59


SWAP = [
    (0, 1, 0x07FFFFFFFFFFFC00),
    (0, 0x1234, 0x07FFFFFFFFDB9600),
    (1, 0, 0x0FFFFFFFFFFFFE00),
    (3, 0xABCDEF, 0x1FFFFFFEA8642000),
]


@pytest.mark.parametrize(("type_", "offset", "entry"), SWAP)
def test_swap_entries(type_: int, offset: int, entry: int) -> None:
    assert x86.swp_entry(type_, offset) == MODE.swp_entry(type_, offset) == entry
    assert (x86.swp_type(entry), x86.swp_offset(entry)) == (type_, offset)
    assert (MODE.swp_type(entry), MODE.swp_offset(entry)) == (type_, offset)
    assert x86.is_swap_pte(entry)
    assert MODE.is_swap(entry)
    assert not MODE.pte_present(entry)
    assert MODE.decode(entry) == ()
    assert MODE.pte_flags(entry) == type_ << 59


def test_swap_flags_of_a_real_entry() -> None:
    entry = 0x07FFFFFFFFFBF80A
    names = ("SWP_SOFT_DIRTY", "SWP_EXCLUSIVE")
    assert MODE.decode(entry) == names
    assert MODE.pte_flags(entry) == 0xA == x86._PAGE_SWP_SOFT_DIRTY | x86._PAGE_SWP_EXCLUSIVE
    assert MODE.swp_offset(entry) == 0x203
    assert MODE.swp_entry(0, 0x203, names) == entry
    assert MODE.fmt_entry(entry) == "swap type 0 offset 0x203 SWP_SOFT_DIRTY SWP_EXCLUSIVE"


@pytest.mark.parametrize(("type_", "offset"), [(32, 0), (-1, 0), (0, 1 << 50), (0, -1)])
def test_swap_entries_refuse_what_does_not_fit(type_: int, offset: int) -> None:
    with pytest.raises(ValueError):
        MODE.swp_entry(type_, offset)


@pytest.mark.parametrize(
    ("entry", "none", "present", "protnone", "swap"),
    [
        (0, True, False, False, False),
        (0x60, True, False, False, False),  # stray A and D bits of the erratum
        (0x120, False, True, True, False),
        (0x225, False, True, False, False),
        (0x163, False, True, False, False),  # present and G: no PROT_NONE
        (0x200, False, False, False, True),
    ],
)
def test_states(entry: int, none: bool, present: bool, protnone: bool, swap: bool) -> None:
    wanted = (none, present, protnone, swap)
    fast = (x86.pte_none(entry), x86.pte_present(entry), x86.pte_protnone(entry), x86.is_swap_pte(entry))
    assert fast == wanted
    assert (
        MODE.pte_none(entry),
        MODE.pte_present(entry),
        MODE.pte_protnone(entry),
        MODE.is_swap(entry),
    ) == wanted


def test_a_huge_leaf_under_a_split_counts_as_present() -> None:
    entry = 0x8000000007A008E6
    assert x86.pmd_present(entry)
    assert MODE.pte_present(entry, "pmd")
    assert MODE.is_leaf(entry, "pmd")
    assert not MODE.pte_present(entry, "pgd")  # a 4-level PGD entry has no PSE
    assert not x86.pte_present(entry)


@pytest.mark.parametrize(
    ("entry", "newprot", "wanted"),
    [
        (0x8000000010007227, x86.PAGE_NONE, 0x000FFFFFEFFF8320),
        (0x000FFFFFEFFF8320, x86.PAGE_SHARED, 0x8000000010007227),
        (0x000FFFFFEFFF8320, x86.PAGE_NONE, 0x000FFFFFEFFF8320),
        (0x8000000001F3C867, x86.PAGE_NONE, 0x000FFFFFFE0C3960),
        (0x000FFFFFFE0C3960, x86.PAGE_READONLY, 0x8000000001F3C865),
        (0x8000000001F3C867, x86.PAGE_READONLY, 0x8000000001F3C865),
        (0x80000000FE000237, x86.PAGE_READONLY_EXEC, 0x00000000FE000235),  # cache bits stay
        (0x80000000FE0000AF, x86.PAGE_READONLY, 0x80000000FE0000AD),  # PAT and PWT too
        (0x9800000001234C67 | x86._PAGE_DEVMAP, x86.PAGE_READONLY, 0x8400000001234C65),  # the key goes
    ],
)
def test_pte_modify(entry: int, newprot: int, wanted: int) -> None:
    assert x86.pte_modify(entry, newprot) == wanted
    assert MODE.pte_modify(entry, newprot) == wanted
    assert x86.pte_pfn(entry) == x86.pte_pfn(wanted)


@pytest.mark.parametrize(
    ("entry", "newprot", "wanted"),
    [
        (0x8000000007A008E7, x86.PAGE_READONLY, 0x8000000007A008E5),
        (0x8000000007A008E7, x86.PAGE_NONE, 0x000FFFFFF84009E0),
        (0x000FFFFFF84009E0, x86.PAGE_SHARED, 0x8000000007A008E7),
        (0x8000000007A018E7, x86.PAGE_READONLY, 0x8000000007A018E5),  # PAT of a leaf: bit 12
    ],
)
def test_pmd_modify(entry: int, newprot: int, wanted: int) -> None:
    assert x86.pmd_modify(entry, newprot) == wanted
    assert MODE.pte_modify(entry, newprot, "pmd") == wanted
    assert x86.pmd_pfn(wanted) == MODE.pte_pfn(wanted, "pmd") == 0x7A00


PROTS = sorted(set(x86.protection_map))


@given(
    pfn=st.integers(0, 2**40 - 1),
    prot=st.sampled_from(PROTS),
    newprot=st.sampled_from(PROTS),
    soft=st.integers(0, 7),
)
def test_the_fast_functions_equal_the_data(pfn: int, prot: int, newprot: int, soft: int) -> None:
    prot |= soft << 9
    entry = x86.mk_pte(pfn, prot)
    assert entry == MODE.mk_pte(pfn, prot)
    assert x86.pte_pfn(entry) == MODE.pte_pfn(entry) == pfn
    assert x86.pte_flags(entry) == MODE.pte_flags(entry) == prot
    changed = x86.pte_modify(entry, newprot)
    assert changed == MODE.pte_modify(entry, newprot)
    assert x86.pte_pfn(changed) == pfn
    assert MODE.pte_soft_dirty(changed) == bool(soft & 4)
    assert x86.pte_special(changed) == MODE.pte_special(changed) == bool(soft & 1)
    huge, huge_pfn = prot | x86._PAGE_PSE, pfn & ~0x1FF
    assert x86.pfn_pmd(huge_pfn, huge) == MODE.mk_pte(huge_pfn, huge, "pmd")
    assert x86.pmd_pfn(x86.pfn_pmd(huge_pfn, huge)) == huge_pfn


@given(type_=st.integers(0, 31), offset=st.integers(1, 2**50 - 1))
def test_swap_round_trip(type_: int, offset: int) -> None:
    entry = x86.swp_entry(type_, offset)
    assert entry == MODE.swp_entry(type_, offset)
    assert (x86.swp_type(entry), x86.swp_offset(entry)) == (type_, offset)
    assert entry & 0x1FF == 0


@given(entry=st.integers(0, 2**64 - 1))
def test_the_fast_states_equal_the_data(entry: int) -> None:
    assert x86.pte_none(entry) == MODE.pte_none(entry)
    assert x86.pte_present(entry) == MODE.pte_present(entry)
    assert x86.pte_protnone(entry) == MODE.pte_protnone(entry)
    assert x86.is_swap_pte(entry) == MODE.is_swap(entry)
    assert x86.pmd_present(entry) == MODE.pte_present(entry, "pmd")
    assert x86.pte_pfn(entry) == MODE.pte_pfn(entry)


def test_bit_meanings_depend_on_level_and_state() -> None:
    assert MODE.decode(0x81) == ("P", "PAT")
    assert MODE.decode(0x81, "pmd") == ("P", "PSE")
    assert MODE.decode(0x1081, "pmd") == ("P", "PSE", "PAT")
    assert MODE.decode(0x1001, "pmd") == ("P",)  # bit 12 of a table pointer is an address bit
    assert MODE.decode(0x101) == ("P", "G")
    assert MODE.encode(["P", "PSE", "PAT"], 0x200, "pmd") == 0x201081
    assert MODE.decode(0xF000000000000021) == ("P", "A", "PKEY=14", "NX")


def test_encode_refuses_what_does_not_fit() -> None:
    with pytest.raises(UnknownNameError) as caught:
        MODE.encode(["SOFT_DIRTY"])
    assert caught.value.nearest[0] == "SOFTDIRTY"
    with pytest.raises(UnknownNameError):
        MODE.encode(["PSE"])  # a last-level entry has PAT there
    with pytest.raises(UnknownNameError):
        MODE.decode(1, "p4d")
    for names, pfn, level in (
        (["P"], 1 << 40, "pte"),
        (["P", "PKEY=16"], 0, "pte"),
        (["P", "PKEY"], 0, "pte"),
        (["P", "PSE"], 0x201, "pmd"),
    ):
        with pytest.raises(ValueError):
            MODE.encode(names, pfn, level)


@pytest.mark.parametrize("slot", range(8))
def test_cache_modes(slot: int) -> None:
    wanted = ("WB", "WC", "UC-", "UC", "WB", "WP", "UC-", "WT")[slot]
    low = (slot & 3) << 3
    assert x86.pgprot_cache_mode(low | (slot >> 2) << 7) == wanted
    assert x86.pgprot_cache_mode(low | (slot >> 2) << 12 | x86._PAGE_PSE, huge=True) == wanted
    assert x86.pgprot_cache_mode(x86.cachemode2protval(wanted)) == wanted


def test_there_is_no_such_cache_mode() -> None:
    with pytest.raises(ValueError, match="WB, WC, UC-, UC, WP, WT"):
        x86.cachemode2protval("NC")


@pytest.mark.parametrize(
    ("entries", "rights"),
    [
        ([0x67, 0x67, 0x67, 0x8000000000000067], (True, True, False)),
        ([0x67, 0x67, 0x65, 0x27], (False, True, True)),
        ([0x67, 0x63, 0x67, 0x27], (True, False, True)),
        ([0x67, NX | 0x67, 0x67, 0x27], (True, True, False)),
    ],
)
def test_effective_rights(entries: list[int], rights: tuple[bool, bool, bool]) -> None:
    assert x86.effective_rights(entries) == x86.Rights(*rights)


def test_roles() -> None:
    entry = 0x8000000001234C67
    assert MODE.pte_write(entry)
    assert MODE.pte_user(entry)
    assert MODE.pte_young(entry)
    assert MODE.pte_dirty(entry)
    assert MODE.pte_uffd_wp(entry)
    assert MODE.pte_soft_dirty(entry)
    assert not MODE.pte_exec(entry)
    assert not MODE.pte_special(entry)
    assert MODE.pte_exec(0x25)
    assert not MODE.pte_write(0x25)


@pytest.mark.parametrize(
    ("entry", "level", "text"),
    [
        (0, "pte", "--"),
        (0x8000000001234867, "pte", "pfn 0x1234 P RW US A D SOFTDIRTY NX"),
        (0x6AF0067, "pmd", "table 0x6af0 P RW US A D"),
        (0x8000000007A008E7, "pmd", "pfn 0x7a00 P RW US A D PSE SOFTDIRTY NX"),
        (0x000FFFFFEFFF8320, "pte", "pfn 0x10007 A PROTNONE SPECIAL"),
    ],
)
def test_fmt_entry(entry: int, level: str, text: str) -> None:
    assert MODE.fmt_entry(entry, level) == text


def test_32_bit_x86() -> None:
    i386, pae = get_mode("i386"), get_mode("i386-pae")
    assert i386.swp_entry(1, 0x1234) == 0x246802
    assert (i386.swp_type(0x246802), i386.swp_offset(0x246802)) == (1, 0x1234)
    assert i386.pte_none(0)
    assert not i386.pte_none(0x60)
    assert i386.mk_pte(0x1234, 0x120) == 0x1234120  # no inversion with 4-byte entries
    assert i386.pte_modify(0x1234067, 0x120) == 0x1234160
    assert i386.is_leaf(0xE7, "pgd")
    assert i386.pte_exec(0x25)
    assert pae.mk_pte(0x1234, 0x120) == 0x000FFFFFFEDCB120
    assert pae.decode(0x1001, "pgd") == ("P",)
    assert pae.decode(0x8000000000000067, "pmd") == ("P", "RW", "US", "A", "D", "NX")
    assert "NX" not in {b.name for b in i386.bits}
