"""The running kernel as a live comparison needs to know it, and the child that works for it.

Settings that change what a call does are read here and given to the simulated machine: the version (for the
kernel dial), overcommit, max_map_count, RLIMIT_MEMLOCK, swap, and which capabilities the process has.  Huge
pages are switched off in the child.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import signal as signals
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

from ..kernel.errors import VmvizError
from ..kernel.machine import Config, Machine
from ..kernel.mm import flags as F
from ..kernel.mm.swapfile import SWAP_PAGES
from ..kernel.versions import nearest_version
from .live_ops import FILE_SIZES, Operation, Simulated

CAP_IPC_LOCK, CAP_SYS_RAWIO, CAP_SYS_ADMIN = 14, 17, 21
P = 4096
WINDOW = (0x1000_0000_0000 + (2 << 20) - 48 * P, 0x1000_0000_0000 + (2 << 20) + 48 * P)
"""The range that is compared: 96 pages, half of them of one page table, half of the next."""


class LiveError(VmvizError):
    """A live comparison cannot be made here, or its child has ended."""


@attrs.frozen
class Host:
    """What is known of the running kernel; ``version`` is the dial's setting, ``exact`` whether the kernel is
    of just that version; sizes in bytes and pages.
    """

    release: str
    version: str
    exact: bool
    overcommit: int
    max_map_count: int
    memlock: int
    ram_pages: int
    swap_pages: int
    ksm: bool
    caps: int

    @property
    def privileged(self) -> bool:
        """Whether pagemap tells frame numbers."""
        return bool(self.caps >> CAP_SYS_ADMIN & 1)

    @property
    def can_lock(self) -> bool:
        """Whether memory can be locked without limit."""
        return bool(self.caps >> CAP_IPC_LOCK & 1)

    def machine(self) -> Machine:
        """A simulated machine with the settings of this kernel."""
        machine = Machine(Config(ram=64 << 20, kernel=self.version, vdso=False, swap=self.swap))
        s = machine.sys
        s.cap_ipc_lock, s.cap_sys_admin = self.can_lock, self.privileged
        s.cap_sys_rawio = bool(self.caps >> CAP_SYS_RAWIO & 1)
        s.totalram_pages, s.total_swap_pages = self.ram_pages, self.swap_pages
        for line in self.settings():
            _set(machine, line)
        machine.seal()
        return machine

    @property
    def swap(self) -> int:
        """The bytes of the simulated swap device: none, or the usual ones."""
        return SWAP_PAGES << 12 if self.swap_pages else 0

    def setup(self) -> list[str]:
        """The settings as statements, as far as they are not those of every machine."""
        usual = {"vm.overcommit_memory": 0, "vm.max_map_count": 65530, "memlock": 8 << 20}
        return [f'{c}("{name}", {value})' for c, name, value in self.settings() if usual[name] != value]

    def settings(self) -> list[tuple[str, str, int]]:
        """The calls of the language that give these settings to a machine: (call, name, value)."""
        out = [
            ("sysctl", "vm.overcommit_memory", self.overcommit),
            ("sysctl", "vm.max_map_count", self.max_map_count),
        ]
        return [*out, ("rlimit", "memlock", self.memlock)]


def _set(machine: Machine, line: tuple[str, str, int]) -> None:
    call, name, value = line
    (machine.sysctl if call == "sysctl" else machine.rlimit)(name, value)


def read_host() -> Host:
    """Look at the running kernel; raises `LiveError` where no comparison can be made, with the reason."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise LiveError(f"conform --live needs Linux on x86-64, not {sys.platform} on {platform.machine()}")
    version, exact = nearest_version(platform.release())
    memory = _fields("/proc/meminfo")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return Host(
        platform.release(),
        version.name,
        exact,
        _number("/proc/sys/vm/overcommit_memory"),
        _number("/proc/sys/vm/max_map_count", 65530),
        (1 << 63) - P if limit == resource.RLIM_INFINITY else limit,
        int(memory["MemTotal"].split()[0]) >> 2,
        int(memory["SwapTotal"].split()[0]) >> 2,
        _number("/sys/kernel/mm/ksm/run") == 1,
        int(_fields("/proc/self/status")["CapEff"], 16),
    )


def _number(path: str, default: int = 0) -> int:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return default


def _fields(path: str) -> dict[str, str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LiveError(f"{path}: {error.strerror}") from error
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Child:
    """The process that works on the running kernel; see `vmviz.conform.live_child`.

    It is pinned to one CPU, so that pages do not wait on the lists of another one.
    """

    def __init__(self) -> None:
        program = Path(__file__).with_name("live_child.py")
        cpu = min(os.sched_getaffinity(0))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        os.sched_setaffinity(self._process.pid, {cpu})
        self.first = self.send(["start", *WINDOW, list(FILE_SIZES)])

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, op: Operation) -> dict[str, Any]:
        """Do an operation; returns the answer with the state of the window."""
        return self.send([op.name, *op.args])

    def send(self, message: list[Any]) -> dict[str, Any]:
        """Send a line and read one; raises `LiveError` when the child has ended instead."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            line = bytearray()
            while not line.endswith(b"\n"):
                piece = process.stdout.read(1 << 20)
                if not piece:
                    break
                line += piece
        except BrokenPipeError:
            line = bytearray()
        if not line:
            raise LiveError(f"the child has ended at {message!r}: {self._end()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> str:
        process = self._process
        process.kill()
        assert process.stderr is not None
        text = process.stderr.read().decode("utf-8", "replace").strip()
        status = process.wait()
        return text.splitlines()[-1] if text else f"status {status}"

    def close(self) -> None:
        """End the child and what it has forked: all of them read the same pipe, which ends."""
        process = self._process
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signals.SIGKILL)
            process.wait()


def simulated(host: Host) -> Simulated:
    """The machine of a host with the files of a comparison."""
    machine = host.machine()
    fds: list[int] = []
    for i, size in enumerate(FILE_SIZES):
        fd = machine.memfd_create(f"f{i}")
        machine.ftruncate(fd, size)
        fds += [fd, machine.open(f"/proc/self/fd/{fd}", F.O_RDONLY)]
    machine.seal()
    return Simulated(machine, fds, WINDOW)


__all__ = ["WINDOW", "Child", "Host", "LiveError", "read_host", "simulated"]
