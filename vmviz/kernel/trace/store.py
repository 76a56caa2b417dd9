"""The stores: everything that an operation can change, each with a raw ``put`` that only the journal calls.

A store knows how to read, write and serialise its own cells and nothing of who writes them.  `Column` holds
numbers by index (frame columns, tables of the arena), `Keyed` immutable values by key (tasks, files, the
fields of an mm), `Counters` named integers.  What can be recomputed from a store (free lists, pyramids of
counts) is derived, not stored: subclasses keep it in step inside ``put`` and ``put_many``, so that undo keeps
it in step too.
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .pieces import LONG, Lines, Pieces

Index = slice | NDArray[np.int64] | Pieces
"""Where a lane lies in a column: a slice for neighbours, `Pieces` for runs of them, else an array of indices."""


_LAZY = 1 << 20
"""Arrays of so many bytes are asked of the system themselves, so that only what is touched takes memory."""


def lazy_zeros(length: int, dtype: DTypeLike) -> NDArray[Any]:
    """``np.zeros``, for which the system gives memory page by page as it is written to.

    The C library clears an array that gets memory which it has kept, and with that touches all of it.
    """
    size = length * np.dtype(dtype).itemsize
    if size < _LAZY:
        return np.zeros(length, dtype)
    private = getattr(mmap, "MAP_PRIVATE", 0)
    flags = {"flags": private | mmap.MAP_ANONYMOUS} if private else {}
    return np.frombuffer(mmap.mmap(-1, size, **flags), dtype)


def rising(cells: NDArray[np.int64]) -> bool:
    """Whether cells come in ascending order, none twice: the common case, which needs no sorting to tell.

    >>> rising(np.array([2, 3, 9])), rising(np.array([2, 2])), rising(np.array([3, 2]))
    (True, False, False)
    """
    return bool((cells[1:] > cells[:-1]).all())


def distinct(cells: NDArray[np.int64]) -> bool:
    """Whether no cell comes twice."""
    return rising(cells) or rising(np.sort(cells))


def index_of(cells: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Cells as a slice where they are neighbours in line, which numpy serves several times faster.

    >>> index_of(np.array([4, 5, 6])), index_of(np.array([4, 6, 5])).tolist()
    (slice(4, 7, None), [4, 6, 5])
    """
    n = len(cells)
    if n > 1 and int(cells[-1]) - int(cells[0]) == n - 1 and rising(cells):
        return slice(int(cells[0]), int(cells[0]) + n)
    return cells


def take(array: NDArray[Any], index: Index) -> NDArray[Any]:
    """A copy of the values in some cells."""
    if isinstance(index, slice):
        return array[index].copy()
    return index.take(array) if isinstance(index, Pieces) else array[index]


def over(ufunc: np.ufunc, array: NDArray[Any], index: Index) -> int:
    """One number made of the values in some cells, by `np.minimum`, `np.bitwise_or` and their like."""
    return index.reduce(ufunc, array) if isinstance(index, Pieces) else int(ufunc.reduce(array[index]))


def short(array: NDArray[Any], index: Index) -> Any:
    """The values in some cells as a lane keeps them: one number where all are the same, `Lines` of step 1 where they
    count up, else a copy.

    >>> a = np.arange(200, dtype=np.uint64); b = np.full(200, 7)
    >>> short(b, slice(0, 99)), short(a, slice(4, 104)), short(a, slice(0, 2)).tolist()
    (7, Lines(100 in 1, 300e6baf), [0, 1])
    """
    n = index.stop - index.start if isinstance(index, slice) else len(index)
    if n < LONG:
        return take(array, index)
    first, last = (int(array[cell]) for cell in _ends(index))
    if first == last:
        if over(np.minimum, array, index) == over(np.maximum, array, index):
            return first
    elif last - first == n - 1 and array.dtype == np.uint64 and not isinstance(index, np.ndarray):
        runs = index if isinstance(index, Pieces) else Pieces([index.start], [n])
        if runs.count_up(array):
            return Lines(np.array([first], np.uint64), [n], 1)
    return take(array, index)


def _ends(index: Index) -> tuple[int, int]:
    """The first cell and the last one."""
    if isinstance(index, slice):
        return index.start, index.stop - 1
    if isinstance(index, Pieces):
        return index.starts[0], index.starts[-1] + index.sizes[-1] - 1
    return int(index[0]), int(index[-1])


