"""The syntax tree of the command language, and its way back to text.

Nodes are immutable and compare without their places, so that a statement equals itself
however it is laid out.  Places count from 1; ``end_column`` is one past the last character
that the node has on its first line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from vmviz.script.errors import ScriptError
from vmviz.script.node import Node

BinaryOperator = Literal["|", "<<", "+", "-", "*"]
UnaryOperator = Literal["-", "~"]

PRECEDENCE: dict[str, int] = {"|": 1, "<<": 2, "+": 3, "-": 3, "*": 4}
_UNARY = 5


@attrs.frozen(eq=False, repr=False)
class Number(Node):
    """A number: ``value`` in its own unit (``unit_pages``: pages), ``text`` as written, sign included.

    ``annotation`` is what strace -y tells of a descriptor (``3</dev/fb0>``).  ``abbreviated`` marks
    ``0x7f...``, of which only the leading digits are known.

    >>> unparse(Number(4096)), unparse(Number(8 << 20, "8M"))
    ('4096', '8M')
    """

    value: int
    text: str = attrs.field(default=attrs.Factory(lambda self: str(self.value), takes_self=True))
    unit_pages: bool = attrs.field(default=False, kw_only=True)
    annotation: str | None = attrs.field(default=None, kw_only=True)
    abbreviated: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen(eq=False, repr=False)
class Name(Node):
    """A variable or a constant; ``annotation`` as in ``AT_FDCWD</home>``."""

    id: str
    annotation: str | None = None


@attrs.frozen(eq=False, repr=False)
class String(Node):
    """A string with its escapes resolved.

    Bytes that are not UTF-8 are lone surrogates, as `os.fsdecode` gives them.  ``truncated`` marks ``"abc"...``.
    """

    value: str
    truncated: bool = False


@attrs.frozen(eq=False, repr=False)
class Unary(Node):
    """``-x`` or ``~x``.  A minus right before a plain number is part of the `Number` instead."""

    op: UnaryOperator
    operand: Expression


@attrs.frozen(eq=False, repr=False)
class BinOp(Node):
    """``left op right``, with C's precedence."""

    op: BinaryOperator
    left: Expression
    right: Expression


@attrs.frozen(eq=False, repr=False)
class Call(Node):
    """A call; its column is that of the function's name."""

    func: str
    args: tuple[Argument, ...] = ()

    @property
    def positional(self) -> tuple[Argument, ...]:
        """The arguments without ``name=``."""
        return tuple(arg for arg in self.args if not isinstance(arg, Keyword))

    @property
    def keywords(self) -> dict[str, Expression]:
        """The ``name=value`` arguments."""
        return {arg.name: arg.value for arg in self.args if isinstance(arg, Keyword)}


@attrs.frozen(eq=False, repr=False)
class Array(Node):
    """``[...]`` as strace prints it, kept as text with its brackets."""

    text: str


@attrs.frozen(eq=False, repr=False)
class Struct(Node):
    """``{...}`` as strace prints it, kept as text with its braces."""

    text: str


@attrs.frozen(eq=False, repr=False)
class Keyword(Node):
    """An argument ``name=value``."""

    name: str
    value: Expression


@attrs.frozen(eq=False, repr=False)
class Changed(Node):
    """An argument ``before => after``, as strace prints one that the kernel writes to."""

    before: Expression
    after: Expression


@attrs.frozen(eq=False, repr=False)
class Dots(Node):
    """The argument ``...``: arguments left out."""


Expression = Number | Name | String | Unary | BinOp | Call | Array | Struct
Argument = Expression | Keyword | Changed | Dots


@attrs.frozen(eq=False, repr=False)
class Expectation(Node):
    """What stands behind the ``=`` of a call.

    ``kind`` says which fields count: "value" (``value``), "error" (``value`` is -1, and ``errno``), "signal"
    (``signal`` and perhaps ``code``), "unknown" (``?``: nothing to check).  ``remark`` is strace's text in
    parentheses (brackets in it match) and ``duration`` its ``<seconds>``, both without the marks.
    """

    kind: Literal["value", "error", "signal", "unknown"]
    value: Number | None = None
    errno: str | None = None
    signal: str | None = None
    code: str | None = None
    remark: str | None = None
    duration: str | None = None


