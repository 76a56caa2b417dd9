"""The page-table tree: the moments of the main screen, folding, places of the cursor, and its size."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest

from vmviz.kernel.arch import get_mode
from vmviz.kernel.machine import Machine
from vmviz.kernel.trace.bulk import Bulk
from vmviz.views import entries as ent
from vmviz.views.cells import ROLES, Line, plain
from vmviz.views.scene import Range, Scene
from vmviz.views.trail import Trail
from vmviz.views.tree import TreeView
from vmviz.views.tree_rows import TreeState

M = 1 << 20
FB, BAR = 0x7FFFF7000000, 0x7FFFF7FB0000
WIDTHS = {"narrow": 39, "wide": 42}


@pytest.fixture
def camera() -> Machine:
    m = Machine(ram=64 * M, vdso=False)
    m.execve("/usr/bin/camera")
    m.load(0x555555554000, 8192)
    heap = m.brk(0)
    m.brk(heap + 65536)
    m.store(heap, 65536)
    m.mmap(FB, 8 * M, "rw", "shared", m.open("/dev/fb0"))
    m.mmap(BAR, 65536, "rw", "shared", m.open("/sys/bus/pci/devices/0000:00:02.0/resource0"))
    m.load(BAR, 12288)
    return m


TABLE = re.compile(r"\b(PGD|P4D|PUD|PMD|PT) [0-9a-f]{5}")


def words(line: Line) -> str:
    """The text of a row; the frames of tables are the allocator's business."""
    return TABLE.sub(r"\1 #####", plain(line))


def text(view: TreeView, layout: str = "narrow") -> list[str]:
    width = WIDTHS[layout]
    lines = [view.row(i, width) for i in range(view.row_count)]
    for line in lines:
        assert sum(len(t) for t, _ in line) == width
        assert {role for _, role in line} <= set(ROLES)
    return [words(line) for line in lines]


def zap_at(m: Machine, step: int) -> Scene:
    """The camera's machine inside zap_vma_ptes(vma(fb), fb + 1M, 2M), ``step`` entries gone."""
    start = m.journal.position
    m.zap_vma_ptes(m.vma(FB), FB + M, 2 * M)
    at = next(i for i, r in enumerate(m.journal.records[start[0] :], start[0]) if isinstance(r, Bulk))
    m.journal.seek((at, step))
    trail = Trail(m, start, (at, step))
    return Scene(m, FB + M + step * 4096, Range(FB + M, FB + 3 * M, FB + M), trail)


JUST_OPENED = """\
  PGD #####               2 of 256 user
  ├0aa PUD #####               1 of 512
  │└155 PMD #####              2 of 512
  │ ├0aa PT ##### ··········■·····   2 
  │ └0ab PT ##### ··········■■····  16 
  ├0ff PUD #####               1 of 512
  │└1ff PMD #####              6 of 512
 ►│ ├1b8 PT ##### ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊ 512 
  │ ├1b9 PT ##### ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊ 512 
  │ ├1ba PT ##### ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊ 512 
  │ ├1bb PT ##### ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊ 512 
  │ ├1bf PT ##### ·············◊··   3 
  │ └1ff PT ##### ···············■   2 
  └100..1ff  kernel half, not simulated"""

ZAP_NARROW = """\
  PGD #####               2 of 256 user
  ├0aa PUD #####       18 entries below
  ├0ff PUD #####               1 of 512
  │└1ff PMD #####              6 of 512
▄ │ ├1b8 PT ##### ◊◊◊◊◊◊◊◊×××××××× 256 
█ │ │ 100..1ff × --         256 cleared
▀ │ ├1b9 PT ##### ××××◊◊◊◊◊◊◊◊◊◊◊◊ 384 
█ │ │ 000..07d × --         126 cleared
█ │ │ 07e × --    was e027e            
█ │ │ 07f × --    was e027f            
█►│ │ 080 ◊ e0280 P W U C A · S X      
█ │ │ 081 ◊ e0281 P W U C A · S X      
█ │ │ 082..0ff ◊ e0282..e02ff       126
  │ │ 100..1ff ◊ e0300..e03ff       256
  │ ├1ba PT ##### ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊ 512 """

