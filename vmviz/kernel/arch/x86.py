"""x86-64 entries as plain integers: the hot path of every walk, fault and zap.

Models ``arch/x86/include/asm/pgtable{,_types,_64}.h``, ``pgtable-invert.h`` and ``arch/x86/mm/pgprot.c`` of
6.1.  The functions check nothing and mask what does not fit, as the kernel's inlines do; `PagingMode` is the
same as data.

>>> hex(mk_pte(0x1234, PAGE_SHARED | _PAGE_DIRTY | _PAGE_SOFT_DIRTY))
'0x8000000001234867'
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ..value import Value

__all__ = [
    "PAGE_COPY",
    "PAGE_COPY_EXEC",
    "PAGE_COPY_NOEXEC",
    "PAGE_KERNEL",
    "PAGE_MASK",
    "PAGE_NONE",
    "PAGE_READONLY",
    "PAGE_READONLY_EXEC",
    "PAGE_SHARED",
    "PAGE_SHARED_EXEC",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "PAT_SLOTS",
    "PHYSICAL_PMD_PAGE_MASK",
    "PTE_FLAGS_MASK",
    "PTE_PFN_MASK",
    "SWP_OFFSET_MASK",
    "_HPAGE_CHG_MASK",
    "_KERNPG_TABLE",
    "_PAGE_ACCESSED",
    "_PAGE_CHG_MASK",
    "_PAGE_DEVMAP",
    "_PAGE_DIRTY",
    "_PAGE_GLOBAL",
    "_PAGE_KNL_ERRATUM_MASK",
    "_PAGE_NX",
    "_PAGE_PAT",
    "_PAGE_PAT_LARGE",
    "_PAGE_PCD",
    "_PAGE_PKEY_MASK",
    "_PAGE_PRESENT",
    "_PAGE_PROTNONE",
    "_PAGE_PSE",
    "_PAGE_PWT",
    "_PAGE_RW",
    "_PAGE_SOFT_DIRTY",
    "_PAGE_SPECIAL",
    "_PAGE_SWP_EXCLUSIVE",
    "_PAGE_SWP_SOFT_DIRTY",
    "_PAGE_SWP_UFFD_WP",
    "_PAGE_TABLE",
    "_PAGE_UFFD_WP",
    "_PAGE_USER",
    "Rights",
    "cachemode2protval",
    "effective_rights",
    "is_swap_pte",
    "mk_pte",
    "pfn_pmd",
    "pgprot_cache_mode",
    "pmd_leaf",
    "pmd_modify",
    "pmd_pfn",
    "pmd_present",
    "protection_map",
    "pte_flags",
    "pte_modify",
    "pte_none",
    "pte_pfn",
    "pte_present",
    "pte_protnone",
    "pte_special",
    "swp_entry",
    "swp_offset",
    "swp_type",
    "vm_get_page_prot",
]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = (1 << 64) - PAGE_SIZE
_ALL = (1 << 64) - 1

_PAGE_PRESENT = 1 << 0
_PAGE_RW = 1 << 1
_PAGE_USER = 1 << 2
_PAGE_PWT = 1 << 3
_PAGE_PCD = 1 << 4
_PAGE_ACCESSED = 1 << 5
_PAGE_DIRTY = 1 << 6
_PAGE_PSE = 1 << 7
"""A leaf, above the last level."""
_PAGE_PAT = 1 << 7
"""The third cache bit, at the last level."""
_PAGE_GLOBAL = 1 << 8
_PAGE_PROTNONE = 1 << 8
"""The same bit while present is clear."""
_PAGE_SPECIAL = 1 << 9
_PAGE_UFFD_WP = 1 << 10
_PAGE_SOFT_DIRTY = 1 << 11
_PAGE_PAT_LARGE = 1 << 12
_PAGE_DEVMAP = 1 << 58
_PAGE_PKEY_MASK = 0xF << 59
_PAGE_NX = 1 << 63

_PAGE_SWP_SOFT_DIRTY = 1 << 1
_PAGE_SWP_UFFD_WP = 1 << 2
_PAGE_SWP_EXCLUSIVE = 1 << 3

PTE_PFN_MASK = 0x000F_FFFF_FFFF_F000
PTE_FLAGS_MASK = _ALL & ~PTE_PFN_MASK
PHYSICAL_PMD_PAGE_MASK = 0x000F_FFFF_FFE0_0000

_PAGE_KNL_ERRATUM_MASK = _PAGE_DIRTY | _PAGE_ACCESSED
"""Bits that a processor may leave in an empty entry."""

_COMMON_PAGE_CHG_MASK = (
    PTE_PFN_MASK
    | _PAGE_PCD
    | _PAGE_PWT
    | _PAGE_SPECIAL
    | _PAGE_ACCESSED
    | _PAGE_DIRTY
    | _PAGE_SOFT_DIRTY
    | _PAGE_DEVMAP
    | _PAGE_UFFD_WP
)
_PAGE_CHG_MASK = _COMMON_PAGE_CHG_MASK | _PAGE_PAT
_HPAGE_CHG_MASK = _COMMON_PAGE_CHG_MASK | _PAGE_PSE | _PAGE_PAT_LARGE

_KERNPG_TABLE = _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED | _PAGE_DIRTY
_PAGE_TABLE = _KERNPG_TABLE | _PAGE_USER

PAGE_NONE = _PAGE_ACCESSED | _PAGE_PROTNONE
PAGE_READONLY_EXEC = _PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED
PAGE_READONLY = PAGE_READONLY_EXEC | _PAGE_NX
PAGE_COPY_NOEXEC = PAGE_READONLY
PAGE_COPY = PAGE_READONLY
PAGE_COPY_EXEC = PAGE_READONLY_EXEC
PAGE_SHARED_EXEC = PAGE_READONLY_EXEC | _PAGE_RW
PAGE_SHARED = PAGE_SHARED_EXEC | _PAGE_NX
PAGE_KERNEL = _KERNPG_TABLE | _PAGE_GLOBAL | _PAGE_NX

protection_map: tuple[int, ...] = (
    PAGE_NONE,
    PAGE_READONLY,
    PAGE_COPY,
    PAGE_COPY,
    PAGE_READONLY_EXEC,
    PAGE_READONLY_EXEC,
    PAGE_COPY_EXEC,
    PAGE_COPY_EXEC,
    PAGE_NONE,
    PAGE_READONLY,
    PAGE_SHARED,
    PAGE_SHARED,
    PAGE_READONLY_EXEC,
    PAGE_READONLY_EXEC,
    PAGE_SHARED_EXEC,
    PAGE_SHARED_EXEC,
)
"""The first entry bits of a mapping, by VM_READ (1), VM_WRITE (2), VM_EXEC (4), VM_SHARED (8)."""

_VM_PKEY_SHIFT = 32


def vm_get_page_prot(vm_flags: int) -> int:
    """The vm_page_prot of these vm_flags: rights, and the protection key (flag bits 32..35).

    >>> hex(vm_get_page_prot(0x3)), hex(vm_get_page_prot(0xB)), hex(vm_get_page_prot(0x5_0000_0005))
    ('0x8000000000000025', '0x8000000000000027', '0x2800000000000025')
    """
    return protection_map[vm_flags & 0xF] | ((vm_flags >> _VM_PKEY_SHIFT) & 0xF) << 59


# States of an entry


def pte_none(entry: int) -> bool:
    """Whether the entry is empty, stray A and D bits aside."""
    return not entry & ~_PAGE_KNL_ERRATUM_MASK


def pte_present(entry: int) -> bool:
    """Whether the entry keeps a frame: present or PROT_NONE."""
    return entry & (_PAGE_PRESENT | _PAGE_PROTNONE) != 0


def pte_protnone(entry: int) -> bool:
    """Whether the entry keeps a frame that nobody may touch (PROT_NONE, NUMA hint)."""
    return entry & (_PAGE_PRESENT | _PAGE_PROTNONE) == _PAGE_PROTNONE


def pte_special(entry: int) -> bool:
    """Whether the frame has no struct page that is counted."""
    return entry & _PAGE_SPECIAL != 0


def is_swap_pte(entry: int) -> bool:
    """Whether the entry is neither empty nor present: swap, migration or marker."""
    return not pte_none(entry) and not pte_present(entry)


def pmd_present(entry: int) -> bool:
    """As `pte_present` for a PMD: one under a split keeps only PSE, and counts as present."""
    return entry & (_PAGE_PRESENT | _PAGE_PROTNONE | _PAGE_PSE) != 0


def pmd_leaf(entry: int) -> bool:
    """Whether a PMD or PUD maps memory itself."""
    return entry & _PAGE_PSE != 0


# Frame numbers


def _needs_invert(entry: int) -> bool:
    return entry != 0 and not entry & _PAGE_PRESENT


def pte_pfn(entry: int) -> int:
    """The frame number; inverted back when the entry lacks present.

    >>> hex(pte_pfn(0xFFFFFEFFF8320))
    '0x10007'
    """
    if entry & _PAGE_PRESENT or entry == 0:
        return (entry & PTE_PFN_MASK) >> PAGE_SHIFT
    return (~entry & PTE_PFN_MASK) >> PAGE_SHIFT


def pte_flags(entry: int) -> int:
    """The entry without the bits of the frame number."""
    return entry & PTE_FLAGS_MASK


def mk_pte(pfn: int, prot: int) -> int:
    """The entry that maps frame ``pfn`` with ``prot`` (pfn_pte); a PROT_NONE one stores it inverted.

    >>> hex(mk_pte(0x10007, PAGE_NONE | _PAGE_SPECIAL))
    '0xfffffefff8320'
    """
    if prot & _PAGE_PRESENT or prot == 0:
        return (pfn << PAGE_SHIFT & PTE_PFN_MASK) | prot
    return (~(pfn << PAGE_SHIFT) & PTE_PFN_MASK) | prot


def pte_modify(entry: int, newprot: int) -> int:
    """The entry with new rights; frame, cache bits, A, D and software bits stay.

    >>> none = pte_modify(0x8000000010007227, PAGE_NONE)
    >>> hex(none), hex(pte_modify(none, PAGE_SHARED))
    ('0xfffffefff8320', '0x8000000010007227')
    """
    new = (entry & _PAGE_CHG_MASK) | (newprot & ~_PAGE_CHG_MASK)
    # A present entry that stays present is the common case; only the others can turn over.
    if not entry & new & _PAGE_PRESENT and _needs_invert(entry) != _needs_invert(new):
        new ^= PTE_PFN_MASK
    return new


def pmd_pfn(entry: int) -> int:
    """The frame number of a PMD, a huge leaf or a table."""
    value = ~entry if _needs_invert(entry) else entry
    return (value & (PHYSICAL_PMD_PAGE_MASK if entry & _PAGE_PSE else PTE_PFN_MASK)) >> PAGE_SHIFT


def pfn_pmd(pfn: int, prot: int) -> int:
    """The 2 MiB leaf that maps the frames from ``pfn`` on; ``prot`` has PSE already.

    >>> hex(pfn_pmd(0x7A00, PAGE_SHARED | _PAGE_DIRTY | _PAGE_SOFT_DIRTY | _PAGE_PSE))
    '0x8000000007a008e7'
    """
    address = pfn << PAGE_SHIFT
    if _needs_invert(prot):
        address = ~address
    return (address & PHYSICAL_PMD_PAGE_MASK) | prot


def pmd_modify(entry: int, newprot: int) -> int:
    """`pte_modify` for a 2 MiB leaf: PSE stays, and the third cache bit is bit 12.

    >>> hex(pmd_modify(0x8000000007A008E7, PAGE_READONLY))
    '0x8000000007a008e5'
    """
    new = (entry & _HPAGE_CHG_MASK) | (newprot & ~_HPAGE_CHG_MASK)
    if _needs_invert(entry) != _needs_invert(new):
        new ^= PHYSICAL_PMD_PAGE_MASK
    return new


# Swap entries

_SWP_TYPE_SHIFT = 59
_SWP_OFFSET_SHIFT = 9
_SWP_OFFSET_MAX = (1 << 50) - 1
SWP_OFFSET_MASK = _SWP_OFFSET_MAX << _SWP_OFFSET_SHIFT


def swp_entry(type: int, offset: int) -> int:
    """The entry of slot ``offset`` in swap file ``type`` (0..31); the offset is stored inverted.

    >>> hex(swp_entry(0, 0x1234)), hex(swp_entry(3, 0xABCDEF))
    ('0x7ffffffffdb9600', '0x1ffffffea8642000')
    """
    return (type & 0x1F) << _SWP_TYPE_SHIFT | (~offset & _SWP_OFFSET_MAX) << _SWP_OFFSET_SHIFT


def swp_type(entry: int) -> int:
    """The number of the swap file."""
    return (entry >> _SWP_TYPE_SHIFT) & 0x1F


def swp_offset(entry: int) -> int:
    """The slot number, pages."""
    return (~entry >> _SWP_OFFSET_SHIFT) & _SWP_OFFSET_MAX


# Cache attributes

PAT_SLOTS: tuple[str, ...] = ("WB", "WC", "UC-", "UC", "WB", "WP", "UC-", "WT")
"""The cache mode that Linux puts into each PAT slot, by the bits PAT, PCD, PWT."""


def pgprot_cache_mode(entry: int, *, huge: bool = False) -> str:
    """The cache mode that a leaf asks for; ``huge`` for PMD and PUD leaves.

    >>> pgprot_cache_mode(0x80000000FE000237)
    'UC-'
    """
    pat = entry & (_PAGE_PAT_LARGE if huge else _PAGE_PAT)
    return PAT_SLOTS[(4 if pat else 0) | (entry & (_PAGE_PCD | _PAGE_PWT)) >> 3]


def cachemode2protval(mode: str) -> int:
    """The bits of a base-page entry that ask for this cache mode.  ValueError: there is no such mode.

    >>> cachemode2protval("UC-") == _PAGE_PCD, hex(cachemode2protval("WT"))
    (True, '0x98')
    """
    if mode not in PAT_SLOTS:
        raise ValueError(f"no cache mode {mode!r}; there are {', '.join(dict.fromkeys(PAT_SLOTS))}")
    slot = PAT_SLOTS.index(mode)
    return (slot & 3) << 3 | (_PAGE_PAT if slot & 4 else 0)


# Rights along a walk


@attrs.frozen(eq=False, repr=False)
class Rights(Value):
    """What a walk lets through: stores, user mode, instruction fetches (reads always)."""

    write: bool
    user: bool
    execute: bool


def effective_rights(entries: Iterable[int]) -> Rights:
    """The rights of a translation: R/W and U/S must be set at every level, NX at none.

    >>> effective_rights([_PAGE_TABLE, _PAGE_TABLE, _PAGE_TABLE & ~_PAGE_RW, PAGE_SHARED])
    Rights(write=False, user=True, execute=False)
    """
    allowed, denied = _PAGE_RW | _PAGE_USER, 0
    for entry in entries:
        allowed &= entry
        denied |= entry
    return Rights(allowed & _PAGE_RW != 0, allowed & _PAGE_USER != 0, denied & _PAGE_NX == 0)
