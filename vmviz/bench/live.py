"""Rows 13 and 14: opening a real process, one of our own making."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

from ..live import read_process
from .harness import Bench, MissingError, Sample, Workload

_POPULATED = """
import mmap, sys
m = mmap.mmap(-1, {size}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(15)
m.madvise(23)
print("ready", flush=True)
sys.stdin.read()
"""
_MANY = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
at = libc.mmap(None, {count} << 12, 1, 0x22, -1, 0)
for i in range(1, {count}, 2):
    libc.mmap(at + (i << 12), 4096, 3, 0x32, -1, 0)
print("ready", flush=True)
sys.stdin.read()
"""


class _Child:
    """A process that waits until it is closed."""

    def __init__(self, program: str) -> None:
        if not sys.platform.startswith("linux"):
            raise MissingError("there is no /proc here")
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise MissingError("a process of the wanted size cannot be made here")

    def close(self) -> None:
        self.process.communicate("")


def _open(child: _Child, check: Callable[[int], None]) -> Sample:
    def sample() -> float:
        begin = perf_counter()
        image = read_process(child.process.pid)
        took = perf_counter() - begin
        check(len(image.vmas))
        return took

    return sample


def _tool(words: list[str]) -> Sample:
    def sample() -> float:
        begin = perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return perf_counter() - begin

    return sample


def _populated(scale: int) -> Bench:
    child = _Child(_POPULATED.format(size=(4 << 30) // scale))
    ours = _open(child, lambda n: None)
    if shutil.which("page-types") is None:
        return Bench(ours, why="page-types is not installed", close=child.close)
    return Bench(ours, _tool(["page-types", "-p", str(child.process.pid)]), close=child.close)


def _many(scale: int) -> Bench:
    count = 60_000 // scale
    child = _Child(_MANY.format(count=count))
    with open(f"/proc/{child.process.pid}/maps", encoding="utf-8", errors="replace") as file:
        lines = sum("[vsyscall]" not in line for line in file)

    def check(n: int) -> None:
        assert n == lines, f"{n} VMAs were read, {lines} are there"

    ours = _open(child, check)
    if shutil.which("pmap") is None:
        return Bench(ours, why="pmap is not installed", close=child.close)
    return Bench(
        ours,
        _tool(["pmap", "-XX", str(child.process.pid)]),
        close=child.close,
        note=f"{lines} VMAs, the count exact, pages read as well",
    )


LIVE: tuple[Workload, ...] = (
    Workload("open-4g", 13, "opening a process with 4 GiB populated", "page-types", 1.5, _populated),
    Workload("open-60k", 14, "opening a process with 60,000 VMAs", "pmap -XX", 4, _many),
)
