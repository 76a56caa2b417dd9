"""The grammar: good statements and their trees, bad ones and their messages, and the way back to text."""

from __future__ import annotations

import string
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmviz.kernel.errors import VmvizError
from vmviz.script import ScriptError, looks_like_strace, parse, parse_statement, parse_strace, unparse, walk
from vmviz.script.nodes import (
    Argument,
    Array,
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
    Script,
    Statement,
    String,
    Struct,
    Unary,
    Unfinished,
)

DESIGN = """\
fb   = mmap(NULL, 8M, PROT_READ|PROT_WRITE, MAP_SHARED, open("/dev/fb0"), 0)
bar  = mmap(NULL, 64K, PROT_READ|PROT_WRITE, MAP_SHARED, open("/sys/bus/pci/devices/0000:00:02.0/resource0"), 0)
heap = mmap(NULL, 64K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)
store(heap, 64K)                                  # touch every page for writing
zap_vma_ptes(vma(fb), fb, 2M)             = 0
zap_vma_ptes(vma(heap), heap, 4K)         = -1    # not VM_PFNMAP
zap_vma_ptes(vma(fb), fb + 7M, 2M)        = -1    # runs past vm_end
zap_vma_ptes(vma("[vvar]"), 0x7ffff7fc1000, 4K)   # a VMA by its name, or by an address in it: vma(0x...)
load(bar)                                         # a lazy device: its fault handler maps the page again
load(fb)                                  = SIGBUS BUS_ADRERR   # a frame buffer has no fault handler
munmap(heap + 1, 4K)                      = -1 EINVAL
[pid 3] mprotect(...)                             # as strace -f writes it
"""


def num(text: str, value: int, **fields: Any) -> Number:
    return attrs.evolve(Number(value, text), **fields)


def test_the_examples_of_the_design() -> None:
    script = parse(DESIGN, filename="design.vmv")
    assert [s.line for s in script.statements] == list(range(1, 13))
    assert [s.target for s in script.statements[:4]] == ["fb", "bar", "heap", None]
    assert [s.pid for s in script.statements[-2:]] == [None, 3]
    assert [s.expect.kind if s.expect else None for s in script.statements[4:11]] == [
        *("value", "value", "value", None, None, "signal", "error")
    ]
    assert script.statements[3].text == "store(heap, 64K)"
    assert script.statements[3].comment == "touch every page for writing"
    assert script.statements[9].text == "load(fb)                                  = SIGBUS BUS_ADRERR"
    assert script.statements[9].expect == Expectation("signal", signal="SIGBUS", code="BUS_ADRERR")
    assert script.statements[0].call == Call(
        "mmap",
        (
            Name("NULL"),
            num("8M", 8 << 20),
            BinOp("|", Name("PROT_READ"), Name("PROT_WRITE")),
            Name("MAP_SHARED"),
            Call("open", (String("/dev/fb0"),)),
            Number(0),
        ),
    )
    assert parse(unparse(script)) == script


A, B, C = Name("a"), Name("b"), Name("c")
EXPRESSIONS: list[tuple[str, Expression]] = [
    ("0x7ffff7000000", num("0x7ffff7000000", 0x7FFFF7000000)),
    ("64k", num("64k", 65536)),
    ("2G", num("2G", 2 << 30)),
    ("3p", num("3p", 3, unit_pages=True)),
    ("0666", num("0666", 0o666)),
    ("-1", num("-1", -1)),
    ("- 4K", num("-4K", -4096)),
    ("--1", Unary("-", num("-1", -1))),
    ("-a", Unary("-", A)),
    ("~4095", Unary("~", Number(4095))),
    ("a -1", BinOp("-", A, Number(1))),
    ("a - -1", BinOp("-", A, num("-1", -1))),
    ("a + b * c", BinOp("+", A, BinOp("*", B, C))),
    ("(a + b) * c", BinOp("*", BinOp("+", A, B), C)),
    ("a - b - c", BinOp("-", BinOp("-", A, B), C)),
    ("a - (b - c)", BinOp("-", A, BinOp("-", B, C))),
    ("a | b << c", BinOp("|", A, BinOp("<<", B, C))),
    ("1<<20", BinOp("<<", Number(1), Number(20))),
    ("a << b + c", BinOp("<<", A, BinOp("+", B, C))),
    ("3</dev/fb0>", num("3", 3, annotation="/dev/fb0")),
    ("3</dev/fb0<char 29:0>>", num("3", 3, annotation="/dev/fb0<char 29:0>")),
    ("5<TCP:[127.0.0.1:1->127.0.0.1:2]>", num("5", 5, annotation="TCP:[127.0.0.1:1->127.0.0.1:2]")),
    ("3</tmp/a#b>", num("3", 3, annotation="/tmp/a#b")),
    ("3</tmp/x>(deleted)", num("3", 3, annotation="/tmp/x (deleted)")),
    ("AT_FDCWD</home>", Name("AT_FDCWD", "/home")),
    ("0x7f...", num("0x7f", 0x7F, abbreviated=True)),
    (r'"a\n\303\274;#("', String("a\nü;#(")),
    ('"abc"...', String("abc", True)),
    ("[a, b]", Array("[a, b]")),
    ("[1  2\n 3]", Array("[1 2 3]")),
    ("{st_mode=S_IFREG|0644, ...}", Struct("{st_mode=S_IFREG|0644, ...}")),
    ('{a=[{b="}"}, {c=1}], d}', Struct('{a=[{b="}"}, {c=1}], d}')),
    ("~[RTMIN RT_1]", Unary("~", Array("[RTMIN RT_1]"))),
    ("vma(0x1000)", Call("vma", (num("0x1000", 4096),))),
]


