"""What the tests of the app share: the app on the story, its screen as text, and steps without waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual._context import visible_screen_stack
from textual.pilot import Pilot
from textual.widgets import Input

from vmviz.session import Session
from vmviz.session.story import story_session
from vmviz.tui.app import VmvizApp
from vmviz.tui.command import CommandLine
from vmviz.tui.strips import KeyBar

FB = 0x7FFFF7000000
BAR = 0x7FFFF7FB0000
HEAP = 0x555555758000
SMALL, MIDDLE, LARGE = (80, 24), (120, 40), (200, 50)


def screen(app: VmvizApp) -> list[str]:
    """The whole screen as text, overlays included, trailing blanks cut."""
    if not (app.size.width and app.size.height):
        return []
    token = visible_screen_stack.set(app._background_screens)
    try:
        return [line.text.rstrip() for line in app.screen._compositor.render_strips(app.size)]
    finally:
        visible_screen_stack.reset(token)


def part(app: VmvizApp, name: str) -> str:
    """The place of one widget on the screen in one line: its sentences can be found, however they are
    wrapped.
    """
    region = app.screen_stack[0].query_one(f"#{name}").region
    lines = [
        line.ljust(region.right)[region.x : region.right] for line in screen(app)[region.y : region.bottom]
    ]
    return _flat("\n".join(lines))


def text(app: VmvizApp) -> str:
    """The whole screen as one text."""
    return "\n".join(screen(app))


def words(app: VmvizApp) -> str:
    """The whole screen in one line, runs of blanks and rules as one blank."""
    return _flat(text(app))


def _flat(out: str) -> str:
    for glyph in "│═─║":
        out = out.replace(glyph, " ")
    return " ".join(out.split())


def said(app: VmvizApp) -> list[str]:
    """The notice that stands in the key bar's place, if any; there are no others."""
    assert not app._notifications, "a toast covers what is to be read"
    notice = app.screen_stack[0].query_one(KeyBar).notice
    return [notice] if notice else []


@asynccontextmanager
async def opened(
    size: tuple[int, int] = SMALL,
    *,
    session: Session | None = None,
    instant: bool = True,
    ascii_glyphs: bool = False,
    theme: str | None = None,
) -> AsyncIterator[tuple[VmvizApp, Pilot[None]]]:
    """The app, open on the story, with a pilot.  No time passes by itself: `play_on` makes it pass."""
    app = VmvizApp(session or story_session(), ascii_glyphs=ascii_glyphs, theme=theme, frame=3600)
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        app.director.instant = instant
        yield app, pilot


async def keys(app: VmvizApp, pilot: Pilot[None], *names: str) -> None:
    """Press keys, one after another (`Pilot.press` waits 42 ms after each)."""
    for name in names:
        app.simulate_key(name)
        # A pane tells the app, and the app tells the panes: three rounds of messages.
        for _ in range(3):
            await pilot._wait_for_screen()
    # As `Pilot.pause`, without its wait for an idle processor.
    app.screen._on_timer_update()
    await pilot._wait_for_screen()
    app.screen._on_timer_update()


async def type_command(app: VmvizApp, pilot: Pilot[None], statement: str) -> None:
    """Go to the command line, put a statement there, and press Enter."""
    await keys(app, pilot, "colon")
    app.query_one(CommandLine).value = statement
    await keys(app, pilot, "enter")


async def fill(app: VmvizApp, pilot: Pilot[None], **fields: str) -> None:
    """Put texts into the fields of the zap form."""
    for name, value in fields.items():
        app.screen.query_one(f"#field-{name}", Input).value = value
    await pilot._wait_for_screen()
    await keys(app, pilot)


def results(app: VmvizApp) -> list[str]:
    """The results of the statements after the set-up, as far as the position goes."""
    session = app.director.session
    return [done.outcome.result for done in session.done[session.setup : session.index]]


def present(app: VmvizApp, start: int, end: int) -> int:
    """How many entries of a range are filled now."""
    machine = app.director.session.machine
    slots = (machine.arena.lookup(machine.mm.pgd, va) for va in range(start, end, 4096))
    return sum(slot >= 0 and bool(machine.arena.flat[slot]) for slot in slots)


def play_on(app: VmvizApp, seconds: float) -> None:
    """Time passes, as far as the player is concerned."""
    app.director.tick(seconds)
    app.show()