def is_runs(index: Index) -> bool:
    """Whether an index is told as runs of neighbours."""
    return not isinstance(index, np.ndarray)


def runs_of(index: Index) -> list[tuple[int, int]]:
    """An index that `is_runs` as runs: (first, how many)."""
    assert not isinstance(index, np.ndarray)
    if isinstance(index, slice):
        return [(index.start, index.stop - index.start)]
    return list(zip(index.starts, index.sizes, strict=True))


def cells_of(index: Index) -> NDArray[np.int64]:
    """The cells of an index one by one."""
    if isinstance(index, slice):
        return np.arange(index.start, index.stop)
    return index.cells() if isinstance(index, Pieces) else index


def put(array: NDArray[Any], index: Index, values: Any) -> None:
    """Set cells, to one value each or to one for all."""
    if isinstance(values, Lines):
        values = values.part(0, values.n)
    if isinstance(index, Pieces):
        index.fill(array, values)
    else:
        array[index] = values


def flip(array: NDArray[Any], index: Index, bits: Any) -> None:
    """Turn bits of cells over; no cell may come up twice."""
    if isinstance(index, Pieces):
        index.flip(array, bits)
    elif isinstance(index, slice):
        np.bitwise_xor(array[index], bits, array[index])
    else:
        array[index] ^= bits


def copy(array: NDArray[Any], index: Index, source: Index, drop: int) -> None:
    """Fill cells with what others hold, but for the bits ``drop``."""
    keep = ~array.dtype.type(drop)
    if isinstance(index, slice) and isinstance(source, slice):
        np.bitwise_and(array[source], keep, out=array[index])
    else:
        put(array, index, take(array, source) & keep)


class Store(Protocol):
    """What the journal needs of a store."""

    name: str

    def get(self, key: Any, /) -> Any:
        """The value at ``key``."""
        ...

    def put(self, key: Any, value: Any, /) -> None:
        """Set the value at ``key``; only the journal calls this."""
        ...

    def serial(self) -> bytes:
        """Canonical bytes of the content; empty for a store in its first state."""
        ...


class Column:
    """A numpy column: scalar cells through a flat view of the same memory, ranges through numpy.

    >>> c = Column("refcount", 4, np.int32)
    >>> c.put(2, 7); c.get(2), c.array.tolist()
    (7, [0, 0, 7, 0])
    """

    def __init__(self, name: str, length: int, dtype: DTypeLike) -> None:
        self.name = name
        self.array: NDArray[Any] = lazy_zeros(length, dtype)
        self.flat: memoryview[Any] = self.array.data

    def __len__(self) -> int:
        return len(self.array)

    def get(self, key: int, /) -> int:
        """The cell at index ``key``."""
        return int(self.flat[key])

    def put(self, key: int, value: int, /) -> None:
        """Set one cell."""
        self.flat[key] = value

    def put_many(self, index: Index, values: Any) -> None:
        """Set many cells, to one value each or to one for all."""
        put(self.array, index, values)

    def flip_many(self, index: Index, bits: Any) -> None:
        """Turn bits of many cells over; no cell may come up twice."""
        flip(self.array, index, bits)

    def copy_many(self, index: Index, source: Index, drop: int) -> None:
        """Fill cells with what others hold, but for the bits ``drop``."""
        copy(self.array, index, source, drop)

    def add(self, key: int, delta: int) -> None:
        """Add to one cell."""
        self.put(key, self.flat[key] + delta)

    def add_many(self, index: Index, delta: Any) -> None:
        """Add to many cells; an index may come up more than once."""
        if isinstance(index, Pieces):
            index.add(self.array, delta)
        elif isinstance(index, slice) or (len(index) > 32 and rising(index)):
            self.array[index] += delta
        else:
            np.add.at(self.array, index, np.asarray(delta, self.array.dtype))  # of one type: much faster

    def serial(self) -> bytes:
        """The non-zero cells with their indices."""
        where = np.flatnonzero(self.array)
        if not len(where):
            return b""
        return where.astype("<i8").tobytes() + self.array[where].astype("<i8", casting="unsafe").tobytes()


