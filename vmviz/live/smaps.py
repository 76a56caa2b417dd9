"""Parsing /proc/PID/smaps into columns, block by block as it is read (written by show_smap).

A block is taken while the processor's cache still holds it; the whole text of a large process, hundreds of
bytes for each VMA, is never in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import attrs
import numpy as np

from vmviz.live.errors import LiveError
from vmviz.live.image import U64, TextColumn, VmaTable
from vmviz.live.maps import ParsedMaps, number, parse_headers
from vmviz.live.records import Index, decimals, differing, joined, line_kinds, positions

_VALUE = re.compile(rb"^(\w+): *(\d+)(?: kB)?$", re.MULTILINE)
_LAST = b"\nVmFlags:"  # of each record; a path cannot fake it: maps escapes newlines
_TAIL = 1 << 12  # bytes of a block in which its last record mostly ends
_LONGEST = 1 << 20  # of a record; the path makes up most of it and has 4 * 4096 bytes at most


def parse_smaps_blocks(blocks: Iterable[bytes | memoryview]) -> ParsedMaps:
    """Parse a text of smaps that comes in pieces, cut anywhere; as `parse_smaps`."""
    parts = Parts()
    for part in smaps_parts(blocks):
        parts.add(part)
    return parts.whole()


def smaps_parts(blocks: Iterable[bytes | memoryview]) -> Iterator[ParsedMaps]:
    """Parse a text of smaps part by part, as it comes; `Parts` makes one of them."""
    return map(parse_smaps, _whole_records(blocks))


def _whole_records(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        view = memoryview(block)
        cut = _end_of_records(bytes(view[-_TAIL:]))
        if cut:  # as nearly always: what is large is copied once
            cut += max(0, len(view) - _TAIL)
            yield b"".join((rest, view[:cut]))
            rest = bytes(view[cut:])
            continue
        text = rest + block
        cut = _end_of_records(text)
        if cut:
            yield text[:cut]
        elif len(text) > _LONGEST:
            raise LiveError("smaps", "it has no VmFlags lines (from before Linux 3.8?)")
        rest = text[cut:]
    if rest:
        yield rest


def _end_of_records(text: bytes) -> int:
    """Where the last VmFlags line ends that another newline ends, 0 if there is none."""
    at = text.rfind(_LAST, 0, max(0, text.rfind(b"\n")))
    return text.index(b"\n", at + 1) + 1 if at >= 0 else 0


class Parts:
    """The tables of consecutive parts as one, which is made as they come; for ``expected`` VMAs, or more."""

    def __init__(self, expected: int = 0) -> None:
        self._room = expected
        self._rows = 0
        self._columns: dict[tuple[str, str], U64] = {}  # 0 where nothing was told
        self._texts: dict[str, dict[str, int]] = {name: {} for name in ("perms", "dev", "path", "codes")}
        self._headers: list[bytes] = []
        self._unknown: set[str] = set()

    def add(self, part: ParsedMaps) -> None:
        """Take the next part."""
        table = part.vmas
        rows = slice(self._rows, self._rows + len(table))
        if rows.stop > self._room:
            self._room = max(rows.stop, 2 * self._rows)
            for name, narrow in self._columns.items():
                self._columns[name] = np.zeros(self._room, dtype=np.uint64)
                self._columns[name][: self._rows] = narrow[: self._rows]
        for key in ("start", "end", "offset", "inode", "vm_flags"):
            self._column("vma", key)[rows] = getattr(table, key)
        for key, index in self._texts.items():
            text: TextColumn = getattr(table, key)
            new = [index.setdefault(value, len(index)) for value in text.values]
            self._column("vma", key)[rows] = np.array(new, dtype=np.uint64)[text.ids.view(np.int64)]
        for key, values in table.smaps.items():
            self._column("smaps", key)[rows] = values
        self._rows = rows.stop
        self._headers.append(part.headers)
        self._unknown.update(part.unknown_codes)

    def _column(self, kind: str, key: str) -> U64:
        found = self._columns.get((kind, key))
        if found is None:
            found = self._columns[kind, key] = np.zeros(self._room, dtype=np.uint64)
        return found

    def whole(self) -> ParsedMaps:
        """All parts as one."""

        def column(key: str, kind: str = "vma") -> U64:
            return self._column(kind, key)[: self._rows]

        def text(key: str) -> TextColumn:
            return TextColumn(column(key), tuple(self._texts[key]))

        vmas = VmaTable(
            start=column("start"),
            end=column("end"),
            offset=column("offset"),
            inode=column("inode"),
            vm_flags=column("vm_flags"),
            perms=text("perms"),
            dev=text("dev"),
            path=text("path"),
            codes=text("codes"),
            smaps={key: column(key, kind) for kind, key in self._columns if kind == "smaps"},
        )
        return ParsedMaps(vmas, b"".join(self._headers), tuple(sorted(self._unknown)))


def parse_smaps(data: bytes) -> ParsedMaps:
    """Parse the text of /proc/PID/smaps: the maps lines, every numeric line, and VmFlags.

    Raises `LiveError` for a text that has not the form of smaps, or that has no VmFlags (before Linux 3.8).
    """
    from vmviz.kernel.mm.flags import parse_vmflags  # noqa: PLC0415 - only smaps needs it

    flag_lines = positions(data, _LAST) + 1
    flag_ends, code_ids, code_texts = line_kinds(data, flag_lines + len(b"VmFlags:"))
    if (flag_ends < 0).any():
        raise LiveError("smaps", "the last line is cut off")
    if len(data) != (int(flag_ends[-1]) + 1 if len(flag_ends) else 0):
        raise LiveError("smaps", "it ends in lines without VmFlags (cut off, or from before Linux 3.8)")
    begins = np.concatenate(([0], flag_ends[:-1] + 1)) if len(flag_ends) else flag_ends
    table, head_ends = parse_headers(data, begins)
    codes = tuple(code.decode("ascii", "replace").strip() for code in code_texts)
    parsed = [parse_vmflags(code) for code in codes]
    bits = np.array([flags for flags, _ in parsed], dtype=np.uint64)
    unknown = sorted({code for _, more in parsed for code in more})
    return ParsedMaps(
        attrs.evolve(
            table,
            vm_flags=bits[code_ids] if len(bits) else [],
            codes=TextColumn(code_ids.astype(np.uint64), codes),
            smaps=_parse_values(data, head_ends + 1, flag_lines),
        ),
        joined(data, begins, head_ends + 1),
        tuple(unknown),
    )


def _parse_values(data: bytes, begins: Index, ends: Index) -> dict[str, U64]:
    """Parse the numeric lines of the smaps blocks [begins[i], ends[i])."""
    n = len(begins)
    if not n:
        return {}
    lengths = ends - begins
    kinds, counts = np.unique(lengths, return_counts=True)
    width = int(kinds[counts.argmax()])
    usual = np.flatnonzero(lengths == width)
    columns = _usual_values(data, begins[usual], width) if width >= 8 else None
    if columns is None:  # nothing may be assumed of them
        columns, usual = {}, usual[:0]
    if len(usual) < n:
        for key, values in columns.items():
            columns[key] = np.zeros(n, dtype=np.uint64)
            columns[key][usual] = values
        rest = np.ones(n, dtype=bool)
        rest[usual] = False
        for i in np.flatnonzero(rest).tolist():
            for match in _VALUE.finditer(data, int(begins[i]), int(ends[i])):
                key = match[1].decode("ascii")
                columns.setdefault(key, np.zeros(n, dtype=np.uint64))[i] = number(match[2], "smaps")
    return columns


def _usual_values(data: bytes, begins: Index, width: int) -> dict[str, U64] | None:
    """The numbers of blocks of equal length; None when they differ in more than 8 digits of each number."""
    first = int(begins[0])
    fields = {m[1].decode("ascii"): m for m in _VALUE.finditer(data, first, first + width)}
    differs = differing(data, begins, width)
    columns: dict[str, U64] = {}
    for key, match in fields.items():
        end = match.end(2) - first
        if end < 8:
            return None
        if differs[end - 8 : end].any():
            if len(match[2]) > 8:
                return None
            values = decimals(data, begins + end)
            if values is None:
                return None
            columns[key] = values
            differs[end - 8 : end] = False
        else:
            columns[key] = np.full(len(begins), number(match[2], "smaps"), dtype=np.uint64)
    return None if differs.any() else columns
