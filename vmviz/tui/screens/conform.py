"""The comparison with recordings of a real kernel: operations at the left, kernel and simulator beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from ...conform.comparison import Comparison
from ...conform.trace import TraceError
from ...views.cells import Line
from ..facts import fact_lines, step_line
from ..linegrid import LineGrid
from ..strips import LineStrip
from .base import Overlay

SIDE_BY_SIDE = 110
"""From this width on the operations stand beside the facts, below it above them."""
LIST_COLUMNS, LIST_ROWS = 38, 8
KEYS: Line = [
    (" ↑↓", "key"), (" operation", "key.text"),
    ("  f", "key"), (" first difference", "key.text"),
    ("  Tab", "key"), (" other pane", "key.text"),
    ("  [ ]", "key"), (" trace", "key.text"),
    ("  Esc", "key"), (" close", "key.text"),
]  # fmt: skip


class StepGrid(LineGrid):
    """The operations of a trace."""

    comparison: Comparison | None = None

    def row_count(self) -> int:
        return len(self.comparison.steps) if self.comparison else 0

    def row(self, index: int, width: int) -> Line:
        assert self.comparison is not None
        return step_line(self.comparison.steps[index], width)


class FactGrid(LineGrid):
    """The facts of one operation."""

    lines: tuple[Line, ...] = ()

    def row_count(self) -> int:
        return len(self.lines)

    def row(self, index: int, width: int) -> Line:
        return self.lines[index]


class ConformScreen(Overlay[None]):
    """Goes through traces step by step; ``paths`` are .jsonl files."""

    DEFAULT_CSS = """
    ConformScreen, ConformScreen > Container { background: $background; }
    ConformScreen StepGrid { dock: left; }
    ConformScreen.-stacked StepGrid { dock: top; width: 100%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "close", "Close", show=False),
        Binding("f", "first", "First difference", show=False),
        Binding("tab", "app.focus_next", "Other pane", show=False),
        Binding("left_square_bracket", "trace(-1)", "Trace before", show=False),
        Binding("right_square_bracket", "trace(1)", "Next trace", show=False),
    ]

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = list(paths)
        self.at = 0
        self._comparisons: dict[Path, Comparison] = {}

    def compose(self) -> ComposeResult:
        """The list, the facts, the keys."""
        with Container():
            yield StepGrid(right_rule=True, id="steps")
            yield FactGrid(row_cursor=False, id="facts")
        keys = LineStrip(id="conform-keys")
        keys.styles.dock = "bottom"
        yield keys

    def on_mount(self) -> None:
        """Show the first trace."""
        super().on_mount()
        self.query_one("#conform-keys", LineStrip).show_lines(lambda _w, _h: [KEYS])
        self.query_one(StepGrid).focus()
        self.call_after_refresh(self._open)

    def on_resize(self, event: events.Resize) -> None:
        """Beside each other where there is room, else one above the other."""
        steps = self.query_one(StepGrid)
        stacked = event.size.width < SIDE_BY_SIDE
        self.set_class(stacked, "-stacked")
        steps.styles.width = "100%" if stacked else LIST_COLUMNS
        steps.styles.height = LIST_ROWS if stacked else "100%"
        self.call_after_refresh(self._show)

    @property
    def comparison(self) -> Comparison | None:
        """The trace that is shown; None before the first and where the file is none."""
        return self._comparisons.get(self.paths[self.at])

    def _open(self) -> None:
        path = self.paths[self.at]
        steps = self.query_one(StepGrid)
        try:
            if path not in self._comparisons:
                self._comparisons[path] = Comparison(path)
        except (TraceError, OSError) as error:
            steps.comparison = None
            steps.touch_all()
            self._say([[(f" {error}", "fail")]], path.stem)
            return
        steps.comparison = comparison = self._comparisons[path]
        steps.title = path.stem
        steps.title_right = f"{comparison.agreed}/{len(comparison.steps)}"
        steps.touch_all()
        steps.touch_title()
        steps.cursor = max(0, comparison.first)
        self._show()

    def _say(self, lines: list[Line], title: str, right: str = "") -> None:
        facts = self.query_one(FactGrid)
        facts.lines = tuple(lines)
        facts.title, facts.title_right = title, right
        facts.touch_all()
        facts.touch_title()
        facts.scroll_to(y=0, animate=False)

    @on(LineGrid.CursorMoved, "#steps")
    def _show(self) -> None:
        """Show the operation under the cursor, from its first difference on."""
        comparison = self.comparison
        if comparison is None:
            return
        facts, index = self.query_one(FactGrid), self.query_one(StepGrid).cursor
        step = comparison.steps[index]
        lines, first = fact_lines(comparison.rows(index), max(40, facts.text_width))
        where = f"{self.at + 1} of {len(self.paths)} traces" if len(self.paths) > 1 else ""
        self._say(lines, f"{step.text}: {step.verdict}", where)
        if first >= 0:
            facts.scroll_to(y=first, animate=False)

    def action_first(self) -> None:
        """To the first operation that differs."""
        if self.comparison is not None and self.comparison.first >= 0:
            self.query_one(StepGrid).cursor = self.comparison.first

    def action_trace(self, step: int) -> None:
        """To another trace."""
        if 0 <= self.at + step < len(self.paths):
            self.at += step
            self._open()
