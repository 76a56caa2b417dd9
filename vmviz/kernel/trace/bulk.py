"""Bulk records: many equal steps as one record with lanes, and a cursor that can stand inside it.

Each lane says what the steps do to one store: `SetLane` replaces cells (the old values are kept), `AddLane`
adds to cells or to one counter, `FlipLane` changes bits, `CopyLane` copies cells.  Moving the cursor moves all
lanes together, so that refcounts, counters and entries agree at every position inside the record.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .pieces import Lines, Pieces
from .store import Column, Counters, Index


class ArrayStore(Protocol):
    """A store with cells by number and vector access (`Column`, the table arena, the states of frames)."""

    name: str

    def put_many(self, index: Index, values: Any) -> None:
        """Set many cells."""
        ...

    def flip_many(self, index: Index, bits: Any) -> None:
        """Turn bits of many cells over."""
        ...

    def copy_many(self, index: Index, source: Index, drop: int) -> None:
        """Fill cells with what others hold, but for the bits ``drop``."""
        ...


def part(index: Index, a: int, b: int) -> Index:
    """Steps ``a`` to ``b`` of a lane's index.

    >>> part(slice(10, 20), 2, 5)
    slice(12, 15, None)
    """
    if isinstance(index, slice):
        return slice(index.start + a, index.start + b)
    return index.part(a, b) if isinstance(index, Pieces) else index[a:b]


class Ramp:
    """``n`` entries for frames in line, ``first``, ``first + 4096``, ...: values that need no memory of their own.

    Only lanes over the table arena hold it.

    >>> Ramp(0x1007, 3).part(1, 3).tolist() == [0x2007, 0x3007]
    True
    """

    __slots__ = ("first", "n")
    _steps: NDArray[np.uint64] = np.zeros(0, np.uint64)

    def __init__(self, first: int, n: int) -> None:
        self.first = first
        self.n = n

    def __repr__(self) -> str:
        return f"Ramp({self.first:#x}, {self.n})"

    @classmethod
    def steps(cls, n: int) -> NDArray[np.uint64]:
        """0, 4096, 8192, ...: ``n`` of them, kept for the next time."""
        if len(cls._steps) < n:
            cls._steps = np.arange(max(n, 1 << 16), dtype=np.uint64) << np.uint64(12)
        return cls._steps[:n]

    @classmethod
    def of(cls, entries: NDArray[np.uint64]) -> Ramp | None:
        """The ramp that the entries are, None when they are none."""
        first, n = int(entries[0]), len(entries)
        if int(entries[-1]) != first + ((n - 1) << 12):
            return None
        line = (entries - cls.steps(n)) == np.uint64(first)
        return cls(first, n) if line.all() else None

    def part(self, a: int, b: int) -> NDArray[np.uint64]:
        """Values ``a`` to ``b``."""
        return self.steps(b - a) + np.uint64(self.first + (a << 12))

    def fill(self, out: NDArray[np.uint64]) -> None:
        """Write all values into ``out``."""
        np.add(self.steps(self.n), np.uint64(self.first), out=out)

    def piece(self, a: int, b: int) -> Ramp:
        """The ramp of values ``a`` to ``b``."""
        return Ramp(self.first + (a << 12), b - a)


def _values(values: Any, a: int, b: int) -> Any:
    if isinstance(values, np.ndarray):
        return values[a:b]
    return values.part(a, b) if isinstance(values, Ramp | Lines) else values


def _written(values: Any, a: int, b: int) -> Any:
    """`_values` as a store takes them: it makes the numbers of a ramp where they belong."""
    if isinstance(values, np.ndarray):
        return values[a:b]
    return values.piece(a, b) if isinstance(values, Ramp | Lines) else values


class SetLane:
    """Step ``i`` sets cell ``index[i]`` of ``store`` from ``old[i]`` to ``new[i]`` (or to one value
    for all).
    """

    __slots__ = ("index", "new", "old", "store")

    def __init__(self, store: ArrayStore, index: Index, old: Any, new: Any) -> None:
        self.store = store
        self.index = index
        self.old = old
        self.new = new

    def old_part(self, a: int, b: int) -> Any:
        """The old values of steps ``a`` to ``b``: an array, or one value for all."""
        return _values(self.old, a, b)

    def new_part(self, a: int, b: int) -> Any:
        """The new values of steps ``a`` to ``b``: an array, or one value for all."""
        return _values(self.new, a, b)

    def forward(self, a: int, b: int) -> None:
        """Apply steps ``a`` to ``b``."""
        self.store.put_many(part(self.index, a, b), _written(self.new, a, b))

    def backward(self, a: int, b: int) -> None:
        """Take back steps ``a`` to ``b``."""
        self.store.put_many(part(self.index, a, b), _written(self.old, a, b))


class AddLane:
    """Step ``i`` adds ``delta[i]`` (or ``delta``) to cell ``index[i]`` of a column."""

    __slots__ = ("delta", "index", "store")

    def __init__(self, store: Column, index: Index, delta: Any) -> None:
        self.store = store
        self.index = index
        self.delta = delta

    def forward(self, a: int, b: int) -> None:
        """Apply steps ``a`` to ``b``."""
        self.store.add_many(part(self.index, a, b), _values(self.delta, a, b))

    def backward(self, a: int, b: int) -> None:
        """Take back steps ``a`` to ``b``."""
        d = _values(self.delta, a, b)
        self.store.add_many(part(self.index, a, b), -d)


class CountLane:
    """Each step adds ``delta`` (or ``delta[i]``) to one counter."""

    __slots__ = ("delta", "key", "store")

    def __init__(self, store: Counters | Column, key: Any, delta: int | NDArray[np.int64]) -> None:
        self.store = store
        self.key: Hashable = key
        self.delta = delta

    def _sum(self, a: int, b: int) -> int:
        d = self.delta
        return int(d[a:b].sum()) if isinstance(d, np.ndarray) else d * (b - a)

    def forward(self, a: int, b: int) -> None:
        """Apply steps ``a`` to ``b``."""
        self.store.add(self.key, self._sum(a, b))  # type: ignore[arg-type]

    def backward(self, a: int, b: int) -> None:
        """Take back steps ``a`` to ``b``."""
        self.store.add(self.key, -self._sum(a, b))  # type: ignore[arg-type]


class FlipLane:
    """Step ``i`` turns the bits ``bits`` (or ``bits[i]``) of cell ``index[i]`` over: what both directions do.

    No old or new values are kept.  No cell may come up twice.
    """

    __slots__ = ("bits", "index", "store")

    def __init__(self, store: ArrayStore, index: Index, bits: Any) -> None:
        self.store = store
        self.index = index
        self.bits = bits

    def forward(self, a: int, b: int) -> None:
        """Apply steps ``a`` to ``b``."""
        self.store.flip_many(part(self.index, a, b), _values(self.bits, a, b))

    backward = forward


class CopyLane:
    """Step ``i`` fills the empty cell ``index[i]`` with what cell ``source[i]`` holds, but for the bits ``drop``.

    The lanes before it in the record leave the source as it is to be copied.
    """

    __slots__ = ("drop", "index", "source", "store")

    def __init__(self, store: ArrayStore, index: Index, source: Index, drop: int) -> None:
        self.store = store
        self.index = index
        self.source = source
        self.drop = drop

    def forward(self, a: int, b: int) -> None:
        """Apply steps ``a`` to ``b``."""
        self.store.copy_many(part(self.index, a, b), part(self.source, a, b), self.drop)

    def backward(self, a: int, b: int) -> None:
        """Take back steps ``a`` to ``b``."""
        self.store.put_many(part(self.index, a, b), 0)


Lane = SetLane | AddLane | CountLane | FlipLane | CopyLane


class Bulk:
    """``n`` equal steps of the function ``func``; step ``i`` is about the page at ``address + i * stride``
    (bytes).

    When the steps are not evenly spaced, ``addresses`` holds each one's address.  ``cuts`` are the steps at
    which a new call of ``func`` begins (one page table each): the call tree shows as many calls, made only
    when looked at.
    """

    __slots__ = ("address", "addresses", "cuts", "fields", "func", "lanes", "n", "stride")

    def __init__(
        self,
        func: str,
        n: int,
        lanes: tuple[Lane, ...],
        *,
        address: int = 0,
        stride: int = 4096,
        addresses: NDArray[np.uint64] | Lines | None = None,
        cuts: tuple[int, ...] = (0,),
        fields: tuple[tuple[str, Any], ...] = (),
    ) -> None:
        self.func = func
        self.n = n
        self.lanes = lanes
        self.address = address
        self.stride = stride
        self.addresses = addresses
        self.cuts = cuts
        self.fields = fields

    def __repr__(self) -> str:
        return f"Bulk({self.func}, n={self.n}, at={self.address:#x})"

    def forward(self, a: int, b: int) -> None:
        """Apply steps ``a`` to ``b``."""
        for lane in self.lanes:
            lane.forward(a, b)

    def backward(self, a: int, b: int) -> None:
        """Take back steps ``a`` to ``b``, the last lane first."""
        for lane in reversed(self.lanes):
            lane.backward(a, b)

    def address_of(self, step: int) -> int:
        """The address (bytes) that step ``step`` is about."""
        if self.addresses is not None:
            return int(self.addresses[step])
        return self.address + step * self.stride
