"""AnsiStrip: what a terminal shows of it is what its segments say, whole, cut by an overlay, filtered and exported."""

from __future__ import annotations

import html
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from textual.color import Color
from textual.filter import ANSIToTruecolor, DimFilter, LineFilter, Monochrome, NoColor
from textual.strip import Strip

from vmviz.tui.ansistrip import AnsiStrip, Look, filtered
from vmviz.tui.app import VmvizApp
from vmviz.tui.directlines import DirectLines
from vmviz.tui.panes.frames import FramePane
from vmviz.tui.styles import StyleError, StyleTable, book
from vmviz.tui.themes import available_themes, load_theme
from vmviz.views.cells import Line

from .appkit import LARGE, MIDDLE, SMALL, keys, opened, screen

pyte = pytest.importorskip("pyte")

LINES: list[Line] = [
    [],
    [("◊◊", "device"), ("×", "cleared"), (" e0300 ", "addr")],
    [("a", "anon"), ("b", "anon"), ("", "dim"), ("c", "now"), ("a long text that is cut", "text")],
    [("\x1b[2J写\n", "name"), ("ok", "name")],
    [("exactly twelv", "mark.range")],
]


def console() -> Console:
    return Console(color_system="truecolor", force_terminal=True, legacy_windows=False)


def cells(text: str, columns: int = 40, lines: int = 1) -> list[list[tuple[Any, ...]]]:
    """What a terminal shows: each cell with its colours and attributes."""
    shown = pyte.Screen(columns, lines)
    pyte.Stream(shown).feed(text)
    return [
        [
            (c.data, c.fg, c.bg, c.bold, c.italics, c.underscore, c.reverse)
            for c in (shown.buffer[y][x] for x in range(columns))
        ]
        for y in range(lines)
    ]


def plain(strip: Strip) -> Strip:
    """The same as a strip of Textual's own."""
    return Strip(list(strip), strip.cell_length)


def strips() -> list[AnsiStrip]:
    table = book().table("cursor")
    return [
        AnsiStrip(line, Look(13, table, ascii_glyphs, tail, book().table()))
        for line in LINES
        for ascii_glyphs in (False, True)
        for tail in ("", "│")
    ]


@pytest.mark.parametrize("theme", list(available_themes()))
def test_a_terminal_shows_what_the_segments_say(theme: str) -> None:
    for variant in ("", "cursor", "hover"):
        for line in LINES:
            strip = AnsiStrip(line, Look(13, book(theme).table(variant), False, "│", book(theme).table()))
            assert strip.cell_length == 14 == len(strip.text)
            assert cells(strip.render(console())) == cells(plain(strip).render(console()))


@pytest.mark.parametrize("width", [0, 1, 2, 12, 13, 30])
def test_it_is_exactly_as_wide_as_it_is_told(width: int) -> None:
    for line in LINES:
        strip = AnsiStrip(line, Look(width, book().table()))
        assert strip.cell_length == len(strip.text) == width
        assert cells(strip.render(console())) == cells(plain(strip).render(console()))


def test_nothing_in_a_text_steers_the_terminal() -> None:
    rendered = AnsiStrip(LINES[3], Look(13, book().table())).render(console())
    assert "\x1b[2J" not in rendered
    assert "\n" not in rendered
    assert cells(rendered)[0][0][0] == "?"


def test_an_unknown_role_is_an_error() -> None:
    with pytest.raises(StyleError, match="devise"):
        AnsiStrip([("x", "devise")], Look(5, book().table())).render(console())


@pytest.mark.parametrize("cuts", [[14], [3, 14], [1, 2, 14], [5, 9], [20]])
def test_it_is_cut_as_any_strip(cuts: list[int]) -> None:
    for strip in strips():
        whole = plain(strip)
        ends = [cut for cut in cuts if cut <= strip.cell_length]
        assert [list(part) for part in strip.divide(cuts)] == [list(part) for part in whole.divide(ends)]
        assert strip.crop(2, 6) == whole.crop(2, 6)
        assert strip.crop(0, strip.cell_length) is strip
        assert strip.adjust_cell_length(20) == whole.adjust_cell_length(20)


def test_one_that_is_not_cut_stays_itself() -> None:
    strip = strips()[0]
    assert strip.divide([strip.cell_length])[0] is strip


