"""What the screens above the main one share: a box over the live panes, and lines from views in it."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

ResultType = TypeVar("ResultType")


class Overlay(ModalScreen[ResultType]):
    """A modal screen that leaves the panes behind it visible; Esc closes it with None."""

    DEFAULT_CSS = """
    Overlay { background: transparent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", show=False, id="overlay.close")
    ]

    _answered = False

    def on_mount(self) -> None:
        """The keys of the main screen do nothing while this one is open: its key bar shows none."""
        self._show_base()

    def on_unmount(self) -> None:
        """The keys are back, unless another screen is open."""
        self._show_base()

    def _show_base(self) -> None:
        show = getattr(self.app, "show", None)
        if show is not None:
            show()

    def action_close(self) -> None:
        """Close without a result."""
        self.answer(None)

    def answer(self, result: ResultType | None) -> None:
        """Close with a result; a second key in a hurry finds it closed, and is lost."""
        if self.is_current and not self._answered:
            self._answered = True
            self.dismiss(result)
