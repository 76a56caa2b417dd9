"""Glyphs: the Unicode set of the screen, its ASCII twin of equal width, and the cleaning of foreign text.

Every glyph of the Unicode set is one column wide, has no emoji form, and is in CP437, CP1252 or Mac Roman, so
that old and new fonts draw it.  Most of them are East Asian Ambiguous all the same: a CJK terminal may draw
them two columns wide, which is why `ascii_wanted` starts such a terminal with the ASCII set.

The model writes Unicode only; `to_ascii` translates at the last moment, glyph by glyph, so nothing moves.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Final

from rich.cells import cell_len

ASCII_OF: Final[Mapping[str, str]] = {
    # The states of an entry or a frame.
    "■": "R",  # a page of RAM
    "◊": "D",  # device memory, mapped
    "○": "o",  # device memory that no entry points to
    "×": "x",  # just cleared
    "·": ".",  # empty or free
    # The marks at the left of a row: the range, and the cursor.
    "█": "#",
    "▄": ",",
    "▀": "'",
    "▬": "-",
    "▌": "#",
    "▐": "#",
    "►": ">",
    "◄": "<",
    "▲": "^",
    "▼": "v",
    # Rules, trees and frames.
    "─": "-",
    "│": "|",
    "├": "+",
    "└": "`",
    "┌": ".",
    "┐": ".",
    "┘": "'",
    "┤": "+",
    "┬": "+",
    "┴": "+",
    "┼": "+",
    "═": "=",
    "║": "#",
    "╞": "+",
    "╡": "+",
    "╪": "+",
    "╔": "+",
    "╗": "+",
    "╚": "+",
    "╝": "+",
    # Densities of a frame map, when a cell stands for many frames.
    "░": ":",
    "▒": "%",
    "▓": "&",
    # Words.
    "…": "~",
    "→": ">",
    "←": "<",
    "↑": "^",
    "↓": "v",
    "•": "*",
    "°": "o",
    "±": "~",
    "≤": "<",
    "≥": ">",
    "≈": "~",
    "∞": "~",
    "µ": "u",
    "–": "-",
    "—": "-",
    "«": "<",
    "»": ">",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}
"""Every glyph of the Unicode set with the ASCII character that stands for it."""

REPLACEMENT: Final = "?"
"""What stands for a character that would break the columns or steer the terminal."""

CJK_LANGUAGES: Final = ("ja", "ko", "zh")
"""Languages whose terminals may draw ambiguous glyphs two columns wide."""

ASCII_TERMS: Final = frozenset({"linux", "dumb", "vt52", "vt100", "vt102", "vt220"})
"""Terminals whose fonts lack the glyphs: the Linux console has 256 or 512 of them."""


class _Cleaning(dict[int, str]):
    """A `str.translate` table that judges each character once."""

    def __init__(self, known: Mapping[str, str], foreign: bool) -> None:
        super().__init__({ord(glyph): plain for glyph, plain in known.items()})
        self._foreign = foreign

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if code < 127:
            fine = code >= 32
        else:
            # Combining marks have no column of their own, format characters may turn the text round.
            fine = self._foreign and cell_len(char) == 1 and unicodedata.category(char)[0] not in "CMZ"
        out = self[code] = char if fine else REPLACEMENT
        return out


_TO_UNICODE = _Cleaning({glyph: glyph for glyph in ASCII_OF}, foreign=True)
_TO_ASCII = _Cleaning(ASCII_OF, foreign=False)


def clean(text: str) -> str:
    """The text with one column per character and nothing that steers the terminal.

    File names of real processes may hold anything: escape sequences, wide and combining characters.  Each
    such character becomes `REPLACEMENT`; the length never changes.

    >>> clean("/tmp/a\\x1b[2J│◊"), clean("/srv/写")
    ('/tmp/a?[2J│◊', '/srv/?')
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_TO_UNICODE)


def to_ascii(text: str) -> str:
    """The text in printable ASCII, character by character; any other character becomes `REPLACEMENT`.

    >>> to_ascii("├1b8 PT 0101c ◊◊××··"), to_ascii("▬►7ffff7000000 é")
    ('+1b8 PT 0101c DDxx..', '->7ffff7000000 ?')
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_TO_ASCII)


def ascii_wanted(env: Mapping[str, str], encoding: str, term: str) -> bool:
    """Whether a session starts with the ASCII set.

    ``env`` is the environment, ``encoding`` that of the output stream, ``term`` the terminal's name
    (``TERM``). ``VMVIZ_ASCII`` decides if it is set ("0", "no", "false" and "off" mean Unicode, anything else
    ASCII); else a CJK locale, a terminal without the glyphs, or an encoding or locale that is not UTF-8 asks for ASCII.

    >>> ascii_wanted({"LANG": "de_DE.UTF-8"}, "utf-8", "xterm-256color")
    False
    >>> ascii_wanted({"LANG": "ja_JP.UTF-8"}, "utf-8", "xterm-256color")
    True
    """
    forced = env.get("VMVIZ_ASCII", "").strip().lower()
    if forced:
        return forced not in {"0", "no", "false", "off"}
    if term in ASCII_TERMS:
        return True
    if encoding.lower().replace("-", "").replace("_", "") not in {"utf8", "utf8sig"}:
        return True
    locale = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    # "ja_JP.UTF-8@mod": a language, a country, a code set, a modifier.
    language, _, code_set = locale.partition("@")[0].partition(".")
    if language.split("_")[0].lower() in CJK_LANGUAGES:
        return True
    return bool(code_set) and code_set.lower().replace("-", "") != "utf8"


CLEAN: Final[tuple[dict[str, int], dict[str, int]]] = ({}, {})
"""The lengths of texts that `clean` and `to_ascii` leave alone: most cells are of a few kinds, shown over and over."""
_MOST_KNOWN = 8192


def cleaned(text: str, plain: bool) -> str:
    """The text as the terminal may have it, ``plain``: in ASCII; from then on it is known in `CLEAN`."""
    known, made = CLEAN[plain], to_ascii(text) if plain else clean(text)
    if len(known) >= _MOST_KNOWN:
        known.clear()
    known[made] = len(made)
    return made
