"""Packed records: what a small statement has done, in one object, taken apart only when somebody looks.

A fault of one page or a zap of a few is some twenty records.  Made one by one they cost ten times what the
statement itself does, and nearly all of them are never looked at.  A `Packed` knows how to take the writes back
and to do them again, and of which records it stands in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .journal import Record


class Packed:
    """``nr_records`` records of the journal from record ``at`` on (set by `Journal.pack`) in one object.

    What `unpack` returns depends on what is kept here alone, never on where the stores stand.
    """

    __slots__ = ("at", "nr_records")

    at: int
    nr_records: int

    def redo(self) -> None:
        """Do all writes again."""
        raise AssertionError("a kind of packed record does this")

    def undo(self) -> None:
        """Take all writes back."""
        raise AssertionError("a kind of packed record does this")

    def unpack(self) -> list[Record]:
        """The ``nr_records`` records, in order."""
        raise AssertionError("a kind of packed record does this")
