"""The yardstick of the rows about the app: a bare Textual app, a list of 65,536 rows with a cursor and nothing else."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

ROWS = 65_536
PLAIN, CURSOR = Style.parse("white on black"), Style.parse("black on white")


class Rows(ScrollView, can_focus=True):
    """The list; its cursor goes down and up, and the list scrolls when that leaves the view."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("down", "go(1)", "Down"), Binding("up", "go(-1)", "Up")]
    cursor = 0

    def on_mount(self) -> None:
        """The height of the list."""
        self.virtual_size = Size(1, ROWS)

    def action_go(self, step: int) -> None:
        """Move the cursor."""
        self.refresh_line(self.cursor)
        self.cursor = max(0, min(self.cursor + step, ROWS - 1))
        self.refresh_line(self.cursor)
        if self.cursor >= self.scroll_offset.y + self.size.height:
            self.scroll_to(y=self.cursor - self.size.height + 1, animate=False)

    def render_line(self, y: int) -> Strip:
        """A row, as simple as can be."""
        row, width = y + self.scroll_offset.y, self.size.width
        style = CURSOR if row == self.cursor else PLAIN
        return Strip([Segment(f"row {row} of {ROWS}"[:width].ljust(width), style)], width)


class Bare(App[None]):
    """Nothing but the list."""

    def compose(self) -> ComposeResult:
        """The list."""
        yield Rows()


if __name__ == "__main__":
    Bare().run()
