"""Read-only access to one process's files in /proc: the only place of `vmviz.live` that opens anything there.

Every file is opened with O_RDONLY.  Nothing is written, no signal is sent, nothing is stopped or traced.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from vmviz.live.errors import LiveError
from vmviz.live.helper import DEPTH, Ahead
from vmviz.live.image import U64
from vmviz.live.stdio import read_fully

READ_SIZE = 1 << 16  # seq_file hands out about a page per read; larger buffers only cost allocations
BLOCK_SIZE = 1 << 21
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)

# ioctl PAGEMAP_SCAN (Linux 6.7+): _IOWR('f', 16, struct pm_scan_arg of 12 words).
PAGEMAP_SCAN = 0xC0606610
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
SCAN_REGIONS = 2048


class GoneError(Exception):
    """Internal: the process, or the address space that was open, went away under the reader."""


class ProcFs:
    """The files of one process under ``root`` (a /proc tree, or a directory that looks like one).

    ``helper`` is a second thread to read with, which begins when first used.  It is None where this process
    reads itself: the thread's stack and heap would come up in its maps.
    """

    def __init__(self, root: str, pid: int | str) -> None:
        self.root = root
        self.pid = str(pid)
        own = self.pid in ("self", str(os.getpid()))
        self.helper: Executor | None = None if own else ThreadPoolExecutor(1, "vmviz-live")

    def close(self) -> None:
        """Let the helper go; what is read afterwards is read without."""
        helper, self.helper = self.helper, None
        if helper is not None:
            helper.shutdown(cancel_futures=True)

    def path(self, name: str) -> str:
        """Return the path of a file; a name that begins with "/" is the tree's own, not the process's."""
        return (
            os.path.join(self.root, name[1:])
            if name.startswith("/")
            else os.path.join(self.root, self.pid, name)
        )

    def exists(self) -> bool:
        """Whether the process is still there."""
        return os.path.isdir(os.path.join(self.root, self.pid))

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """Open a file for reading only; the descriptor is closed at the end of the block."""
        fd = os.open(self.path(name), _OPEN_FLAGS)
        try:
            yield fd
        finally:
            os.close(fd)

    def read(self, name: str, limit: int = 1 << 20) -> bytes:
        """Return the whole text of a file; `LiveError` when it has more than ``limit`` bytes."""
        return b"".join(map(bytes, self._pieces(name, limit, 1)))

    def blocks(self, name: str, limit: int) -> Ahead[memoryview] | Generator[memoryview, None, None]:
        """The pieces of a file, each good until the next is asked for, which the helper begins to read at once.

        `LiveError` when it has more than ``limit`` bytes.  To be closed when it is not gone through.
        """
        if self.helper is None:
            return self._pieces(name, limit, 1)
        return Ahead(self.helper, self._pieces(name, limit, DEPTH + 1))

    def _pieces(self, name: str, limit: int, rooms: int) -> Generator[memoryview, None, None]:
        """Read a file in pieces of about `BLOCK_SIZE` bytes, each of which stays while ``rooms`` - 1 more come."""
        filled = total = 0
        room = bytearray(READ_SIZE)
        free: deque[bytearray] = deque()
        with self.open(name) as fd:
            while filled < READ_SIZE // 2 and (got := os.readv(fd, (memoryview(room)[filled:],))):
                filled += got
            more = filled >= READ_SIZE // 2
            while True:
                total += filled
                if total > limit:
                    raise LiveError(self.path(name), f"it is longer than the limit of {limit} bytes")
                yield memoryview(room)[:filled]
                if not more:
                    return
                room = free.popleft() if len(free) == rooms else bytearray(BLOCK_SIZE)
                free.append(room)
                filled = read_fully(fd, room)
                more = filled == len(room)

    def read_optional(self, name: str, limit: int = 1 << 20) -> bytes:
        """Return the text of a file, or b"" when it cannot be opened or read."""
        try:
            return self.read(name, limit)
        except OSError:
            return b""

    def pread(self, fd: int, room: memoryview, offset: int) -> int:
        """Fill ``room`` with the bytes from ``offset`` on; return how many were there."""
        done = os.preadv(fd, (room,), offset)
        while 0 < done < len(room):  # nearly always all comes at once
            got = os.preadv(fd, (room[done:],), offset + done)
            if got <= 0:
                break
            done += got
        return done

    def pread_words(self, fd: int, out: U64, first: int) -> int:
        """Fill ``out`` with 8-byte words from word number ``first`` on; return how many words were there."""
        return self.pread(fd, memoryview(out.view(np.uint8)), first * 8) // 8  # type: ignore[arg-type]

    def scan_populated(self, fd: int, start: int, end: int) -> tuple[list[tuple[int, int]], int] | None:
        """Ask PAGEMAP_SCAN for populated byte ranges from ``start`` on; return (ranges, where it came to).

        Returns None when the kernel has no PAGEMAP_SCAN.  The ioctl asks for categories only (flags 0): it
        changes nothing in the process.  When there are more ranges than it has room for, the kernel may say that
        it came to a page table whose ranges, or some of them, it has told already (seen with 6.18).
        """
        import fcntl  # noqa: PLC0415 - not on every system; only live reading comes here

        regions = np.zeros((SCAN_REGIONS, 3), dtype=np.uint64)
        where = int(regions.__array_interface__["data"][0])
        wanted = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
        words = (96, 0, start, end, 0, where, len(regions), 0, 0, 0, wanted, wanted)
        arg = bytearray(struct.pack("=12Q", *words))
        try:
            count = fcntl.ioctl(fd, PAGEMAP_SCAN, arg)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise GoneError from error
            return None
        walked = int(struct.unpack_from("=12Q", arg)[4])
        if walked <= start:
            return None
        found: list[tuple[int, int]] = []
        for low, high, _ in regions[:count].tolist():
            if found and found[-1][1] == low:
                found[-1] = (found[-1][0], high)
            else:
                found.append((low, high))
        return found, max(walked, found[-1][1] if found else 0)
