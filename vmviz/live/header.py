"""The JSON header of a snapshot: which fields there are and of which kind, by docs/snapshot-format.md."""

from __future__ import annotations

import json
from typing import TypeVar

import attrs
import cattrs

from vmviz.kernel.value import Value

T = TypeVar("T")


@attrs.frozen(eq=False, repr=False)
class ColumnHeader(Value):
    """Where a column lies: ``offset`` from the end of the header, ``stored`` size in bytes."""

    name: str
    dtype: str
    rows: int
    offset: int
    stored: int
    crc32: int


@attrs.frozen(eq=False, repr=False)
class TextHeader(Value):
    """The distinct texts of one text column."""

    name: str
    values: list[str]


@attrs.frozen(eq=False, repr=False)
class SnapshotHeader(Value):
    """The fields of version 1, which are those of `ProcessImage`, the distinct ``texts`` and the ``columns``."""

    pid: int
    name: str
    page_size: int
    cmdline: list[str]
    kernel_release: str
    taken: str | None
    pfns_visible: bool
    missing_right: str
    warnings: list[str]
    notes: list[str]
    counters: dict[str, int]
    layout: dict[str, int]
    unknown_ranges: list[list[int]]
    texts: list[TextHeader]
    columns: list[ColumnHeader]


def _strict(value: object, kind: type[T]) -> T:
    if type(value) is not kind:  # a bool is no number here
        raise ValueError(f"{value!r:.40} is no {kind.__name__}")
    return value


def _number(value: object, _: object) -> int:
    number = _strict(value, int)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number:#x} is out of range")
    return number


def _converter(*, detailed: bool) -> cattrs.Converter:
    """``detailed``: it says where something is wrong; to make such a one takes twice as long."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=detailed)
    converter.register_structure_hook(int, _number)
    converter.register_structure_hook(bool, lambda value, _: _strict(value, bool))
    converter.register_structure_hook(str, lambda value, _: _strict(value, str))
    converter.register_structure_hook(
        str | None, lambda value, _: None if value is None else _strict(value, str)
    )
    return converter


def read_header(text: bytes) -> SnapshotHeader:
    """The header that ``text`` is.

    Raises json.JSONDecodeError where it is no JSON, else ValueError with the place and why.

    >>> read_header(b'[]')
    Traceback (most recent call last):
        ...
    ValueError: expected a mapping @ header
    """
    fields = json.loads(text)
    try:
        if not isinstance(fields, dict):
            raise ValueError("expected a mapping @ header")
        try:
            return _converter(detailed=False).structure(fields, SnapshotHeader)
        except Exception:
            return _converter(detailed=True).structure(fields, SnapshotHeader)
    except cattrs.BaseValidationError as error:
        raise ValueError("; ".join(cattrs.transform_error(error, path="header"))[:400]) from error
    except (ValueError, RecursionError):
        raise
    except Exception as error:  # a foreign header must never become a traceback, whatever cattrs meets in it
        raise ValueError(str(error)) from error


def header_text(header: SnapshotHeader) -> bytes:
    """The header as it is written; ASCII, which keeps paths that are no UTF-8 (lone surrogates) in valid JSON."""
    return json.dumps(attrs.asdict(header), ensure_ascii=True, separators=(",", ":")).encode("ascii")
