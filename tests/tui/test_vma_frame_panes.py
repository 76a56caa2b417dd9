"""The VMA and the frame pane: keys and the mouse become addresses, a new scene repaints only what differs."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult

from tests.views.test_vmas import BAR, FB, HEAP, MIB, STACK, camera, crowd
from vmviz.kernel.trace.bulk import Bulk
from vmviz.tui.linegrid import LineGrid
from vmviz.tui.messages import AddressChosen, FrameChosen
from vmviz.tui.panes.frames import FramePane
from vmviz.tui.panes.vmas import VmaPane
from vmviz.tui.themes import available_themes, load_theme, to_textual
from vmviz.views.scene import Range, Scene
from vmviz.views.trail import Trail

TEXT = 0x555555554000


class Demo(App[None]):
    """Both panes over one scene, which follows what they say, as the real app does."""

    CSS = "VmaPane, FramePane { width: 41; height: 1fr; } Screen { layout: horizontal; }"

    def __init__(self, scene: Scene, layout: str = "narrow") -> None:
        super().__init__()
        self.scene, self.form = scene, layout
        self.vmas, self.frames = VmaPane(right_rule=True), FramePane()
        self.said: list[tuple[object, ...]] = []
        for name in available_themes():
            self.register_theme(to_textual(load_theme(name)))
        self.theme = "vmviz-dark"

    def compose(self) -> ComposeResult:
        yield self.vmas
        yield self.frames

    def on_mount(self) -> None:
        self.show()

    def show(self) -> None:
        self.vmas.show(self.scene, self.form)
        self.frames.show(self.scene, self.form)

    def on_address_chosen(self, event: AddressChosen) -> None:
        self.said.append((event.address, event.extend))
        self.scene.cursor, self.scene.pfn = event.address, -1
        self.show()

    def on_frame_chosen(self, event: FrameChosen) -> None:
        self.said.append((event.pfn,))
        self.scene.pfn = event.pfn
        self.show()


def lines(grid: LineGrid) -> list[str]:
    return [grid.render_line(y).text for y in range(grid.size.height)]


async def test_the_look() -> None:
    app = Demo(Scene(camera(), FB))
    async with app.run_test(size=(82, 13)) as pilot:
        await pilot.pause()
        assert lines(app.vmas)[0] == "══ VMAs ════════════════════════════ 5 ═│"
        assert lines(app.vmas)[6] == " ►7ffff7000000    8M rw-s PF /dev/fb0   │"
        assert lines(app.frames)[0] == "── Frames ───────────── 1 cell = 1 page ─"
        assert lines(app.frames)[3] == " e0000 ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊ fb0, cell = 128  "
        assert app.vmas.cursor == 5
        assert app.frames.cursor == 2
        assert app.said == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("down", [(FB + 8 * MIB, False)]),
        ("down down", [(FB + 8 * MIB, False), (BAR, False)]),
        ("up up", [(HEAP + 65536, False), (HEAP, False)]),
        ("shift+down", [(FB + 8 * MIB, True)]),
        ("shift+up up", [(HEAP + 65536, True), (HEAP, False)]),
        ("home", [(0, False)]),
        ("end", [(STACK, False)]),
        ("end end", [(STACK, False)]),
        ("shift+end", [(STACK, True)]),
        ("home up", [(0, False)]),
        ("shift+home", [(0, True)]),
    ],
)
@pytest.mark.parametrize("layout", ["narrow", "wide"])
async def test_vma_keys(keys: str, said: list[tuple[object, ...]], layout: str) -> None:
    app = Demo(Scene(camera(), FB), layout)
    async with app.run_test(size=(82, 30)) as pilot:
        app.vmas.focus()
        for key in keys.split():
            await pilot.press(key)
        await pilot.pause()
        assert app.said == said
        assert app.vmas.view is not None
        assert app.vmas.view.is_cursor(app.vmas.cursor)


async def test_pages_in_a_crowd() -> None:
    m = crowd(400)
    app = Demo(Scene(m, 0x100000000))
    async with app.run_test(size=(82, 12)) as pilot:
        app.vmas.focus()
        await pilot.press("pagedown", "shift+pagedown")
        await pilot.pause()
        assert [extend for _, extend in app.said] == [False, True]
        assert app.vmas.cursor in app.vmas.visible_rows
        assert app.vmas.view is not None
        assert app.vmas.view.is_cursor(app.vmas.cursor)


async def test_vma_mouse() -> None:
    app = Demo(Scene(camera(), FB))
    async with app.run_test(size=(82, 14)) as pilot:
        await pilot.click(app.vmas, offset=(10, 2))
        await pilot.pause()
        # The details have gone with the cursor, so the rows below the frame buffer are where they were.
        await pilot.click(app.vmas, offset=(10, 9), shift=True)
        await pilot.pause()
        assert app.said == [(TEXT, False), (BAR, True)]


async def test_vma_drag() -> None:
    app = Demo(Scene(camera(), STACK))
    async with app.run_test(size=(82, 14)) as pilot:
        await pilot.mouse_down(app.vmas, offset=(10, 4))
        await pilot.pause()
        await pilot.hover(app.vmas, offset=(10, 7))
        await pilot.pause()
        assert app.said[0] == (HEAP, False)
        assert app.said[-1][1] is True


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("right", [(0xE0080,)]),
        ("right right left", [(0xE0080,), (0xE0100,), (0xE0080,)]),
        ("down", [(0xFE000,)]),
        ("right down", [(0xE0080,), (0xFE001,)]),
        ("home", [(0x1000,)]),
        ("end", [(0xFE00F,)]),
    ],
)
async def test_frame_keys(keys: str, said: list[tuple[object, ...]]) -> None:
    m = camera()
    app = Demo(Scene(m, FB))
    async with app.run_test(size=(82, 14)) as pilot:
        app.frames.focus()
        for key in keys.split():
            await pilot.press(key)
        await pilot.pause()
        assert app.said == said
        assert app.frames.view is not None
        assert app.frames.view.is_cursor(app.frames.cursor)


async def test_left_of_the_first_device_lies_the_end_of_ram() -> None:
    app = Demo(Scene(camera(), FB))
    async with app.run_test(size=(82, 14)) as pilot:
        app.frames.focus()
        await pilot.press("left")
        await pilot.pause()
        assert app.frames.view is not None
        assert app.said == [(app.frames.view.cell_starts(1)[-1],)]


async def test_frame_mouse() -> None:
    app = Demo(Scene(camera(), FB))
    async with app.run_test(size=(82, 14)) as pilot:
        await pilot.click(app.frames, offset=(7 + 4, 3))
        await pilot.pause()
        assert app.said == [(0xE0200,)]
        assert lines(app.frames)[3].startswith("►e0000 ")


async def test_a_step_of_a_zap_repaints_only_its_rows() -> None:
    m = camera()
    start = m.position
    m.zap_vma_ptes(m.vma(FB), FB + MIB, 2 * MIB)
    records = m.journal.records
    at = next(i for i in range(start[0], len(records)) if isinstance(records[i], Bulk))
    m.journal.seek((at, 64))
    span = Range(FB + MIB, FB + 3 * MIB, FB)
    app = Demo(Scene(m, FB, span, Trail(m, start, m.position)), "wide")
    async with app.run_test(size=(90, 40)) as pilot:
        await pilot.pause()
        for pane in (app.vmas, app.frames):
            pane.rows_pulled = 0
        m.journal.seek((at, 128))
        app.scene.trail = Trail(m, start, m.position)
        app.show()
        await pilot.pause()
        assert any("1920" in line for line in lines(app.vmas))
        assert "××××" in "".join(lines(app.frames))
        assert 1 <= app.vmas.rows_pulled <= 2
        assert 1 <= app.frames.rows_pulled <= 2


async def test_a_row_out_of_view_is_painted_anew_when_it_comes_back() -> None:
    m = camera()
    app = Demo(Scene(m, 0), "narrow")
    async with app.run_test(size=(82, 6)) as pilot:
        app.vmas.focus()
        app.vmas.scroll_to(y=6, animate=False)
        await pilot.pause()
        assert any("resource0" in line for line in lines(app.vmas))
        app.vmas.scroll_to(y=0, animate=False)
        await pilot.pause()
        m.journal.write(m.mm.vmas, BAR, m.vma(BAR).replace(name="other"))
        app.show()
        app.vmas.scroll_to(y=6, animate=False)
        await pilot.pause()
        assert any("other" in line for line in lines(app.vmas))


async def test_the_cursor_stays_in_view_when_rows_come() -> None:
    m = camera()
    app = Demo(Scene(m, STACK))
    async with app.run_test(size=(82, 6)) as pilot:
        await pilot.pause()
        for i in range(20):
            m.mmap(0x10000000 + i * 8192, 4096, "r", "private")
        app.show()
        await pilot.pause()
        assert app.vmas.view is not None
        assert app.vmas.cursor == app.vmas.view.cursor_index
        assert app.vmas.cursor in app.vmas.visible_rows
        assert app.vmas.title_right == "25"


async def test_the_legend_comes_and_goes_with_the_height() -> None:
    app = Demo(Scene(camera(), FB), "wide")
    async with app.run_test(size=(90, 40)) as pilot:
        await pilot.pause()
        assert "zap_vma_ptes accepts" in "".join(lines(app.vmas))
        await pilot.resize_terminal(90, 14)
        await pilot.pause()
        assert app.vmas.row_count() == 15


@pytest.mark.parametrize("size", [(20, 5), (3, 2), (41, 1)])
@pytest.mark.parametrize("layout", ["narrow", "wide"])
async def test_small_screens(size: tuple[int, int], layout: str) -> None:
    app = Demo(Scene(camera(), FB), layout)
    async with app.run_test(size=size) as pilot:
        for key in ("down", "up", "end", "home", "shift+down", "tab", "right", "down", "end", "pagedown"):
            await pilot.press(key)
        await pilot.pause()


async def test_a_pane_without_a_scene_is_empty() -> None:
    pane = VmaPane()
    assert pane.row_count() == 0
    assert pane.row(0, 40) == [(" " * 40, "text")]
    assert FramePane().cursor_row() is None
