"""The JSON header of a snapshot: which fields there are and of which kind, by docs/snapshot-format.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Kind: TypeAlias = Callable[[Any, str], Any]
"""Returns a value as it was read; raises ValueError, naming the place, where it is of another kind."""


class ColumnHeader:
    """Where a column lies: ``offset`` from the end of the header, ``stored`` size in bytes."""

    __slots__ = ("crc32", "dtype", "name", "offset", "rows", "stored")

    def __init__(self, name: str, dtype: str, rows: int, offset: int, stored: int, crc32: int) -> None:
        self.name = name
        self.dtype = dtype
        self.rows = rows
        self.offset = offset
        self.stored = stored
        self.crc32 = crc32


def _exactly(kind: type) -> Kind:
    def read(value: Any, where: str) -> Any:
        if type(value) is not kind:  # a bool is no number here
            raise ValueError(f"{where}: {value!r:.40} is no {kind.__name__}")
        return value

    return read


_flag, _text, _list, _dict = _exactly(bool), _exactly(str), _exactly(list), _exactly(dict)
_int = _exactly(int)


def _number(value: Any, where: str) -> int:
    number: int = _int(value, where)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{where}: {number:#x} is out of range")
    return number


def _text_or_none(value: Any, where: str) -> str | None:
    return None if value is None else str(_text(value, where))


def _list_of(kind: Kind) -> Kind:
    def read(value: Any, where: str) -> list[Any]:
        return [kind(item, f"{where}[{i}]") for i, item in enumerate(_list(value, where))]

    return read


def _numbers(value: Any, where: str) -> dict[str, int]:
    return {name: _number(item, f"{where}.{name:.40}") for name, item in _dict(value, where).items()}


def _record(fields: Mapping[str, Kind]) -> Kind:
    def read(value: Any, where: str) -> dict[str, Any]:
        given = _dict(value, where)
        for name in fields:
            if name not in given:
                raise ValueError(f"{where}: {name} is missing")
        for name in given:
            if name not in fields:
                raise ValueError(f"{where}: {name!r:.40} is not known")
        return {name: kind(given[name], f"{where}.{name}") for name, kind in fields.items()}

    return read


_column = _record(
    {"name": _text, "dtype": _text, "rows": _number, "offset": _number, "stored": _number, "crc32": _number}
)
_header = _record(
    {
        "pid": _number,
        "name": _text,
        "page_size": _number,
        "cmdline": _list_of(_text),
        "kernel_release": _text,
        "taken": _text_or_none,
        "pfns_visible": _flag,
        "missing_right": _text,
        "warnings": _list_of(_text),
        "notes": _list_of(_text),
        "counters": _numbers,
        "layout": _numbers,
        "unknown_ranges": _list_of(_list_of(_number)),
        "texts": _list_of(_record({"name": _text, "values": _list_of(_text)})),
        "columns": _list_of(lambda value, where: ColumnHeader(**_column(value, where))),
    }
)


def read_header(text: bytes) -> dict[str, Any]:
    """The fields of version 1, which are those of `ProcessImage`, the distinct ``texts`` and the ``columns``.

    Raises json.JSONDecodeError where it is no JSON, else ValueError with the place and why.

    >>> read_header(b'{"pid": true}')
    Traceback (most recent call last):
        ...
    ValueError: header: name is missing
    """
    fields: dict[str, Any] = _header(json.loads(text), "header")
    return fields


def header_text(columns: list[ColumnHeader], **fields: Any) -> bytes:
    """The header as it is written; ASCII, which keeps paths that are no UTF-8 (lone surrogates) in valid JSON."""
    told = [{name: getattr(column, name) for name in ColumnHeader.__slots__} for column in columns]
    return json.dumps({**fields, "columns": told}, ensure_ascii=True, separators=(",", ":")).encode("ascii")
