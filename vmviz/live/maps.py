"""Parsing /proc/PID/maps, and the lines that smaps has of it, into columns (written by show_map_vma).

The fast path takes records of equal shape together (`vmviz.live.records`) and converts whole columns; a
record of another shape takes the general path, line by line.  Both give the same table.
"""

from __future__ import annotations

import re

import attrs
import numpy as np
from numpy.typing import NDArray

from vmviz.live.errors import LiveError
from vmviz.live.image import U64, TextColumn, VmaTable
from vmviz.live.records import Index, gather, line_kinds

_HEAD = 40  # bytes up to the device number when both addresses have 12 hex digits and the offset 8


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
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")).astype(np.int64)
    if len(data) != (int(ends[-1]) + 1 if len(ends) else 0):
        raise LiveError("maps", "the last line is cut off")
    table, _ = parse_headers(data, np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends)
    return ParsedMaps(attrs.evolve(table, vm_flags=_flags_from_perms(table.perms)), data)


def _flags_from_perms(perms: TextColumn) -> U64:
    bits = [
        sum(1 << i for i in range(3) if text[i] != "-") | (0x88 if text[3] == "s" else 0)
        for text in perms.values
    ]
    return (
        np.array(bits, dtype=np.uint64)[perms.ids.astype(np.int64)] if bits else np.empty(0, dtype=np.uint64)
    )


def parse_headers(data: bytes, begins: Index) -> tuple[VmaTable, Index]:
    """Parse the maps lines that begin at ``begins``; return the table and where each line ends."""
    n = len(begins)
    numbers = np.zeros((n, 3), dtype=np.uint64)
    perms = np.zeros(n, dtype="S4")
    tails = begins.copy()
    general = np.ones(n, dtype=bool)
    long_enough = np.flatnonzero(begins + _HEAD <= len(data))
    rows = gather(data, begins[long_enough], _HEAD)
    shape = (rows[:, [12, 25, 30, 39]] == np.frombuffer(b"-   ", dtype=np.uint8)).all(axis=1)
    fast, rows = long_enough[shape], rows[shape]
    if len(fast):
        general[fast] = False
        digits = np.concatenate((rows[:, 0:12], rows[:, 13:25], rows[:, 31:39]), axis=1)
        try:
            binary = np.frombuffer(bytes.fromhex(digits.tobytes().decode("ascii")), dtype=np.uint8)
            binary = binary.reshape(-1, 16)  # fromhex skips blanks: the lengths differ then
            wide = np.zeros((len(rows), 3, 8), dtype=np.uint8)
            wide[:, 0, 2:], wide[:, 1, 2:], wide[:, 2, 4:] = binary[:, :6], binary[:, 6:12], binary[:, 12:]
        except ValueError as error:
            raise LiveError("maps", "an address is not hexadecimal") from error
        numbers[fast] = wide.view(">u8")[:, :, 0]
        perms[fast] = np.ascontiguousarray(rows[:, 26:30]).view("S4")[:, 0]
        tails[fast] += _HEAD
    for i in np.flatnonzero(general).tolist():
        begin = int(begins[i])
        line = data[begin : max(begin, data.find(b"\n", begin))]
        try:
            span, perm, offset, tail = line.split(b" ", 3)
            low, high = span.split(b"-")
            numbers[i] = int(low, 16), int(high, 16), int(offset, 16)
        except (ValueError, OverflowError) as error:
            raise LiveError("maps", f"line {i + 1} has not the form of a maps line: {line[:80]!r}") from error
        perms[i] = perm
        tails[i] += len(line) - len(tail)
    ends, kinds, texts = line_kinds(data, tails)
    return _assemble(numbers, perms, kinds, texts), ends


def number(digits: bytes, file: str) -> int:
    """The number of these decimal digits, in 64 bits; raises `ValueError` or `LiveError`."""
    value = int(digits)
    if value >> 64:
        raise LiveError(file, f"{digits[:24]!r}... is no number of 64 bits")
    return value


def _assemble(numbers: U64, perms: NDArray[np.bytes_], kinds: Index, tails: list[bytes]) -> VmaTable:
    found, perm_ids = np.unique(perms, return_inverse=True)
    names = [bytes(perm).decode("ascii", "replace") for perm in found]
    if any(re.fullmatch(r"[r-][w-][x-][ps]", name) is None for name in names):
        raise LiveError("maps", f"permissions are not of the form rwxp: {names}")
    devs: list[str] = []
    inodes: list[int] = []
    paths: list[str] = []
    for tail in tails:
        dev, _, rest = tail.partition(b" ")
        inode, _, path = rest.partition(b" ")
        try:
            inodes.append(number(inode, "maps"))
        except ValueError as error:
            raise LiveError("maps", f"no inode number in {tail[:80]!r}") from error
        devs.append(dev.decode("ascii", "replace"))
        # Paths are bytes; surrogateescape keeps those that are no UTF-8.
        paths.append(path.lstrip(b" ").decode("utf-8", "surrogateescape"))
    inode_of = np.array(inodes, dtype=np.uint64)

    def text(values: list[str]) -> TextColumn:
        distinct = TextColumn.of(values)
        return TextColumn(distinct.ids[kinds] if values else [], distinct.values)

    n = len(kinds)
    return VmaTable(
        start=numbers[:, 0],
        end=numbers[:, 1],
        offset=numbers[:, 2],
        inode=inode_of[kinds] if n else [],
        vm_flags=np.zeros(n, dtype=np.uint64),
        perms=TextColumn(perm_ids.astype(np.uint64), tuple(names)),
        dev=text(devs),
        path=text(paths),
        codes=TextColumn(np.zeros(n, dtype=np.uint64), ("",) if n else ()),
    )
