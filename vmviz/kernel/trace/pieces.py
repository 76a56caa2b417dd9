"""Runs of neighbours: compact forms of the cells that a bulk record touches, and of the values in them.

The frames of a large mapping come in a few runs, cut only where a page table was allocated in between.  As
slices they are written without an index array; as first values they need no copy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

LONG = 64
"""On average so many neighbours make it worthwhile to treat them as a run."""
_BLOCK = 8192  # entries looked at at once: what is made of them stays in the cache


def index_of_runs(starts: list[int], sizes: list[int]) -> slice | Pieces:
    """Runs of cells as an index: a slice where there is only one."""
    if len(starts) == 1:
        return slice(starts[0], starts[0] + sizes[0])
    return Pieces(starts, sizes)


def index_of_cells(runs: Iterable[tuple[int, int]]) -> slice | NDArray[np.int64] | Pieces:
    """Runs (first, how many) as the index that suits them, those joined that follow on each other.

    >>> index_of_cells([(4, 2), (6, 1)]), index_of_cells([(4, 1), (9, 1)]).tolist()
    (slice(4, 7, None), [4, 9])
    """
    starts: list[int] = []
    sizes: list[int] = []
    for first, n in runs:
        if starts and starts[-1] + sizes[-1] == first:
            sizes[-1] += n
        else:
            starts.append(first)
            sizes.append(n)
    if len(starts) == 1:
        return slice(starts[0], starts[0] + sizes[0])
    pieces = Pieces(starts, sizes)
    return pieces if pieces.n >= LONG * len(starts) else pieces.cells()


class Pieces:
    """Cells in several runs of neighbours: what a slice is for one.

    >>> p = Pieces([10, 20], [3, 2]); a = np.zeros(30, np.int32); p.fill(a, 7)
    >>> np.flatnonzero(a).tolist(), p.cells().tolist() == np.flatnonzero(a).tolist(), len(p)
    ([10, 11, 12, 20, 21], True, 5)
    >>> p.part(1, 3), p.part(1, 4).cells().tolist()
    (slice(11, 13, None), [11, 12, 20])
    """

    __slots__ = ("_grids", "n", "offsets", "sizes", "starts")

    def __init__(self, starts: list[int], sizes: list[int]) -> None:
        self.starts = starts
        self.sizes = sizes
        self.offsets = [0, *accumulate(sizes)]
        self.n = self.offsets[-1]
        self._grids: list[tuple[int, int, int, int, int]] = []

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        digest = crc32(np.array([self.starts, self.sizes], np.int64).tobytes())
        return f"Pieces({self.n} in {len(self.starts)}, {digest:08x})"

    def part(self, a: int, b: int) -> slice | Pieces:
        """Cells ``a`` to ``b``."""
        if a == 0 and b == self.n:
            return self
        first = bisect_right(self.offsets, a) - 1
        last = max(first, bisect_right(self.offsets, b - 1) - 1)
        skip = a - self.offsets[first]
        starts, sizes = self.starts[first : last + 1], self.sizes[first : last + 1]
        sizes[-1] = b - self.offsets[last]
        starts[0] += skip
        sizes[0] -= skip
        return index_of_runs(starts, sizes)

    def cells(self) -> NDArray[np.int64]:
        """The cells as an array of indices."""
        base = np.array(self.starts, np.int64) - np.array(self.offsets[:-1], np.int64)
        out = np.repeat(base, self.sizes)
        out += np.arange(self.n)
        return out

    def apart(self) -> bool:
        """Whether no cell comes twice."""
        starts, sizes = np.array(self.starts), np.array(self.sizes)
        order = np.argsort(starts)
        return bool((starts[order][:-1] + sizes[order][:-1] <= starts[order][1:]).all())

    def grids(self) -> list[tuple[int, int, int, int, int]]:
        """Runs of equal length at equal distances together: (first step, start, runs, distance, length)."""
        if not self._grids:
            starts, sizes = self.starts, self.sizes
            i, k = 0, len(starts)
            while i < k:
                j, size = i + 1, sizes[i]
                step = starts[j] - starts[i] if j < k else size
                if step >= size:
                    while j < k and sizes[j] == size and starts[j] - starts[j - 1] == step:
                        j += 1
                self._grids.append((self.offsets[i], starts[i], j - i, step, size))
                i = j
        return self._grids

    def _views(self, array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        item = array.itemsize
        for at, start, count, step, size in self.grids():
            if count == 1:
                yield at, array[start : start + size]
            else:
                strides = (step * item, item)
                yield at, np.ndarray((count, size), array.dtype, array.data, start * item, strides)

    def fill(self, array: NDArray[Any], values: Any) -> None:
        """Set the cells, to one value each or to one for all."""
        each = isinstance(values, np.ndarray) and values.ndim
        for at, view in self._views(array):
            view[...] = values[at : at + view.size].reshape(view.shape) if each else values

    def add(self, array: NDArray[Any], delta: Any) -> None:
        """Add to the cells, one number each or one to all."""
        each = isinstance(delta, np.ndarray) and delta.ndim
        for at, view in self._views(array):
            np.add(view, delta[at : at + view.size].reshape(view.shape) if each else delta, view)

    def flip(self, array: NDArray[Any], bits: Any) -> None:
        """Turn bits of the cells over, the same in all or those of one number each."""
        each = isinstance(bits, np.ndarray) and bits.ndim
        for at, view in self._views(array):
            np.bitwise_xor(view, bits[at : at + view.size].reshape(view.shape) if each else bits, view)

    def take(self, array: NDArray[Any]) -> NDArray[Any]:
        """The values in the cells."""
        out = np.empty(self.n, array.dtype)
        for at, view in self._views(array):
            out[at : at + view.size].reshape(view.shape)[...] = view
        return out

    def reduce(self, ufunc: np.ufunc, array: NDArray[Any]) -> int:
        """One number made of the values in the cells, by `np.minimum`, `np.bitwise_or` and their like."""
        return int(ufunc.reduce([ufunc.reduce(view, axis=None) for _, view in self._views(array)]))

    def count_up(self, array: NDArray[Any]) -> bool:
        """Whether the values in the cells rise by 1 from each to the next."""
        first = array[self.starts[0]]
        for at, view in self._views(array):
            rows = view if view.ndim == 2 else view.reshape(1, -1)
            many, size = max(1, _BLOCK // rows.shape[1]), rows.shape[1]
            steps = np.arange(many * size, dtype=array.dtype).reshape(many, size)
            for row in range(0, len(rows), many):
                part = rows[row : row + many]
                if ((part - steps[: len(part)]) != first + array.dtype.type(at + row * size)).any():
                    return False
        return True

    def counts(self, shift: int, first: int, end: int) -> NDArray[np.int64]:
        """How many of the cells lie in each block of ``1 << shift`` cells, from block ``first`` to ``end``."""
        starts, sizes = np.array(self.starts, np.int64), np.array(self.sizes, np.int64)
        order = np.argsort(starts)
        starts, sizes = starts[order], sizes[order]
        below = np.concatenate(([0], np.cumsum(sizes)))
        borders = np.arange(first, end + 1, dtype=np.int64) << shift
        run = np.searchsorted(starts, borders, "right") - 1
        inside = np.where(run >= 0, np.minimum(borders - starts[run], sizes[run]), 0)
        return np.diff(np.where(run >= 0, below[run], 0) + inside)


class Lines:
    """Values in runs, each from a first value on by equal steps: entries for runs of frames, say.

    >>> v = Lines(np.array([0x1007, 0x9007], np.uint64), [2, 3])
    >>> [hex(x) for x in v.part(1, 4).tolist()]
    ['0x2007', '0x9007', '0xa007']
    >>> Lines.of(v.part(0, 5), long=1)
    Lines(5 in 2, 60e12b3d)
    """

    __slots__ = ("firsts", "n", "offsets", "sizes", "step")

    def __init__(self, firsts: NDArray[np.uint64], sizes: list[int], step: int = 4096) -> None:
        self.firsts = firsts
        self.sizes = sizes
        self.offsets = [0, *accumulate(sizes)]
        self.n = self.offsets[-1]
        self.step = step

    def __repr__(self) -> str:
        digest = crc32(self.firsts.tobytes() + np.array([self.step, *self.sizes], np.int64).tobytes())
        return f"Lines({self.n} in {len(self.sizes)}, {digest:08x})"

    @classmethod
    def of(cls, values: NDArray[np.uint64], step: int = 4096, long: int = LONG) -> Lines | None:
        """The runs that the values are; None where these have not ``long`` values on average."""
        n, most = len(values), len(values) // long
        cuts = [0]
        for low in range(0, n - 1, _BLOCK):
            part = values[low : low + _BLOCK + 1]
            differ = (part[1:] - part[:-1]) != step
            k = int(np.count_nonzero(differ))
            if len(cuts) + k > most:
                return None
            if k:
                cuts += (np.flatnonzero(differ) + (low + 1)).tolist()
        if not n or len(cuts) > most:
            return None
        sizes = [b - a for a, b in zip(cuts, [*cuts[1:], n], strict=True)]
        return cls(values[cuts], sizes, step)

    def __getitem__(self, i: int) -> int:
        """Value ``i``."""
        run = bisect_right(self.offsets, i) - 1
        return int(self.firsts[run]) + (i - self.offsets[run]) * self.step

    @classmethod
    def of_tables(cls, firsts: NDArray[np.uint64], width: int) -> Lines:
        """The runs of tables of ``width`` entries each, of which each is in line from its first one on."""
        cuts = np.flatnonzero(np.diff(firsts) != width << 12) + 1
        starts = [0, *cuts.tolist()]
        sizes = [(b - a) * width for a, b in zip(starts, [*starts[1:], len(firsts)], strict=True)]
        return cls(firsts[starts], sizes)

    @classmethod
    def joined(cls, parts: list[Lines]) -> Lines:
        """Runs one after the other; where one goes on with the next value, the two are one.

        >>> a, b = Lines(np.array([0x1007], np.uint64), [2]), Lines(np.array([0x3007, 0x9007], np.uint64), [1, 4])
        >>> Lines.joined([a, b]).sizes
        [3, 4]
        """
        firsts, sizes, step = parts[0].firsts, list(parts[0].sizes), parts[0].step
        for part in parts[1:]:
            goes_on = int(firsts[-1]) + sizes[-1] * step == int(part.firsts[0])
            if goes_on:
                sizes[-1] += part.sizes[0]
            firsts = np.concatenate((firsts, part.firsts[goes_on:]))
            sizes += part.sizes[goes_on:]
        return cls(firsts, sizes, step)

    def piece(self, a: int, b: int) -> Lines:
        """The runs that values ``a`` to ``b`` are."""
        if a == 0 and b == self.n:
            return self
        first = bisect_right(self.offsets, a) - 1
        last = max(first, bisect_right(self.offsets, b - 1) - 1)
        sizes, firsts = self.sizes[first : last + 1], self.firsts[first : last + 1].copy()
        sizes[-1] = b - self.offsets[last]
        sizes[0] -= a - self.offsets[first]
        firsts[0] += np.uint64((a - self.offsets[first]) * self.step)
        return Lines(firsts, sizes, self.step)

    def part(self, a: int, b: int) -> NDArray[np.uint64]:
        """Values ``a`` to ``b``."""
        out = np.empty(b - a, np.uint64)
        self.piece(a, b).fill(out)
        return out

    def fill(self, out: NDArray[np.uint64]) -> None:
        """Write all values into ``out``; runs of one length at once."""
        sizes, i, at = self.sizes, 0, 0
        while i < len(sizes):
            j, size = i + 1, sizes[i]
            while j < len(sizes) and sizes[j] == size:
                j += 1
            steps = np.arange(size, dtype=np.uint64) * np.uint64(self.step)
            end = at + (j - i) * size
            np.add(self.firsts[i:j, None], steps, out=out[at:end].reshape(j - i, size))
            i, at = j, end

    def firsts_at(self, at: int, count: int, width: int) -> NDArray[np.uint64]:
        """The first one of each of ``count`` groups of ``width`` values from number ``at`` on; 0 for a group that
        does not lie in one run.
        """
        where = at + np.arange(count, dtype=np.int64) * width
        offsets = np.array(self.offsets, np.int64)
        run = np.searchsorted(offsets, where, "right") - 1
        first = self.firsts[run] + ((where - offsets[run]) * self.step).astype(np.uint64)
        return np.where(offsets[run + 1] >= where + width, first, np.uint64(0))

    def frames(self) -> slice | Pieces:
        """The frames of present entries."""
        starts = ((self.firsts & np.uint64(0x000F_FFFF_FFFF_F000)) >> np.uint64(12)).tolist()
        return index_of_runs(starts, self.sizes)
