"""Snapshots: a `ProcessImage` in a file, by the format of docs/snapshot-format.md; readable on any system.

The file is hostile until proved otherwise: every length is compared with what is there before anything is
allocated, every byte is covered by a checksum, and the columns are checked by `vmviz.live.check`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import struct
import tempfile
import zlib

import numpy as np

from vmviz.live.check import problems, texts
from vmviz.live.errors import SnapshotError
from vmviz.live.header import ColumnHeader, SnapshotHeader, TextHeader, header_text, read_header
from vmviz.live.image import U64, PageColumns, ProcessImage, TextColumn, VmaTable

VERSION = 1
MAGIC = b"VMVIZ-SNAPSHOT "
_PREFIX = struct.Struct("<QI")  # header length in bytes, crc32 of the header

MAX_FILE = 1 << 32
MAX_HEADER = 1 << 26
MAX_VMAS = 1 << 20
MAX_PAGES = 1 << 24
MAX_COLUMNS = 256
MAX_RAW = 1 << 30
# A deflate stream cannot grow by more than this factor, so a claim above it is a lie.
MAX_RATIO = 1032
_PIECE = 1 << 16

_VMA_COLUMNS = ("start", "end", "offset", "inode", "vm_flags")
_TEXT_COLUMNS = ("perms", "dev", "path", "codes")
_PAGE_COLUMNS = ("vpn", "entry", "pfn", "flags", "count")


def write_snapshot(image: ProcessImage, path: str | os.PathLike[str]) -> None:
    """Write ``image`` to ``path``; the file appears whole or not at all.

    Raises `SnapshotError` when the image is not sound or the file cannot be written.
    """
    target = os.fspath(path)
    for problem in problems(image):
        raise SnapshotError(target, None, f"this image cannot be saved: {problem.where}: {problem.why}")
    if len(image.vmas) > MAX_VMAS or len(image.pages) > MAX_PAGES:
        counts = f"{len(image.vmas)} VMAs and {len(image.pages)} pages"
        raise SnapshotError(target, None, f"{counts} are above the limits of {MAX_VMAS} and {MAX_PAGES}")
    data = encode(image)
    try:
        fd, temporary = tempfile.mkstemp(prefix=".snapshot-", dir=os.path.dirname(target) or ".")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.replace(temporary, target)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except (OSError, ValueError) as error:
        raise SnapshotError(target, None, f"it cannot be written: {_reason(error)}") from error


def read_snapshot(path: str | os.PathLike[str]) -> ProcessImage:
    """Read a snapshot written by `write_snapshot`.

    Raises `SnapshotError` with the byte offset for a missing, truncated, damaged, newer or hostile file.
    """
    target = os.fspath(path)
    try:
        status = os.stat(target)  # before opening: to open a pipe without a writer would wait for ever
        if not stat.S_ISREG(status.st_mode):
            raise SnapshotError(target, None, "it is not a regular file")
        if status.st_size > MAX_FILE:
            raise SnapshotError(target, None, f"it has {status.st_size} bytes, above the limit of {MAX_FILE}")
        with open(target, "rb") as file:
            data = file.read(status.st_size)
    except (OSError, ValueError) as error:
        raise SnapshotError(target, None, f"it cannot be read: {_reason(error)}") from error
    return decode(data, target)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def encode(image: ProcessImage) -> bytes:
    """Return the bytes of a snapshot of ``image``."""
    columns: dict[str, U64] = {f"vma.{name}": getattr(image.vmas, name) for name in _VMA_COLUMNS}
    columns |= {f"vma.{name}": text.ids for name, text in texts(image.vmas).items()}
    columns |= {f"vma.smaps.{name}": values for name, values in image.vmas.smaps.items()}
    for name in _PAGE_COLUMNS:
        if (values := getattr(image.pages, name)) is not None:
            columns[f"page.{name}"] = values
    blobs: list[bytes] = []
    headers: list[ColumnHeader] = []
    offset = 0
    for name, values in columns.items():
        blob = zlib.compress(np.ascontiguousarray(values, dtype="<u8").tobytes(), 1)
        headers.append(ColumnHeader(name, "<u8", len(values), offset, len(blob), zlib.crc32(blob)))
        blobs.append(blob)
        offset += len(blob)
    header = SnapshotHeader(
        pid=image.pid,
        name=image.name,
        page_size=image.page_size,
        cmdline=list(image.cmdline),
        kernel_release=image.kernel_release,
        taken=image.taken,
        pfns_visible=image.pfns_visible,
        missing_right=image.missing_right,
        warnings=list(image.warnings),
        notes=list(image.notes),
        counters=image.counters,
        layout=image.layout,
        unknown_ranges=[list(span) for span in image.unknown_ranges],
        texts=[TextHeader(name, list(text.values)) for name, text in texts(image.vmas).items()],
        columns=headers,
    )
    text = header_text(header)
    return b"".join((MAGIC, b"%d\n" % VERSION, _PREFIX.pack(len(text), zlib.crc32(text)), text, *blobs))


def decode(data: bytes, path: str = "snapshot") -> ProcessImage:
    """Return the image in the bytes of a snapshot; ``path`` is for messages.

    >>> image = ProcessImage(1, "x", 4096, VmaTable.of([]), PageColumns())
    >>> decode(encode(image)) == image
    True
    >>> decode(b"VMVIZ-SNAPSHOT 9")
    Traceback (most recent call last):
        ...
    vmviz.live.errors.SnapshotError: snapshot: byte 15: the version line is cut off
    """
    at = _check_version(data, path)
    if len(data) < at + _PREFIX.size:
        raise SnapshotError(path, len(data), "the file ends before the length of the header")
    length, crc = _PREFIX.unpack_from(data, at)
    at += _PREFIX.size
    if length > MAX_HEADER:
        raise SnapshotError(
            path, at - _PREFIX.size, f"a header of {length} bytes is above the limit of {MAX_HEADER}"
        )
    if length > len(data) - at:
        raise SnapshotError(
            path, len(data), f"the header has {length} bytes, but only {len(data) - at} are there"
        )
    text = data[at : at + length]
    if zlib.crc32(text) != crc:
        raise SnapshotError(path, at, "the header is damaged: its checksum differs")
    header = _read_header(text, path, at)
    columns = _read_columns(header.columns, data, at + length, path)
    return _assemble(header, columns, path, at, at + length)


def _check_version(data: bytes, path: str) -> int:
    if data[: len(MAGIC)] != MAGIC:
        short = MAGIC.startswith(data)
        raise SnapshotError(path, 0, "it is cut off" if data and short else "it is no vmviz snapshot")
    end = data.find(b"\n", len(MAGIC), len(MAGIC) + 10)
    if end < 0:
        raise SnapshotError(path, len(MAGIC), "the version line is cut off")
    text = data[len(MAGIC) : end]
    if not re.fullmatch(rb"[1-9][0-9]{0,8}", text):
        raise SnapshotError(path, len(MAGIC), f"{text!r} is no version number")
    if int(text) != VERSION:
        raise SnapshotError(
            path,
            len(MAGIC),
            f"it has version {int(text)}, and this vmviz reads up to {VERSION}: use a newer vmviz",
        )
    return end + 1


def _read_header(text: bytes, path: str, at: int) -> SnapshotHeader:
    try:
        return read_header(text)
    except json.JSONDecodeError as error:
        raise SnapshotError(path, at + error.pos, f"the header is no JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise SnapshotError(path, at, f"the header is not of the right form: {error}") from error


def _read_columns(headers: list[ColumnHeader], data: bytes, base: int, path: str) -> dict[str, U64]:
    if len(headers) > MAX_COLUMNS:
        raise SnapshotError(path, base, f"{len(headers)} columns are above the limit of {MAX_COLUMNS}")
    names: set[str] = set()
    expected = total = 0
    for column in headers:
        at = base + expected
        name, raw = column.name, column.rows * 8
        total += raw
        if name in names:
            raise SnapshotError(path, at, f"column {name!r:.60} is there twice")
        if column.dtype != "<u8":
            raise SnapshotError(path, at, f"column {name!r:.60} has type {column.dtype!r:.20}, not '<u8'")
        if column.offset != expected:
            raise SnapshotError(
                path, at, f"column {name!r:.60} claims offset {column.offset}, not {expected}"
            )
        if column.stored > len(data) - at:
            raise SnapshotError(
                path, len(data), f"the file ends inside column {name!r:.60}, which has {column.stored} bytes"
            )
        if (
            column.rows > (MAX_PAGES if name.startswith("page.") else MAX_VMAS)
            or total > MAX_RAW
            or raw > column.stored * MAX_RATIO
        ):
            raise SnapshotError(
                path, at, f"column {name!r:.60} claims {column.rows} rows, more than can be there"
            )
        names.add(name)
        expected += column.stored
    if base + expected != len(data):
        raise SnapshotError(
            path, base + expected, f"{len(data) - base - expected} bytes follow the last column"
        )
    return _unpacked(headers, memoryview(data)[base:], total, path, base)


def _unpacked(
    headers: list[ColumnHeader], data: memoryview, total: int, path: str, base: int
) -> dict[str, U64]:
    """The columns, all in one block of memory: first touches of pages cost more than unpacking."""
    block = np.empty(total, np.uint8)
    columns: dict[str, U64] = {}
    begin = 0
    for column in headers:
        at, name, end = base + column.offset, column.name, begin + column.rows * 8
        blob = data[column.offset : column.offset + column.stored]
        if zlib.crc32(blob) != column.crc32:
            raise SnapshotError(path, at, f"column {name!r:.60} is damaged: its checksum differs")
        try:
            whole = inflate(blob, block[begin:end].data)
        except zlib.error as error:
            raise SnapshotError(path, at, f"column {name!r:.60} cannot be unpacked: {error}") from error
        if not whole:
            raise SnapshotError(path, at, f"column {name!r:.60} does not unpack to its {column.rows} rows")
        columns[name] = block[begin:end].view("<u8").astype(np.uint64, copy=False)
        begin = end
    return columns


def inflate(packed: memoryview, out: memoryview) -> bool:
    """Unpack a zlib stream into ``out``; whether it was there wholly, and fills it.  Never takes more memory than that.

    >>> room = bytearray(5)
    >>> inflate(memoryview(zlib.compress(b"hello")), memoryview(room)), bytes(room)
    (True, b'hello')
    >>> inflate(memoryview(zlib.compress(b"hello!")), memoryview(room))
    False
    """
    stream = zlib.decompressobj()
    at = 0
    for i in range(0, len(packed), _PIECE):
        if stream.eof:
            return False
        rest: bytes | memoryview = packed[i : i + _PIECE]
        while True:
            piece = stream.decompress(rest, _PIECE)
            end = at + len(piece)
            if end > len(out):
                return False
            out[at:end] = piece
            at, rest = end, stream.unconsumed_tail
            if stream.eof or (not rest and len(piece) < _PIECE):
                break
    return at == len(out) and stream.eof and not stream.unused_data


def _assemble(header: SnapshotHeader, columns: dict[str, U64], path: str, at: int, base: int) -> ProcessImage:
    places = {column.name: base + column.offset for column in header.columns}
    values = {text.name: tuple(text.values) for text in header.texts}
    if len(header.texts) != len(_TEXT_COLUMNS) or set(values) != set(_TEXT_COLUMNS):
        raise SnapshotError(path, at, f"the text columns are not {', '.join(_TEXT_COLUMNS)}")
    needed = [f"vma.{name}" for name in _VMA_COLUMNS + _TEXT_COLUMNS] + [
        f"page.{name}" for name in _PAGE_COLUMNS[:3]
    ]
    for name in needed:
        if name not in columns:
            raise SnapshotError(path, at, f"column {name} is missing")
    smaps = {name[10:]: columns[name] for name in columns if name.startswith("vma.smaps.")}
    extra = (
        set(columns) - set(needed) - {"page.flags", "page.count"} - {f"vma.smaps.{name}" for name in smaps}
    )
    if extra:
        raise SnapshotError(
            path, places[min(extra)], f"column {min(extra)!r:.60} is not known to version {VERSION}"
        )
    if any(len(span) != 2 for span in header.unknown_ranges):
        raise SnapshotError(path, at, "unknown_ranges are not pairs")

    def text(name: str) -> TextColumn:
        return TextColumn(columns[f"vma.{name}"], values[name])

    vmas = VmaTable(
        start=columns["vma.start"],
        end=columns["vma.end"],
        offset=columns["vma.offset"],
        inode=columns["vma.inode"],
        vm_flags=columns["vma.vm_flags"],
        perms=text("perms"),
        dev=text("dev"),
        path=text("path"),
        codes=text("codes"),
        smaps=smaps,
    )
    pages = PageColumns(
        vpn=columns["page.vpn"],
        entry=columns["page.entry"],
        pfn=columns["page.pfn"],
        flags=columns.get("page.flags"),
        count=columns.get("page.count"),
    )
    image = ProcessImage(
        pid=header.pid,
        name=header.name,
        page_size=header.page_size,
        vmas=vmas,
        pages=pages,
        cmdline=tuple(header.cmdline),
        kernel_release=header.kernel_release,
        taken=header.taken,
        pfns_visible=header.pfns_visible,
        missing_right=header.missing_right,
        warnings=tuple(header.warnings),
        notes=tuple(header.notes),
        counters=header.counters,
        layout=header.layout,
        unknown_ranges=tuple((span[0], span[1]) for span in header.unknown_ranges),
    )
    for problem in problems(image):
        raise SnapshotError(path, places.get(problem.where, at), f"{problem.where}: {problem.why}")
    return image
