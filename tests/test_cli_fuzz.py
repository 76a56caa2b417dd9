"""Whatever is written in a script, the answer is an exit status and words, never a traceback."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmviz.data import examples
from vmviz.kernel.verify import verify
from vmviz.script import ScriptError
from vmviz.script.functions import FUNCTIONS
from vmviz.script.names import CONSTANTS
from vmviz.script.report import Report
from vmviz.script.runner import Runner

from .test_cli import GOOD, WRONG, invoke

SEEDS = [path.read_text(encoding="utf-8") for path in examples()] + [GOOD, WRONG]
NUMBERS = [
    "0",
    "1",
    "-1",
    "4K",
    "2M",
    "64K",
    "4095",
    "1p",
    "0x7ffff7000000",
    "0xffffffffffffffff",
    "-4K",
    "1 << 47",
]
WORDS = st.sampled_from([*FUNCTIONS, *sorted(CONSTANTS), "fb", "heap", "bar", "boot", "mprotect", "zz"])
ATOMS = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(
        ["fb", "heap", "bar", "x", "v", "vma(fb)", "vma(heap)", "vma(bar)", "vma(0)", 'vma("[stack]")']
    ),
    st.sampled_from(
        ['"/dev/fb0"', '"text"', '""', '"\\377"', "NULL", "[1, 2]", "{a=1}", "...", "(1 + 2)", "3 => 4"]
    ),
    st.sampled_from(
        ["PROT_READ|PROT_WRITE", "MAP_SHARED", "MAP_PRIVATE|MAP_ANONYMOUS", "alloc_page()", "fb + 1M"]
    ),
)
RESULTS = st.sampled_from(
    ["", " = 0", " = -1", " = -1 EINVAL", " = SIGSEGV", " = ?", " = 0x10", " = SIGBUS BUS_ADRERR"]
)


@st.composite
def statements(draw: st.DrawFn) -> str:
    """A call of a function of the language with a right number of values of any kind."""
    name = draw(st.sampled_from(sorted(FUNCTIONS)))
    low, high = FUNCTIONS[name].arity
    values = draw(st.lists(ATOMS, min_size=low, max_size=high))
    target = draw(st.sampled_from(["", "", "x = ", "v = "]))
    return f"{target}{name}({', '.join(values)}){draw(RESULTS)}"


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A script of ours with some characters or words of it changed."""
    text = draw(st.sampled_from(SEEDS))
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    for _ in range(draw(st.integers(1, 6))):
        i, j = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        j = min(j, i + 8)
        new = draw(
            st.one_of(
                st.just(""),
                st.sampled_from(list('()=,|+-*<>"#;\n{}[]~?.')),
                WORDS,
                ATOMS,
                st.text(max_size=3),
            )
        )
        text = text[:i] + new + text[j:]
    return text


HEAD = "boot(mem=16M)\nx = 5\nv = 7\n" + next(t for t in SEEDS if "/usr/bin/camera" in t).replace(
    "boot(mem=64M, vdso=0)", ""
)
SETUP = HEAD.partition("# story")[0]


def _answers(text: str) -> None:
    result = invoke("run", "-", "--check", "--state", "--trace", stdin=text.encode("utf-8", "surrogatepass"))
    assert result.exit_code in (0, 1, 2)
    if result.exit_code:
        assert result.stderr
    assert "Traceback" not in result.output


QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(mutants())
def test_mutated_scripts_never_end_in_a_traceback(text: str) -> None:
    _answers(text)


@QUICK
@given(st.lists(statements(), min_size=1, max_size=12))
def test_random_calls_never_end_in_a_traceback(lines: list[str]) -> None:
    """Each line is tried; a line that is an error of the script does not hide those behind it."""
    runner = Runner()
    report = Report(lambda _: None, "f", check=True, trace=True)
    for statement in runner.parse(SETUP).statements:
        runner.run(statement)
    for line in lines:
        try:
            (statement,) = runner.parse(line).statements
            report.add(runner.machine, runner.run(statement, line), statement)
        except ScriptError:
            continue
    report.state(runner.machine)
    wrong = verify(runner.machine)
    assert not wrong or any("remap" in line or "vm_iomap" in line for line in lines), wrong


@QUICK
@given(st.binary(max_size=200))
def test_bytes_never_end_in_a_traceback(raw: bytes) -> None:
    assert invoke("run", "-", stdin=raw).exit_code in (0, 2)
