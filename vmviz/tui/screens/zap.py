"""The zap form: three arguments, what the kernel would say of them, Enter to run it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from ...script.values import format_addr, format_size
from ...views.cells import Line
from ...views.zapform import FIELDS, FormState, field_info, lines, missing, read
from ..director import Director
from ..strips import LineStrip
from ..styles import rule_line
from .base import Overlay


class Field(Input):
    """One argument of the form."""

    DEFAULT_CSS = """
    Field, Field:focus {
        border: none; height: 1; padding: 0; width: 1fr; background: $background; background-tint:
        transparent;
    }
    Field:focus { background: $surface; }
    """

    def __init__(self, field: str, value: str) -> None:
        super().__init__(value, id=f"field-{field}", compact=True, select_on_focus=True)
        self.field = field


def _label(field: str, _width: int, _height: int) -> list[Line]:
    return [[(f" {field}", "label")]]


class ZapForm(Overlay[str]):
    """Asks for vma, address and size; dismissed with the statement to run, or None."""

    DEFAULT_CSS = """
    ZapForm { align: left bottom; overflow: hidden; scrollbar-size: 0 0; }
    ZapForm > Vertical { height: auto; width: 100%; background: $background; }
    ZapForm Horizontal { height: 1; }
    ZapForm .below { height: 8; }
    ZapForm Field { width: 30; }
    ZapForm .info { width: 1fr; }
    ZapForm .label { width: 10; height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "run", "Run", show=False, priority=True, id="form.run"),
        Binding("down", "app.focus_next", "Next field", show=False, id="form.next"),
        Binding("up", "app.focus_previous", "Previous field", show=False, id="form.previous"),
        Binding("ctrl+o", "round('outwards')", "Outwards", show=False, priority=True, id="form.outwards"),
        Binding("ctrl+n", "round('inwards')", "Inwards", show=False, priority=True, id="form.inwards"),
        Binding("ctrl+l", "legal", "Nearest legal", show=False, priority=True, id="form.legal"),
    ]

    def __init__(
        self, director: Director, values: tuple[str, str, str], preview: Callable[[FormState], None]
    ) -> None:
        super().__init__()
        self.director = director
        self.values: dict[str, str] = dict(zip(FIELDS, values, strict=True))
        self._preview = preview
        self.state = FormState({})

    def compose(self) -> ComposeResult:
        """The title, the three fields, and below them what they come to."""
        with Vertical():
            yield LineStrip(id="form-title")
            for field in FIELDS:
                with Horizontal():
                    yield LineStrip(id=f"label-{field}").add_class("label")
                    yield Field(field, self.values[field])
                    yield LineStrip(id=f"info-{field}").add_class("info")
            yield LineStrip(id="form-below").add_class("below")
            yield LineStrip(id="form-keys")

    def on_mount(self) -> None:
        """Begin with the address."""
        for field in FIELDS:
            self.query_one(f"#label-{field}", LineStrip).show_lines(partial(_label, field))
        self._read()
        self.query_one("#field-address", Field).focus()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        if isinstance(event.input, Field):
            self.values[event.input.field] = event.value
            self._read()

    def _read(self) -> None:
        scene = self.director.scene()
        runner = self.director.session.runner
        self.state = read(scene, runner, *(self.values[f] for f in FIELDS))
        state = self.state
        self._preview(state)
        title = "zap_special_vma_range" if scene.machine.sys.zap_contract == "special" else "zap_vma_ptes"
        right = state.statement or "not complete"
        self.query_one("#form-title", LineStrip).show_lines(
            lambda w, _h: [rule_line(w, title, right[: max(0, w - len(title) - 8)], alert=True)]
        )
        for field in FIELDS:
            info = field_info(scene, state, field, self.values[field])
            self.query_one(f"#info-{field}", LineStrip).show_lines(lambda _w, _h, info=info: [info])  # type: ignore[misc]
        self.query_one("#form-below", LineStrip).show_lines(lambda w, h: lines(scene, state, w)[:h])
        keys: Line = [(" Tab", "key"), (" next field", "key.text")]
        if state.runnable:
            keys += [
                ("   Enter", "key"),
                (" run" if state.would_pass else " run it and be refused", "key.text"),
            ]
        else:
            keys += [
                ("   Enter", "key.off"),
                (" run", "key.off"),
                (f" ({missing(state, self.values)})", "fail"),
            ]
        keys += [("   Esc", "key"), (" cancel", "key.text")]
        self.query_one("#form-keys", LineStrip).show_lines(lambda _w, _h: [keys])

    def action_run(self) -> None:
        """Run it, if a real kernel would survive it."""
        if self.state.runnable:
            self.answer(self.state.statement)
        else:
            self.app.bell()

    def action_round(self, how: str) -> None:
        """Round the range to whole pages."""
        chosen = self.state.outwards if how == "outwards" else self.state.inwards
        if chosen:
            self._fill(*chosen)

    def action_legal(self) -> None:
        """Take the nearest legal range."""
        if self.state.legal:
            address, size = self.state.legal.split()
            self.query_one("#field-address", Field).value = address
            self.query_one("#field-size", Field).value = size

    def _fill(self, address: int, size: int) -> None:
        scene = self.director.scene()
        self.query_one("#field-address", Field).value = scene.label(address) or format_addr(address)
        self.query_one("#field-size", Field).value = format_size(size, exact=True)
