"""Parsing /proc/PID/maps and smaps into columns (written by show_map_vma and show_smap).

The fast path gathers equal-length records into one byte matrix and converts whole columns; a record of
another shape takes the general path, line by line.  Both give the same table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from vmviz.live.errors import LiveError
from vmviz.live.image import U64, TextColumn, VmaTable

_HEAD = 40  # bytes up to the device number when both addresses have 12 hex digits and the offset 8
_VALUE = re.compile(rb"^(\w+): *(\d+)(?: kB)?$", re.MULTILINE)
_Rows = NDArray[np.uint8]
_Index = NDArray[np.int64]


@attrs.frozen
class ParsedMaps:
    """The VMAs of one maps or smaps text; ``headers`` is the text of the maps lines alone."""

    vmas: VmaTable
    headers: bytes
    unknown_codes: tuple[str, ...] = ()


def parse_maps(data: bytes) -> ParsedMaps:
    """Parse the text of /proc/PID/maps; ``vm_flags`` hold only what the permissions tell.

    Raises `LiveError` for a text that has not the form of maps.

    >>> text = b"00400000-00401000 r-xp 00001000 fe:00 42                         /bin/true\\n"
    >>> vma = parse_maps(text).vmas[0]
    >>> hex(vma.start), vma.perms, vma.offset, vma.dev, vma.inode, vma.path
    ('0x400000', 'r-xp', 4096, 'fe:00', 42, '/bin/true')
    """
    raw = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(raw == ord("\n")).astype(np.int64)
    begins = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1] + 1)) if len(ends) else ends
    if len(data) != (int(ends[-1]) + 1 if len(ends) else 0):
        raise LiveError("maps", "the last line is cut off")
    table = _parse_headers(data, begins, ends)
    return ParsedMaps(attrs.evolve(table, vm_flags=_flags_from_perms(table.perms)), data)


def parse_smaps(data: bytes) -> ParsedMaps:
    """Parse the text of /proc/PID/smaps: the maps lines, every numeric line, and VmFlags.

    Raises `LiveError` for a text that has not the form of smaps, or that has no VmFlags (before Linux 3.8).
    """
    from vmviz.kernel.mm.flags import parse_vmflags  # noqa: PLC0415 - only smaps needs it

    begins: list[int] = []
    head_ends: list[int] = []
    flag_lines: list[int] = []
    code_ids: list[int] = []
    code_index: dict[bytes, int] = {}
    find = data.find
    begin = 0
    # A path cannot fake this marker: maps escapes newlines.
    while (at := find(b"\nVmFlags:", begin)) >= 0:
        end = find(b"\n", at + 9)
        if end < 0:
            raise LiveError("smaps", "the last line is cut off")
        begins.append(begin)
        head_ends.append(find(b"\n", begin))
        flag_lines.append(at + 1)
        code_ids.append(code_index.setdefault(data[at + 9 : end], len(code_index)))
        begin = end + 1
    if begin != len(data):
        raise LiveError("smaps", "it ends in lines without VmFlags (cut off, or from before Linux 3.8)")
    first, last = np.array(begins, dtype=np.int64), np.array(head_ends, dtype=np.int64)
    table = _parse_headers(data, first, last)
    codes = tuple(code.decode("ascii", "replace").strip() for code in code_index)
    parsed = [parse_vmflags(code) for code in codes]
    ids = np.array(code_ids, dtype=np.uint64)
    bits = np.array([flags for flags, _ in parsed], dtype=np.uint64)
    unknown = sorted({code for _, more in parsed for code in more})
    return ParsedMaps(
        attrs.evolve(
            table,
            vm_flags=bits[ids.astype(np.int64)] if len(bits) else [],
            codes=TextColumn(ids, codes),
            smaps=_parse_values(data, last + 1, np.array(flag_lines, dtype=np.int64)),
        ),
        b"".join([data[b : e + 1] for b, e in zip(begins, head_ends, strict=True)]),
        tuple(unknown),
    )


def _flags_from_perms(perms: TextColumn) -> U64:
    bits = [
        sum(1 << i for i in range(3) if text[i] != "-") | (0x88 if text[3] == "s" else 0)
        for text in perms.values
    ]
    return (
        np.array(bits, dtype=np.uint64)[perms.ids.astype(np.int64)] if bits else np.empty(0, dtype=np.uint64)
    )


def _gather(data: bytes, begins: _Index, width: int) -> _Rows:
    """Copy ``width`` bytes from each of ``begins`` into the rows of a matrix, one memcpy per row."""
    windows = np.ndarray((len(data) - width + 1,), dtype=f"V{width}", buffer=data, strides=(1,))
    return windows[begins].view(np.uint8).reshape(len(begins), width)


def _parse_headers(data: bytes, begins: _Index, ends: _Index) -> VmaTable:
    """Parse the maps lines [begins[i], ends[i]) of ``data``."""
    n = len(begins)
    numbers = np.zeros((n, 3), dtype=np.uint64)
    perms = np.zeros(n, dtype="S4")
    tails: list[bytes] = [b""] * n
    fast = np.zeros(n, dtype=bool)
    long_enough = np.flatnonzero(ends - begins >= _HEAD)
    if len(long_enough):
        rows = _gather(data, begins[long_enough], _HEAD)
        shape = (rows[:, [12, 25, 30, 39]] == np.frombuffer(b"-   ", dtype=np.uint8)).all(axis=1)
        fast[long_enough[shape]] = True
        rows = rows[shape]
        digits = np.concatenate((rows[:, 0:12], rows[:, 13:25], rows[:, 31:39]), axis=1)
        try:
            binary = np.frombuffer(bytes.fromhex(digits.tobytes().decode("ascii")), dtype=np.uint8).reshape(
                -1, 16
            )
        except ValueError as error:
            raise LiveError("maps", "an address is not hexadecimal") from error
        wide = np.zeros((len(rows), 3, 8), dtype=np.uint8)
        wide[:, 0, 2:], wide[:, 1, 2:], wide[:, 2, 4:] = binary[:, :6], binary[:, 6:12], binary[:, 12:]
        numbers[fast] = wide.view(">u8")[:, :, 0]
        perms[fast] = np.ascontiguousarray(rows[:, 26:30]).view("S4")[:, 0]
        for i, b, e in zip(
            np.flatnonzero(fast).tolist(), begins[fast].tolist(), ends[fast].tolist(), strict=True
        ):
            tails[i] = data[b + _HEAD : e]
    for i in np.flatnonzero(~fast).tolist():
        line = data[int(begins[i]) : int(ends[i])]
        try:
            span, perm, offset, tail = line.split(b" ", 3)
            low, high = span.split(b"-")
            numbers[i] = int(low, 16), int(high, 16), int(offset, 16)
        except (ValueError, OverflowError) as error:
            raise LiveError("maps", f"line {i + 1} has not the form of a maps line: {line[:80]!r}") from error
        perms[i], tails[i] = perm, tail
    return _assemble(numbers, perms, tails)


def _assemble(numbers: U64, perms: NDArray[np.bytes_], tails: Sequence[bytes]) -> VmaTable:
    kinds, perm_ids = np.unique(perms, return_inverse=True)
    names = [bytes(kind).decode("ascii", "replace") for kind in kinds]
    if any(re.fullmatch(r"[r-][w-][x-][ps]", name) is None for name in names):
        raise LiveError("maps", f"permissions are not of the form rwxp: {names}")
    index: dict[bytes, int] = {}
    tail_ids = np.array([index.setdefault(tail, len(index)) for tail in tails], dtype=np.int64)
    devs: list[str] = []
    inodes: list[int] = []
    paths: list[str] = []
    for tail in index:
        dev, _, rest = tail.partition(b" ")
        inode, _, path = rest.partition(b" ")
        try:
            inodes.append(int(inode))
        except ValueError as error:
            raise LiveError("maps", f"no inode number in {tail[:80]!r}") from error
        devs.append(dev.decode("ascii", "replace"))
        # Paths are bytes; surrogateescape keeps those that are no UTF-8.
        paths.append(path.lstrip(b" ").decode("utf-8", "surrogateescape"))
    inode_of = np.array(inodes, dtype=np.uint64)

    def text(values: list[str]) -> TextColumn:
        distinct = TextColumn.of(values)
        return TextColumn(distinct.ids[tail_ids] if values else [], distinct.values)

    n = len(tails)
    return VmaTable(
        start=numbers[:, 0],
        end=numbers[:, 1],
        offset=numbers[:, 2],
        inode=inode_of[tail_ids] if n else [],
        vm_flags=np.zeros(n, dtype=np.uint64),
        perms=TextColumn(perm_ids.astype(np.uint64), tuple(names)),
        dev=text(devs),
        path=text(paths),
        codes=TextColumn(np.zeros(n, dtype=np.uint64), ("",) if n else ()),
    )


def _decimal(field: _Rows) -> U64:
    """Convert rows of 8 right-aligned ASCII digits to numbers, eight digits at a time within one word."""
    x = np.ascontiguousarray(field).view("<u8")[:, 0] & np.uint64(0x0F0F0F0F0F0F0F0F)
    x = (x * np.uint64(10) + (x >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    x = (x * np.uint64(100) + (x >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return ((x * np.uint64(10000) + (x >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).astype(np.uint64)


def _parse_values(data: bytes, begins: _Index, ends: _Index) -> dict[str, U64]:
    """Parse the numeric lines of the smaps blocks [begins[i], ends[i])."""
    n = len(begins)
    if not n:
        return {}
    lengths = ends - begins
    kinds, counts = np.unique(lengths, return_counts=True)
    usual = lengths == kinds[counts.argmax()]
    width = int(kinds[counts.argmax()])
    template_at = int(begins[usual.argmax()])
    template = data[template_at : template_at + width]
    fields = {m[1].decode("ascii"): (m.start(2), m.end(2)) for m in _VALUE.finditer(template)}
    columns = {key: np.zeros(n, dtype=np.uint64) for key in fields}
    if width <= 0 or any(end < 8 for _, end in fields.values()):
        usual[:] = False
    else:
        rows = _gather(data, begins[usual], width)
        differs = (rows != np.frombuffer(template, dtype=np.uint8)).any(axis=0)
        labels = np.ones(width, dtype=bool)
        for _, end in fields.values():
            labels[end - 8 : end] = False
        if (differs & labels).any():
            usual[:] = False  # equal lengths, different lines: nothing may be assumed
        else:
            for key, (start, end) in fields.items():
                if differs[end - 8 : end].any():
                    columns[key][usual] = _decimal(rows[:, end - 8 : end])
                else:
                    columns[key][usual] = int(template[start:end])
    for i in np.flatnonzero(~usual).tolist():
        for match in _VALUE.finditer(data, int(begins[i]), int(ends[i])):
            key = match[1].decode("ascii")
            columns.setdefault(key, np.zeros(n, dtype=np.uint64))[i] = int(match[2])
    return columns
