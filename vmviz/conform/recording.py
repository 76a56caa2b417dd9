"""Reading a recording of a real kernel: the records of a .jsonl and the operations of its scenario."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..kernel.errors import VmvizError
from .scn import Operation, parse_scn

Shape = Mapping[str, type]

_RECORD: Shape = {
    "line": int, "who": str, "op": str, "args": list, "vmas": list, "pt": list, "tables": dict, "mm": dict,
}  # fmt: skip
_VMA: Shape = {"s": str, "e": str, "kB": dict}
_ENTRY: Shape = {"lv": str, "leaf": int, "va": str, "n": int}
_OPTIONAL: Shape = {"fl": str, "val": str, "idx": int, "pfns": list, "av": int}
"""What the comparison computes with; any other field is only held against ours, whatever it is."""
_LEVELS = ("pgd", "p4d", "pud", "pmd", "pte")
_NAMES = {int: "number", str: "text", list: "list", dict: "object"}


class TraceError(VmvizError):
    """A file that is no trace; the text names the file and what is wrong with it."""


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

    def paired(self) -> Iterator[tuple[Operation, int]]:
        """For each record its operation, and how many operations behind it have none: those inside a fork
        that failed.  A scenario that is too short ends it early.
        """
        at = 0
        for record in self.records:
            if at == len(self.operations):
                return
            op = self.operations[at]
            failed = op.op == "fork" and "errno" in record and self.from_scenario
            skipped = _nested(self.operations[at:]) if failed else 0
            at += 1 + skipped
            yield op, skipped


def _nested(operations: tuple[Operation, ...]) -> int:
    """How many operations follow the fork at the beginning, up to its endfork."""
    depth = n = 0
    for n, inner in enumerate(operations):  # noqa: B007 (n is wanted after the loop)
        depth += {"fork": 1, "endfork": -1}.get(inner.op, 0)
        if not depth:
            break
    return n


def read_trace(path: Path) -> Trace:
    """Read a .jsonl; the operations come from the .scn beside it, or without one from the records.

    Raises `TraceError` for a file that is no trace or that is cut off, `OSError` when it cannot be read.
    """
    lines = _json_lines(path)
    try:
        header = lines[0]
        low, high = (int(x, 16) for x in header["window"])
        total_vm = int((header.get("start_mm") or {}).get("total_vm", 0))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise TraceError(f"{path}: it does not begin with the header of a trace") from error
    done, last = [], lines[-1]
    for number, one in enumerate(lines, 1):
        if "op" in one:
            _check(one, f"{path}: line {number}")
            done.append(one)
    unfinished = next((one["unfinished"] for one in lines if "unfinished" in one), None)
    killed = "crash" in last
    if not killed and (last.get("end") != 1 or last.get("ops") != len(done)):
        raise TraceError(f"{path}: the recording is cut off")
    scenario = path.with_suffix(".scn")
    if scenario.exists():
        try:
            operations = parse_scn(scenario.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TraceError(f"{scenario}: it is no scenario: {error}") from error
    else:
        operations = tuple(_operation(one) for one in done)
        if unfinished is not None:
            operations = (*operations, _fatal(unfinished, path))
    trace = Trace(
        path.stem, (low, high), tuple(done), operations,
        from_scenario=scenario.exists(), total_vm=total_vm,
    )  # fmt: skip
    pairs = list(trace.paired())
    behind = len(pairs) + sum(skipped for _, skipped in pairs)
    if killed and unfinished is None and not scenario.exists():
        raise TraceError(f"{path}: it does not tell the operation that killed the kernel")
    if len(operations) < len(done) or (killed and behind >= len(operations)):
        raise TraceError(f"{path}: {scenario.name} has fewer operations than the recording")
    return attrs.evolve(trace, fatal=operations[behind]) if killed else trace


def _json_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            record = json.loads(line)
            if not isinstance(record, dict):
                raise TraceError(f"{path}: line {number} is no object")
            records.append(record)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: it is no trace: {error}") from error
    if not records:
        raise TraceError(f"{path}: it is empty")
    return records


def _check(record: dict[str, Any], where: str) -> None:
    """Raise `TraceError` where a record lacks what the comparison goes by, or has it in another form."""
    _fields(record, _RECORD, where)
    for vma in record["vmas"]:
        _fields(vma, _VMA, f"{where}, a VMA")
        _optional(vma, f"{where}, a VMA")
        _fields(vma["kB"], dict.fromkeys(vma["kB"], int), f"{where}, the kB of a VMA")
        _hex(vma["s"], f"{where}, a VMA")
    for entry in record["pt"]:
        _fields(entry, _ENTRY, f"{where}, an entry")
        _optional(entry, f"{where}, an entry")
        if entry["lv"] not in _LEVELS or entry["leaf"] not in (0, 1) or entry["n"] < 1:
            told = f"lv {entry['lv']!r}, leaf {entry['leaf']}, n {entry['n']}"
            raise TraceError(f"{where}: there are no entries of {told}")
        for text in [
            entry["va"],
            *(entry[name] for name in ("fl",) if name in entry),
            *entry.get("pfns", ()),
        ]:
            _hex(text, f"{where}, an entry")
    for name in ("brk", "start_brk"):
        if name in record["mm"]:
            _hex(record["mm"][name], f"{where}, {name}")


def _fields(value: Any, shape: Shape, where: str) -> None:
    if not isinstance(value, dict):
        raise TraceError(f"{where}: it is no object")
    for name, kind in shape.items():
        if name not in value:
            raise TraceError(f"{where}: {name!r} is missing")
        if not isinstance(value[name], kind):
            raise TraceError(f"{where}: {name!r} is no {_NAMES[kind]}")


def _optional(value: dict[str, Any], where: str) -> None:
    _fields(value, {name: kind for name, kind in _OPTIONAL.items() if name in value}, where)


def _hex(value: Any, where: str) -> None:
    try:
        int(value, 16)
    except (TypeError, ValueError):
        raise TraceError(f"{where}: {value!r} is no hex number") from None


def _operation(record: dict[str, Any]) -> Operation:
    args = tuple(str(x) for x in record["args"])
    if record["op"] == "endfork" and record.get("child_alive"):
        args = ("keep",)  # the record does not repeat this word
    return Operation(record["line"], record["op"], args)


def _fatal(unfinished: Any, path: Path) -> Operation:
    """The operation that the kernel did not return from, from the beginning of its record."""
    try:
        record = json.loads(unfinished + "}")
        _fields(record, {"line": int, "op": str, "args": list}, f"{path}: the unfinished operation")
    except (TypeError, ValueError) as error:
        raise TraceError(f"{path}: the unfinished operation cannot be read") from error
    return _operation(record)


__all__ = ["Trace", "TraceError", "read_trace"]
