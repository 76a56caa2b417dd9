"""The ruler: one or two lines with the address under the cursor, its indexes and where they lead."""

from __future__ import annotations

from textual.strip import Strip
from textual.widget import Widget

from vmviz.tui.ansistrip import AnsiStrip, Look
from vmviz.tui.directlines import DirectLines
from vmviz.tui.styles import StyleBook, book_for
from vmviz.views.cells import Line
from vmviz.views.ruler import WIDE, ruler
from vmviz.views.scene import Scene


class Ruler(DirectLines, Widget):
    """The ruler of the scene's cursor: one line, two in the wide layout."""

    DEFAULT_CSS = """
    Ruler {
        height: 1;
    }
    """

    def __init__(self, *, name: str | None = None, id: str | None = None) -> None:
        super().__init__(name=name, id=id)
        self._scene: Scene | None = None
        self._wide = False
        self._book: StyleBook | None = None
        self._lines: list[Line] = []
        self._made_for = -1

    def show(self, scene: Scene, layout: str) -> None:
        """The scene changed; ``layout`` is "narrow" (one line) or "wide" (two)."""
        wide = layout == "wide"
        if wide != self._wide:
            self._wide = wide
            self.styles.height = 2 if wide else 1
        self._scene = scene
        self._made_for = -1
        before, width = self._lines, self.outer_size.width
        if width and self._made(width) != before:
            self.refresh()

    def _made(self, width: int) -> list[Line]:
        if self._made_for != width and self._scene is not None:
            # The layout says how many lines there are; what does not fit into them is cut by the view.
            self._lines = ruler(self._scene, max(width, WIDE) if self._wide else min(width, WIDE - 1))
            self._made_for = width
        return self._lines

    def render_line(self, y: int) -> Strip:
        width = self.outer_size.width
        book = self._book
        if book is None:
            book = self._book = book_for(self.app)
        lines = self._made(width)
        plain = bool(getattr(self.app, "ascii_glyphs", False))
        return AnsiStrip(lines[y] if y < len(lines) else [], Look(width, book.table(), plain))

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._book = None
