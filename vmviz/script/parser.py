"""Text to syntax tree: statements are cut out of the text here, and the grammar reads each of them.

The cutting knows strings, comments and brackets only: a statement ends at a line end or ``;`` outside of
brackets.  It limits the nesting too, so that no later step can run out of stack.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from vmviz.script.errors import ScriptError, Source
from vmviz.script.grammar import grammar
from vmviz.script.looks import STRACE_LINE
from vmviz.script.nodes import Call, Comment, Script, Statement, TraceLine, walk
from vmviz.script.values import nearest

from ..kernel.value import Value

if TYPE_CHECKING:
    from lark.exceptions import UnexpectedInput

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
_FOUND = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"|[A-Za-z_]\w*|[0-9]\w*|<<|=>|\.\.\.|\S')
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


@attrs.frozen(eq=False, repr=False)
class Chunk(Value):
    """One statement's part of the text: ``code`` is as long as ``[start, end)`` with its comments blanked."""

    start: int
    end: int
    code: str
    text: str
    comment: str
    unclosed: int | None = None


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


def _cut(source: Source, *, strace: bool) -> Iterator[Chunk]:
    """Cut a text into statements and stand-alone comments; a line of an strace log is always one."""
    text = source.text
    size = len(text)
    start = 0
    while start < size:
        if not strace and STRACE_LINE.match(text, start, source.line_end(start)):
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


def _cut_one(source: Source, start: int, strace: bool) -> tuple[Chunk | None, int]:
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
        return Chunk(begin, start + len(code), code.lstrip(), shown, comment, unclosed), following
    if notes:
        return Chunk(notes[0][0], notes[-1][1], "", "", comment), following
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


def _parse_chunk(source: Source, chunk: Chunk, start: str, known: Collection[str] | None) -> Any:
    from lark.exceptions import UnexpectedInput, VisitError

    from vmviz.script.builder import Builder

    try:
        tree = grammar().parse(chunk.code, start=start)
    except UnexpectedInput as error:
        raise _syntax_error(source, chunk, error) from None
    try:
        node = Builder(source, chunk).transform(tree)
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


def _syntax_error(source: Source, chunk: Chunk, error: UnexpectedInput) -> ScriptError:
    """Say in words what the grammar says with tokens."""
    from lark import UnexpectedToken

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
    from lark import UnexpectedToken

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