@attrs.frozen(eq=False, repr=False)
class Statement(Node):
    """One statement: a call or an assignment to ``target``, of a thread ``pid``, perhaps with an expectation.

    ``text`` is the source without comments, ``comment`` the comments' text, ``timestamp`` strace's.
    """

    value: Expression
    target: str | None = None
    expect: Expectation | None = None
    pid: int | None = None
    comment: str = ""
    timestamp: str | None = None
    text: str = attrs.field(default="", eq=False)

    @property
    def call(self) -> Call | None:
        """The call that the statement makes; None for an assignment of a plain expression."""
        return self.value if isinstance(self.value, Call) else None


@attrs.frozen(eq=False, repr=False)
class Comment(Node):
    """A comment that stands on lines of its own."""

    text: str


@attrs.frozen(eq=False, repr=False)
class Unfinished(Node):
    """The first half of a call in an strace log: ``mmap(NULL, 4096 <unfinished ...>``."""

    func: str
    args: tuple[Argument, ...] = ()
    pid: int | None = None
    timestamp: str | None = None
    text: str = attrs.field(default="", eq=False)


@attrs.frozen(eq=False, repr=False)
class Resumed(Node):
    """The second half: ``<... mmap resumed>, PROT_READ) = 0x7f...``; its arguments follow the first's."""

    func: str
    args: tuple[Argument, ...] = ()
    expect: Expectation | None = None
    pid: int | None = None
    timestamp: str | None = None
    text: str = attrs.field(default="", eq=False)


@attrs.frozen(eq=False, repr=False)
class Event(Node):
    """A line of an strace log that is no call; ``detail`` is its text without the marks.

    "exited" (``status``), "killed" (``signal``), "signal" (``signal``), "superseded" (by an execve of another
    thread), "stopped" (``signal``), "note" (strace's own words).
    """

    kind: Literal["exited", "killed", "signal", "superseded", "stopped", "note"]
    detail: str
    status: int | None = None
    signal: str | None = None
    pid: int | None = None
    timestamp: str | None = None
    text: str = attrs.field(default="", eq=False)


TraceLine = Statement | Unfinished | Resumed | Event


