"""The player: turns passed time into a step number, by duration and eased, whatever the number of steps.

It knows no clock: whoever has one tells it how much time has passed.
"""

from __future__ import annotations

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
    """Plays the steps of one statement; ``speed`` multiplies the pace, ``playing`` is false while it pauses."""

    def __init__(self) -> None:
        self.steps: StepIndex | None = None
        self.playing = False
        self._speed = SPEEDS.index(1.0)
        self._time = 0.0

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
        self._time = self._time_of(done)

    def pause(self) -> None:
        """Stop where it is."""
        self.playing = False

    def advance(self, seconds: float) -> int:
        """``seconds`` have passed: the step number to show.  At the last one the player stops."""
        if self.steps is None or not self.playing:
            return 0
        self._time += seconds * self.speed
        total = self.steps.total
        t = 1.0 if self._time >= self.duration else self._time / self.duration
        k = total if t >= 1 else int(ease(t) * total)
        if k >= total:
            self.playing = False
        return k

    def _time_of(self, done: int) -> float:
        total = self.steps.total if self.steps else 0
        if not total or not done:
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if ease(middle) * total < done else (low, middle)
        return low * self.duration
