"""The buddy allocator (models mm/page_alloc.c): zones, orders 0 to 10, split and coalesce.

With immediate coalescing the free blocks are a function of which frames are free: each is the largest aligned
block that is free as a whole.  So the only state is the state of each frame (`FrameStates` of frame_states.py, a
journaled column), and the free lists below are derived from it: undo needs no record of its own.

Simplifications: blocks of an order are handed out in address order (real kernels leave the order open); there
are no per-CPU lists, migrate types or watermarks, so an allocation fails only when no block is left in any
zone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ..errors import VmvizError
from ..value import Value
from .free_blocks import MAX_ORDER, blocks_in, blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FREE, TABLE, ANON, FILE, RESERVED, ZERO, DRIVER, OTHER = range(8)
STATE_NAMES = ("free", "table", "anon", "file", "reserved", "zero", "driver", "other")
BLOCK_SHIFT = 9
_CHUNK_SHIFT = MAX_ORDER - 1
_CHUNK = 1 << _CHUNK_SHIFT


class OutOfMemory(VmvizError):
    """No free block of the wanted order is left in any zone."""


@attrs.frozen(eq=False, repr=False)
class Zone(Value):
    """A zone of physical memory: frames ``start_pfn`` to ``end_pfn`` (exclusive)."""

    name: str
    start_pfn: int
    end_pfn: int

    @property
    def spanned_pages(self) -> int:
        """Frames in the zone."""
        return self.end_pfn - self.start_pfn


def zones_of(nr_frames: int) -> tuple[Zone, ...]:
    """The x86-64 zones of a machine with ``nr_frames`` frames of RAM, lowest first.

    >>> [(z.name, z.spanned_pages) for z in zones_of(16384)]
    [('DMA', 4096), ('DMA32', 12288)]
    """
    borders = (("DMA", 0, 1 << 12), ("DMA32", 1 << 12, 1 << 20), ("Normal", 1 << 20, 1 << 52))
    return tuple(Zone(n, lo, min(hi, nr_frames)) for n, lo, hi in borders if lo < nr_frames)


class Buddy:
    """The free blocks, derived from the states of the frames.

    ``_heads[pfn]`` is the order + 1 of the free block that starts at ``pfn``, 0 elsewhere.  A block that single
    frames are being taken from, ``start`` to ``_stop``, is not in it: what is left of it begins at ``next``, and is
    entered as the blocks that it is (`_settle`) when anything else is asked.  Frames come from it without asking as
    long as ``next`` lies below ``end``.

    >>> from vmviz.kernel.mm.frame_states import FrameStates
    >>> states = FrameStates(16); b = states.buddy
    >>> [b.take(0), b.take(1), b.take(2)]
    [0, 0, 0]
    >>> states.put(0, ANON); b.take(1)
    2
    >>> b.orders()[:5]
    [1, 1, 1, 1, 0]
    """

    def __init__(self, states: NDArray[np.uint8], zones: Sequence[Zone]) -> None:
        self._states = states
        self.zones = tuple(zones)
        chunks = (len(states) + _CHUNK - 1) >> _CHUNK_SHIFT
        self._heads = bytearray(chunks << _CHUNK_SHIFT)
        self._view = np.frombuffer(self._heads, np.uint8)
        self._count = [[0] * MAX_ORDER for _ in self.zones]
        # No block of an order lies below its hint, and none but the one there below the bound.
        self._hint = [[z.start_pfn] * MAX_ORDER for z in self.zones]
        self._bound = [[z.start_pfn] * MAX_ORDER for z in self.zones]
        self.start = self.next = self.end = self._stop = 0
        self._taken = -1  # the block that `take` has named for one frame, while nothing has changed
        self._zone_order = 0, 0  # where that is
        if not states.all():  # there are free frames
            self.refresh(np.arange(chunks))

    def _zone(self, pfn: int) -> int:
        for i, z in enumerate(self.zones):
            if pfn < z.end_pfn:
                return i
        return len(self.zones) - 1

    def take(self, order: int) -> int:
        """The block of ``2**order`` frames to hand out next, which stays free until its frames' states
        change.

        The highest zone that has one is used (`get_page_from_freelist`); in it the smallest sufficient order.
        """
        if self.next < self.end:
            if not order:
                return self.next
            self._settle()
        elif self.next < self._stop:
            self._settle()
        for zi in range(len(self.zones) - 1, -1, -1):
            count, hint = self._count[zi], self._hint[zi]
            for o in range(order, MAX_ORDER):
                if count[o]:
                    pfn = self._heads.find(o + 1, hint[o])
                    hint[o] = pfn
                    self._bound[zi][o] = max(self._bound[zi][o], pfn)
                    self._taken = -1 if order else pfn
                    self._zone_order = zi, o
                    return pfn
        raise OutOfMemory(f"no free block of order {order} is left in any zone")

    def hand_out(self, n: int) -> Iterator[tuple[int, int]]:
        """The frames that ``n`` allocations of order 0 hand out, in order, as runs (first, how many); nothing
        changes.

        Order 0 takes the smallest block there is and empties it from below before it takes the next: so the
        blocks come by zone (highest first), by order, by address, each as one run.
        """
        self._settle()
        for zi in range(len(self.zones) - 1, -1, -1):
            for order in range(MAX_ORDER):
                for head in self._blocks(zi, order, n):
                    size = min(n, 1 << order)
                    yield head, size
                    n -= size
                if n <= 0:
                    return

    def _blocks(self, zi: int, order: int, n: int) -> list[int]:
        """The first free blocks of an order in a zone, by address: enough for ``n`` frames, or all."""
        want = min(self._count[zi][order], -(-n >> order))
        at, end = self._hint[zi][order], self.zones[zi].end_pfn
        if want > FEW_BLOCKS:
            found = np.flatnonzero(self._view[at:end] == order + 1)[:want] + at
            return list(found.tolist())
        out = []
        for _ in range(want):
            at = self._heads.find(order + 1, at, end)
            out.append(at)
            at += 1
        return out

    def carve(self, pfn: int) -> None:
        """Frame ``pfn`` is no longer free: split the block around it (`expand`)."""
        if pfn == self.next < self.end:
            self.next = pfn + 1
            return
        heads = self._heads
        if pfn == self._taken:  # no smaller block is there: those that come next are all in this one
            zi, order = self._zone_order
            heads[pfn] = 0
            self._count[zi][order] -= 1
            self._hint[zi][order] = self._bound[zi][order]
            self.start, self.next = pfn, pfn + 1
            self.end = self._stop = pfn + (1 << order)
            self._taken = -1
            return
        self._settle()
        for order in range(MAX_ORDER):
            head = pfn & -(1 << order)
            if heads[head] == order + 1:
                break
        else:
            raise AssertionError(f"frame {pfn:#x} is in no free block")
        zi = self._zone(pfn)
        count, hint, bound = self._count[zi], self._hint[zi], self._bound[zi]
        heads[head] = 0
        count[order] -= 1
        if head == hint[order]:
            hint[order] = bound[order]
        while order:
            order -= 1
            half = 1 << order
            other = head + half
            if pfn & half:
                head, other = other, head
            heads[other] = order + 1
            count[order] += 1
            if other < bound[order]:
                _lower(hint, bound, order, other)

    def release(self, pfn: int) -> None:
        """Frame ``pfn`` is free: merge it with its buddies as far as they go (`__free_one_page`)."""
        self._taken = -1
        start, after = self.start, self.next
        if start <= pfn == after - 1:
            self.next = pfn
            return
        if start < after and not start <= pfn < self._stop:
            self.end = 0  # a frame outside joins nothing of that block, but a smaller one may be there now
        else:
            self._settle()
        self._enter(pfn, 0)

    def _enter(self, pfn: int, order: int) -> None:
        """A block of ``order`` at ``pfn`` is free: join it with its buddies."""
        heads = self._heads
        zi = self._zone(pfn)
        count = self._count[zi]
        while order < MAX_ORDER - 1:
            buddy = pfn ^ (1 << order)
            if heads[buddy] != order + 1:
                break
            heads[buddy] = 0
            count[order] -= 1
            pfn &= buddy
            order += 1
        heads[pfn] = order + 1
        count[order] += 1
        if pfn < self._bound[zi][order]:
            _lower(self._hint[zi], self._bound[zi], order, pfn)

    def _settle(self) -> None:
        """Enter what is left of the block that frames were being taken from."""
        start, pfn, end = self.start, self.next, self._stop
        self.start = self.next = self.end = self._stop = 0
        self._taken = -1
        if pfn == end:
            return
        if pfn == start:
            self._enter(pfn, (end - start).bit_length() - 1)
            return
        zi = self._zone(pfn)
        count, hint, bound, heads = self._count[zi], self._hint[zi], self._bound[zi], self._heads
        while pfn < end:
            size = pfn & -pfn
            order = size.bit_length() - 1
            heads[pfn] = order + 1
            count[order] += 1
            if pfn < bound[order]:
                _lower(hint, bound, order, pfn)
            pfn += size

    def refresh(self, chunks: NDArray[Any]) -> None:
        """Derive the free blocks of whole chunks (1,024 frames each) again, in one vector step."""
        self._settle()
        if len(chunks) <= FEW_CHUNKS:
            for chunk in chunks.tolist():
                self._refresh_one(chunk)
            return
        n = len(self._states)
        view = self._view.reshape(-1, _CHUNK)
        if n < len(self._heads):
            states = np.full(len(self._heads), RESERVED, np.uint8)
            states[:n] = self._states
        else:
            states = self._states
        first, last = int(chunks[0]), int(chunks[-1])
        at: Any = slice(first, last + 1) if last - first + 1 == len(chunks) else chunks
        free = states.reshape(-1, _CHUNK)[at] == FREE
        lines = view[at]
        self._tally(chunks, *blocks_in(lines), -1)
        heads = np.zeros(lines.shape, np.uint8)
        places, orders = blocks_of(free)
        heads.reshape(-1)[places] = orders + 1
        view[at] = heads
        self._tally(chunks, places, orders, 1)

    def _refresh_one(self, chunk: int) -> None:
        """`refresh` for one chunk, whose frames are the bits of one number."""
        first = chunk << _CHUNK_SHIFT
        zi = self._zone(first)
        count, hint, bound = self._count[zi], self._hint[zi], self._bound[zi]
        old = self._heads[first : first + _CHUNK]
        left = _CHUNK - old.count(0)
        for order in range(MAX_ORDER):
            if not left:
                break
            number = old.count(order + 1)
            count[order] -= number
            left -= number
        free = self._states[first : first + _CHUNK] == FREE
        bits = int.from_bytes(np.packbits(free, bitorder="little").tobytes(), "little")
        heads = bytearray(_CHUNK)
        for order in range(MAX_ORDER):
            if not bits:
                break
            half = 1 << order
            pair = bits & (bits >> half) & _PAIRS[order]
            alone = bits & ~(pair | (pair << half))
            while alone:
                lowest = alone & -alone
                head = lowest.bit_length() - 1
                heads[head] = order + 1
                count[order] += 1
                if first + head < bound[order]:
                    _lower(hint, bound, order, first + head)
                alone ^= lowest
            bits = pair
        self._heads[first : first + _CHUNK] = heads

    def _tally(
        self, chunks: NDArray[Any], places: NDArray[np.int64], orders: NDArray[np.uint8], sign: int
    ) -> None:
        """Count blocks of some chunks (ascending) into or out of the numbers of their zones.

        ``places`` are the blocks' first frames as if the chunks lay side by side.
        """
        if not len(places):
            return
        first = chunks.astype(np.int64) << _CHUNK_SHIFT
        zones = [0] if len(self.zones) == 1 else range(len(self.zones))
        for zi in zones:
            z = self.zones[zi]
            low, high = (int(x) for x in np.searchsorted(first, (z.start_pfn, z.end_pfn)))
            if low == high:
                continue
            mine = orders
            if high - low < len(chunks):
                mine = orders[(places >= low << _CHUNK_SHIFT) & (places < high << _CHUNK_SHIFT)]
            count, hint, bound = self._count[zi], self._hint[zi], self._bound[zi]
            lowest = int(first[low])
            for order, number in enumerate(np.bincount(mine).tolist()):
                count[order] += sign * number
                if sign > 0 and number and lowest < bound[order]:
                    bound[order] = lowest
                    hint[order] = min(hint[order], lowest)

    def orders(self, zone: int | None = None) -> list[int]:
        """Free blocks by order, of one zone or of all, as /proc/buddyinfo prints them."""
        self._settle()
        rows = self._count if zone is None else [self._count[zone]]
        return [sum(column) for column in zip(*rows, strict=True)]

    def nr_free(self) -> int:
        """Free frames."""
        return sum(n << order for order, n in enumerate(self.orders()))

    def check(self) -> list[str]:
        """Every difference between the free lists and a recomputation; empty when all is well."""
        self._settle()
        fresh = Buddy(self._states, self.zones)
        wrong = [f"block at {i:#x}" for i in np.flatnonzero(fresh._view != self._view)[:4]]
        for zi, order in np.ndindex(len(self.zones), MAX_ORDER):
            zone, hint, bound = self.zones[zi], self._hint[zi][order], self._bound[zi][order]
            first = other = self._heads.find(order + 1, zone.start_pfn, zone.end_pfn)
            if first == hint:
                other = self._heads.find(order + 1, first + 1, zone.end_pfn)
            if 0 <= first < hint or 0 <= other < bound:
                wrong.append(
                    f"a block of order {order} below hint {hint:#x} or bound {bound:#x} of {zone.name}"
                )
        if fresh._count != self._count:
            wrong.append(f"counts {self._count}, recomputed {fresh._count}")
        return wrong


def _lower(hint: list[int], bound: list[int], order: int, pfn: int) -> None:
    """A block of ``order`` at ``pfn``, below the bound, is free now."""
    if pfn < hint[order]:
        bound[order] = hint[order]
        hint[order] = pfn
    elif pfn > hint[order]:
        bound[order] = pfn


FEW_CHUNKS = 3
"""Up to so many chunks are derived one by one."""
_PAIRS = (*tuple(sum(1 << i for i in range(0, _CHUNK, 2 << order)) for order in range(MAX_ORDER - 1)), 0)
"""The bits of those frames of a chunk at which a pair of blocks of an order can begin."""
FEW_BLOCKS = 32
"""Up to so many blocks are searched one by one."""
