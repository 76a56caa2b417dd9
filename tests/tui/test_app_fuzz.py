"""Random keys at random sizes raise nothing, and time travel never drifts."""

from __future__ import annotations

import random

import pytest

from vmviz.kernel.verify import verify
from vmviz.tui.app import VmvizApp
from vmviz.tui.keymap import KEYS

from .appkit import opened

MOVES = [
    "up",
    "down",
    "left",
    "right",
    "pageup",
    "pagedown",
    "home",
    "end",
    "tab",
    "shift+tab",
    "enter",
    "escape",
]
EXTENDS = ["shift+up", "shift+down", "shift+pagedown", "shift+home"]
TYPED = [*"fb+14KM()0x,", "backspace", "ctrl+o", "ctrl+n", "ctrl+l", "delete", "ctrl+a", "ctrl+k"]
# Leaving the app is no fault, and what the palette offers is fuzzed by its keys.
ACTIONS = [name for key in KEYS if key.id != "quit" for name in key.keys.split(",") if name]
POOL = [*MOVES, *MOVES, *EXTENDS, *TYPED, *ACTIONS, *ACTIONS, *["n", "z", "t", "comma", "full_stop", "u"]]
BATCHES, KEYS_IN_BATCH = 10, 60


def check_time_travel(app: VmvizApp) -> None:
    """Back to the beginning and to the end again: the same digest, and the position is put back."""
    session = app.director.session
    journal = session.machine.journal
    here, index = session.position, session.index
    session.seek(journal.end, len(session.done))
    digest = session.machine.digest()
    session.seek((0, 0), 0)
    session.seek(journal.end, len(session.done))
    assert session.machine.digest() == digest
    session.seek(here, index)


@pytest.mark.parametrize("seed", range(4))
async def test_random_keys_at_random_sizes(seed: int) -> None:
    rng = random.Random(seed)
    pressed: list[str] = []
    async with opened((80, 24), instant=bool(seed % 2)) as (app, pilot):
        for _ in range(BATCHES):
            size = rng.choice([(20, 5), (1, 1), (80, 24), (120, 40), (200, 60)])
            if rng.random() < 0.5:
                size = rng.randint(20, 200), rng.randint(5, 60)
            await pilot.resize_terminal(*size)
            for name in rng.choices(POOL, k=KEYS_IN_BATCH):
                pressed.append(name)
                app.simulate_key(name)
                if rng.random() < 0.2:
                    await pilot._wait_for_screen()
                if rng.random() < 0.1 and app.director.player.playing:
                    app.director.tick(rng.random())
            await pilot.pause()
            assert app._exception is None, f"after {pressed[-KEYS_IN_BATCH:]} at {size}"
            assert app.is_running
            check_time_travel(app)
            lines = [strip.text for strip in app.screen._compositor.render_strips(app.size)]
            assert len(lines) == size[1]
        assert verify(app.director.session.machine) == []
