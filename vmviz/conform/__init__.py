"""Conformance: replaying what a real kernel did, and comparing state by state.

`vmviz.conform.scn` reads the scenarios, `replay` runs their operations on a machine with the devices of
`oracle`, `compare` holds the state after each operation against the recorded one, `trace` does so for a whole
recording and `command` for many.
"""

from .difference import Difference
from .replay import Replayer
from .scn import Operation, parse_scn
from .trace import TraceError, TraceResult, read_trace, replay_trace

__all__ = [
    "Difference",
    "Operation",
    "Replayer",
    "TraceError",
    "TraceResult",
    "parse_scn",
    "read_trace",
    "replay_trace",
]
