"""ViewPane: the base of panes that show a view as it is, and repaint only the rows that read differently."""

from __future__ import annotations

from typing import Protocol

from vmviz.tui.linegrid import LineGrid
from vmviz.views.cells import Line, fit
from vmviz.views.scene import Scene


class RowView(Protocol):
    """What a pane needs of its view."""

    @property
    def title_right(self) -> str:
        """A word for the right of the title."""
        ...

    @property
    def row_count(self) -> int:
        """The number of rows."""
        ...

    def row(self, index: int, width: int) -> Line:
        """A row as cells."""
        ...

    def can_stand(self, index: int) -> bool:
        """Whether the cursor may stand on a row."""
        ...


class ViewPane(LineGrid):
    """A grid over a view that is made anew for each scene.

    The pane changes nothing: it says where the user went, and whoever holds the scene calls `show` again.
    """

    def __init__(
        self, title: str, *, right_rule: bool = False, name: str | None = None, id: str | None = None
    ) -> None:
        super().__init__(title=title, right_rule=right_rule, name=name, id=id)
        self._scene: Scene | None = None
        self._layout_name = "narrow"
        self._view: RowView | None = None
        self._painted: dict[int, tuple[int, Line]] = {}

    # What a pane gives.

    def make_view(self, scene: Scene, layout: str) -> RowView:
        """The view of a scene."""
        raise NotImplementedError

    def cursor_row(self) -> int | None:
        """The row that the scene's cursor lies in; None when it is in none."""
        raise NotImplementedError

    # What the app calls.

    def show(self, scene: Scene, layout: str) -> None:
        """The scene changed: make the view again, keep the cursor in view, repaint the rows that differ.

        ``layout`` is "narrow" or "wide".
        """
        count = self.row_count()
        self._scene, self._layout_name = scene, layout
        self._view = view = self.make_view(scene, layout)
        if self.title_right != view.title_right:
            self.title_right = view.title_right
            self.touch_title()
        if view.row_count != count:
            self._painted.clear()
            self.touch_all()
        else:
            self._touch_changed()
        row = self.cursor_row()
        if row is not None:
            self.cursor = row
            self.reveal(row)

    def _touch_changed(self) -> None:
        """Repaint what differs from what was painted; what is out of view is only forgotten."""
        width, visible = self.text_width, self.visible_rows
        stale = set()
        for row, (columns, line) in self._painted.items():
            same = row in visible and columns == width and fit(self._line(row, width), width) == line
            if not same:
                stale.add(row)
        for row in stale:
            del self._painted[row]
        if stale:
            self.touch_rows(stale)

    # What the grid asks for.

    def row_count(self) -> int:
        return self._view.row_count if self._view else 0

    def row(self, index: int, width: int) -> Line:
        line = fit(self._line(index, width), width)
        self._painted[index] = width, line
        return line

    def _line(self, index: int, width: int) -> Line:
        return self._view.row(index, width) if self._view else []

    def can_stand(self, index: int) -> bool:
        return self._view is not None and self._view.can_stand(index)

    def on_resize(self) -> None:
        # Some rows are only there when there is room for them.
        if self._scene is not None:
            self.show(self._scene, self._layout_name)
