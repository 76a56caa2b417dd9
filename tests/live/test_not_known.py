"""What an imported process does not tell is said, never made up: hidden frame numbers, contents, fault handlers."""

import json

import pytest

from tests.live.test_load import BASE, EXCLUSIVE, FILE, PAGE, PF, PRESENT, RO, RW, image, vma
from vmviz.live import load_image, write_snapshot
from vmviz.live.pour import MAX_PFN
from vmviz.script.runner import Runner
from vmviz.script.state import state_json
from vmviz.session.story import live_session, missing_right_sentence
from vmviz.views.cells import plain
from vmviz.views.entries import HIDDEN
from vmviz.views.frames import FrameView
from vmviz.views.ruler import ruler
from vmviz.views.scene import Scene
from vmviz.views.trail import Trail
from vmviz.views.tree import TreeView
from vmviz.views.vmas import VmaView

RIGHT = "CAP_SYS_ADMIN in the first user namespace (without it nothing is seen)"
INVENTED = "10000"
"""The first digits of the numbers that stand for hidden frames."""


def picture(*, visible=False, first=0x5000):
    vmas = [
        vma(BASE, 4, RW, "[heap]"),
        vma(BASE + 8 * PAGE, 2, RO, "/bin/a", 7),
        vma(BASE + 16 * PAGE, 2, PF, "[vvar]"),
    ]
    anon = [(BASE + i * PAGE, PRESENT | EXCLUSIVE, first + i, 0, 0) for i in range(3)]
    file = [(BASE + 8 * PAGE, PRESENT | FILE, first + 9, 0, 0)]
    return image(vmas, anon + file, visible=visible, missing_right="" if visible else RIGHT)


@pytest.fixture
def hidden():
    return load_image(picture())


def rows(view, width):
    return [plain(view.row(i, width)).rstrip() for i in range(view.row_count)]


@pytest.mark.parametrize("layout", ["narrow", "wide"])
def test_the_views_show_no_made_up_numbers(hidden, layout):
    m = hidden
    scene = Scene(m, cursor=BASE + PAGE)
    tree = rows(TreeView(scene, layout), 60)
    assert any(HIDDEN in line for line in tree)
    frames = rows(FrameView(scene, layout), 33 if layout == "wide" else 40)
    words = "\n".join(frames)
    assert "frame numbers are hidden:\n CAP_SYS_ADMIN is missing\n 4 pages with a hidden number" in words
    assert "zone" not in words
    if layout == "wide":
        assert " frame hidden: anon" in frames
    wide, one = ruler(scene, 140), ruler(scene, 80)
    assert "pfn hidden" in plain(wide[1])
    assert plain(wide[1]).rstrip().endswith("pa --")
    assert plain(one[0]).rstrip().endswith("pa --")
    shown = "\n".join([*tree, words, plain(wide[1]), plain(one[0])])
    assert not [word for word in shown.split() if word.startswith(INVENTED)]


def test_a_cleared_entry_was_hidden_too_and_a_new_page_has_a_number(hidden):
    start = hidden.position
    hidden.munmap(BASE, PAGE)
    scene = Scene(hidden, cursor=BASE, trail=Trail(hidden, start, hidden.position))
    assert any(f"was {HIDDEN}" in line for line in rows(TreeView(scene, "wide"), 60))
    hidden.store(BASE + 3 * PAGE)
    tree = rows(TreeView(Scene(hidden, cursor=BASE + 2 * PAGE), "wide"), 60)
    mine = next(line for line in tree if "003 " in line and "■" in line)
    assert HIDDEN not in mine


def test_state_has_no_made_up_numbers(hidden):
    state = state_json(hidden)
    assert state["pfns_visible"] is False
    assert [(e["n"], e["pfn"], e["val"], e["hidden"]) for e in state["entries"]] == [
        (3, None, None, True),
        (1, None, None, True),
    ]
    seen = state_json(load_image(picture(visible=True)))
    assert seen["pfns_visible"] is True
    assert [(e["n"], e["pfn"]) for e in seen["entries"]] == [(3, "0x5000"), (1, "0x5009")]
    assert "hidden" not in seen["entries"][0]


def test_numbers_that_cannot_be_kept_are_hidden_with_another_reason():
    m = load_image(picture(visible=True, first=MAX_PFN))
    words = "\n".join(rows(FrameView(Scene(m, cursor=BASE), "wide"), 33))
    assert "CAP_SYS_ADMIN" not in words
    assert "more than vmviz keeps" in words
    assert not m.pfns_visible


