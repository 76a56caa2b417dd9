"""The VMAs of an mm in address order, with the searches that mm/mmap.c makes in its maple tree (mm_mt).

`vma_chunks` keeps them, `vma_gaps` searches the holes between them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate

from .vma import Vma
from .vma_chunks import VmaChunks


class VmaSet(VmaChunks):
    """An ordered set of `Vma`, keyed by start: a store for the journal, and the queries on top.

    Between the `put` calls of one split or merge neighbours may overlap; queries mean something when they
    are done.

    >>> s = VmaSet("mm1.vmas", [Vma(0x1000, 0x3000, 0x73), Vma(0x8000, 0x9000, 0x71)])
    >>> s.find(0x3000).start == 0x8000, s.find_exact(0x3000) is None, len(s)
    (True, True, 2)
    >>> hex(s.find_gap_topdown(0x2000, 0x1000, 0x9000)), list(s.gaps(0, 0x9000))
    ('0x6000', [(0, 4096), (12288, 32768)])
    """

    # ---- look-ups

    def find(self, addr: int) -> Vma | None:
        """The first VMA with ``end`` above ``addr``; it may begin above it too (find_vma)."""
        if self._guide is None:
            c = bisect_right(self._low, addr) - 1
            if c < 0:
                return self._vmas[0][0] if self._low else None
        else:
            c = self._guide[addr >> self._guide.shift]
        try:
            return self._vmas[c][bisect_right(self._ends[c], addr)]
        except IndexError:  # not in this chunk, which is seldom so: to ask each time takes longer
            return self._find_from(c + 1, addr)

    def find_exact(self, addr: int) -> Vma | None:
        """The VMA that holds ``addr`` (vma_lookup); the one found last is tried first."""
        last = self._found
        if last is not None and last.start <= addr < last.end:
            return last
        c = bisect_right(self._low, addr) - 1
        if c < 0:
            return None
        vma = self._vmas[c][bisect_right(self._starts[c], addr) - 1]
        if vma.end <= addr:
            return None
        self._found = vma
        return vma

    def find_prev(self, addr: int) -> Vma | None:
        """The VMA before the one that `find` gives; the last one, where `find` gives none (find_vma_prev)."""
        c, i = self._locate(addr)
        if i > 0:
            return self._vmas[c][i - 1]
        return self._vmas[c - 1][-1] if c > 0 else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """The VMAs that share a byte with ``[start, end)``, ascending."""
        if end <= start or not self._low:
            return []
        c, i = self._locate(start)
        last = bisect_left(self._low, end) - 1
        if last < c:
            return []
        stop = bisect_left(self._starts[last], end)
        if c == last:
            return self._vmas[c][i:stop]
        found = self._vmas[c][i:]
        for between in self._vmas[c + 1 : last]:
            found += between
        found += self._vmas[last][:stop]
        return found

    def around(self, start: int, end: int) -> tuple[Vma | None, list[Vma], Vma | None]:
        """The VMA before ``[start, end)``, those that share a byte with it, and the one after, in one search.

        ``end`` is above ``start``.  What is before ends at ``start`` at most, what is after starts at ``end``
        at least.

        >>> s = VmaSet("mm1.vmas", [Vma(0x1000, 0x3000, 0x73), Vma(0x8000, 0x9000, 0x71)])
        >>> s.around(0x2000, 0x3000) == (None, [s.at(0)], s.at(1))
        True
        """
        low = self._low
        if self._spot == start:
            c, i = self._spot_at
            vmas = self._vmas[c]
        else:
            c = bisect_right(low, start) - 1
            if c < 0:
                if not low:
                    return None, [], None
                c = 0
            vmas = self._vmas[c]
            i = bisect_left(self._starts[c], start)
            self._spot, self._spot_at = start, (c, i)
        if i and self._ends[c][i - 1] > start:
            i -= 1
        before = vmas[i - 1] if i else self._vmas[c - 1][-1] if c else None
        found: list[Vma] = []
        while True:
            if i == len(vmas):
                c += 1
                if c == len(low):
                    return before, found, None
                vmas = self._vmas[c]
                i = 0
            vma = vmas[i]
            if vma.start >= end:
                return before, found, vma
            if i == 0 and vmas[-1].start < end:
                found += vmas
                i = len(vmas)
            else:
                found.append(vma)
                i += 1

    def first_overlap(self, start: int, end: int) -> Vma | None:
        """The lowest VMA that shares a byte with ``[start, end)`` (find_vma_intersection)."""
        vma = self.find(start)
        return vma if vma is not None and vma.start < end and start < end else None

    def next_start(self, addr: int) -> int | None:
        """The lowest start of a VMA at or above ``addr``."""
        c = bisect_right(self._low, addr) - 1
        if c >= 0:
            starts = self._starts[c]
            i = bisect_left(starts, addr)
            if i < len(starts):
                return starts[i]
        return self._low[c + 1] if c + 1 < len(self._low) else None

    def iter_from(self, addr: int) -> Iterator[Vma]:
        """From `find(addr)` upwards.  No put while it runs: take `overlapping` for that."""
        c, i = self._locate(addr)
        for k in range(c, len(self._low)):
            vmas = self._vmas[k]
            yield from vmas[i:] if i else vmas
            i = 0

    # ---- by ordinal

    def rank(self, start: int) -> int:
        """How many VMAs start below ``start``: the ordinal of the VMA that starts there."""
        c = bisect_right(self._low, start) - 1
        if c < 0:
            return 0
        return (self._counts()[c - 1] if c else 0) + bisect_left(self._starts[c], start)

    def at(self, i: int) -> Vma:
        """The VMA with ordinal ``i`` from 0; IndexError beyond."""
        if not 0 <= i < self._len:
            raise IndexError(f"VMA {i} of {self._len}")
        counts = self._counts()
        c = bisect_right(counts, i)
        return self._vmas[c][i - (counts[c - 1] if c else 0)]

    def items_slice(self, i: int, j: int) -> list[Vma]:
        """The VMAs with ordinals ``i`` to ``j`` - 1, clipped to what there is."""
        i, j = max(i, 0), min(j, self._len)
        if i >= j:
            return []
        counts = self._counts()
        c = bisect_right(counts, i)
        skip = i - (counts[c - 1] if c else 0)
        found = self._vmas[c][skip : skip + j - i]
        while len(found) < j - i:
            c += 1
            found += self._vmas[c][: j - i - len(found)]
        return found

    # ---- holes

    def gaps(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """The free ranges (start, end) inside ``[low, high)``, ascending; guard gaps count as free."""
        for vma in self.iter_from(low):
            if vma.start >= high:
                break
            if vma.start > low:
                yield low, vma.start
            low = max(low, vma.end)
        if low < high:
            yield low, high

    # ---- inside

    def _find_from(self, first: int, addr: int) -> Vma | None:
        """`find`, when all chunks below ``first`` end at ``addr`` at most."""
        # Where most chunks are wide, the guide may lead to one far below.
        for c in range(max(first, bisect_right(self._low, addr) - 1), len(self._low)):
            if self._ends[c][-1] > addr:
                return self._vmas[c][bisect_right(self._ends[c], addr)]
        return None

    def _locate(self, addr: int) -> tuple[int, int]:
        """Chunk and index of `find(addr)`; one past the last of the last chunk where there is none."""
        c = bisect_right(self._low, addr) - 1
        if c < 0:
            return 0, 0
        i = bisect_right(self._starts[c], addr)
        if self._ends[c][i - 1] > addr:
            return c, i - 1
        if i == len(self._starts[c]) and c + 1 < len(self._low):
            return c + 1, 0
        return c, i

    def _counts(self) -> list[int]:
        if not self._count:
            self._count = list(accumulate(map(len, self._starts)))
        return self._count
