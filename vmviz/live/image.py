"""`ProcessImage`: one address space as plain columns, the common form of a live process and of a snapshot.

Nothing here is specific to an operating system.  Addresses and sizes are in bytes, counters in kB as in
/proc, ``vpn`` is an address divided by the page size, ``pfn`` a page frame number.  VMAs are columns, because
a process may have 65,530 of them; a `VmaRecord` is made when one is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, overload

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vmviz.kernel.value import Value

U64: TypeAlias = NDArray[np.uint64]

VM_PFNMAP = 0x400
PM_PFRAME = (1 << 55) - 1
PM_SOFT_DIRTY = 1 << 55
PM_MMAP_EXCLUSIVE = 1 << 56
PM_UFFD_WP = 1 << 57
PM_FILE = 1 << 61
PM_SWAP = 1 << 62
PM_PRESENT = 1 << 63
KPF_NOPAGE = 1 << 20

# The smaps lines that are no amounts of memory.
NOT_KB = frozenset({"THPeligible", "ProtectionKey"})


def column(values: ArrayLike) -> U64:
    """Return ``values`` as a read-only uint64 column.

    >>> column([1, 2]).flags.writeable
    False
    """
    out = np.ascontiguousarray(values, dtype=np.uint64)
    if out is values and out.flags.writeable:
        out = out.view()
    out.flags.writeable = False
    return out


def _optional_column(values: ArrayLike | None) -> U64 | None:
    return None if values is None else column(values)


def _columns(values: Mapping[str, ArrayLike]) -> dict[str, U64]:
    return {name: column(value) for name, value in values.items()}


def _same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.array_equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    return a == b


class _Columns(Value):
    """A value with columns among its fields, which are equal where all their rows are."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if self.__class__ is not other.__class__:
            return NotImplemented
        cls: Any = self.__class__
        names = [field.name for field in attrs.fields(cls)]
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)


