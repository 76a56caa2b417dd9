"""The VMAs of an mm in sorted chunks of some fifty: the store that the journal writes, and its upkeep.

`vma_gaps` keeps the holes between them, `vma_set` has the look-ups.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from .vma import Vma
from .vma_columns import UnmadeChunk, VmaColumns
from .vma_gaps import STALE, GapMaxima

T = TypeVar("T")
_FIXED = struct.Struct("<8Q3I")
_MANY = 12
"""From so many chunks on it is quicker to ask a guide than to search through where they begin."""
_LONG = 64
"""What lies behind so many upper bits of one chunk is not remembered: a mapping of a terabyte has millions."""


class ChunkGuide(dict[int, int]):
    """From the upper bits of an address (``addr >> shift``) to a chunk that begins at or below all addresses with these
    bits (the first one where none does): theirs, or one little below it.  Learned when first asked.

    A search by halves takes longer the more chunks there are; this does not.

    >>> guide = ChunkGuide([0x1000 * k for k in range(64)])
    >>> guide[0x10FFF >> guide.shift], guide[0x11000 >> guide.shift]
    (16, 17)
    """

    __slots__ = ("_low", "chunks", "shift")

    def __init__(self, low: list[int]) -> None:
        """``low``: where the chunks begin, at least two.  When that changes, this has to be cleared."""
        super().__init__()
        self._low = low
        self.chunks = len(
            low
        )  # when the shift was chosen: it cuts a chunk of middling length in four to eight
        step = (len(low) >> 3) + 1
        spans = sorted([high - start for start, high in zip(low[::step], low[1::step], strict=False)])
        self.shift = max(0, spans[len(spans) >> 1].bit_length() - 3)

    def __missing__(self, bits: int) -> int:
        c = bisect_right(self._low, bits << self.shift) - 1
        if c < 0:
            return 0
        if bits - (self._low[c] >> self.shift) < _LONG:
            self[bits] = c
        return c


class VmaChunks(GapMaxima):
    """VMAs keyed by start, in order; chunks are cut when they grow too large and joined when they get small."""

    def __init__(self, name: str, vmas: Iterable[Vma] = (), chunk: int = 64) -> None:
        """``chunk`` is the most VMAs that a chunk holds (at least 2); one that grows beyond is halved."""
        if chunk < 2:
            raise ValueError(f"a chunk holds at least 2 VMAs, not {chunk}")
        super().__init__()
        self.name = name
        self._limit = chunk
        self._len = 0
        self._found: Vma | None = None  # what `find_exact` found last; nothing was put since
        self._count: list[int] = []  # VMAs up to and including each chunk; empty when not known
        self._last = -1  # where the VMA begins that was inserted last
        self._guide: ChunkGuide | None = None  # where there are many chunks
        self.base: VmaColumns | None = None  # what was filled in at once; it holds where the journal begins
        for vma in vmas:
            self.put(vma.start, vma)

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[Vma]:
        for vmas in self._vmas:
            yield from vmas

    # ---- the store

    def get(self, start: int, /) -> Vma | None:
        """The VMA that starts at ``start`` exactly."""
        c = bisect_right(self._low, start) - 1
        if c < 0:
            return None
        starts = self._starts[c]
        i = bisect_left(starts, start)
        return self._vmas[c][i] if i < len(starts) and starts[i] == start else None

    def put(self, start: int, vma: Vma | None, /) -> None:
        """Insert or replace the VMA that starts at ``start``; None deletes.  Only the journal calls this."""
        self._found = None
        if not self._low:
            if vma is not None:
                self._first(vma)
            return
        if self._spot == start:
            c, i = self._spot_at
            starts = self._starts[c]
        else:
            c = bisect_right(self._low, start) - 1
            if c < 0:  # noqa: PLR1730 - max is slower here
                c = 0
            starts = self._starts[c]
            i = bisect_left(starts, start)
        self._spot = -1
        here = i < len(starts) and starts[i] == start
        if vma is None:
            if here:
                self._delete(c, i)
            return
        vmas, ends, end = self._vmas[c], self._ends[c], vma.end
        if here:
            vmas[i] = vma
            ends[i] = end
            self._fill_gap(c, i + 1)
            return
        self._len += 1
        if self._count:
            self._count = []
        gaps = self._gaps[c]
        if 0 < i < len(starts):
            # Inside a chunk, by far the usual case, one hole becomes two, and the larger one stands for both.
            under = start - ends[i - 1]
            over = starts[i] - end
            old = gaps[i]
            starts.insert(i, start)
            ends.insert(i, end)
            vmas.insert(i, vma)
            gaps[i] = over = over if over > 0 else 0
            gaps.insert(i, under if under > 0 else 0)
            if under > over:  # noqa: PLR1730
                over = under
            if over != old:
                self._note(c, old, over)
        else:
            starts.insert(i, start)
            ends.insert(i, end)
            vmas.insert(i, vma)
            gaps.insert(i, 0)
            if i == 0:
                self._low[c] = start
            self._fill_gap(c, i)
            self._fill_gap(c, i + 1)
        if len(starts) > self._limit:
            self._cut(c, i)
        self._last = start

    def fill(self, columns: VmaColumns) -> None:
        """Take many VMAs into an empty set at once, for a machine that is not sealed yet; each chunk of them is made
        when it is first looked into.

        >>> vmas = [Vma(k << 12, (k + 1) << 12, 0x73) for k in range(1, 1000, 2)]
        >>> s = VmaChunks("mm1.vmas"); s.fill(VmaColumns.of(vmas))
        >>> len(s), s.get(15 << 12) == vmas[7], s.check()
        (500, True, [])
        """
        if self._low:
            raise ValueError(f"{self.name} holds VMAs already")
        count = len(columns)
        holes = columns.start.astype(np.int64)
        holes[1:] -= columns.end[:-1].astype(np.int64)
        size = max(1, self._limit * 3 >> 2)  # room for what comes between
        bounds = [(i, min(i + size, count)) for i in range(0, count, size)]
        self._vmas = self._unmade(bounds, columns.rows)
        self._starts, self._ends, self._gaps = (
            self._unmade(bounds, _part_of(column)) for column in (columns.start, columns.end, holes)
        )
        self._low = columns.start[::size].tolist()
        largest = np.maximum.reduceat(holes, range(0, count, size)) if count else holes
        self._max = largest.tolist()
        self._holed = int.from_bytes(np.packbits(largest != 0, bitorder="little").tobytes(), "little")
        self._restart_blocks(0)
        self._borders_moved()
        self._len, self._count, self.base = count, [], columns

    def _unmade(self, bounds: list[tuple[int, int]], part: Callable[[int, int], list[T]]) -> list[list[T]]:
        place = self._put_in_place
        return [cast("list[T]", UnmadeChunk(i, j, part, place)) for i, j in bounds]

    def _put_in_place(self, chunk: UnmadeChunk[Any], first: int, made: list[Any]) -> None:
        """A chunk was looked into: from now on it is a plain list.  What is unmade begins where it has begun."""
        assert self.base is not None
        c = bisect_right(self._low, int(self.base.start[first])) - 1
        all_lists: tuple[list[list[Any]], ...] = (self._vmas, self._starts, self._ends, self._gaps)
        for lists in all_lists:
            if c >= 0 and lists[c] is cast("list[Any]", chunk):
                lists[c] = made

    def serial(self) -> bytes:
        """All VMAs in address order: eight 64-bit numbers, three of 32 bits, and the two texts as UTF-8."""
        parts: list[bytes] = []
        pack = _FIXED.pack
        for v in self:
            ops, name = v.ops.encode(), v.name.encode()
            parts.append(
                pack(
                    *(v.start, v.end, v.vm_flags, v.pgoff, v.page_prot, v.file, v.anon_vma, v.private),
                    *(v.chain, len(ops), len(name)),
                )
            )
            parts.append(ops + name)
        return b"".join(parts)

    # ---- a recomputation of everything

    def check(self) -> list[str]:
        """All that is inconsistent, in words: order, overlaps, derived numbers against a recomputation."""
        wrong: list[str] = []
        lists = (self._starts, self._ends, self._vmas, self._gaps, self._low, self._max)
        if len({len(x) for x in lists}) != 1:
            return [f"parallel lists of different lengths {[len(x) for x in lists]}"]
        end, count = 0, 0
        for c, (starts, vmas, gaps) in enumerate(zip(self._starts, self._vmas, self._gaps, strict=True)):
            if not 0 < len(starts) == len(vmas) == len(gaps) <= self._limit:
                wrong.append(f"chunk {c}: {len(starts)} starts, {len(vmas)} VMAs, {len(gaps)} gaps")
            if starts and starts[0] != self._low[c]:
                wrong.append(f"chunk {c}: first start {starts[0]:#x}, noted {self._low[c]:#x}")
            if self._ends[c] != [vma.end for vma in vmas]:
                wrong.append(f"chunk {c}: the ends noted are not those of the VMAs")
            for start, vma, gap in zip(starts, vmas, gaps, strict=False):
                if vma.start != start:
                    wrong.append(f"{vma!r} is kept at {start:#x}")
                if vma.end <= vma.start:
                    wrong.append(f"{vma!r} is empty")
                if start < end:
                    wrong.append(f"{vma!r} begins below {end:#x}, the end of the one before")
                if gap != max(0, start - end):
                    wrong.append(f"hole under {start:#x}: {gap:#x} noted, {max(0, start - end):#x} found")
                end = vma.end
            count += len(starts)
            if self._count and self._count[c] != count:
                wrong.append(f"chunk {c}: {self._count[c]} VMAs counted, {count} found")
        if (self._guide is not None) != (len(self._low) >= _MANY):
            wrong.append(f"{len(self._low)} chunks, and a guide: {self._guide is not None}")
        if self._guide is not None:
            for bits, c in self._guide.items():
                found = max(0, bisect_right(self._low, bits << self._guide.shift) - 1)
                if c != found:
                    wrong.append(f"chunk {c} is told for {bits << self._guide.shift:#x}, found {found}")
        wrong += self.check_maxima()
        if count != self._len:
            wrong.append(f"length {self._len}, {count} VMAs found")
        return wrong

    def _first(self, vma: Vma) -> None:
        self._starts, self._ends, self._vmas, self._gaps = [[vma.start]], [[vma.end]], [[vma]], [[vma.start]]
        self._low, self._max, self._block, self._count = [vma.start], [vma.start], [vma.start], []
        self._holed = int(vma.start > 0)
        self._len = 1

    def _delete(self, c: int, i: int) -> None:
        starts, ends, gaps = self._starts[c], self._ends[c], self._gaps[c]
        old = gaps[i]
        del starts[i], ends[i], self._vmas[c][i], gaps[i]
        self._len -= 1
        if self._count:
            self._count = []
        if 0 < i < len(starts):
            over = gaps[i]
            new = starts[i] - ends[i - 1]
            gaps[i] = new = new if new > 0 else 0
            if over > old:  # noqa: PLR1730
                old = over
            if new != old:
                self._note(c, old, new)
        elif not starts:
            self._drop_chunk(c)
            if c < len(self._low):
                self._fill_gap(c, 0)
            return
        else:
            if old:
                self._note(c, old, 0)
            self._low[c] = starts[0]
            self._borders_moved()
            self._fill_gap(c, i)
        # Small chunks are joined, or a long run of unmaps would leave a chunk for every few VMAs.
        if len(starts) < self._limit >> 2 and len(self._low) > 1:
            left = c if c + 1 < len(self._low) else c - 1
            if len(self._starts[left]) + len(self._starts[left + 1]) <= self._limit >> 1:
                for lists in (self._starts, self._ends, self._gaps):
                    lists[left] += lists[left + 1]
                self._vmas[left] += self._vmas[left + 1]
                self._max[left] = STALE
                self._holed |= 1 << left
                self._drop_chunk(left + 1)
                self._restart_blocks(left)

    def _drop_chunk(self, c: int) -> None:
        del self._starts[c], self._ends[c], self._vmas[c], self._gaps[c], self._low[c], self._max[c]
        self._holed = self._holed & (1 << c) - 1 | self._holed >> c + 1 << c
        self._restart_blocks(c)
        self._borders_moved()

    def _borders_moved(self) -> None:
        """Chunks begin elsewhere now.  (Where the first one does matters to nobody: what is below is its.)"""
        if len(self._low) < _MANY:
            self._guide = None
        elif self._guide is None or len(self._low) > 2 * self._guide.chunks:
            self._guide = ChunkGuide(self._low)
        else:
            self._guide.clear()

    def _cut(self, c: int, i: int) -> None:
        """Cut chunk ``c``, which VMA ``i`` has made too large: in the middle, but where one mapping after the
        other comes beside the last (upwards, or downwards as mmap does), so that what is behind stays full.
        """
        starts = self._starts[c]
        at = len(starts) >> 1
        if i and starts[i - 1] == self._last:
            at = i
        elif i + 1 < len(starts) and starts[i + 1] == self._last:
            at = i + 1
        for lists in (self._starts, self._ends, self._gaps):
            lists.insert(c + 1, lists[c][at:])
            del lists[c][at:]
        self._vmas.insert(c + 1, self._vmas[c][at:])
        del self._vmas[c][at:]
        self._low.insert(c + 1, self._starts[c + 1][0])
        self._max[c] = STALE
        self._max.insert(c + 1, STALE)
        self._holed = self._holed & (1 << c) - 1 | 3 << c | self._holed >> c + 1 << c + 2
        self._restart_blocks(c)
        self._borders_moved()


def _part_of(column: NDArray[Any]) -> Callable[[int, int], list[int]]:
    def part(i: int, j: int) -> list[int]:
        numbers: list[int] = column[i:j].tolist()
        return numbers

    return part
