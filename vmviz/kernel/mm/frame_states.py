"""The state of each frame: the column from which the buddy allocator's lists and the frame map's counts derive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..trace.pieces import Pieces
from ..trace.store import Column, Index, cells_of, over, put, take
from .page_alloc import _CHUNK_SHIFT, BLOCK_SHIFT, FREE, STATE_NAMES, Buddy, Zone, zones_of


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
        self.pyramid[:, initial] = 1 << BLOCK_SHIFT
        self.pyramid[-1:, initial] -= (blocks << BLOCK_SHIFT) - nr_frames
        self.buddy = Buddy(self.array, zones if zones is not None else zones_of(nr_frames))

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
        """Set many frames' states in one vector step; no frame may come up twice."""
        if (index.stop <= index.start) if isinstance(index, slice) else not len(index):
            return
        was, now = over(np.minimum, self.array, index), int(values) if np.ndim(values) == 0 else -1
        if now >= 0 and over(np.maximum, self.array, index) == was:
            put(self.array, index, values)
            if was != now:
                first, counts = _per_block(index, BLOCK_SHIFT)
                part = self.pyramid[first : first + len(counts)]
                part[:, was] -= counts
                part[:, now] += counts
                if FREE in (was, now):
                    self.buddy.refresh(_touched(index, _CHUNK_SHIFT))
            return
        old = take(self.array, index)
        put(self.array, index, values)
        cells, new = cells_of(index), take(self.array, index)
        turned = (old == FREE) != (new == FREE)
        keys = (cells >> BLOCK_SHIFT) << 3
        pyramid = self.pyramid.reshape(-1)
        np.subtract.at(pyramid, keys | old, 1)
        np.add.at(pyramid, keys | new, 1)
        if turned.any():
            self.buddy.refresh(_touched(cells[turned], _CHUNK_SHIFT))

    def flip_many(self, index: Index, bits: Any) -> None:
        """Turn bits of many frames' states over."""
        self.put_many(index, take(self.array, index) ^ bits)

    def serial(self) -> bytes:
        """The frames whose state is not the initial one."""
        where = np.flatnonzero(self.array != self._initial)
        if not len(where):
            return b""
        return where.astype("<i8").tobytes() + self.array[where].tobytes()


def _per_block(index: Index, shift: int) -> tuple[int, NDArray[np.int64]]:
    """How many of the cells lie in each block of ``1 << shift``: the first block, and numbers from there on."""
    if isinstance(index, slice):
        index = Pieces([index.start], [index.stop - index.start])
    if isinstance(index, Pieces):
        ends = [a + n for a, n in zip(index.starts, index.sizes, strict=True)]
        first = min(index.starts) >> shift
        return first, index.counts(shift, first, ((max(ends) - 1) >> shift) + 1)
    blocks = index >> shift
    first = int(blocks.min())
    return first, np.bincount(blocks - first)


def _touched(index: Index, shift: int) -> NDArray[np.int64]:
    """The blocks of ``1 << shift`` cells in which some of the cells lie, ascending."""
    first, counts = _per_block(index, shift)
    return np.flatnonzero(counts) + first
