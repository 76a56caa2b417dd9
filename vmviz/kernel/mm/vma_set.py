"""The VMAs of an mm in address order, with the searches that mm/mmap.c makes in its maple tree (mm_mt).

Sorted chunks of about a hundred VMAs; beside each VMA the hole under it, beside each chunk the largest of
these, and beside each block of chunks the largest again, so that a search for a hole skips what is too
small.  The maxima are derived: `VmaSet.put` keeps them while they only grow, marks them stale when the
largest goes, and the next search makes the stale ones it meets anew.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from .flags import VM_GROWSDOWN
from .vma import Vma

_BLOCK_SHIFT = (
    5  # chunks per block of the second level: 65,530 VMAs make some 500 to 1,000 chunks, 16 to 32 blocks
)
_BLOCK = 1 << _BLOCK_SHIFT
_STALE = -1
_FIXED = struct.Struct("<8QII")


class VmaSet:
    """An ordered set of `Vma`, keyed by start: a store for the journal, and the queries on top.

    Between the `put` calls of one split or merge neighbours may overlap; queries mean something when they
    are done.

    >>> s = VmaSet("mm1.vmas", [Vma(0x1000, 0x3000, 0x73), Vma(0x8000, 0x9000, 0x71)])
    >>> s.find(0x3000).start == 0x8000, s.find_exact(0x3000) is None, len(s)
    (True, True, 2)
    >>> hex(s.find_gap_topdown(0x2000, 0x1000, 0x9000)), list(s.gaps(0, 0x9000))
    ('0x6000', [(0, 4096), (12288, 32768)])
    """

    def __init__(self, name: str, vmas: Iterable[Vma] = (), chunk: int = 128) -> None:
        """``chunk`` is the most VMAs that a chunk holds (at least 2); one that grows beyond is halved."""
        if chunk < 2:
            raise ValueError(f"a chunk holds at least 2 VMAs, not {chunk}")
        self.name = name
        self._limit = chunk
        self._len = 0
        # Parallel lists, one item per chunk; the first three also run parallel inside the chunk.
        self._starts: list[list[int]] = []
        self._vmas: list[list[Vma]] = []
        self._gaps: list[
            list[int]
        ] = []  # the hole under each VMA: max(0, start - end of the one before, or - 0)
        self._low: list[int] = []  # the first start of each chunk
        self._max: list[int] = []  # the largest of _gaps[c], or _STALE
        self._block: list[int] = []  # the largest of a block of _max, or _STALE
        self._count: list[int] = []  # VMAs up to and including each chunk; empty when not known
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
        if not self._low:
            if vma is not None:
                self._first(vma)
            return
        c = bisect_right(self._low, start) - 1
        if c < 0:  # noqa: PLR1730 (max is slower here)
            c = 0
        starts = self._starts[c]
        i = bisect_left(starts, start)
        here = i < len(starts) and starts[i] == start
        if vma is None:
            if here:
                self._delete(c, i)
            return
        vmas = self._vmas[c]
        if here:
            vmas[i] = vma
            self._fill_gap(c, i + 1)
            return
        self._len += 1
        if self._count:
            self._count = []
        gaps = self._gaps[c]
        if 0 < i < len(starts):
            # Inside a chunk, by far the usual case, one hole becomes two, and the larger one stands for both.
            under = start - vmas[i - 1].end
            over = starts[i] - vma.end
            old = gaps[i]
            starts.insert(i, start)
            vmas.insert(i, vma)
            gaps[i] = over = over if over > 0 else 0
            gaps.insert(i, under if under > 0 else 0)
            if under > over:  # noqa: PLR1730
                over = under
            if over != old:
                self._note(c, old, over)
        else:
            starts.insert(i, start)
            vmas.insert(i, vma)
            gaps.insert(i, 0)
            if i == 0:
                self._low[c] = start
            self._fill_gap(c, i)
            self._fill_gap(c, i + 1)
        if len(starts) > self._limit:
            self._halve(c, i)

    def serial(self) -> bytes:
        """All VMAs in address order: eight 64-bit numbers, two lengths and the two texts as UTF-8."""
        parts: list[bytes] = []
        pack = _FIXED.pack
        for v in self:
            ops, name = v.ops.encode(), v.name.encode()
            parts.append(
                pack(
                    *(v.start, v.end, v.vm_flags, v.pgoff, v.page_prot, v.file, v.anon_vma, v.private),
                    *(len(ops), len(name)),
                )
            )
            parts.append(ops + name)
        return b"".join(parts)

    # ---- look-ups

    def find(self, addr: int) -> Vma | None:
        """The first VMA with ``end`` above ``addr``; it may begin above it too (find_vma)."""
        c = bisect_right(self._low, addr) - 1
        if c < 0:
            return self._vmas[0][0] if self._low else None
        i = bisect_right(self._starts[c], addr)
        vmas = self._vmas[c]
        vma = vmas[i - 1]
        if vma.end > addr:
            return vma
        if i < len(vmas):
            return vmas[i]
        return self._vmas[c + 1][0] if c + 1 < len(self._low) else None

    def find_exact(self, addr: int) -> Vma | None:
        """The VMA that holds ``addr`` (vma_lookup)."""
        c = bisect_right(self._low, addr) - 1
        if c < 0:
            return None
        vma = self._vmas[c][bisect_right(self._starts[c], addr) - 1]
        return vma if vma.end > addr else None

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

    def find_gap_topdown(self, length: int, low: int, high: int, guard_gap: int = 0) -> int | None:
        """The highest address of ``length`` > 0 free bytes inside ``[low, high)``, or None.

        Models unmapped_area_topdown, mm/mmap.c; all in bytes.  The hole under a VM_GROWSDOWN VMA ends
        ``guard_gap`` below it.  As in the kernel, a hole that would do but for the guard gap lowers
        ``high`` to the guard's foot for the rest of the search, so that a lower, smaller hole inside the
        guard gap is not taken either.

        >>> stack = Vma(0x9000, 0xA000, 0x173)
        >>> hex(VmaSet("mm", [stack]).find_gap_topdown(0x1000, 0x1000, 0xA000, guard_gap=0x2000))
        '0x6000'
        """
        if not self._low:
            return high - length if high - length >= low else None
        bottom = self._vmas[-1][-1].end
        if high > bottom and high - max(bottom, low) >= length:
            return high - length
        # The hole that high lies in is the one under the first VMA that starts at or above high.
        c = bisect_left(self._low, high) - 1
        i = bisect_left(self._starts[c], high) if c >= 0 else 0
        if c < 0 or i == len(self._starts[c]):
            c, i = (c + 1, 0) if c + 1 < len(self._low) else (c, i - 1)
        if c >= 0 and self._largest(c) < length:
            i = -1
        while c >= 0:
            starts, gaps = self._starts[c], self._gaps[c]
            for i in range(i, -1, -1):  # noqa: B020
                gap = gaps[i]
                if gap >= length:
                    start = starts[i]
                    bottom = start - gap
                    floor = bottom if bottom > low else low
                    top = start if start < high else high
                    if top - floor >= length:
                        if not guard_gap or not self._vmas[c][i].vm_flags & VM_GROWSDOWN:
                            return top - length
                        foot = start - guard_gap
                        if foot >= top:
                            return top - length
                        high = foot
                        if high - floor >= length:
                            return high - length
                    if bottom <= low or high - low < length:
                        return None
            c = self._chunk_below(c - 1, length)
            if c >= 0:
                i = len(self._starts[c]) - 1
                if self._low[c] <= low and self._starts[c][i] <= low:
                    return None
        return None

    def find_gap_bottomup(self, length: int, low: int, high: int, guard_gap: int = 0) -> int | None:
        """The lowest address of ``length`` > 0 free bytes inside ``[low, high)``, or None.

        Models unmapped_area, mm/mmap.c; all in bytes.  The hole under a VM_GROWSDOWN VMA ends ``guard_gap``
        bytes below it.

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
        bottom = max(self._vmas[-1][-1].end, low) if count else low
        return bottom if bottom + length <= high else None

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

    # ---- a recomputation of everything

    def check(self) -> list[str]:
        """All that is inconsistent, in words: order, overlaps, derived numbers against a recomputation."""
        wrong: list[str] = []
        lists = (self._starts, self._vmas, self._gaps, self._low, self._max)
        if len({len(x) for x in lists}) != 1:
            return [f"parallel lists of different lengths {[len(x) for x in lists]}"]
        end, count = 0, 0
        for c, (starts, vmas, gaps) in enumerate(zip(self._starts, self._vmas, self._gaps, strict=True)):
            if not 0 < len(starts) == len(vmas) == len(gaps) <= self._limit:
                wrong.append(f"chunk {c}: {len(starts)} starts, {len(vmas)} VMAs, {len(gaps)} gaps")
            if starts and starts[0] != self._low[c]:
                wrong.append(f"chunk {c}: first start {starts[0]:#x}, noted {self._low[c]:#x}")
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
            if self._max[c] not in {_STALE, max(gaps, default=0)}:
                wrong.append(f"chunk {c}: largest hole {self._max[c]:#x}, found {max(gaps, default=0):#x}")
            count += len(starts)
            if self._count and self._count[c] != count:
                wrong.append(f"chunk {c}: {self._count[c]} VMAs counted, {count} found")
        largest = [max(gaps, default=0) for gaps in self._gaps]
        blocks = [max(largest[k : k + _BLOCK]) for k in range(0, len(largest), _BLOCK)]
        if len(blocks) != len(self._block):
            wrong.append(f"{len(self._block)} blocks noted, {len(blocks)} needed")
        for k, (noted, found) in enumerate(zip(self._block, blocks, strict=False)):
            if noted not in {_STALE, found}:
                wrong.append(f"block {k}: largest hole {noted:#x}, found {found:#x}")
        if count != self._len:
            wrong.append(f"length {self._len}, {count} VMAs found")
        return wrong

    # ---- inside

    def _locate(self, addr: int) -> tuple[int, int]:
        """Chunk and index of `find(addr)`; one past the last of the last chunk where there is none."""
        c = bisect_right(self._low, addr) - 1
        if c < 0:
            return 0, 0
        i = bisect_right(self._starts[c], addr)
        if self._vmas[c][i - 1].end > addr:
            return c, i - 1
        if i == len(self._starts[c]) and c + 1 < len(self._low):
            return c + 1, 0
        return c, i

    def _counts(self) -> list[int]:
        if not self._count:
            self._count = list(accumulate(map(len, self._starts)))
        return self._count

    def _first(self, vma: Vma) -> None:
        self._starts, self._vmas, self._gaps = [[vma.start]], [[vma]], [[vma.start]]
        self._low, self._max, self._block, self._count = [vma.start], [vma.start], [vma.start], []
        self._len = 1

    def _fill_gap(self, c: int, i: int) -> None:
        """Note the hole under the VMA at ``c``, ``i`` (or at the head of the next chunk), keep the maxima."""
        gaps = self._gaps[c]
        if i == len(gaps):
            c, i = c + 1, 0
            if c == len(self._gaps):
                return
            gaps = self._gaps[c]
        if i:
            new = self._starts[c][i] - self._vmas[c][i - 1].end
        else:
            new = self._low[c] - (self._vmas[c - 1][-1].end if c else 0)
        if new < 0:  # noqa: PLR1730 (max is slower here)
            new = 0  # neighbours overlap for a moment, while a split is being written
        old = gaps[i]
        if new != old:
            gaps[i] = new
            self._note(c, old, new)

    def _note(self, c: int, old: int, new: int) -> None:
        """A hole of chunk ``c`` changes from ``old`` to ``new`` bytes."""
        largest, b = self._max[c], c >> _BLOCK_SHIFT
        if new > old:
            if 0 <= largest < new:
                self._max[c] = new
            if 0 <= self._block[b] < new:
                self._block[b] = new
        else:
            if largest == old:
                self._max[c] = _STALE
            if self._block[b] == old:
                self._block[b] = _STALE

    def _delete(self, c: int, i: int) -> None:
        starts, vmas, gaps = self._starts[c], self._vmas[c], self._gaps[c]
        old = gaps[i]
        del starts[i], vmas[i], gaps[i]
        self._len -= 1
        if self._count:
            self._count = []
        if 0 < i < len(starts):
            over = gaps[i]
            new = starts[i] - vmas[i - 1].end
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
            self._fill_gap(c, i)
        # Small chunks are joined, or a long run of unmaps would leave a chunk for every few VMAs.
        if len(starts) < self._limit >> 2 and len(self._low) > 1:
            left = c if c + 1 < len(self._low) else c - 1
            if len(self._starts[left]) + len(self._starts[left + 1]) <= self._limit >> 1:
                for lists in (self._starts, self._gaps):
                    lists[left] += lists[left + 1]
                self._vmas[left] += self._vmas[left + 1]
                self._max[left] = _STALE
                self._drop_chunk(left + 1)
                self._restart_blocks(left)

    def _drop_chunk(self, c: int) -> None:
        del self._starts[c], self._vmas[c], self._gaps[c], self._low[c], self._max[c]
        self._restart_blocks(c)

    def _halve(self, c: int, i: int) -> None:
        """Cut chunk ``c`` in the middle, or before the VMA just put at the end of all (a rising fill)."""
        at = len(self._starts[c]) >> 1
        if c + 1 == len(self._low) and i + 1 == len(self._starts[c]):
            at = i
        for lists in (self._starts, self._gaps):
            lists.insert(c + 1, lists[c][at:])
            del lists[c][at:]
        self._vmas.insert(c + 1, self._vmas[c][at:])
        del self._vmas[c][at:]
        self._low.insert(c + 1, self._starts[c + 1][0])
        self._max[c] = _STALE
        self._max.insert(c + 1, _STALE)
        self._restart_blocks(c)

    def _restart_blocks(self, c: int) -> None:
        """Chunks from ``c`` on have moved: what is noted of their blocks no longer holds."""
        b = c >> _BLOCK_SHIFT
        blocks = (len(self._max) + _BLOCK - 1) >> _BLOCK_SHIFT
        self._block[b:] = [_STALE] * (blocks - b)

    def _largest(self, c: int) -> int:
        largest = self._max[c]
        if largest < 0:
            largest = self._max[c] = max(self._gaps[c])
        return largest

    def _largest_of_block(self, b: int) -> int:
        largest = self._block[b]
        if largest < 0:
            first = b << _BLOCK_SHIFT
            maxima = self._max[first : first + _BLOCK]
            if _STALE in maxima:
                maxima = [self._largest(c) for c in range(first, first + len(maxima))]
            largest = self._block[b] = max(maxima)
        return largest

    def _chunk_below(self, c: int, length: int) -> int:
        """The highest chunk from ``c`` downwards with a hole of ``length``, or -1."""
        blocks, maxima = self._block, self._max
        for b in range(c >> _BLOCK_SHIFT, -1, -1):
            if blocks[b] >= length or (blocks[b] < 0 and self._largest_of_block(b) >= length):
                first = b << _BLOCK_SHIFT
                for k in range(min(c, first + _BLOCK - 1), first - 1, -1):
                    if maxima[k] >= length or (maxima[k] < 0 and self._largest(k) >= length):
                        return k
        return -1

    def _chunk_above(self, c: int, length: int) -> int:
        """The lowest chunk from ``c`` upwards with a hole of ``length``, or the number of chunks."""
        count = len(self._low)
        blocks, maxima = self._block, self._max
        for b in range(c >> _BLOCK_SHIFT, len(blocks)):
            if blocks[b] >= length or (blocks[b] < 0 and self._largest_of_block(b) >= length):
                first = b << _BLOCK_SHIFT
                for k in range(max(c, first), min(first + _BLOCK, count)):
                    if maxima[k] >= length or (maxima[k] < 0 and self._largest(k) >= length):
                        return k
        return count
