"""Widgets of lines, and the screen that writes these lines as they are.

This module and `vmviz.tui.ansistrip` are the ones that lean on Textual's internals (8.2: here `Widget._set_dirty`, the
dirty regions of the `Compositor`, the timer of `Screen`).  Textual's compositor goes through every line of every widget
between the first and the last that changed, and each widget asks for its painting with a message to itself and one to
the screen.  A line of the screen that is not made of such widgets alone is painted by Textual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any, Final, Self

from rich.console import Console
from textual._compositor import ChopsUpdate, Compositor, CompositorUpdate
from textual._context import visible_screen_stack
from textual.dom import DOMNode
from textual.events import Idle
from textual.geometry import Region, Size, Spacing
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from vmviz.tui.ansistrip import filtered

_RULES: Final = ("opacity", "text_opacity", "tint", "hatch", "keyline", "outline_top", "outline_left")


class DirectLines(Widget):
    """A mixin for widgets of lines without borders: the compositor gets their strips unwrapped, and they are kept."""

    _drawn: dict[int, Strip] | None = None
    _drawn_width = -1
    _direct: bool | None = None
    _home: tuple[Screen[Any]] | None = None

    def _set_dirty(self, *regions: Region) -> None:
        drawn = self._drawn
        if drawn:
            if regions:
                for region in regions:
                    for y in region.line_range:
                        drawn.pop(y, None)
            else:
                drawn.clear()
        if self._direct:
            # Without anything around the lines the regions are the widget's own, and its cache of styles is not used.
            if not regions:
                regions = (self.outer_size.region,)
                self._repaint_regions.clear()
            self._repaint_regions.update(regions)
        else:
            super()._set_dirty(*regions)

    def refresh(
        self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False
    ) -> Self:
        """As the base class; lines of a widget on a `DirectScreen` are painted without a round through two queues."""
        if self._is_mounted and (screen := self._screen()) is not None:
            if repaint and not (layout or recompose) and self._direct and screen.paints(self):
                self._set_dirty(*regions)
                if not regions:
                    self._rich_style_cache.clear()
                return self
            if layout:
                screen.moving.add(self)
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def _screen(self) -> DirectScreen | None:
        """The `DirectScreen` that this widget lies on: a mounted one stays where it is."""
        if self._home is None:
            self._home = (self.screen,)
        (screen,) = self._home
        return screen if isinstance(screen, DirectScreen) else None

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
            drawn.update(zip(missing, filtered(self.draw_lines(missing), self), strict=True))
        return [drawn[y] for y in lines]

    def draw_lines(self, lines: Sequence[int]) -> Sequence[Strip]:
        """The strips of some lines of the widget, in order."""
        return [self.render_line(y) for y in lines]


class DirectUpdate(CompositorUpdate):
    """Strips with their places, in the order of the screen, and what Textual has made of the other lines."""

    def __init__(self, pieces: Sequence[tuple[int, int, int, Strip]], rest: ChopsUpdate | None) -> None:
        """``pieces``: line, columns from and to, strip."""
        self.pieces = pieces
        self.rest = rest

    def render_segments(self, console: Console) -> str:
        """The text for the terminal: the cursor is moved only to where the strip before does not end."""
        out, row, column = [], -1, -1
        for y, x, end, strip in self.pieces:
            if y != row or x != column:
                out.append(f"\x1b[{y + 1};{x + 1}H")
            out.append(strip.render(console))
            row, column = y, end
        if self.rest is not None:
            out.append(self.rest.render_segments(console))
        return "".join(out)


class _Places:
    """Where widgets lie side by side on a screen: by line, and by the columns that they take."""

    def __init__(self, visible: Mapping[Widget, tuple[Region, Region]], size: Size) -> None:
        self.lines = [self._line(visible, y, size.width) for y in range(size.height)]
        """The widgets of each line from left to right, with their regions; None where something else is to be seen."""
        self.columns: dict[tuple[int, int], list[tuple[DirectLines, Region]]] = {}
        """The widgets that have each of their lines here."""
        for widget, (region, _) in visible.items():
            found = (widget, region)
            if isinstance(widget, DirectLines) and all(
                line is not None and found in line for line in self.lines[region.y : region.bottom]
            ):
                self.columns.setdefault(region.column_span, []).append((widget, region))

    @staticmethod
    def _line(
        visible: Mapping[Widget, tuple[Region, Region]], y: int, width: int
    ) -> list[tuple[DirectLines, Region]] | None:
        places: list[tuple[DirectLines, Region]] = []
        for widget, (region, clip) in visible.items():  # from front to back
            if region.width and region.y <= y < region.bottom and clip.y <= y < clip.bottom:
                if not isinstance(widget, DirectLines) or not widget._is_direct():
                    break  # what is behind this one shows, if at all, beside it
                if clip.x > region.x or clip.right < region.right:
                    return None
                places.append((widget, region))
        places.sort(key=lambda place: place[1].x)
        ends = [0, *(region.right for _, region in places)]
        return places if ends == [*(region.x for _, region in places), width] else None

    def whole(self, dirty: Region) -> tuple[DirectLines, Region] | None:
        """The widget whose lines these are from the first to the last column."""
        for widget, region in self.columns.get(dirty.column_span, ()):
            if region.y <= dirty.y and dirty.bottom <= region.bottom:
                return widget, region
        return None


class DirectCompositor(Compositor):
    """A compositor that takes a line of the screen straight from its widgets where they are `DirectLines` side by side.

    All other lines (those of an input field, under a toast, in a gap) it composes as Textual does.
    """

    _placed_for: tuple[object, ...] = ()
    _placed: _Places

    def places(self) -> _Places:
        """Where the widgets lie now."""
        visible = self.visible_widgets
        key = self.size, visible, [w for w in visible if isinstance(w, DirectLines) and w._is_direct()]
        if key != self._placed_for:
            self._placed_for = self.size, dict(visible), key[2]
            self._placed = _Places(visible, self.size)
        return self._placed

    def render_update(
        self, full: bool = False, screen_stack: list[Screen[Any]] | None = None, simplify: bool = False
    ) -> Any:
        """As the base class; a picture, which asks for ``full``, is of segments."""
        if full or simplify or not self._dirty_regions:
            return super().render_update(full, screen_stack, simplify)
        visible_screen_stack.set(screen_stack or [])
        dirty, screen, places = self._dirty_regions.copy(), self.size.region, self.places()
        self._dirty_regions.clear()
        if screen in dirty:
            dirty = {screen}
        wanted: dict[tuple[DirectLines, Region], set[int]] = {}
        rest: list[Region] = []
        for region in dirty:
            place = places.whole(region)
            if place is not None:
                wanted.setdefault(place, set()).update(region.line_range)
            else:
                rest.append(region.intersection(screen))
        pieces: list[tuple[int, int, int, Strip]] = []
        for (widget, at), lines in wanted.items():
            ys = sorted(lines)
            strips = widget.kept_lines([y - at.y for y in ys])
            pieces += zip(ys, repeat(at.x), repeat(at.right), strips)
        others = self._parts(rest, places, pieces) if rest else []
        pieces.sort(key=itemgetter(0, 1))
        return DirectUpdate(pieces, self._composed(others)) if pieces or others else None

    def _parts(
        self, dirty: Sequence[Region], places: _Places, pieces: list[tuple[int, int, int, Strip]]
    ) -> list[tuple[int, int, int]]:
        """Add what regions cut out of lines to ``pieces``; returns the spans ``(line, x1, x2)`` that are Textual's."""
        others: list[tuple[int, int, int]] = []
        cuts: dict[tuple[DirectLines, Region], list[tuple[int, int, int]]] = {}
        for y, x1, x2 in self._regions_to_spans(dirty):
            line = places.lines[y]
            if line is None:
                others.append((y, x1, x2))
                continue
            for place in line:
                left, right = max(x1, place[1].x), min(x2, place[1].right)
                if left < right:
                    cuts.setdefault(place, []).append((y, left, right))
        for (widget, at), spans in cuts.items():
            strips = widget.kept_lines([y - at.y for y, _, _ in spans])
            pieces += [
                (y, left, right, strip.crop(left - at.x, right - at.x))
                for (y, left, right), strip in zip(spans, strips, strict=True)
            ]
        return others

    def _composed(self, spans: list[tuple[int, int, int]]) -> ChopsUpdate | None:
        """Spans as Textual composes them."""
        if not spans:
            return None
        lines = {y for y, _, _ in spans}
        crop = Region.from_union([Region(x1, y, x2 - x1, 1) for y, x1, x2 in spans])
        chops = self._render_chops(crop, lines.__contains__)
        return ChopsUpdate(chops, spans, [cuts[1:] for cuts in self.cuts])


