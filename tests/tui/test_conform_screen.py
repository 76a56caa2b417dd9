"""The screen that shows recordings of a kernel beside the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input

from vmviz.session.story import story_session
from vmviz.tui.app import VmvizApp
from vmviz.tui.screens.conform import FactGrid, StepGrid

from ..conform.test_comparison import TRACES, tampered
from .appkit import keys, opened, text


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_it_opens_at_the_first_difference_and_steps(tmp_path: Path, size: tuple[int, int]) -> None:
    paths = (tampered(tmp_path, "thp-basic", 4, anon=7), TRACES / "cow-fork.jsonl")
    app = VmvizApp(story_session(), traces=paths, frame=3600)
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        await keys(app, pilot)
        steps, facts = app.screen.query_one(StepGrid), app.screen.query_one(FactGrid)
        assert (steps.cursor, steps.title, steps.title_right) == (4, "thp-basic", "4/12")
        assert facts.title.endswith("differs")
        assert "1024" in text(app)
        await keys(app, pilot, "up")
        assert facts.title.endswith("agrees")
        await keys(app, pilot, "f")
        assert steps.cursor == 4
        await keys(app, pilot, "right_square_bracket")
        assert steps.title == "cow-fork"
        await keys(app, pilot, "left_square_bracket", "escape")
        assert len(app.screen_stack) == 1


async def test_the_key_asks_for_recordings(tmp_path: Path) -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "f4")
        assert "Recordings" in text(app)
        app.screen.query_one(Input).value = str(tmp_path / "none.jsonl")
        await keys(app, pilot, "enter")
        await keys(app, pilot)  # the screen opens its file behind its first frame
        assert "No such file" in text(app)
        await keys(app, pilot, "escape")
        assert len(app.screen_stack) == 1
