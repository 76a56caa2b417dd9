"""The buddy allocator (models mm/page_alloc.c): zones, orders 0 to 10, split and coalesce.

With immediate coalescing the free blocks are a function of which frames are free: each is the largest aligned
block that is free as a whole.  So the only state is the state of each frame (`FrameStates`, a journaled
column), and the free lists below are derived from it: undo needs no record of its own.

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
from ..trace.store import Column, Index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_ORDER = 11
"""Orders 0 to 10, as in 6.1 (exclusive)."""

FREE, TABLE, ANON, FILE, RESERVED, ZERO, DRIVER, OTHER = range(8)
STATE_NAMES = ("free", "table", "anon", "file", "reserved", "zero", "driver", "other")
BLOCK_SHIFT = 9
_CHUNK_SHIFT = MAX_ORDER - 1
_CHUNK = 1 << _CHUNK_SHIFT


class OutOfMemory(VmvizError):
    """No free block of the wanted order is left in any zone."""


@attrs.frozen
class Zone:
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
    frames are being taken from, ``start`` to ``end``, is not in it: what is left of it begins at ``next``, and is
    entered as the blocks that it is (`_settle`) when anything else is asked.

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
        self._hint = [[z.start_pfn] * MAX_ORDER for z in self.zones]
        self.start = self.next = self.end = 0
        self._taken = -1
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
        for zi in range(len(self.zones) - 1, -1, -1):
            count, hint = self._count[zi], self._hint[zi]
            for o in range(order, MAX_ORDER):
                if count[o]:
                    pfn = self._heads.find(o + 1, hint[o])
                    hint[o] = pfn
                    self._taken = -1 if order else pfn
                    return pfn
        raise OutOfMemory(f"no free block of order {order} is left in any zone")

    def hand_out(self, n: int) -> Iterator[NDArray[np.int64]]:
        """The frames that ``n`` allocations of order 0 hand out, in order, as runs; nothing changes.

        Order 0 takes the smallest block there is and empties it from below before it takes the next: so the
        blocks come by zone (highest first), by order, by address, each as one run.
        """
        self._settle()
        for zi in range(len(self.zones) - 1, -1, -1):
            zone = self.zones[zi]
            heads = self._view[zone.start_pfn : zone.end_pfn]
            for order in range(MAX_ORDER):
                if not self._count[zi][order]:
                    continue
                for head in np.flatnonzero(heads == order + 1).tolist():
                    if n <= 0:
                        return
                    size = min(n, 1 << order)
                    first = zone.start_pfn + head
                    yield np.arange(first, first + size)
                    n -= size

    def carve(self, pfn: int) -> None:
        """Frame ``pfn`` is no longer free: split the block around it (`expand`)."""
        if pfn == self.next < self.end:
            self.next = pfn + 1
            return
        taken = self._taken
        self._settle()
        heads = self._heads
        for order in range(MAX_ORDER):
            head = pfn & -(1 << order)
            if heads[head] == order + 1:
                break
        else:
            raise AssertionError(f"frame {pfn:#x} is in no free block")
        zi = self._zone(pfn)
        count = self._count[zi]
        heads[head] = 0
        count[order] -= 1
        if pfn == taken:  # no smaller block was there: those that come next are all in this one
            self.start, self.next, self.end = pfn, pfn + 1, pfn + (1 << order)
            return
        while order:
            order -= 1
            half = 1 << order
            other = head + half
            if pfn & half:
                head, other = other, head
            heads[other] = order + 1
            count[order] += 1
            self._hint[zi][order] = min(self._hint[zi][order], other)

    def release(self, pfn: int) -> None:
        """Frame ``pfn`` is free: merge it with its buddies as far as they go (`__free_one_page`)."""
        if self.start <= pfn == self.next - 1:
            self.next = pfn
            return
        self._settle()
        heads = self._heads
        zi = self._zone(pfn)
        count = self._count[zi]
        order = 0
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
        self._hint[zi][order] = min(self._hint[zi][order], pfn)

    def _settle(self) -> None:
        """Enter what is left of the block that frames were being taken from."""
        pfn, end = self.next, self.end
        self.start = self.next = self.end = 0
        self._taken = -1
        if pfn == end:
            return
        zi = self._zone(pfn)
        count, hint = self._count[zi], self._hint[zi]
        while pfn < end:
            size = min(pfn & -pfn or end, 1 << ((end - pfn).bit_length() - 1))
            order = size.bit_length() - 1
            self._heads[pfn] = order + 1
            count[order] += 1
            hint[order] = min(hint[order], pfn)
            pfn += size

    def refresh(self, chunks: NDArray[Any]) -> None:
        """Derive the free blocks of whole chunks (1,024 frames each) again, in one vector step."""
        self._settle()
        if not len(chunks):
            return
        n = len(self._states)
        view = self._view.reshape(-1, _CHUNK)
        if n < len(self._heads):
            states = np.full(len(self._heads), RESERVED, np.uint8)
            states[:n] = self._states
        else:
            states = self._states
        free = states.reshape(-1, _CHUNK)[chunks] == FREE
        self._tally(chunks, view[chunks], -1)
        heads = np.zeros((len(chunks), _CHUNK), np.uint8)
        pair = free
        for order in range(MAX_ORDER):
            step = 1 << order
            if order == MAX_ORDER - 1:
                alone = free
            else:
                pair = free[:, ::2] & free[:, 1::2]
                alone = free & ~np.repeat(pair, 2, axis=1)
            heads[:, ::step][alone] = order + 1
            if order < MAX_ORDER - 1:
                free = pair
        view[chunks] = heads
        self._tally(chunks, heads, 1)

    def _tally(self, chunks: NDArray[Any], heads: NDArray[np.uint8], sign: int) -> None:
        first = chunks.astype(np.int64) << _CHUNK_SHIFT
        for zi, z in enumerate(self.zones):
            mine = (first >= z.start_pfn) & (first < z.end_pfn)
            if not mine.any():
                continue
            numbers = np.bincount(heads[mine].ravel(), minlength=MAX_ORDER + 1)
            lowest = int(first[mine].min())
            for order in range(MAX_ORDER):
                self._count[zi][order] += sign * int(numbers[order + 1])
                if sign > 0 and numbers[order + 1]:
                    self._hint[zi][order] = min(self._hint[zi][order], lowest)

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
        if fresh._count != self._count:
            wrong.append(f"counts {self._count}, recomputed {fresh._count}")
        return wrong


class FrameStates(Column):
    """The state of each frame of RAM, with the free lists and a pyramid of counts derived from it.

    ``pyramid[block, state]`` counts the frames of each state in every block of 512 frames: the frame map
    reads it.
    """

    def __init__(self, nr_frames: int, zones: Sequence[Zone] | None = None, initial: int = FREE) -> None:
        super().__init__("frame.state", nr_frames, np.uint8)
        if initial:
            self.array[:] = initial
        self._initial = initial
        blocks = (nr_frames + 511) >> BLOCK_SHIFT
        self.pyramid: NDArray[np.int32] = np.zeros((blocks, len(STATE_NAMES)), np.int32)
        self._pflat = self.pyramid.data.cast("B").cast("i")
        self._recount(0, blocks)
        self.buddy = Buddy(self.array, zones if zones is not None else zones_of(nr_frames))

    def _recount(self, lo: int, hi: int) -> None:
        part = self.array[lo << BLOCK_SHIFT : hi << BLOCK_SHIFT]
        block = np.arange(len(part), dtype=np.int64) >> BLOCK_SHIFT
        counts = np.bincount((block << 3) | part, minlength=(hi - lo) << 3)
        self.pyramid[lo:hi] = counts.reshape(-1, 8)

    def put(self, key: int, value: int, /) -> None:
        """Set one frame's state and keep lists and counts in step."""
        old = self.flat[key]
        if old == value:
            return
        self.flat[key] = value
        block = (key >> BLOCK_SHIFT) << 3
        self._pflat[block | old] -= 1
        self._pflat[block | value] += 1
        if old == FREE:
            self.buddy.carve(key)
        elif value == FREE:
            self.buddy.release(key)

    def take(self, state: int) -> int:
        """Give the frame that an allocation is handed its state, and return it; only packed records call this.

        Raises `OutOfMemory` when there is none.
        """
        buddy = self.buddy
        pfn = buddy.next
        if pfn < buddy.end:
            buddy.next = pfn + 1
        else:
            pfn = buddy.take(0)
            buddy.carve(pfn)
        self.flat[pfn] = state
        block = (pfn >> BLOCK_SHIFT) << 3
        self._pflat[block | FREE] -= 1
        self._pflat[block | state] += 1
        return pfn

    def put_many(self, index: Index, values: Any) -> None:
        """Set many frames' states in one vector step."""
        was_free = self.array[index] == FREE
        self.array[index] = values
        turned = was_free != (self.array[index] == FREE)
        if isinstance(index, slice):
            lo, hi = index.start, index.stop
            if hi <= lo:
                return
            self._recount(lo >> BLOCK_SHIFT, ((hi - 1) >> BLOCK_SHIFT) + 1)
            if turned.any():
                self.buddy.refresh(np.arange(lo >> _CHUNK_SHIFT, ((hi - 1) >> _CHUNK_SHIFT) + 1))
            return
        if not len(index):
            return
        for block in np.unique(index >> BLOCK_SHIFT).tolist():
            self._recount(block, block + 1)
        if turned.any():
            self.buddy.refresh(np.unique(index[turned] >> _CHUNK_SHIFT))

    def serial(self) -> bytes:
        """The frames whose state is not the initial one."""
        where = np.flatnonzero(self.array != self._initial)
        if not len(where):
            return b""
        return where.astype("<i8").tobytes() + self.array[where].tobytes()
