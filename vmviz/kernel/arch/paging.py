"""Paging as data: the entry layout and swap encoding of one architecture's page tables.

A `PagingMode` is a table of numbers with the arithmetic that every architecture shares: it splits an address
into indexes (`Geometry`), names the bits of an entry and puts a frame number into it.  What differs between
architectures is data (`x86_modes`, `arm64`, `riscv`), so that one walk, one pane and one test serve them all.

Levels carry Linux's names from the top down; a folded level does not appear.  Addresses and sizes are in
bytes, frame numbers (``pfn``) in pages, entries are unsigned integers as they lie in memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from vmviz.kernel.arch.geometry import Geometry, UnknownNameError
from vmviz.kernel.arch.layout import EntryBit, Masks, SwapLayout
from vmviz.kernel.errors import UnsupportedError

__all__ = ["PagingMode", "UnknownNameError"]


@attrs.frozen(eq=False, repr=False, kw_only=True)
class PagingMode(Geometry):
    """One paging mode of one architecture, with Linux's conventions for its software bits.

    Models what ``arch/*/include/asm/pgtable*.h`` defines.

    >>> from vmviz.kernel.arch import get_mode
    >>> mode = get_mode("x86-64-4l")
    >>> mode.split(0x7F1234567ABC)
    (254, 72, 418, 359, 2748)
    >>> mode.decode(0x8000000001234867)
    ('P', 'RW', 'US', 'A', 'D', 'SOFTDIRTY', 'NX')
    >>> hex(mode.pte_pfn(0x8000000001234867))
    '0x1234'
    """

    pfn_shift: int
    """The bit of an entry where the frame number begins."""
    pfn_bits: int
    pfn_high: tuple[int, int] = (0, 0)
    """Bit and width of a second field with the top bits of the frame number (arm64); width 0: none."""
    phys_bits: int = 52
    """Width of a physical address that the architecture defines."""
    bits: tuple[EntryBit, ...]
    masks: Masks
    invert_not_present: bool = False
    """Frame numbers of non-empty entries without the present bit are stored inverted (the L1TF guard)."""
    swap: SwapLayout | None = None

    pfn_mask: int = attrs.field(init=False)
    """Every bit of a base-page entry that holds the frame number."""
    _entry_mask: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        high_bit, high_bits = self.pfn_high
        field = (((1 << self.pfn_bits) - 1) << self.pfn_shift) | (((1 << high_bits) - 1) << high_bit)
        object.__setattr__(self, "pfn_mask", field)
        object.__setattr__(self, "_entry_mask", (1 << (8 * self.entry_bytes)) - 1)

    def pte_none(self, entry: int) -> bool:
        """Whether the entry is empty (pte_none, pmd_none: stray A and D bits of an erratum are ignored)."""
        return entry & ~self.masks.none_ignores == 0

    def pte_present(self, entry: int, level: str = "pte") -> bool:
        """Whether the entry points to memory: present, or PROT_NONE (pte_present, pmd_present)."""
        m = self.masks
        # A huge leaf that is being split has lost the present bit, but not its frame.
        extra = m.huge_set if level != "pte" and level in self.leaf_levels else 0
        return entry & (m.present | m.protnone | extra) != 0

    def pte_protnone(self, entry: int) -> bool:
        """Whether the entry is a PROT_NONE or NUMA-hint mapping: its frame is kept, access faults."""
        return entry & (self.masks.present | self.masks.protnone) == self.masks.protnone != 0

    def is_swap(self, entry: int, level: str = "pte") -> bool:
        """Whether the entry is neither empty nor present: swap, migration or marker (is_swap_pte)."""
        return not self.pte_none(entry) and not self.pte_present(entry, level)

    def is_leaf(self, entry: int, level: str = "pte") -> bool:
        """Whether the entry maps memory itself (pmd_leaf, pud_leaf): at the last level, every present one.

        >>> from vmviz.kernel.arch import get_mode
        >>> mode = get_mode("x86-64-4l")
        >>> mode.is_leaf(0x8000000007A008E7, "pmd"), mode.is_leaf(0x6AF0067, "pmd")
        (True, False)
        """
        m = self.masks
        if not self.pte_present(entry, level) or level not in self.leaf_levels:
            return False
        return level == "pte" or entry & m.huge_set != 0 or (m.huge_clear != 0 and entry & m.huge_clear == 0)

    def is_table(self, entry: int, level: str) -> bool:
        """Whether the entry points to a table of the next level."""
        return level != "pte" and self.pte_present(entry, level) and not self.is_leaf(entry, level)

    def pte_write(self, entry: int) -> bool:
        """Whether the entry alone lets stores through."""
        return entry & self.masks.write != 0

    def pte_user(self, entry: int) -> bool:
        """Whether the entry alone lets user mode in."""
        return entry & self.masks.user != 0

    def pte_exec(self, entry: int) -> bool:
        """Whether the entry alone lets instructions be fetched (always, where there is no such bit)."""
        m = self.masks
        return entry & m.no_exec == 0 and (m.exec == 0 or entry & m.exec != 0)

    def pte_young(self, entry: int) -> bool:
        """Whether the entry is marked accessed."""
        return entry & self.masks.accessed != 0

    def pte_dirty(self, entry: int) -> bool:
        """Whether the entry is dirty, by its bit or (arm64) by being writable and not read-only."""
        m = self.masks
        return entry & m.dirty != 0 or self._hw_dirty(entry)

    def _hw_dirty(self, entry: int) -> bool:
        m = self.masks
        return m.hw_dirty_set != 0 and entry & (m.hw_dirty_set | m.hw_dirty_clear) == m.hw_dirty_set

    def pte_special(self, entry: int) -> bool:
        """Whether the page behind has no struct page to count (pte_special)."""
        return entry & self.masks.special != 0

    def pte_soft_dirty(self, entry: int) -> bool:
        """Whether the entry was written since clear_refs; false where the mode has no such bit."""
        return entry & self.masks.soft_dirty != 0

    def pte_uffd_wp(self, entry: int) -> bool:
        """Whether userfaultfd write-protects the entry; false where the mode has no such bit."""
        return entry & self.masks.uffd_wp != 0

    def leaf_pfn_mask(self, entry: int, level: str = "pte") -> int:
        """The bits of ``entry`` that hold the frame number: a huge leaf has other uses for the low ones."""
        if level == "pte" or not self.is_leaf(entry, level):
            return self.pfn_mask
        order = self.level(level).shift - self.page_shift
        low = ((1 << order) - 1) << self.pfn_shift
        return self.pfn_mask & ~low

    def _inverted(self, entry: int) -> bool:
        return self.invert_not_present and entry != 0 and entry & self.masks.present == 0

    def pte_pfn(self, entry: int, level: str = "pte") -> int:
        """The frame number in the entry; meaningful for present entries only (see `is_swap`).

        >>> from vmviz.kernel.arch import get_mode
        >>> hex(get_mode("x86-64-4l").pte_pfn(0xFFFFFEFFF8320))  # PROT_NONE: stored inverted
        '0x10007'
        """
        field = entry & self.leaf_pfn_mask(entry, level)
        if self._inverted(entry):
            field ^= self.leaf_pfn_mask(entry, level)
        high_bit, high_bits = self.pfn_high
        pfn = (field >> self.pfn_shift) & ((1 << self.pfn_bits) - 1)
        return pfn | (((field >> high_bit) & ((1 << high_bits) - 1)) << self.pfn_bits)

    def pte_flags(self, entry: int, level: str = "pte") -> int:
        """The entry without its frame number, or without its swap offset."""
        if self.swap is not None and self.is_swap(entry, level):
            return entry & ~self.swap.offset_mask
        return entry & ~self.leaf_pfn_mask(entry, level)

    def mk_pte(self, pfn: int, prot: int, level: str = "pte") -> int:
        """The entry that maps ``pfn`` with the bits of ``prot`` (pfn_pte, pfn_pmd).

        >>> from vmviz.kernel.arch import get_mode
        >>> hex(get_mode("x86-64-4l").mk_pte(0xFE000, 0x8000000000000237))
        '0x80000000fe000237'
        """
        mask = self.leaf_pfn_mask(prot, level)
        high_bit, high_bits = self.pfn_high
        field = (pfn & ((1 << self.pfn_bits) - 1)) << self.pfn_shift
        field |= ((pfn >> self.pfn_bits) & ((1 << high_bits) - 1)) << high_bit
        if self._inverted(prot):
            field = ~field
        return (field & mask) | prot

    def pte_modify(self, entry: int, newprot: int, level: str = "pte") -> int:
        """The entry with its protection replaced, its frame and state kept (pte_modify, pmd_modify).

        Going to or from PROT_NONE turns the frame number over where the mode stores it inverted.

        >>> from vmviz.kernel.arch import get_mode
        >>> hex(get_mode("x86-64-4l").pte_modify(0x80000000FE000237, 0x120))
        '0xfffff01fff330'
        """
        m = self.masks
        old = entry | m.dirty if self._hw_dirty(entry) else entry
        keep = m.change_keeps if level == "pte" else m.huge_change_keeps
        new = (old & keep) | (newprot & self._entry_mask & ~keep)
        if self._inverted(entry) != self._inverted(new):
            new ^= self.leaf_pfn_mask(entry, level)
        return new

    def _swap(self) -> SwapLayout:
        if self.swap is None:
            raise UnsupportedError(f"{self.name} has no swap entries")
        return self.swap

    def swp_entry(self, type: int, offset: int, names: Iterable[str] = ()) -> int:
        """The not-present entry for slot ``offset`` of swap file ``type``, with the swap bits in ``names``.

        ValueError: type or offset do not fit.  UnsupportedError: the mode has no swap.

        >>> from vmviz.kernel.arch import get_mode
        >>> hex(get_mode("arm64-4k-48").swp_entry(1, 0x1234))
        '0x123408'
        """
        layout = self._swap()
        entry = layout.encode(type, offset)
        known = {b.name: b for b in layout.bits}
        for name in names:
            if name not in known:
                raise UnknownNameError(f"swap entry bit of {self.name}", name, known)
            entry |= known[name].mask
        return entry

    def swp_type(self, entry: int) -> int:
        """The swap file number in a swap entry."""
        return self._swap().type_of(entry)

    def swp_offset(self, entry: int) -> int:
        """The slot number in a swap entry, pages."""
        return self._swap().offset_of(entry)

    def entry_bits(self, entry: int, level: str = "pte") -> tuple[EntryBit, ...]:
        """The bits and fields that have a meaning in this entry of this level, lowest bit first."""
        if self.swap is not None and self.is_swap(entry, level):
            return self.swap.bits
        here = "leaf" if self.is_leaf(entry, level) else "table"
        when = "present" if entry & self.masks.present else "absent"
        return tuple(b for b in self.bits if b.applies(level, here, when))

    def decode(self, entry: int, level: str = "pte") -> tuple[str, ...]:
        """Names of the set bits in bit order; a field of several bits reads ``NAME=value`` unless 0.

        >>> from vmviz.kernel.arch import get_mode
        >>> get_mode("x86-64-4l").decode(0x120), get_mode("x86-64-4l").decode(0)
        (('A', 'PROTNONE'), ())
        """
        self.level_no(level)
        if entry == 0:
            return ()
        return tuple(b.show(entry) for b in self.entry_bits(entry, level) if entry & b.mask)

    def encode(self, names: Iterable[str], pfn: int = 0, level: str = "pte") -> int:
        """The entry with these bits (as `decode` writes them) and this frame number.

        UnknownNameError: no such bit at this level.  ValueError: a field's value or the frame does not fit.

        >>> from vmviz.kernel.arch import get_mode
        >>> hex(get_mode("x86-64-4l").encode(["P", "US", "A", "SPECIAL", "NX", "PKEY=3"], 0x2000))
        '0x9800000002000225'
        """
        self.level_no(level)
        if not 0 <= pfn < 1 << (self.pfn_bits + self.pfn_high[1]):
            raise ValueError(f"{self.name}: frame number {pfn:#x} does not fit into an entry")
        known: dict[str, EntryBit] = {}
        for bit in self.bits:
            if not bit.levels or level in bit.levels:
                known.setdefault(bit.name, bit)
        prot = 0
        for item in names:
            name, _, value = item.partition("=")
            if name not in known:
                raise UnknownNameError(f"entry bit of {self.name}", name, known)
            prot |= known[name].put(value)
        if (pfn << self.pfn_shift) & self.pfn_mask & ~self.leaf_pfn_mask(prot, level):
            raise ValueError(f"{self.name}: frame number {pfn:#x} is not aligned to a {level} leaf")
        return self.mk_pte(pfn, prot, level)

    def fmt_entry(self, entry: int, level: str = "pte") -> str:
        """The entry in words: ``--`` when empty, else frame or swap slot and the bits' names.

        >>> from vmviz.kernel.arch import get_mode
        >>> mode = get_mode("x86-64-4l")
        >>> mode.fmt_entry(0x8000000002000225)
        'pfn 0x2000 P US A SPECIAL NX'
        >>> mode.fmt_entry(0x07FFFFFFFFDB9600), mode.fmt_entry(0)
        ('swap type 0 offset 0x1234', '--')
        """
        if self.pte_none(entry):
            return "--"
        names = self.decode(entry, level)
        if self.is_swap(entry, level):
            where = "not present"
            if self.swap is not None:
                where = f"swap type {self.swp_type(entry)} offset {self.swp_offset(entry):#x}"
        else:
            kind = "table" if self.is_table(entry, level) else "pfn"
            where = f"{kind} {self.pte_pfn(entry, level):#x}"
        return " ".join((where, *names))
