"""What a pane of rows needs of its view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .cells import Line


class RowView(Protocol):
    """The rows of one scene."""

    @property
    def title_right(self) -> str:
        """A word for the right of the title."""
        ...

    @property
    def row_count(self) -> int:
        """The number of rows."""
        ...

    def row(self, index: int, width: int) -> Line:
        """A row as cells."""
        ...

    def can_stand(self, index: int) -> bool:
        """Whether the cursor may stand on a row."""
        ...

    def differing(self, old: RowView) -> Sequence[range] | None:
        """Rows outside of which this view reads as an older one of as many rows; None where nothing is known of them.

        It may name too many rows, never too few.
        """
        ...
