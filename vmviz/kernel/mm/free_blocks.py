"""The free blocks of many chunks of frames at once, in vector steps: how the lists of the allocator are derived."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 11
"""Orders 0 to 10, as in 6.1 (exclusive)."""


def blocks_in(heads: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The free blocks that ``heads`` of some chunks tell: their places and orders."""
    flat = np.ascontiguousarray(heads).reshape(-1)
    words = np.flatnonzero(flat.view(np.uint64))
    if not len(words):
        return words, flat[:0]
    cells = flat.reshape(-1, 8)[words]
    where = cells != 0
    row, column = where.nonzero()
    return (words[row] << 3) + column, cells[where] - np.uint8(1)


_EVERY = tuple(np.uint64(sum(1 << i for i in range(0, 64, 1 << order))) for order in range(7))
"""Words in which the bit of every ``2 ** order``-th frame is set."""


def blocks_of(free: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The free blocks of chunks whose frames are free or not: their places and orders.

    Sixty-four frames are looked at as one word: a bit stands for a block that is free as a whole.
    """
    bits = np.packbits(free.reshape(-1), bitorder="little").view(np.uint64)
    places, orders = [], []
    for order in range(6):
        if not bits.any():
            break
        half = np.uint64(1 << order)
        pair = bits & (bits >> half) & _EVERY[order + 1]
        alone = bits & ~(pair | (pair << half))
        words = np.flatnonzero(alone)
        if len(words):
            inside = np.unpackbits(alone[words].view(np.uint8), bitorder="little").view(np.bool_)
            at = np.flatnonzero(inside)
            places.append((words[at >> 6] << 6) + (at & 63))
            orders.append(np.full(len(at), order, np.uint8))
        bits = pair
    whole = bits != 0
    for order in range(6, MAX_ORDER):
        if order < MAX_ORDER - 1:
            pairs = whole[::2] & whole[1::2]
            lone = whole & ~np.repeat(pairs, 2)
        else:
            lone = pairs = whole
        at = np.flatnonzero(lone)
        places.append(at << order)
        orders.append(np.full(len(at), order, np.uint8))
        whole = pairs
    return np.concatenate(places), np.concatenate(orders)
