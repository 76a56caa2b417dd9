"""Reading an strace log: its lines to whole calls and events, in the order in which they took effect.

Only the lines of calls that matter to memory, files and processes are parsed; of all others the name is
enough, so a log of any size and any set of traced calls can be read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import attrs

from .errors import ScriptError
from .nodes import Argument, Call, Event, Expectation, Resumed, Statement, TraceLine, Unfinished
from .parser import parse_strace

MEMORY_CALLS = frozenset(
    (
        "brk",
        "madvise",
        "mlock",
        "mlock2",
        "mlockall",
        "mmap",
        "mprotect",
        "mremap",
        "msync",
        "munlock",
        "munlockall",
        "munmap",
        "pkey_mprotect",
        "remap_file_pages",
        "shmat",
        "shmdt",
        "shmget",
    )
)
"""Calls that change mappings."""
FILE_CALLS = frozenset(
    (
        "close",
        "close_range",
        "creat",
        "dup",
        "dup2",
        "dup3",
        "fallocate",
        "fcntl",
        "fstat",
        "fstat64",
        "ftruncate",
        "memfd_create",
        "newfstatat",
        "open",
        "openat",
        "statx",
    )
)
"""Calls that tell which file a descriptor means, and how large it is."""
PROCESS_CALLS = frozenset(
    (
        "clone",
        "clone3",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "fork",
        "vfork",
    )
)
"""Calls that begin and end address spaces."""
READ_CALLS = MEMORY_CALLS | FILE_CALLS | PROCESS_CALLS

_AT_ONCE = frozenset(
    ("munmap", "shmdt", "close", "close_range", "clone", "clone3", "fork", "vfork", "exit", "exit_group")
)
"""Calls whose effect others may see before they return: a freed range or number is given away again, a new
process runs.  All other calls are taken to have their effect when they return."""

_LINE = re.compile(
    r"""\s* (?: \[pid\s+(?P<pid>\d+)\]\s* | (?P<column>\d+)\s+(?![:.]) )?
    (?: [\d:]*\d+(?:\.\d+)?\s+ )? (?: \(\+\s*[\d.]+\)\s* )?
    (?: (?P<func>[A-Za-z_]\w*)\( | <\.\.\.\s(?P<resumed>\w+)\sresumed> | (?P<event>\+\+\+|---|strace:) )""",
    re.VERBOSE,
)
_FAILED = re.compile(r"\)\s+= -1 E[A-Z0-9]+ \([^()]*\)(?:\s+<[\d.]+>)?\s*$")
_ATTACHED = re.compile(r"(?P<head>.*\S)\s*strace:\sProcess\s\d+\sattached\s*$")
_BRACKETED_PID = re.compile(r"\s*\[pid\s+\d+\]\s*$")


@attrs.frozen
class Traced:
    """One whole call: ``line`` is where it ended (or began, where it has its effect at once)."""

    func: str
    args: tuple[Argument, ...]
    expect: Expectation | None
    pid: int | None
    line: int

    @property
    def returned(self) -> int | None:
        """The value it returned; None where that is unknown, or it failed."""
        e = self.expect
        return e.value.value if e is not None and e.kind == "value" and e.value is not None else None

    @property
    def failed(self) -> bool:
        """Whether it returned an error, or was interrupted to be restarted."""
        e = self.expect
        return e is not None and (e.kind == "error" or (e.value is not None and e.value.value < 0))


@attrs.define
class Log:
    """What a log holds: ``entries`` in the order of their effects, and counts of the calls that nobody needs,
    that failed, and that did not return.
    """

    entries: list[Traced | Event] = attrs.field(factory=list)
    skipped: Counter[str] = attrs.field(factory=Counter)
    failed: Counter[str] = attrs.field(factory=Counter)
    unfinished: Counter[str] = attrs.field(factory=Counter)


def read_log(text: str, filename: str = "<strace>") -> Log:
    """Read an strace log; raises `ScriptError` for a line that should be understood, but cannot be.

    >>> log = read_log('''7 munmap(0x7ffff7000000, 4096 <unfinished ...>
    ... 8 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7ffff7000000
    ... 7 <... munmap resumed>) = 0
    ... 7 read(0, "", 10) = 0''')
    >>> [(c.pid, c.func) for c in log.entries], dict(log.skipped)
    ([(7, 'munmap'), (8, 'mmap')], {'read': 1})
    """
    log = Log()
    found: list[tuple[int, Traced | Event]] = []
    halves: dict[tuple[int | None, str], list[tuple[int, Unfinished]]] = {}
    for number, line in _lines(text):
        match = _LINE.match(line)
        if match is None:
            continue
        func = match["func"] or match["resumed"]
        if func is not None and func not in READ_CALLS:
            if match["resumed"] is None:
                log.skipped[func] += 1
            continue
        if match["event"] == "strace:":
            continue
        if func is not None and match["resumed"] is None and _FAILED.search(line):
            log.failed[func] += 1
            continue
        node = _parse(line, number, filename)
        match node:
            case Unfinished():
                halves.setdefault((node.pid, node.func), []).append((number, node))
            case Resumed():
                began, first = _first_half(halves, node) or (number, None)
                args = (first.args if first is not None else ()) + node.args
                whole = Traced(node.func, args, node.expect, node.pid, number)
                found.append((began if node.func in _AT_ONCE else number, whole))
            case Statement():
                assert isinstance(node.value, Call)
                call = node.value
                found.append((number, Traced(call.func, call.args, node.expect, node.pid, number)))
            case Event():
                found.append((number, attrs.evolve(node, line=number)))
    for (pid, func), rest in halves.items():
        for number, half in rest:
            log.unfinished[func] += 1
            if func.startswith("exit"):
                found.append((number, Traced(func, half.args, None, pid, number)))
    log.entries = [entry for _, entry in sorted(found, key=lambda pair: pair[0])]
    return log


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers; one that strace has interrupted by a message of its own is whole again."""
    head, first = "", 0
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        cut = _ATTACHED.match(line)
        if cut is not None and not _BRACKETED_PID.match(cut["head"]):
            head, first = head + cut["head"], first or number
            continue
        if head:
            yield first, head + line
            head, first = "", 0
        elif line.strip():
            yield number, line


def _parse(line: str, number: int, filename: str) -> TraceLine:
    try:
        return parse_strace(line, filename=filename)[0]
    except ScriptError as error:
        error.line = number
        raise


def _first_half(
    halves: dict[tuple[int | None, str], list[tuple[int, Unfinished]]], node: Resumed
) -> tuple[int, Unfinished] | None:
    """The beginning of a call; of an execve by a thread, which ends as its leader, any that is open."""
    keys: Iterable[tuple[int | None, str]] = [(node.pid, node.func)]
    if (node.pid, node.func) not in halves:
        # The column of pids comes and goes with the number of processes that strace follows.
        keys = [key for key in halves if key[1] == node.func and (None in (key[0], node.pid))]
        if node.func.startswith("execve"):
            keys = keys or [key for key in halves if key[1] == node.func]
    for key in keys:
        open_halves = halves.get(key)
        if open_halves:
            first = open_halves.pop()
            if not open_halves:
                del halves[key]
            return first
    return None
