"""Measuring one thing beside another: interleaved repetitions, the median of their ratios, its spread.

A workload is prepared once; each repetition runs ours and then the yardstick, so that a noisy moment hits both.
What is not the thing itself (putting the state back, making a mapping) happens outside the timed part.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from statistics import median

import attrs

from ..kernel.errors import VmvizError

REPETITIONS = 9
Sample = Callable[[], float]
"""Runs once and returns seconds."""


def share(size: int, scale: int, unit: int = 1) -> int:
    """A size of a workload divided by ``scale``, in whole units, at least one.

    >>> share(1 << 30, 3, 2 << 20) >> 20, share(60_000, 10**9, 64)
    (340, 64)
    """
    return max(unit, size // scale // unit * unit)


class MissingError(VmvizError):
    """A yardstick that this machine does not have; the text says which and why."""


@attrs.define
class Bench:
    """A prepared workload: ours, the yardstick (None: missing, ``why`` tells), and what to do at the end.

    ``apart``: all repetitions of ours come first, as when the yardstick would disturb them.
    """

    ours: Sample
    yard: Sample | None = None
    why: str = ""
    note: str = ""
    apart: bool = False
    close: Callable[[], None] = lambda: None
    curve: Callable[[], Sequence[tuple[int, float]]] | None = None
    """Seconds at each size, where the workload is about growth."""


@attrs.frozen
class Workload:
    """A row of the table: what is measured against what.

    ``at_least``: the ratio is yardstick / ours, to be at least ``goal`` ("times faster"); otherwise it is
    ours / yardstick, to be at most ``goal``.  ``exact``: it is ours / yardstick, to be 1 each time.  ``prepare``
    takes a divisor of the size, 1 for the real one.
    """

    name: str
    row: int
    about: str
    yardstick: str
    goal: float
    prepare: Callable[[int], Bench]
    at_least: bool = True
    exact: bool = False

    @property
    def goal_text(self) -> str:
        """The goal in words."""
        if self.exact:
            return "exact"
        return f"at least {self.goal:g}x" if self.at_least else f"at most {self.goal:g}x"


@attrs.frozen
class Figure:
    """What came out: the median ratio with its lowest and highest, None where there is no yardstick."""

    name: str
    row: int
    ratio: float | None
    low: float | None
    high: float | None
    goal: str
    met: bool | None
    note: str
    seconds: float
    curve: tuple[tuple[int, float], ...] = ()

    def to_json(self) -> dict[str, object]:
        """The object of ``--json``."""
        return attrs.asdict(self)


def measure(workload: Workload, scale: int = 1, repetitions: int = REPETITIONS) -> Figure:
    """Run a workload and say how it compares.

    >>> times = iter([2.0, 4.0] * 4)
    >>> def prepare(scale: int) -> Bench: return Bench(lambda: next(times), lambda: next(times))
    >>> f = measure(Workload("w", 0, "", "", 1.5, prepare), repetitions=3); f.ratio, f.met
    (2.0, True)
    """
    bench = None
    try:
        bench = workload.prepare(scale)
        ours, yard = _samples(bench, repetitions)
        curve = tuple(bench.curve()) if bench.curve is not None else ()
    except MissingError as error:
        return _unjudged(workload, str(error))
    except (MemoryError, OSError) as error:  # too little memory, room on the disk, or processes
        why = getattr(error, "strerror", None) or "there is not enough memory for it"
        return _unjudged(workload, f"it cannot be run here: {why}")
    finally:
        if bench is not None:
            bench.close()
    assert bench is not None
    seconds = median(ours)
    if not yard:
        return _unjudged(workload, "; ".join(text for text in (bench.why, bench.note) if text), seconds)
    pairs = list(zip(ours, yard, strict=True))
    if bench.apart:  # not of one moment: every sample against the median of the others
        pairs = [(one, median(yard)) for one in ours]
    at_least = workload.at_least and not workload.exact
    ratios = sorted(y / o if at_least else o / y for o, y in pairs)
    ratio, low, high = median(ratios), ratios[0], ratios[-1]
    if workload.exact:
        met = low == high == 1
    else:
        met = ratio >= workload.goal if at_least else ratio <= workload.goal
    goal, note = workload.goal_text, bench.note
    return Figure(workload.name, workload.row, ratio, low, high, goal, met, note, seconds, curve)


def _unjudged(workload: Workload, note: str, seconds: float = 0.0) -> Figure:
    return Figure(workload.name, workload.row, None, None, None, workload.goal_text, None, note, seconds)


def _samples(bench: Bench, repetitions: int) -> tuple[list[float], list[float]]:
    """The times of ours and of the yardstick; none of it when the yardstick turns out to be missing."""
    ours: list[float] = []
    yard: list[float] = []
    bench.ours()  # the first run touches memory and fills caches; it counts for nobody
    beside = bench.yard is not None and not bench.apart and _works(bench)
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            ours.append(bench.ours())
            if beside and bench.yard is not None:
                yard.append(bench.yard())
        if bench.apart and bench.yard is not None and _works(bench):
            yard = [bench.yard() for _ in range(repetitions)]
    finally:
        gc.enable()
    return ours, yard


def _works(bench: Bench) -> bool:
    """Run the yardstick once, uncounted as well."""
    assert bench.yard is not None
    try:
        bench.yard()
    except MissingError as error:
        bench.why = str(error)
        return False
    return True
