"""Neighbouring entries that are alike: present, with equal bits, so that one look at them judges all.

What ranges of many pages mostly are.  The functions here give None where entries differ; then each is judged by
itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arch.x86 import _PAGE_PRESENT, PTE_PFN_MASK
from ...trace.pieces import Lines, Pieces
from ...trace.store import Index, take
from ..frames import PG_ANON, PG_COMPOUND, Frames
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

    def flags(self, frames: Frames) -> NDArray[Any] | None:
        """The page flags of the frames; None where one of them has no struct page."""
        index = self.frames
        return take(frames.flags.array, index) if last_of(index) < frames.nr_frames else None


def last_of(index: Index) -> int:
    """The highest of some cells."""
    if isinstance(index, slice):
        return int(index.stop) - 1
    if isinstance(index, Pieces):
        return max(a + n for a, n in zip(index.starts, index.sizes, strict=True)) - 1
    return int(index.max())


def all_have(flags: NDArray[Any], bits: int) -> bool | None:
    """Whether all page flags have all of these bits, or none has all; None where they differ."""
    if int(np.bitwise_and.reduce(flags)) & bits == bits:
        return True
    if bits & (bits - 1) == 0:
        return None if int(np.bitwise_or.reduce(flags)) & bits else False
    return None if ((flags & np.uint32(bits)) == bits).any() else False


def anonymous(flags: NDArray[Any] | None) -> bool:
    """Whether all pages are anonymous ones, none of them part of a compound page."""
    return (
        flags is not None
        and all_have(flags, PG_ANON) is True
        and not np.bitwise_or.reduce(flags) & PG_COMPOUND
    )
