"""The grammar's trees to nodes: reads numbers, works out places, checks the words of an expectation."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from lark import Token, Transformer_NonRecursive, v_args
from lark.tree import Meta

from vmviz.script.errors import ScriptError, Source
from vmviz.script.nodes import (
    Argument,
    Array,
    BinaryOperator,
    BinOp,
    Call,
    Changed,
    Dots,
    Event,
    Expectation,
    Expression,
    Keyword,
    Name,
    Number,
    Resumed,
    Statement,
    String,
    Struct,
    TraceLine,
    Unary,
    Unfinished,
)
from vmviz.script.values import (
    ERRNO_NAMES,
    SIGNAL_CODES,
    SIGNAL_NAMES,
    LiteralError,
    nearest,
    read_number,
    read_string,
)

if TYPE_CHECKING:
    from vmviz.script.parser import Chunk

_BLANKS = re.compile(r'("(?:[^"\\\n]|\\[^\n])*")|\s+')

_T = TypeVar("_T")


@v_args(meta=True)
class Builder(Transformer_NonRecursive[Token, Any]):
    """The grammar's tree to nodes.  The methods are named after the grammar's rules."""

    def __init__(self, source: Source, chunk: Chunk) -> None:
        super().__init__()
        self._source = source
        self._chunk = chunk

    def _place(self, meta: Meta | Token) -> dict[str, Any]:
        base = self._chunk.start
        place = self._source.place(base + (meta.start_pos or 0), base + (meta.end_pos or 0))
        return {"line": place.line, "column": place.column, "end_column": place.end_column}

    def _slice(self, meta: Meta) -> str:
        text = self._chunk.code[meta.start_pos : meta.end_pos]
        return _BLANKS.sub(lambda match: match[1] or " ", text)

    def _literal(self, token: Token, read: Callable[[str], _T], text: str) -> _T:
        try:
            return read(text)
        except LiteralError as error:
            start = self._chunk.start + (token.start_pos or 0)
            raise self._source.error(
                start + error.offset,
                start + max(len(text), error.offset + 1),
                error.message,
                expected=error.expected,
                found=repr(text[error.offset :][:40]),
            ) from None

    def _word(self, token: Token, valid: Collection[str], what: str) -> str:
        """A word of the expectation, which is written in capitals and one of few."""
        if str(token) in valid:
            return str(token)
        start = self._chunk.start + (token.start_pos or 0)
        raise self._source.error(
            start,
            start + len(token),
            f"unknown {what} {str(token)[:40]!r}",
            expected=(f"the name of {'an' if what[0] in 'aeiou' else 'a'} {what}",),
            found=repr(str(token)[:40]),
            suggestions=nearest(token, valid),
        )

    # -- expressions

    def number(self, meta: Meta, parts: list[Token]) -> Number:
        token = parts[0]
        text, mark, annotation = str(token).partition("<")
        digits = text.removesuffix("...")
        value, pages = self._literal(token, _read_abbreviated if digits != text else read_number, digits)
        note = annotation.removesuffix("(deleted)").removesuffix(">")
        if annotation.endswith("(deleted)"):
            note += " (deleted)"
        return Number(
            value,
            digits,
            unit_pages=pages,
            annotation=note if mark else None,
            abbreviated=digits != text,
            **self._place(meta),
        )

    def name(self, meta: Meta, parts: list[Token]) -> Name:
        text, mark, annotation = str(parts[0]).partition("<")
        return Name(text, annotation.removesuffix(">") if mark else None, **self._place(meta))

    def string(self, meta: Meta, parts: list[Token]) -> String:
        value = self._literal(parts[0], read_string, str(parts[0]))
        return String(value, parts[1] is not None, **self._place(meta))

    def negative(self, meta: Meta, parts: list[Any]) -> Expression:
        place, operand = self._place(meta), parts[1]
        plain = isinstance(operand, Number) and not operand.abbreviated and operand.annotation is None
        if not plain or operand.text.startswith("-"):
            return Unary("-", operand, **place)
        return self._negate(operand, place)

    def _negate(self, number: Number, place: dict[str, Any]) -> Number:
        if number.value > 1 << 63:
            raise ScriptError.at(
                number,
                "the number does not fit into 64 bits",
                source=self._source.text,
                filename=self._source.filename,
                expected=(f"a number down to -{1 << 63:#x}",),
                found=f"'-{number.text}'",
            )
        return attrs.evolve(number, value=-number.value, text=f"-{number.text}", **place)

    def invert(self, meta: Meta, parts: list[Expression]) -> Unary:
        return Unary("~", parts[0], **self._place(meta))

    def _binary(self, op: BinaryOperator, meta: Meta, parts: list[Any]) -> BinOp:
        return BinOp(op, parts[0], parts[-1], **self._place(meta))

    def bit_or(self, meta: Meta, parts: list[Any]) -> BinOp:
        return self._binary("|", meta, parts)

    def shift_left(self, meta: Meta, parts: list[Any]) -> BinOp:
        return self._binary("<<", meta, parts)

    def add(self, meta: Meta, parts: list[Any]) -> BinOp:
        return self._binary("+", meta, parts)

    def subtract(self, meta: Meta, parts: list[Any]) -> BinOp:
        return self._binary("-", meta, parts)

    def multiply(self, meta: Meta, parts: list[Any]) -> BinOp:
        return self._binary("*", meta, parts)

    def array(self, meta: Meta, _parts: list[Any]) -> Array:
        return Array(self._slice(meta), **self._place(meta))

    def struct(self, meta: Meta, _parts: list[Any]) -> Struct:
        return Struct(self._slice(meta), **self._place(meta))

    def call(self, meta: Meta, parts: list[Any]) -> Call:
        return Call(str(parts[0]), tuple(parts[1] or ()), **self._place(meta))

    def args(self, _meta: Meta, parts: list[Any]) -> list[Argument]:
        if len(parts) == 1:
            return parts
        parts[0].append(parts[1])
        appended: list[Argument] = parts[0]
        return appended

    def keyword(self, meta: Meta, parts: list[Any]) -> Keyword:
        return Keyword(str(parts[0]), parts[1], **self._place(meta))

    def changed(self, meta: Meta, parts: list[Expression]) -> Changed:
        return Changed(parts[0], parts[1], **self._place(meta))

    def dots(self, meta: Meta, _parts: list[Any]) -> Dots:
        return Dots(**self._place(meta))

    # -- what is expected

    def outcome_value(self, _meta: Meta, parts: list[Any]) -> Expectation:
        minus, number, name = parts
        value = number
        if minus is not None:
            place = self._place(minus) | {"end_column": number.end_column}
            value = self._negate(number, place)
        if name is None:
            return Expectation("value", value)
        errno = self._word(name, ERRNO_NAMES, "errno")
        if value.value != -1:
            raise ScriptError.at(
                value,
                f"an errno goes with -1, not with {value.text}",
                source=self._source.text,
                filename=self._source.filename,
                expected=("-1",),
                found=repr(value.text),
                suggestions=(f"-1 {errno}",),
            )
        return Expectation("error", value, errno)

    def outcome_unknown(self, _meta: Meta, parts: list[Any]) -> Expectation:
        errno = None if parts[0] is None else self._word(parts[0], ERRNO_NAMES, "errno")
        return Expectation("unknown", errno=errno)

    def outcome_signal(self, _meta: Meta, parts: list[Any]) -> Expectation:
        name, code = parts
        if code is None and str(name) in ERRNO_NAMES:
            start = self._chunk.start + (name.start_pos or 0)
            raise self._source.error(
                start,
                start + len(name),
                "an errno stands behind -1",
                expected=("'-1'",),
                found=repr(str(name)),
                suggestions=(f"-1 {name}",),
            )
        signal = self._word(name, SIGNAL_NAMES, "signal")
        meaning = None if code is None else self._word(code, SIGNAL_CODES, "signal code")
        return Expectation("signal", signal=signal, code=meaning)

    def expectation(self, meta: Meta, parts: list[Any]) -> Expectation:
        outcome, remark, duration = parts
        node: Expectation = attrs.evolve(
            outcome,
            remark=None if remark is None else " ".join(remark[1:-1].split()),
            duration=None if duration is None else str(duration[1:-1]),
            **self._place(meta),
        )
        return node

    # -- statements and lines of a log

    def call_statement(self, meta: Meta, parts: list[Any]) -> Statement:
        return Statement(parts[0], expect=parts[1], **self._place(meta))

    def assignment(self, meta: Meta, parts: list[Any]) -> Statement:
        expect = parts[2] if len(parts) > 2 else None
        return Statement(parts[1], str(parts[0]), expect, **self._place(meta))

    def unfinished(self, meta: Meta, parts: list[Any]) -> Unfinished:
        return Unfinished(str(parts[0]), tuple(parts[1] or ()), **self._place(meta))

    def resumed(self, meta: Meta, parts: list[Any]) -> Resumed:
        return Resumed(parts[0].split()[1], tuple(parts[1] or ()), parts[2], **self._place(meta))

    def resumed_changed(self, meta: Meta, parts: list[Any]) -> Resumed:
        """What a call made of the last argument of its first half is of no interest: ``=> {parent_tid=[7]}``."""
        return Resumed(parts[0].split()[1], tuple(parts[2] or ()), parts[3], **self._place(meta))

    def event(self, meta: Meta, parts: list[Token]) -> Event:
        place = self._place(meta)
        if parts[0].type == "NOTE_EVENT":
            return Event("note", parts[0].removeprefix("strace:").strip(), **place)
        detail = " ".join(str(parts[0])[4:-4].split())
        signal = re.search(r"\bSIG[A-Z0-9_]+", detail)
        name = signal[0] if signal else None
        if parts[0].type == "SIGNAL_EVENT":
            return Event(
                "stopped" if detail.startswith("stopped") else "signal", detail, signal=name, **place
            )
        status = re.search(r"exited with (\d{1,9})", detail)
        if status:
            return Event("exited", detail, int(status[1]), **place)
        return Event(
            "superseded" if detail.startswith("superseded") else "killed", detail, signal=name, **place
        )

    def statement(self, meta: Meta, parts: list[Any]) -> TraceLine:
        return self._line(meta, parts[0], None, parts[1])

    def trace_line(self, meta: Meta, parts: list[Any]) -> TraceLine:
        return self._line(meta, *parts)

    def _line(self, meta: Meta, pid: Token | None, stamp: Token | None, node: TraceLine) -> TraceLine:
        changes: dict[str, Any] = {"text": self._chunk.text, **self._place(meta)}
        if pid is not None:
            digits = pid.removeprefix("[pid").rstrip("]").strip()
            changes["pid"] = self._literal(pid, lambda _: _read_pid(digits), str(pid))
        if stamp is not None:
            changes["timestamp"] = str(stamp)
        if isinstance(node, Statement):
            changes["comment"] = self._chunk.comment
        return attrs.evolve(node, **changes)


def _read_abbreviated(digits: str) -> tuple[int, bool]:
    """A number that ``...`` follows: the leading digits of an address."""
    if digits[:2] not in ("0x", "0X"):
        raise LiteralError("only a hexadecimal number can be abbreviated", 0, ("a number", "0x7f..."))
    return read_number(digits)


def _read_pid(digits: str) -> int:
    if len(digits.lstrip("0")) > 10:
        raise LiteralError("the process id is too large", 0, ("a process id",))
    return int(digits)
