"""Parsing /proc/PID/smaps into columns, block by block as it is read (written by show_smap).

A block is taken while the processor's cache still holds it; the whole text of a large process, hundreds of
bytes for each VMA, is never in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import attrs
import numpy as np

from vmviz.live.errors import LiveError
from vmviz.live.image import U64, TextColumn, VmaTable
from vmviz.live.maps import ParsedMaps, number, parse_headers
from vmviz.live.records import Index, decimals, differing, joined, line_kinds, positions

_VALUE = re.compile(rb"^(\w+): *(\d+)(?: kB)?$", re.MULTILINE)
_LAST = b"\nVmFlags:"  # of each record; a path cannot fake it: maps escapes newlines
_LONGEST = 1 << 20  # of a record; the path makes up most of it and has 4 * 4096 bytes at most


def parse_smaps_blocks(blocks: Iterable[bytes]) -> ParsedMaps:
    """Parse a text of smaps that comes in pieces, cut anywhere; as `parse_smaps`."""
    return _joined([parse_smaps(records) for records in _whole_records(blocks)])


def _whole_records(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        text = rest + block
        # Up to the last VmFlags line that another newline ends.
        at = text.rfind(_LAST, 0, max(0, text.rfind(b"\n")))
        if at < 0:
            if len(text) > _LONGEST:
                raise LiveError("smaps", "it has no VmFlags lines (from before Linux 3.8?)")
            rest = text
            continue
        cut = text.index(b"\n", at + 1) + 1
        yield text[:cut]
        rest = text[cut:]
    if rest:
        yield rest


def _joined(parts: Sequence[ParsedMaps]) -> ParsedMaps:
    """The tables of consecutive pieces as one."""
    if len(parts) == 1:
        return parts[0]
    tables = [part.vmas for part in parts]
    keys = dict.fromkeys(key for table in tables for key in table.smaps)

    def column(name: str) -> U64:
        return (
            np.concatenate([getattr(table, name) for table in tables]) if tables else np.empty(0, np.uint64)
        )

    def text(name: str) -> TextColumn:
        return TextColumn.joined([getattr(table, name) for table in tables])

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
        smaps={
            key: np.concatenate(
                [t.smaps[key] if key in t.smaps else np.zeros(len(t), dtype=np.uint64) for t in tables]
            )
            for key in keys
        },
    )
    unknown = {code for part in parts for code in part.unknown_codes}
    return ParsedMaps(vmas, b"".join(part.headers for part in parts), tuple(sorted(unknown)))


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
