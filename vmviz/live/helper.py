"""Reading ahead in a second thread: the kernel makes up the files of /proc while they are read, without the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, wait
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 4  # items: who asks for them may be late by so much before the helper has to wait


class Ahead(Iterator[T], Generic[T]):
    """The items of a generator, which a ``helper`` of one thread makes from now on, a few ahead of who asks.

    An error comes out where its item would have come.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(1) as helper:
    ...     list(Ahead(helper, (i for i in range(9))))
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """

    def __init__(self, helper: Executor, items: Generator[T, None, None]) -> None:
        self._helper, self._items = helper, items
        self._coming = deque(helper.submit(next, items, None) for _ in range(DEPTH))

    def __next__(self) -> T:
        item = self._coming.popleft().result() if self._coming else None
        if item is None:
            self.close()
            raise StopIteration
        self._coming.append(self._helper.submit(next, self._items, None))
        return item

    def close(self) -> None:
        """Make no more items; waits for the one that is being made."""
        for item in self._coming:
            item.cancel()
        wait(self._coming)
        self._coming.clear()
        self._items.close()
