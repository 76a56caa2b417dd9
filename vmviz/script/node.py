"""What all nodes of the syntax tree share: a place, and how they compare and print."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import attrs

_Key = Callable[["Node"], tuple[object, ...]]
_keys: dict[type[Node], _Key] = {}


def _key(cls: type[Node]) -> _Key:
    """What tells nodes of this class apart."""
    if cls not in _keys:
        _keys[cls] = attrgetter("__class__", *(field.name for field in attrs.fields(cls) if field.eq))
    return _keys[cls]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Node:
    """What every node has: its place in the source (0 for a node that never had one).

    Comparing and printing go by the fields that attrs knows; written once for all nodes, because methods that attrs
    writes for each are compiled at each start of the program.
    """

    line: int = attrs.field(default=0, eq=False, repr=False)
    column: int = attrs.field(default=0, eq=False, repr=False)
    end_column: int = attrs.field(default=0, eq=False, repr=False)

    def __eq__(self, other: object) -> bool:
        if self.__class__ is not other.__class__ or not isinstance(other, Node):
            return NotImplemented
        key = _key(self.__class__)
        return key(self) == key(other)

    def __hash__(self) -> int:
        return hash(_key(self.__class__)(self))

    def __repr__(self) -> str:
        names = [field.name for field in attrs.fields(self.__class__) if field.repr]
        return (
            f"{self.__class__.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"
        )
