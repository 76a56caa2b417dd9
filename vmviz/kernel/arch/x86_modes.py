"""The paging modes of x86, and two tiny modes for teaching that keep x86-64's entries.

Models ``arch/x86/include/asm/pgtable*_types.h`` and ``pgtable-{2,3}level.h`` of 6.1.  Bit names are
the processor manuals' for hardware bits (P, RW, US, ...) and Linux's for software bits.
"""

from __future__ import annotations

from vmviz.kernel.arch import x86
from vmviz.kernel.arch.layout import EntryBit, Masks, SwapLayout, make_levels, mask_of
from vmviz.kernel.arch.paging import PagingMode

_HUGE = ("pmd", "pud", "p4d", "pgd")


def _hardware_bits(huge: tuple[str, ...], righted: tuple[str, ...]) -> tuple[EntryBit, ...]:
    """The low bits; ``huge`` levels have PS, ``righted`` levels (empty: all) have rights, A and D."""
    return (
        EntryBit("P", 0, "present"),
        EntryBit("RW", 1, "writable", righted),
        EntryBit("US", 2, "user mode may enter", righted),
        EntryBit("PWT", 3, "cache attribute bit 0"),
        EntryBit("PCD", 4, "cache attribute bit 1"),
        EntryBit("A", 5, "accessed: set by the processor, never cleared by it", righted),
        EntryBit("D", 6, "dirty: stored through this leaf", righted),
        EntryBit("PAT", 7, "cache attribute bit 2", ("pte",)),
        EntryBit("PSE", 7, "page size: this entry is a leaf", huge),
        EntryBit("PROTNONE", 8, "kept but nobody may touch it", righted, when="absent"),
        EntryBit("G", 8, "global: survives a switch of address space", righted, when="present"),
    )


_SPECIAL = EntryBit("SPECIAL", 9, "the frame has no counted struct page")
_PAT_LARGE = EntryBit("PAT", 12, "cache attribute bit 2 of a huge leaf", _HUGE, scope="leaf")
_NX = EntryBit("NX", 63, "no instruction fetch")

X86_64_BITS = (
    *_hardware_bits(_HUGE[:2], ()),
    _SPECIAL,
    EntryBit("UFFDWP", 10, "write-protected by userfaultfd"),
    EntryBit("SOFTDIRTY", 11, "written since clear_refs"),
    _PAT_LARGE,
    EntryBit("DEVMAP", 58, "device memory with struct pages"),
    EntryBit("PKEY", 59, "protection key", width=4, scope="leaf"),
    _NX,
)
_PAE_RIGHTED = ("pmd", "pte")
_PAE_BITS = (
    *_hardware_bits(("pmd",), _PAE_RIGHTED),
    EntryBit("SPECIAL", 9, _SPECIAL.meaning, _PAE_RIGHTED),
    _PAT_LARGE,
    EntryBit("NX", 63, _NX.meaning, _PAE_RIGHTED),
)
_I386_BITS = (*_hardware_bits(("pgd",), ()), _SPECIAL, _PAT_LARGE)

_SWAP_BITS = (
    EntryBit("SWP_SOFT_DIRTY", 1, "written since clear_refs"),
    EntryBit("SWP_UFFD_WP", 2, "write-protected by userfaultfd"),
    EntryBit("SWP_EXCLUSIVE", 3, "the page was this process's alone"),
)
_X86_64_SWAP = SwapLayout(59, 5, 9, 50, inverted=True, bits=_SWAP_BITS)
# PAE shares the 64-bit layout; a 32-bit swp_entry_t leaves 27 usable bits of the offset.
_PAE_SWAP = SwapLayout(59, 5, 9, 50, inverted=True)
_I386_SWAP = SwapLayout(1, 5, 9, 23)

X86_64_MASKS = Masks(
    present=x86._PAGE_PRESENT,
    protnone=x86._PAGE_PROTNONE,
    write=x86._PAGE_RW,
    user=x86._PAGE_USER,
    no_exec=x86._PAGE_NX,
    accessed=x86._PAGE_ACCESSED,
    dirty=x86._PAGE_DIRTY,
    special=x86._PAGE_SPECIAL,
    soft_dirty=x86._PAGE_SOFT_DIRTY,
    uffd_wp=x86._PAGE_UFFD_WP,
    devmap=x86._PAGE_DEVMAP,
    huge_set=x86._PAGE_PSE,
    none_ignores=x86._PAGE_KNL_ERRATUM_MASK,
    change_keeps=x86._PAGE_CHG_MASK,
    huge_change_keeps=x86._HPAGE_CHG_MASK,
)


