"""A session: a machine, the statements that were run on it, and a position in time that can be moved."""

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
