"""Pictures of three moments; `pytest --snapshot-update` makes them anew, and a person looks at them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from vmviz.session.story import story_session
from vmviz.tui.app import VmvizApp

from .appkit import MIDDLE, SMALL, keys, play_on, type_command

pytest.importorskip("pytest_textual_snapshot")
Compare = Callable[..., bool]


def make(instant: bool = True) -> VmvizApp:
    """The app on the story; no time passes by itself."""
    app = VmvizApp(story_session(), theme="vmviz-dark", ascii_glyphs=False, frame=3600)
    app.animation_level = "none"
    app.director.instant = instant
    return app


def test_open(snap_compare: Compare) -> None:
    assert snap_compare(make(), terminal_size=SMALL)


def test_in_the_middle_of_a_zap(snap_compare: Compare) -> None:
    app = make(instant=False)

    async def play(pilot: Pilot[None]) -> None:
        await keys(app, pilot, "n")
        play_on(app, 2.0)
        await keys(app, pilot, "space")

    assert snap_compare(app, terminal_size=MIDDLE, run_before=play)


def test_refusal(snap_compare: Compare) -> None:
    app = make()

    async def refuse(pilot: Pilot[None]) -> None:
        await type_command(app, pilot, "zap_vma_ptes(vma(fb), fb + 7M, 2M)")

    assert snap_compare(app, terminal_size=SMALL, run_before=refuse)


def test_the_form(snap_compare: Compare) -> None:
    app = make()

    async def fill_it(pilot: Pilot[None]) -> None:
        await keys(app, pilot, "V", "z")

    assert snap_compare(app, terminal_size=SMALL, run_before=fill_it)
