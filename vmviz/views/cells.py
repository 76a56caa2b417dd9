"""Cells: what a view gives to a screen, without knowing which screen it is.

A line is a list of ``(text, role)`` pairs.  A role names what the text *is* ("device", "cleared", "addr"), never how it
looks: themes give each role a colour and a weight, the glyph and the word carry the meaning without them.
"""

from __future__ import annotations

import textwrap
from functools import lru_cache

Cell = tuple[str, str]
Line = list[Cell]

ROLES: dict[str, str] = {
    "text": "plain words",
    "dim": "what is there but not asked for",
    "label": "names of fields",
    "title": "the title of a pane",
    "title.focus": "the title of the pane that has the keys",
    "rule": "the lines between panes",
    "rule.focus": "the line of the pane that has the keys",
    "rule.alert": "the line of a strip that wants attention",
    "addr": "addresses",
    "size": "sizes",
    "perms": "rwx permissions",
    "flag": "a VMA flag that is set",
    "flag.pf": "VM_PFNMAP, the flag that zap_vma_ptes asks for",
    "flag.gone": "a flag that this operation took away",
    "name": "the name of a mapping",
    "gap": "address space that nobody has mapped",
    "gap.hit": "a gap that the range falls into",
    "mark.range": "the range at the left of a row",
    "mark.cursor": "the cursor at the left of a row",
    "mark.outside": "the part of a range outside its VMA",
    "tree": "the branches of the page-table tree",
    "table": "page tables and their frames",
    "device": "device memory, mapped",
    "unmapped": "device memory that no entry points to",
    "anon": "anonymous pages",
    "file": "pages of files",
    "zero": "the shared zero page",
    "free": "free frames",
    "reserved": "frames that are not for processes",
    "other": "frames of others, of which nothing is known",
    "cleared": "an entry or frame that this operation cleared",
    "was": "what a cleared entry was",
    "fresh": "an entry or frame that this operation filled",
    "empty": "empty entries",
    "unknown": "entries that cannot be observed",
    "swap": "swapped out",
    "bits": "names of entry bits",
    "bits.off": "entry bits that are not set",
    "count": "counts",
    "boundary": "a border of 2 MiB or of a VMA",
    "pass": "a check that passed",
    "fail": "a check that failed",
    "skip": "a check that was not reached",
    "call": "statements and function names",
    "string": "strings in statements",
    "number": "numbers in statements",
    "comment": "comments in statements",
    "result": "what a statement returned",
    "pending": "statements to come",
    "now": "the statement that the position stands in",
    "key": "a key to press",
    "key.off": "a key that does nothing here",
    "key.text": "what the key does",
    "warn": "what a reader must not miss",
}
"""Every role with its meaning; a theme has a style for each."""


def width(line: Line) -> int:
    """The number of columns of a line (all glyphs of vmviz are one column wide).

    >>> width([("ab", "text"), ("c", "dim")])
    3
    """
    return sum(len(text) for text, _ in line)


def fit(line: Line, columns: int, role: str = "text") -> Line:
    """The line cut or padded to exactly ``columns``.

    >>> fit([("abc", "text")], 2), fit([("a", "dim")], 3)
    ([('ab', 'text')], [('a', 'dim'), ('  ', 'text')])
    """
    out: Line = []
    left = columns
    for text, r in line:
        if left <= 0:
            break
        cut = text[:left]
        if cut:
            out.append((cut, r))
            left -= len(cut)
    if left > 0:
        out.append((" " * left, role))
    return out


@lru_cache(512)
def wrapped(text: str, columns: int) -> tuple[str, ...]:
    """A text in rows of so many columns; kept, as the same words are shown with every move of the cursor.

    >>> wrapped("one two three", 8)
    ('one two', 'three')
    """
    return tuple(textwrap.wrap(text, columns))


def plain(line: Line) -> str:
    """The text of a line without its roles."""
    return "".join(text for text, _ in line)
