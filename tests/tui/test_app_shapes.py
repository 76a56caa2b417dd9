"""What the speed of the app rests on, counted instead of timed: rows per key, bytes per key, looks at all VMAs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.message import Message
from textual.message_pump import MessagePump
from textual.pilot import Pilot
from textual.strip import Strip

from vmviz.bench.images import image
from vmviz.kernel.mm.vma_chunks import VmaChunks
from vmviz.live import load_image, write_snapshot
from vmviz.session.session import Session
from vmviz.session.story import live_session
from vmviz.tui.app import VmvizApp
from vmviz.tui.directlines import DirectLines
from vmviz.tui.linegrid import LineGrid
from vmviz.tui.panes.log import LogPane
from vmviz.tui.panes.tree import TreePane
from vmviz.tui.panes.vmas import VmaPane
from vmviz.views import frame_info
from vmviz.views.frames import FrameView
from vmviz.views.tree_rows import TreeRows

from .appkit import LARGE, keys, opened

FEW, MANY = 300, 6000


def session(vmas: int) -> Session:
    machine = load_image(image(vmas))
    return live_session(machine, machine.image)


class Counted:
    """The app on a model, and what each key costs."""

    def __init__(self, app: VmvizApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot
        self.paintings: list[str] = []
        display = app._display

        def keep(screen: Any, update: Any) -> None:
            if update is not None:
                self.paintings.append(update.render_segments(app.console))
            display(screen, update)

        app._display = keep  # type: ignore[method-assign]

    async def key(self, name: str) -> dict[str, int]:
        """Press a key: rows pulled from the views, rows painted, paintings, bytes for the terminal."""
        grids = list(self.app.screen_stack[0].query(LineGrid))
        for grid in grids:
            grid.rows_pulled = grid.rows_rendered = 0
        self.paintings.clear()
        await keys(self.app, self.pilot, name)
        paintings = [text for text in self.paintings if text]
        return {
            "pulled": sum(grid.rows_pulled for grid in grids),
            "rendered": sum(grid.rows_rendered for grid in grids),
            "paintings": len(paintings),
            "bytes": sum(len(text.encode()) for text in paintings),
        }


@asynccontextmanager
async def counted(vmas: int) -> AsyncIterator[Counted]:
    async with opened(LARGE, session=session(vmas)) as (app, pilot):
        await keys(app, pilot, "down", "down", "down")
        yield Counted(app, pilot)


async def test_a_key_costs_the_same_rows_and_bytes_at_any_size() -> None:
    costs = []
    for vmas in (FEW, MANY):
        async with counted(vmas) as model:
            costs.append([await model.key(name) for name in ("down", "down", "up", "down")])
    for few, many in zip(*costs, strict=True):
        assert few["pulled"] == many["pulled"] <= 14
        assert few["rendered"] == many["rendered"] <= 14
        assert few["paintings"] == many["paintings"] == 1
        assert max(few["bytes"], many["bytes"]) < 6_000


async def test_a_scroll_pulls_one_row_of_each_pane_and_little_more() -> None:
    async with counted(MANY) as model:
        for _ in range(40):
            await model.key("down")
        cost = await model.key("down")
        assert cost["paintings"] == 1
        assert cost["pulled"] <= 20
        assert cost["rendered"] <= 3 * LARGE[1]


async def test_all_panes_follow_in_one_painting() -> None:
    async with counted(FEW) as model:
        app = model.app
        await model.key("down")
        vma, tree = app.query_one(VmaPane), app.query_one(TreePane)
        assert vma.view is not None
        assert tree.view is not None
        assert vma.view.scene is tree.view.scene
        assert len([text for text in model.paintings if text]) == 1


async def test_a_key_passes_one_queue_and_is_painted_without_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dispatched: list[str] = []
    dispatch = MessagePump._dispatch_message

    async def note(self: MessagePump, message: Message) -> None:
        dispatched.append(type(message).__name__)
        await dispatch(self, message)

    async with counted(MANY) as model:
        monkeypatch.setattr(MessagePump, "_dispatch_message", note)
        for name in ("down", "down", "up"):
            dispatched.clear()
            await model.key(name)
            assert dispatched.count("Key") == 1  # that of the app
            assert dispatched.count("Update") == 0


async def test_a_move_asks_only_the_panes_and_the_ruler_what_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(LARGE) as (app, pilot):
        await keys(app, pilot, "n", "n")  # behind a statement there is something to tell

        def refuse(*_: Any, **__: Any) -> Any:
            raise AssertionError("nothing is new of the session")

        for name in ("why", "status_line", "arrange"):
            monkeypatch.setattr(f"vmviz.tui.showing.{name}", refuse)
        monkeypatch.setattr(LogPane, "show_log", refuse)
        for name in ("down", "up", "tab", "down", "right", "left"):
            await keys(app, pilot, name)
        with pytest.raises(AssertionError, match="nothing is new"):
            app.action_select()


async def test_a_key_asks_widgets_for_the_lines_that_changed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    kept = DirectLines.kept_lines

    def note(self: DirectLines, lines: Sequence[int]) -> list[Strip]:
        asked.append(len(lines))
        return kept(self, lines)

    async with counted(MANY) as model:
        monkeypatch.setattr(DirectLines, "kept_lines", note)
        for name in ("down", "down", "up"):
            asked.clear()
            await model.key(name)
            assert 4 <= sum(asked) <= 18


@pytest.fixture
def no_walk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No look at all VMAs, and none at all entries of all tables."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a look at everything there is")

    monkeypatch.setattr(VmaChunks, "__iter__", refuse)
    monkeypatch.setattr(VmaChunks, "items_slice", refuse, raising=False)
    monkeypatch.setattr("vmviz.kernel.mm.vma_set.VmaSet.items_slice", refuse)
    monkeypatch.setattr(frame_info, "mappers", refuse)
    return


@pytest.mark.usefixtures("no_walk")
async def test_neither_the_first_frame_nor_a_key_looks_at_all_vmas() -> None:
    async with counted(FEW) as model:
        for name in ("down", "pagedown", "end", "up", "home", "tab", "down", "up"):
            await model.key(name)


async def test_the_walks_are_refused_where_they_would_be_made() -> None:
    machine = load_image(image(FEW))
    machine.store(
        int(machine.image.vmas.start[1]), 1
    )  # after a statement the columns of the base do not hold
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vmviz.kernel.mm.vma_set.VmaSet.items_slice", lambda *_: 1 / 0)
        live = live_session(machine, machine.image)
        with pytest.raises(ZeroDivisionError):
            VmvizApp(live)


async def test_the_tree_keeps_its_rows_while_the_cursor_stays_in_a_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[int] = []
    build = TreeRows._build

    def count(self: TreeRows) -> None:
        built.append(1)
        build(self)

    monkeypatch.setattr(TreeRows, "_build", count)
    async with counted(FEW) as model:
        built.clear()
        for _ in range(8):
            await model.key("down")
        assert not built


async def test_rows_taken_over_are_those_that_would_be_built() -> None:
    for layout_size in (LARGE, (80, 24)):
        async with opened(layout_size, session=session(FEW)) as (app, pilot):
            pane = app.query_one(TreePane)
            for name in [
                "down",
                "down",
                "down",
                "up",
                "tab",
                "down",
                "down",
                "right",
                "down",
                "left",
                "up",
                "up",
                "pagedown",
                "pageup",
            ]:
                await keys(app, pilot, name)
                view = pane.view
                assert view is not None
                fresh = type(view)(view.scene, "wide" if view.wide else "narrow", pane.folds)
                assert (view.rows, view.cursor_index) == (fresh.rows, fresh.cursor_index), name
                width = pane.text_width
                assert [view.row(i, width) for i in range(view.row_count)] == [
                    fresh.row(i, width) for i in range(fresh.row_count)
                ], name


async def test_the_only_mapper_of_a_frame_is_the_one_that_a_look_finds() -> None:
    async with counted(FEW) as model:
        for _ in range(5):
            await model.key("down")
            view = model.app.query_one("#frames").view  # type: ignore[attr-defined]
            assert isinstance(view, FrameView)
            found = frame_info.sole_mapper(view.scene, view.pfn)
            assert found
            assert found == frame_info.mappers(view.machine, view.pfn)


NOT_NEEDED = (
    *("lark", "hashlib", "numpy.ma", "vmviz.conform", "vmviz.cli_strace", "vmviz.live.process"),
    *(
        "vmviz.kernel.mm.madvise",
        "vmviz.kernel.mm.mremap",
        "vmviz.kernel.mm.mlock",
        "vmviz.kernel.mm.mprotect",
    ),
    *("vmviz.script.runner", "vmviz.script.nodes", "vmviz.script.functions", "vmviz.session.export"),
    *("vmviz.views.help", "vmviz.views.reasons", "vmviz.views.zapform", "vmviz.tui.screens.text"),
)
FIRST_FRAME = """
import asyncio, gc, sys
import vmviz.cli
from vmviz.live.load import open_base
from vmviz.session.story import live_session
from vmviz.tui.app import VmvizApp

async def first_frame():
    gc.disable()
    app = VmvizApp(live_session(*open_base({path!r})))
    async with app.run_test(size=(200, 50)) as pilot:
        await pilot.pause()
        print(bool(app.query_one("#vmas").rows_rendered))
        print([name for name in {names!r} if name in sys.modules])
        chunks = app.director.session.machine.mm.vmas._vmas
        print(len(chunks), sum(type(chunk) is list for chunk in chunks))
        print(gc.isenabled(), gc.get_freeze_count() > 10_000)

asyncio.run(first_frame())
"""


def test_the_first_frame_of_a_snapshot_makes_and_loads_what_it_shows(tmp_path: Path) -> None:
    """No grammar, no runner, no reader of processes, no explanations; of 3,000 VMAs the chunks that are in view."""
    path = tmp_path / "few.vmvs"
    write_snapshot(image(3000), path)
    code = FIRST_FRAME.format(path=str(path), names=NOT_NEEDED)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    painted, loaded, chunks, collector = run.stdout.splitlines()
    assert (painted, loaded, collector) == ("True", "[]", "True True")
    there, made = map(int, chunks.split())
    assert there == 63
    assert 1 <= made <= 4
