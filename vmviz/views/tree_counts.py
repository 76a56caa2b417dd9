"""What lies below a branch of the page-table tree: counts of tables and entries, a level at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..kernel.arch.paging import PagingMode
from ..kernel.arch.x86 import _PAGE_PSE, PTE_PFN_MASK
from ..kernel.mm.pgtable import TableArena
from . import entries as ent

COUNTED_TABLES = 1024
"""Above this many last-level tables a folded branch says how many tables it has, not how many entries."""


class TreeCounts:
    """Counting below a table; ``last`` is the depth of the entries, below the last tables."""

    arena: TableArena
    mode: PagingMode
    last: int

    def tables_below(self, row: int, depth: int, limit: int) -> int:
        """Last-level tables under the table in arena row ``row`` of this depth; stops above ``limit``."""
        rows = np.array([row])
        for level in range(depth, self.last - 1):
            rows = self._next(rows)
            if len(rows) > limit and level < self.last - 2:
                return limit + 1
        return len(rows)

    def _next(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The arena rows of all tables that entries of these tables point to."""
        found = self.arena.rows[rows]
        found = found[(found != 0) & ((found & np.uint64(_PAGE_PSE)) == 0)]
        pfns = (found & np.uint64(PTE_PFN_MASK)) >> np.uint64(12)
        next_rows: NDArray[np.int64] = self.arena.row_of.array[pfns.astype(np.int64)].astype(np.int64) - 1
        return next_rows

    def below(self, row: int, depth: int) -> str:
        """What a folded branch holds: present entries, or tables where those are too many to count."""
        rows = np.array([row])
        for _ in range(depth, self.last - 1):
            rows = self._next(rows)
        if len(rows) > COUNTED_TABLES:
            return f"{len(rows)} tables below"
        n = int(np.count_nonzero(ent.present_of(self.arena.rows[rows], self.mode)))
        return f"{n} entr{'y' if n == 1 else 'ies'} below"


def span_text(n: int) -> str:
    """A power of two as a course says it.

    >>> span_text(2 << 20)
    '2M'
    """
    return f"{n >> 30}G" if n >= 1 << 30 else f"{n >> 20}M" if n >= 1 << 20 else f"{n >> 10}K"
