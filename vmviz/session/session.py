"""The session: single writer of a machine, and the timeline of its statements.

Statements are run to their end at once; the position then moves freely over what is in the journal.  A new
statement in the past drops the future; what of it came from the story goes back to the statements to come.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from ..kernel.errors import VmvizError
from ..kernel.mm.vma import Vma
from ..kernel.value import Value

if TYPE_CHECKING:
    from ..kernel.machine import Machine
    from ..kernel.mm.mm_types import Mm
    from ..kernel.trace.journal import Position, Record
    from ..script.nodes import Script, Statement
    from ..script.outcome import Outcome
    from ..script.runner import Runner
    from .steps import StepIndex

STORY_MARK = "story"
"""A comment line with this word alone divides set-up from what is to come."""


class InsideStatement(VmvizError):
    """A new statement was asked for inside of one: play that to its end or take it back first."""


@attrs.frozen(eq=False, repr=False)
class Pending(Value):
    """A statement of the story that has not been run; ``told`` is the comment that belongs to it."""

    statement: Statement
    source: str
    filename: str
    told: str = ""


@attrs.frozen(eq=False, repr=False)
class Done(Value):
    """A statement that has been run: its outcome, the variables before and after it, where it came from."""

    statement: Statement
    outcome: Outcome
    names: dict[str, Any]
    after: dict[str, Any]
    story: Pending | None = None

    @property
    def start(self) -> Position:
        """The position before the statement."""
        return self.outcome.start

    @property
    def end(self) -> Position:
        """The position after the statement."""
        return self.outcome.end


@attrs.frozen(eq=False, repr=False)
class _Future:
    """What lies after the position, in case a statement that is about to drop it makes no sense."""

    done: list[Done]
    records: list[Record]
    machine: Machine
    mms: tuple[Mm, ...]


class Session:
    """A machine with its timeline.

    >>> s = Session()
    >>> s.run("a = mmap(NULL, 4K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)").result
    '0x7ffff7ffe000'
    >>> s.undo(); len(list(s.machine.mm.vmas))
    3
    >>> s.redo(); len(list(s.machine.mm.vmas))
    4
    """

    def __init__(self, machine: Machine | None = None, title: str = "") -> None:
        self._given = machine
        self.title = title
        self.done: list[Done] = []
        self.pending: list[Pending] = []
        self.remarks: list[str] = []
        self.setup = 0  # statements that were done before the session was shown
        self.index = 0  # statements that are done wholly at the position
        self._steps: tuple[Position, StepIndex] | None = None
        self._first_names: dict[str, Any] = {}

    @cached_property
    def runner(self) -> Runner:
        """What runs statements; an imported process is looked at without it, and without the language."""
        from ..script.runner import Runner

        return Runner(self._given)

    # -- the story

    def load(self, text: str, filename: str) -> Script:
        """Put a script's statements to come; raises `ScriptError` when it is not one."""
        script = self.runner.parse(text, filename)
        told = {c.line: c.text.strip("# ") for c in script.comments}
        for statement in script.statements:
            above: list[str] = []
            line = statement.line - 1
            while line in told:
                above.insert(0, told[line])
                line -= 1
            told_here = statement.comment or " ".join(line for line in above if line != STORY_MARK)
            self.pending.append(Pending(statement, text, filename, told_here))
        return script

    def run_until_comment(self, script: Script, word: str) -> None:
        """Run the story up to the comment line that is ``word`` alone: what comes before it is set-up."""
        line = next((c.line for c in script.comments if c.text.strip(" #") == word), 0)
        while self.pending and self.pending[0].statement.line < line:
            self.run_next()
        self.setup = len(self.done)

    # -- the timeline

    @property
    def at_story_start(self) -> bool:
        """Whether the position stands where the set-up is done and the story begins."""
        return self.index == self.setup and self.inside is None

    @property
    def machine(self) -> Machine:
        """The machine."""
        if self._given is not None and "runner" not in self.__dict__:
            return self._given
        return self.runner.machine

    @property
    def position(self) -> Position:
        """Where the stores stand."""
        return self.machine.journal.position

    @property
    def inside(self) -> Done | None:
        """The statement inside which the position stands, None at a border."""
        if self.index < len(self.done):
            done = self.done[self.index]
            if done.start < self.position < done.end:
                return done
        return None

    @property
    def current(self) -> Done | None:
        """The statement that the panes explain: the one the position stands in, else the last one done."""
        inside = self.inside
        if inside is not None:
            return inside
        return self.done[self.index - 1] if self.index else None

    @property
    def future(self) -> list[Done]:
        """Statements that were run and lie after the position."""
        return self.done[self.index + (self.inside is not None) :]

    def steps(self, done: Done) -> StepIndex:
        """The steps of a statement."""
        if self._steps is None or self._steps[0] != done.start or self._steps[1].end != done.end:
            from .steps import StepIndex

            self._steps = (done.start, StepIndex(self.machine.journal, done.start, done.end))
        return self._steps[1]

    # -- moving

    def seek(self, position: Position, index: int) -> None:
        """Move to a position; ``index`` statements are done there (one without records begins where it ends).

        The variables are those of that moment.
        """
        self.machine.journal.seek(position)
        self.index = index
        self.runner.names = self._names_at(index)

    def _names_at(self, index: int) -> dict[str, Any]:
        """The variables after ``index`` statements."""
        if index < len(self.done):
            return dict(self.done[index].names)
        return dict(self.done[-1].after if self.done else self._first_names)

    def undo(self) -> None:
        """Take back the statement that the position stands in or behind; nothing at the beginning."""
        i = self._target(-1)
        if i is not None:
            self.seek(self.done[i].start, i)

    def redo(self) -> None:
        """Do the statement that the position stands in or before again; nothing at the end."""
        i = self._target(1)
        if i is not None:
            self.seek(self.done[i].end, i + 1)

    def step(self, count: int = 1) -> bool:
        """Move by single steps, across statements; returns whether there was one to go."""
        i = self._target(count)
        if i is None:
            return False
        at = self.done[i]
        steps = self.steps(at)
        k = (steps.index_of(self.position) if self.inside or count > 0 else steps.total) + count
        if k <= 0:
            self.seek(at.start, i)
        elif k >= steps.total:
            self.seek(at.end, i + 1)
        else:
            self.seek(steps.position_at(k), i)
        return True

    def step_call(self, count: int, *, functions: bool = False) -> bool:
        """Move to the next (or previous) border of a call, or end of a function."""
        i = self._target(count)
        if i is None:
            return False
        at = self.done[i]
        steps = self.steps(at)
        borders = steps.functions() if functions else steps.calls()
        here = self.position if self.inside else at.start if count > 0 else at.end
        if count > 0:
            to = next((b for b in borders if b > here), at.end)
            self.seek(to, i + (to == at.end))
        else:
            self.seek(next((b for b in reversed(borders) if b < here), at.start), i)
        return True

    def _target(self, count: int) -> int | None:
        """The number of the statement that a move is about: the one inside, else the next or the last one."""
        i = self.index if self.inside is not None or count > 0 else self.index - 1
        return i if 0 <= i < len(self.done) else None

    # -- running

    def run(self, text: str) -> Outcome:
        """Run a statement of the user's at the position, whose future is dropped.

        Raises `ScriptError`, and `InsideStatement` when the position stands inside a statement.
        """
        self._at_border()
        parsed = self.runner.parse(text, "<console>")
        if len(parsed.statements) != 1:
            message = "one statement at a time, please" if parsed.statements else "there is no statement"
            raise VmvizError(message)
        return self._run(parsed.statements[0], text, "<console>", None)

    def run_next(self) -> Outcome | None:
        """Run the next statement of the story, or do the next one again; None when there is none."""
        self._at_border()
        if self.future:
            self.redo()
            return self.current.outcome if self.current else None
        if not self.pending:
            return None
        p = self.pending[0]
        outcome = self._run(p.statement, p.source, p.filename, p)
        self.pending.remove(p)
        return outcome

    def _at_border(self) -> None:
        if self.inside is not None:
            message = "the position stands inside a statement: finish it (Enter) or take it back (u) first"
            raise InsideStatement(message)

    def _run(self, statement: Statement, source: str, filename: str, story: Pending | None) -> Outcome:
        kept = self._future_to_keep()
        dropped = self.drop_future()
        names = dict(self.runner.names)
        if not self.done:
            self._first_names = names
        try:
            outcome = self.runner.run(statement, source, filename)
        except BaseException:
            self._bring_back(kept)  # a statement that makes no sense has not happened: the future stays
            raise
        self.pending[:0] = dropped
        self.done.append(Done(statement, outcome, names, dict(self.runner.names), story))
        self.index = len(self.done)
        return outcome

    def _future_to_keep(self) -> _Future:
        machine = self.machine
        at = machine.journal.at  # None: at the end, where no records need be looked at
        records = [] if at is None else machine.journal.records[at[0] :]
        return _Future(self.done[self.index :], records, machine, machine.known_mms())

    def _bring_back(self, future: _Future) -> None:
        if not future.done:
            return
        if self.machine is not future.machine:
            self.runner.reboot(future.machine)
        future.machine.resume(future.records, future.mms)
        self.done += future.done
        self.runner.count = len(self.done)

    def drop_future(self) -> list[Pending]:
        """Forget the statements after the position; returns those of them that belong to the story."""
        future = self.done[self.index :]
        if future:
            names = self._names_at(self.index)
            del self.done[self.index :]
            self.machine.journal.truncate()
            self.runner.count = len(self.done)
            self.runner.names = names
            self._steps = None
            if not self.done:
                self.runner.unboot()
        return [d.story for d in future if d.story is not None]

    # -- saving

    def script(self) -> str:
        """All statements that were run as a script, each with its result as expectation.

        Run headless on the same base it gives the same journal; what is still to come is not in it.

        >>> s = Session(); _ = s.run("a = brk(NULL)"); _ = s.run("load(a)")
        >>> print(s.script(), end="")
        a = brk(NULL) = 0x555555758000
        load(a) = SIGSEGV SEGV_MAPERR
        """
        from .export import script_of

        return script_of(self.runner, self.done, self.title)

    def dump(self) -> str:
        """The journal as canonical text, up to its end; equal texts are equal runs."""
        from .export import dump

        return dump(self.machine.journal)

    # -- names

    def labels(self) -> dict[str, int]:
        """The variables that hold addresses in mappings, or a VMA that is there (by its start)."""
        if "runner" not in self.__dict__:
            return {}
        mm = self.machine.mm
        values = {n: v.start if isinstance(v, Vma) else v for n, v in self.runner.names.items()}
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, int) and value >= 65536 and mm.vma_at(value) is not None
        }
