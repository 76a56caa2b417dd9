"""What all nodes of the syntax tree share."""

from __future__ import annotations

import attrs

from vmviz.kernel.value import Value


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Node(Value):
    """What every node has: its place in the source (0 for a node that never had one)."""

    line: int = attrs.field(default=0, eq=False, repr=False)
    column: int = attrs.field(default=0, eq=False, repr=False)
    end_column: int = attrs.field(default=0, eq=False, repr=False)
