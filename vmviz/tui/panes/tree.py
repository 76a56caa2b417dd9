"""The page-table pane: the tree view under a cursor, with keys to fold and unfold."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from vmviz.tui.linegrid import LineGrid
from vmviz.tui.messages import AddressChosen
from vmviz.views.cells import Line
from vmviz.views.scene import Scene
from vmviz.views.tree import TreeView
from vmviz.views.tree_rows import Key, TreeState


class TreePane(LineGrid):
    """The page-table tree of the process, a row per table or run of alike entries.

    The pane changes nothing but its own folds: it says where the user went (`AddressChosen`), and whoever
    holds the scene calls `show` again.
    """

    says_cursor = False  # the app has said itself where it is
    BINDINGS: ClassVar[list[BindingType]] = [
        *LineGrid.BINDINGS,
        Binding("shift+up", "extend(-1)", "Extend up", show=False, id="tree.extend_up"),
        Binding("shift+down", "extend(1)", "Extend down", show=False, id="tree.extend_down"),
        Binding("right", "unfold", "Unfold", show=False, id="tree.unfold"),
        Binding("enter", "unfold", "Unfold", show=False, id="tree.open"),
        Binding("left", "fold", "Fold", show=False, id="tree.fold"),
    ]

    def __init__(self, *, right_rule: bool = False, name: str | None = None, id: str | None = None) -> None:
        super().__init__(title="Page tables", right_rule=right_rule, name=name, id=id)
        self.view: TreeView | None = None
        self.folds = TreeState()
        self._layout = "narrow"
        self._extending = False

    def show(self, scene: Scene, layout: str) -> None:
        """The scene changed: make the view again, keep the cursor visible, repaint only rows that read differently.

        ``layout`` is "narrow" or "wide".
        """
        old, new = self.view, TreeView(scene, layout, self.folds, self.view)
        self.view, self._layout = new, layout
        if self.title_right != new.path:
            self.title_right = new.path
            self.touch_title()
        if old is None or old.row_count != new.row_count:
            self.touch_all()
        else:
            width, visible = self.text_width, self.visible_rows
            only = new.differing(old) or [range(new.row_count)]
            self.touch_rows(
                {
                    i
                    for rows in only
                    for i in rows
                    if i not in visible or old.known_row(i, width) != new.row(i, width)
                }
            )
        self.cursor = new.cursor_index
        self.reveal(self.cursor)

    # What the grid asks for.

    def row_count(self) -> int:
        return self.view.row_count if self.view else 0

    def row(self, index: int, width: int) -> Line:
        return self.view.row(index, width) if self.view else []

    def can_stand(self, index: int) -> bool:
        return self.view is not None and self.view.can_stand(index)

    # What the user does.

    def _step(self, start: int, step: int) -> None:
        before = self.cursor
        super()._step(start, step)
        if self.view is not None and self.cursor != before:
            self._go(self.view.key_of(self.cursor), self._extending, self.row_end(before))

    def row_end(self, row: int | None = None) -> int:
        """Where a row of at most one table ends (the cursor's, if not said); 0 for larger ones: one page is meant."""
        where = self.view.range_of(self.cursor if row is None else row) if self.view else None
        return where[1] if where is not None and where[1] - where[0] <= 1 << 21 else 0

    def _go(self, key: Key | None, extend: bool = False, origin_end: int = 0) -> None:
        """Stand on a node: the address is for the app, which of several rows at that address is ours."""
        if key is None or self.view is None:
            return
        self.folds.focus = key
        if key[1] == self.view.scene.cursor:
            self.show(self.view.scene, self._layout)
        end = key[2] if key[2] - key[1] <= 1 << 21 else 0
        self.tell(AddressChosen(key[1], extend, end, origin_end))

    def action_extend(self, step: int) -> None:
        """Move the cursor a row and take the range along."""
        self._extending = True
        self._move(1, step)
        self._extending = False

    def action_unfold(self) -> None:
        """Unfold the row, or go to its first row."""
        if self.view is not None and self.row_count():
            self._go(self.view.unfold(self.cursor))

    def action_fold(self) -> None:
        """Fold the row, or go to the table that it lies in."""
        if self.view is not None and self.row_count():
            self._go(self.view.fold(self.cursor))

    def on_line_grid_row_pressed(self, event: LineGrid.RowPressed) -> None:
        self._point(event.row, event.column, event.shift)

    def on_line_grid_row_dragged(self, event: LineGrid.RowDragged) -> None:
        self._point(event.row, event.column, True)

    def _point(self, row: int, column: int, extend: bool) -> None:
        """The mouse chose a row, or one of the cells of a PT row."""
        if self.view is None or row >= self.row_count():
            return
        address = self.view.address_at(row, column, self.text_width)
        if address is None:
            return
        key = self.view.key_of(row)
        if address == key[1]:
            self._go(key, extend)
        else:
            self.tell(AddressChosen(address, extend))
