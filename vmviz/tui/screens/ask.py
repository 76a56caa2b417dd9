"""Questions that the app asks before it does something that cannot be taken back."""

from __future__ import annotations

from ...session.session import Done
from ...views.cells import Line
from ...views.help import wrap
from ...views.log import short
from .text import TextScreen

SHOWN = 5
"""Statements that are listed; the others are counted."""


class AskScreen(TextScreen):
    """A question with an answer per key; Esc leaves everything as it is (None)."""

    def __init__(self, title: str, about: list[Line], choices: list[tuple[str, str, str]]) -> None:
        lines: list[Line] = [[], *about, []]
        lines += [[(f"   {key:<6} ", "key"), (text, "key.text")] for key, _, text in choices]
        lines += [[("   Esc    ", "key"), ("leave all as it is", "key.text")], []]
        answers = {key.lower(): answer for key, answer, _ in choices}
        super().__init__(title, lines, answers, right="")


def ask_inside(statement: str) -> AskScreen:
    """What to do with the statement that is under way: "finish" it or take it "back"."""
    about = wrap(f"{short(statement)} is under way; another statement begins where one ends.", 76)
    return AskScreen(
        "First this one",
        about,
        [("Enter", "finish", "play it to its end, then go on"), ("u", "back", "take it back, then go on")],
    )


def ask_lost(lost: list[Done], story: int) -> AskScreen:
    """Whether statements of the user's that lie after the position may be dropped ("run")."""
    n = len(lost)
    about = wrap(
        f"A statement run here begins another future. {n} later statement{'s' if n > 1 else ''} of yours "
        f"will be "
        f"dropped{f'; {story} of the story will be to come again' if story else ''}:",
        76,
    )
    about += [[("     ", "text"), (short(d.outcome.text), "call")] for d in lost[:SHOWN]]
    if n > SHOWN:
        about.append([(f"     and {n - SHOWN} more", "dim")])
    return AskScreen("This drops what came after", about, [("Enter", "run", "run it and drop them")])
