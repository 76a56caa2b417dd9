"""Rows 16 to 18: key to frame, start to the first frame, and a full repaint of the frame map."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from time import thread_time
from typing import Any, TypeVar

import numpy as np
from textual.app import App, ComposeResult
from textual.screen import Screen

from ..kernel.machine import Machine
from ..kernel.mm.page_alloc import ANON, FILE, FREE
from ..tui.layout import Ground
from ..tui.panes.frames import FramePane
from ..tui.styles import RESET, book
from ..tui.themes import DEFAULT_THEME
from ..views.scene import Scene
from .harness import Bench, Sample, Workload
from .images import SnapshotFile
from .terminal import COLUMNS, DOWN, LINES, PATIENCE, UP, Terminal, bare, vmviz_open

T = TypeVar("T")
VMAS = 65_530
KEYS = 6
REPAINTS = 20
"""Keys, and repaints, in a sample, of which the quickest counts: between two of them other programs may run."""


class Running:
    """The app on a snapshot, and the bare app, both on terminals of their own and at rest."""

    def __init__(self, vmas: int, top_pfn: int = 0, *, alone: bool = False, warm: int = 12) -> None:
        """``alone``: without the bare app; ``warm``: keys down before.  Raises `MissingError` without terminals."""
        self.warm = warm
        self.snapshot = SnapshotFile(vmas, top_pfn)
        self.terminals: list[Terminal] = []
        try:
            self.ours = self._open(vmviz_open(self.snapshot.path), b"many")
            self.bare = self.ours if alone else self._open(bare(), b"row 0")
        except BaseException:
            self.close()
            raise

    def _open(self, argv: list[str], words: bytes) -> Terminal:
        terminal = Terminal(argv)
        self.terminals.append(terminal)
        terminal.first_frame(words)
        for _ in range(self.warm):  # into the middle of the page; and whatever is done once is done
            terminal.key(DOWN)
        return terminal

    def close(self) -> None:
        """End both."""
        for terminal in self.terminals:
            terminal.close()
        self.snapshot.close()


def keys(terminal: Terminal, *pressed: bytes) -> Sample:
    """The quickest of a few keys, in turn."""
    return lambda: min(terminal.key(pressed[i % len(pressed)]) or PATIENCE for i in range(KEYS))


def _key(scale: int) -> Bench:
    vmas = max(100, VMAS // scale)
    both = Running(vmas, warm=12 if scale == 1 else 1)
    note = f"down and up in a list of {vmas} VMAs, all panes follow; the bare app moves its cursor alone"
    return Bench(keys(both.ours, DOWN, UP), keys(both.bare, DOWN, UP), note=note, close=both.close)


def _scroll(scale: int) -> Bench:
    both = Running(max(200, VMAS // scale), warm=52 if scale == 1 else 2)
    note = "down at the lower edge of the page, where every line of a pane changes"
    return Bench(keys(both.ours, DOWN), keys(both.bare, DOWN), note=note, close=both.close)


def started(argv: list[str], words: bytes) -> Sample:
    """Seconds from the start of a program to the last byte of its first frame."""

    def sample() -> float:
        terminal = Terminal(argv)
        try:
            return terminal.first_frame(words)
        finally:
            terminal.close()

    return sample


def _start(scale: int) -> Bench:
    vmas = max(100, VMAS // scale)
    snapshot = SnapshotFile(vmas)
    note = f"`vmviz open FILE.vmvs`, a snapshot of {vmas} VMAs with a page each: process, imports, loading, frame"
    return Bench(
        started(vmviz_open(snapshot.path), b"many"),
        started(bare(), b"row 0"),
        note=note,
        close=snapshot.close,
    )


class _Map(App[None]):
    """The app's frame pane over the whole screen."""

    CSS = "FramePane { width: 100%; height: 100%; }"

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine

    def get_default_screen(self) -> Screen[Any]:
        """The app's own."""
        return Ground(id="_default")

    def compose(self) -> ComposeResult:
        """The pane."""
        yield FramePane()

    def on_mount(self) -> None:
        """The machine, frame by frame."""
        self.query_one(FramePane).show(Scene(self.machine), "wide")


