"""The call tree of a statement up to the position: what really ran, folded to the lines that fit."""

from __future__ import annotations

from typing import Any

import attrs

from ..kernel.machine import Machine
from ..kernel.trace.bulk import Bulk
from ..kernel.trace.journal import Check, Enter, Event, Leave, Position
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
    out: list[Call] = []
    stack: list[Call] = []
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


def _bulk(out: list[Call], depth: int, record: Bulk, a: int, b: int) -> None:
    ends = (*record.cuts[1:], record.n)
    for first, last in zip(record.cuts, ends, strict=True):
        low, high = max(first, a), min(last, b)
        if low >= high:
            break
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
    lines: list[Line] = []
    base = min((c.depth for c in calls), default=0)
    if len(calls) > height:
        calls = _notable(calls, base)
    for i, call in enumerate(calls):
        depth = call.depth - base
        branch = ""
        if depth:
            ahead = [c.depth for c in calls[i + 1 :]]
            more = any(d == call.depth for d in _until_below(ahead, call.depth))
            branch = "  " * (depth - 1) + ("├ " if more else "└ ")
        right = (
            f"{call.steps} cleared" if call.name == "zap_pte_range" else str(call.steps) if call.steps else ""
        )
        right = right or (call.detail if call.passed is not None else "")
        detail = "" if call.passed is not None else call.detail
        role = call.role if call.passed is not None else "count"
        text = f"{call.name}  {detail}".rstrip()
        room = width - len(branch) - len(right) - 4
        line: Line = [
            (" ", "text"),
            (branch, "tree"),
            (text[:room], "now" if call.open and call.steps else "call"),
        ]
        pad = width - 1 - len(branch) - len(text[:room]) - len(right) - 2
        line += [
            (" " * max(1, pad), "text"),
            (right, role),
            (" ►" if call.open and call.steps else "  ", "mark.cursor"),
        ]
        lines.append(line)
    if len(lines) > height:
        hidden = len(lines) - height + 1
        lines = (
            [lines[0], [(f"   ... {hidden} more above", "dim")], *lines[-(height - 2) :]]
            if height > 2
            else lines[-height:]
        )
    return lines


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
