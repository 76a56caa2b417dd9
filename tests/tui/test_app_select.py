"""Selecting: by keys, by the mouse, over borders and gaps; finding; readable addresses."""

from __future__ import annotations

import pytest

from vmviz.session.story import story_session
from vmviz.tui.app import VmvizApp
from vmviz.tui.director import Director
from vmviz.tui.panes.tree import TreePane
from vmviz.tui.screens.find import find

from .appkit import (
    BAR,
    FB,
    HEAP,
    MIDDLE,
    SMALL,
    keys,
    opened,
    part,
    said,
    screen,
    text,
    type_command,
    words,
)

K, M = 1 << 10, 1 << 20


def chosen(app: VmvizApp) -> tuple[int, int, int] | None:
    """The selection: start, end, anchor."""
    r = app.director.selection.range if app.director.selection else None
    return (r.start, r.end, r.anchor) if r else None


async def test_v_selects_as_in_vim() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "tab", "right", "down")
        start, tree = app.director.cursor, app.query_one(TreePane)
        await keys(app, pilot, "v")
        assert chosen(app) == (start, tree.row_end(), start), (
            "the row under the cursor, whatever it stands for"
        )
        await keys(app, pilot, "down", "down")
        assert chosen(app) == (start, tree.row_end(), start)
        assert tree.row_end() > app.director.cursor > start
        await keys(app, pilot, "v", "down")
        assert chosen(app) is None, "after the second v a move is a move"


async def test_v_stays_until_the_next_move() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "v", "down", "v", "z")
        assert "address fb" in words(app)
        await keys(app, pilot, "escape", "escape")
        assert chosen(app) is None


async def test_shift_and_arrows_over_the_end_of_a_vma() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "shift+down", "shift+down")
        selection = chosen(app)
        assert selection is not None
        start, end, anchor = selection
        assert (start, anchor) == (FB, FB)
        assert BAR < end <= BAR + 64 * K
        lines = screen(app)
        assert any(line.startswith("!") and "free" in line for line in lines), (
            "the gap is outside the VMA meant"
        )
        assert any(line.startswith(("!►7ffff7fb0000", "!►")) for line in lines)
        await keys(app, pilot, "z")
        assert "FAIL by" in words(app)


async def test_a_selection_upwards_means_the_vma_where_it_began() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "shift+up", "shift+up")
        selection = chosen(app)
        assert selection is not None
        assert selection == (HEAP, FB + 8 * M, FB)
        await keys(app, pilot, "z")
        shown = words(app)
        assert "vma fb" in shown
        assert "1 vm_start <= address" in shown
        assert "FAIL" in shown


async def test_shift_in_the_page_table_pane() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "tab", "shift+down")
        assert chosen(app) == (FB, FB + 4 * M, FB)


async def test_a_row_of_the_list_is_its_whole_vma() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "v", "v")
        assert chosen(app) == (FB, FB + 8 * M, FB)
        await keys(app, pilot, "escape", "shift+down")
        assert chosen(app) == (FB, FB + 8 * M + 4 * K, FB), "of a gap, one page"


async def test_the_whole_vma_and_esc() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "V")
        assert chosen(app) == (FB, FB + 8 * M, FB)
        assert any(line.startswith("█►7ffff7000000") for line in screen(app))
        await keys(app, pilot, "escape")
        assert chosen(app) is None
        assert not any(line.startswith("█") for line in screen(app))


async def row_of(app: VmvizApp, word: str, left: int, right: int) -> int:
    """The screen line with a word in some columns."""
    return next(y for y, line in enumerate(screen(app)) if word in line[left:right])


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_the_mouse_clicks_drags_and_shift_clicks(size: tuple[int, int]) -> None:
    async with opened(size) as (app, pilot):
        heap = await row_of(app, "[heap]", 0, 40)
        bar = await row_of(app, "resource0", 0, 40)
        fb = await row_of(app, "/dev/fb0", 0, 40)
        await pilot.click(offset=(10, heap))
        await pilot.pause()
        assert app.director.cursor == HEAP
        assert chosen(app) is None
        heap, bar = await row_of(app, "[heap]", 0, 40), await row_of(app, "resource0", 0, 40)
        await pilot.click(offset=(10, bar), shift=True)
        await pilot.pause()
        assert chosen(app) == (HEAP, BAR + 64 * K, HEAP)
        await pilot.click(offset=(10, await row_of(app, "/dev/fb0", 0, 40)))
        await pilot.pause()
        assert chosen(app) is None
        fb = await row_of(app, "/dev/fb0", 0, 40)
        bar = await row_of(app, "resource0", 0, 40)
        await pilot.mouse_down(offset=(10, fb))
        await pilot.hover(offset=(10, bar))
        await pilot.mouse_up(offset=(10, bar))
        await pilot.pause()
        selection = chosen(app)
        assert selection is not None
        assert selection[0] == FB
        assert selection[1] > FB + 8 * M


