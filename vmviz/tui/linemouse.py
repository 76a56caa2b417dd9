"""The mouse over a list of lines: presses, drags that scroll at the edges, and the row that it hovers over.

`LineGrid` is the list; a message names it by its own name, wherever it is handled.
"""

from __future__ import annotations

from textual import events
from textual.message import Message
from textual.scroll_view import ScrollView

TITLE_ROWS = 1
"""Screen rows that the title rule takes."""


class LineMouse(ScrollView):
    """What the mouse does to a list of lines with a cursor."""

    hover_rows: bool
    row_cursor: bool
    _hover: int | None
    _drag_from: tuple[int, int] | None

    @property
    def cursor(self) -> int:
        """The row of the cursor, from 0; kept inside the rows and visible."""
        raise AssertionError("the list knows")

    @cursor.setter
    def cursor(self, row: int) -> None:
        raise AssertionError("the list knows")

    class RowMessage(Message):
        """A message about a row; ``grid`` and ``control`` are the sender."""

        def __init__(self, grid: LineMouse, row: int) -> None:
            super().__init__()
            self.grid = grid
            self.row = row

        @property
        def control(self) -> LineMouse:
            return self.grid

    class RowPressed(RowMessage, namespace="line_grid"):
        """The left button went down on a row, at a column of its text; ``shift`` extends a range."""

        def __init__(self, grid: LineMouse, row: int, column: int, shift: bool) -> None:
            super().__init__(grid, row)
            self.column = column
            self.shift = shift

    class RowDragged(RowMessage, namespace="line_grid"):
        """The mouse came to another cell with the left button down; of several only the last one arrives."""

        def __init__(self, grid: LineMouse, row: int, column: int) -> None:
            super().__init__(grid, row)
            self.column = column

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, LineMouse.RowDragged) and message.grid is self.grid

    def row_at(self, y: int) -> int | None:
        """The row drawn at line ``y`` of the widget; None at the title and below the last row."""
        raise AssertionError("the list knows")

    def can_stand(self, index: int) -> bool:
        """Whether the cursor may stand on a row."""
        raise AssertionError("the list knows")

    @property
    def text_width(self) -> int:
        """Columns of a line's text."""
        raise AssertionError("the list knows")

    @property
    def visible_rows(self) -> range:
        """The rows on the screen."""
        raise AssertionError("the list knows")

    @property
    def _top(self) -> int:
        raise AssertionError("the list knows")

    def _repaint(self, rows: list[int]) -> None:
        raise AssertionError("the list knows")

    def _cell_at(self, event: events.MouseEvent) -> tuple[int, int] | None:
        """The row and text column under the mouse."""
        offset = event.get_content_offset_capture(self)
        row = self.row_at(offset.y)
        return None if row is None else (row, max(0, min(offset.x, self.text_width - 1)))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        cell = self._cell_at(event)
        if event.button != 1 or cell is None:
            return
        self.capture_mouse()
        self._drag_from = cell
        if self.row_cursor and self.can_stand(cell[0]):
            self.cursor = cell[0]
        self.post_message(self.RowPressed(self, *cell, event.shift))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._drag_from is None:
            cell = self._cell_at(event)
            self._set_hover(cell[0] if cell else None)
            return
        offset = event.get_content_offset_capture(self)
        # Beyond the edges the rows come to the mouse, one per report.
        beyond = (offset.y >= self.outer_size.height) - (offset.y < TITLE_ROWS)
        if beyond:
            self.scroll_to(y=self._top + beyond, animate=False)
        rows = self.visible_rows
        if not rows:
            return
        row = max(rows.start, min(offset.y - TITLE_ROWS + self._top, rows.stop - 1))
        cell = (row, max(0, min(offset.x, self.text_width - 1)))
        if cell != self._drag_from:
            self._drag_from = cell
            self.post_message(self.RowDragged(self, *cell))

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._drag_from is not None:
            self._drag_from = None
            self.release_mouse()

    def on_leave(self, event: events.Leave) -> None:
        self._set_hover(None)

    def _set_hover(self, row: int | None) -> None:
        if not self.hover_rows or row == self._hover:
            return
        old, self._hover = self._hover, row
        self._repaint(sorted(r for r in (old, row) if r is not None))
