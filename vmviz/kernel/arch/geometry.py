"""The geometry of a paging mode: how an address falls apart into indexes, and which addresses there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

import attrs

from vmviz.kernel.arch.layout import Level
from vmviz.kernel.errors import VmvizError

Canonical = Literal["sign", "two roots", "flat"]
"""What the bits above ``va_bits`` may be: copies of the top bit; all zero (user root) or all one (kernel
root); only zero."""


class UnknownNameError(VmvizError, LookupError):
    """A name that the table does not have; ``nearest`` are the valid names that look most like it."""

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        choices = list(valid)
        by_fold = {c.casefold(): c for c in choices}
        close = difflib.get_close_matches(name.casefold(), list(by_fold), n=3, cutoff=0.6)
        self.kind = kind
        self.name = name
        self.nearest = tuple(by_fold[c] for c in close)
        hint = f"nearest: {', '.join(self.nearest)}" if self.nearest else f"valid: {', '.join(choices)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Geometry:
    """The levels of one paging mode and the arithmetic of its addresses.

    Models the ``pXd_index`` macros of ``include/linux/pgtable.h``.  Modes are equal when their names are.
    """

    name: str
    """Short name, the key in ``MODES``."""
    title: str
    """One line for people."""
    arch: str
    """``x86``, ``arm64``, ``riscv`` or ``teaching``."""
    levels: tuple[Level, ...]
    """Top to bottom."""
    page_shift: int
    va_bits: int
    entry_bytes: int
    task_size: int
    """One past the last user address, bytes (TASK_SIZE)."""
    map_window: int = attrs.field(default=attrs.Factory(lambda self: self.task_size, takes_self=True))
    """mmap without a higher hint stays below this address (DEFAULT_MAP_WINDOW)."""
    canonical: Canonical = "sign"
    leaf_levels: tuple[str, ...] = ("pte",)
    """Levels whose entries may map memory, top to bottom."""
    contiguous_sizes: tuple[int, ...] = ()
    """Sizes in bytes of runs of entries that a hint bit joins into one translation."""

    page_size: int = attrs.field(init=False)
    """Bytes of a base page."""
    page_mask: int = attrs.field(init=False)
    """``~(page_size - 1)`` in 64 bits (PAGE_MASK)."""
    _steps: tuple[tuple[int, int], ...] = attrs.field(init=False)
    _level_no: dict[str, int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        shift = self.page_shift
        for level in reversed(self.levels):
            if level.shift != shift:
                raise ValueError(f"{self.name}: level {level.name} begins at bit {level.shift}, not {shift}")
            shift += level.bits
        if shift != self.va_bits:
            raise ValueError(f"{self.name}: the levels cover {shift} bits, not {self.va_bits}")
        put = object.__setattr__
        put(self, "page_size", 1 << self.page_shift)
        put(self, "page_mask", (1 << 64) - (1 << self.page_shift))
        put(self, "_steps", tuple((lv.shift, lv.entries - 1) for lv in self.levels))
        put(self, "_level_no", {lv.name: no for no, lv in enumerate(self.levels)})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Geometry) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)

    def level(self, name: str) -> Level:
        """The level called ``name``; UnknownNameError names the ones that there are.

        >>> from vmviz.kernel.arch import get_mode
        >>> get_mode("sv39").level("pmd").span
        2097152
        """
        return self.levels[self.level_no(name)]

    def level_no(self, name: str) -> int:
        """The number of the level called ``name``: 0 at the top."""
        try:
            return self._level_no[name]
        except KeyError:
            raise UnknownNameError(f"level of {self.name}", name, self._level_no) from None

    def table_bytes(self, level: str) -> int:
        """Bytes of one table of ``level`` (a PAE root has 32, not a page)."""
        return self.level(level).entries * self.entry_bytes

    @property
    def leaf_sizes(self) -> tuple[int, ...]:
        """Bytes that one leaf entry can map, smallest first.

        >>> from vmviz.kernel.arch import get_mode
        >>> get_mode("sv48").leaf_sizes
        (4096, 2097152, 1073741824, 549755813888)
        """
        return tuple(lv.span for lv in reversed(self.levels) if lv.name in self.leaf_levels)

    def tables_for(self, start: int, size: int) -> tuple[int, ...]:
        """How many tables of each level map [start, start + size) with base pages; top to bottom.

        >>> from vmviz.kernel.arch import get_mode
        >>> get_mode("x86-64-4l").tables_for(0, 1 << 30)
        (1, 1, 1, 512)
        """
        if size <= 0:
            return (0,) * len(self.levels)
        last = start + size - 1
        tops = [lv.shift + lv.bits for lv in self.levels]
        return tuple((last >> top) - (start >> top) + 1 for top in tops)

    def split(self, va: int) -> tuple[int, ...]:
        """The index at every level, top to bottom, then the offset in the page, bytes.

        Bits above ``va_bits`` are not looked at: ask `is_canonical`.
        """
        return (*[(va >> shift) & mask for shift, mask in self._steps], va & (self.page_size - 1))

    def index(self, va: int, level_no: int) -> int:
        """The index of ``va`` in its table of level number ``level_no`` (pgd_index, pmd_index, ...)."""
        shift, mask = self._steps[level_no]
        return (va >> shift) & mask

    def join(self, indexes: Iterable[int], offset: int = 0, *, high: bool = False) -> int:
        """The canonical address of these indexes, top to bottom: `split` taken back.

        ``high`` chooses the kernel's root where there are two (arm64); elsewhere the indexes alone decide.
        ValueError: an index or the offset does not fit its level, or their number is wrong.

        >>> from vmviz.kernel.arch import get_mode
        >>> hex(get_mode("x86-64-4l").join((273, 0, 0, 0)))
        '0xffff888000000000'
        """
        va = offset
        if not 0 <= offset < self.page_size:
            raise ValueError(f"{self.name}: offset {offset} is not within a page of {self.page_size} bytes")
        for level, index in zip(self.levels, indexes, strict=True):
            if not 0 <= index < level.entries:
                raise ValueError(f"{self.name}: {level.name} index {index} is not in 0..{level.entries - 1}")
            va |= index << level.shift
        if (high and self.canonical == "two roots") or (
            self.canonical == "sign" and va >> (self.va_bits - 1)
        ):
            va |= (1 << 64) - (1 << self.va_bits)
        return va

    @property
    def hole(self) -> tuple[int, int] | None:
        """The non-canonical addresses as [start, end); None for a flat address space.

        >>> from vmviz.kernel.arch import get_mode
        >>> [hex(va) for va in get_mode("x86-64-4l").hole]
        ['0x800000000000', '0xffff800000000000']
        """
        if self.canonical == "flat":
            return None
        below = 1 << (self.va_bits - (self.canonical == "sign"))
        return below, (1 << 64) - below

    def is_canonical(self, va: int) -> bool:
        """Whether the processor accepts ``va`` for translation at all."""
        hole = self.hole
        if hole is None:
            return 0 <= va < 1 << self.va_bits
        return 0 <= va < hole[0] or hole[1] <= va < 1 << 64
