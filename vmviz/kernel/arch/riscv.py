"""The paging modes of RISC-V: Sv32, Sv39, Sv48, Sv57, and the satp register that selects them.

Models ``arch/riscv/include/asm/pgtable{,-bits,-64}.h`` of 6.1.  A valid entry with R, W and X
clear points to a table.
"""

from __future__ import annotations

from vmviz.kernel.arch.layout import EntryBit, Masks, SwapLayout, make_levels, mask_of
from vmviz.kernel.arch.paging import PagingMode, UnknownNameError

_LOW_BITS = (
    EntryBit("V", 0, "valid"),
    EntryBit("R", 1, "readable"),
    EntryBit("W", 2, "writable"),
    EntryBit("X", 3, "executable"),
    EntryBit("U", 4, "user mode may enter"),
    EntryBit("PROTNONE", 5, "kept but nobody may touch it", when="absent"),
    EntryBit("G", 5, "global", when="present"),
    EntryBit("A", 6, "accessed"),
    EntryBit("D", 7, "dirty"),
    EntryBit("SPECIAL", 8, "RSW bit 0: the frame has no counted struct page"),
    EntryBit("RSW1", 9, "RSW bit 1: free for software"),
)
RISCV64_BITS = (
    *_LOW_BITS,
    EntryBit("PBMT", 61, "memory type (Svpbmt): 0 PMA, 1 NC, 2 IO", width=2, scope="leaf"),
    EntryBit("N", 63, "part of a naturally aligned run (Svnapot)", scope="leaf"),
)


def _masks(bits: tuple[EntryBit, ...], entry_bytes: int, memory_type: int) -> Masks:
    replaced = mask_of(bits, "V", "R", "W", "X", "U", "G") | memory_type
    return Masks(
        present=mask_of(bits, "V"),
        protnone=mask_of(bits, "PROTNONE"),
        write=mask_of(bits, "W"),
        user=mask_of(bits, "U"),
        exec=mask_of(bits, "X"),
        accessed=mask_of(bits, "A"),
        dirty=mask_of(bits, "D"),
        special=mask_of(bits, "SPECIAL"),
        huge_set=mask_of(bits, "R", "W", "X"),
        change_keeps=((1 << 8 * entry_bytes) - 1) & ~replaced,
    )


_MASKS_64 = _masks(RISCV64_BITS, 8, mask_of(RISCV64_BITS, "PBMT"))


def _rv64(name: str, va_bits: int, **bits: int) -> PagingMode:
    levels = make_levels(12, **bits)
    return PagingMode(
        name=name,
        title=f"RISC-V {name.capitalize()}, {len(levels)} levels, {va_bits}-bit addresses",
        arch="riscv",
        levels=levels,
        page_shift=12,
        va_bits=va_bits,
        entry_bytes=8,
        task_size=1 << (va_bits - 1),
        pfn_shift=10,
        pfn_bits=44,
        phys_bits=56,
        bits=RISCV64_BITS,
        masks=_MASKS_64,
        leaf_levels=tuple(bits),
        swap=SwapLayout(6, 5, 11, 53),
        contiguous_sizes=(1 << 16,),
    )


SV39 = _rv64("sv39", 39, pgd=9, pmd=9, pte=9)
SV48 = _rv64("sv48", 48, pgd=9, pud=9, pmd=9, pte=9)
SV57 = _rv64("sv57", 57, pgd=9, p4d=9, pud=9, pmd=9, pte=9)
SV32 = PagingMode(
    name="sv32",
    title="RISC-V Sv32, 2 levels, 4-byte entries",
    arch="riscv",
    levels=make_levels(12, pgd=10, pte=10),
    page_shift=12,
    va_bits=32,
    entry_bytes=4,
    task_size=0x9FC0_0000,
    pfn_shift=10,
    pfn_bits=22,
    phys_bits=34,
    bits=_LOW_BITS,
    masks=_masks(_LOW_BITS, 4, 0),
    leaf_levels=("pgd", "pte"),
    canonical="flat",
    swap=SwapLayout(6, 5, 11, 21),
)

RISCV_MODES = (SV32, SV39, SV48, SV57)

_SATP = {"sv32": (1, 31, 22, 9), "sv39": (8, 60, 44, 16), "sv48": (9, 60, 44, 16), "sv57": (10, 60, 44, 16)}
"""Mode number, its bit, width of the frame number, width of the ASID."""


def make_satp(mode: str, root: int, asid: int = 0) -> int:
    """The satp value for the table at physical address ``root`` (bytes).

    ValueError: ``root`` is no page address that fits, or ``asid`` is too wide.

    >>> hex(make_satp("sv39", 0x87FFF000))
    '0x8000000000087fff'
    """
    if mode not in _SATP:
        raise UnknownNameError("satp mode", mode, _SATP)
    number, bit, ppn_bits, asid_bits = _SATP[mode]
    ppn, rest = divmod(root, 4096)
    if rest or not 0 <= ppn < 1 << ppn_bits:
        raise ValueError(f"{mode}: {root:#x} cannot be the address of a root table")
    if not 0 <= asid < 1 << asid_bits:
        raise ValueError(f"{mode}: ASID {asid} needs more than {asid_bits} bits")
    return number << bit | asid << ppn_bits | ppn
