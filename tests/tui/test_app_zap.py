"""Zaps of the user's own: the form, refusals, the calls that did nothing, touching, signals."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input

from vmviz.kernel.machine import Config
from vmviz.live.load import open_base
from vmviz.session.story import live_session

from .appkit import (
    BAR,
    FB,
    MIDDLE,
    SMALL,
    fill,
    keys,
    opened,
    part,
    present,
    results,
    said,
    screen,
    text,
    type_command,
    words,
)

K, M = 1 << 10, 1 << 20


def statement(app: object) -> str:
    """The last statement that was run."""
    return app.director.session.done[-1].outcome.text  # type: ignore[attr-defined,no-any-return]


# -- refusals


async def test_not_pfnmap_is_refused_with_its_checks() -> None:
    async with opened() as (app, pilot):
        digest = app.director.session.machine.digest()
        await type_command(app, pilot, "zap_vma_ptes(vma(heap), heap, 4K)")
        assert app.director.session.machine.digest() == digest
        shown = part(app, "why")
        assert "REFUSED, nothing changed" in shown
        assert "zap_vma_ptes(vma(heap), heap, 4K) = -1" in shown
        for check in (
            "1 vm_start <= address",
            "2 address + size <= vm_end",
            "3 vm_flags & VM_PFNMAP not set FAIL",
        ):
            assert check in shown
        assert shown.count("pass") == 2
        assert "none in this VMA" in shown
        before = app.director.session.index
        await keys(app, pilot, "enter")
        assert app.director.session.index == before, "there is nothing that Enter could run"
        await keys(app, pilot, "escape")
        assert app.director.session.index == before - 1
        assert "REFUSED" not in text(app)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_a_range_that_leaves_its_vma_is_refused_where_the_user_looks(size: tuple[int, int]) -> None:
    async with opened(size) as (app, pilot):
        await type_command(app, pilot, "zap_vma_ptes(vma(fb), fb + 7M, 2M)")
        lines = screen(app)
        gap = next(line for line in lines if "1M of it here" in line or "1M is asked for" in line)
        assert gap.startswith("!")
        assert any("!►│ ├1bc --" in line for line in lines)
        assert any("pages outside" in line and "!" in line for line in lines)
        shown = part(app, "why")
        assert "7ffff7900000 <= 7ffff7800000 FAIL" in shown
        assert "3 vm_flags & VM_PFNMAP not reached, would pass" in shown
        assert "Nearest legal: fb+7M, 1M" in shown
        if size == MIDDLE:
            assert "► int (to 4.17): returns -1" in shown
            assert "The call never clamps: all or nothing." in shown
        assert present(app, FB, FB + 8 * M) == 2048


async def test_enter_runs_the_nearest_legal_call() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, "zap_vma_ptes(vma(fb), fb + 7M, 2M)")
        await keys(app, pilot, "enter")
        assert statement(app) == "zap_vma_ptes(vma(fb), fb + 7M, 1M)"
        assert results(app) == ["-1", "0"]
        assert present(app, FB, FB + 8 * M) == 2048 - 256
        assert "256 PTEs cleared in 1 table." in part(app, "why")


async def test_e_opens_the_form_with_the_refused_call() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, "zap_vma_ptes(vma(fb), fb + 7M, 2M)")
        await keys(app, pilot, "e")
        assert "zap_vma_ptes(vma(fb), fb + 7M, 2M)" in text(app)
        await keys(app, pilot, "ctrl+l", "enter")
        assert statement(app) == "zap_vma_ptes(vma(fb), 0x7ffff7700000, 1M)" or "fb + 7M, 1M" in statement(
            app
        )
        assert results(app)[-1] == "0"


async def test_a_refused_story_statement_is_left_by_esc_and_comes_again() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "n", "n", "n", "n")
        assert "REFUSED" in text(app)
        await keys(app, pilot, "escape")
        assert "REFUSED" not in text(app)
        await keys(app, pilot, "n")
        assert "REFUSED" in text(app)


# -- returned 0, did nothing


@pytest.mark.parametrize(
    ("before", "call", "why"),
    [
        ([], "zap_vma_ptes(vma(fb), fb, 0)", "size is 0"),
        (["zap_vma_ptes(vma(fb), fb, 4K)"], "zap_vma_ptes(vma(fb), fb, 4K)", "empty"),
        ([], "zap_vma_ptes(vma(bar), bar + 16K, 16K)", "first touched"),
    ],
)
async def test_a_zap_that_cleared_nothing_is_explained(before: list[str], call: str, why: str) -> None:
    async with opened() as (app, pilot):
        for text_ in before:
            await type_command(app, pilot, text_)
        await type_command(app, pilot, call)
        shown = part(app, "why")
        assert "Returned 0, cleared nothing" in shown
        assert "All three checks passed, but" in shown
        assert why in shown
        assert "no TLB flush" in shown


# -- the form


async def test_the_form_is_filled_from_the_selection() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "V", "z")
        shown = words(app)
        assert "vma fb" in shown
        assert "address fb" in shown
        assert "size 8M" in shown
        assert "2048 pages" in shown
        assert "══ VMAs" in text(app) or "── VMAs" in text(app), "the panes stay visible"
        await keys(app, pilot, "enter")
        assert statement(app) == "zap_vma_ptes(vma(fb), fb, 8M)"
        assert present(app, FB, FB + 8 * M) == 0


async def test_without_a_selection_the_form_has_the_page_under_the_cursor() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "z", "enter")
        assert statement(app) == "zap_vma_ptes(vma(fb), fb, 4K)"
        assert "1 PTE cleared in 1 table." in part(app, "why")


async def test_each_field_is_editable_and_judged_while_typing() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "z")
        assert app.focused is not None
        assert app.focused.id == "field-address"
        await fill(app, pilot, address="fb + 7M", size="2M")
        assert "address + size <= vm_end" in text(app)
        assert "FAIL by 1M" in words(app)
        assert "not reached, would pass" in words(app)
        assert "nearest legal" in words(app)
        assert "Enter run it and be refused" in words(app)
        # Those behind the first failure are judged too: here both would fail.
        await fill(app, pilot, vma="[heap]", address="heap", size="1M")
        assert "not reached, would fail" in words(app)
        await fill(app, pilot, vma="bar", address="bar + 4K", size="8K")
        assert words(app).count(" pass") >= 3
        await keys(app, pilot, "enter")
        assert statement(app) == "zap_vma_ptes(vma(bar), bar + 4K, 8K)"
        assert present(app, BAR, BAR + 64 * K) == 1


async def test_typing_in_the_form_with_real_keys() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "z", "tab")
        await pilot.press("1", "6", "K")
        await keys(app, pilot, "enter")
        assert statement(app) == "zap_vma_ptes(vma(fb), fb, 16K)"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"address": "heaq"}, "address: 'heaq' is not defined; did you mean heap?"),
        ({"size": ""}, "size: a number is wanted"),
        ({"vma": "[nothing]"}, "vma:"),
        ({"vma": "0x1000"}, "vma:"),
        ({"size": "fb +"}, "size:"),
    ],
)
async def test_a_wrong_field_is_named_and_enter_waits(fields: dict[str, str], wrong: str) -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "z")
        await fill(app, pilot, **fields)
        assert wrong in words(app)
        await keys(app, pilot, "enter")
        assert len(app.screen_stack) == 2, "the form stays"
        await keys(app, pilot, "escape")
        assert not results(app)


async def test_cut_pages_are_offered_whole_and_not_run() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "z")
        await fill(app, pilot, address="fb + 4608", size="11K")
        shown = words(app)
        assert "from +200 of this page" in shown
        assert "this is not run" in shown
        assert "outwards: fb+4K, 12K (3 PTEs)" in shown
        assert "inwards: fb+8K, 4K (1 PTE)" in shown
        await keys(app, pilot, "enter")
        assert len(app.screen_stack) == 2
        assert not results(app), "a real kernel would run off the table"
        await keys(app, pilot, "ctrl+n")
        assert "1 page" in words(app)
        await fill(app, pilot, address="fb + 4608", size="11K")
        await keys(app, pilot, "ctrl+o", "enter")
        assert results(app) == ["0"]
        assert present(app, FB, FB + 8 * M) == 2048 - 3


async def test_esc_leaves_the_form_and_nothing_changes() -> None:
    async with opened() as (app, pilot):
        before = text(app)
        await keys(app, pilot, "z", "escape")
        assert text(app) == before


async def test_the_form_shows_its_range_in_the_panes() -> None:
    async with opened(MIDDLE) as (app, pilot):
        await keys(app, pilot, "z")
        await fill(app, pilot, size="2M")
        assert any(line.startswith("▀►7ffff7000000") for line in screen(app))
        await keys(app, pilot, "escape")
        assert not any(line.startswith("▀") for line in screen(app))


# -- touching


async def test_a_touch_maps_the_lazy_page_again() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, "zap_vma_ptes(vma(bar), bar, 12K)")
        await keys(app, pilot, "t")
        assert statement(app) == "load(bar)"
        assert present(app, BAR, BAR + 64 * K) == 1
        assert "1 page touched, 1 minor and 0 major faults." in part(app, "why")
        await keys(app, pilot, "w")
        assert statement(app) == "store(bar)"


async def test_a_touch_of_the_frame_buffer_is_a_signal_with_a_way_back() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, "zap_vma_ptes(vma(fb), fb, 2M)")
        await keys(app, pilot, "t")
        shown = words(app)
        assert "camera dies by SIGBUS" in shown
        assert "BUS_ADRERR" in shown
        assert "0x7ffff7000000" in shown
        assert "u take the access back" in shown
        await keys(app, pilot, "u")
        assert len(app.screen_stack) == 1
        assert results(app) == ["0"]
        assert "Done" in part(app, "why")
        # Done again it is shown again; and one may go on as if there were a handler.
        await keys(app, pilot, "r")
        assert "camera dies by SIGBUS" in words(app)
        await keys(app, pilot, "c")
        assert len(app.screen_stack) == 1
        assert "SIGBUS: the access could not be served" in part(app, "why")
        await keys(app, pilot, "enter")
        assert "camera dies by SIGBUS" in words(app)
        await keys(app, pilot, "escape")
        assert results(app) == ["0", "SIGBUS BUS_ADRERR"]


async def test_going_back_over_a_signal_is_no_new_death() -> None:
    async with opened() as (app, pilot):
        for call in ("zap_vma_ptes(vma(fb), fb, 4K)", "load(fb)"):
            await type_command(app, pilot, call)
        await keys(app, pilot, "c")
        await type_command(app, pilot, "load(bar)")
        await keys(app, pilot, "u")
        assert len(app.screen_stack) == 1
        assert "SIGBUS" in part(app, "why")


async def test_a_touch_of_a_gap_is_sigsegv() -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "down", "t")
        assert "SIGSEGV SEGV_MAPERR" in words(app)
        assert "No mapping holds the address." in words(app)


async def test_munmap_says_what_was_freed() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, "munmap(heap, 64K)")
        assert "16 PTEs cleared" in part(app, "why")
        assert "Freed: 16 frames" in part(app, "why")
        assert "4 VMAs are left" in part(app, "why")


async def test_an_errno_is_explained() -> None:
    async with opened() as (app, pilot):
        await type_command(app, pilot, "munmap(heap + 1, 4K)")
        assert "EINVAL" in part(app, "why")
        assert not said(app)


# -- a real process


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="reads a Linux process")
async def test_the_vvar_of_this_very_process() -> None:
    machine, image = open_base("self", Config())
    if not any(vma.name == "[vvar]" and vma.is_pfnmap for vma in machine.mm.vmas):
        pytest.skip("this kernel maps no [vvar] by frame numbers")
    async with opened(session=live_session(machine, image)) as (app, pilot):
        await keys(app, pilot, "slash")
        app.screen.query_one(Input).value = "[vvar]"
        await keys(app, pilot, "enter", "V")
        assert "??" in part(app, "tree")
        await keys(app, pilot, "t")
        assert "NOT KNOWN, nothing changed" in part(app, "why"), "nobody knows what its fault handler does"
        await keys(app, pilot, "escape", "V", "z", "enter")
        assert statement(app).startswith('zap_vma_ptes(vma("[vvar]"), 0x')
        assert "Unknown before, now empty:" in part(app, "why")
        assert "(unknown: imported)" in part(app, "why")
        await type_command(app, pilot, 'zap_vma_ptes(vma("[stack]"), vma("[stack]"), 4K)')
        assert "REFUSED" in part(app, "why") or said(app)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"size": ""}, "Enter run (size is missing)"),
        ({"address": "fb +"}, "Enter run (address is not understood)"),
        ({"vma": " "}, "Enter run (vma is missing)"),
        ({"size": "4097"}, "Enter run (a real kernel would not survive it)"),
        ({"size": "4K"}, "Enter run Esc"),
    ],
)
async def test_the_form_says_why_enter_does_nothing(fields: dict[str, str], told: str) -> None:
    async with opened() as (app, pilot):
        await keys(app, pilot, "V", "z")
        row = next(line for line in screen(app) if line.startswith(" address"))
        assert row.split() == ["address", "fb", "7ffff7000000"], "a label is not said twice"
        await fill(app, pilot, **fields)
        assert told in words(app)
