"""AnsiStrip: a strip that renders its own escape sequences, and widgets whose lines the compositor gets as they are.

This is the one module that leans on Textual's internals (8.2: the slots of `Strip`, `Widget._set_dirty`), because a
full repaint through segments takes several times as long as its bytes.  Wherever a strip is not painted whole (an
overlay cuts it, a filter recolours it, it is exported to SVG) it is an ordinary strip of segments, made then.
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
from textual.geometry import Region, Spacing
from textual.strip import Strip
from textual.widget import Widget

from vmviz.tui.glyphs import clean, to_ascii
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
_RULES: Final = ("opacity", "text_opacity", "tint", "hatch", "keyline", "outline_top", "outline_left")


_clean: Final[set[str]] = set()
_clean_ascii: Final[set[str]] = set()
"""Texts that `clean` and `to_ascii` are known to leave alone: most cells are of a few kinds, shown over and over."""
_MOST_KNOWN: Final = 8192


def _cleaned(text: str, ascii_glyphs: bool) -> str:
    """The text as the terminal may have it; noted when it is that already."""
    made, known = (to_ascii(text), _clean_ascii) if ascii_glyphs else (clean(text), _clean)
    if made == text:
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known.add(text)
    return made


class AnsiStrip(Strip):
    """A line of cells, exactly ``columns`` wide, with the table that has the style of each role.

    >>> from vmviz.tui.styles import book
    >>> strip = AnsiStrip([("◊", "device"), ("x", "dim")], 4, book().table())
    >>> [segment.text for segment in strip], strip.cell_length
    (['◊', 'x', '  '], 4)
    """

    __slots__ = ("_columns", "_line", "_plain", "_table", "_tail", "_tail_table")

    def __init__(
        self,
        line: Line,
        columns: int,
        table: StyleTable,
        plain: bool = False,
        tail: str = "",
        tail_table: StyleTable | None = None,
    ) -> None:
        """``plain``: in the ASCII set.  ``tail``: one more cell behind the columns, the rule at the right of a pane."""
        self._line = line
        self._columns = columns
        self._table = table
        self._plain = plain
        self._tail = tail
        self._tail_table = tail_table or table
        self._cell_length = columns + len(tail)
        self._render_cache = None

    def __getattr__(self, name: str) -> Any:
        """What the base class keeps, made when somebody asks for it: most strips are only rendered."""
        value: Any = None
        if name == "_segments":
            value = line_segments(self._line, self._columns, self._table, self._plain)
            if self._tail:
                value.append(Segment(self._tail, self._tail_table["rule"]))
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
            table, tails = self._table, self._tail_table
            new, new_tails = table.filtered(filter, background), tails.filtered(filter, background)
            if new is table and new_tails is tails:
                return self
            return AnsiStrip(self._line, self._columns, new, self._plain, self._tail, new_tails)
        return super().apply_filter(filter, background)

    def render(self, console: Console) -> str:
        """The line as text with escape sequences."""
        kept = self._render_cache
        if kept is not None:
            return kept
        system = console._color_system or ColorSystem.TRUECOLOR
        sgr = self._table.sgr(system)
        clean_ones = _clean_ascii if self._plain else _clean
        out: list[str] = []
        last, left = "", self._columns
        try:
            for text, role in self._line:
                code = sgr[role]
                if code != last:
                    out.append(code)
                    last = code
                out.append(text if text in clean_ones else _cleaned(text, self._plain))
                left -= len(text)
        except KeyError as error:
            raise StyleError(f"there is no role {error}") from None
        if left < 0:
            cut = AnsiStrip(fit(self._line, self._columns), self._columns, self._table, self._plain)
            out = [cut.render(console).removesuffix(RESET)]
        elif left:
            out += ("" if last == sgr["text"] else sgr["text"], " " * left)
        if self._tail:
            out += (self._tail_table.sgr(system)["rule"], self._tail)
        out.append(RESET)
        kept = self._render_cache = "".join(out)
        return kept


def filtered(strips: Sequence[Strip], by: LineFilter, background: Color) -> list[Strip]:
    """Strips as a filter leaves them; what it does to strips of one style table is found out once."""
    same: dict[tuple[int, int], bool] = {}
    out: list[Strip] = []
    for strip in strips:
        if type(strip) is AnsiStrip:
            key = id(strip._table), id(strip._tail_table)
            if key not in same:
                same[key] = strip.apply_filter(by, background) is strip
            if same[key]:
                out.append(strip)
                continue
        out.append(strip.apply_filter(by, background))
    return out


class DirectLines(Widget):
    """A mixin for widgets of lines without borders: the compositor gets their strips unwrapped, and they are kept."""

    _drawn: dict[int, Strip] | None = None
    _drawn_width = -1
    _direct: bool | None = None

    def _set_dirty(self, *regions: Region) -> None:
        drawn = self._drawn
        if drawn:
            if regions:
                for region in regions:
                    for y in region.line_range:
                        drawn.pop(y, None)
            else:
                drawn.clear()
        if regions and self._direct:
            # Without anything around the lines the regions are the widget's own, and its cache of styles is not used.
            self._dirty_regions.update(regions)
            self._repaint_regions.update(regions)
        else:
            super()._set_dirty(*regions)

    def notify_style_update(self) -> None:
        """The style sheet says something else now."""
        super().notify_style_update()
        self._direct = None
        if self._drawn:
            self._drawn.clear()

    def _is_direct(self) -> bool:
        """Whether nothing has to be drawn around or over the lines."""
        if self._direct is None:
            styles = self.styles
            self._direct = self.gutter == Spacing() and not any(styles.has_rule(rule) for rule in _RULES)
        return self._direct

    def render_lines(self, crop: Region) -> list[Strip]:
        """The strips of the lines of ``crop``, those that are not dirty as they were."""
        if not self._is_direct():
            return super().render_lines(crop)
        drawn, width = self._drawn, self.outer_size.width
        if drawn is None or width != self._drawn_width:
            drawn = self._drawn = {}
            self._drawn_width = width
        lines = crop.line_range
        missing = [y for y in lines if y not in drawn]
        if missing:
            strips = self.draw_lines(missing)
            if filters := self.get_line_filters():
                background = self.background_colors[1]
                for line_filter in filters:
                    strips = filtered(strips, line_filter, background)
            drawn.update(zip(missing, strips, strict=True))
        strips = [drawn[y] for y in lines]
        if crop.column_span != (0, width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def draw_lines(self, lines: Sequence[int]) -> list[Strip]:
        """The strips of some lines of the widget."""
        return [self.render_line(y) for y in lines]
