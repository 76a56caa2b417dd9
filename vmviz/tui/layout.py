"""Where everything stands: one function from the size of the terminal to regions, and Textual's layout over it.

Two columns below 100 columns (a third of 26 could not hold an address with its flags), three above.  Very small
terminals lose panes one by one, the page-table tree last.
"""

from __future__ import annotations

from collections.abc import Iterable

from textual.containers import Container
from textual.geometry import Offset, Region, Size, Spacing
from textual.layout import ArrangeResult, Layout, WidgetPlacement
from textual.widget import Widget

from .directlines import DirectScreen

WIDE_COLUMNS = 100
PANES = ("vmas", "tree", "frames", "log")
Regions = dict[str, tuple[int, int, int, int]]


def arrange(width: int, height: int, *, extra: bool = False) -> Regions:
    """The regions ``(x, y, width, height)`` by widget id; a widget that is not named is not shown.

    ``extra``: the why strip takes the ruler's place too.

    >>> arrange(80, 24)["tree"], arrange(80, 24)["why"]
    ((40, 1, 40, 17), (0, 18, 80, 4))
    >>> sorted(arrange(20, 5))
    ['keys', 'status', 'tree']
    """
    if width >= WIDE_COLUMNS and height >= 30:
        return _wide(width, height)
    return _narrow(width, height, extra)


def _narrow(w: int, h: int, extra: bool) -> Regions:
    out: Regions = {"status": (0, 0, w, 1)}
    bottom = h - 1
    if h > 3:
        out["keys"] = (0, bottom, w, 1)
    else:
        bottom = h
    if h >= 9:
        bottom -= 1
        out["ruler"] = (0, bottom, w, 1)
    if h >= 12:
        rows = 4 if h < 34 else 8
        bottom -= rows
        out["why"] = (0, bottom, w, rows + (1 if extra else 0))
        if extra:
            out.pop("ruler", None)
    room = max(0, bottom - 1)
    if w < 60 or room < 6:
        if room:
            out["tree"] = (0, 1, w, room)
        return out
    left = w // 2
    frames = max(4, room * 5 // 17)
    out["vmas"] = (0, 1, left, room - frames)
    out["frames"] = (0, 1 + room - frames, left, frames)
    out["tree"] = (left, 1, w - left, room)
    return out


def _wide(w: int, h: int) -> Regions:
    strip = 10 if h < 46 else 12
    bottom = h - 2
    out: Regions = {"status": (0, 0, w, 1), "command": (0, h - 2, w, 1), "keys": (0, h - 1, w, 1)}
    bottom -= strip
    split = 64 if w < 150 else w // 2
    out["why"] = (0, bottom, split, strip)
    out["log"] = (split, bottom, w - split, strip)
    bottom -= 2
    out["ruler"] = (0, bottom, w, 2)
    room = bottom - 1
    left, right = 44, 33
    if w >= 150:  # the tree reads best at about 72 columns; names and frames take the rest
        left, right = 44 + (w - 150) // 3 + 10, max(33, w - (44 + (w - 150) // 3 + 10) - 72)
    out["vmas"] = (0, 1, left, room)
    out["tree"] = (left, 1, w - left - right, room)
    out["frames"] = (w - right, 1, right, room)
    return out


def with_notice(regions: Regions, width: int, height: int, rows: int) -> Regions:
    """The regions with a key bar of ``rows`` lines, above the command line where that has taken its place.

    What stands in its way gives up its last lines, the ruler first.

    >>> with_notice(arrange(80, 24), 80, 24, 1) == arrange(80, 24)
    True
    >>> with_notice(arrange(80, 24), 80, 24, 2)["keys"]
    (0, 22, 80, 2)
    """
    below = "command" in regions and "keys" not in regions
    above = "command" in regions and not below
    top = height - below - rows
    out: Regions = {"keys": (0, top, width, rows)}
    for name, (x, y, w, h) in regions.items():
        if name == "command":
            out[name] = (x, y if below else top - 1, w, h)
        elif name != "keys" and y < top - above:
            out[name] = (x, y, w, min(h, top - above - y))
    return out


class SceneLayout(Layout):
    """Places the widgets of the main screen by `arrange`; a widget without a region is hidden."""

    name = "scene"

    def __init__(self) -> None:
        super().__init__()
        self.extra = False
        self.command = False
        self.notice = 0
        """Lines of a notice in the key bar's place."""

    def arrange(
        self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True
    ) -> ArrangeResult:
        """Textual's question for the placements of the children."""
        regions = arrange(size.width, size.height, extra=self.extra)
        if self.command and "command" not in regions and size.height:
            regions["command"] = regions.pop("keys", (0, size.height - 1, size.width, 1))
        if self.notice and size.height > 3:
            regions = with_notice(regions, size.width, size.height, self.notice)
        return list(self._place(children, regions, size))

    def _place(self, children: Iterable[Widget], regions: Regions, size: Size) -> Iterable[WidgetPlacement]:
        nowhere = Spacing()
        for order, child in enumerate(children):
            if child.id in regions:
                x, y, w, h = regions[child.id]
                yield WidgetPlacement(Region(x, y, w, max(0, h)), Offset(0, 0), nowhere, child, order, False)


class Ground(DirectScreen):
    """The main screen itself: nothing of it is seen, so none of its lines is drawn."""

    BLANK = True


class SceneContainer(Container):
    """The container of the main screen's widgets, placed by a `SceneLayout`; they cover it wholly."""

    BLANK = True

    def __init__(self, placing: SceneLayout, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._placing = placing

    def place_again(self) -> None:
        """Ask the layout again: a widget's own refresh forgets only what its ancestors have arranged."""
        for child in self.children[:1]:
            child.refresh(layout=True)

    @property
    def layout(self) -> Layout:
        """The layout: this one cannot be named in TCSS."""
        return self._placing
