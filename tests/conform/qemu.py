"""A stopped qemu whose RAM is an image file: its own MMU code tells what the page tables in there mean.

No instruction runs.  The registers are set through the debugger's protocol, the questions go to the monitor.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

QEMU = "qemu-system-x86_64"
PATIENCE = 60
"""Seconds until an emulator that still runs counts as stuck and is ended."""


class Qemu:
    """An emulated x86-64 processor over ``image`` as its physical memory from address 0 on."""

    def __init__(self, image: Path, size: int) -> None:
        self._socket, theirs = socket.socketpair()
        fd = theirs.fileno()
        backend = f"memory-backend-file,id=ram,size={size}B,mem-path={image},share=off"
        command = [QEMU, "-S", "-nodefaults", "-display", "none", "-accel", "tcg"]
        command += ["-machine", "none,memory-backend=ram", "-m", f"{size}B", "-object", backend]
        command += ["-cpu", "max,apic-id=0", "-qmp", "stdio"]
        command += ["-chardev", f"socket,id=debugger,fd={fd}", "-gdb", "chardev:debugger"]
        pipe = subprocess.PIPE
        with theirs:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=(fd,))
        self._watchdog = threading.Timer(PATIENCE, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._socket.settimeout(PATIENCE)
        try:
            self._qmp("qmp_capabilities")
        except BaseException:
            self.close()
            raise
        self._from_gdb: IO[bytes] = self._socket.makefile("rb")

    def __enter__(self) -> Qemu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the emulator."""
        self._watchdog.cancel()
        self._socket.close()
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)

    def _qmp(self, command: str, **arguments: Any) -> Any:
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None
        assert answers is not None
        to.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        to.flush()
        for line in answers:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            assert "error" not in answer, answer
        raise EOFError(f"{QEMU} has ended")

    def monitor(self, command: str) -> str:
        """The answer of qemu's monitor to a command."""
        return str(self._qmp("human-monitor-command", **{"command-line": command}))

    def gdb(self, packet: str) -> str:
        """The answer to a packet of the debugger's remote protocol."""
        raw = packet.encode()
        self._socket.sendall(b"$%s#%02x" % (raw, sum(raw) % 256))
        answer = b""
        while self._read() != b"$":
            pass
        while (byte := self._read()) != b"#":
            answer += byte
        self._from_gdb.read(2)
        self._socket.sendall(b"+")
        return answer.decode("latin1")

    def _read(self) -> bytes:
        byte = self._from_gdb.read(1)
        if not byte:
            raise EOFError("the debugger's connection has ended")
        return byte

    def set_registers(self, **values: int) -> None:
        """Set 64-bit registers in this order (EFER and CR4 come before CR0 turns paging on)."""
        self.gdb("qSupported:xmlRegisters=i386")
        xml, more = "", "m"
        while more == "m":
            part = self.gdb(f"qXfer:features:read:i386-64bit.xml:{len(xml):x},7ff")
            more, xml = part[0], xml + part[1:]
        names = re.findall(r'<reg name="(\w+)"', re.sub(r"<!--.*?-->", "", xml, flags=re.DOTALL))
        for name, value in values.items():
            number = names.index(name)
            assert self.gdb(f"P{number:x}={value.to_bytes(8, 'little').hex()}") == "OK", name

    def translations(self) -> dict[int, tuple[int, str]]:
        """Every leaf that the emulator finds: the address, the physical one, the leaf's flags.

        The flags are a letter or a dash each: X (NX), G, P (huge), D, A, C, T, U, W.
        """
        found = re.findall(
            r"^([0-9a-f]{16}): ([0-9a-f]{16}) (\S{9})\r?$", self.monitor("info tlb"), re.MULTILINE
        )
        return {int(va, 16): (int(pa, 16), flags) for va, pa, flags in found}

    def rights(self) -> list[tuple[int, int, str]]:
        """The ranges of equal rights over all levels: start, end, and "urw" with dashes for what is denied."""
        found = re.findall(
            r"^([0-9a-f]{16})-([0-9a-f]{16}) [0-9a-f]{16} (\S{3})\r?$", self.monitor("info mem"), re.MULTILINE
        )
        return [(int(start, 16), int(end, 16), rights) for start, end, rights in found]

    def gva2gpa(self, va: int) -> int | None:
        """The physical address behind a virtual one; None when it is not mapped."""
        found = re.search(r"gpa: (0x[0-9a-f]+)", self.monitor(f"gva2gpa {va:#x}"))
        return int(found[1], 16) if found else None
