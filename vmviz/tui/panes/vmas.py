"""The VMA pane: the list of VMAs and gaps under a cursor."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from vmviz.tui.linegrid import LineGrid
from vmviz.tui.messages import AddressChosen
from vmviz.tui.panes.viewpane import ViewPane
from vmviz.views.scene import Scene
from vmviz.views.vmas import VmaView

_MOVES = {
    "up": "cursor_up",
    "down": "cursor_down",
    "pageup": "page_up",
    "pagedown": "page_down",
    "home": "first_row",
    "end": "last_row",
}


class VmaPane(ViewPane):
    """The VMAs of the process and the gaps between them; posts `AddressChosen` when the user moves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(f"shift+{key}", f"extend('{move}')", f"Extend: {move}", show=False, id=f"vmas.extend_{move}")
        for key, move in _MOVES.items()
    ]

    def __init__(self, *, right_rule: bool = False, name: str | None = None, id: str | None = None) -> None:
        super().__init__("VMAs", right_rule=right_rule, name=name, id=id)
        self.view: VmaView | None = None
        self._extending = False

    def make_view(self, scene: Scene, layout: str) -> VmaView:
        """The view of a scene."""
        self.view = VmaView(scene, layout, self.page_rows)
        return self.view

    def cursor_row(self) -> int | None:
        """The row that the scene's cursor lies in."""
        return self.view.cursor_index if self.view else None

    def _step(self, start: int, step: int) -> None:
        before = self.cursor
        super()._step(start, step)
        if self.cursor != before:
            self._choose(self.cursor, self._extending, before)

    def action_extend(self, move: str) -> None:
        """Move the cursor and take the end of the range along."""
        self._extending = True
        try:
            getattr(self, f"action_{move}")()
        finally:
            self._extending = False

    def on_line_grid_row_pressed(self, event: LineGrid.RowPressed) -> None:
        self._choose(event.row, event.shift)

    def on_line_grid_row_dragged(self, event: LineGrid.RowDragged) -> None:
        self._choose(event.row, True)

    def _choose(self, row: int, extend: bool, origin: int | None = None) -> None:
        address = self.view.address_of(row) if self.view else None
        if address is not None:
            left = self.row_end(origin) if origin is not None else 0
            self.tell(AddressChosen(address, extend, self.row_end(row), left))

    def row_end(self, row: int | None = None) -> int:
        """Where a VMA's row ends (the cursor's, if not said); 0 for a gap, of which one page is meant."""
        row = self.cursor if row is None else row
        where = self.view.range_of(row) if self.view and row < self.row_count() else None
        if where is None or self._scene is None or self._scene.mm.vma_at(where[0]) is None:
            return 0
        return where[1]
