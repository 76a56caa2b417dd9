"""What the replay of an strace log keeps: its processes, their open files, its counts; reading its arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import attrs

from .names import CONSTANTS
from .nodes import Argument, BinOp, Expression, Name, Number, Statement, String, walk
from .outcome import Outcome
from .strace_log import Traced

Step = tuple[Outcome, Statement]


@attrs.define(eq=False)
class Opened:
    """An open file of the log; ``machine`` is its descriptor in each simulated process that has it open."""

    path: str
    flags: Expression
    size: int | None = None
    memory: bool = False
    machine: dict[int, int] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Process:
    """A process of the log: which simulated process it is, and what its descriptors mean.

    After vfork two processes are one simulated process, until the child runs a program of its own.
    """

    machine: int
    fds: dict[int, Opened] = attrs.field(factory=dict)
    cloexec: set[int] = attrs.field(factory=set)


@attrs.define
class Tally:
    """What became of the lines of a log, by the names of the calls."""

    replayed: int = 0
    skipped: Counter[str] = attrs.field(factory=Counter)
    """Without effect on memory."""
    failed: Counter[str] = attrs.field(factory=Counter)
    """Failed in the log, so they are not run."""
    unplaced: Counter[str] = attrs.field(factory=Counter)
    """Of memory that nothing in the log has mapped."""
    refused: Counter[str] = attrs.field(factory=Counter)
    """Not simulated, as a note says."""
    differing: int = 0
    """Replayed with another result."""
    events: int = 0
    notes: list[str] = attrs.field(factory=list)

    def to_json(self) -> dict[str, object]:
        """The fields of the last object of ``vmviz run --strace --json``."""
        return {
            "replayed": self.replayed,
            "differing": self.differing,
            "skipped": dict(sorted(self.skipped.items())),
            "failed": dict(sorted(self.failed.items())),
            "unplaced": dict(sorted(self.unplaced.items())),
            "not_simulated": dict(sorted(self.refused.items())),
            "events": self.events,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """The same in words.

        >>> Tally(replayed=3, skipped=Counter(read=2, write=1)).lines()
        ['3 statements replayed', '3 calls without effect on memory skipped: read 2, write 1']
        """
        words = [f"{self.replayed} statements replayed"]
        if self.differing:
            words[0] += f", {self.differing} with another result than in the log"
        for counter, what in (
            (self.skipped, "without effect on memory skipped"),
            (self.failed, "that failed in the log skipped"),
            (self.unplaced, "on memory that no call of the log has mapped skipped"),
            (self.refused, "not simulated"),
        ):
            total = counter.total()
            if total:
                named = ", ".join(f"{name} {n}" for name, n in counter.most_common())
                words.append(f"{total} call{'s' * (total > 1)} {what}: {named}")
        if self.events:
            words.append(f"{self.events} events (exits and signals)")
        return words + self.notes


def opened_path(call: Traced) -> Iterator[str]:
    """The path that a call has opened: what strace -y says of the descriptor, or as it was asked for."""
    if call.func not in ("open", "openat", "creat") or call.returned is None or call.expect is None:
        return
    number = call.expect.value
    noted = number.annotation if number is not None else None
    asked = call.args[1 if call.func == "openat" else 0]
    if noted is not None:
        yield noted
    elif isinstance(asked, String):
        base = getattr(call.args[0], "annotation", None) if call.func == "openat" else None
        relative = base is not None and not asked.value.startswith("/")
        yield f"{base}/{asked.value.removeprefix('./')}" if relative else asked.value


def plain_number(args: Sequence[Argument], index: int) -> int | None:
    """The number at an index, where it is a plain one; NULL is 0."""
    node = args[index] if index < len(args) else None
    if isinstance(node, Number) and not node.abbreviated:
        return node.value
    return 0 if isinstance(node, Name) and node.id == "NULL" else None


def names_in(node: Argument) -> list[str]:
    """The names in an argument, such as flags."""
    return [n.id for n, _ in walk(node) if isinstance(n, Name)]


def flag_bits(node: Argument) -> int:
    """The value of flags, by their names or as ``strace -X raw`` prints them; unknown names count nothing.

    >>> flag_bits(BinOp("|", Name("MAP_PRIVATE"), Number(0x20)))
    34
    """
    parts = [n for n, _ in walk(node)]
    bits = 0
    for n in parts:
        bits |= CONSTANTS.get(n.id, 0) if isinstance(n, Name) else n.value if isinstance(n, Number) else 0
    return bits


def either(*parts: Expression) -> Expression:
    whole = parts[0]
    for part in parts[1:]:
        whole = BinOp("|", whole, part)
    return whole


def known(node: Argument, but: set[str] | frozenset[str] = frozenset()) -> Expression:
    """Flags without those that nobody here knows, and without those in ``but``."""
    match node:
        case BinOp("|", left, right):
            parts = [p for p in (known(left, but), known(right, but)) if p != Number(0)]
            return either(*parts) if parts else Number(0)
        case Name(id=name):
            return node if name in CONSTANTS and name not in but else Number(0)
        case Number():
            return node
        case _:
            return Number(0)
