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
    RESULT,
    compare_record,
    counters_of,
    differing_lines,
    table_counts,
    vma_fields,
)
from .difference import Difference, classes
from .entries import forget_accessed, tree_recorded, tree_simulated
from .recording import Trace, read_trace
from .replay import Replayer
from .trace import KILLED, crash, identity

AGREES, DIFFERS, NOT_COMPARED = "agrees", "differs", "not compared"


@attrs.frozen
class Step:
    """One operation: its line of the scenario, its words, who did it, and what came of the comparison.

    ``window`` and ``cleared`` are what the replay went by then; ``position`` is None where the simulator has no
    state to show, and ``failure`` says what it did instead.
    """

    line: int
    text: str
    who: str
    verdict: str
    record: dict[str, Any]
    got: dict[str, Any]
    position: Position | None
    differences: tuple[Difference, ...] = ()
    failure: str = ""
    window: tuple[int, int] = (0, 0)
    cleared: bool = False


@attrs.frozen
class Row:
    """One fact, as the kernel has it and as the simulator does; ``part`` is what it belongs to."""

    part: str
    name: str
    kernel: str
    ours: str
    verdict: str = ""
    """Given where the texts alone do not tell it."""

    @property
    def differs(self) -> bool:
        """Whether the two disagree."""
        return self.verdict == DIFFERS if self.verdict else self.kernel != self.ours


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
        for record, (op, _) in zip(self.trace.records, self.trace.paired(), strict=False):
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
            found = identity(record, op, who or player.who)
            found += compare_record(
                player.machine, player.oracle, player.window, player.start, record, got, player.cleared
            )
            stopped = bool(found)
            verdict = DIFFERS if found else AGREES
            yield Step(
                op.line, text, record["who"], verdict, record, got, player.machine.position, tuple(found),
                window=player.window, cleared=player.cleared,
            )  # fmt: skip
        fatal = self.trace.fatal
        if fatal is not None:
            text = " ".join((fatal.op, *fatal.args))
            rule, ours = ("", "not run") if stopped else crash(player, fatal)
            verdict = NOT_COMPARED if stopped else AGREES if rule else DIFFERS
            words = ours or f"refused as the caller's bug: {rule}"
            yield Step(fatal.line, text, player.who, verdict, {"ret": KILLED}, {}, None, (), words)

    def rows(self, index: int) -> list[Row]:
        """All facts of one step, in the order of the trace: result, counters, VMAs, tables, entries.

        A difference of another kind, such as which entries have the same frame, stands behind them.
        """
        step = self.steps[index]
        if step.position is None:
            return [
                Row("", "simulator", _text(_outcome(step.record)), step.failure or "not run", step.verdict)
            ]
        machine, record = self.player.machine, step.record
        machine.journal.seek(step.position)
        out = [
            Row("result", name, _text(record.get(name)), _text(step.got.get(name)))
            for name in RESULT
            if name in record or name in step.got
        ]
        now = counters_of(machine)
        out += [
            Row("counters", name, _text(record["mm"].get(name)), str(now[name] - self.player.start[name]))
            for name in COUNTERS
        ]
        out += [*self._vmas(step), *self._tables(step), *self._leaves(step)]
        if step.differences and not any(row.differs for row in out):
            out += [Row("other", one.field, _text(one.kernel), _text(one.ours)) for one in step.differences]
        return out

    def _vmas(self, step: Step) -> Iterator[Row]:
        machine = self.player.machine
        vmas = machine.mm.vmas.overlapping(*step.window)
        mine: list[dict[str, Any]] = [{**vma_fields(machine, v), "av": v.anon_vma} for v in vmas]
        sides = [
            {
                v["s"]: _vma_words(v, av)
                for v, av in zip(side, classes([v.get("av") for v in side]), strict=True)
            }
            for side in (step.record["vmas"], mine)
        ]
        lines = {v["s"]: v["kB"] for v in mine}
        for vma in step.record["vmas"]:
            if (
                step.cleared
                and vma["s"] in lines
                and not list(differing_lines(vma["kB"], lines[vma["s"]], True))
            ):
                sides[0][vma["s"]]["smaps"] = sides[1][vma["s"]]["smaps"]  # all differences are explained
        for start in sorted(sides[0].keys() | sides[1].keys(), key=lambda s: int(s, 16)):
            kernel, ours = (side.get(start, {}) for side in sides)
            for name in kernel or ours:
                yield Row("VMAs", f"{start[2:]} {name}".strip(), kernel.get(name, "--"), ours.get(name, "--"))

    def _tables(self, step: Step) -> Iterator[Row]:
        counts = table_counts(self.player.machine, *step.window)
        for name in dict.fromkeys((*counts, *step.record["tables"])):
            yield Row("tables", name, _text(step.record["tables"].get(name)), _text(counts.get(name)))

    def _leaves(self, step: Step) -> Iterator[Row]:
        machine = self.player.machine
        kernel = tree_recorded(step.record["pt"], machine.sys.mode)
        ours = tree_simulated(machine, self.player.oracle, step.window)
        for level, at in sorted(kernel.tables.keys() | ours.tables.keys()):
            texts = [_table_words(side.tables.get((level, at))) for side in (kernel, ours)]
            if texts[0] != texts[1]:
                yield Row("entries", f"{level} {at:x}", *texts)
        if step.cleared:
            forget_accessed(kernel, ours)
        begun: tuple[int, int, str, str] | None = None  # first address, entries, both texts
        for va in sorted(kernel.leaves.keys() | ours.leaves.keys()):
            words = _leaf_words(kernel.leaves.get(va)), _leaf_words(ours.leaves.get(va))
            if begun is not None and begun[2:] == words and va == begun[0] + (begun[1] << 12):
                begun = (begun[0], begun[1] + 1, *words)
                continue
            if begun is not None:
                yield _leaf_row(begun)
            begun = (va, 1, *words)
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


def _vma_words(vma: dict[str, Any], anon_vma: int) -> dict[str, str]:
    """A VMA of either side in a few texts; anon_vmas are numbered in the order of addresses."""
    numbers = [("vm_flags", ""), ("pgoff", "pgoff "), ("prot", "prot "), ("off", "offset "), ("ops", "ops ")]
    words = [f"{label}{_text(vma.get(name))}" for name, label in numbers]
    return {
        "": " ".join(word for word in (f"-{vma['e'][2:]}", vma.get("perms"), vma.get("path")) if word),
        "VmFlags": _text(vma.get("VmFlags")),
        "vm_flags": " ".join([*words, f"anon_vma {anon_vma}"]),
        "smaps": " ".join(f"{name} {n}" for name, n in sorted(vma["kB"].items()) if n),
    }


def _table_words(entry: dict[str, Any] | None) -> str:
    return "--" if entry is None else f"{entry['fl']} {entry['bits']}"


def _leaf_words(leaf: dict[str, Any] | None) -> str:
    """An entry of either side in one text."""
    if leaf is None:
        return "--"
    words = [leaf["lv"] if leaf["lv"] != "pte" else "", leaf["fl"], leaf["bits"], leaf["cls"], _index(leaf)]
    words += [f"{name} {leaf[name]}" for name in ("swtype", "ref", "map", "pm", "kpc", "kpf") if name in leaf]
    return " ".join(_text(word) for word in [*words, leaf.get("pf", "")] if word)


def _index(leaf: dict[str, Any]) -> str:
    return f"#{leaf['idx']}" if "idx" in leaf else ""
