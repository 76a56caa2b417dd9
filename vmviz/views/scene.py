"""The scene: everything that the panes show, as one value: the machine, the cursor, the range, the trail of changes.

Selections are kept as addresses, never as row numbers, so that they survive every change of the rows.
"""

from __future__ import annotations

import attrs

from ..kernel.machine import Machine
from ..kernel.mm.mm_types import Mm
from ..kernel.mm.vma import Vma
from ..kernel.value import Value
from ..script.values import format_size
from .trail import Trail


@attrs.frozen(eq=False, repr=False)
class Range(Value):
    """A range of virtual addresses in bytes, ``[start, end)``; the VMA meant is the one that holds ``anchor``."""

    start: int
    end: int
    anchor: int


@attrs.define(eq=False, repr=False)
class Scene:
    """What the views need; a view never keeps one beyond the row that it makes.

    ``cursor`` is a virtual address.  ``range`` is the selection, or the range of the statement under the position.
    ``labels`` are the script's variables that hold addresses (name to address).  ``readable`` shows addresses as
    ``fb+1M``.  ``pfn`` is the frame under the frame pane's cursor, -1 when it follows the address.
    """

    machine: Machine
    cursor: int = 0
    range: Range | None = None
    trail: Trail = attrs.field(default=None)
    labels: dict[str, int] = attrs.field(factory=dict)
    readable: bool = False
    pfn: int = -1
    mm: Mm = attrs.field(init=False)
    """The address space that is shown."""

    def __attrs_post_init__(self) -> None:
        self.mm = self.machine.mm
        if self.trail is None:
            end = self.machine.journal.position
            self.trail = Trail(self.machine, end, end)

    @property
    def meant(self) -> Vma | None:
        """The VMA that the range is about: the one where it begins (or where its anchor lies)."""
        return self.mm.vma_at(self.range.anchor) if self.range else None

    def mark(self, start: int, end: int) -> str:
        """The range mark of a row that stands for ``[start, end)``.

        ``█`` wholly inside, ``▄`` begins in it, ``▀`` ends in it, ``▬`` lies within it, ``!`` outside the VMA meant.
        """
        r = self.range
        if r is None or end <= r.start or start >= max(r.end, r.start + 1):
            return " "
        vma = self.meant
        if vma is not None and (start >= vma.end or end <= vma.start):
            return "!"
        begins, ends = start < r.start, r.end < end
        return "▬" if begins and ends else "▄" if begins else "▀" if ends else "█"

    def address(self, va: int) -> str:
        """An address as text: hex, or from the nearest label when ``readable``.

        Exactly what can be typed back: ``7ffff7100000`` or ``fb+1M``.
        """
        return (self.readable and self.label(va)) or f"{va:x}"

    def label(self, va: int) -> str:
        """The address from the nearest label whose VMA holds it (``fb+1M``), or "" when there is none."""
        vma = self.mm.vma_at(va)
        best: tuple[int, str] | None = None
        for name, base in self.labels.items():
            same = vma is not None and vma.start <= base <= va
            if (same or va == base) and (best is None or base > best[0]):
                best = (base, name)
        if best is None:
            return ""
        base, name = best
        return name if va == base else f"{name}+{format_size(va - base, exact=True)}"
