"""Themes: validated files that say how each role of `vmviz.views.cells` looks.

A theme is a TOML file ``NAME.toml``::

    name = "night"
    description = "for a dark room"
    dark = true
    inherits = "vmviz-dark"           # optional: only the differences follow

    [palette]                         # names for colours, used below orange = "#e69f00"

    [textual]                         # the colours of Textual's own widgets primary = "orange"

    [textual.variables]               # optional: Textual's finer theme variables footer-key-foreground = "orange"

    [roles]                           # role = "attributes colour on colour"
    device = "bold orange"            # "not reverse" takes an attribute off that the row has

    [rows]                            # what a row adds: cursor, cursor.blur, selected, hover
    cursor = "on #22314a"

A role that is not given looks like the part before its last dot, at the end like ``text``.  The user's
directory (``themes`` in vmviz's configuration directory) goes before the themes that come with vmviz, name by name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Set
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final

import attrs
import platformdirs
from rich.color import Color, ColorParseError
from rich.style import Style
from textual.color import Color as TextualColor
from textual.color import ColorParseError as TextualColorError
from textual.theme import BUILTIN_THEMES
from textual.theme import Theme as TextualTheme

from vmviz.kernel.errors import VmvizError
from vmviz.kernel.value import Value
from vmviz.views.cells import ROLES

DEFAULT_THEME: Final = "vmviz-dark"
LIGHT_THEME: Final = "vmviz-light"
MONO_THEME: Final = "vmviz-mono"

ROWS: Final[Mapping[str, str]] = {
    "cursor": "the row of the cursor, in the pane that has the keys",
    "cursor.blur": "the row of the cursor, in another pane",
    "selected": "a row of the selected range",
    "hover": "the row under the mouse",
}
"""Every row variant with its meaning."""

_TOP_KEYS: Final = ("name", "description", "dark", "inherits", "palette", "textual", "roles", "rows")
_OWN_FIELDS: Final = {"name", "dark", "variables"}
_TEXTUAL_KEYS: Final = tuple(f.name for f in fields(TextualTheme) if f.name not in _OWN_FIELDS)
_ATTRIBUTES: Final = ("bold", "dim", "italic", "underline", "reverse", "strike")
_ATTRIBUTE_LIST: Final = ", ".join(_ATTRIBUTES)
_ANSI_VARIABLES: Final = {"ansi-background": "ansi_default", "ansi-foreground": "ansi_default"}
_PLAIN_COLOR = re.compile(r"#[0-9a-fA-F]{6}\Z")
_ANSI_COLOR = re.compile(r"ansi_[a-z_]+\Z")


class ThemeError(VmvizError):
    """A theme that cannot be used: the file, the key in it, what is wrong, and the nearest valid word."""

    def __init__(self, file: str, key: str, what: str, nearest: str = "") -> None:
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        super().__init__(": ".join(part for part in (file, key, what) if part) + hint)
        self.file = file
        self.key = key
        self.what = what
        self.nearest = nearest


@cache
def _variables() -> Set[str]:
    """The variables that Textual's style sheets know."""
    generated = TextualTheme("any", primary="#000000").to_color_system().generate()
    return {*generated, *(variable for theme in BUILTIN_THEMES.values() for variable in theme.variables)}


def _nearest(word: str, words: Collection[str]) -> str:
    return next(iter(get_close_matches(word, list(words), n=1, cutoff=0.5)), "")


@attrs.frozen(eq=False, repr=False)
class Theme(Value):
    """A theme, read and validated; ``roles`` has a style for every role, ``rows`` for every row variant."""

    name: str
    dark: bool
    description: str
    textual: Mapping[str, Any]
    variables: Mapping[str, str]
    roles: Mapping[str, Style]
    rows: Mapping[str, Style]
    file: Path

    @property
    def ansi(self) -> bool:
        """Whether the theme leaves all colours to the terminal."""
        return bool(self.textual.get("ansi", False))

    @property
    def base(self) -> Style:
        """The foreground and background that every style stands on (the terminal's own for an ANSI theme)."""
        if self.ansi:
            return Style(color="default", bgcolor="default")
        return Style(color=self.textual["foreground"], bgcolor=self.textual["background"])