ZAP_WIDE = """\
  │ ├000..1b7  440 empty                  
▄ │ ├1b8 PT ##### ◊◊◊◊◊◊◊◊××××××××    256 
  │ │ 000..0ff ◊ e0000..e00ff          256
█ │ │ 100..1ff × --  was e0100..e01ff  256
█ │ ├──── 2M boundary, 7ffff7200000 ──────
▀ │ ├1b9 PT ##### ××××◊◊◊◊◊◊◊◊◊◊◊◊    384 
█ │ │ 000..07c × --  was e0200..e027c  125
█ │ │ 07d × --  was e027d P W U C A · S X 
█ │ │ 07e × --  was e027e P W U C A · S X 
█ │ │ 07f × --  was e027f P W U C A · S X 
█►│ │ 080 ◊ e0280 P W U C A · S X         
█ │ │ 081 ◊ e0281 P W U C A · S X         
█ │ │ 082..0ff ◊ e0282..e02ff          126
  │ │ 100..1ff ◊ e0300..e03ff          256
  │ ├1ba PT ##### ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊    512 """

REFUSED = """\
▄ │ ├1bb PT ##### ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊ 512 
█ │ │ 100..1fe ◊ e0700..e07fe       255
█ │ │ 1ff ◊ e07ff P W U C A · S X      
  │ ├───── vm_end 7ffff7800000 ────────
!►│ ├1bc --  no table, no VMA          
! │ │ 000..0ff        256 pages outside
  │ ├1bd..1be  2 empty                 
  │ ├1bf PT ##### ·············◊··   3 """


def test_just_opened(camera: Machine) -> None:
    view = TreeView(Scene(camera, FB), "narrow")
    assert text(view)[:14] == JUST_OPENED.split("\n")
    assert view.path == "0ff.1ff.1b8"
    assert view.is_cursor(7)


def test_wide_spells_out_the_table_of_the_cursor(camera: Machine) -> None:
    lines = text(TreeView(Scene(camera, FB), "wide"), "wide")
    assert "  │ │ 000..1ff ◊ e0000..e01ff    all alike" in lines
    assert " ►│ ├1b8 PT ##### ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊    512 " in lines
    assert "  ├000..0a9  170 empty                    " in lines
    assert not any("511 empty" in line for line in lines), "an only child is told by its parent"


@pytest.mark.parametrize(("layout", "want", "first"), [("narrow", ZAP_NARROW, 0), ("wide", ZAP_WIDE, 6)])
def test_inside_a_zap(camera: Machine, layout: str, want: str, first: int) -> None:
    lines = text(TreeView(zap_at(camera, 384), layout), layout)
    rows = want.split("\n")
    assert lines[first : first + len(rows)] == rows


def test_each_step_of_a_zap_is_seen(camera: Machine) -> None:
    scene = zap_at(camera, 1)
    lines = text(TreeView(scene, "narrow"))
    assert "▄ │ ├1b8 PT ##### ◊◊◊◊◊◊◊◊×◊◊◊◊◊◊◊ 511 " in lines
    assert "█ │ │ 100 × --    was e0100            " in lines
    assert "█►│ │ 101 ◊ e0101 P W U C A · S X      " in lines


def test_a_range_that_leaves_its_vma(camera: Machine) -> None:
    scene = Scene(camera, FB + 8 * M, Range(FB + 7 * M, FB + 9 * M, FB + 7 * M))
    lines = text(TreeView(scene, "narrow"))
    rows = REFUSED.split("\n")
    at = lines.index(rows[0])
    assert lines[at : at + len(rows)] == rows
    wide = text(TreeView(scene, "wide"), "wide")
    assert "  │ ├──── vm_end 7ffff7800000, 2M boundary" in wide
    assert "!►│ ├1bc --  no table, no VMA here        " in wide
    assert "! │ │ 000..0ff           256 pages outside" in wide


