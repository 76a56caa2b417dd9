"""Styles: each role resolved to a `rich.style.Style` once, so that painting a line is a dictionary lookup.

Textual's Line API does not give segments the widget's background, so every style carries its own.  A row
variant ("cursor", "cursor.blur", "selected", "hover") lies between the theme's base and the role: a role with
a background of its own keeps it, every other one takes that of its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import count
from sys import intern
from typing import Any, Final

from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.color import Color
from textual.filter import LineFilter
from textual.strip import Strip

from vmviz.kernel.errors import VmvizError
from vmviz.tui.glyphs import clean, to_ascii
from vmviz.tui.themes import (
    DEFAULT_THEME,
    LIGHT_THEME,
    MONO_THEME,
    ROWS,
    Theme,
    available_themes,
    load_theme,
)
from vmviz.views.cells import Line, fit

_generations = count(1)
RESET: Final = "\x1b[0m"
"""The escape sequence behind each line."""


class StyleError(VmvizError):
    """A role or a row variant that does not exist: an error of the program, never of a theme."""


class StyleTable(dict[str, Style]):
    """Styles by role, with their escape sequences, and what a filter makes of them.

    An unknown role is an error that names the nearest one.
    """

    def __init__(self, styles: Mapping[str, Style]) -> None:
        super().__init__(styles)
        self._sgr: dict[int, dict[str, str]] = {}
        self._filtered: dict[tuple[int, Color], tuple[LineFilter, StyleTable]] = {}
        self.is_truecolor = all(_is_truecolor(style) for style in styles.values())

    def __missing__(self, role: str) -> Style:
        near = get_close_matches(role, list(self), n=1)
        raise StyleError(f"there is no role {role!r}" + (f"; did you mean {near[0]!r}?" if near else ""))

    def sgr(self, system: ColorSystem) -> dict[str, str]:
        """The sequence that begins each role's text, whatever was before it; equal ones are the same string."""
        found = self._sgr.get(system._value_)  # members of an Enum are hashed slowly
        if found is None:
            codes = {role: Strip.render_ansi(style, system) for role, style in self.items()}
            found = {role: intern(f"\x1b[0;{c}m" if c else RESET) for role, c in codes.items()}
            self._sgr[system._value_] = found
        return found

    def filtered(self, by: LineFilter, background: Color) -> StyleTable:
        """The styles as a filter leaves them; this very table where it changes none."""
        kept = self._filtered.get((id(by), background))
        if kept is None:
            segments = by.apply([Segment("x", style) for style in self.values()], background)
            styles = {
                role: segment.style or Style.null() for role, segment in zip(self, segments, strict=True)
            }
            kept = by, (self if styles == dict(self) else type(self)(styles))
            self._filtered[id(by), background] = kept
        return kept[1]


def _is_truecolor(style: Style) -> bool:
    colors = [color for color in (style.color, style.bgcolor) if color is not None]
    return not style.dim and all(color.triplet is not None for color in colors)


class StyleBook:
    """All styles of one theme: roles times row variants, resolved on first use of a variant.

    ``generation`` differs between any two books, so caches may use it as a key.

    >>> book = StyleBook(load_theme("vmviz-dark"))
    >>> book.style("device").bgcolor == book.theme.base.bgcolor
    True
    >>> book.style("device", "cursor").bgcolor == book.theme.base.bgcolor
    False
    """

    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self.generation = next(_generations)
        self._tables: dict[str, StyleTable] = {}

    def table(self, variant: str = "") -> StyleTable:
        """The styles of all roles on rows of this variant; raises `StyleError`."""
        found = self._tables.get(variant)
        if found is None:
            found = self._tables[variant] = self._resolve(variant)
        return found

    def style(self, role: str, variant: str = "") -> Style:
        """The style of one role on a row of this variant; raises `StyleError`."""
        return self.table(variant)[role]

    def _resolve(self, variant: str) -> StyleTable:
        ground = self.theme.base
        if variant:
            if variant not in ROWS:
                near = get_close_matches(variant, ROWS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise StyleError(f"there is no row variant {variant!r}{hint}")
            ground += self.theme.rows[variant]
        return StyleTable({role: ground + style for role, style in self.theme.roles.items()})


def rule_line(width: int, title: str, right: str = "", *, focus: bool = False, alert: bool = False) -> Line:
    """A rule of ``width`` columns with a title and a word at its right; double with ``focus`` or ``alert``.

    Where the width does not hold both, the word at the right goes first.

    >>> from vmviz.views.cells import plain
    >>> plain(rule_line(20, "VMAs", "5")), plain(rule_line(12, "Why", alert=True))
    ('── VMAs ──────── 5 ─', '══ Why ═════')
    """
    glyph = "═" if focus or alert else "─"
    rule = "rule.alert" if alert else "rule.focus" if focus else "rule"
    words = "title.focus" if focus or alert else "title"
    left = f" {title} " if title else ""
    right = f" {right} " if right else ""
    fill = width - 3 - len(left) - len(right)
    if not right or fill < 1:
        cells = [(glyph * 2, rule), (left, words), (glyph * (width - 2 - len(left)), rule)]
    else:
        cells = [(glyph * 2, rule), (left, words), (glyph * fill, rule), (right, words), (glyph, rule)]
    return fit([cell for cell in cells if cell[0]], width)


def line_segments(
    line: Line, columns: int, styles: Mapping[str, Style], plain: bool = False
) -> list[Segment]:
    """The line as segments of exactly ``columns`` columns, neighbours of one style in one segment.

    ``styles`` is a `StyleBook.table`, ``plain`` asks for the ASCII set; an unknown role raises `StyleError`.

    >>> line = [("◊", "device"), ("×", "cleared"), ("×", "cleared")]
    >>> [segment.text for segment in line_segments(line, 5, book().table())]
    ['◊', '××', '  ']
    """
    make = to_ascii if plain else clean
    out: list[Segment] = []
    texts: list[str] = []
    last = blank = styles["text"]
    left = columns
    for text, role in line:
        if left <= 0:
            break
        if not text:
            continue
        style = styles[role]
        if texts and style is not last and style != last:
            out.append(Segment("".join(texts), last))
            texts = []
        last = style
        texts.append(make(text[:left]))
        left -= len(texts[-1])
    if left > 0:
        if texts and blank != last:
            out.append(Segment("".join(texts), last))
            texts = []
        texts.append(" " * left)
        last = blank
    if texts:
        out.append(Segment("".join(texts), last))
    return out


_books: Final[dict[str, StyleBook]] = {}


def book(name: str = DEFAULT_THEME) -> StyleBook:
    """The style book of a theme, made once; raises `ThemeError`.

    >>> book("vmviz-mono") is book("vmviz-mono")
    True
    """
    found = _books.get(name)
    if found is None:
        found = _books[name] = StyleBook(load_theme(name))
    return found


def forget_books() -> None:
    """Read the theme files again when they are next asked for (a theme was edited)."""
    _books.clear()


def book_for(app: App[Any]) -> StyleBook:
    """The style book that fits the app's theme now.

    Under ``NO_COLOR`` it is the mono book.  A theme of Textual's own has no roles: it gets the book of the
    same brightness, and the mono book if it leaves colours to the terminal.
    """
    if app.no_color:
        return book(MONO_THEME)
    name = app.theme
    if name not in _books and name not in available_themes():
        current = app.current_theme
        name = MONO_THEME if current.ansi else DEFAULT_THEME if current.dark else LIGHT_THEME
    return book(name)
