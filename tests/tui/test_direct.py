"""What a terminal shows after many small paintings is what one full painting shows."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Static

from vmviz.session.story import story_session
from vmviz.tui.app import VmvizApp
from vmviz.tui.command import CommandLine
from vmviz.tui.directlines import DirectCompositor, DirectUpdate
from vmviz.tui.linegrid import LineGrid
from vmviz.tui.panes.frames import FramePane
from vmviz.tui.panes.ruler import Ruler
from vmviz.tui.panes.vmas import VmaPane

from .appkit import LARGE, MIDDLE, SMALL, keys, opened, screen
from .test_ansistrip import from_segments

pyte = pytest.importorskip("pyte")

MOVES = ("down", "down", "down", "up", "up", "right", "left", "pagedown", "pageup", "end", "home")
MORE = ("shift+down", "shift+up", "tab", "tab", "shift+tab", "v", "V", "a", "I", "escape", "T", "enter")
ACTS = ("n", "n", "u", "r", "comma", "full_stop", "left_square_bracket", "right_curly_bracket")
OVER = ("question_mark", "z", "f")
Cells = list[list[tuple[Any, ...]]]


class Shown:
    """A terminal that gets every painting of the app, as the driver would write it."""

    def __init__(self, app: VmvizApp) -> None:
        self.app = app
        self.kinds: list[str] = []
        display = app._display

        def keep(screen: Any, update: Any) -> None:
            if update is not None:
                self.kinds.append(type(update).__name__)
                self.stream.feed(update.render_segments(app.console))
            display(screen, update)

        app._display = keep  # type: ignore[method-assign]
        self.resize()

    def resize(self) -> None:
        """An empty terminal of the app's size; the app paints all of it."""
        self.screen = pyte.Screen(*self.app.size)
        self.stream = pyte.Stream(self.screen)
        update: Any = self.app.screen._compositor.render_update(
            full=True, screen_stack=self.app._background_screens
        )
        self.stream.feed(update.render_segments(self.app.console))

    def cells(self) -> Cells:
        return [
            [
                (c.data, c.fg, c.bg, c.bold, c.italics, c.underscore, c.reverse)
                for c in (self.screen.buffer[y][x] for x in range(self.screen.columns))
            ]
            for y in range(self.screen.lines)
        ]

    def check(self, after: str) -> None:
        have, want = self.cells(), from_segments(self.app)
        for y, (line, wanted) in enumerate(zip(have, want, strict=True)):
            assert line == wanted, f"line {y} after {after}"


@pytest.mark.parametrize("size", [(20, 5), (60, 13), SMALL, (99, 40), MIDDLE, LARGE])
async def test_many_paintings_show_what_one_shows(size: tuple[int, int]) -> None:
    dice = random.Random(sum(size))
    async with opened(size) as (app, pilot):
        shown = Shown(app)
        for n in range(24):
            name = dice.choice(dice.choice([MOVES, MOVES, MORE, ACTS, OVER]))
            await keys(app, pilot, name)
            over = len(app.screen_stack) > 1
            if n % 4 == 0 or over:  # what is stale stays so, mostly, until it is looked for
                shown.check(name)
            if over:
                await keys(app, pilot, "down", "escape")
        assert "DirectUpdate" in shown.kinds


async def test_paintings_in_a_window_of_another_size(pilot_sizes: tuple[tuple[int, int], ...]) -> None:
    async with opened(SMALL) as (app, pilot):
        shown = Shown(app)
        for width, height in pilot_sizes:
            await pilot.resize_terminal(width, height)
            await keys(app, pilot)
            shown.resize()
            for name in ("down", "n", "question_mark", "escape", "u"):
                await keys(app, pilot, name)
                shown.check(f"{name} at {width}x{height}")


@pytest.fixture
def pilot_sizes() -> tuple[tuple[int, int], ...]:
    return (MIDDLE, (30, 8), SMALL)


async def test_under_an_overlay_textual_paints_the_panes() -> None:
    async with opened(MIDDLE) as (app, pilot):
        shown = Shown(app)
        await keys(app, pilot, "question_mark")
        shown.kinds.clear()
        app.director.cursor += 4096  # behind the box the panes follow
        app.show()
        await keys(app, pilot)
        shown.check("a move under the box")
        assert "DirectUpdate" not in shown.kinds
        await keys(app, pilot, "escape", "down")
        shown.check("a move after it")
        assert shown.kinds[-1] == "DirectUpdate"


async def test_a_box_before_the_panes_stays() -> None:
    async with opened(MIDDLE) as (app, pilot):
        shown = Shown(app)
        box = Static("a box")
        box.styles.layer, box.styles.width, box.styles.height, box.styles.offset = "top", 30, 5, (80, 8)
        app.screen.styles.layers = ("base", "top")
        await app.screen.mount(box)
        await keys(app, pilot, "down", "down")
        shown.check("moves beside a box")
        places = compositor(app).places().lines
        assert [y for y, line in enumerate(places) if line is None] == [*range(8, 13), 38]
        app.query_one(FramePane).touch_all()
        await keys(app, pilot)
        shown.check("a pane below the box")
        assert any("a box" in "".join(cell[0] for cell in line) for line in shown.cells())
        await box.remove()
        await keys(app, pilot, "down")
        shown.check("the box is gone")
        assert compositor(app).places().lines[8] is not None


async def test_an_input_field_is_painted_by_textual_and_the_rest_is_not() -> None:
    async with opened(LARGE) as (app, pilot):
        shown = Shown(app)
        line = app.query_one(CommandLine).region.y
        places = compositor(app).places().lines
        assert [y for y, found in enumerate(places) if found is None] == [line]
        await keys(app, pilot, "colon", "m", "m")
        shown.check("typing")
        await keys(app, pilot, "escape", "down")
        shown.check("leaving it")


