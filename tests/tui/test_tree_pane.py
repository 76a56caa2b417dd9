"""The page-table pane and the ruler: moves become addresses, and only rows that differ are pulled again."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult

from vmviz.kernel.machine import Machine
from vmviz.tui.messages import AddressChosen
from vmviz.tui.panes.ruler import Ruler
from vmviz.tui.panes.tree import TreePane
from vmviz.tui.themes import available_themes, load_theme, to_textual
from vmviz.views.scene import Range, Scene
from vmviz.views.trail import Trail

M = 1 << 20
FB = 0x7FFFF7000000


class Demo(App[None]):
    CSS = "TreePane { width: 1fr; height: 1fr; }"

    def __init__(self, layout: str = "narrow", empty: bool = False) -> None:
        super().__init__()
        self.empty = empty
        self.machine = Machine(ram=64 * M, vdso=False)
        self.machine.mmap(FB, 8 * M, "rw", "shared", self.machine.open("/dev/fb0"))
        self.scene = Scene(self.machine, FB, labels={"fb": FB})
        self.chosen: list[tuple[int, bool]] = []
        self.mode = layout
        for name in available_themes():
            self.register_theme(to_textual(load_theme(name)))
        self.theme = "vmviz-dark"

    def compose(self) -> ComposeResult:
        yield TreePane()
        yield Ruler()

    def on_mount(self) -> None:
        if not self.empty:
            self.show_all()
        self.query_one(TreePane).focus()

    def show_all(self) -> None:
        self.query_one(TreePane).show(self.scene, self.mode)
        self.query_one(Ruler).show(self.scene, self.mode)

    def on_address_chosen(self, event: AddressChosen) -> None:
        self.chosen.append((event.address, event.extend))
        if event.extend:
            anchor = self.scene.range.anchor if self.scene.range else self.scene.cursor
            self.scene.range = Range(min(anchor, event.address), max(anchor, event.address) + 4096, anchor)
        self.scene.cursor = event.address
        self.show_all()


def lines(widget: TreePane | Ruler) -> list[str]:
    return [widget.render_line(y).text for y in range(widget.size.height)]


def cursor_line(pane: TreePane) -> str:
    (line,) = [line for line in lines(pane) if line[1:2] == "►"]
    return line


async def test_keys_become_addresses() -> None:
    app = Demo()
    async with app.run_test(size=(40, 20)) as pilot:
        pane = app.query_one(TreePane)
        assert "0ff.1ff.1b8" in lines(pane)[0]
        await pilot.press("down")
        assert app.chosen == [(FB + 2 * M, False)]
        assert cursor_line(pane).startswith(" ►   ├1b9 PT") or "1b9 PT" in cursor_line(pane)
        await pilot.press("right", "right", "right")
        assert "000 ◊ e0200 P W U C A · S X" in cursor_line(pane)
        await pilot.press("down")
        assert app.chosen[-1] == (FB + 2 * M + 4096, False)
        assert "001 ◊ e0201" in cursor_line(pane)
        await pilot.press("shift+down")
        assert app.chosen[-1] == (FB + 2 * M + 8192, True)
        await pilot.press("left")
        assert app.chosen[-1] == (FB + 2 * M, False)
        assert "1b9 PT" in cursor_line(pane)


async def test_up_to_the_root_and_back_down() -> None:
    app = Demo()
    async with app.run_test(size=(40, 20)) as pilot:
        pane = app.query_one(TreePane)
        await pilot.press("home")
        assert cursor_line(pane).startswith(" ►PGD")
        before = len(app.chosen)
        for _ in range(12):
            await pilot.press("down")
        addresses = [a for a, _ in app.chosen[before:]]
        assert addresses == sorted(addresses)
        assert FB in addresses


async def test_only_rows_that_differ_are_pulled() -> None:
    app = Demo()
    async with app.run_test(size=(40, 24)) as pilot:
        m, pane = app.machine, app.query_one(TreePane)
        start = m.journal.position
        m.zap_vma_ptes(m.vma(FB), FB, 2 * M)
        at = next(i for i, r in enumerate(m.journal.records) if type(r).__name__ == "Bulk" and i >= start[0])

        def stand(step: int) -> None:
            m.journal.seek((at, step))
            trail = Trail(m, start, (at, step))
            app.scene = Scene(m, FB + step * 4096, Range(FB, FB + 2 * M, FB), trail, {"fb": FB})
            app.show_all()

        stand(200)
        await pilot.pause()
        lines(pane)
        pulled = pane.rows_pulled
        stand(201)
        await pilot.pause()
        lines(pane)
        assert 0 < pane.rows_pulled - pulled <= 8
        assert "0c9 ◊ e00c9" in cursor_line(pane)


async def test_the_mouse_reaches_into_a_table() -> None:
    app = Demo()
    async with app.run_test(size=(40, 20)) as pilot:
        pane = app.query_one(TreePane)
        y = next(y for y, line in enumerate(lines(pane)) if "1ba PT" in line)
        x = lines(pane)[y].index("◊")
        await pilot.click(TreePane, offset=(x + 3, y))
        assert app.chosen[-1] == (FB + 4 * M + 3 * 32 * 4096, False)
        assert "060 ◊ e0460" in cursor_line(pane)
        y = next(y for y, line in enumerate(lines(pane)) if "1bb PT" in line)
        await pilot.click(TreePane, offset=(3, y), shift=True)
        assert app.chosen[-1] == (FB + 6 * M, True)


@pytest.mark.parametrize(
    ("size", "layout", "height"), [((80, 24), "narrow", 1), ((120, 40), "wide", 2), ((20, 5), "narrow", 1)]
)
async def test_the_ruler_has_its_lines(size: tuple[int, int], layout: str, height: int) -> None:
    app = Demo(layout)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        bar = app.query_one(Ruler)
        assert bar.size.height == height
        assert "7ffff7000000" in lines(bar)[0]
        assert ("→ PUD" in lines(bar)[-1]) == (height == 2)
        assert all(len(line) == size[0] for line in lines(bar))
        assert all(len(line) == size[0] for line in lines(app.query_one(TreePane)))


async def test_nothing_to_show_yet() -> None:
    app = Demo(empty=True)
    async with app.run_test(size=(40, 10)) as pilot:
        await pilot.press("down", "up", "left", "right", "end")
        await pilot.click(TreePane, offset=(3, 3))
        assert app.chosen == []