def test_vm_end_inside_a_table(camera: Machine) -> None:
    scene = Scene(camera, BAR, Range(BAR + 0x8000, BAR + 0x12000, BAR + 0x8000))
    lines = text(TreeView(scene, "wide"), "wide")
    edge = lines.index("  │ │ ──── vm_end 7ffff7fc0000 ───────────")
    assert lines[edge - 1].startswith("█ │ │ 1b8..1bf · --")
    assert lines[edge + 1].startswith("! │ │ 1c0..1c1 · --")


def test_half_a_page_at_each_end(camera: Machine) -> None:
    scene = Scene(camera, FB + 0x1200, Range(FB + 0x1200, FB + 0x3E00, FB + 0x1200))
    lines = text(TreeView(scene, "narrow"))
    marks = {line[6:9]: line[0] for line in lines if line[2:5] == "│ │"}
    assert (marks["001"], marks["002"], marks["003"]) == ("▄", "█", "▀")


def test_fresh_entries(camera: Machine) -> None:
    start = camera.journal.position
    camera.load(BAR + 4 * 4096)
    scene = Scene(camera, BAR + 4 * 4096, trail=Trail(camera, start, camera.journal.position))
    view = TreeView(scene, "narrow")
    row = view.row(view.cursor_index, 39)
    assert ("◊ ", "fresh") in row
    assert "1b4 ◊ fe004" in plain(row)


def test_unknown_entries(camera: Machine) -> None:
    camera.journal.write(camera.mm.unknown, BAR + 0x4000, BAR + 0x8000)
    camera.journal.write(camera.mm.unknown, FB + 8 * M, FB + 10 * M)
    lines = text(TreeView(Scene(camera, BAR + 0x4000), "narrow"))
    rows = [line.rstrip() for line in lines]
    assert " ►│ │ 1b4 ? ??" in rows
    assert "  │ │ 1b6..1b7 ? ??                   2" in rows
    assert "  │ ├1bc ??  cannot be observed" in rows
    assert any(line.startswith("  │ ├1bf PT ##### ·············?··   3") for line in lines)


def test_zero_none_and_swap_in_words(camera: Machine) -> None:
    m = camera
    anon = m.mmap(0x7FFFF6000000, 16 * 4096, "rw", "private")
    m.load(anon)
    page = m.mm.vma_at(anon)
    assert page is not None
    slot = m.arena.lookup(m.mm.pgd, anon)
    mode = m.arena.mode
    m.journal.write(m.arena, slot + 1, mode.mk_pte(0xE0000, 0x120 | 0x200))
    m.journal.write(m.arena, slot + 2, mode.swp_entry(2, 0x77))
    lines = text(TreeView(Scene(m, anon + 4096), "narrow"))
    assert any("000 ■ zero  P · U · A · S X" in line for line in lines)
    assert any("001 ◊ e0000 none  · A · S ·" in line for line in lines)
    assert any("002 s swap 2:77" in line for line in lines)


def test_levels_come_from_the_mode() -> None:
    m = Machine(ram=64 * M, mode="x86-64-5l")
    fb = m.mmap(FB, 8 * M, "rw", "shared", m.open("/dev/fb0"))
    view = TreeView(Scene(m, fb + 4096), "narrow")
    lines = text(view)
    assert view.path == "000.0ff.1ff.1b8"
    assert lines[1].startswith("  ├000 P4D #####")
    assert any(line.startswith(" ►│  │ 001 ◊ e0001 P W U C A · S X") for line in lines)


def test_every_row_is_found_again(camera: Machine) -> None:
    for scene in (Scene(camera, FB + 4096), zap_at(camera, 300)):
        for layout in WIDTHS:
            view = TreeView(scene, layout)
            for i in range(view.row_count):
                span = view.range_of(i)
                if span is None:
                    assert view.address_of(i) is None
                    continue
                start, end = view.range_of(view.index_of(span[0])) or (0, 0)
                assert start == span[0] <= end
                assert end <= span[1] or view.rows[view.index_of(span[0])].kind == "pt"


