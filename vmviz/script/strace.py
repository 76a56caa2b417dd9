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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import attrs

from ..kernel.machine import Config, Machine
from ..kernel.mm.flags import VM_SHARED, VM_WRITE
from ..kernel.mm.rmap import anon_vma_prepare
from .errors import ScriptError
from .functions import FUNCTIONS
from .names import CONSTANTS
from .nodes import (
    Argument,
    BinOp,
    Call,
    Event,
    Expectation,
    Expression,
    Name,
    Number,
    Statement,
    String,
    Struct,
    unparse,
    walk,
)
from .outcome import Outcome
from .runner import Runner
from .strace_log import Log, Traced, read_log
from .strace_exec import Area, Host, NoHost, Startup, start_program

Step = tuple[Outcome, Statement]

_SIZE = re.compile(r"\bstx?_size=(\d+)")
_FLAGS = re.compile(r"\bflags=([A-Z_|0-9a-z]+)")
_NO_LIMIT = (1 << 63) - 4096
_O_RDWR_CREAT = BinOp("|", Name("O_RDWR"), Name("O_CREAT"))
_DROPPED_FLAGS = {"MAP_FIXED_NOREPLACE", "MAP_HUGETLB", "MAP_HUGE_2MB", "MAP_HUGE_1GB"}


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


