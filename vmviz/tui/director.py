"""The director: the session, what is selected, and what plays; it makes the scene that the panes show.

No Textual here: the app turns keys into these calls and shows the scene after each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..kernel.errors import VmvizError
from ..kernel.trace.bulk import Bulk
from ..kernel.trace.journal import Enter
from ..kernel.value import Value
from ..session.player import Player
from ..session.session import Done, Session
from ..views.scene import Range, Scene
from ..views.trail import Trail
from ..views.vma_index import VmaIndex

if TYPE_CHECKING:
    from ..script.outcome import Outcome

PAGE = 4096
ZAPS = ("zap_vma_ptes", "zap_special_vma_range")


@attrs.define(eq=False, repr=False)
class Selection(Value):
    """The user's selection: the row where it began (its VMA is the one meant) and the row of its far end."""

    anchor: int
    anchor_end: int
    far: int
    far_end: int

    @property
    def range(self) -> Range:
        """The selection as a range of whole pages."""
        low = min(self.anchor, self.far) & -PAGE
        return Range(low, max(self.anchor_end, self.far_end), self.anchor)


class Director:
    """State of the screen beyond the session; `scene` is what the panes show."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.player = Player()
        self.cursor = 0
        self.row_end = 0  # where the row under the cursor ends, 0: with the page
        self.pfn = -1
        self.selection: Selection | None = None
        self.selecting = False
        self.readable = False
        self.instant = False
        self.preview: Range | None = None
        self._trail: tuple[object, Trail] | None = None
        self._start_cursor()

    def _start_cursor(self) -> None:
        mm = self.session.machine.mm
        first = max(0, VmaIndex.of(mm).first_pfnmap)
        self.cursor = mm.vmas.at(first).start if len(mm.vmas) else 0

    # -- the scene

    def scene(self) -> Scene:
        """Everything that the panes show now."""
        session = self.session
        return Scene(
            session.machine,
            self.cursor,
            self.preview or self.range(),
            self._current_trail(),
            session.labels(),
            self.readable,
            self.pfn,
        )

    def range(self) -> Range | None:
        """The selection, else the range of the zap that the position stands in or behind."""
        if self.selection is not None:
            return self.selection.range
        current = self.session.current
        if current is None or self.session.at_story_start:
            return None
        return statement_range(self.session, current)

    def _current_trail(self) -> Trail:
        session = self.session
        at = session.position
        current = session.current
        start = at if current is None or session.at_story_start else current.start
        kept = self._trail
        if (
            kept is not None
            and kept[0] is (current or session.machine)
            and start == kept[1].start <= kept[1].end <= at
        ):
            kept[1].extend(session.machine, at)
            return kept[1]
        trail = Trail(session.machine, start, at)
        self._trail = (current or session.machine, trail)
        return trail

    # -- selecting

    def choose(self, address: int, extend: bool, end: int = 0, origin_end: int = 0) -> None:
        """The cursor goes to an address, on a row that ends at ``end``; a selection that is being made follows."""
        self.pfn = -1
        old, old_end = self.cursor, origin_end or self.row_end
        self.cursor, self.row_end = address, end
        if extend or self.selecting:
            if self.selection is None:
                self.selection = Selection(old, old_end or page_end(old), old, 0)
            self.selection.far = address
            self.selection.far_end = end or page_end(address)
        else:
            self.selection = None

    def toggle_selecting(self, end: int = 0) -> None:
        """Begin a selection with the row under the cursor, which ends at ``end``, or end its making and keep it."""
        self.selecting = not self.selecting
        if self.selecting:
            end = end or page_end(self.cursor)
            self.selection = Selection(self.cursor, end, self.cursor, end)

    def clear_selection(self) -> bool:
        """Drop the selection; returns whether there was one."""
        had = self.selection is not None
        self.selection, self.selecting = None, False
        return had

    def select_vma(self) -> None:
        """Select the whole VMA under the cursor."""
        vma = self.session.machine.mm.vma_at(self.cursor)
        if vma is not None:
            self.selection = Selection(vma.start, vma.end, vma.start, vma.end)
            self.selecting = False

    # -- running and moving in time

    def run(self, text: str) -> Outcome:
        """Run a statement of the user's, and begin to play it.  Raises `VmvizError`."""
        self.player.pause()
        outcome = self.session.run(text)
        self._begin(outcome)
        return outcome

    def lost_by(self, text: str) -> list[Done]:
        """The user's own statements that running ``text`` here would drop.  Raises `ScriptError` when it is none."""
        self.session.runner.parse(text, "<console>")
        mine = [done for done in self.session.future if done.story is None]
        # A refused call changed nothing: nobody misses it.
        return [] if all(done.outcome.refusal is not None for done in mine) else mine

    def run_next(self) -> Outcome | None:
        """Run the story's next statement, or do the next one again, and begin to play it."""
        self.player.pause()
        outcome = self.session.run_next()
        if outcome is not None:
            self._begin(outcome)
        return outcome

    def _begin(self, outcome: Outcome) -> None:
        self.clear_selection()
        current = self.session.current
        if current is None:
            return
        steps = self.session.steps(current)
        if not self.instant and steps.total > 3 and outcome.refusal is None:
            self.session.seek(current.start, self.session.index - 1)
            self.player.start(steps)
            self.tick(0.0)
        self.follow()

    def tick(self, seconds: float) -> None:
        """Time has passed while playing: move on."""
        playing = self.player.steps
        if playing is None or not self.player.playing:
            return
        # A play begins with its first step: at the border before it, keys would be about the statement
        # before.
        k = max(1, self.player.advance(seconds))
        done = next((d for d in self.session.done if d.start == playing.start and d.end == playing.end), None)
        if done is None:
            self.player.pause()
            return
        number = self.session.done.index(done)
        if k >= playing.total:
            self.session.seek(done.end, number + 1)
        else:
            self.session.seek(playing.position_at(k), number)
        self.follow()

    def play_or_pause(self) -> None:
        """Pause, or play on: the statement inside which the position stands, else the next that was taken back."""
        if self.player.playing:
            self.player.pause()
            return
        target = self.session.inside
        done = 0
        if target is None:
            target = next(iter(self.session.future), None)
            if target is None:
                self.run_next()
                return
            self.session.seek(target.start, self.session.index)
        else:
            done = self.session.steps(target).index_of(self.session.position)
        self.player.start(self.session.steps(target), done)
        self.tick(0.0)

    def finish(self) -> bool:
        """Play to the end of the statement at once; returns whether the position stood inside one."""
        self.player.pause()
        if self.session.inside is None:
            return False
        self.session.redo()
        self.follow()
        return True

    def move(self, what: str, count: int) -> bool:
        """Move in time by "step", "call", "function" or "statement"; returns whether there was anything to go over."""
        self.player.pause()
        self.clear_selection()
        before = self.session.position, self.session.index
        if count < 0 and self.session.index == self.session.setup and self.session.inside is None:
            return False  # the set-up is looked at from the log
        if what == "statement":
            self.session.undo() if count < 0 else self.session.redo()
        elif what == "step":
            self.session.step(count)
        else:
            self.session.step_call(count, functions=what == "function")
        self.follow()
        return (self.session.position, self.session.index) != before

    def go_to(self, number: int) -> None:
        """Move to the end of a statement that was run."""
        self.player.pause()
        done = self.session.done[number]
        self.session.seek(done.end, number + 1)
        self.follow()

    def follow(self) -> None:
        """Put the cursor where the change is."""
        session = self.session
        self.pfn, self.row_end = -1, 0
        rec, offset = session.position
        if offset:
            record = session.machine.journal.records[rec]
            if isinstance(record, Bulk):
                self.cursor = record.address_of(min(offset, record.n - 1))
            return
        current = session.current
        if current is None:
            return
        if session.at_story_start:
            self._start_cursor()
            return
        o = current.outcome
        if session.inside is None and o.signal is not None:
            self.cursor = o.signal.addr
            return
        r = statement_range(session, current)
        if r is None:
            if o.address and o.ret is not None and session.machine.mm.vma_at(o.ret):
                self.cursor = o.ret
            elif o.func in ("load", "store", "exec"):
                self.cursor = _touched(session, current, self.cursor)
            return
        vma = session.machine.mm.vma_at(r.anchor)
        if o.refusal is not None and vma is not None and r.start < vma.end < r.end:
            self.cursor = vma.end
        elif session.inside is None or not r.start <= self.cursor < max(r.end, r.start + 1):
            self.cursor = r.start

    def zap_text(self) -> str:
        """The zap of the selection (or of the page under the cursor) as a statement."""
        scene = self.scene()
        r = self.range() or Range(self.cursor & -PAGE, (self.cursor & -PAGE) + PAGE, self.cursor)
        special = self.session.machine.sys.zap_contract == "special"
        from ..views.refusal import zap_statement

        return zap_statement(scene, ZAPS[special], r.start, r.end - r.start, r.anchor)

    def touch_text(self, func: str = "load") -> str:
        """A touch of the page under the cursor as a statement.

        Raises `VmvizError` where there is nothing to name.
        """
        if self.cursor >= 1 << 64:
            raise VmvizError("there is no address under the cursor")
        scene = self.scene()
        label = scene.label(self.cursor).replace("+", " + ")
        return f"{func}({label or f'{self.cursor:#x}'})"


def page_end(address: int) -> int:
    """The end of the page that holds an address."""
    return (address & -PAGE) + PAGE


def statement_range(session: Session, done: Done) -> Range | None:
    """The range that a zap or munmap was about, from its own record; None for other statements."""
    records = session.machine.journal.records
    wanted = (*ZAPS, "munmap")
    if done.outcome.func not in wanted:
        return None
    for rec in range(done.start[0], done.end[0]):
        record = records[rec]
        if isinstance(record, Enter) and record.func in wanted:
            fields = dict(record.fields)
            start = fields.get("address", fields.get("addr", 0))
            size = fields.get("size", fields.get("length", 0))
            if size >= 1 << 48:
                return Range(start, start, fields.get("vma", start))
            return Range(start, start + size, fields.get("vma", start))
    return None


def _touched(session: Session, done: Done, default: int) -> int:
    for rec in range(done.start[0], done.end[0]):
        record = session.machine.journal.records[rec]
        if isinstance(record, Enter) and record.func == "exc_page_fault":
            return int(dict(record.fields)["address"])
    return default
