"""The real driver in a pseudo terminal: what a user's terminal shows, read back through pyte."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

pyte = pytest.importorskip("pyte")
pty = pytest.importorskip("pty")

COLUMNS, LINES = 80, 24
PATIENCE = 30.0
"""Seconds after which a text that does not appear is missing; nothing waits for them otherwise."""


class Terminal:
    """A program on a pty, and the screen that it has drawn."""

    def __init__(self, argv: list[str], **more: str) -> None:
        import fcntl
        import struct
        import termios

        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TEXTUAL", "VMVIZ", "NO_COLOR"))}
        env.update(TERM="xterm-256color", COLORTERM="truecolor", LANG="C.UTF-8", LC_ALL="C.UTF-8", **more)
        env.pop("COLUMNS", None)
        env.pop("LINES", None)
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True, close_fds=True
        )
        os.close(slave)
        self.screen = pyte.Screen(COLUMNS, LINES)
        self.stream = pyte.ByteStream(self.screen)

    def read(self, deadline: float) -> bool:
        """Take in what comes until the deadline; returns whether anything can still come."""
        ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.stream.feed(data)
        return bool(data)

    def wait_for(self, text: str) -> list[str]:
        """Read until a text is on the screen; the screen's lines."""
        deadline = time.monotonic() + PATIENCE
        while not any(text in line for line in self.screen.display):
            if not self.read(deadline):
                shown = "\n".join(self.screen.display)
                pytest.fail(f"{text!r} does not appear on\n{shown}")
        return list(self.screen.display)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    def wait_for_end(self) -> int:
        """Read until the program ends; its status."""
        deadline = time.monotonic() + PATIENCE
        while self.read(deadline):
            pass
        return self.process.wait(PATIENCE)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """The app on a pty."""
    term = Terminal([sys.executable, "-m", "vmviz"])
    yield term
    if term.process.poll() is None:
        term.process.kill()
        term.process.wait()
    os.close(term.master)


def test_the_story_in_a_real_terminal(terminal: Terminal) -> None:
    lines = terminal.wait_for("n run the next step of the story")
    assert len(lines) == LINES
    assert lines[0].startswith(" vmviz  framebuffer")
    assert any("│ ►│ ├1b8 PT" in line and "◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊" in line for line in lines)
    terminal.press("n")
    terminal.wait_for("playing")
    terminal.press("\r")
    lines = terminal.wait_for("512 PTEs cleared in 2 tables.")
    assert any(
        line.startswith("── Done ─") and "zap_vma_ptes(vma(fb), fb + 1M, 2M) = 0" in line for line in lines
    )
    assert any("1b8 PT" in line and "◊◊◊◊◊◊◊◊××××××××" in line for line in lines)
    terminal.press("q")
    assert terminal.wait_for_end() == 0


def test_the_app_ends_when_its_terminal_is_gone() -> None:
    term = Terminal([sys.executable, "-m", "vmviz"])
    try:
        term.wait_for("n run the next step of the story")
        os.close(term.master)  # the process leads a session without a terminal: no SIGHUP comes
        assert term.process.wait(PATIENCE) is not None
    finally:
        term.process.kill()
        term.process.wait()


@pytest.mark.parametrize("theme", ["vmviz-dark", "vmviz-light"])
def test_no_color_is_readable(theme: str) -> None:
    term = Terminal([sys.executable, "-m", "vmviz", "--theme", theme], NO_COLOR="1")
    try:
        term.wait_for("n run the next step of the story")
        cells = [term.screen.buffer[y][x] for y in range(LINES) for x in range(COLUMNS)]
        assert {(cell.fg, cell.bg) for cell in cells} == {("default", "default")}
        assert any(cell.bold for cell in cells)
        term.press("q")
        assert term.wait_for_end() == 0
    finally:
        if term.process.poll() is None:
            term.process.kill()
            term.process.wait()
        os.close(term.master)
