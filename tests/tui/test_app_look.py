"""How it looks and explains itself: help, palette, key bar, themes, ASCII, NO_COLOR, sizes."""

from __future__ import annotations

import pytest
from textual.command import DiscoveryHit, Hit

from vmviz.script.functions import FUNCTIONS
from vmviz.session import Session
from vmviz.tui.commands import Actions
from vmviz.tui.keymap import KEYS, bar, gap
from vmviz.tui.layout import arrange
from vmviz.tui.screens.text import TextGrid, soft_wrap
from vmviz.tui.themes import available_themes
from vmviz.views.cells import plain, width

from .appkit import LARGE, MIDDLE, SMALL, keys, opened, part, play_on, said, screen, text, type_command, words

HELP = {
    "vmas": ("VMAs: the ranges that the process has mapped", "VM_PFNMAP"),
    "tree": ("Page tables: the tree that the CPU walks", "Nine bits of the address"),
    "frames": ("Frames: physical memory", "struct page"),
    "log": ("Log: the statements, as C calls", "vmviz run FILE"),
}


async def test_help_explains_the_focused_pane() -> None:
    async with opened((120, 60)) as (app, pilot):
        for title, word in HELP.values():
            await keys(app, pilot, "question_mark")
            assert title in text(app)
            shown = app.screen.query_one(TextGrid).lines
            assert word in " ".join(" ".join(map(plain, shown)).split())
            await keys(app, pilot, "question_mark")
            assert len(app.screen_stack) == 1
            await keys(app, pilot, "tab")


async def test_help_explains_flags_entry_and_keys() -> None:
    async with opened((80, 200)) as (app, pilot):
        await keys(app, pilot, "question_mark")
        shown = words(app)
        for word in (
            "pf VM_PFNMAP",
            "io VM_IO",
            "Entry 0x",
            "no fault handler",
            "zap_vma_ptes(vma, address, size)",
        ):
            assert word in shown
        for key in KEYS:
            if key.keys:
                assert key.about in shown


async def test_help_scrolls_and_closes() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "question_mark")
        first = text(app)
        await keys(app, pilot, "pagedown")
        assert text(app) != first
        await keys(app, pilot, "end")
        assert list(FUNCTIONS.values())[-1].signature in words(app)
        await keys(app, pilot, "q")
        assert len(app.screen_stack) == 1
        assert app.is_running


@pytest.mark.parametrize("columns", [20, 33, 50, 77])
async def test_help_and_questions_wrap_on_narrow_screens(columns: int) -> None:
    async with opened((columns, 24)) as (app, pilot):
        await keys(app, pilot, "question_mark")
        grid = app.screen.query_one(TextGrid)
        wanted = "".join(plain(line) for line in grid.source).replace(" ", "")
        assert "".join(plain(line) for line in grid.lines).replace(" ", "") == wanted
        assert all(width(line) <= columns for line in grid.lines)
        await pilot.resize_terminal(120, 40)
        await keys(app, pilot)
        assert grid.lines == grid.source


def test_soft_wrap_ends_at_any_width() -> None:
    line = [("      ", "text"), ("a long-word-without-blanks", "text"), ("  and more of it", "dim")]
    for columns in range(1, 60):
        parts = soft_wrap(line, columns)
        assert all(width(part) <= columns for part in parts)
        assert "".join(plain(part) for part in parts).replace(" ", "") == plain(line).replace(" ", "")


async def test_help_over_a_gap() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "down", "question_mark")
        assert "is not mapped by anybody" in words(app)


async def test_the_palette_has_every_action() -> None:
    async with opened() as (app, _):
        provider = Actions(app.screen)
        found = [hit async for hit in provider.discover()]
        assert all(isinstance(hit, DiscoveryHit) for hit in found)
        assert {str(hit.display) for hit in found if isinstance(hit, DiscoveryHit)} == {
            key.about for key in KEYS if key.keys
        }
        hits = [hit async for hit in provider.search("zap form")]
        assert any("zap form" in str(hit.text) for hit in hits if isinstance(hit, Hit))


