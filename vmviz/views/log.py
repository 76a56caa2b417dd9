"""The log: the statements that were run, with their results, and below a line those that are to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..kernel.value import Value
from ..session.session import Session
from .cells import Line, fit
from .strip import call_text

if TYPE_CHECKING:
    from ..script.outcome import Outcome


@attrs.frozen(eq=False, repr=False)
class LogRow(Value):
    """One row: ``kind`` is "done", "future" (run, but after the position), "pending" or "border"; ``n`` its number."""

    kind: str
    n: int = 0
    text: str = ""
    result: str = ""
    role: str = "result"


class LogView:
    """The rows of the log for a session.

    >>> view = LogView(Session()); view.row_count()
    0
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        done = session.done
        self.now = session.index if session.inside else session.index - 1
        rows = [self._done(i, d.outcome) for i, d in enumerate(done)]
        if session.pending:
            rows.append(LogRow("border"))
            first = len(done) + 1
            rows += [
                LogRow("pending", first + i, short(p.statement.text), "= ?", "pending")
                for i, p in enumerate(session.pending)
            ]
        self.rows = rows

    def _done(self, i: int, o: Outcome) -> LogRow:
        here = self.session.index
        inside = self.session.inside is not None and i == here
        kind = "done" if i < here or inside else "future"
        result = "..." if inside else f"= {o.result}"
        bad = o.expected is False or o.refusal is not None or o.errno is not None or o.signal is not None
        text = short(o.text)
        if not o.func and " = " in text:
            result = ""  # an assignment: its text says what came of it
        return LogRow(kind, i + 1, text, result, "fail" if bad and not inside else "result")

    def row_count(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def row(self, index: int, width: int) -> Line:
        """One row as cells."""
        r = self.rows[index]
        if r.kind == "border":
            word = " to come "
            side = max(0, (width - len(word)) // 2)
            return fit([("─" * side + word + "─" * width, "rule")], width)
        mark = "►" if index == self.now else " "
        dim = r.kind in ("future", "pending")
        number = f"{mark}{r.n:>3} "
        room = max(4, width - len(number) - len(r.result) - 2)
        text = r.text if len(r.text) <= room else r.text[: room - 3] + "..."
        line: Line = [
            (number, "mark.cursor" if mark != " " else "dim"),
            (text.ljust(room), "pending" if dim else "call"),
            (" " + r.result, "pending" if dim else r.role),
        ]
        return fit(line, width)

    def statement(self, index: int) -> str:
        """The statement of a row, for copying; "" for the border."""
        r = self.rows[index]
        if r.kind == "border":
            return ""
        if r.kind == "pending":
            from ..script.nodes import unparse

            return unparse(self.session.pending[r.n - 1 - len(self.session.done)].statement)
        return call_text(self.session.done[r.n - 1].outcome)


def short(text: str) -> str:
    """A statement in one line, without its expectation.

    >>> short("munmap(fb,  4K)   = 0")
    'munmap(fb, 4K)'
    """
    text = " ".join(text.split())
    cut = text.rfind(") =")
    return text[: cut + 1] if cut >= 0 else text
