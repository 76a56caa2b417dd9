"""The mappings of an strace log: each call with effect on memory, placed where the log says that it was."""

from __future__ import annotations

from collections.abc import Iterator

from ..kernel.mm.flags import MAP_ANONYMOUS
from ..kernel.mm.mm_types import Mm
from .functions import FUNCTIONS
from .names import CONSTANTS
from .nodes import Argument, Name, Number
from .strace_files import Files
from .strace_log import Traced
from .strace_state import Opened, Process, Step, either, flag_bits, known, names_in, plain_number

_DROPPED_FLAGS = {"MAP_FIXED", "MAP_FIXED_NOREPLACE", "MAP_HUGETLB", "MAP_HUGE_2MB", "MAP_HUGE_1GB"}


class Mappings(Files):
    """The part of a replay that maps and unmaps."""

    _shared: dict[int, tuple[str, int]]

    def _mm(self, process: Process) -> Mm:
        """The address space of a process."""
        return self.machine.mms[self.machine.tasks.get(process.machine).mm]

    def _plain(self, process: Process, call: Traced) -> Iterator[Step]:
        """A call on a range, as the log has it."""
        func, args = call.func, call.args
        if func == "pkey_mprotect":
            func, args = "mprotect", args[:3]
        if func not in FUNCTIONS or len(args) > FUNCTIONS[func].arity[1]:
            self.tally.refused[call.func] += 1
            return
        unknown = [w for a in args for w in names_in(a) if w not in CONSTANTS]
        if unknown:
            self.tally.refused[func] += 1
            self.tally.notes.append(f"line {call.line}: {unknown[0]} is not simulated")
            return
        at, size = plain_number(args, 0), plain_number(args, 1)
        if at is not None and size and not func.endswith("all") and func != "munmap":
            mm = self._mm(process)
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
        flags = either(known(call.args[3], _DROPPED_FLAGS), Name("MAP_FIXED"))
        if flag_bits(call.args[3]) & MAP_ANONYMOUS:
            rest: tuple[Argument, ...] = (Number(-1), Number(0))
        else:
            fd, offset, size = (
                plain_number(call.args, 4),
                plain_number(call.args, 5) or 0,
                plain_number(call.args, 1) or 0,
            )
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
        prot = known(call.args[2])
        where = Number(address, hex(address))
        yield from self._step(
            process, call.line, "mmap", where, call.args[1], prot, flags, *rest, ret=address
        )

    def _mremap(self, process: Process, call: Traced) -> Iterator[Step]:
        """Move where the log says, or not at all."""
        new, old = call.returned, plain_number(call.args, 0)
        if new is None or old is None or len(call.args) < 3:
            return
        mm = self._mm(process)
        if mm.vma_at(old) is None:
            self.tally.unplaced["mremap"] += 1
            return
        three, words = call.args[:3], names_in(call.args[3]) if len(call.args) > 3 else ()
        if new == old and "MREMAP_FIXED" not in words:
            yield from self._step(process, call.line, "mremap", *three, Number(0), ret=new)
            return
        flags = either(Name("MREMAP_MAYMOVE"), Name("MREMAP_FIXED"))
        if "MREMAP_DONTUNMAP" in words:
            flags = either(flags, Name("MREMAP_DONTUNMAP"))
        yield from self._step(process, call.line, "mremap", *three, flags, Number(new, hex(new)), ret=new)

    def _brk(self, process: Process, call: Traced) -> Iterator[Step]:
        """Move the break; the first call of a log without execve tells where the heap begins."""
        wanted, got = plain_number(call.args, 0), call.returned
        if got is None:
            return
        mm = self._mm(process)
        if not mm.field("start_brk") <= got or (mm.field("brk") != got and not wanted):
            mm.set_field("start_brk", got)
            mm.set_field("brk", got)
        if not wanted or got != wanted:
            self.tally.skipped["brk"] += 1
            return
        yield from self._step(process, call.line, "brk", Number(got, hex(got)), ret=got)

    def _shm(self, process: Process, call: Traced) -> Iterator[Step]:
        """System V shared memory: a shared file mapping, as the kernel makes it one."""
        at, got, line = plain_number(call.args, 0) or 0, call.returned, call.line
        if call.func == "shmget" and got is not None:
            self._shared[got] = (f"/SYSV{at & 0xFFFFFFFF:08x} (deleted)", plain_number(call.args, 1) or 0)
        elif call.func == "shmat" and got is not None:
            name, size = self._shared.get(at, ("", 0))
            if not size:
                self.tally.unplaced["shmat"] += 1
                return
            opened = Opened(name, Name("O_RDWR"), size)
            yield from self._bind(process, line, opened, size)
            fd = Number(opened.machine[process.machine])
            prot = either(
                Name("PROT_READ"), *(() if "SHM_RDONLY" in names_in(call.args[2]) else (Name("PROT_WRITE"),))
            )
            flags = either(Name("MAP_SHARED"), Name("MAP_FIXED"))
            where = Number(got, hex(got))
            yield from self._step(
                process, line, "mmap", where, Number(size), prot, flags, fd, Number(0), ret=got
            )
            yield from self._step(process, line, "close", fd)
        elif call.func == "shmdt":
            mm = self._mm(process)
            vma = mm.vma_at(at)
            if vma is not None:
                yield from self._step(process, line, "munmap", Number(at, hex(at)), Number(vma.size))
