"""Walking page tables: from an address to its entry, and over the entries of a range (models mm/pagewalk.c and the
``pXd_offset`` family of include/linux/pgtable.h).

Reading only.  `TableArena` is what is walked.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arch.paging import PagingMode
from ..arch.x86 import _PAGE_PSE, PTE_PFN_MASK, mk_pte, pmd_pfn, pte_flags
from ..trace.store import Column, Keyed

Run = tuple[int, int, int, tuple[int, ...]]
_PFN, _PSE, _SHIFT = np.uint64(PTE_PFN_MASK), np.uint64(_PAGE_PSE), np.uint64(12)


class PageWalk:
    """The walks over the tables of an arena, which are rows of ``rows``, ``flat`` entry by entry."""

    mode: PagingMode
    bits: int
    rows: NDArray[np.uint64]
    entries: NDArray[np.uint64]
    flat: memoryview[int]
    row_of: Column
    huge: Keyed
    upper: tuple[tuple[int, int], ...]
    leaf_mask: int
    page_shift: int

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

    def frees_tables(self, floor: int, ceiling: int) -> bool:
        """Whether what one table of the lowest level maps fits between ``floor`` and ``ceiling`` (0: no limit);
        else no table goes with what lies between, the upper ones map more.
        """
        span = 1 << self.upper[-1][0]
        return not ceiling or (floor + span - 1 & -span) + span <= ceiling

    def is_clear(self, pgd: int, start: int, end: int) -> bool:
        """Whether ``[start, end)`` has no entry, as far as one table tells; False for what needs several."""
        if (start ^ (end - 1)) >> self.upper[-1][0]:
            return False
        row = pgd
        for shift, mask in self.upper:
            entry = self.flat[(row << self.bits) | ((start >> shift) & mask)]
            if not entry:
                return True
            if entry & _PAGE_PSE:
                return False
            row = self.row_of.flat[(entry & PTE_PFN_MASK) >> 12] - 1
        slot = (row << self.bits) | ((start >> self.page_shift) & self.leaf_mask)
        n = (end - start) >> self.page_shift
        return not (any(self.flat[slot : slot + n]) if n <= 16 else self.entries[slot : slot + n].any())

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
        shift = self.upper[-1][0]
        for slot, entries, va in self._parents(pgd, start, end):
            for i in np.flatnonzero(entries & _PSE).tolist():
                out.append((slot + i, va + (i << shift)))
        return out

    def child_row(self, slot: int) -> int:
        """The row of the table that the entry in ``slot`` points to; -1 when it is empty or a leaf."""
        entry = self.flat[slot]
        if not entry or entry & _PAGE_PSE:
            return -1
        return int(self.row_of.flat[(entry & PTE_PFN_MASK) >> 12]) - 1

    def missing_children(self, pgd: int, start: int, end: int) -> int:
        """For how many spans of a last-level table from that of ``start`` on, up to that before ``end``, there is
        neither a table nor a huge leaf.  All lie under one parent.
        """
        shift, mask = self.upper[-1]
        row = self._parent(pgd, start)
        first, last = (start >> shift) & mask, ((end - 1) >> shift) & mask
        if row < 0:
            return last - first + 1
        filled = self.rows[row, first : last + 1] != 0
        return int(filled.argmax()) if filled.any() else last - first + 1

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

    def _tables(self, pgd: int, start: int, end: int) -> Iterator[tuple[NDArray[np.uint32], int]]:
        """The rows of the last-level tables that ``[start, end)`` touches, each plus one, 0 where there is none: for
        each table above them an array, looking at all of its entries at once, and the address that it begins with.
        """
        for slot, entries, va in self._parents(pgd, start, end):
            first = self.flat[slot]
            if first and not first & _PAGE_PSE and in_steps(entries, 4096):  # tables in frames in line
                pfn = (first & PTE_PFN_MASK) >> 12
                yield self.row_of.array[pfn : pfn + len(entries)], va
            elif first or entries.any():  # frame 0 is no table's: empty entries
                rows = self.row_of.array[(entries & _PFN) >> _SHIFT]
                if self.huge.data:
                    rows[(entries & _PSE) != 0] = 0
                yield rows, va

    def _parents(self, pgd: int, start: int, end: int) -> Iterator[tuple[int, NDArray[np.uint64], int]]:
        """The tables above the last level on the way to ``[start, end)``, as far as they exist: the slot of the first
        entry concerned, all of these entries, and the address that they begin with.

        Empty entries above them are skipped a whole span at a time.
        """
        flat, row_of, bits = self.flat, self.row_of.flat, self.bits
        shift, mask = self.upper[-1]
        parent_span = 1 << (shift + self.mode.levels[-2].bits)
        va = start & -(1 << shift)
        while va < end:
            row = pgd
            for above, index in self.upper[:-1]:
                entry = flat[(row << bits) | ((va >> above) & index)]
                if not entry or entry & _PAGE_PSE:
                    va = (va & -(1 << above)) + (1 << above)
                    break
                row = row_of[(entry & PTE_PFN_MASK) >> 12] - 1
            else:
                stop = min(end, (va & -parent_span) + parent_span)
                slot = (row << bits) | ((va >> shift) & mask)
                yield slot, self.entries[slot : slot + ((stop - 1 - va) >> shift) + 1], va
                va = stop

    def next_parent(self, pgd: int, start: int, end: int) -> int:
        """The lowest address in ``[start, end)`` on the way to which a table above the last level is; ``end`` where
        none is.  ``start`` is that of a last-level table's span.
        """
        return next((va for _, _, va in self._parents(pgd, start, end)), end)

    def _parent(self, pgd: int, va: int) -> int:
        """The row of the table above the lowest level on the way to ``va``; -1 when a table is missing."""
        row = pgd
        for shift, mask in self.upper[:-1]:
            entry = self.flat[(row << self.bits) | ((va >> shift) & mask)]
            if not entry or entry & _PAGE_PSE:
                return -1
            row = self.row_of.flat[(entry & PTE_PFN_MASK) >> 12] - 1
        return row

    def runs(self, pgd: int, start: int, end: int) -> list[Run]:
        """`segments` with neighbours in the arena joined: ``(slot, nr_entries, address, cuts)``.

        ``cuts`` are the offsets at which a new table begins.
        """
        shift = self.upper[-1][0]
        if end - start < 4 << shift:
            return _joined(list(self.segments(pgd, start, end)), self.page_shift)
        start, end = (
            start & -(1 << self.page_shift),
            (end + (1 << self.page_shift) - 1) & -(1 << self.page_shift),
        )
        pieces: list[tuple[int, int, int]] = []  # first row, tables, address
        for rows, va in self._tables(pgd, start, end):
            n, first = len(rows), int(rows[0])
            breaks = [0, n]
            if not first or not in_steps(rows, 1):
                there = rows != 0
                apart = (rows[1:] - rows[:-1] != 1) & (there[1:] | there[:-1]) | (there[1:] != there[:-1])
                breaks = [0, *(np.flatnonzero(apart) + 1).tolist(), n]
            for a, b in pairwise(breaks):
                row = int(rows[a]) - 1
                if row < 0:
                    continue
                if pieces and row == sum(pieces[-1][:2]) and va + (a << shift) == _end(pieces[-1], shift):
                    pieces[-1] = (pieces[-1][0], pieces[-1][1] + b - a, pieces[-1][2])
                else:
                    pieces.append((row, b - a, va + (a << shift)))
        return [self._run(*piece, start, end) for piece in pieces]

    def _run(self, row: int, tables: int, va: int, start: int, end: int) -> Run:
        """A run of neighbouring tables from ``row`` on, which begin at ``va``, without what lies outside."""
        stop = min(end, _end((row, tables, va), self.upper[-1][0]))
        skipped = max(0, start - va) >> self.page_shift
        n = ((stop - va) >> self.page_shift) - skipped
        cuts = (0, *range((1 << self.bits) - skipped, n, 1 << self.bits))
        return (row << self.bits) + skipped, n, max(va, start), cuts


def in_steps(values: NDArray[Any], step: int) -> bool:
    """Whether each value is ``step`` more than the one before; `bytes` compare quicker than arrays.

    >>> in_steps(np.array([3, 4, 5]), 1), in_steps(np.array([3, 5]), 1), in_steps(np.array([3]), 1)
    (True, False, True)
    """
    steps = values[1:] - values[:-1]
    return bool(steps.tobytes() == step.to_bytes(steps.itemsize, "little") * len(steps))


def _end(piece: tuple[int, int, int], shift: int) -> int:
    return piece[2] + (piece[1] << shift)


def _joined(segments: list[tuple[int, int, int]], page_shift: int) -> list[Run]:
    out: list[Run] = []
    for slot, n, va in segments:
        if out:
            first, k, at, cuts = out[-1]
            if slot == first + k and va == at + (k << page_shift):
                out[-1] = (first, k + n, at, (*cuts, k))
                continue
        out.append((slot, n, va, (0,)))
    return out
