"""Screens of text: help, and the end of a process by a signal."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from ...views.cells import Line, plain, width
from ..linegrid import LineGrid
from ..strips import key_at
from .base import Overlay

BOX_LEAST, BOX_MOST, WHOLE_BELOW = 80, 100, 90
"""The columns of the box with its margins; a screen that is narrower than the last has no room beside it."""


def box_width(lines: list[Line], columns: int) -> int:
    """The columns of a box for lines on a screen of so many.

    >>> box_width([], 80), box_width([], 120), box_width([[("x" * 90, "text")]], 120)
    (80, 80, 92)
    """
    if columns < WHOLE_BELOW:
        return columns
    return min(max(BOX_LEAST, 2 + max((width(line) for line in lines), default=0)), BOX_MOST, columns)


def soft_wrap(line: Line, columns: int) -> list[Line]:
    """A line that is too long as several, broken at blanks; the rest is indented as the line is, and a bit more.

    >>> from vmviz.views.cells import plain
    >>> [plain(part) for part in soft_wrap([("  a b", "text"), ("c de", "dim")], 6)]
    ['  a bc', '   de']
    """
    cells = [(char, role) for text, role in line for char in text]
    if len(cells) <= columns:
        return [line]
    indent = len(plain(line)) - len(plain(line).lstrip())
    lead, room = min(indent + 2, columns // 2), columns
    out: list[Line] = []
    while len(cells) > room > 0:
        least = lead if out else indent
        blanks = [i for i, (char, _) in enumerate(cells[: room + 1]) if char == " " and i > least]
        cut = blanks[-1] if blanks else room
        out.append(cells[:cut])
        cells = cells[cut:]
        while cells and cells[0][0] == " ":
            cells = cells[1:]
        cells = [(" ", "text")] * lead + cells
    return [*out, cells]


class TextGrid(LineGrid):
    """Lines to read, with a title rule."""

    def __init__(self, title: str, lines: list[Line], right: str = "Esc closes") -> None:
        super().__init__(title=title, title_right=right, row_cursor=False)
        self.source = lines
        self.lines = lines
        self.alert = True

    def wrap(self, columns: int) -> int:
        """Wrap the lines to so many columns; returns how many there are now."""
        self.lines = [part for line in self.source for part in soft_wrap(line, columns)]
        self.touch_all()
        return len(self.lines)

    def on_line_grid_row_pressed(self, event: LineGrid.RowPressed) -> None:
        """A click on a key is as good as pressing it."""
        key = key_at(self.lines[event.row], event.column)
        if key is not None:
            self.app.simulate_key(key)

    def row_count(self) -> int:
        return len(self.lines)

    def row(self, index: int, width: int) -> Line:
        return self.lines[index]


class TextScreen(Overlay[str]):
    """Shows lines in a box over the panes; keys among ``answers`` close it with their word."""

    DEFAULT_CSS = """
    TextScreen { align: center middle; }
    TextScreen > Vertical {
        max-width: 100%; max-height: 100%; background: $background; padding: 0 1;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "close", "Close", show=False),
        Binding("q", "close", "Close", show=False),
    ]

    def __init__(
        self,
        title: str,
        lines: list[Line],
        answers: dict[str, str] | None = None,
        right: str = "Esc closes",
    ) -> None:
        super().__init__()
        self._right = right
        self._title, self._lines = title, lines
        self._answers = answers or {}

    def compose(self) -> ComposeResult:
        """The box."""
        with Vertical() as box:
            box.styles.height = len(self._lines) + 1
            self._box = box
            yield TextGrid(self._title, self._lines, self._right)

    def on_resize(self, event: events.Resize) -> None:
        """The box is as high as its lines are in this width."""
        columns = box_width(self._lines, event.size.width)
        self._box.styles.width = columns
        rows = self.query_one(TextGrid).wrap(max(1, columns - 2))
        self._box.styles.height = rows + 1

    def on_key(self, event: events.Key) -> None:
        """A key that is an answer closes the screen with it."""
        if event.key in self._answers:
            event.stop()
            self.answer(self._answers[event.key])
