"""The flag words, against the fact sheet's table and lines that a real 6.1 kernel printed."""

from __future__ import annotations

import pytest

from vmviz.kernel.mm import flags as f

# vm_flags, VmFlags and permissions of VMAs in recorded traces of 6.1.
RECORDED = [
    (0x8100073, "rd wr mr mw me ac sd", "rw-p"),
    (0xC0444FB, "rd wr sh mr mw me ms pf io de dd sd", "rw-s"),
    (0xD0444FB, "rd wr sh mr mw me ms pf io de ar dd sd", "rw-s"),
    (0x80000FB, "rd wr sh mr mw me ms sd", "rw-s"),
    (0x80040F8, "sh mr mw me ms io sd", "---s"),
    (0x180000FB, "rd wr sh mr mw me ms sd mm", "rw-s"),
    (0xC0444FF, "rd wr ex sh mr mw me ms pf io de dd sd", "rwxs"),
    (0xD144473, "rd wr mr mw me pf io de ac ar dd sd", "rw-p"),
    (0x28100073, "rd wr mr mw me ac sd hg", "rw-p"),
    (0xA100073, "rd wr mr mw me ac wf sd", "rw-p"),
    (0x8100173, "rd wr mr mw me gd ac sd", "rw-p"),
    (0x80000D1, "rd mr me ms sd", "r--s"),
    (0x8440073, "rd wr mr mw me de ht sd", "rw-p"),
    (0x8200073, "rd wr mr mw me nr sd", "rw-p"),
    (0x8182073, "rd wr mr mw me lo ?? ac sd", "rw-p"),
    (0x8110073, "rd wr mr mw me rr ac sd", "rw-p"),
    (0x2D06C4FB, "rd wr sh mr mw me ms pf io sr dc de ar dd sd hg", "rw-s"),
    (0x88100073, "rd wr mr mw me ac sd mg", "rw-p"),
    (0x8000075, "rd ex mr mw me sd", "r-xp"),
    (0x100173, "rd wr mr mw me gd ac", "rw-p"),
]


@pytest.mark.parametrize(("vm_flags", "codes", "perms"), RECORDED)
def test_recorded_lines(vm_flags: int, codes: str, perms: str) -> None:
    assert f.vmflags_codes(vm_flags) == codes
    assert f.perms(vm_flags) == perms
    assert f.parse_vmflags(codes) == (vm_flags, ())
    assert f.parse_vmflags(f"VmFlags: {codes} \n") == (vm_flags, ())


CODES = [
    "rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "um", "pf", ".", "uw", "lo", "io", "sr",
    "rr", "dc", "de", "??", "ac", "nr", "ht", "sf", "ar", "wf", "dd", "sd", "mm", "hg", "nh", "mg",
]  # fmt: skip


@pytest.mark.parametrize(("bit", "code"), [*enumerate(CODES), (37, "ui")])
def test_each_bit_prints_its_code(bit: int, code: str) -> None:
    if code == ".":
        assert bit not in f.VM_FLAG_TABLE
        assert f.vmflags_codes(1 << bit) == "??"
        return
    flag = f.VM_FLAG_TABLE[bit]
    assert (flag.bit, flag.code) == (bit, code)
    assert getattr(f, flag.name) == flag.mask == 1 << bit
    assert f.vmflags_codes(1 << bit) == code
    assert f.parse_vmflags(code) == (1 << bit, ())
    assert flag.meaning.endswith(".")


def test_the_table_covers_every_vm_constant_of_one_bit() -> None:
    aliases = {"VM_PAT", "VM_STACK", "VM_MERGE_IGNORE"}
    named = {
        name: value
        for name, value in vars(f).items()
        if name.startswith("VM_") and isinstance(value, int) and value.bit_count() == 1
    }
    del named["VM_PKEY_SHIFT"]
    assert {flag.name: flag.mask for flag in f.VM_FLAG_TABLE.values()} == {
        n: v for n, v in named.items() if n not in aliases
    }
    assert list(f.VM_FLAG_TABLE) == sorted(f.VM_FLAG_TABLE)


