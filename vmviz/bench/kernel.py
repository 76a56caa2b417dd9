"""The real kernel as a yardstick, by ctypes: mappings of our own process, never of another's."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from time import perf_counter

from .harness import MissingError

PROT_READ, PROT_WRITE = 1, 2
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000
MADV_DONTNEED, MADV_NOHUGEPAGE, MADV_POPULATE_READ, MADV_POPULATE_WRITE = 4, 15, 22, 23
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
_SYS_PERF_EVENT_OPEN = 298
FAILED = (1 << 64) - 1


def _libc() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise MissingError("the kernel of this machine is not Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    libc.mmap.restype = libc.mremap.restype = pointer
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    libc.munmap.argtypes = [pointer, size]
    libc.madvise.argtypes = [pointer, size, number]
    libc.mprotect.argtypes = [pointer, size, number]
    libc.mremap.argtypes = [pointer, size, size, number, pointer]
    return libc


class Kernel:
    """System calls of this process, timed."""

    def __init__(self) -> None:
        self.libc = _libc()

    def _check(self, ok: bool, call: str) -> None:
        if not ok:
            raise MissingError(f"{call}: {os.strerror(ctypes.get_errno())}")

    def mmap(self, size: int, flags: int = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd: int = -1) -> int:
        """A mapping of ``size`` bytes, without huge pages."""
        address = self.libc.mmap(None, size, PROT_READ | PROT_WRITE, flags, fd, 0)
        self._check(address not in (None, FAILED), f"mmap of {size >> 20} MiB")
        self.libc.madvise(address, size, MADV_NOHUGEPAGE)
        return int(address)

    def munmap(self, address: int, size: int) -> float:
        """Unmap; seconds."""
        begin = perf_counter()
        ret = self.libc.munmap(address, size)
        took = perf_counter() - begin
        self._check(ret == 0, "munmap")
        return took

    def madvise(self, address: int, size: int, advice: int) -> float:
        """Advise; seconds."""
        begin = perf_counter()
        ret = self.libc.madvise(address, size, advice)
        took = perf_counter() - begin
        self._check(ret == 0, f"madvise {advice}")
        return took

    def mprotect(self, address: int, size: int, prot: int) -> float:
        """Change the protection; seconds."""
        begin = perf_counter()
        ret = self.libc.mprotect(address, size, prot)
        took = perf_counter() - begin
        self._check(ret == 0, "mprotect")
        return took

    def mremap(self, old: int, size: int, new: int) -> float:
        """Move to a fixed place; seconds."""
        begin = perf_counter()
        ret = self.libc.mremap(old, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, new)
        took = perf_counter() - begin
        self._check(ret == new, "mremap")
        return took

    def fork(self) -> float:
        """Fork a child that exits at once; seconds on the parent's side until fork returns."""
        begin = perf_counter()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        took = perf_counter() - begin
        os.waitpid(pid, 0)
        return took


class PerfRing:
    """The ring buffer of a software event: a VM_PFNMAP mapping that a process can have without a device.

    The first mapping holds the buffer; others of the same file map the same frames.
    """

    def __init__(self, kernel: Kernel, pages: int) -> None:
        if platform.machine() != "x86_64":
            raise MissingError("perf_event_open is asked for by its number on x86-64 only")
        attr = ctypes.create_string_buffer(136)
        struct.pack_into("IIQ", attr, 0, 1, 136, 9)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY
        self.fd = kernel.libc.syscall(_SYS_PERF_EVENT_OPEN, attr, 0, -1, -1, 0)
        if self.fd < 0:
            raise MissingError(f"perf_event_open: {os.strerror(ctypes.get_errno())}")
        self.kernel, self.size = kernel, (pages + 1) << 12
        self.first = 0
        try:
            self.first = kernel.mmap(self.size, MAP_SHARED, self.fd)
        except MissingError as error:
            self.close()
            raise MissingError(f"the perf ring buffer: {error}") from None

    def unmap(self) -> float:
        """Map the buffer once more, touch nothing, and unmap it: seconds of the unmapping."""
        return self.kernel.munmap(self.kernel.mmap(self.size, MAP_SHARED, self.fd), self.size)

    def close(self) -> None:
        """Give the buffer back."""
        if self.first:
            self.kernel.munmap(self.first, self.size)
        os.close(self.fd)