async def test_the_palette_runs_an_action() -> None:
    async with opened() as (app, pilot):
        found = [hit async for hit in Actions(app.screen).discover() if isinstance(hit, DiscoveryHit)]
        hit = next(hit for hit in found if str(hit.display).startswith("Run the next"))
        await hit.command()
        await pilot.pause()
        assert len(app.director.session.done) == 9


async def test_the_palette_opens() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "ctrl+p")
        assert len(app.screen_stack) == 2
        await keys(app, pilot, "escape")
        assert len(app.screen_stack) == 1


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("moment", ["idle", "inside", "playing", "refused"])
def test_the_key_bar_fits_and_keeps_help(moment: str, columns: int) -> None:
    shown = bar(moment, columns)
    used = 1 + sum(len(key) + 1 + len(word) for key, word, _ in shown) + gap(columns) * (len(shown) - 1)
    assert used <= columns
    assert shown[-1][0] == "?"
    if columns >= 80 and moment in ("idle", "refused"):
        assert {"z", "n", ":", "u"} <= {key for key, _, _ in shown}


def test_every_key_has_one_binding_and_an_action() -> None:
    names = [name for key in KEYS for name in key.keys.split(",") if name]
    assert len(names) == len(set(names))
    assert len({key.id for key in KEYS}) == len(KEYS)


async def test_the_key_bar_follows_the_moment() -> None:
    async with opened(instant=False) as (app, pilot):
        assert screen(app)[-1].startswith(" z zap")
        await keys(app, pilot, "n")
        assert screen(app)[-1].startswith(" space pause")
        play_on(app, 1.0)
        await keys(app, pilot, "space")
        assert screen(app)[-1].startswith(" space play")
        await keys(app, pilot, "enter")
        assert screen(app)[-1].startswith(" z zap")


async def test_themes_one_after_another() -> None:
    async with opened() as (app, pilot):
        names = list(available_themes())
        before = text(app)
        seen = [app.theme]
        for _ in names:
            await keys(app, pilot, "f2")
            seen.append(app.theme)
            told = said(app)
            await keys(app, pilot, "f1")  # any key
            assert not said(app)
            assert text(app) == before, "a theme changes colours, not words"
        assert set(seen) == set(names)
        assert seen[0] == seen[-1]
        assert told == [f"theme {app.theme}"]


async def test_a_theme_paints_anew() -> None:
    async with opened() as (app, pilot):
        colours = []
        for _ in range(2):
            colours.append(app.query_one("#vmas").render_line(3))
            await keys(app, pilot, "f2")
        styles = [{segment.style for segment in strip} for strip in colours]
        assert styles[0] != styles[1]


async def test_the_ascii_set_is_ascii() -> None:
    async with opened(MIDDLE, ascii_glyphs=True, instant=False) as (app, pilot):
        await keys(app, pilot, "n")
        play_on(app, 1.5)
        await keys(app, pilot)
        assert text(app).isascii()
        assert "DDDDDDDDxxxxxxxx" in text(app)
        await keys(app, pilot, "enter")
        for key in ("z", "question_mark", "slash"):
            await keys(app, pilot, key)
            assert text(app).isascii(), key
            await keys(app, pilot, "escape")


async def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(theme="vmviz-dark") as (app, pilot):
        await keys(app, pilot, "n")
        assert app.theme == "vmviz-mono"
        assert "××××××××" in text(app)
        strip = app.query_one("#tree").render_line(3)
        colours = {segment.style.color for segment in strip if segment.style and segment.style.color}
        assert len(colours) <= 2


@pytest.mark.parametrize("theme", ["vmviz-dark", "vmviz-light", "vmviz-mono"])
async def test_no_color_leaves_the_terminals_own(monkeypatch: pytest.MonkeyPatch, theme: str) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(theme=theme) as (app, pilot):
        for key in ("n", "colon", "escape", "z", "escape", "question_mark"):
            await keys(app, pilot, key)
            for strip in app.screen._compositor.render_strips(app.size):
                for _, style, _ in strip:
                    assert style is None or style.color is None or style.color.is_default, style
                    assert style is None or style.bgcolor is None or style.bgcolor.is_default, style