@pytest.mark.parametrize(("text", "node"), EXPRESSIONS, ids=[text for text, _ in EXPRESSIONS])
def test_expressions(text: str, node: Expression) -> None:
    assert parse_statement(f"x = {text}") == Statement(node, "x")
    assert parse_statement(f"f(1, {text}, k={text})") == Statement(
        Call("f", (Number(1), node, Keyword("k", node)))
    )


MINUS_ONE = num("-1", -1)
EXPECTATIONS: list[tuple[str, Expectation]] = [
    ("= 0", Expectation("value", Number(0))),
    ("=0", Expectation("value", Number(0))),
    ("      =      -1", Expectation("value", MINUS_ONE)),
    ("= -1 EINVAL", Expectation("error", MINUS_ONE, "EINVAL")),
    (
        "= -1 ENOENT (No such file (or so))",
        Expectation("error", MINUS_ONE, "ENOENT", remark="No such file (or so)"),
    ),
    ("= 0x7ffff7000000", Expectation("value", num("0x7ffff7000000", 0x7FFFF7000000))),
    ("= 0x7ff...", Expectation("value", num("0x7ff", 0x7FF, abbreviated=True))),
    ("= SIGBUS BUS_ADRERR", Expectation("signal", signal="SIGBUS", code="BUS_ADRERR")),
    ("= SIGSEGV", Expectation("signal", signal="SIGSEGV")),
    ("= ?", Expectation("unknown")),
    (
        "= ? ERESTARTSYS (To be restarted)",
        Expectation("unknown", errno="ERESTARTSYS", remark="To be restarted"),
    ),
    (
        "= 3</dev/fb0> <0.000012>",
        Expectation("value", num("3", 3, annotation="/dev/fb0"), duration="0.000012"),
    ),
]


@pytest.mark.parametrize(("text", "node"), EXPECTATIONS, ids=[text for text, _ in EXPECTATIONS])
def test_expectations(text: str, node: Expectation) -> None:
    assert parse_statement(f"f(){text}").expect == node
    assert parse_statement(f"x = f() {text};  # why") == Statement(Call("f"), "x", node, comment="why")


def test_places_count_from_one_and_end_behind() -> None:
    script = parse("\n  x = f(ab, (c + 12))\n")
    places = [(type(n).__name__, n.line, n.column, n.end_column) for n, _ in walk(script.statements[0])]
    assert places == [
        ("Statement", 2, 3, 22),
        ("Call", 2, 7, 22),
        ("Name", 2, 9, 11),
        ("BinOp", 2, 14, 20),
        ("Name", 2, 14, 15),
        ("Number", 2, 18, 20),
    ]


def test_layout() -> None:
    script = parse("# head\n\nf(a, # one\n  /* two */ b,\n\n  c); g() # three\r\n/* last\n one */\nh();;\n")
    assert [(s.line, s.text, s.comment) for s in script.statements] == [
        (3, "f(a, b, c)", "one two"),
        (6, "g()", "three"),
        (9, "h()", ""),
    ]
    assert [(c.line, c.text) for c in script.comments] == [(1, "head"), (7, "last one")]
    assert unparse(script) == "# head\nf(a, b, c)  # one two\ng()  # three\n# last one\nh()\n"
    assert parse(unparse(script)) == script


