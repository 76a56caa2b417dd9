"""Sessions ready to be shown: the built-in story, a script, an imported process."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..data import data_directory
from .session import STORY_MARK, Done, Session

if TYPE_CHECKING:
    from ..kernel.machine import Config, Machine
    from ..live.image import ProcessImage
    from ..script.strace import Replay

STORY = "framebuffer.vmv"


def story_session() -> Session:
    """The built-in story: set-up done, its statements to come.

    >>> s = story_session(); len(s.done), len(s.pending), s.machine.task.comm
    (8, 6, 'camera')
    """
    path = data_directory("examples") / STORY
    return script_session(path.read_text(encoding="utf-8"), STORY)


def script_session(
    text: str, name: str, config: Config | None = None, pinned: Collection[str] = ()
) -> Session:
    """A script as a story: what stands before the comment line ``# story`` is run, the rest is to come.

    ``pinned`` as in `Runner`.  Raises `ScriptError`.
    """
    from ..script.runner import Runner  # an imported process is looked at without the language

    session = Session(title=name)
    session.runner = Runner(config=config, pinned=pinned)
    script = session.load(text, name)
    session.run_until_comment(script, STORY_MARK)
    return session


def strace_session(replay: Replay, name: str) -> Session:
    """A replayed strace log as a story: all of it is done, and the position stands before its first call.

    What the log left out and what could not be done is in the remarks.  Raises `ScriptError`.
    """
    session = Session(title=name)
    session.runner = replay.runner
    for outcome, statement in replay.run():
        session.done.append(Done(statement, outcome, {}, {}))
    session.index = len(session.done)
    session.runner.count = len(session.done)
    session.remarks = [*replay.tally.lines(), *replay.tally.notes]
    if session.done:
        session.seek(session.done[0].start, 0)
    return session


def live_session(machine: Machine, image: ProcessImage) -> Session:
    """A session on an imported process, with what the import has to say."""
    session = Session(machine, title=f"{image.name} (pid {image.pid})")
    right = missing_right_sentence(image)
    session.remarks = [*([right] if right else []), *image.warnings]
    return session


def missing_right_sentence(image: ProcessImage) -> str:
    """What cannot be seen of a process, and which right would show it; "" when nothing is hidden.

    >>> from vmviz.live import PageColumns, ProcessImage, VmaTable
    >>> nothing = ProcessImage(1, "x", 4096, VmaTable.of([]), PageColumns(), pfns_visible=False)
    >>> import attrs; missing_right_sentence(attrs.evolve(nothing, missing_right="CAP_SYS_ADMIN (for root)"))
    'Frame numbers are hidden: the right CAP_SYS_ADMIN (for root) is missing'
    """
    right = image.missing_right
    if not right:
        return ""
    if image.pfns_visible:
        return f"Flags or counts of frames are not known: this right is missing: {right}"
    if right.startswith("CAP_"):
        return f"Frame numbers are hidden: the right {right} is missing"
    return f"Pages are hidden: this right is missing: {right}"
