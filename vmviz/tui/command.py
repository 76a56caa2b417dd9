"""The command line: statements with history and completion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import Input

_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*$")


def completion(text: str, words: Iterable[str], history: Iterable[str]) -> str | None:
    """What the text may become: the latest statement of the history that begins so, else its last word completed.

    >>> completion("zap_v", ["zap_vma_ptes("], [])
    'zap_vma_ptes('
    """
    if not text.strip():
        return None
    for line in reversed(list(history)):
        if line.startswith(text) and line != text:
            return line
    found = _WORD.search(text)
    if not found:
        return None
    word = found.group()
    best = min(
        (w for w in words if w.startswith(word) and w != word), key=lambda w: (len(w), w), default=None
    )
    return text[: found.start()] + best if best else None


class _Completer(Suggester):
    def __init__(self, words: Callable[[], Iterable[str]], history: list[str]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._words = words
        self._history = history

    async def get_suggestion(self, value: str) -> str | None:
        return completion(value, self._words(), self._history)


class CommandLine(Input):
    """One line for a statement; up and down walk the history, right or tab takes the completion, Esc leaves."""

    DEFAULT_CSS = """
    CommandLine, CommandLine:focus {
        border: none;
        height: 1;
        padding: 0 0;
        background: $background;
        background-tint: transparent;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "history(-1)", "Older", show=False, id="command.older"),
        Binding("down", "history(1)", "Newer", show=False, id="command.newer"),
        Binding("tab", "complete", "Complete", show=False, id="command.complete"),
        Binding("escape", "leave", "Leave", show=False, id="command.leave"),
    ]

    class Left(Message):
        """The user left the command line: ``deliberate`` by Esc, else because the focus went elsewhere."""

        def __init__(self, deliberate: bool) -> None:
            super().__init__()
            self.deliberate = deliberate

    def __init__(self, words: Callable[[], Iterable[str]], *, id: str | None = None) -> None:
        self.history: list[str] = []
        self._at = 0
        super().__init__(
            placeholder="a statement, such as zap_vma_ptes(vma(fb), fb, 2M); Tab completes, Up: older ones",
            suggester=_Completer(words, self.history),
            id=id,
            compact=True,
            select_on_focus=True,  # what was left there is replaced by typing
        )
        self._words = words

    def remember(self, text: str) -> None:
        """Add a statement to the history."""
        if text and (not self.history or self.history[-1] != text):
            self.history.append(text)
        self._at = len(self.history)

    def action_history(self, step: int) -> None:
        """Show an older or newer statement."""
        self._at = min(max(0, self._at + step), len(self.history))
        self.value = self.history[self._at] if self._at < len(self.history) else ""
        self.cursor_position = len(self.value)

    def action_complete(self) -> None:
        """Take the completion; with nothing typed, go to the next pane."""
        if not self.value.strip():
            self.screen.focus_next()
            return
        text = completion(self.value, self._words(), self.history)
        if text is not None:
            self.value = text
            self.cursor_position = len(text)

    def action_leave(self) -> None:
        """Leave; the text stays for the next time."""
        self.post_message(self.Left(True))

    def on_blur(self, _event: events.Blur) -> None:
        """Left by the mouse or for a screen above: what was typed stays."""
        self.post_message(self.Left(False))
