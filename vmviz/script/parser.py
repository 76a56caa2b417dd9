"""Text to syntax tree: statements are cut out of the text here, and the grammar reads each of them.

The cutting knows strings, comments and brackets only: a statement ends at a line end or ``;`` outside of
brackets.  It limits the nesting too, so that no later step can run out of stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from functools import cache
from importlib import resources
from typing import Any, NoReturn, TypeVar

import attrs
from lark import Lark, Token, Transformer_NonRecursive, UnexpectedToken, v_args
from lark.exceptions import UnexpectedInput, VisitError
from lark.tree import Meta

from vmviz.script.errors import ScriptError, Source
from vmviz.script.nodes import (
    Argument,
    Array,
    BinaryOperator,
    BinOp,
    Call,
    Changed,
    Comment,
    Dots,
    Event,
    Expectation,
    Expression,
    Keyword,
    Name,
    Number,
    Resumed,
    Script,
    Statement,
    String,
    Struct,
    TraceLine,
    Unary,
    Unfinished,
    walk,
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

MAX_DEPTH = 100
"""The deepest nesting of brackets and operators in one statement."""

_LAYOUT = re.compile(
    r"""
      (?P<annotation> (?<=[0-9A-Za-z_]) < (?!<) (?:->|[^<>\n]|<[^<>\n]*>)* > )
    | (?P<string> "(?:[^"\\\n]|\\[^\n])* (?P<quote>")? )
    | (?P<hash> \#[^\n]* )
    | (?P<block> /\* (?s:.*?) (?P<closed>\*/|\Z) )
    | (?P<open> [(\[{] )
    | (?P<close> [)\]}] )
    | (?P<end> [;\n] )
    """,
    re.VERBOSE,
)
_STRACE_LINE = re.compile(
    r"""
      \s* (?: \[pid\ +\d+\]\s+ | \d+\s+ )?
      (?: (?: \d+:\d+:\d+(?:\.\d+)? | \d+\.\d+ ) \s+ [A-Za-z_<+-]
        | <\.\.\.\ \w+\ resumed> | \+\+\+\ .*\ \+\+\+\s*$ | ---\ .*\ ---\s*$ | .*<unfinished\ \.\.\.>\s*$ )
    | \s* \d+\s+ \w+\(
    """,
    re.VERBOSE,
)
_FOUND = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"|[A-Za-z_]\w*|[0-9]\w*|<<|=>|\.\.\.|\S')
_BLANKS = re.compile(r'("(?:[^"\\\n]|\\[^\n])*")|\s+')
_REST_OF_LINE = re.compile(r"[ \t\r]*(#[^\n]*)?")

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_VALUE_TOKENS = {"NAME", "NUMBER", "STRING", "LPAR"}
_VALUE_WORDS = _VALUE_TOKENS | {"MINUS", "TILDE", "LSQB", "LBRACE"}
_OPERATORS = {"PLUS", "MINUS", "STAR", "VBAR", "LESSTHAN"}
_WORDS = {
    "value": "a value",
    "NUMBER": "a number",
    "signal": "a signal",
    "NAME": "a name",
    "STRING": "a string",
    "PID": "'[pid N]'",
    "QMARK": "'?'",
    "EQUAL": "'='",
    "LPAR": "'('",
    "COMMA": "','",
    "RPAR": "')'",
    "RSQB": "']'",
    "RBRACE": "'}'",
    "DOTS": "'...'",
    "operator": "an operator",
    "UNFINISHED": "'<unfinished ...>'",
    "$END": "the end of the statement",
}
"""What a message calls the tokens, in the order in which it lists them; the other tokens are not listed."""


def parse(text: str, *, filename: str = "<script>", known: Collection[str] | None = None) -> Script:
    """Parse a script.  Raises `ScriptError` at the first thing wrong.

    ``known`` are the functions that exist; a call of another one is an error that names the nearest of them.

    >>> script = parse("fb = mmap(NULL, 8M)  # a mapping\\nmunmap(fb, 8M) = 0")
    >>> [statement.text for statement in script.statements]
    ['fb = mmap(NULL, 8M)', 'munmap(fb, 8M) = 0']
    >>> script.statements[0].target, script.statements[0].comment, script.statements[1].line
    ('fb', 'a mapping', 2)
    """
    text = text.removeprefix("\ufeff")
    source = Source(text, filename)
    statements: list[Statement] = []
    comments: list[Comment] = []
    for chunk in _cut(source, strace=False):
        if chunk.code:
            statements.append(_parse_chunk(source, chunk, "statement", known))
        else:
            place = source.place(chunk.start, chunk.end)
            comments.append(Comment(chunk.comment, **attrs.asdict(place)))
    return Script(tuple(statements), tuple(comments), filename, text)


def parse_statement(
    text: str, *, filename: str = "<console>", known: Collection[str] | None = None
) -> Statement:
    """Parse exactly one statement, as typed in the console.  Raises `ScriptError`.

    >>> parse_statement("zap_vma_ptes(vma(fb), fb, 2M) = -1").expect.value.value
    -1
    """
    script = parse(text, filename=filename, known=known)
    statements = list(script.statements)
    if not statements:
        message = "there is no statement here"
        raise ScriptError(message, filename=filename, expected=("a statement",), found="nothing")
    if len(statements) > 1:
        message, expected = "one statement at a time", ("the end of the statement",)
        raise ScriptError.at(statements[1], message, source=text, filename=filename, expected=expected)
    return statements[0]


def parse_strace(text: str, *, filename: str = "<strace>") -> tuple[TraceLine, ...]:
    """Parse the lines of an strace log, with process ids, timestamps, halves of calls and events.

    >>> half, rest, end = parse_strace('''7 mmap(NULL, 4096 <unfinished ...>
    ... 7 <... mmap resumed>, PROT_READ) = 0x7ffff7000000
    ... 7 +++ exited with 0 +++''')
    >>> half.func, rest.func, len(half.args + rest.args), end.kind, end.status, end.pid
    ('mmap', 'mmap', 3, 'exited', 0, 7)
    """
    text = text.removeprefix("\ufeff")
    source = Source(text, filename)
    return tuple(
        _parse_chunk(source, chunk, "trace_line", None) for chunk in _cut(source, strace=True) if chunk.code
    )


def looks_like_strace(text: str) -> bool:
    """Whether one of the first lines could only come from strace (a plain call could come from a script too).

    >>> looks_like_strace("12:00:01 brk(NULL) = 0x5000"), looks_like_strace("brk(NULL) = 0x5000")
    (True, False)
    """
    return any(_STRACE_LINE.match(line) for line in text.split("\n", 200)[:200])


_T = TypeVar("_T")


@attrs.frozen
class _Chunk:
    """One statement's part of the text: ``code`` is as long as ``[start, end)`` with its comments blanked."""

    start: int
    end: int
    code: str
    text: str
    comment: str
    unclosed: int | None = None


def _cut(source: Source, *, strace: bool) -> Iterator[_Chunk]:
    """Cut a text into statements and stand-alone comments; a line of an strace log is always one."""
    text = source.text
    size = len(text)
    start = 0
    while start < size:
        if not strace and _STRACE_LINE.match(text, start, source.line_end(start)):
            end = source.line_end(start)
            first = start + len(text[start:end]) - len(text[start:end].lstrip())
            expected = ("a statement",)
            raise source.error(
                first,
                end,
                "this looks like an strace log; read it as one (--strace)",
                expected=expected,
                found="a line of an strace log",
            )
        chunk, start = _cut_one(source, start, strace)
        if chunk is not None:
            yield chunk


def _cut_one(source: Source, start: int, strace: bool) -> tuple[_Chunk | None, int]:
    """The statement or comment that begins at ``start`` (None: a blank line), and where the next may."""
    text = source.text
    limit = source.line_end(start) if strace else len(text)
    opened: list[int] = []
    notes: list[tuple[int, int, str]] = []
    stop, position, terminated = limit, start, False
    while match := _LAYOUT.search(text, position, limit):
        position = match.end()
        if match["open"]:
            opened.append(match.start())
            if len(opened) > MAX_DEPTH:
                _raise_too_deep(source, match.start())
        elif match["close"]:
            if opened:
                _check_closing(source, opened.pop(), match.start())
        elif match["string"] and not match["quote"]:
            at = match.start()
            raise source.error(
                at, position, "this string is never closed", expected=("'\"'",), found="the end of the line"
            )
        elif match["block"] is not None:
            if not match["closed"]:
                at = match.start()
                raise source.error(
                    at, at + 2, "this comment is never closed", expected=("'*/'",), incomplete=not strace
                )
            notes.append((match.start(), position, match["block"][2:-2]))
        elif match["hash"]:
            notes.append((match.start(), position, match["hash"].lstrip("#")))
        elif match["end"] and not opened and not strace:
            stop, terminated = match.start(), match["end"] == ";"
            break
    following = max(stop, position) if stop < limit else limit + 1
    if terminated:  # comments behind the ';' belong to this statement
        rest = _REST_OF_LINE.match(text, following)
        if rest is not None and rest[1]:
            notes.append((rest.start(1), rest.end(1), rest[1].lstrip("#")))
            following = rest.end()
    code = _blank(text[start:stop], [(at - start, end - start) for at, end, _ in notes if at < stop])
    comment = " ".join(words for _, _, note in notes if (words := " ".join(note.split())))
    code = code.rstrip()
    begin = start + len(code) - len(code.lstrip())
    if code:
        shown = _display(text[begin : start + len(code)], begin, notes)
        unclosed = opened[-1] if opened else None
        return _Chunk(begin, start + len(code), code.lstrip(), shown, comment, unclosed), following
    if notes:
        return _Chunk(notes[0][0], notes[-1][1], "", "", comment), following
    return None, following


def _check_closing(source: Source, opening: int, offset: int) -> None:
    """Refuse a wrong bracket where the grammar would take it for text: inside of an array or a struct."""
    bracket, found = source.text[opening], source.text[offset]
    if bracket != "(" and found != _CLOSING[bracket]:
        expected = (repr(_CLOSING[bracket]),)
        message = f"unexpected {found!r}{_still_open(source, opening)}"
        raise source.error(offset, offset + 1, message, expected=expected, found=repr(found))


def _still_open(source: Source, opening: int) -> str:
    place = source.place(opening, opening + 1)
    return f" (the {source.text[opening]!r} at {place.line}:{place.column} is still open)"


def _blank(text: str, spans: list[tuple[int, int]]) -> str:
    for begin, end in spans:
        text = f"{text[:begin]}{' ' * (end - begin)}{text[end:]}"
    return text


def _display(text: str, begin: int, notes: list[tuple[int, int, str]]) -> str:
    """The source of a statement without its comments, on one line; other blanks stay as they are."""
    for at, end, _ in reversed(notes):
        if 0 <= at - begin < len(text):
            left, right = text[: at - begin].rstrip(" \t"), text[end - begin :].lstrip(" \t")
            text = f"{left}{'' if right[:1] in ('', ',', ')', chr(10)) else ' '}{right}"
    return re.sub(r"[ \t\r]*\n\s*", " ", text).strip()


def _raise_too_deep(source: Source, offset: int) -> NoReturn:
    message = f"nested deeper than {MAX_DEPTH} levels"
    raise source.error(offset, offset + 1, message, expected=("a simpler statement",))


@cache
def _grammar() -> Lark:
    text = resources.files("vmviz.script").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(
        text,
        parser="lalr",
        lexer="contextual",
        start=["statement", "trace_line"],
        propagate_positions=True,
        maybe_placeholders=True,
    )


def _parse_chunk(source: Source, chunk: _Chunk, start: str, known: Collection[str] | None) -> Any:
    try:
        tree = _grammar().parse(chunk.code, start=start)
    except UnexpectedInput as error:
        raise _syntax_error(source, chunk, error) from None
    try:
        node = _Builder(source, chunk).transform(tree)
    except VisitError as error:
        if isinstance(error.orig_exc, ScriptError):
            raise error.orig_exc from None
        raise
    for part, depth in walk(node):
        if depth > MAX_DEPTH:
            _raise_too_deep(source, chunk.start)
        if known is not None and isinstance(part, Call) and part.func not in known:
            raise ScriptError.at(
                attrs.evolve(part, end_column=part.column + len(part.func)),
                f"unknown function {part.func!r}",
                source=source.text,
                filename=source.filename,
                found=repr(part.func),
                suggestions=nearest(part.func, known),
            )
    return node


def _syntax_error(source: Source, chunk: _Chunk, error: UnexpectedInput) -> ScriptError:
    """Say in words what the grammar says with tokens."""
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    if at_end and chunk.unclosed is not None:
        bracket = source.text[chunk.unclosed]
        return source.error(
            chunk.unclosed,
            chunk.unclosed + 1,
            f"this {bracket!r} is never closed",
            expected=(repr(_CLOSING[bracket]),),
            found="the end of the script",
            incomplete=True,
        )
    offset = chunk.end if at_end else chunk.start + (error.pos_in_stream or 0)
    match = _FOUND.match(source.text, offset, chunk.end)
    found = (
        repr(match[0] if len(match[0]) <= 40 else f"{match[0][:37]}...") if match else "the end of the line"
    )
    end = match.end() if match else offset + 1
    message = f"unexpected {found.removeprefix('the ')}"
    if chunk.unclosed is not None and chunk.unclosed < source.text.rfind("\n", 0, offset):
        message += _still_open(source, chunk.unclosed)
    return source.error(offset, end, message, expected=_expected(error), found=found)


def _expected(error: UnexpectedInput) -> tuple[str, ...]:
    try:
        state: Any = error.interactive_parser
        tokens: set[str] = set(state.accepts())
    except RecursionError:  # a long chain of operators before the error: take the parser table's own set
        tokens = set(error.expected if isinstance(error, UnexpectedToken) else ())
    if tokens >= _VALUE_TOKENS:
        tokens = (tokens - _VALUE_WORDS) | {"value"}
    elif tokens & _OPERATORS - {"MINUS"}:
        tokens = (tokens - _OPERATORS) | {"operator"}
    if "QMARK" in tokens:
        tokens = (tokens - {"MINUS", "NAME"}) | {"signal"}
    if "REMARK" in tokens:  # an errno or a signal's code may follow here, but nothing calls for it
        tokens -= {"NAME", "LPAR"}
    if tokens & {"RPAR", "COMMA"}:  # `name=` and `name(` are right there too, but are seldom meant
        tokens -= {"EQUAL", "LPAR"}
    return tuple(word for token, word in _WORDS.items() if token in tokens)


@v_args(meta=True)
class _Builder(Transformer_NonRecursive[Token, Any]):
    """The grammar's tree to nodes.  The methods are named after the grammar's rules."""

    def __init__(self, source: Source, chunk: _Chunk) -> None:
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