@attrs.frozen
class Script:
    """A parsed script: its statements and the comments that stand alone; the source is kept for messages."""

    statements: tuple[Statement, ...]
    comments: tuple[Comment, ...] = ()
    filename: str = attrs.field(default="<script>", eq=False)
    source: str = attrs.field(default="", eq=False, repr=False)

    def error(self, where: Node, message: str, *, suggestions: tuple[str, ...] = ()) -> ScriptError:
        """An error at a node of this script, to be raised by whoever runs it."""
        return ScriptError.at(
            where, message, source=self.source, filename=self.filename, suggestions=suggestions
        )


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below a node, in source order."""
    match node:
        case Unary():
            return (node.operand,)
        case BinOp():
            return (node.left, node.right)
        case Call() | Unfinished():
            return node.args
        case Keyword():
            return (node.value,)
        case Changed():
            return (node.before, node.after)
        case Statement():
            return (node.value,) if node.expect is None else (node.value, node.expect)
        case Resumed():
            return node.args if node.expect is None else (*node.args, node.expect)
        case _:
            return ()


def walk(node: Node) -> Iterator[tuple[Node, int]]:
    """A node and all below it with their depth, in source order; no depth is too deep for it.

    >>> from vmviz.script import parse_statement
    >>> [type(n).__name__ for n, _ in walk(parse_statement("munmap(fb + 1, 4K)"))]
    ['Statement', 'Call', 'BinOp', 'Name', 'Number', 'Number']
    """
    stack = [(node, 0)]
    while stack:
        current, depth = stack.pop()
        yield current, depth
        stack.extend((child, depth + 1) for child in reversed(children(current)))


def unparse(node: Node | Script) -> str:
    """The text of a node; parsing it gives an equal node again.

    >>> from vmviz.script import parse_statement
    >>> unparse(parse_statement("[pid  3]  x=mmap( (a+b)*2,4K )=-1 ENOMEM;  # no room"))
    '[pid 3] x = mmap((a + b) * 2, 4K) = -1 ENOMEM  # no room'
    """
    match node:
        case Script():
            parts: list[Statement | Comment] = sorted(
                (*node.comments, *node.statements), key=lambda part: (part.line, part.column)
            )
            return "".join(f"{unparse(part)}\n" for part in parts)
        case Statement():
            expect = "" if node.expect is None else f" {unparse(node.expect)}"
            target = "" if node.target is None else f"{node.target} = "
            comment = f"  # {node.comment}" if node.comment else ""
            return f"{_prefix(node)}{target}{unparse(node.value)}{expect}{comment}"
        case Comment():
            return f"# {node.text}".rstrip()
        case Expectation():
            return _unparse_expectation(node)
        case Unfinished():
            return f"{_prefix(node)}{node.func}({_join(node.args)} <unfinished ...>"
        case Resumed():
            expect = "" if node.expect is None else f" {unparse(node.expect)}"
            return f"{_prefix(node)}<... {node.func} resumed>{_join(node.args)}){expect}"
        case Event():
            left, right = _EVENT_MARKS.get(node.kind, ("--- ", " ---"))
            return f"{_prefix(node)}{left}{node.detail}{right}"
        case _:
            return _unparse_part(node, 0)


_EVENT_MARKS = {
    "exited": ("+++ ", " +++"),
    "killed": ("+++ ", " +++"),
    "superseded": ("+++ ", " +++"),
    "note": ("strace: ", ""),
}


def _prefix(node: TraceLine) -> str:
    pid = "" if node.pid is None else f"[pid {node.pid}] "
    return pid if node.timestamp is None else f"{pid}{node.timestamp} "


def _join(args: tuple[Argument, ...]) -> str:
    return ", ".join(_unparse_part(arg, 0) for arg in args)


def _unparse_expectation(node: Expectation) -> str:
    words: list[str] = ["="]
    if node.kind == "unknown":
        words.append("?")
    if node.value is not None:
        words.append(unparse(node.value))
    words += [word for word in (node.errno, node.signal, node.code) if word is not None]
    if node.remark is not None:
        words.append(f"({node.remark})")
    if node.duration is not None:
        words.append(f"<{node.duration}>")
    return " ".join(words)


def _unparse_part(node: Node, context: int) -> str:
    """The text of an expression or argument, in parentheses if it binds looser than ``context``."""
    match node:
        case Number():
            dots = "..." if node.abbreviated else ""
            return f"{node.text}{dots}{_annotation(node.annotation)}"
        case Name():
            return f"{node.id}{_annotation(node.annotation)}"
        case String():
            return f'"{_escape(node.value)}"{"..." if node.truncated else ""}'
        case Array() | Struct():
            return node.text
        case Call():
            return f"{node.func}({_join(node.args)})"
        case Unary():
            return f"{node.op}{_unparse_part(node.operand, _UNARY)}"
        case BinOp():
            own = PRECEDENCE[node.op]
            text = f"{_unparse_part(node.left, own)} {node.op} {_unparse_part(node.right, own + 1)}"
            return f"({text})" if own < context else text
        case Keyword():
            return f"{node.name}={_unparse_part(node.value, 0)}"
        case Changed():
            return f"{_unparse_part(node.before, 0)} => {_unparse_part(node.after, 0)}"
        case Dots():
            return "..."
        case _:
            raise TypeError(f"{type(node).__name__} is no part of a statement")


def _annotation(text: str | None) -> str:
    return "" if text is None else f"<{text}>"


_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def _escape(value: str) -> str:
    """C escapes for whatever does not print, byte by byte in octal, as strace writes them."""
    parts: list[str] = []
    for char in value:
        if char in _ESCAPES:
            parts.append(_ESCAPES[char])
        elif char.isprintable():
            parts.append(char)
        else:
            parts += [f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape")]
    return "".join(parts)