@pytest.mark.parametrize(
    "cursor", [0, 4096, FB - 4096, 0x7FFFFFFFEFFF, 1 << 47, 1 << 63, (1 << 64) - 1, 0x555555758000]
)
@pytest.mark.parametrize("layout", ["narrow", "wide"])
def test_the_cursor_always_has_a_row(camera: Machine, cursor: int, layout: str) -> None:
    view = TreeView(Scene(camera, cursor), layout)
    lines = text(view, layout)
    assert sum(line[1] == "►" for line in lines) == 1
    for width in (0, 1, 5, 19):
        assert len(plain(view.row(view.cursor_index, width))) == width


def walk_down(scene: Scene, state: TreeState, layout: str, presses: int) -> list[tuple[int, int]]:
    """What the down key does: the next row that can be stood on becomes the focus."""
    seen = []
    for _ in range(presses):
        view = TreeView(scene, layout, state)
        nxt = next((i for i in range(view.cursor_index + 1, view.row_count) if view.can_stand(i)), None)
        if nxt is None:
            break
        state.focus = view.key_of(nxt)
        scene.cursor = state.focus[1]
        seen.append((state.focus[0], scene.cursor))
    return seen


@pytest.mark.parametrize("layout", ["narrow", "wide"])
def test_down_reaches_the_end_and_never_turns_round(camera: Machine, layout: str) -> None:
    scene = Scene(camera, 0)
    seen = walk_down(scene, TreeState(focus=(0, 0, 1 << 64)), layout, 400)
    assert len(seen) < 400
    assert [a for _, a in seen] == sorted(a for _, a in seen)
    assert len(set(seen)) == len(seen)
    assert {FB, FB + 2 * M, BAR & -2 * M} <= {a for _, a in seen}


def test_unfold_and_fold(camera: Machine) -> None:
    scene, state = Scene(camera, FB), TreeState()

    def go(key: tuple[int, int, int] | None) -> TreeView:
        assert key is not None
        state.focus = key
        scene.cursor = key[1]
        return TreeView(scene, "narrow", state)

    view = TreeView(scene, "narrow", state)
    rows = view.row_count
    view = go(view.unfold(view.cursor_index))
    assert view.row_count == rows + 1
    view = go(view.unfold(view.cursor_index))  # on the only run of the table
    assert "000..1ff ◊ e0000..e01ff" in plain(view.row(view.cursor_index, 39))
    view = go(view.unfold(view.cursor_index))  # into the run
    assert plain(view.row(view.cursor_index, 39)).startswith(" ►│ │ 000 ◊ e0000 P W")
    view = go(view.fold(view.cursor_index))  # back to the table
    assert plain(view.row(view.cursor_index, 39)).startswith(" ►│ ├1b8 PT")
    view = go(view.fold(view.cursor_index))
    assert view.row_count == rows
    view = go(view.fold(view.cursor_index))  # to the PMD
    assert words(view.row(view.cursor_index, 39)).startswith(" ►│└1ff PMD #####              6 of 512")
    view = go(view.fold(view.cursor_index))
    assert re.fullmatch(r" ►│└1ff PMD ##### +205\d entries below", words(view.row(view.cursor_index, 39)))
    view = go(view.fold(view.cursor_index))
    view = go(view.fold(view.cursor_index))
    assert view.row_count < rows
    view = go(view.fold(view.cursor_index))
    assert view.fold(view.cursor_index) is None, "the root has no parent"
    # Who goes to an address in a folded branch sees it.
    state.focus, scene.cursor = None, FB + 4096
    view = TreeView(scene, "narrow", state)
    assert plain(view.row(view.cursor_index, 39)).startswith(" ►│ │ 001 ◊ e0001")


def test_cells_of_a_table_have_addresses(camera: Machine) -> None:
    view = TreeView(Scene(camera, FB), "narrow")
    first = plain(view.row(7, 39)).index("◊")
    assert [view.address_at(7, c, 39) for c in (first, first + 15, first + 16, 0)] == [
        FB,
        FB + 15 * 32 * 4096,
        FB,
        FB,
    ]