class Replay:
    """Replays a log on a fresh machine; ``tally`` counts.

    >>> replay = Replay('''brk(NULL) = 0x555555560000
    ... mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7ff576bc8000
    ... read(0, "", 10) = 0''')
    >>> [outcome.result for outcome, statement in replay.run()], replay.tally.skipped.total()
    (['0x7ff576bc8000'], 1)

    ``host`` and ``layout`` tell what the log does not (see `vmviz.script.strace_exec`); ``keep`` is the pid
    of a process that is not ended when it ends in the log, and that is looked at afterwards.
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
        self.runner = strace_runner(config)
        self.tally = Tally(skipped=self.log.skipped)
        self.host = host or NoHost()
        self.layout = layout
        self.keep = keep
        first = Process(self.machine.first_pid)
        self._first, self._kept = first, first
        self._processes: dict[int | None, Process] = {None: first}
        self._shared: dict[int, tuple[str, int]] = {}  # shmid -> name, size
        self._at = 0
        self._opened = frozenset(
            self._realpath(p) for c in self.log.entries if isinstance(c, Traced) for p in _opened_path(c)
        )

    @property
    def machine(self) -> Machine:
        """The machine that it runs on."""
        return self.runner.machine

    def _realpath(self, path: str) -> str:
        """A path without symbolic links, as the host knows it, or the layout where / and /usr are merged."""
        path = self.host.realpath(path)
        names = {area.name for area in self.layout}
        return f"/usr{path}" if path not in names and f"/usr{path}" in names else path

    def run(self) -> Iterator[Step]:
        """Run all; each statement is told with its outcome.  The first process, or ``keep``, runs in the end."""
        for self._at, entry in enumerate(self.log.entries):
            process = self._process(entry.pid)
            if process is None:
                continue
            if isinstance(entry, Event):
                yield from self._event(process, entry)
            elif entry.failed:
                self.tally.failed[entry.func] += 1
            elif entry.expect is not None and entry.expect.kind == "unknown" and "exit" not in entry.func:
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

    # -- statements

    def _step(
        self, process: Process, line: int, func: str, *args: Argument, ret: int | None = 0
    ) -> Iterator[Step]:
        """Run a call in a process, expecting ``ret`` (None: whatever comes)."""
        call = Call(func, tuple(args))
        pid = None if process.machine == self.machine.first_pid else process.machine
        text = unparse(Statement(call, pid=pid))
        expect = None
        if ret is not None:
            number = Number(ret, hex(ret) if ret > 0xFFFF else str(ret))
            expect = Expectation("value", number, line=line, column=len(text) + 2)
            text = f"{text} {unparse(expect)}"
        statement = Statement(call, expect=expect, pid=pid, text=text, line=line, column=1)
        try:
            outcome = self.runner.run(statement, text)
        except ScriptError as error:
            self.tally.refused[func] += 1
            self.tally.notes.append(f"line {line}: {error.message}")
            return
        self.tally.replayed += 1
        self.tally.differing += outcome.expected is False
        self._prepare(func, outcome)
        yield attrs.evolve(outcome, end=self.machine.journal.end), statement

    def _prepare(self, func: str, outcome: Outcome) -> None:
        """Give writable private memory its anon_vma, as the first write to it does.

        No log tells of writes, but programs map to write, and whether neighbours join depends on it.
        """
        if func not in ("mmap", "mprotect", "brk", "execve") or (outcome.ret or 0) < 0:
            return
        mm = self.machine.mm
        for vma in [v for v in mm.vmas if v.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE and not v.anon_vma]:
            anon_vma_prepare(mm, vma)

    def _plain(self, process: Process, call: Traced) -> Iterator[Step]:
        """A call on a range, as the log has it."""
        func, args = call.func, call.args
        if func == "pkey_mprotect":
            func, args = "mprotect", args[:3]
        if func not in FUNCTIONS or len(args) > FUNCTIONS[func].arity[1]:
            self.tally.refused[call.func] += 1
            return
        unknown = [w for a in args for w in _words(a) if w not in CONSTANTS]
        if unknown:
            self.tally.refused[func] += 1
            self.tally.notes.append(f"line {call.line}: {unknown[0]} is not simulated")
            return
        at, size = _int(args, 0), _int(args, 1)
        if at is not None and size and not func.endswith("all") and func != "munmap":
            mm = self.machine.mms[self.machine.tasks.get(process.machine).mm]
            if mm.vmas.first_overlap(at, at + size) is None:
                self.tally.unplaced[func] += 1
                return
        yield from self._step(process, call.line, func, *args, ret=call.returned)

    # -- mappings

    def _mmap(self, process: Process, call: Traced) -> Iterator[Step]:
        """Map where the log says."""
        address = call.returned
        if address is None or len(call.args) < 4:
            return
        flags = _or(_known(call.args[3], _DROPPED_FLAGS), Name("MAP_FIXED"))
        if "MAP_ANONYMOUS" in _words(call.args[3]):
            rest: tuple[Argument, ...] = (Number(-1), Number(0))
        else:
            fd, offset, size = _int(call.args, 4), _int(call.args, 5) or 0, _int(call.args, 1) or 0
            if fd is None:
                return
            opened = process.fds.get(fd)
            if opened is None:
                note = getattr(call.args[4], "annotation", None) or f"fd:{fd}"
                opened = process.fds[fd] = Opened(note, Name("O_RDWR"))
            yield from self._bind(process, call.line, opened, offset + size)
            if process.machine not in opened.machine:
                return
            rest = (Number(opened.machine[process.machine]), Number(offset, hex(offset)))
        prot = _known(call.args[2])
        where = Number(address, hex(address))
        yield from self._step(
            process, call.line, "mmap", where, call.args[1], prot, flags, *rest, ret=address
        )
        if self.host.stack_nohugepage and "MAP_STACK" in _words(call.args[3]):
            yield from self._step(process, call.line, "madvise", where, call.args[1], Name("MADV_NOHUGEPAGE"))

    def _mremap(self, process: Process, call: Traced) -> Iterator[Step]:
        """Move where the log says, or not at all."""
        new, old = call.returned, _int(call.args, 0)
        if new is None or old is None or len(call.args) < 3:
            return
        mm = self.machine.mms[self.machine.tasks.get(process.machine).mm]
        if mm.vma_at(old) is None:
            self.tally.unplaced["mremap"] += 1
            return
        three, words = call.args[:3], _words(call.args[3]) if len(call.args) > 3 else ()
        if new == old and "MREMAP_FIXED" not in words:
            yield from self._step(process, call.line, "mremap", *three, Number(0), ret=new)
            return
        flags = _or(Name("MREMAP_MAYMOVE"), Name("MREMAP_FIXED"))
        if "MREMAP_DONTUNMAP" in words:
            flags = _or(flags, Name("MREMAP_DONTUNMAP"))
        yield from self._step(process, call.line, "mremap", *three, flags, Number(new, hex(new)), ret=new)

    def _brk(self, process: Process, call: Traced) -> Iterator[Step]:
        """Move the break; the first call of a log without execve tells where the heap begins."""
        wanted, got = _int(call.args, 0), call.returned
        if got is None:
            return
        mm = self.machine.mms[self.machine.tasks.get(process.machine).mm]
        if not mm.field("start_brk") <= got or (mm.field("brk") != got and not wanted):
            mm.set_field("start_brk", got)
            mm.set_field("brk", got)
        if not wanted or got != wanted:
            self.tally.skipped["brk"] += 1
            return
        yield from self._step(process, call.line, "brk", Number(got, hex(got)), ret=got)

    def _shm(self, process: Process, call: Traced) -> Iterator[Step]:
        """System V shared memory: a shared file mapping, as the kernel makes it one."""
        at, got, line = _int(call.args, 0) or 0, call.returned, call.line
        if call.func == "shmget" and got is not None:
            self._shared[got] = (f"/SYSV{at & 0xFFFFFFFF:08x} (deleted)", _int(call.args, 1) or 0)
        elif call.func == "shmat" and got is not None:
            name, size = self._shared.get(at, ("", 0))
            if not size:
                self.tally.unplaced["shmat"] += 1
                return
            opened = Opened(name, Name("O_RDWR"), size)
            yield from self._bind(process, line, opened, size)
            fd = Number(opened.machine[process.machine])
            prot = _or(
                Name("PROT_READ"), *(() if "SHM_RDONLY" in _words(call.args[2]) else (Name("PROT_WRITE"),))
            )
            flags = _or(Name("MAP_SHARED"), Name("MAP_FIXED"))
            where = Number(got, hex(got))
            yield from self._step(
                process, line, "mmap", where, Number(size), prot, flags, fd, Number(0), ret=got
            )
            yield from self._step(process, line, "close", fd)
        elif call.func == "shmdt":
            mm = self.machine.mms[self.machine.tasks.get(process.machine).mm]
            vma = mm.vma_at(at)
            if vma is not None:
                yield from self._step(process, line, "munmap", Number(at, hex(at)), Number(vma.size))

    # -- descriptors

    def _bind(self, process: Process, line: int, opened: Opened, needed: int) -> Iterator[Step]:
        """Open a file in the machine when it is first mapped; a regular one is made large enough."""
        if process.machine in opened.machine:
            return
        path = String(opened.path)
        size = opened.size if opened.size is not None else needed
        inode = self.machine._inode(opened.path)
        if inode is None or (inode.kind == "reg" and inode.size < size):
            fd: list[int] = []
            for step in self._step(process, line, "open", path, _O_RDWR_CREAT, ret=None):
                fd.append(step[0].ret or 0)
                yield step
            if fd:
                yield from self._step(process, line, "ftruncate", Number(fd[0]), Number(size))
                yield from self._step(process, line, "close", Number(fd[0]))
        for step in self._step(process, line, "open", path, opened.flags, ret=None):
            opened.machine[process.machine] = step[0].ret or 0
            yield step

    def _open(self, process: Process, call: Traced) -> Iterator[Step]:
        fd, paths = call.returned, list(_opened_path(call))
        if fd is None or not paths:
            return
        self.tally.skipped[call.func] += 1
        args = call.args[1:] if call.func == "openat" else call.args
        words = _words(args[1]) if call.func != "creat" and len(args) > 1 else ["O_WRONLY"]
        mode = next((w for w in ("O_RDWR", "O_WRONLY") if w in words), "O_RDONLY")
        path = self._realpath(paths[0])
        if "O_TMPFILE" in words and not paths[0].endswith("(deleted)"):
            path += "/#tmpfile (deleted)"
        process.fds[fd] = Opened(path, Name(mode))
        self._mark(process, fd, "O_CLOEXEC" in words)
        yield from ()

    def _memfd(self, process: Process, call: Traced) -> Iterator[Step]:
        """A file in memory is made at once: its size is what the log makes it."""
        fd, name = call.returned, call.args[0]
        if fd is None:
            return
        for step in self._step(process, call.line, "memfd_create", name, ret=None):
            path = f"/memfd:{name.value if isinstance(name, String) else ''} (deleted)"
            process.fds[fd] = Opened(path, Name("O_RDWR"), 0, True, {process.machine: step[0].ret or 0})
            self._mark(process, fd, "MFD_CLOEXEC" in _words(call.args[1]))
            yield step

    def _dup(self, process: Process, call: Traced) -> Iterator[Step]:
        self.tally.skipped[call.func] += 1
        old, new = _int(call.args, 0), call.returned
        if call.func == "fcntl":
            if _words(call.args[1]) == ["F_SETFD"] and old is not None:
                self._mark(process, old, "FD_CLOEXEC" in _words(call.args[2]))
            if "F_DUPFD" not in "".join(_words(call.args[1])):
                return
        if old is None or new is None or old == new:
            return
        yield from self._drop(process, new, call.line)
        if old in process.fds:
            process.fds[new] = process.fds[old]
            cloexec = any("CLOEXEC" in w for a in call.args for w in _words(a))
            self._mark(process, new, cloexec)

    def _mark(self, process: Process, fd: int, cloexec: bool) -> None:
        (process.cloexec.add if cloexec else process.cloexec.discard)(fd)

    def _stat(self, process: Process, call: Traced) -> Iterator[Step]:
        self.tally.skipped[call.func] += 1
        opened = process.fds.get(_int(call.args, 0) or 0)
        path = call.args[1] if len(call.args) > 1 else None
        if opened is None or opened.memory or (isinstance(path, String) and path.value):
            return
        for argument in call.args:
            size = _SIZE.search(argument.text) if isinstance(argument, Struct) else None
            if size is not None:
                opened.size = int(size[1])
        yield from ()

    def _truncate(self, process: Process, call: Traced) -> Iterator[Step]:
        opened = process.fds.get(_int(call.args, 0) or 0)
        size: int | None = _int(call.args, 1)
        if call.func == "fallocate":
            offset, length = _int(call.args, 2), _int(call.args, 3)
            grows = not {"FALLOC_FL_KEEP_SIZE", "FALLOC_FL_PUNCH_HOLE"} & set(_words(call.args[1]))
            size = offset + length if grows and offset is not None and length is not None else None
        if opened is None or size is None:
            self.tally.skipped[call.func] += 1
            return
        opened.size = size if call.func == "ftruncate" else max(size, opened.size or 0)
        fd = opened.machine.get(process.machine)
        if fd is None:
            self.tally.skipped[call.func] += 1
            return
        yield from self._step(process, call.line, "ftruncate", Number(fd), Number(opened.size))

    def _close(self, process: Process, call: Traced) -> Iterator[Step]:
        steps = list(self._drop(process, _int(call.args, 0) or 0, call.line))
        self.tally.skipped[call.func] += not steps
        yield from steps

    def _close_range(self, process: Process, call: Traced) -> Iterator[Step]:
        self.tally.skipped[call.func] += 1
        first, last = _int(call.args, 0) or 0, _int(call.args, 1)
        for fd in [fd for fd in sorted(process.fds) if fd >= first and (last is None or fd <= last)]:
            yield from self._drop(process, fd, call.line)

    def _drop(self, process: Process, fd: int, line: int) -> Iterator[Step]:
        """Forget a descriptor; the file is closed in the machine with the last one of the process."""
        opened = process.fds.pop(fd, None)
        process.cloexec.discard(fd)
        if opened is None or process.machine not in opened.machine:
            return
        sharers = [p for p in self._living() if p.machine == process.machine]
        if not any(opened in p.fds.values() for p in sharers):
            yield from self._step(process, line, "close", Number(opened.machine.pop(process.machine)))

    # -- processes

    def _living(self) -> list[Process]:
        return list({id(p): p for p in self._processes.values()}.values())

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
        statement = Statement(Call("execve", (String(path),)), pid=pid, line=call.line, column=1)
        statement = attrs.evolve(statement, text=unparse(statement))
        outcome = Outcome(self.runner.count, call.line, statement.text, "execve", 0, start=start)
        self.runner.count += 1
        self.tally.replayed += 1
        self._prepare("execve", outcome)
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
        yield from self._end(process, call.pid, call.line, _int(call.args, 0) or 0, whole=whole)

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
            self.tally.skipped["exit_group"] += whole
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


def _opened_path(call: Traced) -> Iterator[str]:
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


def _int(args: Sequence[Argument], index: int) -> int | None:
    """The number at an index, where it is a plain one; NULL is 0."""
    node = args[index] if index < len(args) else None
    if isinstance(node, Number) and not node.abbreviated:
        return node.value
    return 0 if isinstance(node, Name) and node.id == "NULL" else None


def _words(node: Argument) -> list[str]:
    """The names in an argument, such as flags."""
    return [n.id for n, _ in walk(node) if isinstance(n, Name)]


def _or(*parts: Expression) -> Expression:
    whole = parts[0]
    for part in parts[1:]:
        whole = BinOp("|", whole, part)
    return whole


def _known(node: Argument, but: set[str] | frozenset[str] = frozenset()) -> Expression:
    """Flags without those that nobody here knows, and without those in ``but``."""
    match node:
        case BinOp("|", left, right):
            parts = [p for p in (_known(left, but), _known(right, but)) if p != Number(0)]
            return _or(*parts) if parts else Number(0)
        case Name(id=name):
            return node if name in CONSTANTS and name not in but else Number(0)
        case Number():
            return node
        case _:
            return Number(0)


__all__ = ["Replay", "Tally", "strace_runner"]
