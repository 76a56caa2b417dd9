"""Words and cells of the frame map: its legend, headings, and runs of alike cells."""

from __future__ import annotations

from .cells import Cell, Line

_WORDS = (
    "T table  a anon  f file  · free",
    "◊ device, mapped   ○ not mapped",
    "× just unmapped",
)
_ROLE_OF = {
    "T": "table",
    "a": "anon",
    "f": "file",
    "·": "free",
    "◊": "device",
    "○": "unmapped",
    "×": "cleared",
}


def joined(cells: list[Cell]) -> Line:
    """Cells as a line, equal neighbours in one piece.

    >>> joined([("a", "anon"), ("a", "anon"), ("T", "table")])
    [('aa', 'anon'), ('T', 'table')]
    """
    line: Line = []
    last, run = "", ""
    for glyph, role in cells:
        if role == last:
            run += glyph
        else:
            if run:
                line.append((run, last))
            last, run = role, glyph
    if run:
        line.append((run, last))
    return line


def pages(n: int) -> str:
    """A count of pages in words."""
    return f"{n} page{'s' * (n != 1)}"


def spread(line: Line, width: int) -> Line:
    """A heading of two parts, the second one at the right of ``width`` columns less one."""
    room = width - 1 - sum(len(text) for text, _ in line)
    return [line[0], (" " * max(1, room), "text"), line[1]]


def _legend(text: str) -> Line:
    """A line of the legend, its glyphs in their roles."""
    return [(f" {word}", _ROLE_OF.get(word, "dim")) if word else (" ", "dim") for word in text.split(" ")]


LEGEND = [_legend(text) for text in _WORDS]
"""The lines below the map."""
