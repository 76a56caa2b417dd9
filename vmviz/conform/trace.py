"""One trace: replaying it, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from ..kernel.errors import UnsupportedError
from .compare import compare_record
from .difference import Difference
from .recording import Trace, TraceError, read_trace
from .replay import Replayer
from .scn import Operation

KILLED = "killed by it"
"""What the kernel did in an operation that it did not return from."""


@attrs.define
class TraceResult:
    """How far a trace agreed.

    ``ops`` counts the operations of the scenario, ``replayed`` those that were simulated, ``recorded`` those
    that the trace tells the outcome of and ``agreed`` those of them in which everything agreed, up to the
    first difference.  ``unsupported`` says what stopped the replay, ``missing`` is the difference that an
    operation makes which the simulator does not know.  ``refusal`` is the rule by which it refuses the call
    that killed the traced kernel.
    """

    name: str
    ops: int = 0
    replayed: int = 0
    unsupported: str = ""
    differences: list[Difference] = attrs.Factory(list)
    recorded: int = 0
    agreed: int = 0
    missing: Difference | None = None
    refusal: str = ""

    @property
    def complete(self) -> bool:
        """Whether every operation was replayed and agreed."""
        return self.replayed == self.ops and not self.differences

    @property
    def first(self) -> Difference | None:
        """The first difference; None when the trace agrees."""
        return self.differences[0] if self.differences else self.missing

    @property
    def agrees(self) -> bool:
        """Whether every recorded operation agreed, and what killed the kernel was refused."""
        return self.first is None and self.agreed == self.recorded


def replay_trace(path: Path) -> TraceResult:
    """Replay ``path`` (a .jsonl, with its .scn beside it) up to the first difference or the first operation
    that is not simulated.

    Every record is compared; the differences name the line of the scenario.  A failure of the simulator is a
    difference as well.  Raises what `read_trace` raises.
    """
    trace = read_trace(path)
    player = Replayer(trace.window, trace.total_vm)
    result = TraceResult(trace.name, len(trace.operations), recorded=len(trace.records))
    for record, (op, skipped) in zip(trace.records, trace.paired(), strict=False):
        where = f"line {op.line}, {' '.join((op.op, *op.args))}"
        who = player.who if op.op == "fork" else ""
        try:
            got = player.run(op)
        except UnsupportedError as error:
            result.unsupported = f"{op.op}: {error}"
            result.missing = Difference("operation", _outcome(record), "not simulated", where)
            break
        except Exception as error:  # a failure of ours is a difference to tell, not the end of the comparison
            ours = f"{type(error).__name__}: {error}"
            result.differences.append(Difference("operation", _outcome(record), ours, where))
            break
        result.replayed += 1
        result.ops -= skipped
        found = identity(record, op, who or player.who)
        found = found or compare_record(
            player.machine, player.oracle, player.window, player.start, record, got, player.cleared
        )
        if found:  # what follows follows from this
            result.differences += [attrs.evolve(one, operation=where) for one in found]
            break
        result.agreed += 1
    else:
        if result.agreed < result.recorded:
            record = trace.records[result.agreed]
            result.differences.append(Difference("operation", record["op"], "the scenario ends before", ""))
        elif trace.fatal is not None:
            op = trace.fatal
            result.replayed += 1
            result.unsupported = "this operation killed the traced kernel"
            result.refusal, ours = crash(player, op)
            if ours:
                where = f"line {op.line}, {' '.join((op.op, *op.args))}"
                result.differences.append(Difference("operation", KILLED, ours, where))
    return result


def identity(record: dict[str, Any], op: Operation, who: str) -> list[Difference]:
    """The difference that it makes when a record is not about this operation of this process."""
    kernel = f"{record['who']}, line {record['line']}, {record['op'].rstrip('!')}"
    ours = f"{who}, line {op.line}, {op.op.rstrip('!')}"
    return [] if kernel == ours else [Difference("who", kernel, ours)]


def _outcome(record: dict[str, Any]) -> Any:
    return record.get("errno", record.get("ret"))


def crash(player: Replayer, op: Operation) -> tuple[str, str]:
    """Run the operation that killed the traced kernel.  The simulator must refuse it as the caller's bug and
    stay as it is: the rule by which it does, or else, behind an empty text, what came of it.
    """
    before = player.machine.digest()
    player.refusal = None
    try:
        player.run(op)
        ours = "not refused"
    except Exception as error:  # as above
        ours = f"{type(error).__name__}: {error}"
    refusal = player.refusal
    if refusal is not None and refusal.check == "caller_bug" and player.machine.digest() == before:
        return refusal.message, ""
    return "", ours


__all__ = ["Trace", "TraceError", "TraceResult", "read_trace", "replay_trace"]
