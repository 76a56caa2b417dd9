"""Where a program lies that an strace log has started: what the kernel maps in execve leaves no call behind.

Three sources tell of it.  The log: the mprotect with which the dynamic linker makes relocated data read-only
gives the load address of the program and of the linker, once their program headers are known, and the first
brk gives the heap's start.  A `Host`: those headers, and what symbolic links mean.  A layout: a text of
/proc/PID/maps of the process, for what nothing else tells, such as the stack.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from typing import Protocol

import attrs

from ..kernel.binfmt_elf import ET_EXEC, ElfImage, elf_load
from ..kernel.drivers import open_backing
from ..kernel.errors import KernelError
from ..kernel.exec import add_special_mapping, begin_new_exec, set_brk, set_stack
from ..kernel.machine import Machine
from ..kernel.mm.flags import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, O_RDONLY
from ..kernel.mm.mm_types import File
from ..kernel.mm.mmap import do_mmap
from ..kernel.mm.munmap import do_munmap
from ..kernel.versions import nearest_version
from .strace_log import Traced

_PROTS = {"r": 1, "w": 2, "x": 4}


class Host(Protocol):
    """What may be asked about the machine on which a log was taken.

    ``kernel`` is the setting of the kernel dial that fits its kernel.
    """

    kernel: str

    def realpath(self, path: str) -> str:
        """A path without symbolic links, as /proc/PID/maps prints it."""
        ...

    def program(self, path: str) -> bytes | None:
        """The contents of a program; None where there is none."""
        ...


class NoHost:
    """Nothing is known but the log; the kernel is a 6.1."""

    kernel = "6.1"

    def realpath(self, path: str) -> str:
        """The path itself."""
        return path

    def program(self, path: str) -> bytes | None:
        """Nothing."""
        return None


class ThisHost:
    """The log was taken here: files of this machine are looked at, and its kernel is the one."""

    def __init__(self) -> None:
        self.kernel = nearest_version(platform.release())[0].name

    def realpath(self, path: str) -> str:
        """The path without symbolic links, where there is such a file."""
        return os.path.realpath(path) if os.path.exists(path) else path

    def program(self, path: str) -> bytes | None:
        """The file's contents."""
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return None


