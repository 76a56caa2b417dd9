"""The child of ``vmviz conform --live``: does operations on its own memory and tells what came of each.

A program of its own (stdlib only, started with ``python -I -S``), so that nothing of vmviz is in its address
space but this.  It reads one operation per line from standard input, a JSON list, does it by a raw system call, and
writes one JSON object: the result, and the state of the window (a range far from its own memory).

Touches are done by machine code whose SIGSEGV and SIGBUS handler notes the signal and goes on behind it, so
that they are accesses of a user program, and no touch ends the child.  x86-64 Linux only.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import struct
import sys
from typing import Any

NR = {
    "mmap": 9, "mprotect": 10, "munmap": 11, "rt_sigaction": 13, "pwrite64": 18, "mremap": 25, "msync": 26,
    "mincore": 27, "madvise": 28, "ftruncate": 77, "mlock": 149, "munlock": 150, "mlockall": 151,
    "munlockall": 152, "prctl": 157, "remap_file_pages": 216, "fallocate": 285, "memfd_create": 319,
    "mlock2": 325, "read": 0, "write": 1, "process_vm_readv": 310,
}  # fmt: skip
"""System call numbers of x86-64."""
ON_FILE = ("ftruncate", "fallocate", "pwrite64")
"""Calls whose first argument is a file by its number here."""
PR_SET_THP_DISABLE, MADV_COLD = 41, 20
SIGBUS, SIGSEGV = 7, 11
SA_SIGINFO, SA_NODEFER, SA_RESTORER = 4, 0x4000_0000, 0x0400_0000
UC_RIP = 168
"""Where a ucontext has the register RIP."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(nr: int, *args: int) -> tuple[int, str]:
    """A raw system call: the result, and the name of its errno or ""."""
    ret = int(_libc.syscall(ctypes.c_long(nr), *(ctypes.c_ulong(a) for a in args)))
    if ret == -1:
        number = ctypes.get_errno()
        return -1, errno.errorcode.get(number, str(number))
    return ret, ""


class Toucher:
    """Machine code that reads or writes one byte, and survives what that leads to.

    ``noted`` holds the signal's number, its si_code and its si_addr.
    """

    def __init__(self) -> None:
        self.noted = mmap.mmap(-1, 4096)
        note = ctypes.addressof(ctypes.c_char.from_buffer(self.noted))
        self.code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.code))
        self.value = 0
        read = b"\x0f\xb6\x07\xc3"  # movzx eax, byte [rdi]; ret
        write = b"\x40\x88\x37\x31\xc0\xc3"  # mov [rdi], sil; xor eax, eax; ret
        recover = b"\xb8\x00\x01\x00\x00\xc3"  # mov eax, 256; ret
        restorer = b"\xb8\x0f\x00\x00\x00\x0f\x05"  # rt_sigreturn
        handler = (
            b"\x49\xb8" + struct.pack("<Q", note)  # mov r8, note
            + b"\x41\x89\x38"  # mov [r8], edi: the signal
            + b"\x8b\x46\x08\x41\x89\x40\x04"  # si_code
            + b"\x48\x8b\x46\x10\x49\x89\x40\x08"  # si_addr
            + b"\x48\xb8" + struct.pack("<Q", base + 128)  # mov rax, recover
            + b"\x48\x89\x82" + struct.pack("<I", UC_RIP) + b"\xc3"  # the context goes on there
        )  # fmt: skip
        for at, code in ((0, read), (64, write), (128, recover), (192, restorer), (256, handler)):
            self.code[at : at + len(code)] = code
        call(NR["mprotect"], base, 4096, mmap.PROT_READ | mmap.PROT_EXEC)
        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_int)
        self._read, self._write = function(base), function(base + 64)
        flags = SA_SIGINFO | SA_NODEFER | SA_RESTORER
        action = ctypes.create_string_buffer(struct.pack("<QQQQ", base + 256, flags, base + 192, 0))
        for signal in (SIGSEGV, SIGBUS):
            call(NR["rt_sigaction"], signal, ctypes.addressof(action), 0, 8)

    def touch(self, start: int, pages: int, byte: int | None) -> dict[str, Any]:
        """Read (``byte`` None) or write one byte in each page; stops at a signal."""
        data = bytearray()
        for i in range(pages):
            at = start if i == 0 else (start + i * 4096) & -4096
            got = self._read(at, 0) if byte is None else self._write(at, byte)
            if got == 256:
                number, code, where = struct.unpack("<iiQ", self.noted[:16])
                return {"ret": -1, "sig": [number, code, where], "touched": i, "data": data.hex()}
            if byte is None:
                data.append(got)
        return {"ret": 0, "touched": pages, "data": data.hex()}


