"""ViewPane: the base of panes that show a view as it is, and repaint only the rows that read differently."""

from __future__ import annotations

from collections.abc import Sequence

from vmviz.tui.linegrid import LineGrid
from vmviz.views.cells import Line
from vmviz.views.rows import RowView
from vmviz.views.scene import Scene


class ViewPane(LineGrid):
    """A grid over a view that is made anew for each scene.

    The pane changes nothing: it says where the user went, and whoever holds the scene calls `show` again.
    """

    says_cursor = False  # the app has said itself where it is

    def __init__(
        self, title: str, *, right_rule: bool = False, name: str | None = None, id: str | None = None
    ) -> None:
        super().__init__(title=title, right_rule=right_rule, name=name, id=id)
        self._scene: Scene | None = None
        self._layout_name = "narrow"
        self._view: RowView | None = None
        self._ready: dict[int, tuple[int, Line]] = {}
        """Lines of this view that were made to compare them and are to be painted."""

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
        count, old = self.row_count(), self._view
        self._scene, self._layout_name = scene, layout
        self._view = view = self.make_view(scene, layout)
        if self.title_right != view.title_right:
            self.title_right = view.title_right
            self.touch_title()
        if view.row_count != count:
            self._ready.clear()
            self.touch_all()
        else:
            self._touch_changed(None if old is None else view.differing(old))
        row = self.cursor_row()
        if row is not None:
            self.cursor = row
            self.reveal(row)

    def _touch_changed(self, only: Sequence[range] | None) -> None:
        """Repaint what differs from what was painted; what is out of view is only forgotten.

        ``only``: the rows that may differ, None for all.
        """
        view, width, visible = self._view, self.text_width, self.visible_rows
        assert view is not None
        ready = self._ready = {}
        stale, painted = set(), self._strips
        rows = painted if only is None else {row for rows in only for row in rows if row in painted}
        for row in rows:
            if row not in visible:
                stale.add(row)
                continue
            new = view.row(row, width)
            if new != painted[row][2].line:
                stale.add(row)
                ready[row] = width, new
        if stale:
            self.touch_rows(stale)

    # What the grid asks for.

    def row_count(self) -> int:
        return self._view.row_count if self._view else 0

    def row(self, index: int, width: int) -> Line:
        if self._ready:
            columns, line = self._ready.pop(index, (-1, []))
            if columns == width:
                return line
        return self._view.row(index, width) if self._view else [(" " * width, "text")]

    def can_stand(self, index: int) -> bool:
        return self._view is not None and self._view.can_stand(index)

    def on_resize(self) -> None:
        # Some rows are only there when there is room for them.
        if self._scene is not None:
            self.show(self._scene, self._layout_name)
