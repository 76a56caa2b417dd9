"""A session: a machine, the statements that were run on it, and a position in time that can be moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import door

if TYPE_CHECKING:
    from .player import Player, ease
    from .session import Done, InsideStatement, Pending, Session
    from .steps import StepIndex
    from .story import live_session, script_session, story_session

__all__ = [
    "Done",
    "InsideStatement",
    "Pending",
    "Player",
    "Session",
    "StepIndex",
    "ease",
    "live_session",
    "script_session",
    "story_session",
]

__getattr__ = door(
    __name__,
    {
        "player": "Player ease",
        "session": "Done InsideStatement Pending Session",
        "steps": "StepIndex",
        "story": "live_session script_session story_session",
    },
)
