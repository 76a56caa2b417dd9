"""Sessions ready to be shown: the built-in story, a script, an imported process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data import data_directory
from ..kernel.machine import Config, Machine
from ..script.runner import Runner
from .session import STORY_MARK, Session

if TYPE_CHECKING:
    from ..live.image import ProcessImage

STORY = "framebuffer.vmv"


def story_session() -> Session:
    """The built-in story: set-up done, its statements to come.

    >>> s = story_session(); len(s.done), len(s.pending), s.machine.task.comm
    (8, 6, 'camera')
    """
    path = data_directory("examples") / STORY
    return script_session(path.read_text(encoding="utf-8"), STORY)


def script_session(text: str, name: str, config: Config | None = None) -> Session:
    """A script as a story: what stands before the comment line ``# story`` is run, the rest is to come.

    Raises `ScriptError`.
    """
    session = Session(title=name)
    session.runner = Runner(config=config)
    script = session.load(text, name)
    session.run_until_comment(script, STORY_MARK)
    return session


def live_session(machine: Machine, image: ProcessImage) -> Session:
    """A session on an imported process, with what the import has to say."""
    session = Session(machine, title=f"{image.name} (pid {image.pid})")
    session.remarks = [*([image.missing_right] if image.missing_right else []), *image.warnings]
    return session
