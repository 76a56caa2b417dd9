"""The error of the command language: where it is, what was expected, what stands there, what was meant."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Protocol

import attrs

from vmviz.kernel.errors import VmvizError
from vmviz.kernel.value import Value

WINDOW = 100
"""The most characters of a source line that a message shows; a longer line is cut around the error."""


class Positioned(Protocol):
    """Whatever has a place in a source text: every node of the syntax tree."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def end_column(self) -> int: ...


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Place(Value):
    """A place in a text: ``line`` and ``column`` from 1, ``end_column`` one past the last character."""

    line: int = 1
    column: int = 1
    end_column: int = 2


def any_of(words: tuple[str, ...]) -> str:
    """Join words as a choice.

    >>> any_of(("a number", "a name", "')'"))
    "a number, a name or ')'"
    """
    if len(words) <= 1:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def line_of(source: str, line: int) -> str:
    """The line with number ``line`` (from 1) of ``source``, without its end; empty if there is none."""
    lines = source.split("\n")
    return lines[line - 1].rstrip("\r") if 1 <= line <= len(lines) else ""


class ScriptError(VmvizError):
    """A text that is not a statement of vmviz, or a name in it that nobody knows.

    ``expected`` are human words, ``found`` is what stands there, ``suggestions`` are the nearest valid words,
    best first (``nearest`` is the first or None).  ``incomplete`` says that more lines could still mend it: a
    console then asks for another line.

    >>> from vmviz.script import parse
    >>> parse("munmap(fb, 4K, )", filename="demo.vmv")
    Traceback (most recent call last):
        ...
    vmviz.script.errors.ScriptError: demo.vmv:1:16: unexpected ')'
        munmap(fb, 4K, )
                       ^
    expected a value or '...'
    """

    def __init__(
        self,
        message: str,
        *,
        filename: str = "<script>",
        line: int = 1,
        column: int = 1,
        end_column: int | None = None,
        expected: tuple[str, ...] = (),
        found: str = "",
        suggestions: tuple[str, ...] = (),
        source_line: str = "",
        incomplete: bool = False,
    ) -> None:
        self.message = message
        self.filename = filename
        self.line = line
        self.column = column
        self.end_column = max(column + 1, end_column or 0)
        self.expected = expected
        self.found = found
        self.suggestions = suggestions
        self.source_line = source_line
        self.incomplete = incomplete
        super().__init__(self._describe())

    @classmethod
    def at(
        cls,
        where: Positioned,
        message: str,
        *,
        source: str = "",
        filename: str = "<script>",
        expected: tuple[str, ...] = (),
        found: str = "",
        suggestions: tuple[str, ...] = (),
        incomplete: bool = False,
    ) -> ScriptError:
        """An error at a node (or a `Place`) of the text ``source``."""
        return cls(
            message,
            filename=filename,
            line=where.line,
            column=where.column,
            end_column=where.end_column,
            expected=expected,
            found=found,
            suggestions=suggestions,
            source_line=line_of(source, where.line),
            incomplete=incomplete,
        )

    @property
    def nearest(self) -> str | None:
        """The best suggestion, or None."""
        return self.suggestions[0] if self.suggestions else None

    def _describe(self) -> str:
        rows = [f"{self.filename}:{self.line}:{self.column}: {self.message}", *self._excerpt()]
        if self.expected:
            rows.append(f"expected {any_of(self.expected)}")
        if self.suggestions:
            rows.append(f"did you mean {any_of(self.suggestions)}?")
        return "\n".join(rows)

    def _excerpt(self) -> list[str]:
        """The source line and a line of carets under the error, without control characters."""
        if not self.source_line.strip():
            return []
        shown = "".join(char if char.isprintable() else " " for char in self.source_line)
        start = self.column - 1
        cut = max(0, start - WINDOW // 2) if len(shown) > WINDOW else 0
        left = "..." if cut else ""
        right = "..." if len(shown) > cut + WINDOW else ""
        body = shown[cut : cut + WINDOW]
        width = max(1, min(self.end_column - 1, cut + len(body)) - start)
        return [f"    {left}{body}{right}".rstrip(), f"    {' ' * (len(left) + start - cut)}{'^' * width}"]


class Source:
    """A text with its line starts, which turns offsets into places and errors."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, start: int, end: int) -> Place:
        """The place of the characters ``[start, end)``, cut at the end of their first line."""
        row = bisect_right(self._starts, start) - 1
        stop = self._starts[row + 1] - 1 if row + 1 < len(self._starts) else len(self.text)
        column = start - self._starts[row] + 1
        return Place(
            line=row + 1, column=column, end_column=max(column + 1, min(end, stop) - self._starts[row] + 1)
        )

    def line_end(self, offset: int) -> int:
        """The offset of the line end at or behind ``offset``."""
        end = self.text.find("\n", offset)
        return len(self.text) if end < 0 else end

    def error(
        self,
        start: int,
        end: int,
        message: str,
        *,
        expected: tuple[str, ...] = (),
        found: str = "",
        suggestions: tuple[str, ...] = (),
        incomplete: bool = False,
    ) -> ScriptError:
        """An error about the characters ``[start, end)``."""
        return ScriptError.at(
            self.place(start, end),
            message,
            source=self.text,
            filename=self.filename,
            expected=expected,
            found=found,
            suggestions=suggestions,
            incomplete=incomplete,
        )