@pytest.mark.parametrize("text", ["", "\n", " \t\r\n ", ";", "# only", "/* a */", "\ufeff"])
def test_nothing_is_a_script_but_no_statement(text: str) -> None:
    assert parse(text).statements == ()
    with pytest.raises(ScriptError, match="no statement"):
        parse_statement(text)


VALUE, ARGUMENT, MORE = ("a value",), ("a value", "')'", "'...'"), ("','", "')'", "an operator")
BAD: list[tuple[str, tuple[int, int, int], tuple[str, ...], str | None]] = [
    ("munmap(fb, 4K", (1, 7, 8), ("')'",), None),
    ("f(\n g(1\n", (2, 3, 4), ("')'",), None),
    ("munmap(a,\nb = munmap(c)\n", (1, 7, 8), ("')'",), None),
    ("munmap(a\nb = munmap(c)\n", (2, 1, 2), MORE, None),
    ("munmap(a\nload(c)", (2, 1, 5), MORE, None),
    ("munmap(fb 4K)", (1, 11, 13), MORE, None),
    ("munmap(fb,, 4K)", (1, 11, 12), ("a value", "'...'"), None),
    ("munmap(fb, 4K, )", (1, 16, 17), ("a value", "'...'"), None),
    ("munmap(fb & 1)", (1, 11, 12), MORE, None),
    ("munmap('fb')", (1, 8, 9), ARGUMENT, None),
    ("munmap(;)", (1, 8, 9), ARGUMENT, None),
    ("\n munmap(fb, 4Q)", (2, 14, 15), ("K", "M", "G", "T", "p (pages)"), None),
    ("f(0x)", (1, 5, 6), ("a hexadecimal digit",), None),
    ("f(089)", (1, 4, 6), ("a digit from 0 to 7",), None),
    ("f(1...)", (1, 3, 4), ("a number", "0x7f..."), None),
    ("f(0x1ffffffffffffffff)", (1, 3, 22), ("a number up to 0xffffffffffffffff",), None),
    ("f(-0xffffffffffffffff)", (1, 4, 22), ("a number down to -0x8000000000000000",), None),
    ('open("/dev/fb0)', (1, 6, 16), ("'\"'",), None),
    (r'open("a\qb")', (1, 8, 12), (r"one of \n \t \r \" " + "\\\\", r"up to \377", r"\xHH"), None),
    ("f() /* never", (1, 5, 7), ("'*/'",), None),
    ("f({a)", (1, 5, 6), ("'}'",), None),
    ("f(])", (1, 3, 4), ARGUMENT, None),
    ("fb", (1, 3, 4), ("'='", "'('"), None),
    ("fb =", (1, 5, 6), VALUE, None),
    ("fb = = 1", (1, 6, 7), VALUE, None),
    ("fb + 1", (1, 4, 5), ("'='", "'('"), None),
    ("= 0", (1, 1, 2), ("a name", "'[pid N]'"), None),
    ("[pid x] f()", (1, 1, 2), ("a name", "'[pid N]'"), None),
    ("f() g()", (1, 5, 6), ("'='", "the end of the statement"), None),
    ("f() =", (1, 6, 7), ("a number", "a signal", "'?'"), None),
    ("f() = -", (1, 8, 9), ("a number",), None),
    ("f() = 1 = 2", (1, 9, 10), ("the end of the statement",), None),
    ("f() = -1 EINVALL", (1, 10, 17), ("the name of an errno",), "EINVAL"),
    ("f() = EINVAL", (1, 7, 13), ("'-1'",), "-1 EINVAL"),
    ("f() = 0 EINVAL", (1, 7, 8), ("-1",), "-1 EINVAL"),
    ("f() = SIGBUSS", (1, 7, 14), ("the name of a signal",), "SIGBUS"),
    ("f() = SIGBUS BUS_ADDRERR", (1, 14, 25), ("the name of a signal code",), "BUS_ADRERR"),
    ("x = f() + 1 = 2", (1, 13, 14), ("an operator", "the end of the statement"), None),
    ("f(" + "(" * 10_000, (1, 102, 103), ("a simpler statement",), None),
    ("x = " + "-" * 10_000 + "1", (1, 1, 2), ("a simpler statement",), None),
    ("x = 1" + "+1" * 10_000, (1, 1, 2), ("a simpler statement",), None),
    ("f(" + "9" * 10_000 + ")", (1, 3, 10_003), ("a number up to 0xffffffffffffffff",), None),
]


