"""The descriptors of an strace log: which file each means, and when the machine needs it open.

A regular file becomes a placeholder, as large as fstat or its first mapping tells, when it is first mapped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import attrs

from ..kernel.machine import Machine
from ..kernel.mm.flags import O_ACCMODE, O_RDWR, O_WRONLY, VM_SHARED, VM_WRITE
from ..kernel.mm.rmap import anon_vma_prepare
from .errors import ScriptError
from .nodes import Argument, BinOp, Call, Expectation, Name, Number, Statement, String, Struct, unparse
from .outcome import Outcome
from .runner import Runner
from .strace_exec import Area, Host
from .strace_log import Traced
from .strace_state import Opened, Process, Step, Tally, flag_bits, names_in, opened_path, plain_number

_SIZE = re.compile(r"\bstx?_size=(\d+)")
_O_RDWR_CREAT = BinOp("|", Name("O_RDWR"), Name("O_CREAT"))


class Files:
    """The part of a replay that runs statements and knows descriptors."""

    runner: Runner
    tally: Tally
    host: Host
    layout: Sequence[Area]
    _processes: dict[int | None, Process]

    @property
    def machine(self) -> Machine:
        """The machine that it runs on."""
        return self.runner.machine

    def _realpath(self, path: str) -> str:
        """A path without symbolic links, as the host knows it, or the layout where / and /usr are merged."""
        path = self.host.realpath(path)
        names = {area.name for area in self.layout}
        return f"/usr{path}" if path not in names and f"/usr{path}" in names else path

    def _living(self) -> list[Process]:
        return list({id(p): p for p in self._processes.values()}.values())

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
        self._prepare(call, outcome)
        yield attrs.evolve(outcome, end=self.machine.journal.end), statement

    def _prepare(self, call: Call, outcome: Outcome) -> None:
        """Give writable private memory its anon_vma, as the first write to it does.

        No log tells of writes, but programs map to write, and whether neighbours join depends on it.
        """
        if call.func not in ("mmap", "mprotect", "brk", "execve") or (outcome.ret or 0) < 0:
            return
        mm = self.machine.mm
        start, end = 0, mm.task_size
        if call.func == "brk":
            start, end = mm.field("start_brk"), mm.field("brk")
        elif call.func != "execve":
            start = plain_number(call.args, 0) or 0
            end = start + (plain_number(call.args, 1) or 0)
        for vma in list(mm.vmas.overlapping(start, end)):
            if vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE and not vma.anon_vma:
                anon_vma_prepare(mm, vma)

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
        fd, paths = call.returned, list(opened_path(call))
        if fd is None or not paths:
            return
        self.tally.skipped[call.func] += 1
        args = call.args[1:] if call.func == "openat" else call.args
        words = names_in(args[1]) if call.func != "creat" and len(args) > 1 else ["O_WRONLY"]
        access = flag_bits(args[1]) & O_ACCMODE if call.func != "creat" and len(args) > 1 else O_WRONLY
        mode = {O_RDWR: "O_RDWR", O_WRONLY: "O_WRONLY"}.get(access, "O_RDONLY")
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
            self._mark(process, fd, "MFD_CLOEXEC" in names_in(call.args[1]))
            yield step

    def _dup(self, process: Process, call: Traced) -> Iterator[Step]:
        self.tally.skipped[call.func] += 1
        old, new = plain_number(call.args, 0), call.returned
        if call.func == "fcntl":
            if names_in(call.args[1]) == ["F_SETFD"] and old is not None:
                self._mark(process, old, "FD_CLOEXEC" in names_in(call.args[2]))
            if "F_DUPFD" not in "".join(names_in(call.args[1])):
                return
        if old is None or new is None or old == new:
            return
        yield from self._drop(process, new, call.line)
        if old in process.fds:
            process.fds[new] = process.fds[old]
            cloexec = any("CLOEXEC" in w for a in call.args for w in names_in(a))
            self._mark(process, new, cloexec)

    def _mark(self, process: Process, fd: int, cloexec: bool) -> None:
        (process.cloexec.add if cloexec else process.cloexec.discard)(fd)

    def _stat(self, process: Process, call: Traced) -> Iterator[Step]:
        self.tally.skipped[call.func] += 1
        opened = process.fds.get(plain_number(call.args, 0) or 0)
        path = call.args[1] if len(call.args) > 1 else None
        if opened is None or opened.memory or (isinstance(path, String) and path.value):
            return
        for argument in call.args:
            size = _SIZE.search(argument.text) if isinstance(argument, Struct) else None
            if size is not None:
                opened.size = int(size[1])
        yield from ()

    def _truncate(self, process: Process, call: Traced) -> Iterator[Step]:
        opened = process.fds.get(plain_number(call.args, 0) or 0)
        size: int | None = plain_number(call.args, 1)
        if call.func == "fallocate":
            offset, length = plain_number(call.args, 2), plain_number(call.args, 3)
            grows = not {"FALLOC_FL_KEEP_SIZE", "FALLOC_FL_PUNCH_HOLE"} & set(names_in(call.args[1]))
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
        steps = list(self._drop(process, plain_number(call.args, 0) or 0, call.line))
        if not steps:
            self.tally.skipped[call.func] += 1
        yield from steps

    def _close_range(self, process: Process, call: Traced) -> Iterator[Step]:
        self.tally.skipped[call.func] += 1
        first, last = plain_number(call.args, 0) or 0, plain_number(call.args, 1)
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
