"""Making a list of operations small that leads to a difference (delta debugging, ddmin).

Every candidate runs on a fresh child and a fresh machine, so that nothing of the others is left over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import attrs

from .live import Finding
from .live_ops import Operation, balanced

Replay = Callable[[Sequence[Operation]], Finding | None]
"""Runs operations up to the first difference."""


def shrink(finding: Finding, replay: Replay) -> Finding:
    """The finding with as few operations as taking away any one of them allows, and with short ranges.

    It stays a difference of the same kind (the field, addresses aside) at the same kind of operation.  What a
    second run of the same operations does not show (something else on the system had a part in it) stays whole
    and is `Finding.once`.

    >>> from .live import LiveDifference
    >>> def replay(ops):
    ...     bad = [i for i, op in enumerate(ops) if op.args == (7,)]
    ...     return Finding(tuple(ops[: bad[0] + 1]), LiveDifference("ret", 0, 1)) if bad else None
    >>> many = tuple(Operation("mlockall", (i,)) for i in range(40))
    >>> shrink(replay(many), replay).operations
    (Operation(name='mlockall', args=(7,)),)
    """
    kind = _kind(finding)

    def same(operations: Sequence[Operation]) -> Finding | None:
        found = replay(operations)
        return found if found is not None and _kind(found) == kind else None

    if same(finding.operations) is None:
        return attrs.evolve(finding, once=True)
    finding = _fewer(finding, same)
    finding = _shorter(finding, same)
    return _fewer(finding, same)


def _kind(finding: Finding) -> tuple[str, str]:
    return finding.operations[-1].name, re.sub(
        r"0x[0-9a-f]+|[0-9a-f]+-[0-9a-f]+", "", finding.difference.field
    )


def _fewer(finding: Finding, replay: Replay) -> Finding:
    parts = 2
    while (n := len(finding.operations)) > 1:
        size = -(-n // parts)
        for at in range(0, n, size):
            rest = balanced((*finding.operations[:at], *finding.operations[at + size :]))
            found = replay(rest) if rest else None
            if found is not None:
                finding, parts = found, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, n)
    return finding


def _shorter(finding: Finding, replay: Replay) -> Finding:
    """Touch one page where one is enough."""
    for i, op in enumerate(finding.operations):
        if op.name not in ("load", "store") or op.args[1] == 1 or i >= len(finding.operations):
            continue
        one = attrs.evolve(op, args=(op.args[0], 1, *op.args[2:]))
        found = replay((*finding.operations[:i], one, *finding.operations[i + 1 :]))
        if found is not None:
            finding = found
    return finding


__all__ = ["shrink"]
