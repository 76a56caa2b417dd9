"""The table arena: all page tables of a machine in one dense array (models include/linux/pgtable.h,
arch/*/mm/pgtable.c).

Every table is one row of ``uint64[rows, width]``; entries hold true frame numbers, and two columns translate
between the frame of a table and its row.  A *slot* is the flat number of an entry: ``row * width + index``.
Scalar steps go through ``flat``, a view of the same memory; it is made again when the arena grows, so nobody
keeps it across an allocation.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arch.paging import PagingMode
from ..arch.x86 import _PAGE_PSE, _PAGE_TABLE, PTE_PFN_MASK, mk_pte, pmd_pfn, pte_flags
from ..trace.journal import Journal
from ..trace.store import Column, Index, Keyed
from .frames import PG_PGTABLE, Frames
from .page_alloc import TABLE, OutOfMemory


class _RowFrames(Column):
    """``pfn_of[row]``: the frame of the table in each row, 0 for a row not in use; free rows are derived from
    it.
    """

    def __init__(self, length: int) -> None:
        super().__init__("pgtable.pfn_of", length, np.int64)
        self.free = list(range(length))

    def put(self, key: int, value: int, /) -> None:
        if not value and self.flat[key]:
            heapq.heappush(self.free, key)
        self.flat[key] = value

    def lowest_free(self) -> int:
        """The lowest row not in use; -1 when all are."""
        while self.free and self.flat[self.free[0]]:
            heapq.heappop(self.free)
        return self.free[0] if self.free else -1

    def grow(self, length: int) -> None:
        old = len(self.array)
        array = np.zeros(length, np.int64)
        array[:old] = self.array
        self.array, self.flat = array, array.data
        for row in range(old, length):
            heapq.heappush(self.free, row)


class TableArena:
    """All page tables, as a store of entries.

    Reading: ``arena.flat[slot]``.  Writing: only ``journal.write(arena, slot, entry)`` and lanes over
    ``arena``.

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
        self.rows: NDArray[np.uint64] = np.zeros((rows, self.width), np.uint64)
        self.entries: NDArray[np.uint64] = self.rows.reshape(-1)
        self.flat = self.rows.data.cast("B").cast("Q")
        self.pfn_of = _RowFrames(rows)
        self.level_of = Column("pgtable.level", rows, np.int8)
        self.row_of = Column("pgtable.row_of", frames.nr_frames, np.int32)  # row + 1; 0: not a table
        self.huge = Keyed("pgtable.huge")
        self.upper = tuple((level.shift, level.entries - 1) for level in mode.levels[:-1])
        self.leaf_mask = mode.levels[-1].entries - 1
        self.page_shift = mode.page_shift
        for store in (self, self.pfn_of, self.level_of, self.row_of, self.huge):
            journal.register(store)

    # -- the store

    def get(self, slot: int, /) -> int:
        """The entry in a slot."""
        return self.flat[slot]

    def put(self, slot: int, value: int, /) -> None:
        """Set one entry; only the journal calls this."""
        self.flat[slot] = value

    def put_many(self, index: Index, values: Any) -> None:
        """Set many entries; only lanes call this."""
        self.entries[index] = values

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
        pfn = self.frames.alloc_page(TABLE, PG_PGTABLE)
        j = self.journal
        j.write(self.pfn_of, row, pfn)
        j.write(self.row_of, pfn, row + 1)
        j.write(self.level_of, row, level)
        return row

    def free_table(self, row: int) -> None:
        """Give an empty table's frame back (`pte_free_tlb` and its like)."""
        pfn = self.pfn_of.flat[row]
        j = self.journal
        j.write(self.pfn_of, row, 0)
        j.write(self.row_of, pfn, 0)
        if self.level_of.flat[row]:
            j.write(self.level_of, row, 0)
        self.frames.free_page(pfn)

    def _grow(self) -> None:
        old = self.rows
        self.rows = np.zeros((len(old) + max(64, len(old) >> 2), self.width), np.uint64)
        self.rows[: len(old)] = old
        self.entries = self.rows.reshape(-1)
        self.flat = self.rows.data.cast("B").cast("Q")
        self.pfn_of.grow(len(self.rows))
        level = np.zeros(len(self.rows), np.int8)
        level[: len(old)] = self.level_of.array
        self.level_of.array, self.level_of.flat = level, level.data

    # -- walking

    def lookup(self, pgd: int, va: int) -> int:
        """The slot of the lowest-level entry for ``va``, or -1 when a table on the way is missing.

        ``pgd`` is the row of the root.  A huge leaf on the way counts as missing: see `walk`.
        """
        flat, row_of, bits = self.flat, self.row_of.flat, self.bits
        row = pgd
        for shift, mask in self.upper:
            entry = flat[(row << bits) | ((va >> shift) & mask)]
            if not entry or entry & _PAGE_PSE:
                return -1
            row = row_of[(entry & PTE_PFN_MASK) >> 12] - 1
        return (row << bits) | ((va >> self.page_shift) & self.leaf_mask)

    def walk(self, pgd: int, va: int) -> list[int]:
        """The slots on the way down to ``va``, from the root as far as tables exist (one per level
        reached).
        """
        slots = []
        row = pgd
        for n, level in enumerate(self.mode.levels):
            slot = (row << self.bits) | ((va >> level.shift) & (level.entries - 1))
            slots.append(slot)
            entry = self.flat[slot]
            if not entry or entry & _PAGE_PSE or n == len(self.mode.levels) - 1:
                break
            row = self.row_of.flat[(entry & PTE_PFN_MASK) >> 12] - 1
        return slots

    def huge_slot(self, pgd: int, va: int) -> int:
        """The slot of the huge leaf that maps ``va``, one level above the last; -1 when there is none."""
        if not self.huge.data:
            return -1
        row = self._parent(pgd, va)
        if row < 0:
            return -1
        shift, mask = self.upper[-1]
        slot = (row << self.bits) | ((va >> shift) & mask)
        return slot if self.flat[slot] & _PAGE_PSE else -1

    def entry_at(self, pgd: int, va: int) -> int:
        """The entry that maps ``va``, 0 when there is none; a huge leaf's as a small one for this page."""
        slot = self.lookup(pgd, va)
        if slot >= 0:
            return self.flat[slot]
        slot = self.huge_slot(pgd, va)
        return self.small_entry(self.flat[slot], va) if slot >= 0 else 0

    def entries_at(self, pgd: int, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """`entry_at` for many addresses, one level after the other for all of them."""
        rows = np.full(len(addresses), pgd, np.int64)
        out = np.zeros(len(addresses), np.uint64)
        pending = np.arange(len(addresses))
        va = addresses.astype(np.int64)
        last = len(self.mode.levels) - 1
        for n, level in enumerate(self.mode.levels):
            index = (va >> level.shift) & (level.entries - 1)
            entries = self.entries[(rows << self.bits) | index]
            if n == last:
                out[pending] = entries
                break
            huge = np.flatnonzero(entries & np.uint64(_PAGE_PSE)) if self.huge.data else ()
            for i in huge:
                out[pending[i]] = self.small_entry(int(entries[i]), int(va[i]))
            on = (entries != 0) & (entries & np.uint64(_PAGE_PSE) == 0)
            if not on.all():
                pending, va, entries = pending[on], va[on], entries[on]
            pfns = ((entries & np.uint64(PTE_PFN_MASK)) >> np.uint64(12)).astype(np.int64)
            rows = self.row_of.array[pfns].astype(np.int64) - 1
        return out

    def small_entry(self, entry: int, va: int) -> int:
        """What a last-level entry for ``va`` would be in place of the huge leaf ``entry``."""
        pfn = pmd_pfn(entry) + ((va >> self.page_shift) & self.leaf_mask)
        return mk_pte(pfn, pte_flags(entry) & ~_PAGE_PSE)

    def huge_leaves(self, pgd: int, start: int, end: int) -> list[tuple[int, int]]:
        """The huge leaves that map any of ``[start, end)``: (slot, first address), ascending."""
        out: list[tuple[int, int]] = []
        if not self.huge.data or start >= end:
            return out
        shift, mask = self.upper[-1]
        parent_span = 1 << (shift + self.mode.levels[-2].bits)
        va = start & -(1 << shift)
        while va < end:
            stop = min(end, (va & -parent_span) + parent_span)
            row = self._parent(pgd, va)
            if row >= 0:
                first, last = (va >> shift) & mask, ((stop - 1) >> shift) & mask
                leaf = self.rows[row, first : last + 1] & np.uint64(_PAGE_PSE)
                for i in np.flatnonzero(leaf).tolist():
                    out.append(((row << self.bits) | (first + i), va + (i << shift)))
            va = stop
        return out

    def child_row(self, slot: int) -> int:
        """The row of the table that the entry in ``slot`` points to; -1 when it is empty or a leaf."""
        entry = self.flat[slot]
        if not entry or entry & _PAGE_PSE:
            return -1
        return int(self.row_of.flat[(entry & PTE_PFN_MASK) >> 12]) - 1

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
            name = _ALLOC_NAMES[self.mode.levels[n + 1].name]
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

    def segments(self, pgd: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The slots of ``[start, end)`` where tables exist: ``(slot, nr_entries, address)``, one per
        last-level table.

        Empty upper entries are skipped a whole span at a time, as the kernel's ``pXd_none_or_clear_bad``
        loops do. ``start`` is rounded down to a page.
        """
        levels = self.mode.levels
        span = 1 << (self.page_shift + levels[-1].bits)
        va = start & -(1 << self.page_shift)
        while va < end:
            row = pgd
            for shift, mask in self.upper:
                slot = (row << self.bits) | ((va >> shift) & mask)
                entry = self.flat[slot]
                if not entry or entry & _PAGE_PSE:
                    va = (va & -(1 << shift)) + (1 << shift)
                    break
                row = self.row_of.flat[(entry & PTE_PFN_MASK) >> 12] - 1
            else:
                stop = min(end, (va & -span) + span)
                n = (stop - va + (1 << self.page_shift) - 1) >> self.page_shift
                yield (row << self.bits) | ((va >> self.page_shift) & self.leaf_mask), n, va
                va = (va & -span) + span

    def _segments_by_parent(self, pgd: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """`segments`, looking at a parent's entries all at once: for ranges of many tables."""
        shift, mask = self.upper[-1]
        parent_span = 1 << (shift + self.mode.levels[-2].bits)
        span, page = 1 << shift, 1 << self.page_shift
        if end - start < 4 * span:
            yield from self.segments(pgd, start, end)
            return
        va = start & -page
        while va < end:
            stop = min(end, (va & -parent_span) + parent_span)
            row = self._parent(pgd, va)
            if row >= 0:
                base, first, last = va & -span, (va >> shift) & mask, ((stop - 1) >> shift) & mask
                entries = self.rows[row, first : last + 1]
                there = np.flatnonzero((entries != 0) & ((entries & np.uint64(_PAGE_PSE)) == 0))
                pfns = ((entries[there] & np.uint64(PTE_PFN_MASK)) >> np.uint64(12)).astype(np.int64)
                rows = self.row_of.array[pfns].astype(np.int64) - 1
                for i, child in zip(there.tolist(), rows.tolist(), strict=True):
                    low = max(va, base + (i << shift))
                    high = min(stop, base + ((i + 1) << shift))
                    slot = (child << self.bits) | ((low >> self.page_shift) & self.leaf_mask)
                    yield slot, (high - low + page - 1) >> self.page_shift, low
            va = stop

    def _parent(self, pgd: int, va: int) -> int:
        """The row of the table above the lowest level on the way to ``va``; -1 when a table is missing."""
        row = pgd
        for shift, mask in self.upper[:-1]:
            entry = self.flat[(row << self.bits) | ((va >> shift) & mask)]
            if not entry or entry & _PAGE_PSE:
                return -1
            row = self.row_of.flat[(entry & PTE_PFN_MASK) >> 12] - 1
        return row

    def runs(self, pgd: int, start: int, end: int) -> list[tuple[int, int, int, tuple[int, ...]]]:
        """`segments` with neighbours in the arena joined: ``(slot, nr_entries, address, cuts)``.

        ``cuts`` are the offsets at which a new table begins.
        """
        out: list[tuple[int, int, int, tuple[int, ...]]] = []
        slot = n = address = 0
        cuts: list[int] = []
        for s, k, va in self._segments_by_parent(pgd, start, end):
            if cuts and s == slot + n and va == address + (n << self.page_shift):
                cuts.append(n)
                n += k
                continue
            if cuts:
                out.append((slot, n, address, tuple(cuts)))
            slot, n, address, cuts = s, k, va, [0]
        if cuts:
            out.append((slot, n, address, tuple(cuts)))
        return out

    def tables_in_use(self) -> int:
        """Tables of all processes, roots and those kept for huge leaves included."""
        return int(np.count_nonzero(self.pfn_of.array))


NO_DEPOSIT = -1
"""Of a huge leaf in `TableArena.huge` that is never split: one of hugetlb."""

_ALLOC_NAMES = {"p4d": "__p4d_alloc", "pud": "__pud_alloc", "pmd": "__pmd_alloc", "pte": "__pte_alloc"}