def _masks_32(bits: tuple[EntryBit, ...], pfn_mask: int, none_ignores: int, nx: int) -> Masks:
    keeps = pfn_mask | mask_of(bits, "PWT", "PCD", "A", "D", "SPECIAL")
    return Masks(
        present=x86._PAGE_PRESENT,
        protnone=x86._PAGE_PROTNONE,
        write=x86._PAGE_RW,
        user=x86._PAGE_USER,
        no_exec=nx,
        accessed=x86._PAGE_ACCESSED,
        dirty=x86._PAGE_DIRTY,
        special=x86._PAGE_SPECIAL,
        huge_set=x86._PAGE_PSE,
        none_ignores=none_ignores,
        change_keeps=keeps | x86._PAGE_PAT,
        huge_change_keeps=keeps | x86._PAGE_PSE | x86._PAGE_PAT_LARGE,
    )


_WINDOW_47 = (1 << 47) - x86.PAGE_SIZE

X86_64_4L = PagingMode(
    name="x86-64-4l",
    title="x86-64, 4 levels, 48-bit addresses",
    arch="x86",
    levels=make_levels(12, pgd=9, pud=9, pmd=9, pte=9),
    page_shift=12,
    va_bits=48,
    entry_bytes=8,
    task_size=_WINDOW_47,
    pfn_shift=12,
    pfn_bits=40,
    bits=X86_64_BITS,
    masks=X86_64_MASKS,
    leaf_levels=("pud", "pmd", "pte"),
    invert_not_present=True,
    swap=_X86_64_SWAP,
)
X86_64_5L = PagingMode(
    name="x86-64-5l",
    title="x86-64, 5 levels (LA57), 57-bit addresses",
    arch="x86",
    levels=make_levels(12, pgd=9, p4d=9, pud=9, pmd=9, pte=9),
    page_shift=12,
    va_bits=57,
    entry_bytes=8,
    task_size=(1 << 56) - x86.PAGE_SIZE,
    map_window=_WINDOW_47,
    pfn_shift=12,
    pfn_bits=40,
    bits=X86_64_BITS,
    masks=X86_64_MASKS,
    leaf_levels=("pud", "pmd", "pte"),
    invert_not_present=True,
    swap=_X86_64_SWAP,
)
I386 = PagingMode(
    name="i386",
    title="i386, 2 levels, 4-byte entries",
    arch="x86",
    levels=make_levels(12, pgd=10, pte=10),
    page_shift=12,
    va_bits=32,
    entry_bytes=4,
    task_size=0xC000_0000,
    pfn_shift=12,
    pfn_bits=20,
    bits=_I386_BITS,
    masks=_masks_32(_I386_BITS, 0xFFFF_F000, 0, 0),
    leaf_levels=("pgd", "pte"),
    canonical="flat",
    phys_bits=32,
    swap=_I386_SWAP,
)
I386_PAE = PagingMode(
    name="i386-pae",
    title="i386 with PAE, 3 levels, 8-byte entries",
    arch="x86",
    levels=make_levels(12, pgd=2, pmd=9, pte=9),
    page_shift=12,
    va_bits=32,
    entry_bytes=8,
    task_size=0xC000_0000,
    pfn_shift=12,
    pfn_bits=40,
    bits=_PAE_BITS,
    masks=_masks_32(_PAE_BITS, x86.PTE_PFN_MASK, x86._PAGE_KNL_ERRATUM_MASK, x86._PAGE_NX),
    leaf_levels=("pmd", "pte"),
    canonical="flat",
    phys_bits=36,
    invert_not_present=True,
    swap=_PAE_SWAP,
)


def _teaching(name: str, title: str, page_shift: int, **bits: int) -> PagingMode:
    """A mode in which every table is one tiny page and the entries are x86-64's."""
    va_bits = page_shift + sum(bits.values())
    return PagingMode(
        name=name,
        title=title,
        arch="teaching",
        levels=make_levels(page_shift, **bits),
        page_shift=page_shift,
        va_bits=va_bits,
        entry_bytes=8,
        task_size=1 << va_bits,
        pfn_shift=12,
        pfn_bits=40,
        bits=X86_64_BITS,
        masks=X86_64_MASKS,
        canonical="flat",
        phys_bits=40 + page_shift,
        invert_not_present=True,
        swap=_X86_64_SWAP,
    )


TEACH_8X2 = _teaching("teach-8x2", "teaching: 2 levels of 8 entries, 64-byte pages", 6, pgd=3, pte=3)
TEACH_4X3 = _teaching("teach-4x3", "teaching: 3 levels of 4 entries, 32-byte pages", 5, pgd=2, pmd=2, pte=2)

X86_MODES = (X86_64_4L, X86_64_5L, I386, I386_PAE, TEACH_8X2, TEACH_4X3)
