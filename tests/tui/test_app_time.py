"""Time: steps, calls, functions, statements; statements in the past; statements inside statements; the
log's clicks.
"""

from __future__ import annotations

from .appkit import (
    FB,
    MIDDLE,
    fill,
    keys,
    opened,
    part,
    play_on,
    present,
    results,
    said,
    screen,
    text,
    type_command,
    words,
)

M = 1 << 20
ZAP = "zap_vma_ptes(vma(fb), fb, 8K)"


async def test_undo_and_redo_by_statement() -> None:
    async with opened() as (app, pilot):
        session = app.director.session
        digests = [session.machine.digest()]
        for _ in range(5):
            await keys(app, pilot, "n")
            digests.append(session.machine.digest())
        for k in range(4, -1, -1):
            await keys(app, pilot, "u")
            assert (session.index - session.setup, session.machine.digest()) == (k, digests[k])
        await keys(app, pilot, "u")
        assert session.index == session.setup
        assert said(app) == ["this is the beginning"]
        for k in range(1, 6):
            await keys(app, pilot, "r" if k % 2 else "ctrl+r")
            assert session.machine.digest() == digests[k]
        await keys(app, pilot, "r")
        assert said(app)[-1] == "this is the end; n runs the next statement"


async def test_back_at_the_beginning_looks_as_the_beginning() -> None:
    async with opened() as (app, pilot):
        before = screen(app)
        await keys(app, pilot, "n", "u")
        assert screen(app) == before


async def test_steps_by_entry() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, ZAP)
        session = app.director.session
        total = session.steps(session.done[-1]).total
        left = []
        for _ in range(total):
            await keys(app, pilot, "comma")
            left.append(present(app, FB, FB + 2 * M))
        assert sorted(set(left)) == [510, 511, 512]
        assert left == sorted(left)
        assert session.index == session.setup
        await keys(app, pilot, *["full_stop"] * total)
        assert session.inside is None
        assert present(app, FB, FB + 2 * M) == 510


async def test_steps_by_call_and_by_function() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "n")
        session = app.director.session
        by_call = by_function = 0
        await keys(app, pilot, "left_square_bracket")
        while session.inside is not None:
            by_call += 1
            assert "paused" in part(app, "why")
            await keys(app, pilot, "left_square_bracket")
        await keys(app, pilot, "right_curly_bracket")
        while session.inside is not None:
            by_function += 1
            await keys(app, pilot, "right_curly_bracket")
        assert 1 < by_function < by_call < 60
        assert present(app, FB + M, FB + 3 * M) == 0
        await keys(app, pilot, "left_curly_bracket")
        assert session.inside is not None
        await keys(app, pilot, "right_square_bracket", "enter")
        assert session.inside is None


async def test_u_inside_a_statement_takes_it_back() -> None:
    async with opened(instant=False) as (app, pilot):
        await keys(app, pilot, "n")
        play_on(app, 1.0)
        await keys(app, pilot, "u")
        assert results(app) == []
        assert not app.director.player.playing
        assert present(app, FB, FB + 8 * M) == 2048


async def test_n_in_the_past_does_again() -> None:
    async with opened() as (app, pilot):
        session = app.director.session
        await keys(app, pilot, "n", "n", "u", "u")
        done = list(session.done)
        await keys(app, pilot, "n", "n")
        assert session.done == done
        assert len(session.pending) == 4


async def test_a_statement_of_the_users_comes_before_the_story() -> None:
    async with opened(MIDDLE) as (app, pilot):
        session = app.director.session
        await type_command(app, pilot, ZAP)
        assert len(session.pending) == 6
        assert not said(app)
        assert "0/6 +1" in screen(app)[0]
        await keys(app, pilot, "n")
        assert session.done[-1].story is not None


async def test_story_statements_in_the_future_come_again() -> None:
    async with opened() as (app, pilot):
        session = app.director.session
        await keys(app, pilot, "n", "n", "u", "u")
        await type_command(app, pilot, ZAP)
        assert len(app.screen_stack) == 1, "nothing of the user's is lost: no question"
        assert said(app) == ["2 later statements of the story to come again"]
        assert (len(session.done) - session.setup, len(session.pending)) == (1, 6)