@attrs.define(eq=False, repr=False)
class _Reader:
    """Reads one theme file (with what it inherits) and knows where an error is."""

    path: Path
    palette: dict[str, str]

    def fail(self, key: str, what: str, nearest: str = "") -> ThemeError:
        return ThemeError(str(self.path), key, what, nearest)

    def table(self, data: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = data.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(key, f"a table [{key}] was expected, not {value!r}")
        return value

    def text(self, value: object, key: str) -> str:
        if not isinstance(value, str):
            raise self.fail(key, f"a text in quotes was expected, not {value!r}")
        return value

    def color(self, word: str, key: str) -> str:
        """A colour of the palette, ``#rrggbb`` or ``default``, as Rich names it."""
        found = self.palette.get(word, word)
        if found == "default" or _PLAIN_COLOR.match(found):
            return found
        try:
            Color.parse(found)
        except ColorParseError:
            choice = [*self.palette, *_ATTRIBUTES, "default"]
            what = (
                f"{word!r} is no colour (#rrggbb, a name of [palette]) and no attribute ({_ATTRIBUTE_LIST})"
            )
            raise self.fail(key, what, _nearest(word, choice)) from None
        return found

    def style(self, value: object, key: str) -> Style:
        """A style of words: attributes (``not`` takes one off the row), a colour, ``on`` and a background."""
        given: dict[str, Any] = {}
        words = iter(self.text(value, key).split())
        for word in words:
            if word in _ATTRIBUTES:
                given[word] = True
            elif word == "not":
                after = next(words, None)
                if after not in _ATTRIBUTES:
                    what = f"an attribute ({_ATTRIBUTE_LIST}) was expected after 'not'"
                    raise self.fail(key, what, _nearest(after or "", _ATTRIBUTES))
                given[after] = False
            elif word == "on":
                after = next(words, None)
                if after is None:
                    raise self.fail(key, "a colour was expected after 'on'")
                given["bgcolor"] = self.color(after, key)
            elif "color" in given:
                raise self.fail(key, f"a second colour, {word!r}, after {given['color']!r}")
            elif word != "none":
                given["color"] = self.color(word, key)
        return Style(**given)

    def styles(self, data: Mapping[str, Any], key: str, valid: Mapping[str, str]) -> dict[str, Style]:
        out: dict[str, Style] = {}
        for name, value in _flat(self.table(data, key)):
            if name not in valid:
                raise self.fail(f"{key}.{name}", f"there is no such name in [{key}]", _nearest(name, valid))
            out[name] = self.style(value, f"{key}.{name}")
        return out


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of a table by dotted names: TOML reads a bare ``title.focus = ...`` as a table ``title``.

    TOML cannot hold both ``title`` and ``title.focus`` bare, so files quote the dotted ones; both spellings work.
    """
    out: list[tuple[str, Any]] = []
    for key, value in table.items():
        name = f"{prefix}{key}"
        out.extend(_flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)])
    return out


def user_theme_directory() -> Path:
    """Where the user's own themes are looked for (it need not exist)."""
    return platformdirs.user_config_path("vmviz") / "themes"


def builtin_theme_directory() -> Path:
    """Where the themes that come with vmviz are: in the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_data" / "themes"
    return inside if inside.is_dir() else package.parent / "themes"


def theme_directories() -> tuple[Path, ...]:
    """The directories of themes, the first one first."""
    return (user_theme_directory(), builtin_theme_directory())


def available_themes() -> dict[str, Path]:
    """The names of all themes with their files, sorted, the default first; nothing is read.

    >>> list(available_themes())[0]
    'vmviz-dark'
    """
    found: dict[str, Path] = {}
    for directory in theme_directories():
        for path in sorted(directory.glob("*.toml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items(), key=lambda item: (item[0] != DEFAULT_THEME, item[0])))


def load_theme(name: str) -> Theme:
    """The theme of this name; a `ThemeError` names the file, the key and the nearest valid word.

    >>> load_theme("vmviz-dark").dark
    True
    >>> load_theme("vmviz-drak")
    Traceback (most recent call last):
        ...
    vmviz.tui.themes.ThemeError: vmviz-drak: there is no such theme; did you mean 'vmviz-dark'?
    """
    themes = available_themes()
    if name not in themes:
        raise ThemeError(name, "", "there is no such theme", _nearest(name, themes))
    return read_theme(themes[name])


def read_theme(path: Path) -> Theme:
    """The theme in this file, with all that it inherits; raises `ThemeError`."""
    data = _merged(path, ())
    reader = _Reader(path, {})
    for key in data:
        if key not in _TOP_KEYS:
            raise reader.fail(key, "there is no such key", _nearest(key, _TOP_KEYS))
    name = reader.text(data.get("name"), "name")
    if name != path.stem:
        raise reader.fail("name", f"{name!r} is not the name of the file, {path.stem!r}")
    dark = data.get("dark")
    if not isinstance(dark, bool):
        raise reader.fail("dark", f"true or false was expected, not {dark!r}")
    for key, value in reader.table(data, "palette").items():
        if key in _ATTRIBUTES or key in {"on", "not", "none", "default"}:
            raise reader.fail(f"palette.{key}", "this word has a meaning in styles already")
        reader.palette[key] = reader.color(reader.text(value, f"palette.{key}"), f"palette.{key}")
    textual, variables = _textual(reader, reader.table(data, "textual"))
    given = reader.styles(data, "roles", ROLES)
    if "text" not in given:
        raise reader.fail("roles.text", "every other role falls back to this one, so it must be there")
    rows = reader.styles(data, "rows", ROWS)
    return Theme(
        name=name,
        dark=dark,
        description=reader.text(data.get("description", ""), "description"),
        textual=textual,
        variables=variables,
        roles={role: _inherited(given, role, given["text"]) for role in ROLES},
        rows={
            row: _inherited(rows, row, Style(reverse=True) if row == "cursor" else Style()) for row in ROWS
        },
        file=path,
    )


def _inherited(given: Mapping[str, Style], name: str, last: Style) -> Style:
    """The style of a dotted name: its own, else that of the part before the last dot, else ``last``."""
    while name not in given:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return last
    return given[name]


def _merged(path: Path, below: tuple[str, ...]) -> dict[str, Any]:
    """The tables of a file over the tables of the theme that it inherits."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ThemeError(str(path), "", f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ThemeError(str(path), "", f"is not TOML: {error}") from error
    parent = data.get("inherits")
    if parent is None:
        return data
    themes = available_themes()
    # A user's theme may carry the name of a built-in one and build upon it.
    target = builtin_theme_directory() / f"{parent}.toml" if parent == path.stem else themes.get(str(parent))
    if target is None or not target.is_file():
        raise ThemeError(
            str(path), "inherits", f"there is no theme {parent!r}", _nearest(str(parent), themes)
        )
    if str(target) in below or target == path:
        raise ThemeError(str(path), "inherits", f"{parent!r} inherits this theme itself")
    base = _merged(target, (*below, str(path)))
    for key in ("name", "description", "inherits"):
        base.pop(key, None)
    for key, value in data.items():
        old = base.get(key)
        if key in {"roles", "rows"} and isinstance(value, dict) and isinstance(old, dict):
            base[key] = {**dict(_flat(old)), **dict(_flat(value))}
        elif isinstance(value, dict) and isinstance(old, dict):
            variables = {**old.get("variables", {}), **value.get("variables", {})}
            base[key] = {**old, **value, **({"variables": variables} if variables else {})}
        else:
            base[key] = value
    return base


def _textual(reader: _Reader, table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields and the finer variables of Textual's theme, colours looked up in the palette."""
    out: dict[str, Any] = {}
    for key, value in table.items():
        where = f"textual.{key}"
        if key == "variables":
            continue
        if key not in _TEXTUAL_KEYS:
            raise reader.fail(where, "Textual's themes have no such colour", _nearest(key, _TEXTUAL_KEYS))
        if key in {"ansi", "luminosity_spread", "text_alpha"}:
            if not isinstance(value, bool if key == "ansi" else int | float):
                raise reader.fail(where, f"{value!r} is of the wrong kind")
            out[key] = value
        elif isinstance(value, str) and _ANSI_COLOR.match(value):
            out[key] = value
        else:
            out[key] = reader.color(reader.text(value, where), where)
    for key in ("primary",) if out.get("ansi") else ("primary", "foreground", "background"):
        if key not in out:
            raise reader.fail(f"textual.{key}", "this colour must be there")
    variables: dict[str, str] = {}
    for key, value in reader.table(table, "variables").items():
        where = f"textual.variables.{key}"
        text = reader.text(value, where)
        text = variables[key] = reader.palette.get(text, text)
        if key not in _variables():
            raise reader.fail(where, "Textual has no such variable", _nearest(key, _variables()))
        if not key.endswith("-style"):
            # Textual would find out while it parses its style sheets, and end the app.
            try:
                TextualColor.parse(re.sub(r" [0-9.]+%$", "", text))
            except TextualColorError:
                raise reader.fail(where, f"{text!r} is no colour", _nearest(text, reader.palette)) from None
    return out, variables


def to_textual(theme: Theme) -> TextualTheme:
    """The theme as Textual's `App.register_theme` takes it.

    >>> to_textual(load_theme("vmviz-light")).dark
    False
    """
    # Textual's own style sheets refer to two variables that it does not derive for an ANSI theme.
    variables = {**(_ANSI_VARIABLES if theme.ansi else {}), **theme.variables}
    return TextualTheme(name=theme.name, dark=theme.dark, variables=variables, **dict(theme.textual))
