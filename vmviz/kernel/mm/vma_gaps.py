"""The holes between VMAs: the maxima that let a search skip what is too small, and the two searches.

Beside each VMA stands the hole under it, beside each chunk the largest of these, beside each block of
chunks the largest again, and chunks without any hole are told by one bit each.  The maxima are derived: they
are kept while they only grow, marked stale when the largest goes, and the next search makes the stale ones that
it meets anew.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from .flags import VM_GROWSDOWN
from .vma import Vma

_BLOCK_SHIFT = 5
"""Chunks per block of the second level: 65,530 VMAs make some 1,000 to 2,000 chunks, 32 to 64 blocks."""
_BLOCK = 1 << _BLOCK_SHIFT
STALE = 1 << 62
"""A maximum that is not known: it looks larger than any hole, so that a search does not pass it by."""


class GapMaxima:
    """The chunks of a `VmaSet` as parallel lists, with the largest holes; `VmaSet` fills them."""

    def __init__(self) -> None:
        # One item per chunk; the first four also run parallel inside the chunk.
        self._starts: list[list[int]] = []
        self._ends: list[
            list[int]
        ] = []  # searches need not look into the VMAs, which lie far apart in memory
        self._vmas: list[list[Vma]] = []
        self._gaps: list[
            list[int]
        ] = []  # the hole under each VMA: max(0, start - end of the one before, or - 0)
        self._low: list[int] = []  # the first start of each chunk
        self._max: list[int] = []  # the largest of _gaps[c], or STALE
        self._block: list[int] = []  # the largest of a block of _max, or STALE
        self._holed = 0  # bit c: _max[c] is not 0

        # Where a VMA that starts at _spot stands or would stand: what was looked up last, until the next put.
        self._spot = -1
        self._spot_at = (0, 0)

    def find_gap_topdown(self, length: int, low: int, high: int, guard_gap: int = 0) -> int | None:
        """The highest address of ``length`` > 0 free bytes inside ``[low, high)``, or None.

        Models unmapped_area_topdown, mm/mmap.c; all in bytes.  The hole under a VM_GROWSDOWN VMA ends
        ``guard_gap`` below it.  As in the kernel, a hole that would do but for the guard gap lowers
        ``high`` to the guard's foot for the rest of the search, so that a lower, smaller hole inside the
        guard gap is not taken either.

        >>> from vmviz.kernel.mm.vma_set import VmaSet
        >>> stack = Vma(0x9000, 0xA000, 0x173)
        >>> hex(VmaSet("mm", [stack]).find_gap_topdown(0x1000, 0x1000, 0xA000, guard_gap=0x2000))
        '0x6000'
        """
        if not self._low:
            return high - length if high - length >= low else None
        bottom = self._ends[-1][-1]
        if high > bottom and high - max(bottom, low) >= length:
            return high - length
        c = min(bisect_left(self._low, high), len(self._low) - 1)
        while (c := self._chunk_below(c, length)) >= 0:
            gaps = self._gaps[c]
            down: Iterable[int]
            if gaps.count(0) == len(gaps) - 1:  # often so: it is the largest, which is known by now
                down = (gaps.index(self._max[c]),)
            else:
                down = range(min(bisect_left(self._starts[c], high), len(gaps) - 1), -1, -1)
            for i in down:
                gap = gaps[i]
                if gap >= length:
                    start = self._starts[c][i]
                    bottom = start - gap
                    floor = bottom if bottom > low else low
                    top = start if start < high else high
                    if top - floor >= length:
                        if not guard_gap or not self._vmas[c][i].vm_flags & VM_GROWSDOWN:
                            if i:
                                self._spot, self._spot_at = top - length, (c, i)
                            return top - length
                        foot = start - guard_gap
                        if foot >= top:
                            return top - length
                        high = foot
                        if high - floor >= length:
                            return high - length
                    if bottom <= low or high - low < length:
                        return None
            c -= 1
        return None

    def find_gap_bottomup(self, length: int, low: int, high: int, guard_gap: int = 0) -> int | None:
        """The lowest address of ``length`` > 0 free bytes inside ``[low, high)``, or None.

        Models unmapped_area, mm/mmap.c; all in bytes.  The hole under a VM_GROWSDOWN VMA ends ``guard_gap``
        bytes below it.

        >>> from vmviz.kernel.mm.vma_set import VmaSet
        >>> hex(VmaSet("mm", [Vma(0x2000, 0x3000, 0x73)]).find_gap_bottomup(0x2000, 0x1000, 0x9000))
        '0x3000'
        """
        # The first hole that reaches above low is the one under the first VMA that starts above low.
        c = bisect_right(self._low, low) - 1
        i = bisect_right(self._starts[c], low) if c >= 0 else 0
        if c < 0 or i == len(self._starts[c]):
            c, i = c + 1, 0
        count = len(self._low)
        if c < count and self._largest(c) < length:
            c, i = self._chunk_above(c + 1, length), 0
        while c < count:
            starts, gaps = self._starts[c], self._gaps[c]
            for k in range(i, len(starts)):
                gap = gaps[k]
                if gap >= length:
                    start = starts[k]
                    bottom = max(start - gap, low)
                    if bottom + length > high:
                        return None
                    top = start
                    if guard_gap and self._vmas[c][k].vm_flags & VM_GROWSDOWN:
                        top -= guard_gap
                    if top - bottom >= length:
                        return bottom
            i = 0
            c = self._chunk_above(c + 1, length)
        bottom = max(self._ends[-1][-1], low) if count else low
        return bottom if bottom + length <= high else None

    def check_maxima(self) -> list[str]:
        """What is wrong with the maxima, in words, against a recomputation."""
        wrong: list[str] = []
        largest = [max(gaps, default=0) for gaps in self._gaps]
        for c, (noted, found) in enumerate(zip(self._max, largest, strict=True)):
            if noted not in {STALE, found}:
                wrong.append(f"chunk {c}: largest hole {noted:#x}, found {found:#x}")
        if self._holed != (holed := sum(1 << c for c, noted in enumerate(self._max) if noted)):
            wrong.append(f"chunks with holes: {self._holed:#b} noted, {holed:#b} found")
        blocks = [max(largest[k : k + _BLOCK]) for k in range(0, len(largest), _BLOCK)]
        if len(blocks) != len(self._block):
            wrong.append(f"{len(self._block)} blocks noted, {len(blocks)} needed")
        for k, (noted, found) in enumerate(zip(self._block, blocks, strict=False)):
            if noted not in {STALE, found}:
                wrong.append(f"block {k}: largest hole {noted:#x}, found {found:#x}")
        return wrong

    def _fill_gap(self, c: int, i: int) -> None:
        """Note the hole under the VMA at ``c``, ``i`` (or at the head of the next chunk), keep the maxima."""
        gaps = self._gaps[c]
        if i == len(gaps):
            c, i = c + 1, 0
            if c == len(self._gaps):
                return
            gaps = self._gaps[c]
        if i:
            new = self._starts[c][i] - self._ends[c][i - 1]
        else:
            new = self._low[c] - (self._ends[c - 1][-1] if c else 0)
        if new < 0:  # noqa: PLR1730 - max is slower here
            new = 0  # neighbours overlap for a moment, while a split is being written
        old = gaps[i]
        if new != old:
            gaps[i] = new
            self._note(c, old, new)

    def _note(self, c: int, old: int, new: int) -> None:
        """A hole of chunk ``c`` changes from ``old`` to ``new`` bytes."""
        largest, b = self._max[c], c >> _BLOCK_SHIFT
        if new > old:
            if largest < new:
                self._max[c] = new
                if not largest:
                    self._holed ^= 1 << c
            if self._block[b] < new:  # noqa: PLR1730 - max is slower here
                self._block[b] = new
        else:
            if largest == old:
                if _holes(self._gaps[c]):
                    self._max[c] = STALE
                else:
                    self._max[c] = 0
                    self._holed ^= 1 << c
            if self._block[b] == old:
                others = self._holed >> (b << _BLOCK_SHIFT) & (1 << _BLOCK) - 1
                self._block[b] = STALE if others else 0

    def _restart_blocks(self, c: int) -> None:
        """Chunks from ``c`` on have moved: what is noted of their blocks no longer holds."""
        b = c >> _BLOCK_SHIFT
        blocks = (len(self._max) + _BLOCK - 1) >> _BLOCK_SHIFT
        self._block[b:] = [STALE] * (blocks - b)

    def _largest(self, c: int) -> int:
        largest = self._max[c]
        if largest == STALE:
            gaps = self._gaps[c]
            largest = self._max[c] = max(gaps) if _holes(gaps) else 0
            if not largest:
                self._holed ^= 1 << c
        return largest

    def _largest_of_block(self, b: int) -> int:
        largest = self._block[b]
        if largest == STALE:
            first = b << _BLOCK_SHIFT
            part = self._max[first : first + _BLOCK]
            for k, noted in enumerate(part):
                if noted == STALE:
                    part[k] = self._largest(first + k)
            largest = self._block[b] = max(part)
        return largest

    def _chunk_below(self, c: int, length: int) -> int:
        """The highest chunk from ``c`` downwards with a hole of ``length``, or -1."""
        blocks, maxima = self._block, self._max
        holed = self._holed & (1 << c + 1) - 1
        while holed:
            c = holed.bit_length() - 1
            largest = maxima[c]
            if largest >= length and (largest != STALE or self._largest(c) >= length):
                return c
            b = c >> _BLOCK_SHIFT
            if blocks[b] == STALE:
                self._largest_of_block(b)
            if blocks[b] < length:
                while b and blocks[b - 1] < length:
                    b -= 1
                c = b << _BLOCK_SHIFT
            else:
                while c & (_BLOCK - 1) and maxima[c - 1] < length:
                    c -= 1
            holed &= (1 << c) - 1
        return -1

    def _chunk_above(self, c: int, length: int) -> int:
        """The lowest chunk from ``c`` upwards with a hole of ``length``, or the number of chunks."""
        count = len(self._low)
        blocks, maxima = self._block, self._max
        for b in range(c >> _BLOCK_SHIFT, len(blocks)):
            if blocks[b] >= length and self._largest_of_block(b) >= length:
                first = b << _BLOCK_SHIFT
                for k in range(max(c, first), min(first + _BLOCK, count)):
                    if maxima[k] >= length and self._largest(k) >= length:
                        return k
        return count


def _holes(gaps: list[int]) -> bool:
    """Whether there is a hole at all.  In a row of adjoining VMAs there is none, and zeros are told by
    identity: several times faster than comparing numbers for the largest.
    """
    return gaps.count(0) != len(gaps)
