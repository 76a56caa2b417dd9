"""Many VMAs as columns, and chunks of them that are made when somebody looks into one.

An imported process may have 65,530 VMAs, of which a screen shows some forty and a statement touches a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, SupportsIndex, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from .vma import Vma

T = TypeVar("T")


class VmaColumns:
    """VMAs in address order: ``start`` and ``end`` in bytes, ``pgoff`` in pages, ``anon_vma`` and ``chain`` of each.

    ``kind`` tells of each to which of the ``kinds`` it is alike in all other fields.
    """

    __slots__ = ("anon_vma", "chain", "end", "kind", "kinds", "pgoff", "start")

    def __init__(
        self,
        start: NDArray[np.uint64],
        end: NDArray[np.uint64],
        pgoff: NDArray[np.uint64],
        anon_vma: NDArray[np.uint64],
        chain: NDArray[np.signedinteger[Any]],
        kind: NDArray[np.int64],
        kinds: Sequence[Vma],
    ) -> None:
        self.start = start
        self.end = end
        self.pgoff = pgoff
        self.anon_vma = anon_vma
        self.chain = chain
        self.kind = kind
        self.kinds = kinds

    @classmethod
    def of(cls, vmas: Sequence[Vma]) -> VmaColumns:
        """The columns of VMAs in address order.

        >>> vmas = [Vma(0x1000, 0x3000, 0x73, name="a"), Vma(0x8000, 0x9000, 0x71, 8, anon_vma=2, chain=1)]
        >>> VmaColumns.of(vmas).rows(0, 2) == vmas
        True
        """
        index: dict[Vma, int] = {}
        same = (v.replace(start=0, end=0, pgoff=0, anon_vma=0, chain=0) for v in vmas)
        kind = [index.setdefault(v, len(index)) for v in same]
        start, end, pgoff, anon_vma = (
            np.array([getattr(v, name) for v in vmas], np.uint64)
            for name in ("start", "end", "pgoff", "anon_vma")
        )
        chain = np.array([v.chain for v in vmas], np.int64)
        return cls(start, end, pgoff, anon_vma, chain, np.array(kind, np.int64), list(index))

    def __len__(self) -> int:
        return len(self.start)

    @property
    def vm_flags(self) -> NDArray[np.uint64]:
        """The flags of each VMA."""
        return np.array([kind.vm_flags for kind in self.kinds], np.uint64)[self.kind]

    @property
    def files(self) -> frozenset[int]:
        """The ids of the files behind them (0: none)."""
        return frozenset(kind.file for kind in self.kinds)

    def named(self, name: str) -> list[int]:
        """The ordinals of the VMAs with this name."""
        some = [k for k, kind in enumerate(self.kinds) if kind.name == name]
        return np.flatnonzero(np.isin(self.kind, some)).tolist() if some else []

    def rows(self, i: int, j: int) -> list[Vma]:
        """The VMAs with ordinals ``i`` to ``j`` - 1."""
        alike = [self.kinds[k] for k in self.kind[i:j].tolist()]
        own = (
            column[i:j].tolist() for column in (self.start, self.end, self.pgoff, self.anon_vma, self.chain)
        )
        return [
            Vma(start, end, v.vm_flags, pgoff, v.page_prot, v.file, anon_vma, v.ops, v.name, v.private, chain)
            for v, start, end, pgoff, anon_vma, chain in zip(alike, *own, strict=True)
        ]


class UnmadeChunk(Generic[T]):
    """A part of columns, in place of a list of what is in it: VMAs, or numbers.

    At the first look it makes the list, hands it to ``place``, which puts it where this stood, and serves what is
    asked from there.
    """

    __slots__ = ("_end", "_first", "_made", "_part", "_place")

    def __init__(
        self,
        first: int,
        end: int,
        part: Callable[[int, int], list[T]],
        place: Callable[[UnmadeChunk[T], int, list[T]], None],
    ) -> None:
        """``part`` makes the list of what has the ordinals ``first`` to ``end`` - 1; ``place`` gets ``first``, too."""
        self._first, self._end = first, end
        self._part, self._place = part, place
        self._made: list[T] | None = None

    def _list(self) -> list[T]:
        made = self._made
        if made is None:
            made = self._made = self._part(self._first, self._end)
            self._place(self, self._first, made)
        return made

    def __len__(self) -> int:
        return self._end - self._first if self._made is None else len(self._made)

    @overload
    def __getitem__(self, i: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: Any) -> Any:
        return self._list()[i]

    def __setitem__(self, i: Any, item: Any) -> None:
        self._list()[i] = item

    def __delitem__(self, i: Any) -> None:
        del self._list()[i]

    def __iter__(self) -> Iterator[T]:
        return iter(self._list())

    def __eq__(self, other: object) -> bool:
        return self._list() == other

    __hash__ = None  # type: ignore[assignment]

    def __iadd__(self, more: Iterable[T]) -> list[T]:
        made = self._list()
        made += more
        return made

    def insert(self, i: int, item: T) -> None:
        """As a list's."""
        self._list().insert(i, item)

    def count(self, item: T) -> int:
        """As a list's."""
        return self._list().count(item)

    def index(self, item: T) -> int:
        """As a list's."""
        return self._list().index(item)
