"""Saving a session: its statements as a script, and its journal as canonical text to compare runs by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import attrs
import numpy as np

from ..kernel.machine import Config
from ..kernel.mm.contents import ContentColumn, Contents
from ..kernel.mm.frames import Frames
from ..kernel.trace.bulk import Bulk, CopyLane, CountLane, FlipLane, Lane, SetLane
from ..kernel.trace.journal import Check, Enter, Event, Journal, Leave
from ..script.nodes import Expectation, Number, Statement, unparse
from ..script.outcome import Outcome
from ..script.runner import BOOT_KEYS, Runner


class Ran(Protocol):
    """A statement that was run."""

    @property
    def statement(self) -> Statement:
        """What was run."""
        ...

    @property
    def outcome(self) -> Outcome:
        """What came of it."""
        ...


def script_of(runner: Runner, done: Iterable[Ran], title: str = "") -> str:
    """The statements as a script that boots the same machine and expects the same results."""
    lines = []
    ran = list(done)
    if runner.fixed:
        lines.append(f"# To be run on its base ({title or 'a given machine'}): vmviz run --base PID|FILE")
    elif not ran or ran[0].outcome.func != "boot":
        lines += boot_line(runner.machine.config)
    lines += [
        unparse(attrs.evolve(d.statement, expect=expectation(d.statement, d.outcome), comment=""))
        for d in ran
    ]
    return "".join(f"{line}\n" for line in lines)


def boot_line(config: Config) -> list[str]:
    """The statement that boots a machine of this configuration; none for the usual one.

    >>> boot_line(Config(ram=64 << 20, vdso=False)), boot_line(Config())
    (['boot(mem=65536K, vdso=0)'], [])
    """
    usual = Config()
    words = []
    for key, field in BOOT_KEYS.items():
        value = getattr(config, field)
        if value == getattr(usual, field):
            continue
        words.append(f"{key}={_literal(key, value)}")
    return [f"boot({', '.join(words)})"] if words else []


def _literal(key: str, value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value >> 10}K" if key == "mem" else str(int(value))


def expectation(statement: Statement, outcome: Outcome) -> Expectation | None:
    """What a statement gave, as an expectation; None for an assignment of a plain value."""
    if statement.call is None:
        return None
    if outcome.signal is not None:
        return Expectation("signal", signal=outcome.signal.name, code=outcome.signal.code)
    if outcome.errno is not None:
        return Expectation("error", Number(-1), outcome.errno)
    value = outcome.verdict if outcome.ret is None else outcome.ret
    if value is None:
        return Expectation("unknown")
    return Expectation(
        "value", Number(value, f"{value:#x}" if outcome.address and value >= 0 else str(value))
    )


def dump(journal: Journal) -> str:
    """All records of a journal as text, a line each; equal texts are equal runs.

    >>> from vmviz.kernel import Machine
    >>> a, b = Machine(ram=1 << 20), Machine(ram=1 << 20)
    >>> _ = a.brk(0), b.brk(0)
    >>> dump(a.journal) == dump(b.journal)
    True
    """
    return "".join(f"{line}\n" for line in _lines(journal))


def _lines(journal: Journal) -> Iterator[str]:
    for record in journal.records:
        match record:
            case Enter():
                yield f"> {record.func} {record.fields!r}"
            case Leave():
                yield f"< {record.func} {record.ret!r}"
            case Check():
                yield f"? {record.expression} | {record.compared} | {record.passed} {record.reached}"
            case Event():
                yield f"! {record.name} {record.fields!r}"
            case Bulk():
                head = f"* {record.func} {record.n} {record.address:#x} {record.cuts}"
                lanes = "; ".join(_lane(lane) for lane in record.lanes)
                yield f"{head} {_text(record.addresses)} {lanes}"
            case (store, key, old, new):
                yield f"= {store.name} {key!r}: {_cell(store, old)} -> {_cell(store, new)}"


def _lane(lane: Lane) -> str:
    if isinstance(lane, SetLane):
        old, new = lane.old, lane.new
        if isinstance(lane.store, ContentColumn):  # numbers of contents depend on what was undone before
            old, new = (_contents(lane.store.contents, values) for values in (old, new))
        return f"{lane.store.name}[{_text(lane.index)}]: {_text(old)} -> {_text(new)}"
    if isinstance(lane, FlipLane):
        return f"{lane.store.name}[{_text(lane.index)}] ^= {_text(lane.bits)}"
    if isinstance(lane, CopyLane):
        return f"{lane.store.name}[{_text(lane.index)}] := [{_text(lane.source)}] & ~{lane.drop:#x}"
    where = lane.key if isinstance(lane, CountLane) else _text(lane.index)
    return f"{lane.store.name}[{where}] += {_text(lane.delta)}"


def _cell(store: Any, value: Any) -> str:
    """A value as text; a content by its bytes, as its number depends on what was undone before."""
    if isinstance(store, ContentColumn):
        return repr(store.contents.bytes_of(value))
    if isinstance(store, Frames):
        return repr((*value[:-1], store.contents.bytes_of(value[-1])))
    return repr(value)


def _contents(contents: Contents, values: Any) -> Any:
    if not isinstance(values, np.ndarray):
        return repr(contents.bytes_of(values))
    kinds, which = np.unique(values, return_inverse=True)
    digests = [hashlib.sha256(contents.bytes_of(k)).digest()[:8] for k in kinds.tolist()]
    return np.array([int.from_bytes(d, "little", signed=True) for d in digests], np.int64)[which]


def _text(value: Any) -> str:
    """A number, a slice, or the digest of an array."""
    if isinstance(value, np.ndarray):
        numbers = value.astype(np.int64, casting="unsafe")
        return f"{len(value)} values {hashlib.sha256(numbers.tobytes()).hexdigest()[:16]}"
    return str(value)
