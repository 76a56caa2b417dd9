"""Rows 13 and 14: opening a real process, one of our own making."""

from __future__ import annotations

import shutil
import subprocess
import sys
from time import perf_counter

from ..live import Limits, LiveError, ProcessImage, read_process
from ..live.procfs import ProcFs
from ..live.smaps import parse_smaps_blocks
from .harness import Bench, MissingError, Sample, Workload, share

_POPULATED = """
import mmap, sys
m = mmap.mmap(-1, {size}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(15)
m.madvise(23)
print("ready", flush=True)
sys.stdin.read()
"""
_MANY = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.madvise.argtypes = libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
at = libc.mmap(None, {count} << 12, 3, 0x22, -1, 0)
libc.madvise(at, {count} << 12, 15)
ctypes.memset(at, 1, {count} << 12)
for i in range(1, {count}, 2):
    libc.mprotect(at + (i << 12), 4096, 1)
print("ready", at, flush=True)
sys.stdin.read()
"""


class _Child:
    """A process that waits until it is closed."""

    def __init__(self, program: str) -> None:
        if not sys.platform.startswith("linux"):
            raise MissingError("there is no /proc here")
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # how it fails is told in our words
            text=True,
        )
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().split()
        if answer[:1] != ["ready"]:
            self.close()
            raise MissingError("a process of the wanted size cannot be made here")
        self.at = int(answer[1]) if len(answer) > 1 else 0
        self.pid = self.process.pid

    def close(self) -> None:
        self.process.communicate("")

    def read(self) -> ProcessImage:
        """Open it, as the app does; `MissingError` where that is not allowed."""
        try:
            return read_process(self.pid)
        except LiveError as error:
            raise MissingError(str(error)) from None


def _open(child: _Child) -> Sample:
    def sample() -> float:
        begin = perf_counter()
        image = child.read()
        took = perf_counter() - begin
        assert len(image.vmas)
        return took

    return sample


def _beside(child: _Child, ours: Sample, words: list[str], note: str) -> Bench:
    """A bench beside a tool, which may be missing or not allowed to look."""
    if shutil.which(words[0]) is None:
        return Bench(ours, why=f"{words[0]} is not installed", close=child.close)

    def yard() -> float:
        begin = perf_counter()
        _run(words, subprocess.DEVNULL)
        return perf_counter() - begin

    return Bench(ours, yard, close=child.close, note=note)


def _run(words: list[str], stdout: int) -> str:
    """Run a tool and return what it prints into a pipe; `MissingError` when it fails."""
    try:
        done = subprocess.run(words, check=True, stdout=stdout, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise MissingError(f"{words[0]}: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        raise MissingError(f"{words[0]} fails with status {error.returncode}") from None
    return (done.stdout or b"").decode("utf-8", "replace")


def _populated(scale: int) -> Bench:
    child = _Child(_POPULATED.format(size=share(4 << 30, scale, 2 << 20)))
    read = "ours reads maps twice, smaps, pagemap, kpageflags, and kpagecount of pages not mapped exclusively"
    return _beside(child, _open(child), ["page-types", "-p", str(child.pid)], read)


def _many(scale: int) -> Bench:
    child = _Child(_MANY.format(count=share(60_000, scale, 20)))
    read = "ours reads the pages as well"
    return _beside(child, _open(child), ["pmap", "-XX", str(child.pid)], read)


def _smaps(scale: int) -> Bench:
    child = _Child(_MANY.format(count=share(60_000, scale, 20)))
    proc = ProcFs("/proc", child.pid)

    def ours() -> float:
        begin = perf_counter()
        parsed = parse_smaps_blocks(proc.blocks("smaps", Limits().max_text))
        took = perf_counter() - begin
        assert "Rss" in parsed.vmas.smaps
        return took

    return _beside(child, ours, ["pmap", "-XX", str(child.pid)], "every number of smaps, nothing else")


def _count(scale: int) -> Bench:
    """Not seconds but numbers: VMAs and pages found, beside those that are there."""
    count = share(60_000, scale, 20)
    child = _Child(_MANY.format(count=count))
    with open(f"/proc/{child.pid}/maps", encoding="utf-8", errors="replace") as file:
        there = sum("[vsyscall]" not in line for line in file)

    def ours() -> float:
        image = child.read()
        pages = image.pages.rows(child.at, child.at + count * image.page_size, image.page_size)
        return float(len(image.vmas) + pages.stop - pages.start)

    note = f"{there} VMAs, {count} pages of them; "
    try:
        total = (
            _run(["page-types", "-p", str(child.pid)], subprocess.PIPE).rstrip().splitlines()[-1].split()[1]
        )
        note += f"page-types, which stops at 10,240 VMAs, reports {total} pages of the process"
    except MissingError as error:
        note += str(error)
    return Bench(ours, lambda: float(there + count), close=child.close, note=note)


LIVE: tuple[Workload, ...] = (
    Workload("open-4g", 13, "opening a process with 4 GiB populated", "page-types", 1.5, _populated),
    Workload(
        "count-60k", 14, "VMAs and pages found in 60,000 VMAs", "those that are there", 1, _count, exact=True
    ),
    Workload("smaps-60k", 14, "smaps of 60,000 VMAs, read and parsed", "pmap -XX", 4, _smaps),
    Workload("open-60k", 14, "opening a process with 60,000 VMAs", "pmap -XX", 4, _many),
)
