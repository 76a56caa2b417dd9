"""What the tests of the app share: the app on the story, its screen as text, and steps without waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual._context import visible_screen_stack
from textual.pilot import Pilot

from vmviz.session import Session
from vmviz.session.story import story_session
from vmviz.tui.app import VmvizApp

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


def text(app: VmvizApp) -> str:
    """The whole screen as one text."""
    return "\n".join(screen(app))


def words(app: VmvizApp) -> str:
    """The whole screen in one line, runs of blanks and rules as one blank, so that wrapped sentences can be found."""
    out = text(app)
    for glyph in "│═─║":
        out = out.replace(glyph, " ")
    return " ".join(out.split())


def said(app: VmvizApp) -> list[str]:
    """The notices that are shown."""
    return [str(n.message) for n in app._notifications]


@asynccontextmanager
async def opened(
    size: tuple[int, int] = SMALL, *, session: Session | None = None, instant: bool = True, **options: object
) -> AsyncIterator[tuple[VmvizApp, Pilot[None]]]:
    """The app, open on the story, with a pilot."""
    app = VmvizApp(session or story_session(), ascii_glyphs=bool(options.pop("ascii_glyphs", False)), **options)  # type: ignore[arg-type]
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        app.director.instant = instant
        yield app, pilot


async def keys(app: VmvizApp, pilot: Pilot[None], *names: str) -> None:
    """Press keys, one after another, and let the app settle once at the end."""
    for name in names:
        app.simulate_key(name)
        await app._animator.wait_until_complete()
        await pilot._wait_for_screen()
    await pilot.pause()


def play_on(app: VmvizApp, seconds: float) -> None:
    """Time passes, as far as the player is concerned."""
    app.director.tick(seconds)
    app.show()
