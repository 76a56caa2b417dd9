"""AnsiStrip: a strip that renders its own escape sequences.

This module and `vmviz.tui.directlines`, which writes such strips, are the ones that lean on Textual's internals (8.2:
here the slots of `Strip`), because a full repaint through segments takes several times as long as its bytes.  Wherever
a strip is not painted whole (an overlay cuts it, a filter recolours it, it is exported to SVG) it is an ordinary strip
of segments, made then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from textual.cache import FIFOCache
from textual.color import Color
from textual.filter import ANSIToTruecolor, LineFilter
from textual.strip import Strip
from textual.widget import Widget

from vmviz.tui.glyphs import CLEAN, cleaned
from vmviz.tui.styles import RESET, StyleError, StyleTable, line_segments
from vmviz.views.cells import Line, fit

_CACHES: Final = {
    "_divide_cache": 4,
    "_crop_cache": 16,
    "_style_cache": 16,
    "_filter_cache": 4,
    "_line_length_cache": 4,
    "_crop_extend_cache": 4,
    "_offsets_cache": 4,
}


class Look:
    """What lines have in common: their columns, the table that has the style of each role, the glyphs, what is behind.

    ``plain``: in the ASCII set.  ``tail``: one more cell behind the columns, the rule at the right of a pane.
    """

    __slots__ = (
        "_codes",
        "_console",
        "columns",
        "is_truecolor",
        "plain",
        "table",
        "tail",
        "tail_table",
        "width",
    )

    def __init__(
        self,
        columns: int,
        table: StyleTable,
        plain: bool = False,
        tail: str = "",
        tail_table: StyleTable | None = None,
    ) -> None:
        self.columns, self.table, self.plain, self.tail = columns, table, plain, tail
        self.tail_table = tail_table or table
        self.width = columns + len(tail)
        self.is_truecolor = table.is_truecolor and self.tail_table.is_truecolor
        self._console: Console | None = None
        self._codes: tuple[dict[str, str], dict[str, int], str] = {}, {}, RESET

    def codes(self, console: Console) -> tuple[dict[str, str], dict[str, int], str]:
        """The escape sequences by role, the lengths of texts that are known to be clean, and what ends a line."""
        if self._console is not console:
            system = console._color_system or ColorSystem.TRUECOLOR
            tail = self.tail_table.sgr(system)["rule"] + self.tail if self.tail else ""
            self._console, self._codes = console, (self.table.sgr(system), CLEAN[self.plain], tail + RESET)
        return self._codes


class AnsiStrip(Strip):
    """A line of cells, exactly as wide as its look says.

    >>> from vmviz.tui.styles import book
    >>> strip = AnsiStrip([("◊", "device"), ("x", "dim")], Look(4, book().table()))
    >>> [segment.text for segment in strip], strip.cell_length
    (['◊', 'x', '  '], 4)
    """

    __slots__ = ("line", "look")

    def __init__(self, line: Line, look: Look) -> None:
        self.line = line
        self.look = look
        self._cell_length = look.width
        self._render_cache = None

    def __getattr__(self, name: str) -> Any:
        """What the base class keeps, made when somebody asks for it: most strips are only rendered."""
        value: Any = None
        if name == "_segments":
            look = self.look
            value = line_segments(self.line, look.columns, look.table, look.plain)
            if look.tail:
                value.append(Segment(look.tail, look.tail_table["rule"]))
        elif name in _CACHES:
            value = FIFOCache(_CACHES[name])
        elif name not in {"_link_ids", "_cell_count"}:
            raise AttributeError(name)
        setattr(self, name, value)
        return value

    def divide(self, cuts: Any) -> Any:
        """As the base class; not cut at all, as usual, it stays itself."""
        cuts = list(cuts)
        if cuts == [self._cell_length]:
            return [self]
        return super().divide(cuts)

    def apply_filter(self, filter: LineFilter, background: Color) -> Strip:
        """As the base class; what Textual's filter of terminal colours leaves alone stays itself."""
        if type(filter) is ANSIToTruecolor:
            look = self.look
            new, tails = (table.filtered(filter, background) for table in (look.table, look.tail_table))
            if new is look.table and tails is look.tail_table:
                return self
            return AnsiStrip(self.line, Look(look.columns, new, look.plain, look.tail, tails))
        return super().apply_filter(filter, background)

    def render(self, console: Console) -> str:
        """The line as text with escape sequences."""
        kept = self._render_cache
        if kept is not None:
            return kept
        look, line = self.look, self.line
        sgr, lengths, end = look.codes(console)
        left = look.columns
        out: list[str] = []
        add, last = out.append, ""
        try:
            for text, role in line:
                code = sgr[role]
                if code is not last:
                    add(code)
                    last = code
                left -= lengths[text]
                add(text)
        except KeyError:
            if unknown := [role for _, role in line if role not in sgr]:
                raise StyleError(f"there is no role {unknown[0]!r}") from None
            line = [(cleaned(text, look.plain), role) for text, role in line]
            left = -1
        if left < 0:
            kept = AnsiStrip(fit(line, look.columns), look).render(console)
        else:
            if left:
                out += ("" if last is sgr["text"] else sgr["text"], " " * left)
            add(end)
            kept = "".join(out)
        self._render_cache = kept
        return kept


def filtered(strips: Sequence[Strip], widget: Widget) -> Sequence[Strip]:
    """Strips of a widget as its filters leave them.

    Nearly always there is but one, Textual's for the terminal's own colours, and nothing for it to do: then none is
    asked, and the widget is not asked for its background.
    """
    filters = widget.get_line_filters()
    if [type(one) for one in filters] == [ANSIToTruecolor]:
        looks = {strip.look if type(strip) is AnsiStrip else None for strip in strips}
        if all(look is not None and look.is_truecolor for look in looks):
            return strips
    for line_filter in filters:
        background = widget.background_colors[1]
        strips = [strip.apply_filter(line_filter, background) for strip in strips]
    return strips
