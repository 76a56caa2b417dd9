"""One trace: reading it, replaying it, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from ..kernel.errors import UnsupportedError, VmvizError
from .compare import Difference, compare_record
from .replay import Replayer
from .scn import Operation, parse_scn


class TraceError(VmvizError):
    """A file that is no trace; the text names the file and what is wrong with it."""


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


@attrs.frozen
class Trace:
    """A recording: its window (bytes), its records of operations, the scenario's operations, and the
    operation that killed the kernel (None: nothing did); ``total_vm`` are the pages that the traced program
    had mapped at the start (0: not told).
    """

    name: str
    window: tuple[int, int]
    records: tuple[dict[str, Any], ...]
    operations: tuple[Operation, ...]
    fatal: Operation | None = None
    from_scenario: bool = True
    total_vm: int = 0


def read_trace(path: Path) -> Trace:
    """Read a .jsonl; the operations come from the .scn beside it, or without one from the records.

    Raises `TraceError` for a file that is no trace or that is cut off, `OSError` when it cannot be read.
    """
    records = _json_lines(path)
    try:
        low, high = (int(x, 16) for x in records[0]["window"])
    except (LookupError, TypeError, ValueError) as error:
        raise TraceError(f"{path}: it does not begin with the header of a trace") from error
    total_vm = (records[0].get("start_mm") or {}).get("total_vm", 0)
    done = tuple(r for r in records if "op" in r)
    last = records[-1]
    unfinished = next((r["unfinished"] for r in records if "unfinished" in r), None)
    if "crash" not in last and (last.get("end") != 1 or last.get("ops") != len(done)):
        raise TraceError(f"{path}: the recording is cut off")
    scenario = path.with_suffix(".scn")
    if scenario.exists():
        operations = parse_scn(scenario.read_text(encoding="utf-8"))
        if len(operations) < len(done):
            raise TraceError(f"{path}: {scenario.name} has fewer operations than the recording")
        fatal = operations[len(done)] if unfinished is not None else None
        return Trace(path.stem, (low, high), done, operations, fatal, total_vm=total_vm)
    operations = tuple(_operation(r) for r in done)
    fatal = _operation(json.loads(unfinished + "}")) if unfinished is not None else None
    return Trace(path.stem, (low, high), done, operations, fatal, from_scenario=False, total_vm=total_vm)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            record = json.loads(line)
            if not isinstance(record, dict):
                raise TraceError(f"{path}: line {number} is no object")
            records.append(record)
    except ValueError as error:
        raise TraceError(f"{path}: it is no trace: {error}") from error
    if not records:
        raise TraceError(f"{path}: it is empty")
    return records


def _operation(record: dict[str, Any]) -> Operation:
    args = tuple(str(x) for x in record["args"])
    if record["op"] == "endfork" and record.get("child_alive"):
        args = ("keep",)  # the record does not repeat this word
    return Operation(record["line"], record["op"], args)


def replay_trace(path: Path) -> TraceResult:
    """Replay ``path`` (a .jsonl, with its .scn beside it) up to the first difference or the first operation
    that is not simulated.

    Every record is compared; the differences name the line of the scenario.  A failure of the simulator is a
    difference as well.  Raises what `read_trace` raises.
    """
    trace = read_trace(path)
    player = Replayer(trace.window, trace.total_vm)
    result = TraceResult(trace.name, len(trace.operations), recorded=len(trace.records))
    todo = _with_nesting(trace.operations)
    for record in trace.records:
        op, skipped = next(todo)
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
        here = (op.line, who or player.who)
        if (record["line"], record["who"]) != here:
            kernel = f"{record['who']}, line {record['line']}"
            result.differences.append(Difference("who", kernel, f"{here[1]}, line {here[0]}", where))
            break
        if op.op == "fork" and "errno" in record and trace.from_scenario:  # what it nests has not run
            for _ in range(skipped):
                next(todo)
            result.ops -= skipped
        found = compare_record(
            player.machine, player.oracle, player.window, player.start, record, got, player.cleared
        )
        if found:  # what follows follows from this
            result.differences += [attrs.evolve(one, operation=where) for one in found]
            break
        result.agreed += 1
    else:
        if trace.fatal is not None:
            _crash(player, trace.fatal, result)
    return result


def _outcome(record: dict[str, Any]) -> Any:
    return record.get("errno", record.get("ret"))


def operations_of(trace: Trace) -> Iterator[Operation]:
    """The operations that the records of a trace are about, one each: those inside a failed fork have none."""
    todo = _with_nesting(trace.operations)
    for record in trace.records:
        op, skipped = next(todo)
        yield op
        if op.op == "fork" and "errno" in record and trace.from_scenario:
            for _ in range(skipped):
                next(todo)


def _with_nesting(operations: tuple[Operation, ...]) -> Iterator[tuple[Operation, int]]:
    """The operations in order, each fork with the number of those up to its endfork."""
    for i, op in enumerate(operations):
        depth = n = 0
        if op.op == "fork":
            for n, inner in enumerate(operations[i:]):  # noqa: B007 (n is wanted after the loop)
                depth += {"fork": 1, "endfork": -1}.get(inner.op, 0)
                if not depth:
                    break
        yield op, n


def _crash(player: Replayer, op: Operation, result: TraceResult) -> None:
    """The operation that killed the traced kernel: the simulator must refuse it as the caller's bug and stay
    as it is.
    """
    before = player.machine.digest()
    player.refusal = None
    where = f"line {op.line}, {' '.join((op.op, *op.args))}"
    try:
        player.run(op)
        ours = "not refused"
    except Exception as error:  # as above
        ours = f"{type(error).__name__}: {error}"
    result.replayed += 1
    result.unsupported = "this operation killed the traced kernel"
    refusal = player.refusal
    if refusal is not None and refusal.check == "caller_bug" and player.machine.digest() == before:
        result.refusal = refusal.message
        return
    result.differences.append(Difference("operation", "killed by it", ours, where))


__all__ = ["Trace", "TraceError", "TraceResult", "read_trace", "replay_trace"]