async def test_a_click_on_a_cell_of_a_page_table() -> None:
    async with opened() as (app, pilot):
        y = await row_of(app, "├1b9 PT", 40, 80)
        x = screen(app)[y].index("◊", 40)
        await pilot.click(offset=(x + 3, y))
        await pilot.pause()
        assert app.director.cursor == FB + 2 * M + 3 * 32 * 4 * K


async def test_a_click_on_a_frame_shows_who_maps_it() -> None:
    async with opened(MIDDLE) as (app, pilot):
        y = await row_of(app, "01010 aaaa", 87, 120)
        await pilot.click(offset=(screen(app)[y].index("a", 90), y))
        await pilot.pause()
        assert app.director.pfn == 0x1010
        assert "refcount 1, mapcount 1" in part(app, "frames")


async def test_a_click_on_the_key_bar_is_the_key() -> None:
    async with opened() as (app, pilot):
        bottom = screen(app)[-1]
        await pilot.click(offset=(bottom.index("n next") + 3, 23))
        await pilot.pause()
        assert len(app.director.session.done) == 9
        await pilot.click(offset=(bottom.index("? help"), 23))
        await pilot.pause()
        assert len(app.screen_stack) == 2


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("fb + 1M", FB + M),
        ("fb+1M", FB + M),
        ("[heap]", HEAP),
        ("0x7ffff7fb2000", BAR + 8 * K),
        ("7ffff7fb2000", BAR + 8 * K),
        ("resource0", BAR),
        ("pf", BAR),
        ("[stack]", 0x7FFFFFFDE000),
    ],
)
async def test_finding_an_address(what: str, where: int) -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "slash")
        app.screen.query_one("Input").value = what  # type: ignore[attr-defined]
        await keys(app, pilot, "enter")
        assert app.director.cursor == where
        assert f"{where:x}" in screen(app)[-2]


async def test_finding_a_frame_and_nothing() -> None:
    async with opened() as (app, pilot):
        heard = []
        for what in ("pfn e0100", "pfn zz", "nobody"):
            await keys(app, pilot, "slash")
            assert "a frame" in words(app)
            app.screen.query_one("Input").value = what  # type: ignore[attr-defined]
            await keys(app, pilot, "enter")
            heard += said(app)
        assert app.director.pfn == 0xE0100
        assert "'zz' is no frame number" in heard[0]
        assert "nobody" in heard[1]
        await keys(app, pilot, "slash", "escape")
        assert len(app.screen_stack) == 1


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("e0100", ("pfn", 0xE0100)),
        ("01008", ("pfn", 0x1008)),
        ("7ffff7001", ("address", 0x7FFFF7001)),
        ("7ffff7001000", ("address", 0x7FFFF7001000)),
        ("heapq.so", ("address", 0x10000000)),
        ("eapq", ("address", 0x10000000)),
        ("stack", ("address", 0x7FFFFFFDE000)),
        ("fb", ("address", FB)),
    ],
)
def test_digits_are_addresses_or_frames_and_whole_names_win(text: str, where: tuple[str, int]) -> None:
    director = Director(story_session())
    for name, va in (("/tmp/heapq.so", 0x10000000), ("/tmp/_stacks", 0x20000000)):
        director.session.run(
            f'mmap({va:#x}, 4K, PROT_READ, MAP_PRIVATE|MAP_FIXED, open("{name}", O_CREAT|O_RDWR), 0)'
        )
    assert find(director, text) == where


async def test_a_selection_under_way_says_how_big_it_is() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "tab", "v")
        assert "selecting 2M, 512 pages: v ends z zaps Esc drops it" in words(app)
        await keys(app, pilot, "v")
        assert "selecting" not in words(app)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_readable_addresses_everywhere(size: tuple[int, int]) -> None:
    async with opened(size) as (app, pilot):
        await keys(app, pilot, "a")
        vmas = [line[:44] for line in screen(app)]
        assert any(line.startswith(" ►fb ") for line in vmas)
        assert any(line.startswith("  heap ") for line in vmas)
        await keys(app, pilot, "a")
        assert any(line.startswith(" ►7ffff7000000") for line in screen(app))


async def test_copy_the_statement_or_the_selection() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, "zap_vma_ptes(vma(fb), fb, 4K)")
        await keys(app, pilot, "y")
        assert app.clipboard == "zap_vma_ptes(vma(fb), fb, 4K) = 0"
        await keys(app, pilot, "V", "y")
        assert app.clipboard == "zap_vma_ptes(vma(fb), fb, 8M)"
        assert said(app)[-1] == "copied: zap_vma_ptes(vma(fb), fb, 8M)"


async def test_a_selection_survives_steps_in_no_way() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "V", "n")
        assert chosen(app) is None
        assert "▬►7ffff7000000" in text(app), "the range of the statement takes its place"
