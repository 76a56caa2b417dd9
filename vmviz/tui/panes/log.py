"""The log pane: what was run, where the position stands, what is to come."""

from __future__ import annotations

from textual.message import Message

from vmviz.session import Session
from vmviz.tui.linegrid import LineGrid
from vmviz.views.cells import Line
from vmviz.views.log import LogView


class LogPane(LineGrid):
    """The statements of the session, a row each."""

    class Chosen(Message):
        """A statement was clicked; ``number`` counts from 0 over those that were run, None for one to come."""

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
        if view.rows:
            self.cursor = max(0, view.now)
            self.reveal(min(len(view.rows) - 1, max(0, view.now) + 4))
            self.reveal(max(0, view.now))

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
