"""A session: a machine, the statements that were run on it, and a position in time that can be moved."""

from .player import Player
from .session import Done, Pending, Session
from .steps import StepIndex

__all__ = ["Done", "Pending", "Player", "Session", "StepIndex"]
