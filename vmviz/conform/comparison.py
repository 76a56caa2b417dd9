"""A trace and the simulator beside it, operation by operation: what a screen shows (DESIGN.md, the conform view).

The trace is replayed once; every operation keeps its place in the journal, so that going from one to another is
a seek.  What comes after the first difference follows from it and is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from ..kernel.trace.journal import Position
from .compare import (
    COUNTERS,
    Difference,
    compare_record,
    counters_of,
    leaves_recorded,
    leaves_simulated,
    vma_fields,
)
from .replay import Replayer
from .trace import Trace, operations_of, read_trace

AGREES, DIFFERS, NOT_COMPARED = "agrees", "differs", "not compared"
RESULT = ("ret", "errno", "sig", "touched", "data", "vec", "zap", "child_status", "child_alive")


@attrs.frozen
class Step:
    """One operation: its line of the scenario, its words, who did it, and what came of the comparison."""

    line: int
    text: str
    who: str
    verdict: str
    record: dict[str, Any]
    got: dict[str, Any]
    position: Position | None
    differences: tuple[Difference, ...] = ()
    failure: str = ""


@attrs.frozen
class Row:
    """One fact, as the kernel has it and as the simulator does; ``part`` is what it belongs to."""

    part: str
    name: str
    kernel: str
    ours: str

    @property
    def differs(self) -> bool:
        """Whether the two disagree."""
        return self.kernel != self.ours


class Comparison:
    """A trace, replayed, to be looked at step by step.

    Raises what `read_trace` raises.
    """

    def __init__(self, path: Path) -> None:
        self.trace: Trace = read_trace(path)
        self.player = Replayer(self.trace.window, self.trace.total_vm)
        self.steps: list[Step] = list(self._replay())
        self.first = next((i for i, step in enumerate(self.steps) if step.verdict == DIFFERS), -1)

    @property
    def agreed(self) -> int:
        """How many operations agree."""
        return sum(step.verdict == AGREES for step in self.steps)

    def _replay(self) -> Iterator[Step]:
        player, stopped = self.player, False
        for record, op in zip(self.trace.records, operations_of(self.trace), strict=False):
            text = " ".join((op.op, *op.args))
            if stopped:
                yield Step(op.line, text, record["who"], NOT_COMPARED, record, {}, None)
                continue
            who = player.who if op.op == "fork" else ""
            try:
                got = player.run(op)
            except Exception as error:  # a failure of ours is a difference to show, not the end of the screen
                stopped = True
                words = f"{type(error).__name__}: {error}"
                yield Step(op.line, text, record["who"], DIFFERS, record, {}, None, (), words)
                continue
            found = compare_record(
                player.machine, player.oracle, player.window, player.start, record, got, player.cleared
            )
            if (record["line"], record["who"]) != (op.line, who or player.who):
                found.insert(0, Difference("who", record["who"], who or player.who))
            stopped = bool(found)
            verdict = DIFFERS if found else AGREES
            position = player.machine.position
            yield Step(op.line, text, record["who"], verdict, record, got, position, tuple(found))

    def rows(self, index: int) -> list[Row]:
        """All facts of one step, in the order of the trace: result, counters, VMAs, entries."""
        step = self.steps[index]
        if step.position is None:
            return [Row("", "simulator", _text(_outcome(step.record)), step.failure or "not run")]
        self.player.machine.journal.seek(step.position)
        out = [
            Row("result", name, _text(step.record.get(name)), _text(step.got.get(name)))
            for name in RESULT
            if name in step.record or name in step.got
        ]
        now = counters_of(self.player.machine)
        out += [
            Row("counters", name, str(step.record["mm"][name]), str(now[name] - self.player.start[name]))
            for name in COUNTERS
        ]
        return [*out, *self._vmas(step.record), *self._leaves(step.record)]

    def _vmas(self, record: dict[str, Any]) -> Iterator[Row]:
        machine, (low, high) = self.player.machine, self.player.window
        ours = {v["s"]: v for v in (vma_fields(machine, v) for v in machine.mm.vmas.overlapping(low, high))}
        kernel = {v["s"]: v for v in record.get("vmas", [])}
        for start in sorted(ours.keys() | kernel.keys(), key=lambda s: int(s, 16)):
            sides = [_vma_words(side.get(start)) for side in (kernel, ours)]
            for name in sides[0] if sides[0] else sides[1]:
                yield Row(
                    "VMAs", f"{start[2:]} {name}".strip(), sides[0].get(name, "--"), sides[1].get(name, "--")
                )

    def _leaves(self, record: dict[str, Any]) -> Iterator[Row]:
        machine = self.player.machine
        kernel = leaves_recorded(record.get("pt", []), machine.sys.mode)
        ours = leaves_simulated(machine, self.player.oracle, self.player.window)
        begun: tuple[int, int, str, str] | None = None  # first address, entries, both texts
        for va in sorted(kernel.keys() | ours.keys()):
            texts = _leaf_words(kernel.get(va)), _leaf_words(ours.get(va))
            if begun is not None and begun[2:] == texts and va == begun[0] + (begun[1] << 12):
                begun = (begun[0], begun[1] + 1, *texts)
                continue
            if begun is not None:
                yield _leaf_row(begun)
            begun = (va, 1, *texts)
        if begun is not None:
            yield _leaf_row(begun)


def _leaf_row(run: tuple[int, int, str, str]) -> Row:
    va, n, kernel, ours = run
    return Row("entries", f"{va:x}" + (f" x{n}" if n > 1 else ""), kernel, ours)


def _outcome(record: dict[str, Any]) -> Any:
    return record.get("errno", record.get("ret"))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_text(one)}" for name, one in value.items())
    return "--" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def _vma_words(vma: dict[str, Any] | None) -> dict[str, str]:
    """A VMA of either side in a few texts; empty when the side does not have it."""
    if vma is None:
        return {}
    return {
        "": f"-{vma['e'][2:]} {vma['perms']} {vma['path']}".rstrip(),
        "VmFlags": vma["VmFlags"],
        "offset, prot": f"{vma['pgoff']} {vma['prot']}",
        "smaps": " ".join(f"{name} {n}" for name, n in sorted(vma["kB"].items()) if n),
    }


def _leaf_words(leaf: dict[str, Any] | None) -> str:
    """An entry of either side in one text."""
    if leaf is None:
        return "--"
    words = [leaf["lv"] if leaf["lv"] != "pte" else "", leaf["fl"], leaf["cls"], _index(leaf)]
    words += [f"{name} {leaf[name]}" for name in ("ref", "map", "pm", "kpf") if name in leaf]
    return " ".join(word for word in [*words, leaf.get("pf", "")] if word)


def _index(leaf: dict[str, Any]) -> str:
    return f"#{leaf['idx']}" if "idx" in leaf else ""
