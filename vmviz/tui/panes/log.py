"""The log pane: what was run, where the position stands, what is to come."""

from __future__ import annotations

from textual.message import Message

from vmviz.session.session import Session
from vmviz.tui.linegrid import LineGrid
from vmviz.views.cells import Line
from vmviz.views.log import LogView

AHEAD = 5
"""Rows below the position that are shown where there is room: the border and the statements to come."""


class LogPane(LineGrid):
    """The statements of the session, a row each."""

    class Chosen(Message):
        """A statement was clicked; ``number`` counts from 0 over those that were run, None: one to come."""

        def __init__(self, number: int | None) -> None:
            super().__init__()
            self.number = number

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(title="Log", id=id)
        self.view: LogView | None = None
        self._known: list[object] = []

    def show_log(self, session: Session) -> None:
        """The session changed."""
        view = LogView(session)
        if self.view is not None and self.view.rows == view.rows and self.view.now == view.now:
            return
        self.view = view
        self.title_right = session.title
        self.touch_all()
        self._follow()

    def _follow(self) -> None:
        """Show the position with a few of the statements to come below it."""
        if self.view is not None and self.view.rows:
            now = max(0, self.view.now)
            self.cursor = now
            self.reveal(min(len(self.view.rows) - 1, now + AHEAD))
            self.reveal(now)

    def on_resize(self) -> None:
        super().on_resize()
        self._follow()

    def row_count(self) -> int:
        return self.view.row_count() if self.view else 0

    def row(self, index: int, width: int) -> Line:
        return self.view.row(index, width) if self.view else []

    def can_stand(self, index: int) -> bool:
        return self.view is not None and self.view.rows[index].kind != "border"

    def on_line_grid_row_pressed(self, event: LineGrid.RowPressed) -> None:
        """Go to a statement: the position moves to its end."""
        if self.view is None:
            return
        row = self.view.rows[event.row]
        if row.kind in ("done", "future"):
            self.post_message(self.Chosen(row.n - 1))
        elif row.kind == "pending":
            self.post_message(self.Chosen(None))
