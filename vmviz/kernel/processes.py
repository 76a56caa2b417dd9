"""The processes of a machine: fork, exit, wait, and which runs (models kernel/fork.c and kernel/exit.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .errors import KernelError, VmvizError
from .exit import exit_mmap
from .fork import dup_mm
from .mm.filemap import get_inode, put_inode
from .mm.page_alloc import OutOfMemory
from .value import Value

if TYPE_CHECKING:
    from .mm.mm_types import Mm, System
    from .mm.mmu_gather import MmuGather
    from .trace.store import Keyed


@attrs.frozen(eq=False, repr=False)
class Task(Value):
    """A process: its pid, name (comm), the id of its mm (0 when it has ended), its exit status ("" while it
    lives), and who made it.
    """

    pid: int
    comm: str
    mm: int
    exit: str = ""
    parent: int = 0


class Processes:
    """The calls that make and end processes; `Machine` provides the state."""

    sys: System
    fds: Keyed
    tasks: Keyed
    running: Keyed

    @property
    def pid(self) -> int:
        """The process that runs."""
        raise NotImplementedError

    @property
    def task(self) -> Task:
        """The process that runs."""
        raise NotImplementedError

    @property
    def mm(self) -> Mm:
        """Its address space."""
        raise NotImplementedError

    @property
    def mms(self) -> dict[int, Mm]:
        """The address spaces that live, by id."""
        raise NotImplementedError

    def _new_mm(self) -> Mm:
        raise NotImplementedError

    @property
    def first_pid(self) -> int:
        """The process that was there first: statements without ``[pid N]`` are its own."""
        return int(min(self.tasks.data))

    def living(self) -> list[int]:
        """The processes that have not ended, by pid."""
        return sorted(pid for pid, task in self.tasks.data.items() if task.mm)

    def switch_to(self, pid: int) -> None:
        """Let another process run; raises `VmvizError` when there is none of that number."""
        if pid not in self.living():
            ended = " has ended" if pid in self.tasks.data else " is not there"
            others = ", ".join(map(str, self.living()))
            raise VmvizError(f"process {pid}{ended}; there is {others}")
        if pid != self.pid:
            self.sys.journal.write(self.running, "pid", pid)

    def fork(self) -> int:
        """Make a copy of the running process and return its pid (fork(2)); the caller goes on running.

        Errors: ENOMEM (commit, page tables, a VM_PAT mapping that cannot be tracked: see
        `vmviz.kernel.fork.dup_mm`).

        >>> from vmviz.kernel import Machine
        >>> m = Machine(ram=16 << 20); heap = m.mmap(0, 4096, "rw", "private"); _ = m.store(heap)
        >>> child = m.fork(); m.mm.counters.data["anon"], m.mms[2].counters.data["anon"]
        (1, 1)
        """
        j, parent = self.sys.journal, self.task
        j.enter("fork")
        try:
            mm = self._new_mm()
        except OutOfMemory as error:
            j.leave("fork", "ENOMEM")
            raise KernelError("ENOMEM", "fork", str(error)) from None
        others = list(self.mms.values())
        pid = self.sys.new_id("pid")  # there from the start, so that each step's mappings have an owner
        j.write(self.tasks, pid, Task(pid, parent.comm, mm.id, parent=parent.pid))
        try:
            dup_mm(self.mm, mm, others)
        except KernelError as error:
            j.write(self.tasks, pid, None)
            j.leave("fork", error.errno)
            raise
        for (owner, fd), file in sorted(self.fds.data.items()):
            if owner == parent.pid:
                j.write(self.fds, (pid, fd), file)
                get_inode(self.sys, file)
        j.event("sched_process_fork", ("parent", parent.pid), ("child", pid))
        j.leave("fork", pid)
        return pid

    def exit(self, status: int = 0) -> MmuGather:
        """End the running process (exit_group(2)): its memory and descriptors go; its parent runs next.

        Returns what was flushed and freed.  The first process cannot end: a kernel without init panics, so
        that is refused as `KernelError` EPERM.
        """
        task, j = self.task, self.sys.journal
        if task.pid == self.first_pid:
            raise KernelError(
                "EPERM", "exit", f"process {task.pid} is the first one; a kernel panics without it"
            )
        j.enter("do_exit", ("pid", task.pid), ("status", status))
        gather = exit_mmap(self.mm)
        for (owner, fd), file in sorted(self.fds.data.items()):
            if owner == task.pid:
                j.write(self.fds, (owner, fd), None)
                put_inode(self.sys, file)
        for pid, other in sorted(self.tasks.data.items()):
            if other.parent == task.pid:  # orphans go to the first process
                j.write(self.tasks, pid, attrs.evolve(other, parent=self.first_pid))
        j.write(self.tasks, task.pid, attrs.evolve(task, mm=0, exit=str(status & 0xFF)))
        next_pid = task.parent if task.parent in self.living() else self.first_pid
        j.write(self.running, "pid", next_pid)
        j.leave("do_exit")
        return gather

    def wait(self) -> int:
        """Take note of a child that has ended (wait(2)) and return its pid, the lowest first.

        ECHILD: the running process has no children.  Simplified: where all children still run, nothing can
        make them end while this one waits, so EAGAIN tells so instead of waiting for ever.
        """
        j = self.sys.journal
        mine = {pid: t for pid, t in sorted(self.tasks.data.items()) if t.parent == self.pid}
        if not mine:
            raise KernelError("ECHILD", "wait", "the process has no children")
        ended = [pid for pid, t in mine.items() if not t.mm]
        if not ended:
            raise KernelError("EAGAIN", "wait", f"the children {', '.join(map(str, mine))} still run")
        j.enter("wait4")
        j.write(self.tasks, ended[0], None)
        j.leave("wait4", ended[0])
        return int(ended[0])
