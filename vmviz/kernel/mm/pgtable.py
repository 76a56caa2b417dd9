"""The table arena: all page tables of a machine in one dense array (models include/linux/pgtable.h,
arch/*/mm/pgtable.c).

Every table is one row of ``uint64[rows, width]``; entries hold true frame numbers.  ``pfn_of`` tells the frame
of a row, and the frame itself its row (``row_of``): in the field that is the mapping of other frames, as struct
ptdesc lies over struct page.  A *slot* is the flat number of an entry: ``row * width + index``.
Scalar steps go through ``flat``, a view of the same memory; it is made again when the arena grows, so nobody
keeps it across an allocation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arch.paging import PagingMode
from ..arch.x86 import _PAGE_TABLE, PTE_PFN_MASK
from ..trace.bulk import Bulk, CountLane, Ramp, SetLane
from ..trace.journal import Journal
from ..trace.pieces import LONG, Lines
from ..trace.store import Column, Counters, Index, Keyed, cells_of, copy, flip, index_of, lazy_zeros, put
from .frames import Frames
from .page_alloc import FREE, TABLE, OutOfMemory
from .page_flags import PG_PGTABLE
from .pagewalk import PageWalk
from .pgtable_rows import RowFrames


class TableArena(PageWalk):
    """All page tables, as a store of entries.

    Reading: ``arena.flat[slot]``.  Writing: only ``journal.write(arena, slot, entry)`` and lanes over
    ``arena``.

    ``line[row]`` is the first entry of a table all of whose entries are frames in line with equal bits (as a driver
    maps its device), 0 where that is not known: derived, so that such tables need not be read to be cleared.
    ``huge`` names the slots of huge leaves: each has the row of the table that is kept for the day it is
    split (`pgtable_trans_huge_deposit`), or `NO_DEPOSIT`.
    """

    name = "pgtable"

    def __init__(self, mode: PagingMode, frames: Frames, journal: Journal, rows: int = 64) -> None:
        self.mode = mode
        self.frames = frames
        self.journal = journal
        self.bits = max(level.bits for level in mode.levels)
        self.width = 1 << self.bits
        self.rows: NDArray[np.uint64] = lazy_zeros(rows * self.width, np.uint64).reshape(rows, self.width)
        self.entries: NDArray[np.uint64] = self.rows.reshape(-1)
        self.flat = self.rows.data.cast("B").cast("Q")
        self.line: NDArray[np.uint64] = np.zeros(rows, np.uint64)
        self._line = self.line.data
        # The last-level table that `near_slot` was asked for last: va >> 21 (-1: none), the root, its row and slot.
        self.near, self.near_pgd, self.near_row, self.near_base = -1, 0, 0, 0
        self.pfn_of = RowFrames(rows)
        self.level_of = Column("pgtable.level", rows, np.int8)
        self.row_of = frames.mapping  # row + 1; 0: not a table
        self.huge = Keyed("pgtable.huge")
        self.upper = tuple((level.shift, level.entries - 1) for level in mode.levels[:-1])
        self.leaf_mask = mode.levels[-1].entries - 1
        self.page_shift = mode.page_shift
        for store in (self, self.pfn_of, self.level_of, self.huge):
            journal.register(store)

    # -- the store

    def get(self, slot: int, /) -> int:
        """The entry in a slot."""
        return self.flat[slot]

    def put(self, slot: int, value: int, /) -> None:
        """Set one entry; only the journal calls this."""
        self.flat[slot] = value
        row = slot >> self.bits
        self._line[row] = 0
        if row != self.near_row:
            self.near = -1

    def near_slot(self, pgd: int, va: int) -> int:
        """`lookup`, quick where ``va`` lies in the table of the last time.

        That table is forgotten as soon as an entry of another one changes: it might be one on the way to it.
        """
        if self.near == va >> 21 and self.near_pgd == pgd:
            return self.near_base | va >> 12 & 511
        slot = self.lookup(pgd, va)
        if slot >= 0:
            self.near, self.near_pgd, self.near_row, self.near_base = va >> 21, pgd, slot >> 9, slot & -512
        return slot

    def put_many(self, index: Index, values: Any) -> None:
        """Set many entries, for a `Ramp` or `Lines` those of neighbouring slots; only lanes call this."""
        self.near = -1
        if not isinstance(index, slice):
            put(self.entries, index, values)
            self.line[cells_of(index) >> self.bits] = 0
            return
        low, high = index.start >> self.bits, ((index.stop - 1) >> self.bits) + 1
        self.line[low:high] = 0
        if isinstance(values, Ramp | Lines):
            values.fill(self.entries[index])
            self._learn(index.start, values)
        else:
            self.entries[index] = values

    def _learn(self, slot: int, values: Ramp | Lines) -> None:
        """Note the tables that are filled by the values from ``slot`` on as in line, where they are."""
        low, high = (slot + self.width - 1) >> self.bits, (slot + values.n) >> self.bits
        if low >= high:
            return
        if isinstance(values, Ramp):
            first = values.first + (((low << self.bits) - slot) << 12)
            self.line[low:high] = self.line_of(first, high - low)
        else:
            self.line[low:high] = values.firsts_at((low << self.bits) - slot, high - low, self.width)

    def flip_many(self, index: Index, bits: Any) -> None:
        """Turn bits of many entries over; only lanes call this."""
        self.near = -1
        flip(self.entries, index, bits)
        if not isinstance(index, slice) or isinstance(bits, np.ndarray) or bits & PTE_PFN_MASK:
            self.line[cells_of(index) >> self.bits] = 0
            return
        first, end = index.start >> self.bits, ((index.stop - 1) >> self.bits) + 1
        low, high = (index.start + self.width - 1) >> self.bits, index.stop >> self.bits
        if low < high:
            line = self.line[low:high]
            np.bitwise_xor(line, np.uint64(bits), out=line, where=line != 0)
        self.line[first : min(low, end)] = self.line[max(high, first) : end] = 0

    def copy_many(self, index: Index, source: Index, drop: int) -> None:
        """Fill entries with what others hold, but for the bits ``drop``; only lanes call this."""
        self.near = -1
        copy(self.entries, index, source, drop)
        self.line[cells_of(index) >> self.bits if not isinstance(index, slice) else self._rows(index)] = 0
        if isinstance(index, slice) and isinstance(source, slice) and not drop & PTE_PFN_MASK:
            low, high = (index.start + self.width - 1) >> self.bits, index.stop >> self.bits
            shift = source.start - index.start
            if low < high and not shift % self.width:
                known = self.line[low + (shift >> self.bits) : high + (shift >> self.bits)]
                self.line[low:high] = known & ~np.uint64(drop)

    def _rows(self, index: slice) -> slice:
        """The rows that neighbouring slots lie in."""
        return slice(index.start >> self.bits, ((index.stop - 1) >> self.bits) + 1)

    def lines(self, slot: int, n: int) -> Lines | None:
        """``n`` entries from ``slot`` on as runs of frames in line; None where these are not `LONG` on average.

        Tables that are known to be in line are not read; the runs are the same as if they were, because what is
        derived must not show in records.
        """
        low, high = (slot + self.width - 1) >> self.bits, (slot + n) >> self.bits
        if low >= high or not self.line[low:high].all():
            lines = Lines.of(self.entries[slot : slot + n])
            if lines is not None:
                self._learn(slot, lines)
            return lines
        head, tail = (low << self.bits) - slot, slot + n - (high << self.bits)
        parts = [Lines.of_tables(self.line[low:high], self.width)]
        for at, length in ((0, head), (n - tail, tail)):
            if length:
                edge = Lines.of(self.entries[slot + at : slot + at + length], long=1)
                assert edge is not None
                parts.insert(0 if at == 0 else len(parts), edge)
        joined = Lines.joined(parts)
        return joined if len(joined.sizes) * LONG <= n else None

    def hang(self, slot: int, to: int, n: int, entries: Any) -> None:
        """Let ``n`` entries of one table go from ``slot`` on to the empty ones from ``to`` on: ``entries`` are they, a
        number where it is one; only packed records call this.
        """
        if n == 1:
            self.flat[slot], self.flat[to] = 0, entries
        else:
            self.entries[slot : slot + n] = 0
            self.entries[to : to + n] = entries
        self._line[slot >> self.bits] = self._line[to >> self.bits] = 0
        self.near = -1

    def clear_few(self, slot: int, n: int) -> None:
        """Clear ``n`` (at most 64) entries of one table; only packed records call this."""
        if n == 1:
            self.flat[slot] = 0
        else:
            self.flat[slot : slot + n] = _ZEROS[:n]
        self._line[slot >> self.bits] = 0

    def fill_few(self, slot: int, n: int, first: int) -> None:
        """Set ``n`` entries of one table to frames in line; only packed records call this."""
        flat = self.flat
        for i in range(n):
            flat[slot + i] = first + (i << 12)
        self._line[slot >> self.bits] = 0

    def line_of(self, first: int, tables: int) -> NDArray[np.uint64]:
        """What ``line`` is for neighbouring tables with frames in line from the entry ``first`` on."""
        return (Ramp.steps(tables) << np.uint64(self.bits)) + np.uint64(first)

    def serial(self) -> bytes:
        """The non-empty entries by table frame, so that the rows in use do not matter."""
        out = []
        for pfn, row in sorted((self.pfn_of.flat[r], r) for r in np.flatnonzero(self.pfn_of.array).tolist()):
            where = np.flatnonzero(self.rows[row])
            out.append(b"%d:%d:" % (pfn, len(where)) + where.astype("<i2").tobytes())
            out.append(self.rows[row][where].astype("<u8").tobytes())
        return b"".join(out)

    # -- tables

    def alloc_table(self, level: int) -> int:
        """Allocate an empty table for ``level`` (0 is the pgd) and return its row (`pte_alloc_one` and its
        like).

        Raises `OutOfMemory` when no frame is free.
        """
        row = self.pfn_of.lowest_free()
        if row < 0:
            self._grow()
            row = self.pfn_of.lowest_free()
        pfn = self.frames.alloc_page(TABLE, PG_PGTABLE, row + 1)
        j = self.journal
        j.write(self.pfn_of, row, pfn)
        j.write(self.level_of, row, level)
        return row

    def free_table(self, row: int) -> None:
        """Give an empty table's frame back (`pte_free_tlb` and its like)."""
        pfn = self.pfn_of.flat[row]
        j = self.journal
        j.write(self.pfn_of, row, 0)
        if self.level_of.flat[row]:
            j.write(self.level_of, row, 0)
        self.frames.free_page(pfn)

    def hang_tables(
        self,
        slots: NDArray[np.int64],
        pfns: NDArray[np.int64],
        addresses: NDArray[np.uint64],
        counters: Counters,
    ) -> None:
        """Make several tables of one level in free frames, and hang them into the empty entries ``slots`` of
        their parents: as many `pte_alloc_one`, as one record.

        ``addresses`` (bytes) are the first ones that the tables are for.
        """
        frames, n = self.frames, len(slots)
        while self.pfn_of.nr_free() < n:
            self._grow()
        rows = self.pfn_of.take_lowest(n)
        level = int(self.level_of.flat[int(slots[0]) >> self.bits]) + 1
        at, row = index_of(pfns), index_of(rows)
        hung = (pfns.astype(np.uint64) << np.uint64(12)) | np.uint64(_PAGE_TABLE)
        lanes = (
            SetLane(frames.refcount, at, 0, 1),
            SetLane(frames.flags, at, 0, PG_PGTABLE),
            SetLane(self.row_of, at, 0, rows + 1),
            SetLane(frames.states, at, FREE, TABLE),
            SetLane(self.pfn_of, row, 0, pfns),
            SetLane(self.level_of, row, 0, level),
            SetLane(self, index_of(slots), 0, hung),
            CountLane(counters, "pgtables", 4096),
        )
        name = ALLOC_NAMES[self.mode.levels[level].name]
        self.journal.bulk(Bulk(name, n, lanes, address=int(addresses[0]), addresses=addresses))

    def _grow(self) -> None:
        """Twice as many rows; those that are not used take no memory yet."""
        old = self.rows
        self.rows = lazy_zeros(2 * len(old) * self.width, np.uint64).reshape(2 * len(old), self.width)
        self.rows[: len(old)] = old
        self.entries = self.rows.reshape(-1)
        self.flat = self.rows.data.cast("B").cast("Q")
        line = np.zeros(len(self.rows), np.uint64)
        line[: len(old)] = self.line
        self.line, self._line = line, line.data
        self.pfn_of.grow(len(self.rows))
        level = np.zeros(len(self.rows), np.int8)
        level[: len(old)] = self.level_of.array
        self.level_of.array, self.level_of.flat = level, level.data

    # -- allocating the way to an entry

    def ensure(self, pgd: int, va: int, counters: Any, *, leaf: bool = True) -> int:
        """The slot for ``va``, with the tables on the way allocated (`pte_alloc`); ``counters`` gets
        ``pgtables``.

        Without ``leaf`` the last level's table is left out, as a fault does it until it has something to map:
        then the slot is that of the entry for this table.

        Raises `OutOfMemory` when no frame is free; tables made before that stay, as they do in the kernel.
        """
        slot = self.lookup(pgd, va)
        if slot >= 0:
            return slot
        return self.ensure_level(pgd, va, counters, len(self.upper) - (not leaf))

    def ensure_level(self, pgd: int, va: int, counters: Any, level: int) -> int:
        """The slot for ``va`` in its table of ``level`` (0 is the root), with the tables down to it
        allocated.
        """
        row = pgd
        j = self.journal
        for n, (shift, mask) in enumerate(self.upper[:level]):
            slot = (row << self.bits) | ((va >> shift) & mask)
            entry = self.flat[slot]
            if entry:
                row = self.row_of.flat[(entry & PTE_PFN_MASK) >> 12] - 1
                continue
            name = ALLOC_NAMES[self.mode.levels[n + 1].name]
            j.enter(name, ("address", va))
            try:
                row = self.alloc_table(n + 1)
            except OutOfMemory:
                j.leave(name, "ENOMEM")
                raise
            j.write(self, slot, (self.pfn_of.flat[row] << 12) | _PAGE_TABLE)
            j.add(counters, "pgtables", 4096)
            j.leave(name, 0)
        shift, mask = (self.page_shift, self.leaf_mask) if level == len(self.upper) else self.upper[level]
        return (row << self.bits) | ((va >> shift) & mask)

    def check(self) -> list[str]:
        """Every table whose ``line`` is not what its entries are; empty when all is well."""
        steps = Ramp.steps(self.width)
        return [
            f"table row {row}: its line is {int(self.line[row]):#x}, its entries are not in line from there"
            for row in np.flatnonzero(self.line).tolist()
            if (self.rows[row] - steps != self.line[row]).any()
        ]

    def tables_in_use(self) -> int:
        """Tables of all processes, roots and those kept for huge leaves included."""
        return int(np.count_nonzero(self.pfn_of.array))


_ZEROS = memoryview(bytes(8 * 64)).cast("Q")

NO_DEPOSIT = -1
"""Of a huge leaf in `TableArena.huge` that is never split: one of hugetlb."""

ALLOC_NAMES = {"p4d": "__p4d_alloc", "pud": "__pud_alloc", "pmd": "__pmd_alloc", "pte": "__pte_alloc"}