async def test_the_users_future_is_dropped_only_after_saying_so() -> None:
    async with opened() as (app, pilot):
        session = app.director.session
        for call in (ZAP, "load(bar)"):
            await type_command(app, pilot, call)
        await keys(app, pilot, "n", "u", "u", "u")
        await type_command(app, pilot, "load(heap)")
        shown = words(app)
        assert "This drops what came after" in shown
        assert "2 later statements of yours will be dropped; 1 of the story will be to come again" in shown
        assert ZAP in shown
        assert "load(bar)" in shown
        assert len(session.future) == 3, "nothing has happened yet"
        await keys(app, pilot, "escape")
        assert len(session.future) == 3
        assert app.query_one("#command").value == "load(heap)", "what was typed is kept"  # type: ignore[attr-defined]
        await keys(app, pilot, "enter", "enter")
        assert [d.outcome.text for d in session.done[session.setup :]] == ["load(heap)"]
        assert len(session.pending) == 6


async def test_a_refused_call_that_was_left_is_no_loss() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, "zap_vma_ptes(vma(heap), heap, 4K)")
        await keys(app, pilot, "escape")
        await type_command(app, pilot, ZAP)
        assert len(app.screen_stack) == 1
        assert results(app) == ["0"]


async def test_a_wrong_statement_in_the_past_drops_nothing() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, ZAP)
        await keys(app, pilot, "u")
        await type_command(app, pilot, "munmapp(fb, 4K)")
        assert len(app.screen_stack) == 1
        assert len(app.director.session.future) == 1
        assert "munmap" in said(app)[-1]


async def test_inside_a_statement_the_app_offers_to_finish_it() -> None:
    async with opened(instant=False) as (app, pilot):
        await keys(app, pilot, "n")
        play_on(app, 1.0)
        await type_command(app, pilot, "load(bar)")
        assert not app.director.player.playing
        shown = words(app)
        assert "zap_vma_ptes(vma(fb), fb + 1M, 2M) is under way" in shown
        assert "Enter play it to its end, then go on" in shown
        await keys(app, pilot, "escape")
        assert app.director.session.inside is not None
        await keys(app, pilot, "enter", "enter")
        assert results(app) == ["0", "0"]
        assert app.director.session.done[-1].outcome.text == "load(bar)"


async def test_inside_a_statement_the_app_offers_to_take_it_back() -> None:
    async with opened(instant=False) as (app, pilot):
        await keys(app, pilot, "n")
        play_on(app, 1.0)
        await keys(app, pilot, "z", "u")
        assert present(app, FB, FB + 8 * M) == 2048
        assert "address" in words(app), "the form comes after it"
        await fill(app, pilot, vma="fb", address="fb", size="4K")
        await keys(app, pilot, "enter")
        app.director.finish()
        assert results(app) == ["0"]
        assert len(app.director.session.pending) == 6


async def test_touching_inside_a_statement_asks_too() -> None:
    async with opened(instant=False) as (app, pilot):
        await keys(app, pilot, "n")
        play_on(app, 1.0)
        await keys(app, pilot, "t")
        assert "First this one" in text(app)
        await keys(app, pilot, "escape")
        assert len(app.screen_stack) == 1


async def test_a_click_in_the_log_moves_in_time() -> None:
    async with opened(MIDDLE) as (app, pilot):
        await keys(app, pilot, "n", "n")
        session = app.director.session
        log = app.query_one("#log").region

        def row(word: str) -> int:
            lines = screen(app)
            return next(y for y in range(log.y, log.bottom) if word in lines[y][log.x :])

        await pilot.click(offset=(log.x + 10, row("zap_vma_ptes(vma(fb), fb + 1M")))
        await pilot.pause()
        assert session.index == session.setup + 1
        assert present(app, FB + M, FB + 3 * M) == 0
        await pilot.click(offset=(log.x + 10, row("load(bar, 12K)")))
        await pilot.pause()
        assert session.index == session.setup
        await keys(app, pilot, "r", "r")
        await pilot.click(offset=(log.x + 10, row("load(bar)")))
        await pilot.pause()
        assert results(app) == ["0", "0", "0"], "a click on what is to come runs the next"
