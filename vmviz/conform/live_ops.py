"""The operations that a live comparison makes, as values: for the child, for the simulator, as statements.

An `Operation` has the arguments of the system call as numbers; a file is a number too, of those that are made
at the start: 2n is memory file n open for reading and writing, 2n + 1 the same open for reading only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from ..kernel.errors import KernelError, SignalRaised
from ..kernel.machine import Machine
from ..kernel.mm import flags as F

FILE_SIZES = (24 << 12, 10 << 12)
"""The memory files of each run, in bytes."""

ON_FILE = ("ftruncate", "fallocate", "pwrite64")


@attrs.frozen
class Operation:
    """``name`` is a call of the language, ``load``, ``store`` (address, pages, byte), ``fork``, or ``exit``,
    which ends the process of the last fork.
    """

    name: str
    args: tuple[int, ...] = ()


@attrs.define
class Simulated:
    """A machine on which operations run, in the process that the last fork has made; ``fds`` by file number."""

    machine: Machine
    fds: list[int]
    window: tuple[int, int]
    parents: list[int] = attrs.field(factory=list)

    def run(self, op: Operation) -> dict[str, Any]:
        """Run one; returns the fields that the child answers with."""
        if op.name in ("load", "store"):
            return self._touch(*op.args)
        if op.name == "fork":
            self.parents.append(self.machine.pid)
            self.machine.switch_to(self.machine.fork())
            return {"ret": 0}
        if op.name == "exit":
            self.machine.exit()
            self.machine.switch_to(self.parents.pop())
            self.machine.wait()
            return {"ret": 0}
        try:
            return self._call(op)
        except KernelError as error:
            return {"ret": -1, "errno": error.errno} | ({"data": ""} if op.name == "mincore" else {})

    def _touch(self, start: int, pages: int, byte: int = -1) -> dict[str, Any]:
        m, length, touched, out = self.machine, ((pages - 1) << 12) + 1, pages, {"ret": 0}
        try:
            m.load(start, length) if byte < 0 else m.store(start, length, byte)
        except SignalRaised as signal:
            touched = signal.touched
            out = {"ret": -1, "sig": [signal.name, signal.code, signal.addr]}  # type: ignore[dict-item]
        pages_read = touched if byte < 0 else 0
        data = b"".join(m.peek(start + (i << 12), 1) for i in range(pages_read))
        return {**out, "touched": touched, "data": data.hex()}

    def _call(self, op: Operation) -> dict[str, Any]:
        m, args = self.machine, op.args
        if op.name == "mmap":
            addr, length, prot, flags, file, offset = args
            fd = self.fds[file] if file >= 0 else -1
            return self._placed(m.mmap(addr, length, prot, flags, fd, offset), length)
        if op.name == "mremap":
            return self._placed(m.mremap(*args), args[2])
        if op.name == "mincore":
            return {"ret": 0, "errno": "", "data": m.mincore(*args).hex()}
        if op.name == "pwrite64":
            ret = m.pwrite(self.fds[args[0]], bytes([args[1]]) * args[2], args[3])
        elif op.name in ("copy_from_user", "clear_user"):
            ret = getattr(m, op.name)(*args)
        elif op.name == "get_user_pages":
            ret = m.process_vm_readv(*args)
        elif op.name == "rlimit":
            ret = m.rlimit("memlock", *args)
        elif op.name == "fallocate":
            ret = m.punch_hole(self.fds[args[0]], args[2], args[3])
        elif op.name == "ftruncate":
            ret = m.ftruncate(self.fds[args[0]], args[1])
        else:
            call: Callable[..., Any] = getattr(m, op.name)
            call(*args)
            ret = 0
        return {"ret": ret, "errno": ""}

    def _placed(self, at: int, length: int) -> dict[str, Any]:
        """What lies outside the window depends on all else that is mapped; it is taken away again."""
        if not self.window[0] <= at < self.window[1]:
            self.machine.munmap(at, length)
        return {"ret": at, "errno": ""}


# -- statements

_PROT = {F.PROT_READ: "PROT_READ", F.PROT_WRITE: "PROT_WRITE", F.PROT_EXEC: "PROT_EXEC"}
_FLAGS: dict[str, dict[int, str]] = {
    prefix: {
        value: name
        for name, value in reversed(list(vars(F).items()))  # of two names for a value the first one stays
        if name.startswith(prefix) and isinstance(value, int) and value and not value & (value - 1)
    }
    for prefix in ("MAP_", "MREMAP_", "MS_", "MCL_")
}
_FLAGS["MAP_"].pop(F.MAP_TYPE, None)
_ADVICE = {value: name for name, value in vars(F).items() if name.startswith("MADV_")}
_KINDS: dict[str, str] = {
    "mmap": "apPMfo",
    "munmap": "ap",
    "mprotect": "apP",
    "mremap": "appRa",
    "madvise": "apA",
    "mlock": "ap",
    "munlock": "ap",
    "mlock2": "apn",
    "mlockall": "C",
    "munlockall": "",
    "msync": "apS",
    "mincore": "ap",
    "load": "a",
    "store": "a",
    "remap_file_pages": "apnnn",
    "ftruncate": "fp",
    "fallocate": "fnpp",
    "copy_from_user": "ap",
    "clear_user": "ap",
    "get_user_pages": "ap",
}


def _words(value: int, names: dict[int, str], zero: str) -> str:
    parts = [name for bit, name in sorted(names.items()) if value & bit]
    rest = value & ~sum(names)
    return "|".join(parts + ([hex(rest)] if rest else [])) or zero


def _size(value: int) -> str:
    return (
        f"{value >> 12}p" if value and not value & 4095 and value < 1 << 40 else hex(value) if value else "0"
    )


def _argument(kind: str, value: int) -> str:
    match kind:
        case "a":
            return hex(value)
        case "p" | "o":
            return _size(value)
        case "P":
            return _words(value, _PROT, "PROT_NONE")
        case "M":
            return _words(value, _FLAGS["MAP_"], "0")
        case "R":
            return _words(value, _FLAGS["MREMAP_"], "0")
        case "S":
            return _words(value, _FLAGS["MS_"], "0")
        case "C":
            return _words(value, _FLAGS["MCL_"], "0")
        case "A":
            return _ADVICE.get(value, str(value))
        case "f":
            return f"f{value}" if value >= 0 else "-1"
        case _:
            return str(value)


def statement(op: Operation) -> str:
    """An operation as a statement of the language, without its process.

    >>> statement(Operation("mmap", (0x100000000000, 8192, 3, 0x32, -1, 0)))
    'mmap(0x100000000000, 2p, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)'
    >>> statement(Operation("store", (0x1000, 3, 7)))
    'store(0x1000, 0x2001, 0x7)'
    """
    if op.name in ("load", "store"):
        length = ((op.args[1] - 1) << 12) + 1
        stored = [hex(op.args[2])] if op.name == "store" else []
        return f"{op.name}({', '.join([hex(op.args[0]), hex(length), *stored])})"
    if op.name == "rlimit":
        return f'rlimit("memlock", {_size(op.args[0])})'
    if op.name == "pwrite64":
        fd, byte, count, offset = op.args
        text = f"\\x{byte:02x}" * count
        return f'pwrite64(f{fd}, "{text}", {count}, {offset:#x})'
    kinds = _KINDS.get(op.name, "")
    return f"{op.name}({', '.join(_argument(k, v) for k, v in zip(kinds, op.args, strict=True))})"


def script(
    operations: Iterable[Operation],
    kernel: str,
    options: dict[str, int] | None = None,
    setup: Iterable[str] = (),
) -> list[str]:
    """A whole script in the language: the machine (with more ``options`` of boot), statements of ``setup``,
    the files in use, and a line for each operation.

    A process is written ``[pid N]`` as the simulator numbers it: 1, then each fork one more.
    """
    operations = list(operations)
    used: set[int] = {op.args[4] for op in operations if op.name == "mmap"} | {
        op.args[0] for op in operations if op.name in ON_FILE
    }
    more = "".join(f", {name}={value}" for name, value in (options or {}).items())
    lines = [f'boot(kernel="{kernel}", vdso=0{more})', *setup]
    for i, size in enumerate(FILE_SIZES):
        if used & {2 * i, 2 * i + 1}:
            lines += [f'f{2 * i} = memfd_create("f{i}")', f"ftruncate(f{2 * i}, {_size(size)})"]
        if 2 * i + 1 in used:
            number = 3 + sum(" = " in line for line in lines) - 1
            lines.append(f'f{2 * i + 1} = open("/proc/self/fd/{number}", O_RDONLY)')
    pids, last = [1], 1
    for op in operations:
        prefix = f"[pid {pids[-1]}] " if pids[-1] != 1 else ""
        if op.name == "fork":
            last += 1
            lines.append(f"{prefix}fork() = {last}")
            pids.append(last)
        elif op.name == "exit":
            pids.pop()
            lines += [f"{prefix}exit()", f"{f'[pid {pids[-1]}] ' if pids[-1] != 1 else ''}wait()"]
        else:
            lines.append(prefix + statement(op))
    return lines


def balanced(operations: Iterable[Operation]) -> list[Operation]:
    """The operations without an ``exit`` that has no ``fork`` before it."""
    out: list[Operation] = []
    depth = 0
    for op in operations:
        depth += (op.name == "fork") - (op.name == "exit")
        if depth < 0:
            depth = 0
        else:
            out.append(op)
    return out


__all__ = ["FILE_SIZES", "Operation", "Simulated", "balanced", "script", "statement"]
