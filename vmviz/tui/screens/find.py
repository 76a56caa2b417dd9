"""Finding: an address, an expression, a VMA's name, a flag, or a frame."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input

from ...kernel.errors import VmvizError
from ...kernel.fs.task_mmu import vmflags_text
from ...kernel.mm.vma import vma_name
from ...kernel.syscalls import VmaNotFound
from ..director import Director
from ..strips import LineStrip
from ..styles import rule_line
from .base import Overlay


def find(director: Director, text: str) -> tuple[str, int]:
    """What a text points to: ``("address", va)`` or ``("pfn", number)``; raises `VmvizError` with the nearest name.

    ``pfn e0000`` is a frame; five or more hex digits are an address where they lie in a VMA, else a frame of RAM or
    of a device; ``fb + 1M`` or ``0x7ff...`` is an address; ``[heap]``, ``fb0`` or ``pf`` the next VMA after the
    cursor with that in its name or flags, whole names (with or without brackets) before parts of names.
    """
    text = text.strip()
    machine = director.session.machine
    found = _hex(director, text)
    if found is not None:
        return found
    word = text.removeprefix("pfn ").strip()
    if word != text:
        try:
            return "pfn", int(word, 16)
        except ValueError:
            raise VmvizError(f"{word!r} is no frame number; such as pfn e0000") from None
    try:
        value = director.session.runner.evaluate(f"value = {text}")
        if isinstance(value, int):
            return "address", value & ((1 << 64) - 1)
    except VmvizError:
        pass
    try:
        return "address", machine.vma(text).start
    except VmaNotFound as error:
        vmas = machine.mm.vmas
        for vma in vmas:
            if vma_name(machine.mm, vma) == f"[{text}]":
                return "address", vma.start
        for start in (director.cursor + 1, 0):
            for vma in vmas.iter_from(start):
                if vma.start >= start and (text in vma.name or text in vmflags_text(machine.mm, vma).split()):
                    return "address", vma.start
        if len(text) >= 5 and all(c in "0123456789abcdefABCDEF" for c in text):
            return "address", int(text, 16)
        raise VmvizError(str(error)) from None


def _hex(director: Director, text: str) -> tuple[str, int] | None:
    """What five or more hex digits point to that a VMA or a frame is known for; None where they may be a name."""
    machine = director.session.machine
    digits = len(text) >= 5 and all(c in "0123456789abcdefABCDEF" for c in text)
    if not digits or text in director.session.labels():
        return None
    value = int(text, 16)
    if machine.mm.vma_at(value) is not None:
        return "address", value
    known = machine.frames.page(value) is not None or machine.frames.region_of(value) is not None
    return ("pfn", value) if known else None


class FindScreen(Overlay[str]):
    """Asks what to go to, or for another line of text."""

    DEFAULT_CSS = """
    FindScreen { align: left bottom; }
    FindScreen > Vertical { height: 2; width: 100%; background: $background; }
    FindScreen Input, FindScreen Input:focus {
        border: none; height: 1; background: $surface; background-tint: transparent;
    }
    """

    def __init__(
        self,
        title: str = "Find an address, a name, a flag or a frame",
        placeholder: str = "7ffff7000000   fb + 1M   [heap]   fb0   pf   e0100   pfn 1000",
    ) -> None:
        super().__init__()
        self._title, self._placeholder = title, placeholder

    def compose(self) -> ComposeResult:
        """A title and a line."""
        with Vertical():
            yield LineStrip(id="find-title")
            yield Input(placeholder=self._placeholder, compact=True)

    def on_mount(self) -> None:
        """Begin to type at once."""
        self.query_one(LineStrip).show_lines(
            lambda w, _h: [rule_line(w, self._title, "Enter goes   Esc closes", alert=True)]
        )
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go there."""
        self.answer(event.value)
