"""The functions of the language about processes and the contents of pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .functions import Result, Value
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
