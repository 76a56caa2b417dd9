"""Screens of text: help, and the end of a process by a signal."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from ...views.cells import Line
from ..linegrid import LineGrid
from .base import Overlay


class TextGrid(LineGrid):
    """Lines to read, with a title rule."""

    def __init__(self, title: str, lines: list[Line], right: str = "Esc closes") -> None:
        super().__init__(title=title, title_right=right, row_cursor=False)
        self.lines = lines
        self.alert = True

    def row_count(self) -> int:
        return len(self.lines)

    def row(self, index: int, width: int) -> Line:
        return self.lines[index]


class TextScreen(Overlay[str]):
    """Shows lines in a box over the panes; keys among ``answers`` close it with their word."""

    DEFAULT_CSS = """
    TextScreen { align: center middle; }
    TextScreen > Vertical {
        width: 78; max-width: 100%; max-height: 100%; background: $background; padding: 0 0;
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
            yield TextGrid(self._title, self._lines, self._right)

    def on_key(self, event: events.Key) -> None:
        """A key that is an answer closes the screen with it."""
        if event.key in self._answers:
            event.stop()
            self.answer(self._answers[event.key])
