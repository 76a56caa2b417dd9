"""The yardstick of the rows about the app: the smallest Textual app with a list of 65,536 rows and a cursor in it."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

ROWS = 65_536
PLAIN, CURSOR = Style.parse("white on black"), Style.parse("black on white")


class Rows(ScrollView, can_focus=True):
    """The list; Down moves its cursor, and scrolls when that leaves the view."""

    BINDINGS = [Binding("down", "down", "Down")]
    cursor = 0

    def on_mount(self) -> None:
        self.virtual_size = Size(1, ROWS)

    def action_down(self) -> None:
        self.refresh_line(self.cursor)
        self.cursor = min(self.cursor + 1, ROWS - 1)
        self.refresh_line(self.cursor)
        if self.cursor >= self.scroll_offset.y + self.size.height:
            self.scroll_to(y=self.cursor - self.size.height + 1, animate=False)

    def render_line(self, y: int) -> Strip:
        row = y + self.scroll_offset.y
        width = self.size.width
        style = CURSOR if row == self.cursor else PLAIN
        return Strip([Segment(f"row {row} of {ROWS}"[:width].ljust(width), style)], width)


class Bare(App[None]):
    """Nothing but the list."""

    def compose(self) -> ComposeResult:
        yield Rows()


if __name__ == "__main__":
    Bare().run()