@pytest.mark.parametrize(("text", "place", "expected", "nearest"), BAD, ids=[row[0][:30] for row in BAD])
def test_bad_statements(
    text: str, place: tuple[int, int, int], expected: tuple[str, ...], nearest: str | None
) -> None:
    with pytest.raises(ScriptError) as caught:
        parse(text, filename="bad.vmv")
    error = caught.value
    assert (error.line, error.column, error.end_column) == place
    assert (error.expected, error.nearest) == (expected, nearest)
    assert error.source_line == text.split("\n")[error.line - 1]
    assert str(error).startswith(f"bad.vmv:{error.line}:{error.column}: ")
    assert isinstance(error, VmvizError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("munmap(a\nload(c)", "unexpected 'load' (the '(' at 1:7 is still open)"),
        ("f(a,\n {b)", "unexpected ')' (the '{' at 2:2 is still open)"),
        ("munmap(a b)", "unexpected 'b'"),
        ("munmap(a", "this '(' is never closed"),
        ("fb", "unexpected end of the line"),
    ],
)
def test_messages_name_the_bracket_that_is_open(text: str, message: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse(text)
    assert caught.value.message == message


def test_unknown_functions_and_their_nearest() -> None:
    known = {"mmap", "munmap", "zap_vma_ptes", "vma"}
    assert parse("zap_vma_ptes(vma(fb), fb, 4K)", known=known).statements
    with pytest.raises(ScriptError) as caught:
        parse("vma(1)\n  zap_vma_ptes(vmaa(fb), fb, 4K)", filename="a.vmv", known=known)
    assert str(caught.value).split("\n") == [
        "a.vmv:2:16: unknown function 'vmaa'",
        "      zap_vma_ptes(vmaa(fb), fb, 4K)",
        "                   ^^^^",
        "did you mean vma?",
    ]
    with pytest.raises(ScriptError) as caught:
        parse_statement("x = mumap(1)", known=known)
    assert (caught.value.column, caught.value.suggestions) == (5, ("munmap", "mmap"))


def test_messages_stay_short_and_harmless() -> None:
    with pytest.raises(ScriptError) as caught:
        parse("f(" + "a, " * 500 + "\x1bcx, " + "b, " * 500 + ")")
    assert max(len(row) for row in str(caught.value).split("\n")) < 130
    assert "\x1b" not in str(caught.value)
    body, carets = str(caught.value).split("\n")[1:3]
    assert body[carets.index("^") + 1 :].startswith("cx,")


@pytest.mark.parametrize(
    ("text", "more"), [("f(", True), ("f(1", True), ("f() /* a", True), ("f(1))", False), ("x", False)]
)
def test_incomplete_says_that_another_line_may_help(text: str, more: bool) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_statement(text)
    assert caught.value.incomplete is more


def test_one_statement_at_a_time_in_the_console() -> None:
    with pytest.raises(ScriptError) as caught:
        parse_statement("f(); g()")
    assert (caught.value.filename, caught.value.column) == ("<console>", 6)


def test_a_script_places_the_errors_of_its_runner() -> None:
    script = parse("f(1)\ng(fbb)", filename="a.vmv")
    (argument,) = script.statements[1].call.args  # type: ignore[union-attr]
    error = script.error(argument, "unknown name 'fbb'", suggestions=("fb",))
    assert str(error) == "a.vmv:2:3: unknown name 'fbb'\n    g(fbb)\n      ^^^\ndid you mean fb?"


STRACE: list[tuple[str, object]] = [
    (
        "brk(NULL) = 0x5000",
        Statement(Call("brk", (Name("NULL"),)), None, Expectation("value", num("0x5000", 0x5000))),
    ),
    (
        "[pid  12] 12:34:56.789 close(3</dev/fb0>) = 0 <0.000012>",
        Statement(
            Call("close", (num("3", 3, annotation="/dev/fb0"),)),
            expect=Expectation("value", Number(0), duration="0.000012"),
            pid=12,
            timestamp="12:34:56.789",
        ),
    ),
    (
        "1234 1700000000.123456 mmap(NULL, 8192,  <unfinished ...>",
        Unfinished("mmap", (Name("NULL"), Number(8192)), 1234, "1700000000.123456"),
    ),
    ("7 vfork( <unfinished ...>", Unfinished("vfork", (), 7)),
    (
        "1234 <... mmap resumed>, PROT_READ) = 0x7f000",
        Resumed("mmap", (Name("PROT_READ"),), Expectation("value", num("0x7f000", 0x7F000)), 1234),
    ),
    ("<... futex resumed> )  = ?", Resumed("futex", (), Expectation("unknown"))),
    ("+++ exited with 3 +++", Event("exited", "exited with 3", 3)),
    (
        "7 +++ killed by SIGSEGV (core dumped) +++",
        Event("killed", "killed by SIGSEGV (core dumped)", signal="SIGSEGV", pid=7),
    ),
    ("+++ superseded by execve in pid 3 +++", Event("superseded", "superseded by execve in pid 3")),
    ("--- stopped by SIGSTOP ---", Event("stopped", "stopped by SIGSTOP", signal="SIGSTOP")),
    (
        "--- SIGSEGV {si_code=SEGV_MAPERR, si_addr=NULL} ---",
        Event("signal", "SIGSEGV {si_code=SEGV_MAPERR, si_addr=NULL}", signal="SIGSEGV"),
    ),
    ("strace: Process 12 attached", Event("note", "Process 12 attached")),
    (
        "read(0, 0x1, 0 => 5)",
        Statement(Call("read", (Number(0), num("0x1", 1), Changed(Number(0), Number(5))))),
    ),
    ("getrandom(...)", Statement(Call("getrandom", (Dots(),)))),
    (
        'execve("./a", ["./a"], 0x7ffd /* 3 vars */) = 0',
        Statement(
            Call("execve", (String("./a"), Array('["./a"]'), num("0x7ffd", 0x7FFD))),
            expect=Expectation("value", Number(0)),
            comment="3 vars",
        ),
    ),
]


@pytest.mark.parametrize(("text", "node"), STRACE, ids=[text for text, _ in STRACE])
def test_strace_lines(text: str, node: object) -> None:
    (line,) = parse_strace(text + "\n\n")
    assert line == node
    assert line.line == 1
    assert parse_strace(unparse(line)) == (line,)


def test_a_whole_log() -> None:
    lines = parse_strace("\n".join(text for text, _ in STRACE))
    assert list(lines) == [node for _, node in STRACE]
    assert [line.line for line in lines] == list(range(1, len(STRACE) + 1))


def test_a_log_has_errors_too() -> None:
    with pytest.raises(ScriptError) as caught:
        parse_strace("brk(NULL) = 0\nbrk(NULL = 0\nbrk(NULL) = 0", filename="log")
    assert (caught.value.filename, caught.value.line, caught.value.column) == ("log", 2, 4)


@pytest.mark.parametrize(
    "line",
    [
        "1234 brk(NULL) = 0",
        "12:00:01 brk(NULL) = 0",
        "[pid 3] 12:00:01 brk(NULL) = 0",
        "0.000012 brk(NULL) = 0",
        "mmap(NULL, <unfinished ...>",
        "<... mmap resumed>) = 0",
        "+++ exited with 0 +++",
        "--- SIGSEGV {si_signo=SIGSEGV} ---",
    ],
)
def test_a_script_recognises_an_strace_log(line: str) -> None:
    assert looks_like_strace(line)
    assert parse_strace(line)
    with pytest.raises(ScriptError, match="this looks like an strace log") as caught:
        parse(f"f()\n{line}\ng()")
    assert (caught.value.line, caught.value.column) == (2, 1)


def test_a_script_does_not_look_like_a_log() -> None:
    assert not looks_like_strace(DESIGN)


# -- the way back: generated trees

# `x<...>` would read as an annotation, and a name of the language never ends in one
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
words = st.text(string.ascii_letters + string.digits + " #_-+=/.(),;", max_size=20).map(
    lambda s: " ".join(s.split())
)
paths = st.text(string.ascii_letters + "/:#. ", min_size=1, max_size=10)


@st.composite
def plain_numbers(draw: st.DrawFn) -> Number:
    value = draw(st.integers(0, (1 << 63) - 1))
    kind = draw(st.sampled_from(["decimal", "hex", "K", "p", "fd", "dots"]))
    if kind == "hex":
        return Number(value, hex(value))
    if kind == "K":
        return Number((value >> 10) << 10, f"{value >> 10}K")
    if kind == "p":
        return Number(value, f"{value}p", unit_pages=True)
    if kind == "fd":
        return Number(value, annotation=draw(paths))
    if kind == "dots":
        return Number(value, hex(value), abbreviated=True)
    return Number(value)


def negate(operand: Expression) -> Expression:
    """What the parser makes of a minus before an operand."""
    plain = isinstance(operand, Number) and operand.annotation is None and not operand.abbreviated
    if not isinstance(operand, Number) or not plain or operand.text.startswith("-"):
        return Unary("-", operand)
    return attrs.evolve(operand, value=-operand.value, text=f"-{operand.text}")


def nest(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    arguments: st.SearchStrategy[Argument] = st.one_of(
        inner, st.builds(Keyword, names, inner), st.builds(Changed, inner, inner), st.just(Dots())
    )
    return st.one_of(
        inner.map(negate),
        st.builds(Unary, st.just("~"), inner),
        st.builds(BinOp, st.sampled_from(["|", "<<", "+", "-", "*"]), inner, inner),
        st.builds(Call, names, st.lists(arguments, max_size=4).map(tuple)),
    )


text_values = st.text(st.characters(codec="utf-8"), max_size=10) | st.binary(max_size=6).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
leaves: st.SearchStrategy[Expression] = st.one_of(
    plain_numbers(),
    names.map(Name),
    st.builds(String, text_values, st.booleans()),
    st.sampled_from([Array("[]"), Array("[a, [b] {c}]"), Struct('{x="}", ...}'), Name("AT_FDCWD", "/a b")]),
)
expressions = st.recursive(leaves, nest, max_leaves=12)
calls = st.builds(Call, names, st.lists(expressions, max_size=4).map(tuple))
remarks = st.none() | words.map(lambda s: " ".join(s.translate({ord(c): None for c in "#()"}).split()))
expectations = st.one_of(
    st.builds(lambda n, r: Expectation("value", n, remark=r), plain_numbers() | st.just(MINUS_ONE), remarks),
    st.sampled_from([value for _, value in EXPECTATIONS]),
)
comments = words.map(lambda s: s.lstrip("# "))
pids = st.none() | st.integers(0, 99999)
statements = st.one_of(
    st.builds(Statement, calls, st.none() | names, st.none() | expectations, pids, comments),
    st.builds(Statement, expressions, names, st.none(), pids, comments),
)


@given(st.lists(statements, max_size=4))
@settings(max_examples=200, deadline=None)
def test_unparse_round_trips(parts: list[Statement]) -> None:
    script = Script(tuple(parts))
    assert parse(unparse(script)) == script


SOUP = [
    *"()[]{}<>=+-*|~,;#?\"\\ \n/'&.",
    "...",
    "/*",
    "*/",
    "[pid 3]",
    "NULL",
    "f(",
    "4K",
    "0x7f",
    "-1",
    "= 0",
    "<<",
]
SOUP += [
    "<unfinished ...>",
    "<... f resumed>",
    "+++",
    "---",
    "EINVAL",
    "SIGBUS",
    '"a"',
    "\\x",
    "1234 ",
    "\x1b",
    "\ud800",
]


def error_of(text: str) -> ScriptError | None:
    """The error of a text; None if it is a script that comes back from its own text."""
    try:
        script = parse(text)
    except ScriptError as error:
        return error
    assert parse(unparse(script)) == script
    return None


def log_error_of(text: str) -> ScriptError | None:
    try:
        lines = parse_strace(text)
    except ScriptError as error:
        return error
    assert [parse_strace(unparse(line)) for line in lines] == [(line,) for line in lines]
    return None


def check_any(text: str) -> None:
    """A text parses and comes back, or is a `ScriptError` that points into it."""
    rows = text.removeprefix("\ufeff").split("\n")
    for error in (error_of(text), log_error_of(text)):
        if error is not None:
            assert 1 <= error.line <= len(rows)
            assert 1 <= error.column <= len(rows[error.line - 1]) + 1
            assert error.end_column > error.column
            assert error.expected
            assert str(error).startswith(error.filename)


@given(st.text(max_size=60) | st.lists(st.sampled_from(SOUP), max_size=25).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_script_or_an_error(text: str) -> None:
    check_any(text)


LOG = "\n".join(text for text, _ in STRACE)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_mutation_is_a_script_or_an_error(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([DESIGN, LOG, *DESIGN.splitlines(), *LOG.splitlines()]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = min(len(text), at + data.draw(st.integers(0, 5)))
        text = text[:at] + data.draw(st.sampled_from(["", *SOUP])) + text[end:]
    check_any(text)
