"""What is in pages: each content kept once, by number, and columns of such numbers.

Linux has no counterpart: its pages hold bytes.  Here most pages are alike (zeros, one byte at the start), so a
number per page is enough.
"""

from __future__ import annotations

import numpy as np

from ..errors import UnsupportedError
from ..trace.store import Column

MAX_CONTENTS = 65_536
"""How many different page contents are kept; a write that would make one more is refused."""

UNKNOWN_CONTENT = 1
"""The number of a page whose contents nobody has read: one of an imported process."""

Spans = tuple[tuple[int, int], ...]
"""The known parts of a page, ``(start, end)`` in bytes, ascending."""


class Contents:
    """Page contents by number, each kept once; 0 is a page of zeros.  Values never change, so undo needs
    nothing here.

    Of an unknown page (`UNKNOWN_CONTENT`) only the bytes that are written are known afterwards.  Trailing
    zeros are not kept.  The store is bounded: beyond `MAX_CONTENTS` it raises `UnsupportedError`.

    >>> c = Contents(); n = c.written(0, 2, b"hi"); c.read(n, 0, 6)
    b'\\x00\\x00hi\\x00\\x00'
    >>> c.written(n, 2, bytes(2))
    0
    >>> n = c.written(UNKNOWN_CONTENT, 2, b"hi"); c.known(n, 2, 2), c.known(n, 2, 3)
    (True, False)
    """

    def __init__(self) -> None:
        self._by_number: list[bytes] = [b"", b""]
        self._known: list[Spans | None] = [None, ()]  # None: all of it
        self._number: dict[tuple[bytes, Spans | None], int] = {(b"", None): 0, (b"", ()): UNKNOWN_CONTENT}
        self._with_byte: dict[int, int] = {}  # a number, offset and byte -> the number that they make

    def read(self, number: int, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset`` of page content ``number``; unknown ones as zeros: see `known`."""
        return self._by_number[number][offset : offset + length].ljust(length, b"\0")

    def known(self, number: int, offset: int, length: int) -> bool:
        """Whether all of ``length`` bytes at ``offset`` of page content ``number`` are known."""
        spans = self._known[number]
        return spans is None or any(start <= offset and offset + length <= end for start, end in spans)

    def written(self, number: int, offset: int, data: bytes) -> int:
        """The number of the content that ``number`` becomes when ``data`` is written at ``offset``."""
        page = bytearray(self._by_number[number].ljust(offset + len(data), b"\0"))
        page[offset : offset + len(data)] = data
        spans = self._known[number]
        if spans is not None and data:
            spans = _joined(spans, offset, offset + len(data))
        return self.number(bytes(page), spans)

    def with_byte(self, number: int, offset: int, byte: int) -> int:
        """`written` for one byte, looked up where the same was written before."""
        key = number << 20 | offset << 8 | byte
        n = self._with_byte.get(key)
        if n is None:
            if len(self._with_byte) >= MAX_CONTENTS:
                self._with_byte.clear()
            n = self._with_byte[key] = self.written(number, offset, bytes((byte,)))
        return n

    def number(self, page: bytes, known: Spans | None = None) -> int:
        """The number of a content, of which all (None) or only some parts are known.

        Raises `UnsupportedError` when `MAX_CONTENTS` different ones are kept already.
        """
        key = page.rstrip(b"\0"), known
        n = self._number.get(key)
        if n is None:
            if len(self._by_number) >= MAX_CONTENTS:
                raise UnsupportedError(
                    f"vmviz keeps at most {MAX_CONTENTS} different page contents, and this write needs one more"
                )
            n = len(self._by_number)
            self._by_number.append(key[0])
            self._known.append(known)
            self._number[key] = n
        return n

    def bytes_of(self, number: int) -> bytes:
        """The content without its trailing zeros; of a page that is not all known, what is known in words
        before it.
        """
        spans = self._known[number]
        if spans is None:
            return self._by_number[number]
        return f"?{','.join(f'{a}-{b}' for a, b in spans)}:".encode() + self._by_number[number]


def _joined(spans: Spans, start: int, end: int) -> Spans | None:
    """Spans with one more, those that touch joined; None when they cover a page.

    >>> _joined(((0, 4), (8, 9)), 4, 8), _joined(((0, 100),), 100, 4096)
    (((0, 9),), None)
    """
    out: list[tuple[int, int]] = []
    for a, b in sorted((*spans, (start, end))):
        if out and a <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], b)
        else:
            out.append((a, b))
    return None if out == [(0, 4096)] else tuple(out)


class ContentColumn(Column):
    """A column of content numbers; its canonical bytes are the contents, as numbers depend on history."""

    def __init__(self, name: str, length: int, contents: Contents) -> None:
        super().__init__(name, length, np.int32)
        self.contents = contents

    def serial(self) -> bytes:
        """The non-empty pages with their bytes."""
        unknown = self.array == UNKNOWN_CONTENT
        out = [
            b"%d:%d:" % (i, len(data)) + data
            for i in np.flatnonzero((self.array != 0) & ~unknown).tolist()
            if (data := self.contents.bytes_of(self.flat[i]))
        ]
        if unknown.any():
            out.append(b"unknown:" + np.flatnonzero(unknown).astype("<i8").tobytes())
        return b"".join(out)