class DirectScreen(Screen[None]):
    """A screen that is composed so; its `DirectLines` are in the next frame without a message from each."""

    def __init__(self, name: str | None = None, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(name, id, classes)
        self._compositor = DirectCompositor()
        self.moving: set[DirectLines] = set()
        """Those that have asked for a layout."""
        self._due = False
        self._opened = False

    async def _on_idle(self, event: Idle) -> None:
        """The first frame need not wait for a tick of the clock: it is due as soon as nobody has anything to do."""
        if not self._opened and self.is_current and not self.app._batch_count and self._at_rest():
            event.prevent_default()
            self._on_timer_update()

    def _at_rest(self) -> bool:
        """Whether all widgets are there and have done what they were told."""
        return bool(self.children) and all(
            child._is_mounted and child._message_queue.empty() for child in self.walk_children(DOMNode)
        )

    def _on_timer_update(self) -> None:
        """The first frame comes when all has place and content; before, Textual paints each step on the way there."""
        super()._on_timer_update()
        if not self._opened:
            self._opened = True
            self._compositor_refresh()

    def _compositor_refresh(self) -> None:
        if self._opened:
            super()._compositor_refresh()

    def paints(self, widget: Widget) -> bool:
        """Paint a widget's dirty lines with the next frame; returns whether there is one to come."""
        if self._compositor.root is None:
            return False
        if not self._due:
            try:
                asyncio.get_running_loop().call_soon(self._begin_frame)
            except RuntimeError:  # what is done between two runs of the loop goes Textual's way
                return False
            self._due = True
        self._dirty_widgets.add(widget)
        return True

    def _begin_frame(self) -> None:
        """Begin a frame, unless more of it is under way, a layout above all: behind that the screen asks again."""
        self._due = False
        self.moving = {widget for widget in self.moving if widget._layout_required and widget.is_running}
        if self.app._batch_count or not self.is_current:
            self.check_idle()
        elif not self.moving and self._message_queue.empty():
            self._update_timer.resume()