def test_many_tables_are_cheap() -> None:
    m = Machine(ram=2048 * M)
    anon = m.mmap(0x7F0000000000, 1200 * M, "rw", "private")
    for i in range(600):
        m.load(anon + i * 2 * M)
    calls = 0
    view = TreeView(Scene(m, anon + 8 * M), "wide")
    real = view._look

    def counted(*args: int) -> object:
        nonlocal calls
        calls += 1
        return real(*args)

    view._look = counted  # type: ignore[method-assign, assignment]
    for i in range(view.cursor_index - 20, view.cursor_index + 20):
        view.row(i, 42)
    assert view.row_count > 500
    assert calls <= 40, "only the rows that are asked for look at entries"
    assert len(view.rows) < 1200


def test_a_big_branch_folds_and_is_counted() -> None:
    m = Machine(ram=2048 * M)
    anon = m.mmap(0x7F0000000000, 100 * M, "rw", "private")
    for i in range(50):
        m.load(anon + i * 2 * M)
    lines = text(TreeView(Scene(m, 0x1000), "narrow"))
    assert any("50 entries below" in line for line in lines)


def test_states_and_runs() -> None:
    m = Machine(ram=4 * M)
    mode = m.arena.mode
    values = np.array([0x80000000E0000237 + i * 4096 for i in range(8)], np.uint64)
    values[5] |= np.uint64(0x40)
    states = ent.states_of(values, m.frames, mode)
    assert states.tolist() == [ent.DEVICE] * 8
    assert ent.run_starts(values, states, values * np.uint64(0), mode) == [0, 5, 6]
    assert ent.entry_state(mode.mk_pte(1, 0x225), m.frames, mode) == "zero"
    assert ent.entry_state(mode.swp_entry(0, 9), m.frames, mode) == "swap"


@pytest.mark.parametrize(
    "entry", [0x80000000E0280237, 0x8000000001234867, 0xFFFFFEFFF8320, 0x07FFFFFFFFDB9602]
)
def test_words_name_every_set_bit(entry: int) -> None:
    mode = get_mode("x86-64-4l")
    words = ent.entry_words(entry)
    assert tuple(name for name, _ in words) == mode.decode(entry)
    assert all(sentence.endswith(".") and sentence[0].isupper() for _, sentence in words)


def test_a_huge_leaf(camera: Machine) -> None:
    slot = camera.arena.walk(camera.mm.pgd, FB + 8 * M)[-1]
    camera.journal.write(camera.arena, slot, 0x8000000007A008E7)
    view = TreeView(Scene(camera, FB + 8 * M + 4096), "narrow")
    assert words(view.row(view.cursor_index, 39)).rstrip() == " ►│ ├1bc 2M ■ 07a00 P W U · A D · X"


@pytest.mark.parametrize("seed", range(12))
def test_any_place_and_range(camera: Machine, seed: int) -> None:
    """Rows stay in order, and the cursor has the deepest row that holds it (or the one that was chosen)."""
    random = Random(seed)
    edges = [0, FB, FB + 8 * M, BAR, BAR + 0x10000, 0x555555554000, 0x555555758000, 0x7FFFFFFDE000, 1 << 47]

    def place() -> int:
        return max(
            0, random.choice(edges) + random.choice([-4096, -1, 0, 1, 4096, 0x1234, 2 * M, -2 * M, 512 * M])
        )

    state = TreeState()
    for _ in range(20):
        cursor, a, b = place(), place(), place()
        span = random.choice([None, Range(min(a, b), max(a, b), min(a, b)), Range(a, a + 3 * M, a)])
        layout = random.choice(["narrow", "wide"])
        view = TreeView(Scene(camera, cursor, span), layout, state)
        assert sum(line[1] == "►" for line in text(view, layout)) == 1
        starts = [row.start for row in view.rows]
        assert starts == sorted(starts)
        row = view.rows[view.cursor_index]
        assert row.start <= cursor < row.end
        holders = [r for i, r in enumerate(view.rows) if r.start <= cursor < r.end and view.can_stand(i)]
        chosen = view.key_of(view.cursor_index) == view.focus
        assert chosen or row.depth == max(r.depth for r in holders) or row.kind == "pt"
        move = random.choice([view.fold, view.unfold])
        state.focus = move(random.choice([i for i in range(view.row_count) if view.can_stand(i)]))