class Actor:
    """Does operations and looks at the window ``[low, high)`` (bytes) after each."""

    def __init__(self, low: int, high: int, sizes: list[int]) -> None:
        self.low, self.high = low, high
        self.toucher = Toucher()
        call(NR["prctl"], PR_SET_THP_DISABLE, 1, 0, 0, 0)
        self.files: list[int] = []
        for i, size in enumerate(sizes):
            fd = os.memfd_create(f"f{i}")
            os.ftruncate(fd, size)
            self.files += [fd, os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)]
        self.vector = (ctypes.c_ubyte * (((high - low) >> 12) + 16))()
        self.depth = 0
        try:
            self.kpage = [os.open(f"/proc/{name}", os.O_RDONLY) for name in ("kpagecount", "kpageflags")]
        except OSError:
            self.kpage = []
        self.pipe, self.zero = os.pipe(), os.open("/dev/zero", os.O_RDONLY)
        self.scratch = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.drain_at = ctypes.addressof(ctypes.c_char.from_buffer(self.scratch))

    def do(self, name: str, args: list[Any]) -> dict[str, Any]:
        """One operation; an empty answer means that this process has ended or is not to answer."""
        if name in ("load", "store"):
            return self.toucher.touch(args[0], args[1], args[2] if name == "store" else None)
        if name == "fork":
            return self._fork()
        if name == "exit":
            os._exit(0)
        if name == "mincore":
            ret, code = call(NR[name], args[0], args[1], ctypes.addressof(self.vector))
            pages = (args[1] + 4095) >> 12
            return {"ret": ret, "errno": code, "data": bytes(self.vector[:pages]).hex() if not code else ""}
        if name in ("copy_from_user", "clear_user", "get_user_pages"):
            return self._kernel_access(name, args[0], args[1])
        if name == "rlimit":
            resource.setrlimit(
                resource.RLIMIT_MEMLOCK, (args[0], resource.getrlimit(resource.RLIMIT_MEMLOCK)[1])
            )
            return {"ret": 0, "errno": ""}
        if name in ON_FILE:
            args = [self.files[args[0]], *args[1:]]
        if name == "pwrite64":
            return _caught(lambda: os.pwrite(args[0], bytes([args[1]]) * args[2], args[3]))
        if name == "mmap":
            args = [*args[:4], self.files[args[4]] if args[4] >= 0 else -1 & (1 << 64) - 1, args[5]]
        ret, code = call(NR[name], *args)
        length = {"mmap": 1, "mremap": 2}.get(name)
        if length is not None and not code:
            ret &= (1 << 64) - 1
            if not self.low <= ret < self.high:  # the kernel's own choice, elsewhere: not to be looked at
                call(NR["munmap"], ret, args[length])
        return {"ret": ret, "errno": code}

    def _kernel_access(self, name: str, at: int, length: int) -> dict[str, Any]:
        """Memory is read by write(2) to a pipe, written by read(2) of /dev/zero, or taken by process_vm_readv."""
        if name == "clear_user":
            ret, code = call(NR["read"], self.zero, at, length)
        elif name == "copy_from_user":
            ret, code = call(NR["write"], self.pipe[1], at, length)
            if ret > 0:
                os.read(self.pipe[0], ret)
        else:
            buffer = ctypes.create_string_buffer(length)
            ranges = struct.pack("<QQQQ", ctypes.addressof(buffer), length, at, length)
            where = ctypes.create_string_buffer(ranges)
            local = ctypes.addressof(where)
            ret, code = call(NR["process_vm_readv"], os.getpid(), local, 1, local + 16, 1, 0)
        return {"ret": ret, "errno": code}

    def _fork(self) -> dict[str, Any]:
        pid = os.fork()
        if pid == 0:
            self.depth += 1
            return {"ret": 0}
        os.waitpid(pid, 0)  # its operations are done by itself; this one goes on when it has ended
        return {"ret": 0}

    def drain(self) -> None:
        """Let pages that wait on this CPU's lists (lru_add_drain) be what they are to become: any MADV_COLD
        does that, here one of a page of this program's own.
        """
        call(NR["munlock"], self.drain_at, 4096)
        call(NR["madvise"], self.drain_at, 4096, MADV_COLD)

    def state(self) -> dict[str, Any]:
        """The window as /proc/self tells it: lines of smaps, words of pagemap."""
        self.drain()
        vmas: list[dict[str, Any]] = []
        keep = False
        with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                word, _, rest = line.partition(" ")
                if not word.endswith(":"):
                    start, _, end = word.partition("-")
                    keep = int(start, 16) < self.high and int(end, 16) > self.low
                    if keep:
                        vmas.append({"line": line.rstrip("\n"), "kB": {}})
                elif keep and word == "VmFlags:":
                    vmas[-1]["VmFlags"] = rest.strip()
                elif keep and rest.endswith(" kB\n"):
                    vmas[-1]["kB"][word[:-1]] = int(rest.split()[0])
        fd = os.open("/proc/self/pagemap", os.O_RDONLY)
        words = os.pread(fd, ((self.high - self.low) >> 12) * 8, (self.low >> 12) * 8)
        os.close(fd)
        with open("/proc/self/status", encoding="utf-8", errors="surrogateescape") as file:
            locked = next(int(line.split()[1]) for line in file if line.startswith("VmLck:"))
        return {"vmas": vmas, "pagemap": words.hex(), "VmLck": locked, "frames": self._frames(words)}

    def _frames(self, words: bytes) -> list[tuple[int, int]]:
        """What /proc/kpagecount and /proc/kpageflags say of the present pages, where frames can be seen."""
        out: list[tuple[int, int]] = []
        for (word,) in struct.iter_unpack("<Q", words):
            pfn = word & (1 << 55) - 1
            if word >> 63 and pfn and self.kpage:
                pair = [os.pread(fd, 8, pfn * 8) for fd in self.kpage]
                out.append((int.from_bytes(pair[0], "little"), int.from_bytes(pair[1], "little")))
        return out


def soft_dirty() -> bool:
    """Whether this kernel tracks soft-dirty bits: a new mapping has the flag then."""
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.startswith("VmFlags:") and " sd" in line for line in file)


def _caught(do: Any) -> dict[str, Any]:
    try:
        return {"ret": do(), "errno": ""}
    except OSError as error:
        return {"ret": -1, "errno": errno.errorcode.get(error.errno or 0, "")}


def main() -> None:
    """Serve until standard input ends."""
    buffered = b""
    actor: Actor | None = None
    while True:
        while b"\n" not in buffered:
            piece = os.read(0, 1 << 16)
            if not piece:
                os._exit(0)
            buffered += piece
        line, _, buffered = buffered.partition(b"\n")
        name, *args = json.loads(line)
        if actor is None:
            actor = Actor(*args)
            answer: dict[str, Any] = {"soft_dirty": soft_dirty()}
        else:
            answer = actor.do(name, args)
        answer["state"] = actor.state()
        text = json.dumps(answer).encode() + b"\n"
        while text:
            text = text[os.write(1, text) :]


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