@attrs.frozen
class Area:
    """A line of /proc/PID/maps: addresses and ``offset`` in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    name: str


def parse_layout(text: str) -> tuple[Area, ...]:
    """The lines of a /proc/PID/maps; ValueError for a text of another form.

    >>> parse_layout("7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0      [stack]")[0].name
    '[stack]'
    """
    areas = []
    for line in text.splitlines():
        if not line.strip():
            continue
        fields = line.split(None, 5)
        if len(fields) < 5 or "-" not in fields[0]:
            raise ValueError(f"{line[:60]!r} is no line of /proc/PID/maps")
        start, end = (int(x, 16) for x in fields[0].split("-"))
        name = fields[5].strip() if len(fields) > 5 else ""
        areas.append(Area(start, end, fields[1], int(fields[2], 16), name))
    return tuple(areas)


@attrs.frozen
class Startup:
    """What the log tells of one run of a program: the calls up to the next execve, and all opened paths."""

    path: str
    calls: Sequence[Traced]
    opened: frozenset[str]

    @property
    def brk(self) -> int | None:
        """The first break that was asked for: where the heap starts."""
        return next((c.returned for c in self.calls if c.func == "brk" and c.returned is not None), None)

    def protected(self) -> Iterable[tuple[int, int]]:
        """Address and length of each mprotect of memory that no call of the log has mapped."""
        mapped: list[tuple[int, int]] = []
        for call in self.calls:
            numbers = [getattr(a, "value", None) for a in call.args]
            if call.func == "mmap" and call.returned is not None and isinstance(numbers[1], int):
                mapped.append((call.returned, call.returned + numbers[1]))
            elif call.func == "mprotect" and not call.failed and len(numbers) == 3:
                start, size = numbers[0], numbers[1]
                if not isinstance(start, int) or not isinstance(size, int):
                    continue
                if not any(a <= start < b for a, b in mapped):
                    yield start, size


def start_program(m: Machine, startup: Startup, host: Host, layout: Sequence[Area] = ()) -> list[str]:
    """Empty the running process and map what an execve maps; returns the paths whose place nothing tells.

    >>> from vmviz.kernel import Machine
    >>> m = Machine()
    >>> start_program(m, Startup("/bin/true", (), frozenset()), NoHost())
    ['/bin/true']
    """
    mm = m.mm
    begin_new_exec(mm, vdso=False)
    for area in layout:
        if area.name == "[stack]":
            old = mm.vmas.find_exact(mm.field("start_stack"))
            assert old is not None
            do_munmap(mm, old.start, old.size)
            set_stack(mm, area.start, area.end)
        elif area.name == "[vdso]" or area.name.startswith("[vvar"):
            add_special_mapping(mm, area.start, area.end, area.name)
    if startup.brk is not None:
        set_brk(mm, startup.brk)
    placed, missing = _elf(m, startup, host)
    rest = _rows(layout, startup, placed)
    for area in rest:
        _map_row(m, area, startup)
    return [] if rest else missing


def _elf(m: Machine, startup: Startup, host: Host) -> tuple[set[str], list[str]]:
    """Map the program and its interpreter where the log tells the load address; the paths done and not."""
    path = host.realpath(startup.path)
    image = _image(host, path)
    for _ in range(4):  # BINPRM_MAX_RECURSION: a script's interpreter may be a script
        data = host.program(path) if image is None else None
        if data is None or not data.startswith(b"#!"):
            break
        path = host.realpath(data[2:256].split(b"\n")[0].split()[0].decode("utf-8", "surrogateescape"))
        image = _image(host, path)
    if image is None:
        return set(), [path]
    below_brk = True if image.interp else None
    bias = 0 if image.type == ET_EXEC else _bias(image, startup, below_brk=below_brk)
    if bias is None:
        return set(), [path]
    elf_load(m.mm, image, bias, _file(m, path))
    interp = host.realpath(image.interp)
    image = _image(host, interp) if interp else None
    if image is None:
        return {path}, [interp] if interp else []
    bias = _bias(image, startup, below_brk=False)
    if bias is None:
        return {path}, [interp]
    elf_load(m.mm, image, bias, _file(m, interp))
    return {path, interp}, []


def _image(host: Host, path: str) -> ElfImage | None:
    data = host.program(path)
    try:
        return None if data is None else ElfImage.parse(data)
    except KernelError:
        return None


def _bias(image: ElfImage, startup: Startup, *, below_brk: bool | None) -> int | None:
    """The load bias that the log tells: an mprotect of just the range that the linker protects there.

    A program lies below its heap, its interpreter does not; of one that is linked statically nothing is known
    (``below_brk`` None).
    """
    if image.protected is None:
        return None
    start, size = image.protected
    heap = startup.brk
    for at, length in startup.protected():
        bias = at - start
        side = None if heap is None or below_brk is None else bias + image.end <= heap
        if length == size and bias >= 0 and side in (None, below_brk):
            return bias
    return None


def _file(m: Machine, path: str) -> File:
    """The program as an open file; a path that does not exist yet is made one."""
    inode = m._inode(path) or m._new_inode(path, "reg", 0)
    return m._new_file(path, O_RDONLY, inode)


def _rows(layout: Sequence[Area], startup: Startup, placed: set[str]) -> list[Area]:
    """The rows of a layout that are of execve's making: files that the log does not open, and the anonymous
    pages right behind them (bss).
    """
    rows: list[Area] = []
    for area in layout:
        is_file = area.name.startswith("/") and area.perms[3] == "p"
        is_ours = is_file and area.name not in startup.opened and area.name not in placed
        is_bss = not area.name and bool(rows) and bool(rows[-1].name) and rows[-1].end == area.start
        if is_ours or is_bss:
            rows.append(area)
    return rows


def _map_row(m: Machine, area: Area, startup: Startup) -> None:
    """Map a row; what the log protects later was writable at first, and stays accounted (VM_ACCOUNT)."""
    prot = sum(bit for letter, bit in _PROTS.items() if letter in area.perms)
    if any(at < area.end and at + size > area.start for at, size in startup.protected()):
        prot |= _PROTS["w"]
    size, flags = area.end - area.start, MAP_PRIVATE | MAP_FIXED
    if not area.name:
        do_mmap(m.mm, area.start, size, prot, flags | MAP_ANONYMOUS)
        return
    same = next((v.file for v in m.mm.vmas if v.file and v.name == area.name), 0)
    file = m.sys.files.get(same) if same else _file(m, area.name)
    do_mmap(m.mm, area.start, size, prot, flags, open_backing(m.sys, file), area.offset)
