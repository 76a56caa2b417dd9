"""Strips: widgets of a few lines that show what a view says and never scroll: status, why, keys."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from textual import events
from textual.message import Message
from textual.strip import Strip as TextStrip
from textual.widget import Widget

from ..views.cells import Line, fit, width
from ..views.strip import Strip
from .ansistrip import AnsiStrip, Look
from .directlines import DirectLines
from .keymap import bar, gap
from .styles import StyleBook, book_for, rule_line

NOTICE_ROWS = 2
"""Lines that a notice takes at most."""
_KEY_NAMES = {
    "Enter": "enter",
    "Esc": "escape",
    "Tab": "tab",
    "?": "question_mark",
    ",": "comma",
    ".": "full_stop",
}


def key_at(line: Line, x: int) -> str | None:
    """The key, by Textual's name, that a click on column ``x`` stands for: on a key or on the words behind it.

    >>> key_at([(" ^o", "key"), (" outwards", "key.text"), ("  ", "text")], 5)
    'ctrl+o'
    """
    at, key = 0, None
    for text, role in line:
        if role == "key":
            key = text.strip()
        elif role != "key.text":
            key = None
        at += len(text)
        if x < at:
            break
    else:
        return None
    if not key:
        return None
    return f"ctrl+{key[1:]}" if key.startswith("^") else _KEY_NAMES.get(key, key)


class LineStrip(DirectLines, Widget):
    """A widget that shows the lines it was given last; repaints only when they differ.  Keys in them can be clicked."""

    DEFAULT_CSS = "LineStrip { height: 1; background: $background; }"
    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Line] = []
        self._make: Callable[[int, int], list[Line]] | None = None
        self._book: StyleBook | None = None

    def show_lines(self, make: Callable[[int, int], list[Line]]) -> None:
        """Show what ``make(width, height)`` gives now."""
        self._make = make
        if self._again():
            self.refresh()

    def _again(self) -> bool:
        before = self._lines
        if self._make is not None and self.outer_size.width and self.outer_size.height:
            self._lines = self._make(self.outer_size.width, self.outer_size.height)
        return before != self._lines

    def on_resize(self) -> None:
        """The room changed: make the lines again."""
        self._again()
        self.refresh()

    def render_line(self, y: int) -> TextStrip:
        columns = self.outer_size.width
        if self._book is None:
            self._book = book_for(self.app)
        line = fit(self._lines[y], columns) if y < len(self._lines) else []
        plain = bool(getattr(self.app, "ascii_glyphs", False))
        return AnsiStrip(line, Look(columns, self._book.table(), plain))

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._book = None


def shorten(text: str, columns: int) -> str:
    """A statement with its result in so many columns: cut before the result, as that says most.

    >>> shorten("a = mmap(NULL, 8K, PROT_READ) = 0x7000", 24)
    'a = mmap(NUL... = 0x7000'
    """
    if len(text) <= columns:
        return text
    cut = text.rfind(" = ")
    tail = text[cut:] if cut >= 0 else ""
    return f"{text[: columns - len(tail) - 3]}...{tail}" if columns > len(tail) + 8 else ""


class WhyPane(LineStrip):
    """The why strip: a title rule, double when it wants attention, and the lines below it."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.strip: Strip | None = None

    def show(self, make: Callable[[int, int], Strip], right_rule: bool = False) -> None:
        """Show the strip that ``make(width, height)`` gives; height is that of the lines below the title."""

        def lines(columns: int, rows: int) -> list[Line]:
            room = columns - 1 if right_rule else columns
            s = make(room, rows - 1)
            self.strip = s
            title = rule_line(room, s.title, shorten(s.right, room - len(s.title) - 9), alert=s.alert)
            out = [title, *s.lines[: rows - 1]]
            if s.footer is not None and len(out) < rows:
                out.append(s.footer)
            if right_rule:
                out += [[] for _ in range(rows - len(out))]
                out = [[*fit(line, room), ("│", "rule")] for line in out]
            return out

        self.show_lines(lines)


class KeyBar(LineStrip):
    """The keys that do something now; a click on one is as good as pressing it."""

    class Pressed(Message):
        """A key of the bar was clicked: its action."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._spans: list[tuple[int, int, str]] = []
        self._now: tuple[str, Line] = "idle", []
        self.notice = ""
        """The notice that stands in the keys' place, "" when there is none."""

    def say(self, text: str, role: str, columns: int) -> int:
        """Show a notice in place of the keys; returns the lines it takes in so many columns."""
        self.notice = " ".join(text.split())
        self._spans = []

        def lines(columns: int, _rows: int) -> list[Line]:
            rows = textwrap.wrap(self.notice, max(8, columns - 2), max_lines=NOTICE_ROWS, placeholder=" ...")
            return [[(f" {row}", role)] for row in rows]

        self.show_lines(lines)
        return len(lines(columns, NOTICE_ROWS))

    def unsay(self) -> None:
        """Show the keys again."""
        self.notice = ""
        self.show_keys(*self._now)

    def show_keys(self, moment: str, lead: Line) -> None:
        """Show the keys of a moment behind some words, as many as fit; a notice keeps its place."""
        self._now = moment, lead
        if self.notice:
            return

        def lines(columns: int, _rows: int) -> list[Line]:
            line: Line = [(" ", "text"), *lead, *([("  ", "text")] if lead else [])]
            self._spans = []
            for key, word, action in bar(moment, columns - width(line) + 1):
                at = width(line)
                self._spans.append((at, at + len(key) + 1 + len(word), action))
                line += [(key, "key"), (" " + word, "key.text"), (" " * gap(columns), "text")]
            return [line]

        self.show_lines(lines)

    def on_click(self, event: events.Click) -> None:
        """Press the key under the mouse."""
        for start, end, action in self._spans:
            if start <= event.x < end:
                self.post_message(self.Pressed(action))
                return
