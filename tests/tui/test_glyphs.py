"""Glyphs: one column each, in old fonts too, and an ASCII twin of equal width."""

from __future__ import annotations

import pytest
from wcwidth import wcwidth

from vmviz.tui.glyphs import ASCII_OF, REPLACEMENT, ascii_wanted, clean, to_ascii

# The glyphs that code page 437 keeps at 0x01..0x1f, where Python's codec sees control characters.
CP437_LOW = "☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
EMOJI = "▶◀▪▫↔↕♦♥♣♠☺"
SCREEN = "─│├└═▀▄█▬►■◊○×·…→"


def has(glyph: str, code_page: str) -> bool:
    try:
        glyph.encode(code_page)
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("glyph", ASCII_OF)
def test_a_glyph_is_one_column_wide_and_in_an_old_code_page(glyph: str) -> None:
    assert wcwidth(glyph) == 1
    assert glyph in CP437_LOW or any(has(glyph, page) for page in ("cp437", "cp1252", "mac_roman"))
    assert glyph not in EMOJI


@pytest.mark.parametrize("glyph", ASCII_OF)
def test_its_twin_is_one_printable_ascii_character(glyph: str) -> None:
    twin = to_ascii(glyph)
    assert len(twin) == 1
    assert " " < twin < "\x7f"
    assert twin != REPLACEMENT


def test_the_glyphs_of_the_screens_are_there() -> None:
    assert set(SCREEN) <= set(ASCII_OF)


def test_states_and_marks_stay_apart_in_ascii() -> None:
    states = to_ascii("■◊○×·")
    assert states == "RDox."
    marks = to_ascii("█▄▀▬►")
    assert marks == "#,'->"
    # The frame map writes its states beside the letters T a f, and the range mark beside "!".
    assert len(set(states + marks + "Taf!")) == 14


@pytest.mark.parametrize(
    ("unicode", "ascii_"),
    [
        ("══ VMAs ═══ 5 ═│── Page tables ──", "== VMAs === 5 =|-- Page tables --"),
        ("▬►7ffff7000000    8M rw-s PF /dev/fb0", "->7ffff7000000    8M rw-s PF /dev/fb0"),
        ("█►│ │ 080 ◊ e0280 P W U C A · S X", "#>| | 080 D e0280 P W U C A . S X"),
        ("▀ │ ├1b9 PT 0101d ××××◊◊◊◊·■", "' | +1b9 PT 0101d xxxxDDDD.R"),
        ("plain", "plain"),
        ("", ""),
        ("tab\there 日本 é", "tab?here ?? ?"),
    ],
)
def test_ascii_text(unicode: str, ascii_: str) -> None:
    assert to_ascii(unicode) == ascii_
    assert len(unicode) == len(ascii_)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("│◊ é ü ÿ", "│◊ é ü ÿ"),
        ("a\x1b[31mb", "a?[31mb"),
        ("a\nb\tc\x7fd\x9be", "a?b?c?d?e"),
        ("日本", "??"),
        ("e\u0301", "e?"),
        ("\u202egnp.exe", "?gnp.exe"),
        ("\u200bz", "?z"),
        ("\ud800", "?"),
        ("", ""),
    ],
)
def test_foreign_text_cannot_break_columns_or_steer_the_terminal(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert len(clean(text)) == len(text)


@pytest.mark.parametrize(
    ("env", "encoding", "term", "wanted"),
    [
        ({"LANG": "en_GB.UTF-8"}, "utf-8", "xterm-256color", False),
        ({"LANG": "en_GB.utf8"}, "UTF-8", "tmux-256color", False),
        ({}, "utf-8", "xterm", False),
        ({"LANG": "C"}, "utf-8", "xterm", False),
        ({"LANG": "C.UTF-8"}, "utf-8", "xterm", False),
        ({"LANG": "en_GB.UTF-8"}, "utf-8", "linux", True),
        ({"LANG": "en_GB.UTF-8"}, "utf-8", "dumb", True),
        ({"LANG": "en_GB.UTF-8"}, "ascii", "xterm", True),
        ({"LANG": "de_DE.ISO-8859-1"}, "utf-8", "xterm", True),
        ({"LANG": "ja_JP.UTF-8"}, "utf-8", "xterm", True),
        ({"LANG": "zh_CN.UTF-8"}, "utf-8", "xterm", True),
        ({"LANG": "ko_KR.UTF-8@x"}, "utf-8", "xterm", True),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "en_US.UTF-8"}, "utf-8", "xterm", False),
        ({"LANG": "en_US.UTF-8", "LC_CTYPE": "zh_TW.UTF-8"}, "utf-8", "xterm", True),
        ({"LANG": "en_GB.UTF-8", "VMVIZ_ASCII": "1"}, "utf-8", "xterm", True),
        ({"LANG": "ja_JP.UTF-8", "VMVIZ_ASCII": "0"}, "utf-8", "xterm", False),
        ({"LANG": "ja_JP.UTF-8", "VMVIZ_ASCII": ""}, "utf-8", "xterm", True),
    ],
)
def test_when_a_session_starts_in_ascii(env: dict[str, str], encoding: str, term: str, wanted: bool) -> None:
    assert ascii_wanted(env, encoding, term) is wanted
