"""A program on a pseudo terminal of 200x50: when its first frame is complete, and how long a key takes to one.

A frame is complete with the last byte before a silence, by the same rule for every program: so that a program that
answers a key with two paintings is judged by the second one.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from .harness import MissingError

COLUMNS, LINES = 200, 50
SILENCE = 0.25
"""Seconds without a byte after which a program's first frame counts as complete."""
KEY_SILENCE = 0.06
"""The same for a key: several times the pause that Textual keeps between two paintings."""
PATIENCE = 60.0
_SYNC_QUERY, _SYNC_ANSWER = b"\x1b[?2026$p", b"\x1b[?2026;2$y"
UP, DOWN = b"\x1b[A", b"\x1b[B"


class Terminal:
    """A child process on a pseudo terminal; ``output`` is all that it has written."""

    def __init__(self, argv: list[str], columns: int = COLUMNS, lines: int = LINES) -> None:
        """Start it.  Raises `MissingError` where there are no pseudo terminals."""
        try:
            import fcntl  # noqa: PLC0415 (not on every system)
            import pty  # noqa: PLC0415
            import termios  # noqa: PLC0415

            self.master, slave = pty.openpty()
        except (ImportError, OSError) as error:
            raise MissingError(f"there is no pseudo terminal: {error}") from error
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        dropped = ("TEXTUAL", "VMVIZ", "NO_COLOR", "COLUMNS", "LINES", "PYTHONDONTWRITEBYTECODE")
        env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        env.update(TERM="xterm-256color", COLORTERM="truecolor", LANG="C.UTF-8", LC_ALL="C.UTF-8")
        self.output = bytearray()
        self._last = self.started = perf_counter()
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True, close_fds=True
        )
        os.close(slave)

    def read(self, timeout: float) -> bool:
        """Take in what comes within ``timeout`` seconds; returns whether anything did."""
        ready, _, _ = select.select([self.master], [], [], timeout)
        if not ready:
            return False
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self._last = perf_counter()
        asked = _SYNC_QUERY in data
        self.output += data
        if asked:
            os.write(self.master, _SYNC_ANSWER)
        return bool(data)

    def settle(self, silence: float = SILENCE) -> float:
        """Read until nothing has come for ``silence`` seconds; the moment of the last byte."""
        end = perf_counter() + PATIENCE
        while self.read(silence):
            if perf_counter() > end:
                raise MissingError("the program does not come to rest on this terminal")
        return self._last

    def first_frame(self, words: bytes) -> float:
        """Seconds from the start to the last byte of the first frame, which has these ``words`` in it."""
        while words not in self.output:
            if not self.read(PATIENCE):
                text = bytes(self.output[-400:]).decode(errors="replace")
                raise MissingError(f"the program shows no {words.decode()!r} on this terminal: {text!r}")
        return self.settle() - self.started

    def key(self, key: bytes = DOWN) -> float:
        """Seconds from a key to the last byte of what it brings about; 0 where nothing comes of it."""
        begin = self._last = perf_counter()
        os.write(self.master, key)
        self.read(1.0)
        return self.settle(KEY_SILENCE) - begin

    def close(self) -> None:
        """End the program."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


def bare() -> list[str]:
    """The command of the bare app; a file of its own, so that nothing of vmviz is imported."""
    return [sys.executable, str(Path(__file__).with_name("bareapp.py"))]


def vmviz_open(path: str) -> list[str]:
    """The command that opens a file in the app."""
    return [sys.executable, "-m", "vmviz", "open", path]
