"""The frame pane: the map of RAM and device memory under a frame cursor."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from vmviz.tui.linegrid import LineGrid
from vmviz.tui.messages import FrameChosen
from vmviz.tui.panes.viewpane import ViewPane
from vmviz.views.frames import FrameView
from vmviz.views.scene import Scene


class FramePane(ViewPane):
    """The physical frames, cell by cell; posts `FrameChosen` when the user goes to another cell."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "cell(-1)", "Cell to the left", show=False, id="frames.left"),
        Binding("right", "cell(1)", "Cell to the right", show=False, id="frames.right"),
    ]

    def __init__(self, *, right_rule: bool = False, name: str | None = None, id: str | None = None) -> None:
        super().__init__("Frames", right_rule=right_rule, name=name, id=id)
        self.view: FrameView | None = None
        self._at = -1

    def make_view(self, scene: Scene, layout: str) -> FrameView:
        """The view of a scene."""
        self.view = FrameView(scene, layout, self.text_width)
        self._at = self.view.pfn
        return self.view

    def cursor_row(self) -> int | None:
        """The row of the frame under the cursor; None when the cursor's address is mapped to no frame."""
        return self.view.index_of(self.view.pfn) if self.view and self.view.pfn >= 0 else None

    def action_cell(self, cells: int) -> None:
        """Go some cells to the right."""
        if self.view:
            self._choose(self.view.moved(self._at, 0, cells))

    def _move(self, rows: int, step: int) -> None:
        if self.view:
            self._choose(self.view.moved(self._at, rows * step, 0))

    def _step(self, start: int, step: int) -> None:
        super()._step(start, step)
        cells = self.view.cell_starts(self.cursor) if self.view else []
        if cells:
            self._choose(cells[0 if step > 0 else -1])

    def on_line_grid_row_pressed(self, event: LineGrid.RowPressed) -> None:
        self._point(event.row, event.column)

    def on_line_grid_row_dragged(self, event: LineGrid.RowDragged) -> None:
        self._point(event.row, event.column)

    def _point(self, row: int, column: int) -> None:
        pfn = self.view.pfn_at(row, column) if self.view else None
        if pfn is not None:
            self._choose(pfn)

    def _choose(self, pfn: int) -> None:
        # Until the scene follows, the next key goes on from here.
        if pfn >= 0:
            self._at = pfn
            self.tell(FrameChosen(pfn))