@attrs.frozen(eq=False, repr=False)
class TextColumn(_Columns):
    """A column of texts, each distinct text kept once: ``values[ids[i]]`` is the text of row i.

    >>> TextColumn.of(["r--p", "rw-p", "r--p"])[2]
    'r--p'
    """

    ids: U64 = attrs.field(converter=column)
    values: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> TextColumn:
        """Make a column from one text per row."""
        index: dict[str, int] = {}
        ids = [index.setdefault(text, len(index)) for text in texts]
        return cls(np.array(ids, dtype=np.uint64), tuple(index))

    def take(self, rows: NDArray[np.bool_]) -> TextColumn:
        """The column of the rows that a mask chooses, with the texts that these use."""
        ids = self.ids[rows].astype(np.int64)
        used = np.bincount(ids, minlength=len(self.values)) > 0
        rank = np.cumsum(used) - 1
        return TextColumn(
            rank[ids].astype(np.uint64),
            tuple(text for text, wanted in zip(self.values, used.tolist(), strict=True) if wanted),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> str:
        return self.values[int(self.ids[row])]


@attrs.frozen(eq=False, repr=False)
class VmaRecord(Value):
    """One line of /proc/PID/maps with what smaps adds (fs/proc/task_mmu.c: show_map_vma, show_smap).

    ``start``, ``end`` and ``offset`` are bytes; ``dev`` is "major:minor" in hex as printed; ``path`` is ""
    for an anonymous VMA; ``vm_flags_codes`` are smaps' two-letter codes; ``smaps_kb`` has smaps' amounts in
    kB. ``protection_key`` is None where the CPU has no protection keys.
    """

    start: int
    end: int
    perms: str
    offset: int
    dev: str
    inode: int
    path: str
    vm_flags: int
    vm_flags_codes: str
    smaps_kb: dict[str, int] = attrs.field(factory=dict)
    protection_key: int | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def is_pfnmap(self) -> bool:
        """Whether VM_PFNMAP is set: pagemap then hides every entry."""
        return bool(self.vm_flags & VM_PFNMAP)


@attrs.frozen(eq=False, repr=False)
class VmaTable(_Columns, Sequence[VmaRecord]):
    """The VMAs of a process in address order, as columns; also a sequence of `VmaRecord`.

    ``smaps`` has every numeric smaps line by its name (kB, except those in `NOT_KB`); it is empty when smaps
    was not readable.
    """

    start: U64 = attrs.field(converter=column)
    end: U64 = attrs.field(converter=column)
    offset: U64 = attrs.field(converter=column)
    inode: U64 = attrs.field(converter=column)
    vm_flags: U64 = attrs.field(converter=column)
    perms: TextColumn
    dev: TextColumn
    path: TextColumn
    codes: TextColumn
    smaps: dict[str, U64] = attrs.field(converter=_columns, factory=dict)

    @classmethod
    def of(cls, records: Sequence[VmaRecord]) -> VmaTable:
        """Make a table from records, whose ``smaps_kb`` must all have the same keys.

        >>> vma = VmaRecord(0x1000, 0x3000, "rw-p", 0, "00:00", 0, "[heap]", 0x73, "rd wr mr mw me")
        >>> table = VmaTable.of([vma])
        >>> table[0] == vma, len(table), table.find(0x2fff), table.find(0x3000)
        (True, 1, 0, None)
        """
        smaps = {key: [r.smaps_kb[key] for r in records] for key in (records[0].smaps_kb if records else ())}
        if records and records[0].protection_key is not None:
            smaps["ProtectionKey"] = [r.protection_key or 0 for r in records]
        return cls(
            start=[r.start for r in records],
            end=[r.end for r in records],
            offset=[r.offset for r in records],
            inode=[r.inode for r in records],
            vm_flags=[r.vm_flags for r in records],
            perms=TextColumn.of([r.perms for r in records]),
            dev=TextColumn.of([r.dev for r in records]),
            path=TextColumn.of([r.path for r in records]),
            codes=TextColumn.of([r.vm_flags_codes for r in records]),
            smaps=smaps,
        )

    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, index: int) -> VmaRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[VmaRecord]: ...
    def __getitem__(self, index: int | slice) -> VmaRecord | list[VmaRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        keys = self.smaps.get("ProtectionKey")
        return VmaRecord(
            start=int(self.start[index]),
            end=int(self.end[index]),
            perms=self.perms[index],
            offset=int(self.offset[index]),
            dev=self.dev[index],
            inode=int(self.inode[index]),
            path=self.path[index],
            vm_flags=int(self.vm_flags[index]),
            vm_flags_codes=self.codes[index],
            smaps_kb={name: int(values[index]) for name, values in self.smaps.items() if name not in NOT_KB},
            protection_key=None if keys is None else int(keys[index]),
        )

    def __iter__(self) -> Iterator[VmaRecord]:
        return (self[i] for i in range(len(self)))

    def find(self, address: int) -> int | None:
        """Return the row of the VMA that holds ``address`` (bytes), or None in a gap."""
        row = int(np.searchsorted(self.start, np.uint64(address), side="right")) - 1
        return row if row >= 0 and address < int(self.end[row]) else None

    def take(self, rows: NDArray[np.bool_]) -> VmaTable:
        """Return the table of the rows that the mask ``rows`` chooses."""
        return VmaTable(
            start=self.start[rows],
            end=self.end[rows],
            offset=self.offset[rows],
            inode=self.inode[rows],
            vm_flags=self.vm_flags[rows],
            perms=self.perms.take(rows),
            dev=self.dev.take(rows),
            path=self.path.take(rows),
            codes=self.codes.take(rows),
            smaps={name: values[rows] for name, values in self.smaps.items()},
        )


def _empty() -> U64:
    return column(np.empty(0, dtype=np.uint64))


@attrs.frozen(eq=False, repr=False)
class PageColumns(_Columns):
    """Every present or swapped page, in address order.

    ``entry`` is the raw pagemap word; ``pfn`` is 0 for a swapped page and where PFNs are hidden; ``flags``
    are kpageflags (0 for a row without a PFN) and ``count`` is kpagecount, each None if not readable.
    """

    vpn: U64 = attrs.field(converter=column, factory=_empty)
    entry: U64 = attrs.field(converter=column, factory=_empty)
    pfn: U64 = attrs.field(converter=column, factory=_empty)
    flags: U64 | None = attrs.field(converter=_optional_column, default=None)
    count: U64 | None = attrs.field(converter=_optional_column, default=None)

    def __len__(self) -> int:
        return len(self.vpn)

    @property
    def present(self) -> NDArray[np.bool_]:
        """The mask of rows with PM_PRESENT (bit 63)."""
        mask: NDArray[np.bool_] = (self.entry & np.uint64(PM_PRESENT)) != 0
        return mask

    @property
    def swapped(self) -> NDArray[np.bool_]:
        """The mask of rows with PM_SWAP (bit 62): swap, migration and marker entries."""
        mask: NDArray[np.bool_] = (self.entry & np.uint64(PM_SWAP)) != 0
        return mask

    def rows(self, start: int, end: int, page_size: int) -> slice:
        """Return the rows of the pages in [start, end), in bytes.

        >>> PageColumns([1, 2, 9], [1 << 63] * 3, [0] * 3).rows(0x2000, 0x9000, 4096)
        slice(1, 2, None)
        """
        first = np.searchsorted(self.vpn, np.uint64(start // page_size))
        last = np.searchsorted(self.vpn, np.uint64(-(-end // page_size)))
        return slice(int(first), int(last))


@attrs.frozen(eq=False, repr=False)
class ProcessImage(_Columns):
    """One process's address space at one moment, as far as the reader was allowed to see it.

    ``unknown_ranges`` are the byte ranges whose entries nobody could read (VM_PFNMAP VMAs, ranges beyond a
    limit): a page there is unknown, not absent.  ``counters`` are the kB lines of /proc/PID/status,
    ``layout`` the addresses in /proc/PID/stat (start_brk, start_stack, ...).  ``taken`` is whatever time text
    the caller gave. ``warnings`` state partial results, ``notes`` state what is left out on purpose;
    ``missing_right`` is "" when nothing was hidden.
    """

    pid: int
    name: str
    page_size: int
    vmas: VmaTable
    pages: PageColumns
    cmdline: tuple[str, ...] = ()
    kernel_release: str = ""
    taken: str | None = None
    pfns_visible: bool = False
    missing_right: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    counters: dict[str, int] = attrs.field(factory=dict)
    layout: dict[str, int] = attrs.field(factory=dict)
    unknown_ranges: tuple[tuple[int, int], ...] = ()

    def pages_of(self, vma: VmaRecord) -> slice:
        """Return the rows of ``pages`` that lie in ``vma``."""
        return self.pages.rows(vma.start, vma.end, self.page_size)


def pages_inside(vpn: U64, vmas: VmaTable, page_size: int) -> int:
    """Return how many pages lie inside VMAs that are not VM_PFNMAP, if these are in order and do not overlap."""
    low, high = _borders(vpn, vmas, page_size)
    return int((high - low).sum())


def inside_mask(vpn: U64, vmas: VmaTable, page_size: int) -> NDArray[np.bool_]:
    """Return which pages lie inside a VMA that is not VM_PFNMAP."""
    steps = np.zeros(len(vpn) + 1, dtype=np.int64)
    low, high = _borders(vpn, vmas, page_size)
    np.add.at(steps, low, 1)
    np.add.at(steps, high, -1)
    mask: NDArray[np.bool_] = np.cumsum(steps[:-1]) > 0
    return mask


def _borders(vpn: U64, vmas: VmaTable, page_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the VMAs that are not VM_PFNMAP begin and end among the pages, which are in order."""
    size = np.uint64(page_size)
    start, end = vmas.start, vmas.end
    if np.bitwise_or.reduce(vmas.vm_flags) & np.uint64(VM_PFNMAP):
        plain = (vmas.vm_flags & np.uint64(VM_PFNMAP)) == 0
        start, end = start[plain], end[plain]
    if not len(start):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # Few VMAs meet many sorted pages: find each border among the pages instead of each page among the VMAs.
    low = np.searchsorted(vpn, start // size)
    high = np.append(low[1:], len(vpn))  # where the next VMA adjoins; the others are searched for
    apart = np.flatnonzero(np.append(start[1:] != end[:-1], True))
    high[apart] = np.searchsorted(vpn, end[apart] // size)
    return low, high
