"""AnsiStrip: a strip that renders its own escape sequences, widgets of such lines, and a screen that writes them so.

This is the one module that leans on Textual's internals (8.2: the slots of `Strip`, `Widget._set_dirty`, the dirty
regions of the `Compositor`), because a full repaint through segments takes several times as long as its bytes, and a
partial one goes through every line of every widget between the first and the last that changed.  Wherever a strip is
not painted whole (an overlay cuts it, a filter recolours it, it is exported to SVG) it is an ordinary strip of
segments, made then; and a line of the screen that is not made of such widgets alone is painted by Textual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple, Self

from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from textual._compositor import ChopsUpdate, Compositor, CompositorUpdate
from textual._context import visible_screen_stack
from textual.cache import FIFOCache
from textual.color import Color
from textual.filter import ANSIToTruecolor, LineFilter
from textual.geometry import Region, Spacing
from textual.screen import Screen
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

    def refresh(
        self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False
    ) -> Self:
        """As the base class; lines of a widget on a `DirectScreen` are painted without a round through two queues."""
        if repaint and not (layout or recompose) and self._is_mounted and self._direct:
            screen = self.screen
            if isinstance(screen, DirectScreen) and screen.paints(self):
                self._set_dirty(*regions)
                if not regions:
                    self._rich_style_cache.clear()
                return self
        if layout and isinstance(self.screen, DirectScreen):
            self.screen.moving.add(self)
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

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
        strips = self.kept_lines(crop.line_range)
        if crop.column_span != (0, self._drawn_width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def kept_lines(self, lines: Sequence[int]) -> list[Strip]:
        """The strips of some lines over the whole width, those that are not dirty as they were."""
        drawn, width = self._drawn, self.outer_size.width
        if drawn is None or width != self._drawn_width:
            drawn = self._drawn = {}
            self._drawn_width = width
        missing = [y for y in lines if y not in drawn]
        if missing:
            strips = self.draw_lines(missing)
            if filters := self.get_line_filters():
                background = self.background_colors[1]
                for line_filter in filters:
                    strips = filtered(strips, line_filter, background)
            drawn.update(zip(missing, strips, strict=True))
        return [drawn[y] for y in lines]

    def draw_lines(self, lines: Sequence[int]) -> list[Strip]:
        """The strips of some lines of the widget."""
        return [self.render_line(y) for y in lines]


class _Place(NamedTuple):
    """Where a widget lies on a line of the screen, columns ``[x, end)``, and which of its own lines that is."""

    x: int
    end: int
    widget: DirectLines
    y: int


class DirectUpdate(CompositorUpdate):
    """Strips with their places, in the order of the screen, and what Textual has made of the other lines."""

    def __init__(self, pieces: Sequence[tuple[int, int, Strip]], rest: ChopsUpdate | None) -> None:
        """``pieces``: line, column, strip."""
        self.pieces = pieces
        self.rest = rest

    def render_segments(self, console: Console) -> str:
        """The text for the terminal: the cursor is moved only to where the strip before does not end."""
        out: list[str] = []
        row = column = -1
        for y, x, strip in self.pieces:
            if y != row or x != column:
                out.append(f"\x1b[{y + 1};{x + 1}H")
            out.append(strip.render(console))
            row, column = y, x + strip.cell_length
        if self.rest is not None:
            out.append(self.rest.render_segments(console))
        return "".join(out)


class DirectCompositor(Compositor):
    """A compositor that takes a line of the screen straight from its widgets where they are `DirectLines` side by side.

    All other lines (those of an input field, under a toast, in a gap) it composes as Textual does.
    """

    _placed_for: tuple[object, ...] = ()
    _placed: list[list[_Place] | None]

    def _places(self) -> list[list[_Place] | None]:
        """For each line its widgets from left to right; None where something else is to be seen."""
        visible = self.visible_widgets
        direct = [w for w in visible if isinstance(w, DirectLines) and w._is_direct()]
        key = self.size, direct, list(visible.items())
        if key != self._placed_for:
            self._placed_for = key
            self._placed = [
                _side_by_side(visible, direct, y, self.size.width) for y in range(self.size.height)
            ]
        return self._placed

    def render_update(
        self, full: bool = False, screen_stack: list[Screen[Any]] | None = None, simplify: bool = False
    ) -> Any:
        """As the base class; a picture, which asks for ``full``, is of segments."""
        if full or simplify or not self._dirty_regions:
            return super().render_update(full, screen_stack, simplify)
        visible_screen_stack.set(screen_stack or [])
        dirty = {region.intersection(self.size.region) for region in self._dirty_regions}
        self._dirty_regions.clear()
        places = self._places()
        wanted: dict[DirectLines, list[tuple[int, int, int, _Place]]] = {}
        others: list[tuple[int, int, int]] = []
        for span in self._regions_to_spans(dirty):
            y, x1, x2 = span
            line = places[y]
            if line is None:
                others.append(span)
                continue
            for place in line:
                if place.x < x2 and x1 < place.end:
                    wanted.setdefault(place.widget, []).append(
                        (y, max(x1, place.x), min(x2, place.end), place)
                    )
        pieces: list[tuple[int, int, Strip]] = []
        for widget, parts in wanted.items():
            for (y, x1, x2, place), strip in zip(
                parts, widget.kept_lines([p.y for *_, p in parts]), strict=True
            ):
                pieces.append((y, x1, strip.crop(x1 - place.x, x2 - place.x)))
        pieces.sort(key=itemgetter(0, 1))
        return DirectUpdate(pieces, self._composed(others)) if pieces or others else None

    def _composed(self, spans: list[tuple[int, int, int]]) -> ChopsUpdate | None:
        """Spans ``(line, x1, x2)`` as Textual composes them."""
        if not spans:
            return None
        lines = {y for y, _, _ in spans}
        crop = Region.from_union([Region(x1, y, x2 - x1, 1) for y, x1, x2 in spans])
        chops = self._render_chops(crop, lines.__contains__)
        return ChopsUpdate(chops, spans, [cuts[1:] for cuts in self.cuts])


def _side_by_side(
    visible: Mapping[Widget, tuple[Region, Region]], direct: Sequence[Widget], y: int, width: int
) -> list[_Place] | None:
    """The widgets of a line of the screen, if these are whole ones side by side, and nothing else is before them."""
    places: list[_Place] = []
    for widget, (region, clip) in visible.items():  # from front to back
        if not (region.width and region.y <= y < region.bottom and clip.y <= y < clip.bottom):
            continue
        if widget not in direct:
            break  # what is behind this one shows, if at all, beside it
        assert isinstance(widget, DirectLines)
        if clip.x > region.x or clip.right < region.right:
            return None
        places.append(_Place(region.x, region.right, widget, y - region.y))
    at = 0
    places.sort(key=attrgetter("x"))
    for place in places:
        if place.x != at:
            return None
        at = place.end
    return places if at == width else None


class DirectScreen(Screen[None]):
    """A screen that is composed so; its `DirectLines` are in the next frame without a message from each."""

    def __init__(self, name: str | None = None, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(name, id, classes)
        self._compositor = DirectCompositor()
        self.moving: set[DirectLines] = set()
        """Those that have asked for a layout."""
        self._due = False

    def paints(self, widget: Widget) -> bool:
        """Paint a widget's dirty lines with the next frame; returns whether there is one to come."""
        if self._compositor.root is None:
            return False
        self._dirty_widgets.add(widget)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._begin_frame)
        return True

    def _begin_frame(self) -> None:
        """Begin a frame, unless more of it is under way, a layout above all: behind that the screen asks again."""
        self._due = False
        self.moving = {widget for widget in self.moving if widget._layout_required and widget.is_running}
        if self.app._batch_count or not self.is_current:
            self.check_idle()
        elif not self.moving and self._message_queue.empty():
            self._update_timer.resume()
