"""The app: turns keys and mouse into the director's calls, and has the scene shown after each."""

from __future__ import annotations

import gc
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from ..session.session import Session
from ..views.strip import call_text
from .command import CommandLine
from .commands import Actions
from .director import Director
from .glyphs import ascii_wanted
from .keymap import bindings
from .linegrid import LineGrid
from .messages import AddressChosen, FrameChosen
from .panes.log import LogPane
from .panes.tree import TreePane
from .panes.vmas import VmaPane
from .showing import FRAME, Showing
from .strips import KeyBar, WhyPane
from .themes import available_themes

LOOK = 2.0
"""Seconds between two looks whether the terminal is still there."""
NOTHING_TO_COME = "the story is at its end: u goes back, : takes statements of your own"

_MADE = tuple(Binding.make_bindings(bindings()))
_FIRST = frozenset(binding.key for binding in _MADE if binding.priority)
"""Keys that Textual asks the app about before anybody else."""
_ACTIONS = {"tab": "focus_next", "shift+tab": "focus_previous"} | {
    binding.key: binding.action for binding in _MADE if not binding.priority
}


class VmvizApp(Showing):
    """The main screen."""

    TITLE = "vmviz"
    CSS = """
    Screen { background: $background; layers: base; }
    Overlay { background: transparent; }
    #scene { width: 100%; height: 100%; }
    """
    ENABLE_COMMAND_PALETTE = True
    COMMANDS = App.COMMANDS | {Actions}
    BINDINGS: ClassVar[list[BindingType]] = [*_MADE]

    def __init__(
        self,
        session: Session,
        *,
        theme: str | None = None,
        ascii_glyphs: bool | None = None,
        frame: float = FRAME,
        traces: Sequence[Path] = (),
    ) -> None:
        # With NO_COLOR, Textual would turn the terminal's own colours into black on black unless told to leave
        # them alone; so told, it only takes colours away and keeps weight, underline and reverse.
        super().__init__(frame, theme=theme, ansi_color=True if "NO_COLOR" in os.environ else None)
        self.traces = tuple(traces)
        self.director = Director(session)
        if ascii_glyphs is None:
            ascii_glyphs = ascii_wanted(
                os.environ, sys.stdout.encoding or "utf-8", os.environ.get("TERM", "")
            )
        self.ascii_glyphs = ascii_glyphs

    # -- the screen

    def on_mount(self) -> None:
        """The focus, the first scene."""
        self.query_one(VmaPane).focus()
        self.show()
        if not self.is_headless:
            self.set_interval(LOOK, self._leave_with_the_terminal)
        if self.traces:
            self.action_conform()

    def _leave_with_the_terminal(self) -> None:
        """End where nobody is there any more: Textual would read from a terminal that is gone for ever."""
        if sys.__stdin__ is not None and hung_up(sys.__stdin__.fileno()):
            self.exit()

    def on_ready(self) -> None:
        """The first frame is there: what was made for it stays, so collections need not look at it again."""
        if not gc.isenabled():
            gc.freeze()
            gc.enable()

    def on_resize(self) -> None:
        """The terminal has another size."""
        self.call_after_refresh(self.show)

    async def _answered(self, key: str) -> bool:
        """Do what a key means to the pane that has the focus, or to the main screen.

        Textual finds the same actions, but five queues later: the next key, which may already be there, would be
        given to the pane, and not to the line or the form that this one opens.
        """
        pane = self.focused
        if len(self.screen_stack) > 1 or not isinstance(pane, LineGrid) or key in _FIRST:
            return False
        action = pane.own_action(key)
        if action is not None and await self.run_action(action, pane):
            return True
        action = _ACTIONS.get(key)
        return action is not None and await self.run_action(action, self)

    # -- what panes say

    def _heard(self, said: Message) -> None:
        """The user went somewhere in a pane."""
        if isinstance(said, AddressChosen):
            self.director.choose(said.address, said.extend, said.end, said.origin_end)
        elif isinstance(said, FrameChosen):
            self.director.pfn = said.pfn
        self.show()

    @on(LogPane.Chosen)
    def _statement_chosen(self, event: LogPane.Chosen) -> None:
        if event.number is None:
            self.action_next()
        else:
            self.director.go_to(event.number)
            self._shown_signal = self.director.session.current
            self.show()

    @on(KeyBar.Pressed)
    async def _key_pressed(self, event: KeyBar.Pressed) -> None:
        await self.run_action(event.action)

    # -- actions

    def action_select(self) -> None:
        """Begin or end a selection."""
        focused = self.focused
        self.director.toggle_selecting(focused.row_end() if isinstance(focused, VmaPane | TreePane) else 0)
        self.show()

    def action_select_vma(self) -> None:
        """Select the VMA under the cursor."""
        self.director.select_vma()
        self.show()

    def action_clear(self) -> None:
        """Drop the selection; else leave a refused call."""
        session = self.director.session
        current = session.current
        if not self.director.clear_selection():
            if self.director.player.playing:
                self.director.player.pause()
            elif current is not None and current.outcome.refusal is not None and not session.at_story_start:
                self.director.move("statement", -1)
        self.show()

    def action_play(self) -> None:
        """Play or pause."""
        session = self.director.session
        if session.inside is None and not session.future and not session.pending:
            self._say(NOTHING_TO_COME)
            return
        self._do(self.director.play_or_pause)

    def action_move(self, what: str, count: int) -> None:
        """Move in time."""
        if not self.director.move(what, count):
            end = (
                "this is the end; n runs the next statement"
                if self.director.session.pending
                else NOTHING_TO_COME
            )
            self._say("this is the beginning" if count < 0 else end)
        if count < 0:
            # Who goes back past a signal has read of it.
            self._shown_signal = self.director.session.current
        self.show()
        self._ended()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enter means a statement only where one waits for it; else it is the focused widget's."""
        if action == "enter":
            if len(self.screen_stack) > 1 or isinstance(self.focused, Input):
                return False
            current = self.director.session.current
            strip = self.screen_stack[0].query_one(WhyPane).strip
            legal = strip is not None and bool(strip.legal)
            signal = current is not None and current.outcome.signal is not None
            return self.director.session.inside is not None or legal or signal
        return super().check_action(action, parameters)

    def action_enter(self) -> None:
        """Finish a statement; run the nearest legal call of a refused one; show a signal's screen."""
        if self.director.finish():
            self.show()
            self._ended()
            return
        strip = self.screen_stack[0].query_one(WhyPane).strip
        current = self.director.session.current
        if strip is not None and strip.legal:
            self.run_statement(strip.legal)
        elif current is not None and current.outcome.signal is not None:
            self.action_signal()

    def action_speed(self, step: int) -> None:
        """Play faster or slower."""
        player = self.director.player
        speed = player.faster() if step > 0 else player.slower()
        self._say(f"speed {speed:g}")

    def action_instant(self) -> None:
        """Show results at once, or play them."""
        self.director.instant = not self.director.instant
        self._say("results are shown at once" if self.director.instant else "results are played")

    def action_next(self) -> None:
        """Run the story's next statement."""
        if self.director.session.inside is not None:
            self.action_enter()
            return
        session = self.director.session
        if not session.pending and not session.future:
            self._say(NOTHING_TO_COME)
            return
        self._do(self.director.run_next)

    def action_readable(self) -> None:
        """Addresses as fb+1M or in hex."""
        self.director.readable = not self.director.readable
        self.show()

    def action_copy(self) -> None:
        """Copy the current statement, or the zap of the selection."""
        current = self.director.session.current
        if self.director.selection is not None or current is None:
            text = self.director.zap_text()
        else:
            text = call_text(current.outcome)
        self.copy_to_clipboard(text)
        self._say(f"copied: {text}")

    def action_command(self, text: str = "") -> None:
        """Go to the command line; in the narrow layout it takes the key bar's place."""
        line = self.screen_stack[0].query_one(CommandLine)
        self._layout.command = True
        self._place_again()
        if text:
            line.value = text
        line.can_focus = True
        self.screen_stack[0].set_focus(line)  # at once, before the next key

    @on(CommandLine.Left)
    def _left_command(self, event: CommandLine.Left) -> None:
        if event.deliberate or (len(self.screen_stack) == 1 and not isinstance(self.focused, CommandLine)):
            self._leave_command(event.deliberate)

    def _leave_command(self, focus: bool = True) -> None:
        self._layout.command = False
        self._place_again()
        if focus:
            self._focus_a_pane()
        self._only_visible_take_keys()

    @on(Input.Submitted, "#command")
    def _submitted(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        if not text:
            self._leave_command()
            return

        def ran() -> None:
            event.input.value = ""
            self._leave_command()

        self.run_statement(text, ran)

    def action_next_theme(self) -> None:
        """The next theme."""
        names = list(available_themes())
        here = names.index(self.theme) if self.theme in names else -1
        self.theme = names[(here + 1) % len(names)]
        self._say(f"theme {self.theme}")

    def _words(self) -> list[str]:
        from ..script.functions import FUNCTIONS
        from ..script.names import CONSTANTS

        names = [f"{name}(" for name in (*FUNCTIONS, "boot")]
        return [*names, *CONSTANTS, *self.director.session.runner.names]


def hung_up(fd: int) -> bool:
    """Whether the other side of a terminal or pipe is gone, as far as this system can tell.

    >>> r, w = os.pipe()
    >>> hung_up(r), os.close(w), hung_up(r), os.close(r)
    (False, None, True, None)
    """
    if not hasattr(select, "poll"):
        return False
    asked = select.poll()
    asked.register(fd, 0)  # of a hang-up one is always told
    return bool(asked.poll(0))


def run_app(
    session: Session,
    *,
    theme: str | None = None,
    ascii_glyphs: bool | None = None,
    traces: Sequence[Path] = (),
) -> None:
    """Open the app on a session, or on recordings to compare with, and wait for its end."""
    gc.disable()
    VmvizApp(session, theme=theme, ascii_glyphs=ascii_glyphs, traces=traces).run()
