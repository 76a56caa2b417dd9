"""What the app shows: the widgets of the main screen, and the scene in them after each thing that was done."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer

from ..script.values import format_size
from ..views.cells import Line
from ..views.status import status_line
from ..views.strip import plural
from ..views.why import why
from .asking import Asking
from .command import CommandLine
from .layout import PANES, WIDE_COLUMNS, Ground, SceneContainer, arrange
from .panes.frames import FramePane
from .panes.log import LogPane
from .panes.ruler import Ruler
from .panes.tree import TreePane
from .panes.vmas import VmaPane
from .screens.base import Overlay
from .strips import KeyBar, LineStrip, WhyPane

FRAME = 1 / 30


class Showing(Asking):
    """The part of the app that has the main screen; `VmvizApp` is the keys and what they do."""

    def __init__(self, frame: float = FRAME, **how: Any) -> None:
        """``frame``: seconds from one frame of a play to the next."""
        super().__init__(**how)
        self._frame = frame
        self._timer: Timer | None = None
        self._told: tuple[object, ...] = ()

    def _heard(self, said: Message) -> None:
        """The user went somewhere in a pane."""
        raise NotImplementedError

    def _words(self) -> list[str]:
        """What the command line completes."""
        raise NotImplementedError

    def get_default_screen(self) -> Screen[Any]:
        """The screen under all others."""
        return Ground(id="_default")

    def compose(self) -> ComposeResult:
        """The widgets; `SceneLayout` says where they stand."""
        self._panes = VmaPane(id="vmas"), TreePane(id="tree"), FramePane(id="frames")
        self._ruler = Ruler(id="ruler")
        with SceneContainer(self._layout, id="scene"):
            yield LineStrip(id="status")
            for pane in self._panes:
                pane.listener = self._heard
                yield pane
            yield self._ruler
            yield WhyPane(id="why")
            yield LogPane(id="log")
            yield CommandLine(self._words, id="command")
            yield KeyBar(id="keys")

    @property
    def wide(self) -> bool:
        """Whether there are three columns of panes."""
        return self.size.width >= WIDE_COLUMNS and self.size.height >= 30

    def show(self) -> None:
        """Show the scene as it is now."""
        if not self.is_running or not self.screen_stack:
            return
        base = self.screen_stack[0]
        director, session = self.director, self.director.session
        scene = director.scene()
        wide = self.wide
        layout = "wide" if wide else "narrow"
        vmas, tree, frames = self._panes
        for pane, ruled in ((vmas, True), (frames, not wide), (tree, wide)):
            if pane.right_rule != ruled:
                pane.right_rule = ruled
                pane.touch_all()
            pane.show(scene, layout)
        self._ruler.show(scene, layout)
        # A move of the cursor alone changes nothing that is told of the session.
        told = (
            (
                session,
                session.position,
                session.index,
                len(session.done),
                len(session.pending),
                session.setup,
            ),
            (id(session.current), scene.range, scene.readable, director.player.playing, self._moment_now()),
            (self.size, self._layout.extra, self._layout.command, self._layout.notice, self.focused is None),
        )
        if told == self._told:
            return
        self._told = told
        base.query_one("#status", LineStrip).show_lines(lambda w, _h: [status_line(session, w)])
        strip = base.query_one(WhyPane)
        playing = director.player.playing
        strip.show(lambda w, h: why(session, scene, w, h, playing=playing), right_rule=wide)
        if "why" not in arrange(*self.size):
            # Nobody sees it, but its title goes to the key bar, and Enter must not run what an older one offered.
            strip.strip = why(session, scene, max(20, self.size.width), 3, playing=playing)
        extra = not self.wide and strip.strip is not None and strip.strip.footer is not None
        if extra != self._layout.extra:
            self._layout.extra = extra
            self._place_again()
        if self.wide:
            base.query_one(LogPane).show_log(session)
        self._show_keys(base)
        self._only_visible_take_keys()
        self._keep_time()

    def _show_keys(self, base: Screen[Any]) -> None:
        """The key bar of the moment; where there is no why strip, its title goes before the keys."""
        director, moment = self.director, self._moment_now()
        strip = base.query_one(WhyPane).strip
        told = director.session.current is not None and not director.session.at_story_start
        lead: Line = []
        if moment == "selecting" and director.selection is not None:
            chosen = director.selection.range
            size = chosen.end - chosen.start
            lead = [(f"selecting {format_size(size)}, {plural(size >> 12, 'page')}:", "warn")]
        elif moment in ("idle", "refused") and told and strip and "why" not in arrange(*self.size):
            lead = [(strip.title, "fail" if strip.alert else "result")]
        base.query_one(KeyBar).show_keys(moment, lead)

    def _moment_now(self) -> str:
        if any(isinstance(screen, Overlay) for screen in self.screen_stack):
            return "overlay"
        if self.director.player.playing:
            return "playing"
        if self.director.session.inside is not None:
            return "inside"
        if self.director.selecting:
            return "selecting"
        current = self.director.session.current
        return "refused" if current is not None and current.outcome.refusal is not None else "idle"

    def _focus_a_pane(self) -> None:
        shown = arrange(self.size.width, self.size.height)
        self.query_one(VmaPane if "vmas" in shown else TreePane).focus()

    def _only_visible_take_keys(self) -> None:
        """What has no place on the screen must not have the keys."""
        shown = arrange(self.size.width, self.size.height)
        base = self.screen_stack[0]
        for name in (*PANES, "command"):
            base.query_one(f"#{name}").can_focus = name in shown or (
                name == "command" and self._layout.command
            )
        focused = base.focused
        if (focused is None or not focused.can_focus) and len(self.screen_stack) == 1:
            self._focus_a_pane()

    def _keep_time(self) -> None:
        playing = self.director.player.playing
        if playing and self._timer is None:
            self._timer = self.set_interval(self._frame, self._tick)
        elif not playing and self._timer is not None:
            self._timer.stop()
            self._timer = None
            self._ended()

    def _tick(self) -> None:
        self.director.tick(self._frame)
        self.show()