def test_the_remark_is_a_sentence(hidden):
    said = live_session(hidden, hidden.image).remarks[0]
    assert said == f"Frame numbers are hidden: the right {RIGHT} is missing"
    assert missing_right_sentence(picture(visible=True)) == ""


def test_contents_are_not_known_until_written(hidden):
    r = Runner(hidden)
    load = r.run_text(f"load({BASE:#x})")
    why = "what the page holds was not read: vmviz imports no contents"
    assert (load.data, load.why) == (None, why)
    told = load.to_json()
    assert (told["data"], told["why"]) == (None, why)
    assert hidden.load(BASE, 3 * PAGE).data is None
    assert r.run_text(f"load({BASE:#x}, 12K)").to_json()["data"] is None
    r.run_text(f'store({BASE:#x}, "hello")')
    assert r.run_text(f"load({BASE:#x}, 5)").data == b"hello"
    assert hidden.load(BASE + 1, 4).data == b"ello"
    assert r.run_text(f"load({BASE:#x}, 6)").data is None, "the sixth byte is still unknown"
    hidden.fork()
    hidden.store(BASE, b"J")
    assert (hidden.load(BASE, 5).data, hidden.load(BASE, 6).data) == (b"Jello", None), (
        "a copy keeps what is known"
    )
    assert hidden.load(BASE + 3 * PAGE).data == b"\0", "new anonymous memory is zeros"


def test_a_store_is_taken_back_to_the_unknown(hidden):
    before = hidden.digest()
    base = hidden.position
    hidden.store(BASE, b"x")
    assert hidden.digest() != before
    hidden.journal.seek(base)
    hidden.journal.truncate()
    assert (hidden.digest(), hidden.load(BASE).data) == (before, None)


def test_nothing_is_said_of_an_imported_fault_handler(hidden):
    at = BASE + 16 * PAGE
    assert hidden.zap_vma_ptes(hidden.vma(at), at, PAGE).ptes_unknown == 1
    why = "already empty; what its driver would do on a touch is unknown (imported process)"
    assert hidden.zap_vma_ptes(hidden.vma(at), at, PAGE).why_nothing == why


def test_the_details_of_an_imported_vma(hidden):
    text = " ".join(" ".join(rows(VmaView(Scene(hidden, cursor=BASE), "wide"), 60)).split())
    assert "a touch of an empty entry finds zeros; what present pages hold is not known" in text


def test_headless_commands_name_the_missing_right(tmp_path):
    from click.testing import CliRunner

    from vmviz.cli import main

    path, script = tmp_path / "a.vmsnap", tmp_path / "a.vmv"
    write_snapshot(picture(), path)
    script.write_text(f"load({BASE:#x})\n")
    done = CliRunner().invoke(main, ["run", str(script), "--base", str(path), "--json", "--state"])
    assert f"{path}: missing right: {RIGHT}" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["data"] is None
    assert lines[-1]["state"]["pfns_visible"] is False
    text = CliRunner().invoke(main, ["run", str(script), "--base", str(path), "--state"]).stdout
    assert "3 x pfn hidden" in text
    script.write_text(f"munmap({BASE:#x}, 4K)\n")
    text = CliRunner().invoke(main, ["run", str(script), "--base", str(path), "--trace"]).stdout
    assert "1 PTE cleared" in text
    assert "pfn=0x" not in text


def test_a_snapshot_says_which_right_is_missing(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from vmviz.cli import main

    monkeypatch.setattr("vmviz.live.read_process", lambda pid: picture())
    done = CliRunner().invoke(main, ["snapshot", "77", "-o", str(tmp_path / "a.vmsnap")])
    assert done.stderr == f"vmviz: missing right: {RIGHT}\n"
    assert "3 VMAs, 4 pages" in done.stdout


@pytest.mark.parametrize("pfn", [1 << 24, 0x2000005, MAX_PFN - 5])
def test_frames_above_64_gib_keep_their_numbers(pfn):
    """A real machine may have more RAM than a simulated one can be asked for."""
    m = load_image(picture(visible=True, first=pfn - 9))
    assert (m.frames.own_pfns, m.frames.nr_frames > pfn, m.mm.rss) == (range(0), True, 4)
    entry = m.arena.entry_at(m.mm.pgd, BASE + PAGE)
    m.madvise(BASE, 2 * PAGE, 4)
    assert (m.mm.rss, m.arena.entry_at(m.mm.pgd, BASE + PAGE)) == (2, 0)
    m.journal.seek((0, 0))
    assert (m.mm.rss, m.arena.entry_at(m.mm.pgd, BASE + PAGE)) == (4, entry)
