"""Neighbouring entries that are alike: present, with equal bits, so that one look at them judges all.

What ranges of many pages mostly are.  The functions here give None where entries differ; then each is judged by
itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...arch.x86 import _PAGE_PRESENT, PTE_PFN_MASK
from ...trace.pieces import Lines, Pieces
from ...trace.store import Index, over
from ..frames import Frames
from ..page_flags import PG_ANON, PG_COMPOUND
from ..pgtable import TableArena

FEW = 48
"""Below so many entries it is not worthwhile to ask."""
_BITS = np.uint64(~PTE_PFN_MASK & (1 << 64) - 1)


class Alike:
    """Present entries with equal bits: ``entry`` is the first one, ``frames`` are theirs in order.

    ``values`` are the entries as a lane keeps them: `Lines`, one number where all are the same, or a copy.
    """

    __slots__ = ("_frames", "entry", "n", "values")

    def __init__(
        self, entry: int, n: int, values: Lines | NDArray[np.uint64] | int, frames: Index | None
    ) -> None:
        self.entry = entry
        self.n = n
        self.values = values
        self._frames = frames

    @classmethod
    def of(cls, arena: TableArena, slot: int, n: int) -> Alike | None:
        """The ``n`` entries from ``slot`` on, if they are alike."""
        entry = arena.flat[slot]
        if n < FEW or not entry & _PAGE_PRESENT:
            return None
        lines = arena.lines(slot, n)
        if lines is not None:
            bits = lines.firsts & _BITS
            return cls(entry, n, lines, lines.frames()) if (bits == bits[0]).all() else None
        entries = arena.entries[slot : slot + n]
        common, any_of = int(np.bitwise_and.reduce(entries)), int(np.bitwise_or.reduce(entries))
        if common == any_of:
            return cls(entry, n, entry, None)
        if (common ^ any_of) & ~PTE_PFN_MASK:
            return None
        return cls(entry, n, entries.copy(), None)

    @property
    def frames(self) -> Index:
        """The frames in order; one may come up more than once."""
        if self._frames is None:
            if isinstance(self.values, int):
                self._frames = np.full(self.n, (self.entry & PTE_PFN_MASK) >> 12, np.int64)
            else:
                assert isinstance(self.values, np.ndarray)
                pfns = self.values & np.uint64(PTE_PFN_MASK)
                pfns >>= np.uint64(12)
                self._frames = pfns.view(np.int64)
        return self._frames

    def all_have(self, frames: Frames, bits: int) -> bool | None:
        """Whether the flags of all pages have all of these bits, or none has one; None where they differ, or a frame
        has no struct page.
        """
        index, flags = self.frames, frames.flags.array
        if last_of(index) >= frames.nr_frames:
            return None
        if over(np.bitwise_and, flags, index) & bits == bits:
            return True
        return None if over(np.bitwise_or, flags, index) & bits else False

    def anonymous(self, frames: Frames) -> bool:
        """Whether all pages are anonymous ones, none of them part of a compound page."""
        return self.all_have(frames, PG_ANON) is True and (
            not frames.compound_mapcount.data or self.all_have(frames, PG_COMPOUND) is False
        )


def last_of(index: Index) -> int:
    """The highest of some cells."""
    if isinstance(index, slice):
        return int(index.stop) - 1
    if isinstance(index, Pieces):
        return max(a + n for a, n in zip(index.starts, index.sizes, strict=True)) - 1
    return int(index.max())