def test_protection_keys_print_nothing_and_undefined_bits_print_question_marks() -> None:
    assert f.vmflags_codes(f.VM_READ | f.VM_PKEY_MASK) == "rd"
    assert f.vmflags_codes(f.VM_READ | 1 << 11 | 1 << 36 | 1 << 63) == "rd ?? ?? ??"
    assert f.vmflags_codes(0) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, ())),
        ("rd lo ??", (0x82001, ())),
        ("rd lo lf ac", (0x182001, ())),
        ("rd sl gu", (1, ("sl", "gu"))),
        ("rd mt bt dp ss", (1, ("mt", "bt", "dp", "ss"))),
        ("rd ?? lo", (0x2001, ("??",))),  # below bit 13: not the place of VM_LOCKONFAULT
        ("ac ??", (0x100000, ("??",))),
        ("lo ?? ?? ac", (0x182000, ("??",))),
        ("rd ?? sl", (0x80001, ("sl",))),
    ],
)
def test_parse_of_unknown_codes(text: str, expected: tuple[int, tuple[str, ...]]) -> None:
    assert f.parse_vmflags(text) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VM_SPECIAL", 0x10044400),
        ("VM_ACCESS_FLAGS", 0x7),
        ("VM_STACK_FLAGS", 0x100173),
        ("VM_PAT", 0x1000000),
        ("VM_UFFD_MINOR", 0x2000000000),
        ("MAP_FIXED_NOREPLACE", 0x100000),
        ("MAP_STACK", 0x20000),
        ("MAP_HUGETLB", 0x40000),
        ("MAP_SYNC", 0x80000),
        ("MAP_HUGE_2MB", 0x54000000),
        ("PROT_GROWSDOWN", 0x1000000),
        ("MADV_DONTNEED_LOCKED", 24),
        ("MADV_COLLAPSE", 25),
        ("MREMAP_DONTUNMAP", 4),
        ("MS_SYNC", 4),
        ("MCL_ONFAULT", 4),
    ],
)
def test_values(name: str, value: int) -> None:
    assert getattr(f, name) == value


def test_values_against_this_interpreter_on_linux() -> None:
    """mmap and os carry the platform's values: whatever both have must agree."""
    import mmap
    import os
    import platform

    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("values of another platform")
    for module, prefixes in ((mmap, ("MAP_", "PROT_", "MADV_")), (os, ("O_",))):
        for name in dir(module):
            # The C library says 0 for O_LARGEFILE on 64-bit machines; the kernel sets it.
            if name.startswith(prefixes) and hasattr(f, name) and name != "O_LARGEFILE":
                assert getattr(f, name) == getattr(module, name), name


@pytest.mark.parametrize(
    ("vm_flags", "cow"),
    [
        (0x8100073, True),
        (0x8000075, True),
        (0x80000FB, False),
        (0x80000D1, False),
        (0x51, False),
        (0xC044471, True),
    ],
)
def test_is_cow_mapping(vm_flags: int, cow: bool) -> None:
    assert f.is_cow_mapping(vm_flags) is cow


@pytest.mark.parametrize(
    ("vm_flags", "charged"),
    [
        (0x2, True),
        (0x73, True),
        (0x71, False),
        (0x7B, False),
        (0x200073, False),
        (0x400073, False),
        (0x100173, True),
    ],
)
def test_accountable_mapping(vm_flags: int, charged: bool) -> None:
    assert f.accountable_mapping(vm_flags) is charged


def test_calc_vm_bits() -> None:
    assert [f.calc_vm_prot_bits(p) for p in range(16)] == [p & 7 for p in range(16)]
    assert f.calc_vm_prot_bits(f.PROT_WRITE | f.PROT_GROWSDOWN, pkey=15) == 0xF00000002
    single = {1 << k: f.calc_vm_flag_bits(1 << k) for k in range(32)}
    assert {k: v for k, v in single.items() if v} == {
        f.MAP_GROWSDOWN: f.VM_GROWSDOWN,
        f.MAP_LOCKED: f.VM_LOCKED,
        f.MAP_SYNC: f.VM_SYNC,
    }
    assert f.calc_vm_flag_bits(f.MAP_STACK | f.MAP_PRIVATE, stack_nohugepage=True) == f.VM_NOHUGEPAGE