@pytest.mark.parametrize("columns", [80, 89])
async def test_a_box_on_a_narrow_screen_has_no_panes_beside_it(columns: int) -> None:
    async with opened((columns, 24)) as (app, pilot):
        await type_command(app, pilot, "zap_vma_ptes(vma(fb), fb, 4K)")
        await type_command(app, pilot, "load(fb)")
        box = app.screen.query_one("Vertical").region
        assert (box.x, box.width) == (0, columns)
        assert all(line[:1] in ("", " ") for line in screen(app)[box.y : box.bottom])
        assert all(len(line) < columns for line in screen(app)[box.y : box.bottom])
        assert screen(app)[-1] == "", "no keys that do nothing"
        await keys(app, pilot, "escape")
        assert "? help" in screen(app)[-1]


async def test_a_box_on_a_wide_screen_keeps_a_margin() -> None:
    async with opened(MIDDLE) as (app, pilot):
        await keys(app, pilot, "question_mark")
        box = app.screen.query_one("Vertical").region
        assert 80 <= box.width <= 100
        for line in screen(app)[box.y : box.bottom]:
            padded = line.ljust(120)
            assert padded[box.x] == padded[box.right - 1] == " "


async def test_help_wraps_what_it_explains() -> None:
    for size in (SMALL, (200, 50)):
        async with opened(size) as (app, pilot):
            await keys(app, pilot, "question_mark")
            assert not any("..." in plain(line) for line in app.screen.query_one(TextGrid).lines)


async def test_a_statements_outcome_shows_on_the_smallest_screen() -> None:
    async with opened((20, 5)) as (app, pilot):
        for call, told in (
            ("zap_vma_ptes(vma(fb), fb + 7M, 2M)", "REFUSED"),
            ("zap_vma_ptes(vma(fb), fb, 4K)", "Done"),
            ("load(fb)", "SIGBUS"),
        ):
            await type_command(app, pilot, call)
            await keys(app, pilot, "escape")
            if told != "REFUSED":
                assert told in screen(app)[-1]
        await pilot.resize_terminal(40, 5)
        app.run_statement("zap_vma_ptes(vma(heap), heap, 4K)")
        await keys(app, pilot)
        assert screen(app)[-1].startswith(" REFUSED, nothing changed")


@pytest.mark.parametrize(
    "size", [(20, 5), (1, 1), (10, 2), (40, 12), SMALL, (100, 30), MIDDLE, LARGE, (250, 80)]
)
async def test_no_size_is_too_small_or_large(size: tuple[int, int]) -> None:
    async with opened(size) as (app, pilot):
        await keys(
            app,
            pilot,
            "n",
            "V",
            "z",
            "escape",
            "question_mark",
            "escape",
            "colon",
            "escape",
            "slash",
            "escape",
        )
        assert all(len(line) <= size[0] for line in screen(app))
        if size[1] >= 5:
            assert "Page tables" in text(app)


async def test_resizing_between_the_layouts() -> None:
    async with opened() as (app, pilot):
        for size in (MIDDLE, (30, 8), LARGE, (20, 5), SMALL):
            await pilot.resize_terminal(*size)
            await keys(app, pilot, "n" if size == MIDDLE else "down", "up")
            assert app.focused is not None
            shown = arrange(*size)
            assert app.focused.id in shown
        assert "512 PTEs cleared" in part(app, "why")


def test_the_layout_covers_each_cell_once() -> None:
    for columns in (20, 40, 59, 60, 79, 80, 99, 100, 120, 150, 200, 300):
        for height in (1, 2, 3, 4, 5, 8, 9, 11, 12, 24, 29, 30, 40, 50, 80):
            for extra in (False, True):
                cells: dict[tuple[int, int], str] = {}
                for name, (x, y, w, h) in arrange(columns, height, extra=extra).items():
                    for row in range(y, y + h):
                        for column in (x, x + w - 1):
                            assert 0 <= column < columns, (columns, height, name)
                            assert row < height, (columns, height, name)
                            other = cells.setdefault((column, row), name)
                            assert other == name, (columns, height, name, other)


async def test_an_empty_session_opens() -> None:
    async with opened(session=Session(title="nothing")) as (app, pilot):
        await keys(app, pilot, "n", "u", "space", "comma", "full_stop", "z", "escape")
        assert app.is_running
        await type_command(
            app, pilot, "x = mmap(NULL, 8K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)"
        )
        assert "x = mmap" in text(app)