@pytest.mark.parametrize(
    ("rule", "value"), [("outline", ("ascii", "red")), ("opacity", 0.5), ("tint", "red 30%")]
)
async def test_lines_with_something_around_them_are_textuals(rule: str, value: object) -> None:
    async with opened(MIDDLE) as (app, pilot):
        shown = Shown(app)
        pane = app.query_one(VmaPane)
        assert compositor(app).places().lines[pane.region.y] is not None
        setattr(pane.styles, rule, value)
        pane.notify_style_update()  # as a style sheet would have it
        await keys(app, pilot, "down")
        assert compositor(app).places().lines[pane.region.y] is None
        shown.check(rule)


async def test_each_theme_is_painted_whole() -> None:
    async with opened(MIDDLE) as (app, pilot):
        shown = Shown(app)
        for name in ("vmviz-light", "vmviz-mono", "textual-ansi", "textual-light", "vmviz-dark"):
            if name not in app.available_themes:
                continue
            app.theme = name
            await keys(app, pilot, "down")
            shown.check(name)


async def test_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(SMALL) as (app, pilot):
        shown = Shown(app)
        await keys(app, pilot, "n", "down", "down", "u")
        shown.check("keys")
        assert {(cell[1], cell[2]) for line in shown.cells() for cell in line} == {("default", "default")}


async def test_a_picture_is_of_segments_all_the_same() -> None:
    async with opened(SMALL) as (app, pilot):
        await keys(app, pilot, "down")
        before = app.export_screenshot()
        shown = Shown(app)
        await keys(app, pilot, "down", "up")
        assert shown.kinds.count("DirectUpdate") == len(shown.kinds)
        texts = [re.findall("<text[^>]*>([^<]*)", svg) for svg in (before, app.export_screenshot())]
        assert len(texts[0]) > 100
        assert texts[0] == texts[1]


async def test_a_part_of_a_line_is_a_part_of_the_strip() -> None:
    async with opened(SMALL) as (app, pilot):
        shown = Shown(app)
        ruler = app.query_one(Ruler)
        at = ruler.region
        for y in range(at.y, at.bottom):
            shown.stream.feed(f"\x1b[{y + 1};1H\x1b[0m{'?' * app.size.width}")
        width = at.width
        for start, end in ((0, 7), (7, 9), (9, width - 3), (width - 3, width)):
            ruler.refresh(
                at.reset_offset.crop_size((end, 1)).intersection(type(at)(start, 0, end - start, 1))
            )
        await keys(app, pilot)
        shown.check("the parts of a line")


def compositor(app: VmvizApp) -> DirectCompositor:
    found = app.screen_stack[0]._compositor
    assert isinstance(found, DirectCompositor)
    return found


async def test_what_is_painted_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of this file can fail: a compositor that leaves out its lines is found out."""
    render = DirectUpdate.render_segments

    def short(self: DirectUpdate, console: Any) -> str:
        self.pieces = []
        return render(self, console)

    async with opened(SMALL) as (app, pilot):
        shown = Shown(app)
        monkeypatch.setattr(DirectUpdate, "render_segments", short)
        with pytest.raises(AssertionError, match="after down"):
            await after_down(app, pilot, shown)


async def after_down(app: VmvizApp, pilot: Pilot[None], shown: Shown) -> None:
    await keys(app, pilot, "down")
    shown.check("down")


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_first_painting_has_all(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual paints the empty screen, each layout on the way, and the screen when it is full."""
    paintings: list[str] = []
    display = App._display

    def note(self: App[Any], shown: Screen[Any], update: Any) -> None:
        if update is not None:
            paintings.append(update.render_segments(self.console))
        display(self, shown, update)

    monkeypatch.setattr(App, "_display", note)
    async with opened(size) as (app, _):
        terminal = pyte.Screen(*size)
        stream = pyte.Stream(terminal)
        first, *more = filter(None, paintings)
        stream.feed(first)
        assert any("Page tables" in line for line in terminal.display)
        assert any("Why" in line or "framebuffer" in line for line in terminal.display)
        assert sum(map(len, more)) < len(first) / 4  # what follows is a line, not the screen
        for text in more:
            stream.feed(text)
        assert [line.rstrip() for line in terminal.display] == [line.rstrip() for line in screen(app)]


async def test_a_full_painting_asks_each_pane_once_for_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | None, int]] = []
    draw = LineGrid.draw_lines

    def counted(self: LineGrid, lines: Sequence[int]) -> Any:
        asked.append((self.id, len(lines)))
        return draw(self, lines)

    async with opened(LARGE) as (app, pilot):
        shown = Shown(app)
        monkeypatch.setattr(LineGrid, "draw_lines", counted)
        for pane in app.query(LineGrid):
            pane.touch_all()
        app.screen.refresh()
        await keys(app, pilot)
        assert sorted(asked) == sorted((pane.id, pane.outer_size.height) for pane in app.query(LineGrid))
        shown.check("a full painting")


async def test_the_first_painting_waits_for_no_tick_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textual.screen.UPDATE_PERIOD", 3600.0)
    painted: list[bool] = []
    display = App._display

    def note(self: App[Any], shown: Screen[Any], update: Any) -> None:
        painted.append(update is not None)
        display(self, shown, update)

    monkeypatch.setattr(App, "_display", note)
    app = VmvizApp(story_session(), frame=3600)
    async with app.run_test(size=MIDDLE) as pilot:
        for _ in range(100):
            await pilot._wait_for_screen()
            if any(painted):
                break
        assert any(painted)
