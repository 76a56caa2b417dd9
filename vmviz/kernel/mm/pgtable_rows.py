"""The rows of the table arena: in which frames their tables are, and which are free."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..trace.store import Column, Index, cells_of


class RowFrames(Column):
    """``pfn_of[row]``: the frame of the table in each row, 0 for a row not in use; free rows are derived from
    it.

    Rows from ``fresh`` on have never been used; free ones below it are in the heap ``free``, which may name
    rows that have been taken again.
    """

    def __init__(self, length: int) -> None:
        super().__init__("pgtable.pfn_of", length, np.int64)
        self.free: list[int] = []
        self.fresh = 0

    def put(self, key: int, value: int, /) -> None:
        if not value:
            if self.flat[key]:
                heapq.heappush(self.free, key)
        elif key >= self.fresh:
            for row in range(self.fresh, key):
                heapq.heappush(self.free, row)
            self.fresh = key + 1
        self.flat[key] = value

    def put_many(self, index: Index, values: Any) -> None:
        cells = cells_of(index).tolist()
        for key, value in zip(cells, np.broadcast_to(values, len(cells)).tolist(), strict=True):
            self.put(key, value)

    def lowest_free(self) -> int:
        """The lowest row not in use; -1 when all are."""
        while self.free and self.flat[self.free[0]]:
            heapq.heappop(self.free)
        if self.free:
            return self.free[0]
        return self.fresh if self.fresh < len(self.array) else -1

    def take_lowest(self, n: int) -> NDArray[np.int64]:
        """The ``n`` lowest rows not in use, which the caller uses at once; there must be so many."""
        rows: list[int] = []
        while len(rows) < n and self.free:
            row = heapq.heappop(self.free)
            if not self.flat[row] and (not rows or rows[-1] != row):
                rows.append(row)
        first = self.fresh
        return np.array(rows + list(range(first, first + n - len(rows))), np.int64)

    def nr_free(self) -> int:
        """How many rows are not in use."""
        return len(self.array) - int(np.count_nonzero(self.array))

    def grow(self, length: int) -> None:
        """More rows."""
        array = np.zeros(length, np.int64)
        array[: len(self.array)] = self.array
        self.array, self.flat = array, array.data
