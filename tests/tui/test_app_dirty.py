"""The dirty rows cover every row that differs: what is painted equals a full repaint after each change of
the scene.
"""

from __future__ import annotations

import random

import pytest
from textual.strip import Strip

from vmviz.tui.app import VmvizApp
from vmviz.tui.linegrid import LineGrid
from vmviz.tui.panes.frames import FramePane

from .appkit import MIDDLE, SMALL, keys, opened, play_on, screen, type_command

SCRIPT = (
    "n comma comma left_square_bracket full_stop right_curly_bracket enter down shift+down escape n tab "
    "right down down left n a u V escape n n n u tab right right down shift+tab shift+tab home end u u r "
    "I a "
)


def shown(app: VmvizApp) -> dict[str, list[str]]:
    """What the compositor has of each widget, as it would go to the terminal."""
    return {str(w.id): [_key(w.render_line(y)) for y in range(w.size.height)] for w in _widgets(app)}


def _widgets(app: VmvizApp) -> list[LineGrid]:
    base = app.screen_stack[0]
    return [w for w in base.query(LineGrid) if w.size.height]


def _key(strip: Strip) -> str:
    return repr([(segment.text, segment.style) for segment in strip])


def check(app: VmvizApp, after: str) -> None:
    """Kept strips equal fresh ones: of the panes that keep strips, those kept are none of them stale."""
    kept = shown(app)
    for widget in _widgets(app):
        widget._strips.clear()
        if isinstance(widget, FramePane) and widget.view is not None:
            widget.view.rows.cells.clear()
            widget.view._kept.rows.clear()
    fresh = shown(app)
    for name, lines in kept.items():
        for y, line in enumerate(lines):
            assert line == fresh[name][y], f"{name}, line {y}, after {after}"


def terminal(app: VmvizApp, painted: dict[tuple[str, int], str]) -> None:
    """Keep what a terminal would show: only the lines that a widget asked to repaint are taken over."""
    for widget in _widgets(app):
        for y in range(widget.size.height):
            painted[str(widget.id), y] = _key(widget.render_line(y))


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_kept_strips_are_never_stale(size: tuple[int, int]) -> None:
    async with opened(size) as (app, pilot):
        for name in SCRIPT.split():
            await keys(app, pilot, name)
            if len(app.screen_stack) > 1:
                await keys(app, pilot, "escape")
            check(app, name)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_each_frame_of_a_play_repaints_what_differs(size: tuple[int, int]) -> None:
    async with opened(size, instant=False) as (app, pilot):
        for _ in range(4):
            await keys(app, pilot, "n")
            for _ in range(12):
                play_on(app, 0.27)
                await pilot._wait_for_screen()
                check(app, "a frame")


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_refresh_covers_each_line_that_differs(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, set[int]] = {}
    plain = LineGrid.refresh

    def refresh(self: LineGrid, *regions: object, **more: object) -> LineGrid:
        lines = asked.setdefault(str(self.id), set())
        for region in regions:
            lines.update(range(region.y, region.bottom))  # type: ignore[attr-defined]
        if not regions:
            lines.update(range(self.size.height))
        plain(self, *regions, **more)  # type: ignore[arg-type]
        return self

    monkeypatch.setattr(LineGrid, "refresh", refresh)
    rng = random.Random(1)
    async with opened(size) as (app, pilot):
        before = shown(app)
        for name in [*SCRIPT.split(), *rng.choices(SCRIPT.split(), k=20)]:
            asked.clear()
            await keys(app, pilot, name)
            if len(app.screen_stack) > 1:
                await keys(app, pilot, "escape")
            after = shown(app)
            for pane, lines in after.items():
                old = before.get(pane, [])
                differing = {y for y, line in enumerate(lines) if y >= len(old) or line != old[y]}
                assert differing <= asked.get(pane, set()), (name, pane)
            before = after


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_what_is_told_of_the_session_is_never_stale(size: tuple[int, int]) -> None:
    async with opened(size) as (app, pilot):
        for name in SCRIPT.split():
            await keys(app, pilot, name)
            if len(app.screen_stack) > 1:
                await keys(app, pilot, "escape")
            kept = screen(app)
            app._told = ()
            app.show()
            await keys(app, pilot)
            assert screen(app) == kept, name


async def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (app, pilot):
        monkeypatch.setattr(LineGrid, "touch_rows", lambda self, rows: None)
        monkeypatch.setattr(LineGrid, "touch_all", lambda self: None)
        await type_command(app, pilot, "zap_vma_ptes(vma(fb), fb, 2M)")
        with pytest.raises(AssertionError, match="after a zap"):
            check(app, "a zap")
