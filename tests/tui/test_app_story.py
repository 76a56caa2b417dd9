"""The story: what it opens with, what each `n` shows, and how a zap plays."""

from __future__ import annotations

import pytest

from .appkit import (
    BAR,
    FB,
    LARGE,
    MIDDLE,
    SMALL,
    keys,
    opened,
    part,
    play_on,
    present,
    results,
    said,
    screen,
    text,
    words,
)

MiB = 1 << 20


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
async def test_the_story_opens_with_six_to_come(size: tuple[int, int]) -> None:
    async with opened(size) as (app, _):
        session = app.director.session
        assert (len(session.pending), session.index) == (6, session.setup)
        assert "(6 to come)" in part(app, "why")
        assert "? what is this" in part(app, "why")
        assert "2048" in text(app)
        assert "story 0/6" in screen(app)[0]
        if size != SMALL:
            log = part(app, "log")
            assert "to come" in log
            assert "zap_vma_ptes(vma(fb), fb + 1M, 2M) = ?" in log, "results to come are hidden"
            assert log.count("= ?") >= 3


async def test_n_runs_the_story_to_its_end() -> None:
    async with opened() as (app, pilot):
        seen = []
        for _ in range(6):
            await keys(app, pilot, "n")
            if len(app.screen_stack) > 1:
                await keys(app, pilot, "c")
            seen.append(results(app)[-1])
        assert seen == ["0", "0", "0", "-1", "-1", "SIGBUS BUS_ADRERR"]
        assert all(done.outcome.expected for done in app.director.session.done[8:])
        await keys(app, pilot, "n")
        assert "the story is at its end" in said(app)[-1]
        await keys(app, pilot, "space")
        assert len(results(app)) == 6


async def test_a_zap_over_a_2m_border_plays_entry_by_entry() -> None:
    async with opened(instant=False) as (app, pilot):
        await keys(app, pilot, "n")
        session, director = app.director.session, app.director
        assert director.player.playing
        assert present(app, FB, FB + 8 * MiB) == 2048
        seen = set()
        for _ in range(30):
            play_on(app, 0.1)
            if session.inside is None:
                break
            left = present(app, FB, FB + 8 * MiB)
            seen.add(left)
            # The clearing goes upwards: what lies above the cursor is all there.
            cursor = director.cursor
            assert present(app, cursor, FB + 3 * MiB) == (FB + 3 * MiB - cursor) // 4096
        assert len(seen) > 10
        assert not director.player.playing
        assert session.inside is None
        assert present(app, FB, FB + 8 * MiB) == 1536
        await keys(app, pilot)
        assert "512 PTEs cleared in 2 tables. Freed: 0 frames, 0 tables. rss 76K as before." in words(app)
        assert "1 full TLB flush, as 512 pages are more than 33. VMA unchanged but for flag ar." in words(app)


async def test_both_sides_of_the_border_are_seen_while_it_plays() -> None:
    async with opened(MIDDLE, instant=False) as (app, pilot):
        await keys(app, pilot, "n")
        while present(app, FB + MiB, FB + 3 * MiB) > 200:
            play_on(app, 0.1)
        await keys(app, pilot)
        shown = text(app)
        assert "2M boundary, 7ffff7200000" in shown
        assert "was e0100..e01ff" in shown
        assert "playing" in shown
        assert "No TLB flush yet: a CPU may still hold" in part(app, "why")
        assert "space pause" in screen(app)[-1]
        assert shown.count("zap_pte_range") == 2


async def test_was_rows_stay_until_the_next_action() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "n")
        assert "was e0100" in text(app)
        assert "×" in text(app)
        await keys(app, pilot, "down", "up")
        assert "254 cleared" in text(app) or "256 cleared" in text(app), "moving is no action"
        assert "◊◊◊◊◊◊◊◊××××××××" in text(app)
        await keys(app, pilot, "n")
        assert "was e0100" not in text(app)
        assert "was fe000" in text(app)
        row = next(line for line in screen(app) if "1b8 PT" in line)
        assert "◊◊◊◊◊◊◊◊········" in row


async def test_the_lazy_device_comes_back_by_a_touch() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "n", "n")
        assert present(app, BAR, BAR + 64 * 1024) == 0
        assert "t touch bar (the driver maps it again)" in words(app)
        await keys(app, pilot, "n")
        assert present(app, BAR, BAR + 64 * 1024) == 1
        assert "the fault handler of its driver maps the page" in words(app)


async def test_enter_finishes_and_space_pauses() -> None:
    async with opened(instant=False) as (app, pilot):
        director = app.director
        await keys(app, pilot, "n")
        play_on(app, 1.0)
        await keys(app, pilot, "space")
        assert not director.player.playing
        assert "paused" in text(app)
        at = director.session.position
        play_on(app, 1.0)
        assert director.session.position == at
        await keys(app, pilot, "space")
        assert director.player.playing
        play_on(app, 0.01)
        assert director.session.position >= at, "it goes on where it stood"
        await keys(app, pilot, "enter")
        assert director.session.inside is None
        assert present(app, FB, FB + 8 * MiB) == 1536


async def test_enter_finishes_in_the_page_table_pane_too() -> None:
    async with opened(instant=False) as (app, pilot):
        await keys(app, pilot, "tab", "n")
        play_on(app, 1.0)
        assert app.focused is not None
        assert app.focused.id == "tree"
        await keys(app, pilot, "enter")
        assert app.director.session.inside is None


async def test_speed_and_instant() -> None:
    async with opened(instant=False) as (app, pilot):
        await keys(app, pilot, "greater_than_sign", "greater_than_sign")
        assert app.director.player.speed == 4.0
        await keys(app, pilot, "less_than_sign")
        assert said(app)[-1] == "speed 2"
        await keys(app, pilot, "n")
        play_on(app, 1.5)
        assert app.director.session.inside is None, "three seconds at double speed"
        await keys(app, pilot, "u", "I", "n")
        assert not app.director.player.playing
        assert app.director.session.inside is None


async def test_the_keys_count_before_the_first_step() -> None:
    async with opened(instant=False) as (app, pilot):
        session = app.director.session
        await keys(app, pilot, "n", "u")
        assert session.index == session.setup, "not the statement before it"
        assert not app.director.player.playing
        await keys(app, pilot, "n", "enter")
        assert results(app) == ["0"]
        await keys(app, pilot, "n")
        assert session.inside is session.done[-1]
        await keys(app, pilot, "t")
        assert "First this one" in text(app)
        await keys(app, pilot, "enter")
        app.director.finish()
        assert session.done[-1].outcome.text == "load(bar)"
        assert results(app) == ["0", "0", "0"]


async def test_n_while_it_plays_finishes_first() -> None:
    async with opened(instant=False) as (app, pilot):
        await keys(app, pilot, "n")
        play_on(app, 0.5)
        await keys(app, pilot, "n")
        assert len(results(app)) == 1
        assert app.director.session.inside is None


async def test_a_second_app_shows_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    for _ in range(2):
        async with opened(MIDDLE) as (app, pilot):
            await keys(app, pilot, "n", "n", "comma", "comma")
            shown.append(text(app))
    assert shown[0] == shown[1]
