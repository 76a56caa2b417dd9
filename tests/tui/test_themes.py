"""Themes: complete, readable, told apart by every kind of colour vision, and precise about what is wrong."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from rich.color import Color
from rich.style import Style
from textual.app import App

from vmviz.session import Session
from vmviz.tui import styles, themed, themes
from vmviz.tui.app import VmvizApp
from vmviz.tui.styles import StyleBook, StyleError, book, book_for, forget_books
from vmviz.tui.themes import ROWS, Theme, ThemeError, available_themes, load_theme, read_theme, to_textual
from vmviz.views.cells import ROLES

Rgb = tuple[float, float, float]

BUILTIN = ("vmviz-dark", "vmviz-contrast", "vmviz-light", "vmviz-mono")
COLOURED = ("vmviz-dark", "vmviz-contrast", "vmviz-light")
STATES = ("device", "anon", "file", "table", "cleared", "unmapped", "free")
# Lines that only separate, and what is off and may look so (WCAG exempts both).
NO_TEXT = {"rule", "rule.focus", "rule.alert", "tree", "bits.off", "key.off"}

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    "normal": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}
# CIE76 units: about 2.3 is just noticeable side by side, 18 is another colour even across the screen.
APART = 18.0


@pytest.fixture(autouse=True)
def _own_user_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(themes, "user_theme_directory", lambda: tmp_path / "themes")
    (tmp_path / "themes").mkdir()
    forget_books()


def linear(color: Color | None) -> Rgb:
    assert color is not None
    channels = [value / 255 for value in color.get_truecolor()]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels)
    return red, green, blue


def luminance(color: Color | None) -> float:
    red, green, blue = linear(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(style: Style) -> float:
    high, low = sorted((luminance(style.color), luminance(style.bgcolor)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def seen(rgb: Rgb, vision: str) -> Rgb:
    red, green, blue = (
        min(1.0, max(0.0, sum(a * b for a, b in zip(row, rgb, strict=True)))) for row in VISION[vision]
    )
    return red, green, blue


def lab(rgb: Rgb) -> Rgb:
    red, green, blue = rgb
    x = (0.4124564 * red + 0.3575761 * green + 0.1804375 * blue) / 0.95047
    y = 0.2126729 * red + 0.7151522 * green + 0.0721750 * blue
    z = (0.0193339 * red + 0.1191920 * green + 0.9503041 * blue) / 1.08883

    def f(t: float) -> float:
        return float(t ** (1 / 3)) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116

    return 116 * f(y) - 16, 500 * (f(x) - f(y)), 200 * (f(y) - f(z))


def distance(one: Style, other: Style, vision: str) -> float:
    a, b = (lab(seen(linear(style.color), vision)) for style in (one, other))
    return float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5)


def test_the_measures_themselves() -> None:
    assert contrast(Style(color="#000000", bgcolor="#ffffff")) == pytest.approx(21.0)
    assert contrast(Style(color="#767676", bgcolor="#ffffff")) == pytest.approx(4.54, abs=0.01)
    red, green = Style(color="#c06060"), Style(color="#808040")
    assert distance(red, green, "normal") > 2 * distance(red, green, "deuteranopia")


def test_the_four_themes_are_there_the_default_first() -> None:
    assert tuple(available_themes()) == BUILTIN
    assert [load_theme(name).dark for name in BUILTIN] == [True, True, False, True]


@pytest.mark.parametrize("name", BUILTIN)
def test_every_role_on_every_row_has_a_style_with_a_background(name: str) -> None:
    made = StyleBook(load_theme(name))
    for variant in ("", *ROWS):
        for role in ROLES:
            style = made.style(role, variant)
            assert style.color is not None, (role, variant)
            assert style.bgcolor is not None, (role, variant)


@pytest.mark.parametrize("name", COLOURED)
def test_text_is_readable(name: str) -> None:
    made = StyleBook(load_theme(name))
    for role in set(ROLES) - NO_TEXT:
        assert not made.style(role).dim, role
        assert contrast(made.style(role)) >= 4.5, role
        for variant in ROWS:
            assert contrast(made.style(role, variant)) >= 3.0, (role, variant)
    for role in NO_TEXT:
        assert contrast(made.style(role)) >= 1.8, role


@pytest.mark.parametrize("name", COLOURED)
def test_variants_of_a_row_can_be_seen(name: str) -> None:
    made = StyleBook(load_theme(name))
    grounds = [made.style("text", variant).bgcolor for variant in ("", *ROWS)]
    assert len(set(grounds)) == len(grounds)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("name", COLOURED)
def test_states_are_told_apart_by_colour_alone(name: str, vision: str) -> None:
    made = StyleBook(load_theme(name))
    for one, other in combinations(STATES, 2):
        assert distance(made.style(one), made.style(other), vision) >= APART, (one, other)


def test_mono_has_no_colour() -> None:
    made = StyleBook(load_theme("vmviz-mono"))
    for variant in ("", *ROWS):
        for role in ROLES:
            style = made.style(role, variant)
            assert style.color is not None
            assert style.color.is_default, role
            assert style.bgcolor is not None
            assert style.bgcolor.is_default, role
    assert made.style("text", "cursor").reverse
    # A reversed full block would look like no block at all.
    assert not made.style("mark.range", "cursor").reverse
    looks = {role: str(made.style(role)) for role in ("device", "unmapped", "free", "cleared", "fresh")}
    assert len(set(looks.values())) == len(looks)


@pytest.mark.parametrize("name", BUILTIN)
async def test_textual_takes_the_theme(name: str) -> None:
    app: App[None] = App()
    async with app.run_test(size=(20, 5)) as pilot:
        app.register_theme(to_textual(load_theme(name)))
        app.theme = name
        await pilot.pause()
        assert app.current_theme.dark is load_theme(name).dark
        assert book_for(app).theme.name == name


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [("nord", "vmviz-dark"), ("textual-light", "vmviz-light"), ("ansi-dark", "vmviz-mono")],
)
async def test_a_theme_of_textual_gets_the_book_that_fits(foreign: str, ours: str) -> None:
    app: App[None] = App()
    async with app.run_test(size=(20, 5)):
        app.theme = foreign
        assert book_for(app).theme.name == ours


async def test_no_color_means_mono(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app: App[None] = App()
    async with app.run_test(size=(20, 5)):
        app.register_theme(to_textual(load_theme("vmviz-dark")))
        app.theme = "vmviz-dark"
        assert book_for(app).theme.name == "vmviz-mono"


def test_books_are_made_once_until_forgotten() -> None:
    first = book("vmviz-dark")
    assert book("vmviz-dark") is first
    assert first.table("cursor") is first.table("cursor")
    forget_books()
    assert book("vmviz-dark").generation != first.generation


def test_unknown_roles_and_variants_are_named() -> None:
    made = StyleBook(load_theme("vmviz-dark"))
    with pytest.raises(StyleError, match="'devcie'; did you mean 'device'"):
        made.style("devcie")
    with pytest.raises(StyleError, match="'cursr'; did you mean 'cursor'"):
        made.table("cursr")


MINIMAL = """
name = "mine"
dark = true
[palette]
amber = "#ffb000"
[textual]
primary = "#112233"
foreground = "#eeeeee"
background = "#101010"
[roles]
text = "#eeeeee"
device = "bold amber on #202020"
title = "underline"
"""


def write(tmp_path: Path, text: str, name: str = "mine") -> Path:
    path = tmp_path / "themes" / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_theme_of_the_users_own(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    assert "mine" in available_themes()
    mine = load_theme("mine")
    assert mine.roles["device"] == Style(bold=True, color="#ffb000", bgcolor="#202020")
    assert mine.roles["anon"] == mine.roles["text"]
    assert mine.roles["title.focus"] == Style(underline=True)
    made = StyleBook(mine)
    assert made.style("device", "cursor").bgcolor == Color.parse("#202020")
    assert made.style("text", "cursor").reverse


def test_the_user_goes_before_the_built_in_and_may_build_upon_it(tmp_path: Path) -> None:
    changes = '[palette]\norange = "#ff0000"\n[roles]\nanon = "orange"\n'
    write(tmp_path, 'name = "vmviz-dark"\ninherits = "vmviz-dark"\n' + changes, "vmviz-dark")
    built_in = read_theme(themes.builtin_theme_directory() / "vmviz-dark.toml")
    mine = load_theme("vmviz-dark")
    assert mine.roles["anon"].color == mine.roles["device"].color == Color.parse("#ff0000")
    assert mine.roles["file"] == built_in.roles["file"]
    assert mine.rows == built_in.rows
    assert mine.variables["footer-key-foreground"] == "#ff0000"


@pytest.mark.parametrize(
    ("change", "key", "what", "nearest"),
    [
        (('device = "', 'devcie = "'), "roles.devcie", "no such name", "device"),
        (('title = "', '"title.foucs" = "'), "roles.title.foucs", "no such name", "title.focus"),
        (("bold amber", "blod amber"), "roles.device", "'blod' is no colour", "bold"),
        (("bold amber", "bold ambre"), "roles.device", "'ambre' is no colour", "amber"),
        (("bold amber on #202020", "bold amber on"), "roles.device", "after 'on'", ""),
        (("bold amber", "not blod amber"), "roles.device", "after 'not'", "bold"),
        (("bold amber", "amber #123456"), "roles.device", "second colour", ""),
        (('"bold amber on #202020"', "7"), "roles.device", "not 7", ""),
        (('text = "#eeeeee"\n', ""), "roles.text", "must be there", ""),
        (("dark = true", 'dark = "yes"'), "dark", "'yes'", ""),
        (("dark = true", "dark = true\ncolours = 3"), "colours", "no such key", ""),
        (("dark = true", "dark = true\nroels = 3"), "roels", "no such key", "roles"),
        (("dark = true", "dark = true\nrows = 3"), "rows", "a table", ""),
        (('name = "mine"', 'name = "yours"'), "name", "'mine'", ""),
        (('name = "mine"', ""), "name", "not None", ""),
        (('primary = "#112233"', 'primry = "#112233"'), "textual.primry", "no such colour", "primary"),
        (('primary = "#112233"', ""), "textual.primary", "must be there", ""),
        (('primary = "#112233"', 'primary = "#11223"'), "textual.primary", "no colour", ""),
        (("[roles]", "[rows]\ncursr = 'bold'\n[roles]"), "rows.cursr", "no such name", "cursor"),
        (
            ("[roles]", "[textual.variables]\nboder = '#112233'\n[roles]"),
            "textual.variables.boder",
            "no such",
            "border",
        ),
        (
            ("[roles]", "[textual.variables]\nborder = 'abmer'\n[roles]"),
            "textual.variables.border",
            "no colour",
            "amber",
        ),
        (('amber = "#ffb000"', 'bold = "#ffb000"'), "palette.bold", "has a meaning", ""),
        (("dark = true", 'dark = true\ninherits = "vmviz-drak"'), "inherits", "no theme", "vmviz-dark"),
        (("dark = true", 'dark = true\ninherits = "mine"'), "inherits", "no theme", ""),
        (("dark = true", "dark true"), "", "is not TOML", ""),
    ],
)
def test_errors_name_file_key_and_the_nearest_word(
    tmp_path: Path, change: tuple[str, str], key: str, what: str, nearest: str
) -> None:
    old, new = change
    assert old in MINIMAL
    path = write(tmp_path, MINIMAL.replace(old, new))
    with pytest.raises(ThemeError) as caught:
        load_theme("mine")
    error = caught.value
    assert (error.file, error.key) == (str(path), key)
    assert what in error.what
    if nearest:
        assert error.nearest == nearest
        assert str(error).endswith(f"did you mean {nearest!r}?")
    assert str(path) in str(error)


def test_two_themes_cannot_inherit_each_other(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL.replace("dark = true", 'inherits = "yours"'))
    write(tmp_path, 'name = "yours"\ninherits = "mine"\n', "yours")
    with pytest.raises(ThemeError, match="inherits this theme itself"):
        load_theme("mine")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ThemeError, match="cannot be read"):
        read_theme(tmp_path / "themes" / "none.toml")
    path = tmp_path / "themes" / "latin.toml"
    path.write_bytes(b'name = "\xe9"')
    with pytest.raises(ThemeError, match="is not TOML"):
        load_theme("latin")


def test_the_default_themes_of_the_program_exist() -> None:
    assert {themes.DEFAULT_THEME, themes.LIGHT_THEME, themes.MONO_THEME} <= set(available_themes())
    assert isinstance(styles.book().theme, Theme)


async def test_the_app_reads_the_theme_of_its_first_frame_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load(name: str) -> Theme:
        read.append(name)
        return load_theme(name)

    forget_books()
    for module in (themed, styles):
        monkeypatch.setattr(module, "load_theme", load)
    app = VmvizApp(Session(), theme="vmviz-light")
    parsed: list[object] = []
    monkeypatch.setattr(app, "refresh_css", lambda **how: parsed.append(how))
    async with app.run_test() as pilot:
        await pilot.pause()
        assert (app.theme, app.current_theme.dark, app.has_class("-light-mode")) == (
            "vmviz-light",
            False,
            True,
        )
        assert (read, parsed) == (["vmviz-light"], [])
        assert set(BUILTIN) < set(app.available_themes)
        assert sorted(read[1:]) == sorted(BUILTIN)


def test_an_unknown_theme_is_told_before_the_app_opens() -> None:
    with pytest.raises(ThemeError, match="did you mean 'vmviz-dark'"):
        VmvizApp(Session(), theme="vmviz-drak")
