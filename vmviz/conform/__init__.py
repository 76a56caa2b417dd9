"""Conformance: replaying what a real kernel did, and comparing state by state.

`vmviz.conform.scn` reads the scenarios, `replay` runs them on a machine with the devices of `oracle`, and
`compare` holds the state after each operation against the recorded one.
"""

from .replay import Replayer, TraceResult, replay_trace
from .scn import Operation, parse_scn

__all__ = ["Operation", "Replayer", "TraceResult", "parse_scn", "replay_trace"]
