"""The parts that a paging mode is made of: a level, a bit of an entry, the role masks, the swap encoding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs

from ..value import Value


@attrs.frozen(eq=False, repr=False)
class Level(Value):
    """One level of page tables: ``shift`` is its lowest address bit, ``bits`` the width of its index.

    >>> Level("pmd", 21, 9).span, Level("pmd", 21, 9).entries
    (2097152, 512)
    """

    name: str
    shift: int
    bits: int
    span: int = attrs.field(init=False)
    """Bytes of address space under one entry."""
    entries: int = attrs.field(init=False)
    """Entries of one table (PTRS_PER_PTE and its kin)."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "span", 1 << self.shift)
        object.__setattr__(self, "entries", 1 << self.bits)


def make_levels(page_shift: int, **bits: int) -> tuple[Level, ...]:
    """Levels from their index widths, named top to bottom.

    >>> [(lv.name, lv.shift) for lv in make_levels(12, pgd=9, pmd=9, pte=9)]
    [('pgd', 30), ('pmd', 21), ('pte', 12)]
    """
    levels: list[Level] = []
    shift = page_shift
    for name, width in reversed(bits.items()):
        levels.insert(0, Level(name, shift, width))
        shift += width
    return tuple(levels)


@attrs.frozen(eq=False, repr=False)
class EntryBit(Value):
    """A bit, or a field of ``width`` bits, of a page-table entry.

    >>> pkey = EntryBit("PKEY", 59, "protection key", width=4)
    >>> pkey.show(0x9800000000000000), hex(pkey.put("3"))
    ('PKEY=3', '0x1800000000000000')
    """

    name: str
    bit: int
    """The lowest bit."""
    meaning: str
    levels: tuple[str, ...] = ()
    """Levels where it has this meaning; empty: all."""
    width: int = 1
    scope: Literal["any", "leaf", "table"] = "any"
    """Entries where it has this meaning."""
    when: Literal["any", "present", "absent"] = "any"
    """Whether the meaning needs the present bit set or clear."""
    mask: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "mask", ((1 << self.width) - 1) << self.bit)

    def applies(self, level: str, scope: str, when: str) -> bool:
        """Whether the bit has its meaning in such an entry."""
        return (
            (not self.levels or level in self.levels)
            and self.scope in ("any", scope)
            and self.when in ("any", when)
        )

    def show(self, entry: int) -> str:
        """The name, with the value for a field of several bits."""
        return self.name if self.width == 1 else f"{self.name}={(entry & self.mask) >> self.bit}"

    def put(self, value: str = "") -> int:
        """The bits of ``value`` (empty for a single bit) in an entry.  ValueError: it does not fit."""
        number = 1 if self.width == 1 and value in ("", "1") else int(value or "-1", 0)
        if not 0 <= number < 1 << self.width:
            raise ValueError(f"{self.name} needs a value in 0..{(1 << self.width) - 1}, not {value!r}")
        return number << self.bit


def mask_of(bits: Iterable[EntryBit], *names: str) -> int:
    """All bits of the first entries in ``bits`` that carry these names."""
    first: dict[str, int] = {}
    for bit in bits:
        first.setdefault(bit.name, bit.mask)
    return sum(first[name] for name in names)


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Masks(Value):
    """Which bits play which role; 0 where an architecture has none."""

    present: int
    write: int
    accessed: int
    dirty: int
    change_keeps: int
    """What pte_modify keeps of the old entry (_PAGE_CHG_MASK)."""
    huge_change_keeps: int = attrs.field(
        default=attrs.Factory(lambda self: self.change_keeps, takes_self=True)
    )
    """The same for leaves above the last level (_HPAGE_CHG_MASK)."""
    protnone: int = 0
    """Marks an entry without ``present`` whose frame is kept (_PAGE_PROTNONE)."""
    user: int = 0
    exec: int = 0
    """Set: instructions may be fetched (riscv)."""
    no_exec: int = 0
    """Set: instructions may not be fetched (x86, arm64)."""
    special: int = 0
    soft_dirty: int = 0
    uffd_wp: int = 0
    devmap: int = 0
    huge_set: int = 0
    """Above the last level, any of these bits makes a leaf."""
    huge_clear: int = 0
    """Above the last level, this bit clear makes a leaf (arm64)."""
    hw_dirty_set: int = 0
    hw_dirty_clear: int = 0
    """Dirty by hardware: the first set and the second clear (arm64)."""
    none_ignores: int = 0
    """Bits that an empty entry may have (_PAGE_KNL_ERRATUM_MASK)."""


@attrs.frozen(eq=False, repr=False)
class SwapLayout(Value):
    """Where a not-present entry keeps the number of its swap file and its slot.

    >>> SwapLayout(59, 5, 9, 50, inverted=True).encode(3, 0xABCDEF) == 0x1FFFFFFEA8642000
    True
    """

    type_shift: int
    type_bits: int
    offset_shift: int
    offset_bits: int
    inverted: bool = False
    """The offset is stored inverted, so that its top bits point nowhere in RAM (the L1TF guard)."""
    bits: tuple[EntryBit, ...] = ()
    """The flags of a swap entry."""
    offset_mask: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "offset_mask", ((1 << self.offset_bits) - 1) << self.offset_shift)

    def encode(self, type: int, offset: int) -> int:
        """The entry without flags.  ValueError: type or offset do not fit."""
        if not 0 <= type < 1 << self.type_bits:
            raise ValueError(f"swap type {type} is not in 0..{(1 << self.type_bits) - 1}")
        if not 0 <= offset < 1 << self.offset_bits:
            raise ValueError(f"swap offset {offset:#x} needs more than {self.offset_bits} bits")
        field = offset << self.offset_shift
        return (type << self.type_shift) | (field ^ self.offset_mask if self.inverted else field)

    def type_of(self, entry: int) -> int:
        """The swap file's number."""
        return (entry >> self.type_shift) & ((1 << self.type_bits) - 1)

    def offset_of(self, entry: int) -> int:
        """The slot's number, pages."""
        field = entry ^ self.offset_mask if self.inverted else entry
        return (field & self.offset_mask) >> self.offset_shift
