"""The functions of the language about processes, files in memory, and accesses of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernel.mm.flags import F_ADD_SEALS, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, PR_SET_MM
from .functions import ArgumentError, Result, Value
from .functions import _function as function
from .functions import _number as number

if TYPE_CHECKING:
    from ..kernel.machine import Machine


@function("", "copy the process; the child's pid is returned, its statements are written [pid N]")
def fork(m: Machine) -> Result:
    return Result(m.fork())


def _exit(m: Machine, status: Value = 0) -> Result:
    gather = m.exit(number(0, status, "status") & 0xFF)
    fields = {"frames_freed": gather.freed_pages, "tables_freed": gather.freed_table_pages}
    return Result(0, fields=fields)


function("status?", "end the process: its memory and its descriptors go", "exit")(_exit)
function("status?", "exit, as strace prints it", "exit_group")(_exit)


@function("", "take note of a child that has ended; its pid is returned")
def wait(m: Machine) -> Result:
    return Result(m.wait())


@function(
    "fd mode offset len", "punch a hole: FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE is the only mode here"
)
def fallocate(m: Machine, fd: Value, mode: Value, offset: Value, length: Value) -> Result:
    if number(1, mode, "mode") != FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
        raise ArgumentError(1, "only FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE is simulated")
    return Result(m.punch_hole(number(0, fd, "fd"), number(2, offset, "offset"), number(3, length, "len")))


@function("fd cmd arg", "seal a file in memory: fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK|F_SEAL_GROW)")
def fcntl(m: Machine, fd: Value, cmd: Value, arg: Value) -> Result:
    if number(1, cmd, "cmd") != F_ADD_SEALS:
        raise ArgumentError(1, "only F_ADD_SEALS is simulated")
    return Result(m.add_seals(number(0, fd, "fd"), number(2, arg, "arg")))


@function("fd start len even_cows", "a driver clears every mapping of a range of its file, in all processes")
def unmap_mapping_range(m: Machine, fd: Value, start: Value, length: Value, even_cows: Value) -> Result:
    numbers = [number(i, v, w) for i, (v, w) in enumerate(((fd, "fd"), (start, "start"), (length, "len")))]
    cleared = m.unmap_mapping_range(
        numbers[0], numbers[1], numbers[2], number(3, even_cows, "even_cows") != 0
    )
    return Result(0, fields={"ptes_cleared": cleared})


@function("addr n", "the kernel reads memory of the process, as write(2) does; EFAULT instead of a signal")
def copy_from_user(m: Machine, addr: Value, n: Value) -> Result:
    return Result(m.copy_from_user(number(0, addr, "addr"), number(1, n, "n")))


@function("addr n", "the kernel writes zeros to the process, as a read(2) of /dev/zero does")
def clear_user(m: Machine, addr: Value, n: Value) -> Result:
    return Result(m.clear_user(number(0, addr, "addr"), number(1, n, "n")))


@function("addr len", "take pages by the hand, as process_vm_readv(2) does: not those of device mappings")
def get_user_pages(m: Machine, addr: Value, length: Value) -> Result:
    return Result(m.process_vm_readv(number(0, addr, "addr"), number(1, length, "len")))


@function(
    "option opt addr arg4? arg5?",
    "move the heap: prctl(PR_SET_MM, PR_SET_MM_BRK, addr), and PR_SET_MM_START_BRK",
)
def prctl(m: Machine, option: Value, opt: Value, addr: Value, arg4: Value = 0, arg5: Value = 0) -> Result:
    if number(0, option, "option") != PR_SET_MM:
        raise ArgumentError(0, "only PR_SET_MM is simulated")
    numbers = [
        number(i, v, w)
        for i, (v, w) in enumerate(((opt, "opt"), (addr, "addr"), (arg4, "arg4"), (arg5, "arg5")), 1)
    ]
    return Result(m.prctl_set_mm(*numbers))
