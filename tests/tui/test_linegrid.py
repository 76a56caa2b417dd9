"""LineGrid: pulls only what is seen, repaints only what changed, and never breaks on a small screen."""

from __future__ import annotations

import pytest
from rich.style import Style
from textual.app import App, ComposeResult
from textual.strip import Strip

from vmviz.tui.linegrid import LineGrid
from vmviz.tui.styles import book
from vmviz.tui.themes import available_themes, load_theme, to_textual
from vmviz.views.cells import Line


class Rows(LineGrid):
    """A grid of numbered rows that remembers which were asked for."""

    def __init__(self, count: int, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.count = count
        self.asked: list[int] = []
        self.chosen: set[int] = set()
        self.closed: set[int] = set()
        self.text = "row {0} ◊"

    def row_count(self) -> int:
        return self.count

    def row(self, index: int, width: int) -> Line:
        self.asked.append(index)
        return [(self.text.format(index), "text"), ("×", "cleared")]

    def row_class(self, index: int) -> str:
        return "selected" if index in self.chosen else ""

    def can_stand(self, index: int) -> bool:
        return index not in self.closed


class Demo(App[None]):
    CSS = "Rows { width: 1fr; height: 1fr; }"

    def __init__(self, *grids: Rows) -> None:
        super().__init__()
        self.grids = grids
        self.ascii_glyphs = False
        self.log_of: list[tuple[object, ...]] = []
        for name in available_themes():
            self.register_theme(to_textual(load_theme(name)))
        self.theme = "vmviz-dark"

    def compose(self) -> ComposeResult:
        yield from self.grids

    def on_line_grid_cursor_moved(self, event: LineGrid.CursorMoved) -> None:
        self.log_of.append(("moved", event.row))

    def on_line_grid_row_pressed(self, event: LineGrid.RowPressed) -> None:
        self.log_of.append(("pressed", event.row, event.column, event.shift))

    def on_line_grid_row_dragged(self, event: LineGrid.RowDragged) -> None:
        self.log_of.append(("dragged", event.row, event.column))


def lines(grid: LineGrid) -> list[str]:
    return [grid.render_line(y).text for y in range(grid.size.height)]


def reset(grid: Rows) -> None:
    grid.rows_rendered = grid.rows_pulled = 0
    grid.asked.clear()


def ground(strip: Strip) -> object:
    style = next(iter(strip)).style
    assert isinstance(style, Style)
    return style.bgcolor


async def test_the_look() -> None:
    grid = Rows(2, title="VMAs", title_right="5", right_rule=True)
    async with Demo(grid).run_test(size=(24, 5)):
        assert lines(grid) == [
            "══ VMAs ═══════════ 5 ═│",
            "row 0 ◊×               │",
            "row 1 ◊×               │",
            "                       │",
            "                       │",
        ]


@pytest.mark.parametrize(
    ("title", "right", "width", "line"),
    [
        ("VMAs", "5", 16, "── VMAs ──── 5 ─"),
        ("VMAs", "", 12, "── VMAs ────"),
        ("", "", 4, "────"),
        ("", "5", 8, "──── 5 ─"),
        ("VMAs", "12345678", 16, "── VMAs ────────"),
        ("VMAs", "5", 6, "── VMA"),
    ],
)
async def test_the_title_rule(title: str, right: str, width: int, line: str) -> None:
    grid = Rows(1, title=title, title_right=right, row_cursor=False)
    other = Rows(1)
    app = Demo(other, grid)
    async with app.run_test(size=(width, 6)):
        assert grid.render_line(0).text == line
        assert grid.render_line(0).cell_length == width


async def test_focus_and_alert_double_the_rule_and_change_its_role() -> None:
    grid, other = Rows(1, title="A"), Rows(1, title="B")
    async with Demo(grid, other).run_test(size=(8, 6)) as pilot:
        styles = book("vmviz-dark").table()
        assert grid.render_line(0).text == "══ A ═══"
        assert other.render_line(0).text == "── B ───"
        assert next(iter(grid.render_line(0))).style == styles["rule.focus"]
        assert next(iter(other.render_line(0))).style == styles["rule"]
        other.alert = True
        other.touch_title()
        await pilot.pause()
        assert other.render_line(0).text == "══ B ═══"
        assert next(iter(other.render_line(0))).style == styles["rule.alert"]


async def test_only_visible_rows_are_pulled() -> None:
    grid = Rows(1_000_000)
    async with Demo(grid).run_test(size=(30, 11)):
        assert sorted(set(grid.asked)) == list(range(10))


async def test_a_cursor_step_renders_two_rows_and_a_scroll_a_viewport() -> None:
    grid = Rows(1000)
    async with Demo(grid).run_test(size=(30, 11)) as pilot:
        reset(grid)
        await pilot.press("down")
        assert (grid.cursor, grid.rows_rendered, grid.asked) == (1, 2, [])
        grid.cursor = 9
        await pilot.pause()
        reset(grid)
        await pilot.press("down")
        assert grid.scroll_offset.y == 1
        assert grid.rows_rendered == 10
        # The cells of rows that stay are kept: only the one that comes into view is pulled.
        assert grid.asked == [10]


async def test_touched_rows_alone_are_painted() -> None:
    grid = Rows(1000)
    async with Demo(grid).run_test(size=(30, 11)) as pilot:
        height = grid.virtual_size
        reset(grid)
        grid.text = "new {0}"
        grid.touch_rows([3, 4, 500])
        await pilot.pause()
        assert (grid.rows_rendered, grid.asked) == (2, [3, 4])
        assert lines(grid)[4].startswith("new 3")
        assert lines(grid)[1].startswith("row 0")
        reset(grid)
        grid.touch_rows(range(2**40, 2**41))
        grid.touch_rows(())
        await pilot.pause()
        assert grid.rows_rendered == 0
        assert grid.virtual_size is height


async def test_touched_rows_out_of_view_are_fresh_when_they_come() -> None:
    grid = Rows(1000)
    async with Demo(grid).run_test(size=(30, 11)) as pilot:
        await pilot.press("end")
        grid.text = "new {0}"
        grid.touch_rows({0})
        await pilot.press("home")
        assert [line[:5] for line in lines(grid)[1:3]] == ["new 0", "row 1"]


async def test_touch_all_follows_the_count() -> None:
    grid = Rows(1000)
    async with Demo(grid).run_test(size=(30, 11)) as pilot:
        await pilot.press("end")
        assert (grid.cursor, grid.scroll_offset.y) == (999, 990)
        same = grid.virtual_size
        grid.touch_all()
        await pilot.pause()
        assert grid.virtual_size is same
        grid.count = 3
        assert len(lines(grid)) == 11
        grid.touch_all()
        await pilot.pause()
        assert (grid.cursor, grid.scroll_offset.y, grid.virtual_size.height) == (2, 0, 4)
        assert [line.split()[:2] for line in lines(grid)[1:5]] == [
            ["row", "0"],
            ["row", "1"],
            ["row", "2"],
            [],
        ]
        grid.count = 0
        grid.touch_all()
        await pilot.press("down", "up", "pageup", "pagedown", "home", "end")
        assert grid.cursor == 0


async def test_keys() -> None:
    grid = Rows(100)
    async with Demo(grid).run_test(size=(30, 11)) as pilot:
        stops = []
        for key in ("down", "up", "up", "pagedown", "pagedown", "pageup", "end", "down", "pageup", "home"):
            await pilot.press(key)
            stops.append(grid.cursor)
            assert grid.cursor in grid.visible_rows
        assert stops == [1, 0, 0, 9, 18, 9, 99, 99, 90, 0]


async def test_keys_skip_rows_that_the_cursor_may_not_stand_on() -> None:
    grid = Rows(30)
    grid.closed = {0, 2, 3, 29}
    async with Demo(grid).run_test(size=(30, 11)) as pilot:
        stops = []
        for key in ("home", "up", "down", "up", "end", "down", "pageup", "pagedown"):
            await pilot.press(key)
            stops.append(grid.cursor)
        assert stops == [1, 1, 4, 1, 28, 28, 19, 28]
        await pilot.press("home")
        assert grid.scroll_offset.y == 0


async def test_a_grid_without_cursor_scrolls() -> None:
    grid = Rows(100, row_cursor=False)
    async with Demo(grid).run_test(size=(30, 11)) as pilot:
        tops = []
        for key in ("down", "pagedown", "end", "up", "home"):
            await pilot.press(key)
            tops.append(grid.scroll_offset.y)
        assert tops == [1, 10, 90, 89, 0]
        assert grid.cursor == 0


async def test_messages_of_the_cursor_and_its_limits() -> None:
    grid = Rows(10)
    app = Demo(grid)
    async with app.run_test(size=(30, 11)) as pilot:
        grid.cursor = 99
        await pilot.pause()
        grid.cursor = 9
        await pilot.pause()
        grid.cursor = -5
        await pilot.pause()
        assert app.log_of == [("moved", 9), ("moved", 0)]


async def test_a_cursor_set_before_the_first_layout_is_seen() -> None:
    grid = Rows(100)
    grid.cursor = 50
    async with Demo(grid).run_test(size=(30, 11)):
        assert grid.cursor == 50
        assert 50 in grid.visible_rows


async def test_the_mouse() -> None:
    grid = Rows(100, right_rule=True)
    app = Demo(grid)
    async with app.run_test(size=(30, 11)) as pilot:
        await pilot.click(grid, offset=(4, 3), shift=True)
        assert grid.cursor == 2
        assert app.log_of == [("moved", 2), ("pressed", 2, 4, True)]
        app.log_of.clear()
        await pilot.click(grid, offset=(4, 0))
        assert app.log_of == []
        await pilot.mouse_down(grid, offset=(29, 1))
        await pilot.hover(grid, offset=(6, 4))
        await pilot.hover(grid, offset=(6, 4))
        await pilot.mouse_up(grid, offset=(6, 4))
        await pilot.hover(grid, offset=(7, 5))
        assert [entry for entry in app.log_of if entry[0] != "moved"] == [
            ("pressed", 0, 28, False),
            ("dragged", 3, 6),
        ]
        assert app.mouse_captured is None


async def test_a_drag_beyond_the_edge_scrolls() -> None:
    grid, other = Rows(100), Rows(1)
    app = Demo(grid, other)
    async with app.run_test(size=(30, 12)) as pilot:
        await pilot.mouse_down(grid, offset=(2, 2))
        await pilot.hover(other, offset=(2, 3))
        await pilot.hover(other, offset=(3, 3))
        assert grid.scroll_offset.y == 2
        assert app.log_of[-1] == ("dragged", 6, 3)
        await pilot.mouse_up(other, offset=(2, 3))
        assert app.mouse_captured is None


async def test_the_wheel_scrolls_without_moving_the_cursor() -> None:
    from textual.events import MouseScrollDown

    grid = Rows(100)
    async with Demo(grid).run_test(size=(30, 11)) as pilot:
        options = {"delta_x": 0, "delta_y": 1, "button": 0, "shift": False, "meta": False, "ctrl": False}
        grid.post_message(MouseScrollDown(grid, 2, 2, **options))  # type: ignore[arg-type]
        await pilot.pause()
        assert grid.scroll_offset.y > 0
        assert grid.cursor == 0


async def test_hover_marks_a_row_when_asked() -> None:
    grid, plain = Rows(10, hover_rows=True), Rows(10)
    async with Demo(grid, plain).run_test(size=(30, 12)) as pilot:
        made = book("vmviz-dark")
        reset(grid)
        await pilot.hover(grid, offset=(2, 3))
        assert ground(grid.render_line(3)) == made.style("text", "hover").bgcolor
        assert (grid.asked, grid.rows_rendered > 0) == ([], True)
        await pilot.hover(plain, offset=(2, 3))
        assert ground(grid.render_line(3)) == made.style("text").bgcolor
        assert ground(plain.render_line(3)) == made.style("text").bgcolor


async def test_variants_of_rows() -> None:
    grid, other = Rows(5), Rows(5)
    grid.chosen = {0, 1}
    async with Demo(grid, other).run_test(size=(30, 12)) as pilot:
        made = book("vmviz-dark")

        def grounds() -> list[object]:
            return [ground(grid.render_line(y)) for y in (1, 2, 3)]

        def wanted(*variants: str) -> list[object]:
            return [made.style("text", variant).bgcolor for variant in variants]

        assert grounds() == wanted("cursor", "selected", "")
        other.focus()
        await pilot.pause()
        assert grounds() == wanted("cursor.blur", "selected", "")


async def test_a_focus_change_pulls_no_row() -> None:
    grid, other = Rows(50), Rows(50)
    async with Demo(grid, other).run_test(size=(30, 12)) as pilot:
        reset(grid)
        other.focus()
        await pilot.pause()
        assert (grid.asked, grid.rows_rendered > 0) == ([], True)


async def test_segments_are_merged_and_as_wide_as_the_widget() -> None:
    class Noisy(Rows):
        def row(self, index: int, width: int) -> Line:
            return [
                ("a", "anon"),
                ("", "dim"),
                ("b", "anon"),
                ("c", "file"),
                ("d", "file"),
                ("z" * 99, "text"),
            ]

    grid = Noisy(3, row_cursor=False)
    async with Demo(grid).run_test(size=(20, 5)):
        strip = grid.render_line(1)
        assert [segment.text for segment in strip] == ["ab", "cd", "z" * 16]
        assert strip.cell_length == 20


async def test_ascii_glyphs_and_foreign_text() -> None:
    grid = Rows(20, title="A", right_rule=True)
    grid.text = "│◊ \x1b[2J日 {0}"
    app = Demo(grid)
    async with app.run_test(size=(20, 5)) as pilot:
        assert grid.render_line(1).text.startswith("│◊ ?[2J? 0×")
        assert {line[-1] for line in lines(grid)} == {"│", "║"}
        app.ascii_glyphs = True
        grid.touch_all()
        await pilot.pause()
        assert grid.render_line(0).text == "== A ==============|"
        assert grid.render_line(1).text.startswith("|D ?[2J? 0x")
        assert all(line.isascii() for line in lines(grid))


async def test_the_right_rule_shows_where_the_view_stands() -> None:
    grid = Rows(40, right_rule=True)
    async with Demo(grid).run_test(size=(20, 11)) as pilot:
        assert "".join(line[-1] for line in lines(grid)) == "│║║││││││││"
        await pilot.press("end")
        assert "".join(line[-1] for line in lines(grid)) == "│││││││││║║"
        grid.count = 10
        grid.touch_all()
        await pilot.pause()
        assert {line[-1] for line in lines(grid)} == {"│"}


async def test_a_theme_change_repaints_everything_in_the_new_styles() -> None:
    grid = Rows(5)
    app = Demo(grid)
    async with app.run_test(size=(20, 5)) as pilot:
        for name in ("vmviz-light", "vmviz-mono", "vmviz-contrast", "vmviz-dark"):
            app.theme = name
            await pilot.pause()
            made = book(name)
            assert ground(grid.render_line(2)) == made.style("text").bgcolor
            assert next(iter(grid.render_line(1))).style == made.style("text", "cursor")
            assert "row" in app.export_screenshot()


@pytest.mark.parametrize("width", [1, 2, 3, 20])
@pytest.mark.parametrize("height", [1, 2, 3, 5])
async def test_nothing_breaks_on_a_small_screen(width: int, height: int) -> None:
    grid = Rows(5, title="Title", title_right="9", right_rule=True, hover_rows=True)
    app = Demo(grid)
    async with app.run_test(size=(width, height)) as pilot:
        await pilot.press("down", "end", "pageup", "pagedown", "home")
        await pilot.click(grid, offset=(0, height - 1))
        assert all(grid.render_line(y).cell_length == width for y in range(height))
        assert [len(line) for line in lines(grid)] == [width] * height


async def test_nothing_breaks_without_any_room() -> None:
    grid = Rows(5, title="Title", right_rule=True)
    app = Demo(grid)
    async with app.run_test(size=(20, 5)) as pilot:
        for css in (0, 1):
            grid.styles.height = css
            grid.styles.width = css
            await pilot.pause()
            await pilot.press("down", "end", "home")
            grid.touch_rows(range(5))
            grid.touch_all()
            grid.touch_title()
            await pilot.pause()
        assert grid.render_line(0).cell_length == 1


async def test_a_resize_keeps_the_cursor_in_view() -> None:
    grid = Rows(100)
    async with Demo(grid).run_test(size=(30, 21)) as pilot:
        grid.cursor = 19
        await pilot.resize_terminal(25, 6)
        await pilot.pause()
        assert 19 in grid.visible_rows
        assert len(lines(grid)[1]) == 25
