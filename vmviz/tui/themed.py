"""The app's themes: that of the first frame is there from the start, the others when somebody asks for them."""

from __future__ import annotations

import os
from typing import Any

from textual.app import App
from textual.reactive import Initialize, Reactive
from textual.theme import Theme

from .styles import book
from .themes import DEFAULT_THEME, MONO_THEME, available_themes, load_theme, to_textual


class Themed(App[None]):
    """The part of the app that knows themes.

    Textual makes its style sheets for the theme that it has when it starts.  One that is set later makes them, and
    the layout, a second time; so the theme that is wanted is the first one.
    """

    def _first_theme(self) -> str:
        return self._wanted_theme

    theme: Reactive[str] = Reactive(Initialize(_first_theme))

    def __init__(self, *, theme: str | None = None, **how: Any) -> None:
        """``theme`` by its name, else that of VMVIZ_THEME, else the usual one; raises `ThemeError`."""
        wanted = theme or os.environ.get("VMVIZ_THEME") or DEFAULT_THEME
        self._wanted_theme = MONO_THEME if "NO_COLOR" in os.environ else wanted
        self._first = to_textual(book(self._wanted_theme).theme)
        self._has_all = False
        super().__init__(**how)
        self.set_class(True, f"-theme-{self._first.name}", update=False)

    def get_theme(self, theme_name: str) -> Theme | None:
        """A theme by its name."""
        return self._first if theme_name == self._first.name else super().get_theme(theme_name)

    @property
    def available_themes(self) -> dict[str, Theme]:
        """All themes, those of Textual too; the first who asks has their files read."""
        if not self._has_all:
            self._has_all = True
            for name in available_themes():
                self.register_theme(to_textual(load_theme(name)))
        return super().available_themes
