"""One difference between a recording and the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs


@attrs.frozen
class Difference:
    """One field in which a machine differs from a trace: ``operation`` is the line of the scenario,
    ``kernel`` the recorded value and ``ours`` the simulated one.

    >>> str(Difference("mm.anon", 2, 1, "line 4, write B 2p"))
    'line 4, write B 2p: mm.anon 1, recorded 2'
    """

    field: str
    kernel: Any
    ours: Any
    operation: str = ""

    def __str__(self) -> str:
        where = f"{self.operation}: " if self.operation else ""
        return f"{where}{self.field} {self.ours!r}, recorded {self.kernel!r}"


def classes(values: Sequence[Any]) -> list[int]:
    """Values by first appearance: two lists have the same classes when they name the same equalities; 0
    stays.

    >>> classes([7, 0, 9, 7])
    [1, 0, 2, 1]
    """
    seen: dict[Any, int] = {0: 0}
    return [seen.setdefault(v, len(seen)) for v in values]


__all__ = ["Difference", "classes"]
