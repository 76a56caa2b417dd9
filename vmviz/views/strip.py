"""What a strip is, and the words and paragraphs that all strips are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..kernel.value import Value
from .cells import Line, wrapped

if TYPE_CHECKING:
    from ..script.outcome import Outcome


@attrs.frozen(eq=False, repr=False)
class Strip(Value):
    """What the strip shows: its title, what stands at the right of the title, its lines, whether it wants attention.

    ``legal`` is the statement that Enter would run instead of a refused one, "" when there is none.
    ``footer`` takes the
    ruler's place where there is no room for it in the strip.
    """

    title: str
    right: str
    lines: list[Line]
    alert: bool = False
    legal: str = ""
    footer: Line | None = None


def call_text(o: Outcome) -> str:
    """The statement without its expectation, with its result.

    >>> from vmviz.script.outcome import Outcome
    >>> call_text(Outcome(0, 1, "munmap(fb, 4K)   = 0", ret=0))
    'munmap(fb, 4K) = 0'
    """
    text = " ".join(o.text.split())
    if not o.func and " = " in text:
        return text  # an assignment: its text says what came of it
    cut = text.rfind(") =")
    return f"{text[: cut + 1] if cut >= 0 else text} = {o.result}"


def paragraphs(width: int, height: int, *parts: tuple[str, str]) -> list[Line]:
    """Texts with their roles, wrapped to the width, one blank column at the left; cut to the height."""
    lines: list[Line] = []
    for text, role in parts:
        if not text:
            lines.append([])
            continue
        lines += [[(" " + row, role)] for row in wrapped(text, max(8, width - 2))]
    return lines[:height]


def whole(width: int, height: int, *parts: tuple[str, str]) -> list[Line]:
    """As `paragraphs`, but a text behind the first that does not fit wholly is left out."""
    lines: list[Line] = []
    for part in parts:
        more = paragraphs(width, 1000, part)
        if not lines or len(lines) + len(more) <= height:
            lines += more
    return lines[:height]


def plural(n: int, word: str) -> str:
    """A count with its word.

    >>> plural(1, "PTE"), plural(0, "PTE")
    ('1 PTE', '0 PTEs')
    """
    return f"{n} {word}{'' if n == 1 else 's'}"
