"""The paging modes of arm64: 4K, 16K and 64K pages.

Models ``arch/arm64/include/asm/pgtable{,-hwdef,-prot}.h`` of 6.1.  Two roots (TTBR0 for user, TTBR1 for
the kernel) give each half its whole ``va_bits``; 52-bit addresses exist for 64K pages only.
"""

from __future__ import annotations

from vmviz.kernel.arch.layout import EntryBit, Level, Masks, SwapLayout, mask_of
from vmviz.kernel.arch.paging import PagingMode

_UPPER = ("pmd", "pud", "pgd")
_NAMES = {2: ("pgd", "pte"), 3: ("pgd", "pmd", "pte"), 4: ("pgd", "pud", "pmd", "pte")}

ARM64_BITS = (
    EntryBit("VALID", 0, "the hardware translates through this entry"),
    EntryBit("PAGE", 1, "a page, together with VALID", ("pte",)),
    EntryBit("TABLE", 1, "points to a table; clear in a block", _UPPER),
    EntryBit("ATTRINDX", 2, "memory type: index into MAIR", width=3, scope="leaf"),
    EntryBit("USER", 6, "AP[1]: user mode may enter", scope="leaf"),
    EntryBit("RDONLY", 7, "AP[2]: read-only", scope="leaf"),
    EntryBit("SH", 8, "shareability; 3 is inner shareable", width=2, scope="leaf"),
    EntryBit("AF", 10, "access flag", scope="leaf"),
    EntryBit("NG", 11, "not global: tagged with the ASID", scope="leaf"),
    EntryBit("GP", 50, "guarded page (BTI)", scope="leaf"),
    EntryBit("WRITE", 51, "DBM: writable, perhaps still clean", scope="leaf"),
    EntryBit("CONT", 52, "part of a contiguous run", scope="leaf"),
    EntryBit("PXN", 53, "no kernel instruction fetch", scope="leaf"),
    EntryBit("UXN", 54, "no user instruction fetch", scope="leaf"),
    EntryBit("DIRTY", 55, "dirty, kept by software", scope="leaf"),
    EntryBit("SPECIAL", 56, "the frame has no counted struct page", scope="leaf"),
    EntryBit("DEVMAP", 57, "device memory with struct pages", scope="leaf"),
    EntryBit("PROTNONE", 58, "kept but nobody may touch it", scope="leaf", when="absent"),
)

_REPLACED = mask_of(
    ARM64_BITS, "VALID", "ATTRINDX", "USER", "RDONLY", "GP", "WRITE", "PXN", "UXN", "PROTNONE"
)
ARM64_MASKS = Masks(
    present=mask_of(ARM64_BITS, "VALID"),
    protnone=mask_of(ARM64_BITS, "PROTNONE"),
    write=mask_of(ARM64_BITS, "WRITE"),
    user=mask_of(ARM64_BITS, "USER"),
    no_exec=mask_of(ARM64_BITS, "UXN"),
    accessed=mask_of(ARM64_BITS, "AF"),
    dirty=mask_of(ARM64_BITS, "DIRTY"),
    special=mask_of(ARM64_BITS, "SPECIAL"),
    devmap=mask_of(ARM64_BITS, "DEVMAP"),
    huge_clear=mask_of(ARM64_BITS, "TABLE"),
    hw_dirty_set=mask_of(ARM64_BITS, "WRITE"),
    hw_dirty_clear=mask_of(ARM64_BITS, "RDONLY"),
    change_keeps=((1 << 64) - 1) & ~_REPLACED,
)
_SWAP = SwapLayout(3, 5, 8, 50, bits=(EntryBit("SWP_EXCLUSIVE", 2, "the page was this process's alone"),))

_CONTIGUOUS = {12: (1 << 16, 1 << 25), 14: (1 << 21, 1 << 30), 16: (1 << 21, 1 << 34)}
"""By page shift: sizes of a run of pages and of a run of blocks under the contiguous hint."""


def arm64_levels(page_shift: int, va_bits: int) -> tuple[Level, ...]:
    """The levels of a geometry: a table fills a page, and the top one is cut to the bits that are left.

    >>> [(lv.name, lv.bits) for lv in arm64_levels(14, 48)]
    [('pgd', 1), ('pud', 11), ('pmd', 11), ('pte', 11)]
    """
    per_level = page_shift - 3
    count = -(-(va_bits - page_shift) // per_level)
    shifts = [page_shift + per_level * below for below in reversed(range(count))]
    tops = [va_bits, *shifts[:-1]]
    return tuple(Level(n, lo, hi - lo) for n, lo, hi in zip(_NAMES[count], shifts, tops, strict=True))


def _mode(page_kib: int, va_bits: int) -> PagingMode:
    page_shift = {4: 12, 16: 14, 64: 16}[page_kib]
    wide = va_bits == 52
    levels = arm64_levels(page_shift, va_bits)
    # A block is possible at the level above the last, and with 4K pages one level further up.
    blocks = {page_shift + page_shift - 3, 30} if page_shift == 12 else {page_shift + page_shift - 3}
    return PagingMode(
        name=f"arm64-{page_kib}k-{va_bits}",
        title=f"arm64, {page_kib}K pages, {len(levels)} levels, {va_bits}-bit addresses",
        arch="arm64",
        levels=levels,
        page_shift=page_shift,
        va_bits=va_bits,
        entry_bytes=8,
        task_size=1 << va_bits,
        map_window=1 << min(va_bits, 48),
        pfn_shift=page_shift,
        pfn_bits=48 - page_shift,
        pfn_high=(12, 4) if wide else (0, 0),
        phys_bits=52 if wide else 48,
        bits=ARM64_BITS,
        masks=ARM64_MASKS,
        leaf_levels=tuple(lv.name for lv in levels if lv.shift in blocks or lv.name == "pte"),
        canonical="two roots",
        swap=_SWAP,
        contiguous_sizes=_CONTIGUOUS[page_shift],
    )


ARM64_MODES = tuple(
    _mode(page_kib, va_bits)
    for page_kib, va_bits in ((4, 39), (4, 48), (16, 36), (16, 47), (16, 48), (64, 42), (64, 48), (64, 52))
)