def filters() -> list[LineFilter]:
    from textual._ansi_theme import DEFAULT_TERMINAL_THEME

    return [ANSIToTruecolor(DEFAULT_TERMINAL_THEME), NoColor(), Monochrome(), DimFilter()]


def on(ground: Color, by: LineFilter) -> Any:
    """A widget with a background and a filter."""
    return SimpleNamespace(background_colors=(ground, ground), get_line_filters=lambda: [by])


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("theme", list(available_themes()))
def test_it_is_filtered_as_any_strip(which: int, theme: str) -> None:
    by, ground = filters()[which], Color.parse("#101418")
    if isinstance(by, DimFilter) and load_theme(theme).ansi:
        pytest.skip("Textual's DimFilter knows no colours of the terminal's own")
    for line in LINES:
        strip = AnsiStrip(line, Look(13, book(theme).table("cursor.blur"), False, "│", book(theme).table()))
        (after,) = filtered([strip], on(ground, by))
        expected = plain(strip).apply_filter(by, ground)
        assert cells(after.render(console())) == cells(expected.render(console()))
        assert [s.text for s in after] == [s.text for s in expected]


def test_textuals_own_filter_leaves_truecolor_alone_and_keeps_the_strip() -> None:
    strip = AnsiStrip(LINES[1], Look(13, StyleTable({"text": book().style("text"), **book().table()})))
    by = filters()[0]
    (after,) = filtered([strip], on(Color.parse("#101418"), by))
    assert type(after) is AnsiStrip


def test_colours_are_those_of_the_terminal() -> None:
    table = book().table()
    assert table.sgr(ColorSystem.STANDARD)["device"] != table.sgr(ColorSystem.TRUECOLOR)["device"]


def drawn(app: VmvizApp) -> list[tuple[DirectLines, list[Strip]]]:
    widgets = [w for w in app.screen_stack[0].query("*") if isinstance(w, DirectLines) and w.outer_size.area]
    return [(w, w.render_lines(w.outer_size.region)) for w in widgets]


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
async def test_the_apps_panes_give_the_compositor_ansi_strips(size: tuple[int, int]) -> None:
    async with opened(size) as (app, _):
        found = drawn(app)
        assert any(isinstance(widget, FramePane) for widget, _ in found)
        assert len(found) >= 6
        assert {type(strip) for _, lines in found for strip in lines} == {AnsiStrip}


def terminal(app: VmvizApp) -> list[list[tuple[Any, ...]]]:
    """The whole screen as it goes to the terminal."""
    update: Any = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    return cells(update.render_segments(app.console).replace("\n", ""), *app.size)


def from_segments(app: VmvizApp) -> list[list[tuple[Any, ...]]]:
    """The whole screen as its segments say."""
    from textual._context import visible_screen_stack

    token = visible_screen_stack.set(app._background_screens)
    try:
        lines = app.screen._compositor.render_strips(app.size)
    finally:
        visible_screen_stack.reset(token)
    for segment in (segment for line in lines for segment in line):
        if (
            segment.style
        ):  # Rich keeps the codes of one terminal with a style: another test's may be another one
            segment.style._ansi = None
    text = "".join(
        f"\x1b[{y + 1};1H{Strip([Segment(*s) for s in line], line.cell_length).render(app.console)}"
        for y, line in enumerate(lines)
    )
    return cells(text, *app.size)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_under_an_overlay_the_rest_of_the_panes_stays(size: tuple[int, int]) -> None:
    async with opened(size) as (app, pilot):
        before = terminal(app)
        assert before == from_segments(app)
        await keys(app, pilot, "question_mark")
        assert len(app.screen_stack) == 2
        under = terminal(app)
        assert under == from_segments(app) != before
        await keys(app, pilot, "escape")
        assert terminal(app) == before


@pytest.mark.parametrize("theme", ["vmviz-dark", "vmviz-mono"])
async def test_without_colours_the_panes_have_none(theme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(SMALL, theme=theme) as (app, _):
        shown = terminal(app)
        assert shown == from_segments(app)
        assert {(cell[1], cell[2]) for line in shown for cell in line} == {("default", "default")}
        assert any(cell[3] for line in shown for cell in line)


async def test_an_exported_picture_has_the_panes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(SMALL) as (app, _):
        lines = screen(app)
        svg = app.export_screenshot()
    texts = [
        html.unescape(text).replace("\xa0", " ") for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    ]
    whole = "".join(texts)
    for line in lines:
        for word in line.split():
            assert word in whole
    assert "◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊" in whole
