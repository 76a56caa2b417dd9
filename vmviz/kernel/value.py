"""A base for value classes: comparing, hashing and printing written once, by the fields that attrs knows.

What attrs writes for a class is compiled each time the program starts, which for dozens of classes is a good
part of a short run.  A class that is compared all the time had better have its own methods.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import attrs

_Key = Callable[[Any], tuple[object, ...]]
_keys: dict[type, _Key] = {}


def _key(cls: Any) -> _Key:
    """What tells the values of a class apart."""
    if cls not in _keys:
        _keys[cls] = attrgetter("__class__", *(field.name for field in attrs.fields(cls) if field.eq))
    return _keys[cls]


class Value:
    """The base of classes made with ``attrs.frozen(eq=False, repr=False)``.

    >>> @attrs.frozen(eq=False, repr=False)
    ... class Point(Value):
    ...     x: int
    ...     y: int = 0
    ...     name: str = attrs.field(default="", eq=False, repr=False)
    >>> Point(1), Point(1, name="a") == Point(1), Point(1) == Point(2), len({Point(1), Point(1)})
    (Point(x=1, y=0), True, False, 1)
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        cls = self.__class__
        if cls is not other.__class__:
            return NotImplemented
        key = _key(cls)
        return key(self) == key(other)

    def __hash__(self) -> int:
        return hash(_key(self.__class__)(self))

    def __repr__(self) -> str:
        cls: Any = self.__class__
        names = [field.name for field in attrs.fields(cls) if field.repr]
        return f"{cls.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"
