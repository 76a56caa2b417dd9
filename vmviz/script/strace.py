"""Replaying an strace log: every call that changed memory happens again, where the log says that it did.

A returned address is a *binding*: mmap is placed there, mremap moves there, the heap begins at the first
break.  A descriptor is one too: open makes a placeholder file, as large as fstat or the mapping tells, when
it is first mapped.  What is run are statements of the language, which print, journal and undo like all others.

Simplified: what leaves no call in a log is not there, unless `vmviz.script.strace_exec` finds it: the
mappings of execve, stack growth, and which pages were touched.  Whether neighbours join depends on the last
(their anon_vmas), so private memory is taken to be written to as soon as it is writable; no page is made.
Names of anonymous memory (PR_SET_VMA) are not kept, huge pages are small ones, and limits do not hold: the
log knows what succeeded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import attrs

from ..kernel.machine import Config, Machine
from .nodes import Call, Event, Name, Number, Statement, String, Struct, unparse, walk
from .outcome import Outcome
from .runner import Runner
from .strace_exec import Area, Host, NoHost, Startup, start_program
from .strace_log import Log, Traced, read_log
from .strace_maps import Mappings
from .strace_state import Opened, Process, Step, Tally, opened_path, plain_number

_FLAGS = re.compile(r"\bflags=([A-Z_|0-9a-z]+)")
_NO_LIMIT = (1 << 63) - 4096


def strace_runner(config: Config | None = None) -> Runner:
    """A runner on a machine that is ready for a log: empty of [vvar] and [vdso], and without limits."""
    config = attrs.evolve(config or Config(), vdso=False)
    machine = Machine(config)
    for name in ("as", "data", "memlock", "stack"):
        machine.rlimit(name, _NO_LIMIT)
    machine.sysctl("vm.overcommit_memory", 1)
    machine.sysctl("vm.max_map_count", 1 << 30)
    machine.seal()
    return Runner(machine, config)


class Replay(Mappings):
    """Replays a log on a fresh machine; ``tally`` counts.

    >>> replay = Replay('''brk(NULL) = 0x555555560000
    ... mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7ff576bc8000
    ... read(0, "", 10) = 0''')
    >>> [outcome.result for outcome, statement in replay.run()], dict(replay.tally.skipped)
    (['0x7ff576bc8000'], {'read': 1, 'brk': 1})

    ``host`` and ``layout`` tell what the log does not (see `vmviz.script.strace_exec`); ``keep`` is the pid
    of a process that is not ended when it ends in the log, and that is looked at afterwards.  Without
    ``config`` the machine has the host's kernel.
    """

    def __init__(
        self,
        text: str,
        filename: str = "<strace>",
        config: Config | None = None,
        *,
        host: Host | None = None,
        layout: Sequence[Area] = (),
        keep: int | None = None,
    ) -> None:
        self.log: Log = read_log(text, filename)
        self.host = host or NoHost()
        self.runner = strace_runner(config or Config(kernel=self.host.kernel))
        self.tally = Tally(skipped=self.log.skipped, failed=self.log.failed)
        self.layout = layout
        self.keep = keep
        first = Process(self.machine.first_pid)
        self._first, self._kept = first, first
        self._processes: dict[int | None, Process] = {None: first}
        self._shared: dict[int, tuple[str, int]] = {}  # shmid -> name, size
        self._at = 0
        self._opened = frozenset(
            self._realpath(p) for c in self.log.entries if isinstance(c, Traced) for p in opened_path(c)
        )

    def run(self) -> Iterator[Step]:
        """Run all; each statement is told with its outcome.  The first process, or ``keep``, runs in the end."""
        for at, entry in enumerate(self.log.entries):
            self._at = at
            process = self._process(entry.pid)
            if process is None:
                continue
            if isinstance(entry, Event):
                yield from self._event(process, entry)
            elif entry.failed or (entry.returned is None and not entry.func.startswith("exit")):
                self.tally.failed[entry.func] += 1
            else:
                yield from self._handlers().get(entry.func, self._plain)(process, entry)
        self.machine.switch_to(self._kept.machine)

    def _handlers(self) -> dict[str, Callable[[Process, Traced], Iterator[Step]]]:
        return {
            **dict.fromkeys(("open", "openat", "creat"), self._open),
            **dict.fromkeys(("dup", "dup2", "dup3", "fcntl"), self._dup),
            **dict.fromkeys(("fstat", "fstat64", "newfstatat", "statx"), self._stat),
            **dict.fromkeys(("clone", "clone3", "fork", "vfork"), self._clone),
            **dict.fromkeys(("execve", "execveat"), self._exec),
            **dict.fromkeys(("exit", "exit_group"), self._exit),
            **dict.fromkeys(("shmget", "shmat", "shmdt"), self._shm),
            "memfd_create": self._memfd,
            "ftruncate": self._truncate,
            "fallocate": self._truncate,
            "close": self._close,
            "close_range": self._close_range,
            "mmap": self._mmap,
            "mremap": self._mremap,
            "brk": self._brk,
        }

    # -- processes

    def _process(self, pid: int | None) -> Process | None:
        """Whose line it is.  A pid that no call has returned is a thread of the first process; a line without
        one is of the only process that strace follows then.
        """
        if pid is None and self._first not in self._living():
            return self._living()[0] if self._living() else None
        if pid not in self._processes:
            self._processes[pid] = self._first
        if pid is not None and pid == self.keep:
            self._kept = self._processes[pid]
        return self._processes[pid]

    def _clone(self, process: Process, call: Traced) -> Iterator[Step]:
        pid = call.returned
        if pid is None:
            return
        words: set[str] = set()
        for argument in call.args:
            for node, _ in walk(argument):
                if isinstance(node, Name):
                    words.add(node.id)
                elif isinstance(node, Struct) and (found := _FLAGS.search(node.text)):
                    words.update(found[1].split("|"))
        fds = process.fds if "CLONE_FILES" in words else dict(process.fds)
        if "CLONE_THREAD" in words:
            self._processes[pid] = process
            self.tally.skipped[call.func] += 1
        elif "CLONE_VM" in words or call.func == "vfork":
            self._processes[pid] = Process(process.machine, fds, set(process.cloexec))
            self.tally.skipped[call.func] += 1
        else:
            for step in self._step(process, call.line, "fork", ret=None):
                child = step[0].ret or -1
                if child > 0:
                    self._processes[pid] = Process(child, fds, set(process.cloexec))
                    self._inherit(fds, process.machine, child)
                    self.tally.notes.append(f"process {pid} of the log is process {child} here")
                yield step

    def _inherit(self, fds: dict[int, Opened], parent: int, child: int) -> None:
        for opened in fds.values():
            if parent in opened.machine:
                opened.machine[child] = opened.machine[parent]

    def _exec(self, process: Process, call: Traced) -> Iterator[Step]:
        """A fresh address space; a child of vfork gets a process of its own here."""
        self.machine.switch_to(process.machine)
        if any(p.machine == process.machine for p in self._living() if p is not process):
            parent, child = process.machine, self.machine.fork()
            self._inherit(process.fds, parent, child)
            process.machine = child
            self.tally.notes.append(f"process {call.pid} of the log is process {child} here")
            self.machine.switch_to(child)
        for fd in sorted(process.cloexec):
            for _ in self._drop(process, fd, call.line):
                self.tally.replayed -= 1
        paths = [a.value for a in call.args[:2] if isinstance(a, String) and a.value]
        path = paths[0] if paths else "?"
        start = self.machine.journal.end
        missing = start_program(
            self.machine, self._startup(process, path), self.host, self.layout_of(process)
        )
        task = attrs.evolve(self.machine.task, comm=path.rsplit("/", 1)[-1][:15])
        self.machine.journal.write(self.machine.tasks, task.pid, task)
        for name in missing:
            self.tally.notes.append(f"line {call.line}: where {name} lies is not told; its VMAs are left out")
        pid = None if process.machine == self.machine.first_pid else process.machine
        run = Call("execve", (String(path),))
        statement = Statement(run, pid=pid, line=call.line, column=1)
        statement = attrs.evolve(statement, text=unparse(statement))
        outcome = Outcome(self.runner.count, call.line, statement.text, "execve", 0, start=start)
        self.runner.count += 1
        self.tally.replayed += 1
        self._prepare(run, outcome)
        yield attrs.evolve(outcome, end=self.machine.journal.end), statement

    def layout_of(self, process: Process) -> Sequence[Area]:
        """The layout is that of the process that is looked at in the end."""
        return self.layout if process is self._kept or self.keep is not None else ()

    def _startup(self, process: Process, path: str) -> Startup:
        """The calls of a program: those of its process up to the next execve."""
        mine = {pid for pid, p in self._processes.items() if p is process}
        calls: list[Traced] = []
        for entry in self.log.entries[self._at + 1 :]:
            if not isinstance(entry, Traced) or entry.pid not in mine:
                continue
            if entry.func.startswith("execve") and not entry.failed:
                break
            calls.append(entry)
        return Startup(path, calls, self._opened)

    def _exit(self, process: Process, call: Traced) -> Iterator[Step]:
        whole = call.func == "exit_group"
        yield from self._end(process, call.pid, call.line, plain_number(call.args, 0) or 0, whole=whole)

    def _event(self, process: Process, event: Event) -> Iterator[Step]:
        self.tally.events += 1
        if event.kind in ("exited", "killed") and event.pid is not None:
            yield from self._end(process, event.pid, event.line, event.status or 0, whole=False)

    def _end(
        self, process: Process, pid: int | None, line: int, status: int, *, whole: bool
    ) -> Iterator[Step]:
        """A thread or a whole process ends; the memory of the one that is looked at stays."""
        others = [p for p, owner in self._processes.items() if owner is process and p not in (pid, None)]
        if process is self._first or process is self._kept:
            if whole:
                self.tally.skipped["exit_group"] += 1
            return
        if others and not whole:
            del self._processes[pid]
            return
        sharers = [p for p in self._living() if p.machine == process.machine and p is not process]
        self._processes = {p: owner for p, owner in self._processes.items() if owner is not process}
        if sharers:
            return
        for opened in process.fds.values():
            opened.machine.pop(process.machine, None)
        yield from self._step(process, line, "exit", Number(status), ret=None)


__all__ = ["Replay", "Tally", "strace_runner"]
