"""The player: turns passed time into a step number, by duration and eased, whatever the number of steps.

It knows no clock: whoever has one tells it how much time has passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .steps import StepIndex

DURATION = 3.0
SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def ease(t: float) -> float:
    """Slow at both ends: 0 at 0, 1 at 1.

    >>> [round(ease(t), 3) for t in (0, 0.25, 0.5, 1)]
    [0, 0.156, 0.5, 1]
    """
    return t * t * (3 - 2 * t)


class Player:
    """Plays the steps of one statement; ``speed`` multiplies the pace, ``playing`` is false in a pause."""

    def __init__(self) -> None:
        self.steps: StepIndex | None = None
        self.playing = False
        self._speed = SPEEDS.index(1.0)
        self._time = 0.0
        self._shown = 0

    @property
    def speed(self) -> float:
        """The pace: 1.0 plays a statement in about three seconds."""
        return SPEEDS[self._speed]

    def faster(self) -> float:
        """One notch faster; returns the pace."""
        self._speed = min(self._speed + 1, len(SPEEDS) - 1)
        return self.speed

    def slower(self) -> float:
        """One notch slower; returns the pace."""
        self._speed = max(self._speed - 1, 0)
        return self.speed

    @property
    def duration(self) -> float:
        """Seconds for the statement at pace 1: about 3, less when it has few steps."""
        return min(DURATION, 0.15 * (self.steps.total if self.steps else 0))

    def start(self, steps: StepIndex, done: int = 0) -> None:
        """Play from step ``done`` on."""
        self.steps = steps
        self.playing = True
        self._shown = min(max(done, 0), steps.total)
        self._time = self._time_of(self._shown)

    def pause(self) -> None:
        """Stop where it is."""
        self.playing = False

    def advance(self, seconds: float) -> int:
        """``seconds`` have passed: the step number to show, never less than before.

        At the last step the player stops; while it pauses no time passes for it.
        """
        if self.steps is None or not self.playing:
            return self._shown
        self._time += seconds * self.speed
        total = self.steps.total
        k = total if self._time >= self.duration else int(ease(self._time / self.duration) * total)
        self._shown = max(self._shown, k)
        if self._shown >= total:
            self.playing = False
        return self._shown

    def _time_of(self, done: int) -> float:
        """When step ``done`` is due, by bisection."""
        total = self.steps.total if self.steps else 0
        if not total or not done:
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if ease(middle) * total < done else (low, middle)
        return low * self.duration
