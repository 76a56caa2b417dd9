"""Printing what a script did: a line per statement as strace has it, or a JSON object per statement."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from ..kernel.arch.tlb import TlbFlush
from ..kernel.machine import Machine
from ..kernel.trace.bulk import Bulk
from ..kernel.trace.journal import Check, Enter, Event, Leave
from .nodes import Statement, unparse
from .outcome import Outcome
from .state import state_json
from .values import format_addr, format_size

if TYPE_CHECKING:
    from .strace_state import Tally


class Report:
    """Prints outcomes as they come; `finish` returns a line for each expectation that failed."""

    def __init__(
        self,
        echo: Callable[[str], Any],
        name: str,
        *,
        as_json: bool = False,
        check: bool = False,
        trace: bool = False,
    ) -> None:
        self._echo = echo
        self.name = name
        self.as_json = as_json
        self.check = check
        self.trace = trace
        self._failed: list[str] = []
        self._count = 0

    def add(self, machine: Machine, outcome: Outcome, statement: Statement) -> None:
        """One more statement was run."""
        self._count += 1
        if self.check and outcome.expected is False:
            place = statement.expect or statement
            self._failed.append(
                printable(f"{self.name}:{place.line}:{place.column}: {outcome.mismatch}: {outcome.text}")
            )
        trace = trace_lines(machine, outcome) if self.trace else []
        if self.as_json:
            self._echo(json.dumps({**outcome.to_json(), "trace": trace} if self.trace else outcome.to_json()))
            return
        wrong = f"    WRONG: {outcome.mismatch}" if self.check and outcome.expected is False else ""
        self.echo(text_line(outcome, statement) + wrong)
        if outcome.output:
            self.echo(outcome.output.rstrip("\n"))
        for line in trace:
            self.echo(f"    {line}")

    def echo(self, text: str) -> None:
        """Print text, without what a terminal could take for commands."""
        self._echo(printable(text))

    def state(self, machine: Machine) -> None:
        """Append the final state."""
        state = state_json(machine)
        if self.as_json:
            self._echo(json.dumps({"state": state}))
            return
        self.echo(f"\n{state['comm']}, pid {state['pid']}")
        for v in state["vmas"]:
            self.echo(f"  {v['start']:>14}-{v['end']:<14} {v['perms']} {v['VmFlags']}  {v['name']}".rstrip())
        self.echo("entries")
        for e in state["entries"]:
            size = "2M " if e["level"] == "pmd" else ""
            self.echo(f"  {e['va']:>14} {e['n']:>7} x {size}pfn {e['pfn'] or 'hidden':<9} {e['bits']}")
        for u in state["unknown"]:
            self.echo(f"  {u['start']:>14}-{u['end']:<14} ?? cannot be observed")
        self.echo("counters")
        self.echo("  " + "  ".join(f"{k} {v}" for k, v in state["counters"].items() if v))
        self.echo(f"  frames free {state['frames']['free']} of {state['frames']['total']}")

    def tally(self, tally: Tally) -> None:
        """Append what became of the calls of an strace log."""
        if self.as_json:
            self._echo(json.dumps({"strace": tally.to_json()}))
            return
        for line in tally.lines():
            self.echo(f"# {line}")

    def finish(self) -> list[str]:
        """The expectations that failed, each with file, line and column."""
        if self.check and not self.as_json:
            failed = len(self._failed)
            self.echo(f"{counted(self._count, 'statement')}, {counted(failed, 'expectation')} failed")
        return self._failed


def text_line(outcome: Outcome, statement: Statement) -> str:
    """A statement with its result and, in words, what it did.

    >>> from vmviz.script.runner import Runner
    >>> from vmviz.script.parser import parse_statement
    >>> s = parse_statement("munmap(0x1000, 4K) = 0")
    >>> text_line(Runner().run(s), s)
    'munmap(0x1000, 4K) = 0    nothing was mapped there, which is no error'
    """
    call = call_text(statement)
    words = "; ".join(effects(outcome))
    ret = (
        outcome.result
        if outcome.ret is not None or outcome.verdict is None
        else f"? (verdict {outcome.verdict})"
    )
    return f"{call} = {ret}" + (f"    {words}" if words else "")


def call_text(statement: Statement) -> str:
    """A statement as it was written, without what it expects.

    >>> from vmviz.script.parser import parse_statement
    >>> call_text(parse_statement("mmap(NULL, 4K, PROT_READ|PROT_EXEC)   = -1 EINVAL"))
    'mmap(NULL, 4K, PROT_READ|PROT_EXEC)'
    """
    expect = statement.expect
    if expect is None:
        return statement.text
    cut = expect.column - statement.column
    if expect.line == statement.line and statement.text[cut:].startswith("="):
        return statement.text[:cut].rstrip()
    return unparse(attrs.evolve(statement, expect=None, comment=""))


def effects(outcome: Outcome) -> list[str]:
    """What a statement did, in short phrases."""
    out = []
    if outcome.refusal is not None and outcome.func.startswith("zap"):
        out.append(f"refused, nothing changed: {outcome.refusal.message}")
        legal = outcome.refusal.legal
        if legal is not None:
            out.append(f"nearest legal: {format_addr(legal.address)}, {format_size(legal.size, exact=True)}")
        return out
    if outcome.ptes_cleared:
        out.append(f"{counted(outcome.ptes_cleared, 'PTE')} cleared")
    if (n := outcome.ptes_unknown) == 1:
        out.append("1 unknown entry is known to be empty now")
    elif n:
        out.append(f"{n} unknown entries are known to be empty now")
    if outcome.frames_freed or outcome.tables_freed:
        out.append(
            f"{counted(outcome.frames_freed, 'frame')} and {counted(outcome.tables_freed, 'table')} freed"
        )
    out += [flush_text(f) for f in outcome.tlb]
    if outcome.min_flt or outcome.maj_flt:
        out.append(f"{outcome.min_flt} minor and {counted(outcome.maj_flt, 'major fault')}")
    if outcome.data:
        out.append(f"read {_shown(outcome.data)}")
    if outcome.page_bytes:
        out.append(f"first bytes of the pages: {outcome.page_bytes.hex(' ')}")
    if outcome.output:
        out.append(counted(outcome.output.count("\n"), "line"))
    if outcome.vec:
        out.append(f"in memory: {outcome.vec[:64]}{'...' if len(outcome.vec) > 64 else ''}")
    if outcome.why:
        out.append(outcome.why)
    return out


def counted(n: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "page"), counted(0, "page")
    ('1 page', '0 pages')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def flush_text(flush: TlbFlush) -> str:
    """A TLB flush in words.

    >>> flush_text(TlbFlush("pages", 0, 4096, 1)), flush_text(TlbFlush("full", 0, 2 << 20, 512))
    ('TLB: 1 page flushed singly', 'TLB: full flush (512 pages)')
    """
    pages = counted(flush.nr_pages, "page")
    return f"TLB: full flush ({pages})" if flush.kind == "full" else f"TLB: {pages} flushed singly"


def _shown(data: bytes) -> str:
    """Bytes as hex (16 at most), and as text where they are one.

    >>> _shown(b"hi"), _shown(bytes(20))
    ('68 69 "hi"', '00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ...')
    """
    text = data.rstrip(b"\0")
    words = data[:16].hex(" ") + (" ..." if len(data) > 16 else "")
    return f'{words} "{text.decode()}"' if text and text.isascii() and text.decode().isprintable() else words


def printable(text: str) -> str:
    r"""The text with escapes for all that is no letter, digit, sign or line end.

    >>> printable("a\x1b[2J\udcff")
    'a\\x1b[2J\\udcff'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def trace_lines(machine: Machine, outcome: Outcome) -> list[str]:
    """The calls, checks and tracepoints of a statement, indented as ftrace's function_graph does."""
    depth, out = 0, []
    own = machine.frames.own_pfns
    for record, _, _ in machine.journal.between(outcome.start, outcome.end):
        match record:
            case Enter():
                out.append("  " * depth + f"{record.func}({_fields(record.fields, own)}) {{")
                depth += 1
            case Leave():
                depth = max(0, depth - 1)
                out.append(
                    "  " * depth + "}" + (f" = {_value('ret', record.ret)}" if record.ret is not None else "")
                )
            case Check():
                word = "pass" if record.passed else "FAIL"
                word = word if record.reached else f"not reached, would {word.lower()}"
                out.append("  " * depth + f"{record.expression}: {record.compared}: {word}")
            case Event():
                out.append("  " * depth + f"/* {record.name}: {_fields(record.fields, own)} */")
            case Bulk():
                ends = (*record.cuts[1:], record.n)
                for a, b in zip(record.cuts, ends, strict=True):
                    out.append(
                        "  " * depth + f"{record.func}({format_addr(record.address_of(a))}); /* x {b - a} */"
                    )
    return out


def _fields(fields: tuple[tuple[str, Any], ...], own: range = range(0)) -> str:
    """Fields of a record; frame numbers among ``own`` are not those of the machine, which are hidden."""
    return ", ".join(f"{k}={'hidden' if k == 'pfn' and v in own else _value(k, v)}" for k, v in fields)


def _value(name: str, value: Any) -> str:
    if isinstance(value, int) and name not in (
        "pages",
        "nr_pages",
        "times",
        "order",
        "fd",
        "ret",
        "prot",
        "flags",
    ):
        return format_addr(value)
    if isinstance(value, int) and (name in ("flags", "prot") or value >= 1 << 16):
        return format_addr(value)
    return str(value)
