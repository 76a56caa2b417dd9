"""What the app asks above the panes: running a statement with its questions, the form, finding, help, a signal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..kernel.errors import VmvizError
from ..script.errors import ScriptError
from .command import CommandLine
from .director import Director
from .keymap import KEYS
from .layout import PANES
from .linegrid import LineGrid
from .saying import Saying

if TYPE_CHECKING:
    from ..script.outcome import Outcome
    from ..views.zapform import FormState


class Asking(Saying):
    """The part of the app that opens screens; `VmvizApp` is the rest."""

    director: Director
    traces: tuple[Path, ...] = ()
    _shown_signal: object = None

    def show(self) -> None:
        """Show the scene as it is now."""
        raise NotImplementedError

    def _ended(self) -> None:
        """The position stands at a border: a process that died there has a screen of its own."""
        current = self.director.session.current
        if current is None or self.director.session.inside is not None:
            return
        if self._shown_signal is not current:
            self._shown_signal = None
        if current.outcome.signal is not None and self._shown_signal is not current:
            self._shown_signal = current
            self.action_signal()

    def _do(self, run: Any) -> Outcome | None:
        """Run something that may fail, and show what came of it."""
        try:
            outcome: Outcome | None = run()
        except VmvizError as error:
            self._say_error(error)
            return None
        self.show()
        if not self.director.player.playing:
            self._ended()
        return outcome

    def _say_error(self, error: VmvizError) -> None:
        text = str(error)
        if isinstance(error, ScriptError):
            near = f"; did you mean {error.nearest}?" if error.nearest else ""
            text = f"column {error.column}: {error.message}{near}"
        self._say(text, "fail")

    def run_statement(self, text: str, then: Callable[[], None] | None = None) -> None:
        """Run a statement of the user's, and call ``then`` when it was one.

        Asks first when the position stands inside another one, and when statements of the user's would be dropped.
        """
        session = self.director.session

        def run(answer: str | None = "run") -> None:
            if answer is None:
                return
            again = sum(done.story is not None for done in session.future)
            outcome = self._do(lambda: self.director.run(text))
            if outcome is None:
                return
            if again:
                self._say(f"{again} later statement{'s' if again > 1 else ''} of the story to come again")
            self.screen_stack[0].query_one(CommandLine).remember(text)
            if then is not None:
                then()
            if outcome.output:
                from ..views.help import output_lines
                from .screens.text import TextScreen

                self.push_screen(TextScreen(outcome.text, output_lines(outcome.output)))

        def begin() -> None:
            try:
                lost = self.director.lost_by(text)
            except VmvizError as error:
                self._say_error(error)
                return
            if lost:
                from .screens.ask import ask_lost

                self.push_screen(ask_lost(lost, len(session.future) - len(lost)), run)
            else:
                run()

        self._at_border(begin)

    def action_zap(self) -> None:
        """Open the zap form."""
        self._at_border(self._open_form)

    def _open_form(self) -> None:
        from ..views import zapform
        from .screens.zap import ZapForm

        scene = self.director.scene()

        def preview(state: FormState) -> None:
            self.director.preview = state.range
            self.show()

        def close(text: str | None) -> None:
            self.director.preview = None
            if text:
                self.run_statement(text)
            else:
                self.show()

        self.push_screen(ZapForm(self.director, zapform.initial(scene), preview), close)

    def _at_border(self, go: Callable[[], None]) -> None:
        """Call ``go`` where a statement can begin: from inside one, ask whether to finish it or to take it back."""
        inside = self.director.session.inside
        if inside is None:
            go()
            return
        from .screens.ask import ask_inside

        self.director.player.pause()
        self.show()

        def after(answer: str | None) -> None:
            if answer == "finish":
                self.director.finish()
            elif answer == "back":
                self.director.move("statement", -1)
            else:
                return
            self.show()
            go()

        self.push_screen(ask_inside(inside.outcome.text), after)

    def action_touch(self, func: str) -> None:
        """Read or write the page under the cursor."""
        address = self.director.cursor

        def touch() -> None:
            # What was finished or taken back before may have moved the cursor: the page meant is the one
            # chosen.
            self.director.cursor = address
            try:
                text = self.director.touch_text(func)
            except VmvizError as error:
                self._say_error(error)
                return
            self.run_statement(text)

        self._at_border(touch)

    def action_find(self) -> None:
        """Go to an address, a VMA or a frame."""
        from .screens.find import FindScreen, find

        def go(text: str | None) -> None:
            if not text:
                return
            try:
                kind, value = find(self.director, text)
            except VmvizError as error:
                self._say_error(error)
                return
            if kind == "pfn":
                self.director.pfn = value
            else:
                self.director.choose(value, False)
            self.show()

        self.push_screen(FindScreen(), go)

    def action_conform(self) -> None:
        """Compare the simulator with recordings of a real kernel."""
        from ..conform.command import find_traces
        from .screens.conform import ConformScreen
        from .screens.find import FindScreen

        if self.traces:
            self.push_screen(ConformScreen(self.traces))
            return

        def go(text: str | None) -> None:
            if not text:
                return
            try:
                traces = find_traces(text.split())
            except VmvizError as error:
                self._say_error(error)
                return
            self.push_screen(ConformScreen(traces))

        self.push_screen(FindScreen("Recordings to compare with", "FILE.jsonl or a directory of them"), go)

    def action_help(self) -> None:
        """Explain the focused pane and what is under the cursor."""
        from ..views.help import call_help, key_help, pane_help
        from .screens.text import BOX_MOST, TextScreen

        focused = self.focused
        pane = focused.id if isinstance(focused, LineGrid) and focused.id in PANES else "tree"
        scene = self.director.scene()
        width = max(76, min(BOX_MOST, self.size.width) - 4)
        title, lines = pane_help(scene, pane or "tree", width)
        lines += [[], [(" Keys", "label")], *key_help([(k.shown, k.about) for k in KEYS if k.keys])]
        lines += [[], [(" Calls of the command line", "label")], *call_help(width)]
        self.push_screen(TextScreen(title, lines))

    def action_signal(self) -> None:
        """The screen of a process that died by a signal."""
        current = self.director.session.current
        if current is None or current.outcome.signal is None:
            return
        from ..views.help import signal_screen
        from .screens.text import TextScreen

        machine = self.director.session.machine
        title, lines = signal_screen(self.director.scene(), current.outcome, machine.task.comm)

        def after(answer: str | None) -> None:
            if answer == "back":
                self._shown_signal = None
                self.director.move("statement", -1)
                self.show()

        self.push_screen(
            TextScreen(title, lines, {"u": "back", "c": "on", "enter": "on", "escape": "on"}), after
        )
