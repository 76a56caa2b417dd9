"""The lines of the comparison screen: operations with their verdicts, and facts side by side."""

from __future__ import annotations

from collections.abc import Sequence

from ..conform.comparison import AGREES, DIFFERS, Row, Step
from ..views.cells import Line, fit

NAME = 23
"""Columns of a fact's name, with the blank before it."""
_MARKS = {AGREES: ("✓", "pass"), DIFFERS: ("✗", "fail")}


def step_line(step: Step, width: int) -> Line:
    """One operation: its line in the scenario, whether it agrees, and its words.

    >>> step_line(Step(7, "munmap B 1p", "child", AGREES, {}, {}, None), 30)[1:3]
    [('✓ ', 'pass'), ('child ', 'label')]
    """
    mark, role = _MARKS.get(step.verdict, ("·", "dim"))
    who: Line = [] if step.who == "parent" else [(f"{step.who} ", "label")]
    words = "dim" if role == "dim" else "call" if role == "pass" else "fail"
    return fit([(f"{step.line:4} ", "dim"), (f"{mark} ", role), *who, (step.text, words)], width)


def fact_lines(rows: Sequence[Row], width: int) -> tuple[list[Line], int]:
    """All facts in three columns, and the line of the first one that differs (-1: none).

    What differs is written out on both sides, the words that are not on the other side marked; what is the same is
    told once, and what agrees in other words (a call that killed the kernel and is refused) is told twice.
    """
    column = max(12, (width - NAME - 3) // 2)
    out: list[Line] = []
    first, part, headed = -1, "", False
    for row in rows:
        if row.part != part:
            part = row.part
            out.append([(f" {part} ".ljust(width, "─"), "boundary")])
        if row.kernel == row.ours:
            texts = _wrapped(row.kernel.split(), width - NAME - 2)
            for i, words in enumerate(texts):
                same: Line = [("= " if not i else "  ", "pass"), (" ".join(words), "dim")]
                out.append(_named(row.name if not i else "", same))
            headed = False
            continue
        first = len(out) if first < 0 and row.differs else first
        if not headed:
            out.append(heading(width))
            headed = True
        left, right = row.kernel.split(), row.ours.split()
        others = (set(right), set(left)) if row.differs else (set(left), set(right))
        sides = [_side(left, others[0], column), _side(right, others[1], column)]
        for i in range(max(len(side) for side in sides)):
            cells = [fit(side[i] if i < len(side) else [], column) for side in sides]
            name = row.name if not i else ""
            role, rule = ("fail", "rule.alert") if row.differs else ("label", "rule")
            out.append(_named(name, [*cells[0], (" │ ", rule), *cells[1]], role))
    return out, first


def _named(name: str, cells: Line, role: str = "label") -> Line:
    return [(f" {name[: NAME - 2]:<{NAME - 1}}", role), *cells]


def _side(words: list[str], others: set[str], width: int) -> list[Line]:
    """The words of one side in lines; those that the other side does not have are marked."""
    return [
        [(f"{word} ", "text" if word in others else "fail") for word in line]
        for line in _wrapped(words or ["--"], width - 1)
    ]


def _wrapped(words: list[str], width: int) -> list[list[str]]:
    lines: list[list[str]] = [[]]
    room = width
    for word in words or [""]:
        for piece in [word[i : i + width] for i in range(0, len(word), width)] or [""]:
            if lines[-1] and len(piece) + 1 > room:
                lines.append([])
                room = width
            lines[-1].append(piece)
            room -= len(piece) + 1
    return lines


def heading(width: int) -> Line:
    """The line above the columns."""
    column = max(12, (width - NAME - 3) // 2)
    return fit(_named("", [("kernel".ljust(column + 3), "title"), ("simulator", "title")]), width)
