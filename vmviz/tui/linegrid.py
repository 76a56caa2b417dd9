"""LineGrid: the one base of all panes, a scrolling list of lines that are pulled only when they are seen.

A pane gives `row_count` and `row`; the grid draws a title rule that does not scroll, a rule at its right, the
row cursor, and repaints single lines.  It keeps the painted strips, so scrolling back, focus changes and
repaints of a neighbour cost no new lines.  A pane that changed says which rows (`touch_rows`) or that all did
(`touch_all`); the grid never looks for changes itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip

from vmviz.tui.ansistrip import AnsiStrip, Look
from vmviz.tui.directlines import DirectLines
from vmviz.tui.glyphs import to_ascii
from vmviz.tui.linemouse import TITLE_ROWS, LineMouse
from vmviz.tui.styles import StyleBook, book_for, rule_line
from vmviz.views.cells import Line

_CACHED_ROWS = 1024


@cache
def _own_keys(pane: type[LineGrid]) -> dict[str, str]:
    """The actions of the keys that the classes of a pane bind, down from `LineGrid`."""
    found: dict[str, str] = {}
    for base in reversed(pane.__mro__):
        if issubclass(base, LineGrid):
            bindings = Binding.make_bindings(base.__dict__.get("BINDINGS", ()))
            found |= {binding.key: binding.action for binding in bindings}
    return found


class LineGrid(DirectLines, LineMouse, can_focus=True, inherit_bindings=False):
    """A focusable, scrolling grid of lines; subclass it and give `row_count` and `row`.

    ``title`` and ``title_right`` are the words in the title rule, ``alert`` draws the rule as one that wants
    attention, ``right_rule`` draws ``│`` as the last column (``║`` beside the visible part when not all rows
    fit), ``row_cursor`` false takes the cursor away, ``hover_rows`` true marks the row under the mouse.
    ``rows_rendered`` counts the rows painted and ``rows_pulled`` those among them that `row` was asked for.
    """

    DEFAULT_CSS = """
    LineGrid {
        overflow: hidden hidden;
        background: $background;
    }
    """
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "cursor_up", "Up", show=False, id="grid.up"),
        Binding("down", "cursor_down", "Down", show=False, id="grid.down"),
        Binding("pageup", "page_up", "Page up", show=False, id="grid.page_up"),
        Binding("pagedown", "page_down", "Page down", show=False, id="grid.page_down"),
        Binding("home", "first_row", "First row", show=False, id="grid.first"),
        Binding("end", "last_row", "Last row", show=False, id="grid.last"),
    ]

    says_cursor: ClassVar[bool] = True
    """Whether each move of the cursor is a `CursorMoved`: every ancestor handles that, which takes its time."""

    class CursorMoved(LineMouse.RowMessage):
        """The cursor stands on another row; of several in a hurry only the last one arrives."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, LineGrid.CursorMoved) and message.grid is self.grid

    def __init__(
        self,
        *,
        title: str = "",
        title_right: str = "",
        right_rule: bool = False,
        row_cursor: bool = True,
        hover_rows: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
        disabled: bool = False,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes, disabled=disabled)
        self.title = title
        self.title_right = title_right
        self.right_rule = right_rule
        self.row_cursor = row_cursor
        self.hover_rows = hover_rows
        self.alert = False
        self.rows_rendered = 0
        self.rows_pulled = 0
        self._book: StyleBook | None = None
        self._strips: dict[int, tuple[str, str, AnsiStrip]] = {}
        self._looks: dict[tuple[str, str], Look] = {}
        self._made_for: tuple[object, ...] = ()
        self._cursor = self._first = 0
        self._hover = None
        self._drag_from = None
        self.listener: Callable[[Message], None] | None = None

    # What a pane gives.

    def row_count(self) -> int:
        """The number of rows; asked often, so it should be cheap."""
        raise NotImplementedError

    def row(self, index: int, width: int) -> Line:
        """The row as cells, which are kept until it is touched; the grid cuts or pads them and adds the cursor."""
        raise NotImplementedError

    def row_class(self, index: int) -> str:
        """The variant of a row apart from cursor and mouse: "" or "selected"."""
        return ""

    def can_stand(self, index: int) -> bool:
        """Whether the cursor may stand on a row; blank and legend rows are skipped by the keys."""
        return True

    def title_line(self, width: int) -> Line:
        """The title rule: ``── VMAs ─────── 5 ─``; ``═`` in the pane that has the keys or wants attention."""
        return rule_line(width, self.title, self.title_right, focus=self.has_focus, alert=self.alert)

    # What a pane says.

    def tell(self, message: Message) -> None:
        """Say what the user did: to the ``listener`` at once, else as a message.

        A message passes the queue of each ancestor, and the screen would paint this pane alone in the meantime;
        an app that answers at once has all panes in one painting.
        """
        if self.listener is not None:
            self.listener(message)
        else:
            self.post_message(message)

    def touch_rows(self, rows: Collection[int]) -> None:
        """These rows read differently now: repaint those in view (a ``range`` is the cheapest collection)."""
        strips, first, end = self._strips, self._first, self._first + self.page_rows
        if isinstance(rows, range):
            for row in [row for row in strips if row in rows]:
                del strips[row]
            self._repaint(range(max(first, rows.start), min(end, rows.stop)))
        else:
            for row in rows:
                strips.pop(row, None)
            self._repaint(sorted(row for row in rows if first <= row < end))

    def touch_title(self) -> None:
        """The title rule reads differently now."""
        self.refresh(Region(0, 0, self.outer_size.width, TITLE_ROWS))

    def touch_all(self) -> None:
        """Everything may read differently; also to be called when the number of rows changed."""
        self._strips.clear()
        self._sync_height()
        self.cursor = self._cursor
        self.refresh()

    # Geometry.

    @property
    def _top(self) -> int:
        """The first row in view."""
        return self._first

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        self._first = round(new_value)
        super().watch_scroll_y(old_value, new_value)

    @property
    def page_rows(self) -> int:
        """The rows that fit under the title."""
        return max(0, self.outer_size.height - TITLE_ROWS)

    @property
    def text_width(self) -> int:
        """The columns of a row's text, without the rule at the right."""
        return max(0, self.outer_size.width - self.right_rule)

    @property
    def visible_rows(self) -> range:
        """The rows in view."""
        top = self._top
        return range(top, min(top + self.page_rows, self.row_count()))

    @property
    def allow_vertical_scroll(self) -> bool:
        """Scrolling needs no scrollbar here."""
        return not self.disabled

    @property
    def allow_horizontal_scroll(self) -> bool:
        """Rows are cut at the right, never moved."""
        return False

    def reveal(self, row: int) -> None:
        """Scroll as little as needed, at once, so that a row is in view."""
        top, page = self._top, self.page_rows
        if page and not top <= row < top + page:
            self.scroll_to(y=row if row < top else row - page + 1, animate=False)

    def row_at(self, y: int) -> int | None:
        """The row painted on a line of the widget; None for the title and below the last row."""
        row = y - TITLE_ROWS + self._top
        return row if y >= TITLE_ROWS and row < self.row_count() else None

    def _sync_height(self) -> None:
        height = self.row_count() + TITLE_ROWS
        if self.virtual_size.height != height:
            # Rows come and go with every move of the cursor.  They take no room of other widgets, so there is no
            # layout to make again, which setting the attribute would ask for; only the scrolling has a new end.
            self.set_reactive(LineGrid.virtual_size, Size(1, height))  # pyright: ignore[reportArgumentType]
            if self._top > self.max_scroll_y:
                self.scroll_to(y=self.max_scroll_y, animate=False)

    def _repaint(self, rows: Sequence[int]) -> None:
        """Repaint rows in view, in order; neighbours are one region (in viewport coordinates)."""
        (width, height), shift = self.outer_size, TITLE_ROWS - self._first
        regions: list[Region] = []
        first = last = -1
        for row in rows:
            y = row + shift
            if not TITLE_ROWS <= y < height:
                continue
            if y != last + 1 or first < 0:
                if first >= 0:
                    regions.append(Region(0, first, width, last + 1 - first))
                first = y
            last = y
        if first >= 0 and width:
            self.refresh(*regions, Region(0, first, width, last + 1 - first))

    # Painting.

    def render_line(self, y: int) -> Strip:
        return self.draw_lines([y])[0]

    def draw_lines(self, lines: Sequence[int]) -> list[Strip]:
        """The strips of some lines: those of rows that were painted before as they are kept."""
        width, shift, count = self.outer_size.width, self._first - TITLE_ROWS, self.row_count()
        text_width = max(0, width - self.right_rule)
        book = self._book
        if book is None:
            book = self._book = book_for(self.app)
        plain = bool(getattr(self.app, "ascii_glyphs", False))
        strips, looks = self._strips, self._looks
        if self._made_for != (made_for := (width, text_width, book.generation, plain)):
            self._made_for = made_for
            looks.clear()
            strips.clear()
        bars = self._bars(count)
        plain_bar, double_bar = "│║" if self.right_rule and width else ("", "")
        if plain:
            plain_bar, double_bar = to_ascii(plain_bar), to_ascii(double_bar)
        cursor = self._cursor if self.row_cursor else -1
        varied = self._hover is not None or type(self).row_class is not LineGrid.row_class
        out: list[Strip] = []
        if len(strips) + len(lines) > _CACHED_ROWS:
            for old in strips.keys() - set(self.visible_rows):
                del strips[old]
        rendered = pulled = 0
        for y in lines:
            row = y + shift
            bar = double_bar if y in bars else plain_bar
            if y < TITLE_ROWS or row >= count:
                line, variant = self.title_line(text_width) if y < TITLE_ROWS else [], ""
            else:
                rendered += 1
                variant = self._variant(row) if row == cursor or varied else ""
                kept = strips.get(row)
                if kept is None:
                    pulled += 1
                    line = self.row(row, text_width)
                elif kept[0] == variant and kept[1] == bar:
                    out.append(kept[2])
                    continue
                else:
                    line = kept[2].line  # made for another cursor or another rule
            look = looks.get((variant, bar))
            if look is None:
                # The rule at the right is a rule on every row: it does not take the row's background.
                look = looks[variant, bar] = Look(text_width, book.table(variant), plain, bar, book.table())
            strip = AnsiStrip(line, look)
            if TITLE_ROWS <= y < count - shift:
                strips[row] = variant, bar, strip
            out.append(strip)
        self.rows_rendered += rendered
        self.rows_pulled += pulled
        return out

    def _variant(self, row: int) -> str:
        if self.row_cursor and row == self.cursor:
            return "cursor" if self.has_focus else "cursor.blur"
        return self.row_class(row) or ("hover" if row == self._hover else "")

    def _bars(self, count: int) -> range:
        """The lines whose rule at the right is double: those beside the visible part, when there is more than that."""
        page = self.page_rows
        if not self.right_rule or count <= page:
            return range(0)
        length = max(1, page * page // count)
        start = TITLE_ROWS + self._top * (page - length) // max(1, count - page)
        return range(start, start + length)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        # A theme change and a focus change both come here; only a new book makes the painted strips stale.
        self._book = None

    # Reactions.

    @property
    def cursor(self) -> int:
        """The row of the cursor, from 0; kept inside the rows and visible."""
        return self._cursor

    @cursor.setter
    def cursor(self, row: int) -> None:
        old, new = self._cursor, max(0, min(row, self.row_count() - 1))
        if new != old:
            self._cursor = new
            self.reveal(new)
            self._repaint((old, new) if old < new else (new, old))
            if self.says_cursor:
                self.post_message(self.CursorMoved(self, new))

    def on_mount(self) -> None:
        self._sync_height()

    def on_resize(self) -> None:
        self._sync_height()
        if self.row_cursor:
            self.reveal(self.cursor)

    # Keys.

    @classmethod
    def own_action(cls, key: str) -> str | None:
        """The action that a key of the pane's own stands for."""
        return _own_keys(cls).get(key)

    def _step(self, start: int, step: int) -> None:
        """Put the cursor on the first row from ``start`` on, in this direction, that it may stand on.

        Where there is none, the nearest one on the way back to the cursor takes it.
        """
        count = self.row_count()
        start = max(0, min(start, count - 1))
        onwards = range(start, count if step > 0 else -1, step)
        row = next((row for row in onwards if self.can_stand(row)), -1)
        if row < 0:
            back = range(start, self.cursor, -step)
            row = next((row for row in back if self.can_stand(row)), self.cursor)
            # The rows that cannot be stood on are to be seen all the same.
            self.reveal(start)
        self.cursor = row
        self.reveal(row)

    def _move(self, rows: int, step: int) -> None:
        if self.row_cursor:
            self._step(self.cursor + rows * step, step)
        else:
            self.scroll_to(y=self._top + rows * step, animate=False)

    def action_cursor_up(self) -> None:
        self._move(1, -1)

    def action_cursor_down(self) -> None:
        self._move(1, 1)

    def action_page_up(self) -> None:
        self._move(max(1, self.page_rows - 1), -1)

    def action_page_down(self) -> None:
        self._move(max(1, self.page_rows - 1), 1)

    def action_first_row(self) -> None:
        if self.row_cursor:
            self._step(0, 1)
        # Headings that the cursor skips are part of the beginning.
        if not self.row_cursor or self.cursor < self.page_rows:
            self.scroll_to(y=0, animate=False)

    def action_last_row(self) -> None:
        last = self.row_count()
        if self.row_cursor:
            self._step(last - 1, -1)
        if not self.row_cursor or self.cursor >= last - self.page_rows:
            self.scroll_to(y=last, animate=False)
