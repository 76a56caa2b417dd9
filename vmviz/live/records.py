"""Columns out of long, regular texts: equal records are moved and compared by the thousand, not line by line.

The texts of /proc consist of records that mostly look alike.  A view of overlapping fixed-length fields, one
beginning at each byte, turns picking a field from each record into one copy per record.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vmviz.live.image import U64

Index: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Rows: TypeAlias = NDArray[np.uint8]

_TRIES = 8
_BLOCK = 1 << 18  # bytes that are compared at once: they and their copy stay in the cache
_SEARCH = 1 << 20


def _windows(buffer: bytes | Rows, width: int) -> NDArray[np.void]:
    return np.ndarray((len(buffer) - width + 1,), dtype=f"V{width}", buffer=buffer, strides=(1,))


def gather(data: bytes, begins: Index, width: int) -> Rows:
    """Copy ``width`` bytes from each of ``begins`` into the rows of a matrix, one memcpy per row.

    >>> gather(b"abcdef", np.array([3, 0]), 2).tobytes()
    b'deab'
    """
    if not len(begins):
        return np.empty((0, width), dtype=np.uint8)
    return _windows(data, width)[begins].view(np.uint8).reshape(len(begins), width)


def positions(data: bytes, word: bytes) -> Index:
    """Where ``word`` begins in the text, by its second byte, which should be a rare one.

    >>> positions(b"a V V\\nV", b" V").tolist()
    [1, 3]
    """
    raw = np.frombuffer(data, dtype=np.uint8)
    parts = [
        np.flatnonzero(raw[at : at + _SEARCH] == word[1]) + (at - 1) for at in range(0, len(raw), _SEARCH)
    ]
    found = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    found = found[(found >= 0) & (found <= len(raw) - len(word))]
    return found[_equal(data, found, np.frombuffer(word, dtype=np.uint8))].astype(np.int64, copy=False)


def line_kinds(data: bytes, begins: Index) -> tuple[Index, Index, list[bytes]]:
    """Tell apart the rests of lines that begin at ``begins``: (end, kind of each, the text of each kind).

    An end is where the newline stands, or -1 where there is none any more.  Kinds are numbered as they come.

    >>> ends, kinds, texts = line_kinds(b"x 1\\ny 2\\nz 1\\nw", np.array([1, 5, 9, 13]))
    >>> ends.tolist(), kinds.tolist(), texts
    ([3, 7, 11, -1], [0, 1, 0, 2], [b' 1', b' 2', b''])
    """
    ends = np.full(len(begins), -1, dtype=np.int64)
    kinds = np.zeros(len(begins), dtype=np.int64)
    left = np.arange(len(begins))
    texts: list[bytes] = []
    # A few texts make up nearly all rows of a large process; a row from the middle most likely has one of them.
    for _ in range(_TRIES):
        if len(left) < 64:
            break
        begin = int(begins[left[len(left) // 2]])
        end = data.find(b"\n", begin)
        width = end + 1 - begin
        if end < 0:
            break
        fits = left[begins[left] <= len(data) - width]
        line = np.frombuffer(data, dtype=np.uint8, count=width, offset=begin)
        same = fits[_equal(data, begins[fits], line)]
        ends[same], kinds[same] = begins[same] + (width - 1), len(texts)
        texts.append(data[begin:end])
        keep = np.ones(len(begins), dtype=bool)
        keep[same] = False
        left = left[keep[left]]
    index = {text: i for i, text in enumerate(texts)}
    for row, begin in zip(left.tolist(), begins[left].tolist(), strict=True):
        end = data.find(b"\n", begin)
        ends[row] = end
        kinds[row] = index.setdefault(data[begin:end] if end >= 0 else b"", len(index))
    return (ends, *_in_order(kinds, list(index)))


def _in_order(kinds: Index, texts: list[bytes]) -> tuple[Index, list[bytes]]:
    """Number the kinds by their first rows."""
    first = np.full(len(texts), len(kinds), dtype=np.int64)
    np.minimum.at(first, kinds, np.arange(len(kinds)))
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(texts), dtype=np.int64)
    rank[order] = np.arange(len(texts))
    return rank[kinds], [texts[i] for i in order.tolist()]


def _equal(data: bytes, begins: Index, line: Rows) -> Mask:
    """At which of ``begins`` the text goes on like ``line``."""
    out = np.empty(len(begins), dtype=bool)
    step = max(1, _BLOCK // len(line))
    for at in range(0, len(begins), step):
        out[at : at + step] = (gather(data, begins[at : at + step], len(line)) == line).all(axis=1)
    return out


def differing(data: bytes, begins: Index, width: int) -> Mask:
    """Which of the ``width`` bytes from each of ``begins`` on are not the same everywhere.

    >>> differing(b"a1b a2b", np.array([0, 4]), 3).tolist()
    [False, True, False]
    """
    whole = width & -8
    found = np.zeros(width // 8, dtype=np.uint64)
    rest = np.zeros(width - whole, dtype=np.uint8)
    first = gather(data, begins[:1], width)
    step = max(1, _BLOCK // width)
    for at in range(0, len(begins), step):
        block = begins[at : at + step]
        words = gather(data, block, whole).view(np.uint64)
        found |= np.bitwise_or.reduce(words ^ first[:, :whole].view(np.uint64), axis=0)
        if len(rest):
            rest |= np.bitwise_or.reduce(
                gather(data, block + whole, width - whole) ^ first[:, whole:], axis=0
            )
    return np.concatenate((found.view(np.uint8), rest)).astype(np.bool_)


def joined(data: bytes, begins: Index, ends: Index) -> bytes:
    """The pieces [begins[i], ends[i]) of a text, one after the other.

    >>> joined(b"ab-cd-e", np.array([0, 3, 6]), np.array([2, 5, 7]))
    b'abcde'
    """
    lengths = ends - begins
    stops = np.cumsum(lengths)
    out = np.empty(int(stops[-1]) if len(stops) else 0, dtype=np.uint8)
    for width in np.unique(lengths).tolist():
        if width:
            rows = np.flatnonzero(lengths == width)
            _windows(out, width)[stops[rows] - width] = _windows(data, width)[begins[rows]]
    return out.tobytes()


def decimals(data: bytes, ends: Index) -> U64 | None:
    """The numbers in the 8 bytes before each of ``ends``: blanks, then digits; None if one is not so.

    >>> decimals(b"      42 12345678", np.array([8, 17])).tolist()
    [42, 12345678]
    >>> decimals(b"    4 2      ", np.array([8])) is decimals(b"        ", np.array([8])) is None
    True
    """
    raw = gather(data, ends - 8, 8).view("<u8")[:, 0].astype(np.uint64)
    digit = raw & np.uint64(0x1010101010101010)  # set in a digit, clear in a blank
    low = raw & np.uint64(0x0F0F0F0F0F0F0F0F)
    good = (
        (
            (raw | np.uint64(0x1010101010101010)) & np.uint64(0xF0F0F0F0F0F0F0F0)
            == np.uint64(0x3030303030303030)
        )
        & ((low + np.uint64(0x0606060606060606)) & np.uint64(0xF0F0F0F0F0F0F0F0) == 0)
        & (digit | (digit << np.uint64(8)) == digit)  # behind a digit stands another
        & (digit >> np.uint64(60) == 1)
        & ((digit >> np.uint64(4)) * np.uint64(15) | low == (digit >> np.uint64(4)) * np.uint64(15))
    )
    if not good.all():
        return None
    # Eight digits at a time within one word: pairs, then fours, then all.
    low = (low * np.uint64(10) + (low >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    low = (low * np.uint64(100) + (low >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return (low * np.uint64(10000) + (low >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
