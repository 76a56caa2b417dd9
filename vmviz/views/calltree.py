"""The call tree of a statement up to the position: what really ran, folded to the lines that fit."""

from __future__ import annotations

from typing import Any

import attrs

from ..kernel.machine import Machine
from ..kernel.trace.bulk import Bulk
from ..kernel.trace.journal import Check, Enter, Event, Leave, Position
from ..session.steps import StepIndex
from .cells import Line


@attrs.define
class Call:
    """One call (or check, or flush): its name, a detail, its depth, whether it is still open, how many steps it did."""

    name: str
    depth: int
    detail: str = ""
    role: str = "call"
    open: bool = False
    steps: int = 0
    passed: bool | None = None


def calls_between(machine: Machine, start: Position, end: Position) -> list[Call]:
    """The calls from ``start`` to ``end`` in order; bulk records show each of their calls."""
    return _calls(machine, start, end, [])


def _calls(machine: Machine, start: Position, end: Position, stack: list[Call]) -> list[Call]:
    out = list(stack)
    for record, a, b in machine.journal.between(start, end):
        match record:
            case Enter():
                call = Call(record.func, len(stack), _detail(record.fields), open=True)
                stack.append(call)
                out.append(call)
            case Leave():
                if stack:
                    stack.pop().open = False
            case Check():
                word = ("pass" if record.passed else "FAIL") if record.reached else "not reached"
                role = ("pass" if record.passed else "fail") if record.reached else "skip"
                out.append(Call(record.expression, len(stack), word, role, passed=record.passed))
            case Event() if record.name == "tlb_flush":
                fields = dict(record.fields)
                text = (
                    "all of the process" if fields.get("kind") == "full" else f"{fields.get('pages')} pages"
                )
                out.append(Call("tlb_flush", len(stack), text, "warn"))
            case Bulk():
                _bulk(out, len(stack), record, a, b)
    return out


RECENT_RECORDS = 1500
"""How far back the tree looks; what lies further back is told by the calls that are still open."""


def recent_calls(steps: StepIndex, machine: Machine, at: Position) -> list[Call]:
    """The calls of a statement up to a position: the open ones, and in them what happened lately."""
    first = at[0] - RECENT_RECORDS
    if first <= steps.start[0]:
        return calls_between(machine, steps.start, at)
    ahead = [
        Call(func, depth, _detail(record.fields), open=True)
        for depth, (func, rec) in enumerate(steps.path_at(first))
        if isinstance(record := machine.journal.records[rec], Enter)
    ]
    return _calls(machine, (first, 0), at, ahead)


def _bulk(out: list[Call], depth: int, record: Bulk, a: int, b: int) -> None:
    ends = (*record.cuts[1:], record.n)
    for first, last in zip(record.cuts, ends, strict=True):
        low, high = max(first, a), min(last, b)
        if low >= high:
            continue
        address = record.address_of(low)
        detail = f"{_slots(address, high - low)}"
        out.append(Call(record.func, depth, detail, open=high < last, steps=high - low))


def _slots(address: int, n: int) -> str:
    block, first = address >> 21 & 511, address >> 12 & 511
    return f"{block:03x}.{first:03x}" + (f"..{first + n - 1:03x}" if n > 1 and first + n <= 512 else "")


def _detail(fields: tuple[tuple[str, Any], ...]) -> str:
    shown = [f"{v:x}" for k, v in fields if k in ("address", "addr", "start", "pfn") and isinstance(v, int)]
    return shown[0] if shown else ""


def tree_lines(calls: list[Call], width: int, height: int) -> list[Line]:
    """The calls as lines with branches, the last ``height`` of them; what is left out above is counted."""
    base = min((c.depth for c in calls), default=0)
    if len(calls) > height:
        calls = _notable(calls, base)
    hidden = 0
    if len(calls) > height:
        hidden = len(calls) - height + 1
        calls = [calls[0], *calls[-(height - 2) :]] if height > 2 else calls[-height:]
    lines = [_line(call, calls[i + 1 :], base, width) for i, call in enumerate(calls)]
    if hidden and height > 2:
        lines.insert(1, [(f"   ... {hidden} more above", "dim")])
    return lines


def _line(call: Call, after: list[Call], base: int, width: int) -> Line:
    depth = call.depth - base
    branch = ""
    if depth:
        more = any(d == call.depth for d in _until_below([c.depth for c in after], call.depth))
        branch = "  " * (depth - 1) + ("├ " if more else "└ ")
    right = f"{call.steps} cleared" if call.name == "zap_pte_range" else str(call.steps) if call.steps else ""
    right = right or (call.detail if call.passed is not None else "")
    detail = "" if call.passed is not None else call.detail
    role = call.role if call.passed is not None else "count"
    here = call.open and bool(call.steps)
    text = f"{call.name}  {detail}".rstrip()[: width - len(branch) - len(right) - 4]
    pad = width - 1 - len(branch) - len(text) - len(right) - 2
    return [
        (" ", "text"),
        (branch, "tree"),
        (text, "now" if here else "call"),
        (" " * max(1, pad), "text"),
        (right, role),
        (" ►" if here else "  ", "mark.cursor"),
    ]


def _notable(calls: list[Call], base: int) -> list[Call]:
    """Without the housekeeping: what checks, clears, flushes or is open, and the calls that these lie in."""
    kept: list[Call] = []
    low = base
    for call in reversed(calls):
        told = call.passed is not None or call.steps or call.open or call.role == "warn"
        if told or call.depth < low or call.depth == base:
            kept.append(call)
            low = call.depth
    return kept[::-1]


def _until_below(depths: list[int], depth: int) -> list[int]:
    out = []
    for d in depths:
        if d < depth:
            break
        out.append(d)
    return out
