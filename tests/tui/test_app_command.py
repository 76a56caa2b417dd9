"""The command line: history, completion, errors, and that nothing typed is ever lost."""

from __future__ import annotations

import pytest

from vmviz.tui.app import VmvizApp
from vmviz.tui.command import CommandLine, completion
from vmviz.tui.linegrid import LineGrid

from .appkit import MIDDLE, SMALL, keys, opened, results, said, screen, text, type_command

WORDS = ["zap_vma_ptes(", "munmap(", "mmap(", "mprotect(", "MAP_PRIVATE", "MAP_SHARED", "fb", "bar"]


@pytest.mark.parametrize(
    ("typed", "history", "wanted"),
    [
        ("zap", [], "zap_vma_ptes("),
        ("m", [], "mmap("),
        ("mun", [], "munmap("),
        ("mmap(NULL, 4K, PROT_READ, MAP_P", [], "mmap(NULL, 4K, PROT_READ, MAP_PRIVATE"),
        ("zap", ["zap_vma_ptes(vma(fb), fb, 4K)", "load(bar)"], "zap_vma_ptes(vma(fb), fb, 4K)"),
        ("load", ["load(bar)", "load(fb)"], "load(fb)"),
        ("load(fb)", ["load(fb)"], None),
        ("fb", [], None),
        ("", ["load(fb)"], None),
        ("  ", [], None),
        ("fb + ", [], None),
        ("nothing_like_it", [], None),
    ],
)
def test_completion(typed: str, history: list[str], wanted: str | None) -> None:
    assert completion(typed, WORDS, history) == wanted


def line(app: VmvizApp) -> CommandLine:
    """The command line."""
    return app.query_one(CommandLine)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_a_statement_is_typed_run_and_left(size: tuple[int, int]) -> None:
    async with opened(size) as (app, pilot):
        await keys(app, pilot, "colon")
        assert app.focused is line(app)
        await pilot.press(*"load(bar)")
        row = screen(app)[-1 if size == SMALL else -2]
        assert row.startswith("load(bar)")
        await keys(app, pilot, "enter")
        assert results(app) == ["0"]
        assert line(app).value == ""
        assert app.focused is not None
        assert app.focused.id == "vmas"
        assert "? help" in screen(app)[-1]


async def test_tab_completes_and_the_history_is_walked() -> None:
    async with opened() as (app, pilot):
        for call in ("load(bar)", "load(bar, 4K)"):
            await type_command(app, pilot, call)
        await keys(app, pilot, "colon", "z", "a", "p", "tab")
        assert line(app).value == "zap_vma_ptes("
        line(app).value = ""
        shown = []
        for key in ("up", "up", "up", "down", "down"):
            await keys(app, pilot, key)
            shown.append(line(app).value)
        assert shown == ["load(bar, 4K)", "load(bar)", "load(bar)", "load(bar, 4K)", ""]
        await keys(app, pilot, "h", "e", "a", "tab")
        assert line(app).value == "heap", "the script's own names complete too"


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("munmap(fb", "column 7: this '(' is never closed"),
        ("munmapp(fb, 4K)", "did you mean munmap"),
        ("load(heaq)", "did you mean heap?"),
        ("load()", "load takes 1 to"),
        ("zap_vma_ptes(fb, fb, 4K)", "vma"),
        ("load(fb); load(fb)", "one statement at a time"),
        ("boot(mem=1G)", "boot must be the first statement"),
        ("[pid 7] load(fb)", "no process 7"),
    ],
)
async def test_an_error_names_the_place_and_keeps_the_text(statement: str, error: str) -> None:
    async with opened() as (app, pilot):
        digest = app.director.session.machine.digest()
        await type_command(app, pilot, statement)
        assert error in said(app)[-1]
        assert line(app).value == statement
        assert app.focused is line(app)
        assert app.director.session.machine.digest() == digest
        assert results(app) == []
        shown = screen(app)
        assert shown[-2].strip().startswith(("column", *said(app)[0].split()[:1])), "above the line"
        assert "── Why" in shown[18], "nothing covers the strip"
        await keys(app, pilot, "escape")
        assert "pa e0000000" in screen(app)[-2], "the ruler is back"
        assert "? help" in screen(app)[-1]
        assert not said(app)
        await keys(app, pilot, "colon")
        assert line(app).value == statement, "what was typed waits there"
        assert line(app).selected_text == statement
        await keys(app, pilot, "x")
        assert line(app).value == "x", "typing replaces it"


async def test_an_empty_line_leaves() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "colon", "enter")
        assert app.focused is not line(app)
        assert not said(app)


async def test_the_mouse_leaves_the_line_too() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "colon", "f")
        await pilot.click(offset=(10, 4))
        await pilot.pause()
        assert app.focused is not line(app)
        assert "? help" in screen(app)[-1], "the key bar is back"
        await keys(app, pilot, "colon")
        assert line(app).value == "f"


async def test_tab_goes_round_the_panes_that_are_seen() -> None:
    for size, names in (
        (SMALL, ["vmas", "tree", "frames"]),
        (MIDDLE, ["vmas", "tree", "frames", "log", "command"]),
    ):
        async with opened(size) as (app, pilot):
            seen = []
            for _ in range(len(names) + 1):
                assert app.focused is not None
                seen.append(app.focused.id)
                await keys(app, pilot, "tab")
            assert seen == [*names, "vmas"]


async def test_a_variable_of_the_users_becomes_a_label() -> None:
    async with opened() as (app, pilot):
        await type_command(
            app, pilot, "mine = mmap(NULL, 8K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)"
        )
        await keys(app, pilot, "a")
        assert " ►mine " in text(app)
        assert screen(app)[-2].startswith(" mine ")


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_what_is_typed_ahead_goes_to_the_line_that_the_key_before_it_opens(
    size: tuple[int, int],
) -> None:
    async with opened(size) as (app, pilot):
        for key in ("colon", "z", "a", "p"):
            app.simulate_key(key)
        await keys(app, pilot)
        assert len(app.screen_stack) == 1
        assert app.focused is line(app)
        assert line(app).value == "zap"


async def test_keys_typed_ahead_find_the_pane_that_tab_goes_to() -> None:
    async with opened(MIDDLE) as (app, pilot):
        first = app.focused
        rows = [pane.cursor for pane in app.query(LineGrid)]
        for key in ("tab", "down", "shift+tab"):
            app.simulate_key(key)
        await keys(app, pilot)
        assert app.focused is first
        assert isinstance(first, LineGrid)
        assert first.cursor == rows[0]
        assert [pane.cursor for pane in app.query(LineGrid)] != rows