def _repaint(scale: int, *, noise: bool) -> Bench:
    """Both sides ask the view for its rows of cells and end with the terminal's bytes; the processor's time of both."""
    m = Machine(ram=64 << 20, vdso=False)
    dice = np.random.default_rng(1)
    kinds = np.array([FREE, ANON, FILE, 1], np.uint8)
    first, end = 4096, m.frames.nr_frames - 64
    states = dice.choice(kinds, end - first)
    if not noise:  # runs of some twenty alike, as allocations make them
        states = np.repeat(states, 20)[: end - first]
    m.frames.states.put_many(slice(first, end), states)
    loop, context = asyncio.new_event_loop(), contextvars.copy_context()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return loop.run_until_complete(loop.create_task(work, context=context))

    app = _Map(m)
    running = app.run_test(size=(COLUMNS, LINES))
    run(_entered(running))
    pane = app.query_one(FramePane)
    view = pane.view
    assert view is not None
    rows = [view.index_of(first) + i for i in range(pane.page_rows)]
    run(_scrolled(pane, rows[0]))
    sizes: list[int] = []

    def ours() -> float:
        async def repaint() -> float:
            begin = thread_time()
            pane.touch_all()
            compositor = app.screen._compositor
            compositor.update_widgets({pane})
            update: Any = compositor.render_update(screen_stack=app._background_screens)
            data = update.render_segments(app.console).encode()
            took = thread_time() - begin
            sizes.append(len(data))
            return took

        return run(repaint())

    sgr = book(DEFAULT_THEME).table().sgr(app.console._color_system)  # type: ignore[arg-type]

    def yard() -> float:
        begin = thread_time()
        out: list[str] = []
        for y, row in enumerate(rows):
            out.append(f"\x1b[{y + 2};1H")
            last, columns = "", COLUMNS
            for text, role in view.row(row, COLUMNS):
                code = sgr[role]
                if code != last:
                    out.append(code)
                    last = code
                out.append(text)
                columns -= len(text)
            out.append(f"{sgr['text']}{' ' * columns}{RESET}")
        assert "".join(out).encode()
        return thread_time() - begin

    def close() -> None:
        run(_left(running))
        loop.close()

    ours()
    spans = [view.range_of(row) or (0, 0) for row in rows]
    cells = sum(stop - start for start, stop in spans)
    kind = "every cell at random" if noise else "runs of some twenty alike"
    note = f"{cells} cells of {COLUMNS}x{LINES}, {kind}, {sizes[0]} bytes"
    return Bench(quickest(ours), quickest(yard), note=note, close=close)


def quickest(sample: Sample) -> Sample:
    """The quickest of a few samples."""
    return lambda: min(sample() for _ in range(REPAINTS))


async def _entered(running: Any) -> None:
    pilot = await running.__aenter__()
    await pilot.pause()


async def _scrolled(pane: FramePane, row: int) -> None:
    pane.scroll_to(y=row, animate=False)
    await asyncio.sleep(0.1)


async def _left(running: Any) -> None:
    await running.__aexit__(None, None, None)


def _noise(scale: int) -> Bench:
    return _repaint(scale, noise=True)


def _runs(scale: int) -> Bench:
    return _repaint(scale, noise=False)


SCREEN: tuple[Workload, ...] = (
    Workload("key", 16, "key to frame in a list of 65,530 VMAs", "a bare Textual app's", 1.3, _key, False),
    Workload("key-scroll", 16, "key to frame where the list scrolls", "the same", 1.3, _scroll, False),
    Workload(
        "start", 17, "start to the first frame on 65,530 VMAs", "a bare Textual app", 1.5, _start, False
    ),
    Workload("repaint", 18, "full repaint of a 200x50 frame map", "raw ANSI from Python", 1.5, _noise, False),
    Workload("repaint-runs", 18, "the same with runs of alike frames", "the same", 1.5, _runs, False),
)