class RangeColumn(Column):
    """A column of counts that whole ranges add to: such an addition is noted at once and spread over the cells only
    when somebody looks at the cells themselves, by ``array`` or ``flat``.

    >>> c = RangeColumn("maps", 1 << 20, np.int32)
    >>> c.add_many(slice(0, 1 << 20), 1); c.add(5, 1); c.get(5), c.get(6), c.flat[5], c.array[4:7].tolist()
    (2, 1, 2, [1, 2, 1])
    """

    _SPREAD = 32  # additions that are kept; the next one spreads them
    _FEW = 8  # cells that are added to one by one

    def __init__(self, name: str, length: int, dtype: DTypeLike) -> None:
        self._noted: list[tuple[int, int, int]] = []
        super().__init__(name, length, dtype)

    @property
    def array(self) -> NDArray[Any]:
        """All cells, with what was noted."""
        for start, stop, delta in self._noted:
            self._array[start:stop] += delta
        self._noted.clear()
        return self._array

    @array.setter
    def array(self, array: NDArray[Any]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._array = array

    @property
    def flat(self) -> memoryview[Any]:
        """All cells one by one, with what was noted."""
        _ = self.array
        return self._flat

    @flat.setter
    def flat(self, flat: memoryview[Any]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._flat = flat

    def get(self, key: int, /) -> int:
        """The cell at index ``key``."""
        count = int(self._flat[key])
        for start, stop, delta in self._noted:
            if start <= key < stop:
                count += delta
        return count

    def put(self, key: int, value: int, /) -> None:
        """Set one cell."""
        self._flat[key] += value - self.get(key)

    def add(self, key: int, delta: int) -> None:
        """Add to one cell."""
        self._flat[key] += delta

    def add_few(self, key: int, n: int, delta: int) -> None:
        """Add to ``n`` neighbouring cells."""
        if n > self._FEW:
            self.add_many(slice(key, key + n), delta)
            return
        flat = self._flat
        for i in range(key, key + n):
            flat[i] += delta

    def put_many(self, index: Index, values: Any) -> None:
        """Set many cells, to one value each or to one for all."""
        put(self.array, index, values)

    def add_many(self, index: Index, delta: Any) -> None:
        """Add to many cells; an index may come up more than once."""
        if not isinstance(index, slice) or isinstance(delta, np.ndarray):
            super().add_many(index, delta)
            return
        noted = self._noted
        if noted and noted[-1] == (index.start, index.stop, -delta):  # taken back, as an undo does it
            noted.pop()
            return
        noted.append((index.start, index.stop, delta))
        if len(noted) > self._SPREAD:
            _ = self.array


class Keyed:
    """A dictionary of immutable values; ``None`` means that the key is absent.

    >>> k = Keyed("tasks")
    >>> k.put(1, "init"); k.get(1), k.get(2)
    ('init', None)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.data: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def get(self, key: Hashable, /) -> Any:
        """The value at ``key``, or None."""
        return self.data.get(key)

    def put(self, key: Hashable, value: Any, /) -> None:
        """Set or, with None, remove."""
        if value is None:
            self.data.pop(key, None)
        else:
            self.data[key] = value

    def serial(self) -> bytes:
        """The items, ordered by the text of their keys."""
        return "\n".join(f"{k!r}={self.data[k]!r}" for k in sorted(self.data, key=repr)).encode()


class Counters:
    """Named integers: the counters of an mm.

    >>> c = Counters("mm1.counters", ("anon", "file")); c.add("anon", 2); c.get("anon")
    2
    """

    def __init__(self, name: str, names: Iterable[str]) -> None:
        self.name = name
        self.data = dict.fromkeys(names, 0)

    def get(self, key: str, /) -> int:
        """The counter's value."""
        return self.data[key]

    def put(self, key: str, value: int, /) -> None:
        """Set the counter."""
        self.data[key] = value

    def add(self, key: str, delta: int) -> None:
        """Add to the counter."""
        self.data[key] += delta

    def serial(self) -> bytes:
        """The non-zero counters by name."""
        return "\n".join(f"{k}={v}" for k, v in sorted(self.data.items()) if v).encode()


def digest(stores: Iterable[Store]) -> str:
    """SHA-256 over the canonical bytes of ``stores``, by name; stores in their first state do not count.

    >>> digest([Keyed("a")]) == digest([])
    True
    """
    import hashlib  # noqa: PLC0415 - it brings OpenSSL, which takes longer to load than most machines to build

    h = hashlib.sha256()
    for store in sorted(stores, key=lambda s: s.name):
        raw = store.serial()
        if raw:
            h.update(f"{store.name}:{len(raw)}:".encode())
            h.update(raw)
    return h.hexdigest()
