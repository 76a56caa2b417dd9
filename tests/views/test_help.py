"""Help: panes, what is under the cursor, calls, signals."""

from __future__ import annotations

import pytest

from vmviz.script.functions import FUNCTIONS
from vmviz.session.story import story_session
from vmviz.tui.director import Director
from vmviz.tui.keymap import KEYS
from vmviz.views.cells import Line, plain, width
from vmviz.views.help import PANES, call_help, key_help, pane_help, signal_screen, under_cursor

FB, HEAP = 0x7FFFF7000000, 0x555555758000


def text(lines: list[Line]) -> str:
    """The lines in one, blanks folded."""
    return " ".join(" ".join(plain(line) for line in lines).split())


def director(cursor: int) -> Director:
    """The story's set-up with the cursor somewhere."""
    d = Director(story_session())
    d.cursor = cursor
    return d


@pytest.mark.parametrize("pane", ["vmas", "tree", "frames", "log"])
def test_each_pane_is_explained(pane: str) -> None:
    title, lines = pane_help(director(FB).scene(), pane)
    assert title == PANES[pane][0]
    assert " ".join(PANES[pane][1].split()) in text(lines)
    for glyph in "█▄▀▬!►":
        assert glyph in text(lines)
    assert all(width(line) <= 77 for line in lines)


def test_the_panes_differ() -> None:
    assert len({about for about, _ in PANES.values()}) == len(PANES) == 4


@pytest.mark.parametrize(
    ("cursor", "words"),
    [
        (
            FB,
            ["Flags of /dev/fb0", "pf VM_PFNMAP", "io VM_IO", "Entry 0x80000000e0000237", "no fault handler"],
        ),
        (HEAP, ["Flags of [heap]", "rd VM_READ", "Entry 0x"]),
        (HEAP + (1 << 20), ["is not mapped by anybody: an access there is SIGSEGV, SEGV_MAPERR."]),
    ],
)
def test_what_is_under_the_cursor(cursor: int, words: list[str]) -> None:
    lines = under_cursor(director(cursor).scene(), 76)
    for word in words:
        assert word in text(lines)
    assert all(width(line) <= 76 for line in lines), [plain(x) for x in lines if width(x) > 76]


def test_calls_and_keys() -> None:
    calls = text(call_help())
    for function in FUNCTIONS.values():
        assert function.signature in calls
    keys = key_help([(k.shown, k.about) for k in KEYS])
    assert all(width(line) <= 77 for line in keys), "help is 77 columns wide"


@pytest.mark.parametrize(
    ("access", "title", "words"),
    [
        (
            "load(fb)",
            "SIGBUS BUS_ADRERR",
            ["camera dies by SIGBUS", "fb", "/dev/fb0", "no fault handler", "u take the access back"],
        ),
        ("load(0x1000)", "SIGSEGV SEGV_MAPERR", ["No mapping holds the address.", "0x1000"]),
        (
            "store(0x555555554000)",
            "SIGSEGV SEGV_ACCERR",
            ["does not allow this kind of access", "/usr/bin/camera"],
        ),
    ],
)
def test_the_screen_of_a_signal(access: str, title: str, words: list[str]) -> None:
    d = director(FB)
    d.instant = True
    d.run("zap_vma_ptes(vma(fb), fb, 4K)")
    outcome = d.run(access)
    shown, lines = signal_screen(d.scene(), outcome, "camera")
    assert shown == title
    for word in words:
        assert word in text(lines)
    assert all(width(line) <= 77 for line in lines)
