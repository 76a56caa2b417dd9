"""The curves of the growth workloads: as text for the terminal, and as a file to look at (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log2

from .harness import Figure

Curve = Sequence[tuple[int, float]]
BARS = 40
"""Columns of a bar that is as long as the axis: eight times the smallest size's time."""
TOP = 8.0
_COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#8a7a00",
    "#555555",
    "#332288",
    "#882255",
)
_W, _H, _LEFT, _TOP_MARGIN = 860, 420, 70, 40


def relative(curve: Curve) -> list[tuple[int, float]]:
    """The times as multiples of the first one.

    >>> relative([(100, 2.0), (1000, 3.0)])
    [(100, 1.0), (1000, 1.5)]
    """
    first = curve[0][1] or 1.0
    return [(size, seconds / first) for size, seconds in curve]


def text_plot(figures: Sequence[Figure]) -> list[str]:
    """A bar for each size of each curve, as long as its time is beside that of the smallest size; ``|`` is the goal.

    >>> from vmviz.bench.harness import Figure
    >>> f = Figure("growth-x", 19, 1.0, 1.0, 1.0, "at most 2x", True, "VMAs", 1.0, ((100, 1e-6), (1000, 2e-6)))
    >>> print(*text_plot([f]), sep="\\n")
    growth-x (VMAs)
             100  #####     |     1x   1 us
           1,000  ##########|     2x   2 us
    """
    out: list[str] = []
    for figure in figures:
        if not figure.curve:
            continue
        out.append(f"{figure.name} ({figure.note.split()[0]})")
        longest = max(2.0, *(times for _, times in relative(figure.curve)))
        room = min(BARS, round(longest * 5)) + 1
        goal = min(room - 1, 10)
        for (size, seconds), (_, times) in zip(figure.curve, relative(figure.curve), strict=True):
            bar = ("#" * max(1, min(room, round(times * 5)))).ljust(room)
            bar = f"{bar[:goal]}{'|' if bar[goal] == ' ' else '+'}{bar[goal + 1 :]}"
            out.append(f"{size:>12,}  {bar} {times:>5.3g}x   {_time(seconds)}")
    return out


def _time(seconds: float) -> str:
    """A time with its unit.

    >>> _time(0.0123), _time(4.5e-6), _time(7e-9)
    ('12.3 ms', '4.5 us', '7 ns')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def svg_plot(figures: Sequence[Figure]) -> str:
    """The curves in one picture: size across, multiples of the smallest size's time up, both logarithmic."""
    curves = [(figure, relative(figure.curve)) for figure in figures if figure.curve]
    sizes = [size for _, points in curves for size, _ in points] or [1, 2]
    times = [value for _, points in curves for _, value in points] or [1.0]
    low, high = log2(min(sizes)), log2(max(sizes))
    bottom, top = min(-1.0, log2(min(times))), max(2.0, log2(max(times)))
    width, height = _W - _LEFT - 210, _H - _TOP_MARGIN - 60

    def x(size: float) -> float:
        return _LEFT + width * (log2(size) - low) / ((high - low) or 1)

    def y(value: float) -> float:
        return _TOP_MARGIN + height * (top - log2(value)) / (top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_W}" height="{_H}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">Time as a multiple of that at the smallest size</text>',
    ]
    for power in range(int(bottom), int(top) + 1):
        at = y(2.0**power)
        goal = power == 1
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{at:.1f}" y2="{at:.1f}" '
            f'stroke="{"#c00" if goal else "#ccc"}"{" stroke-dasharray=" + chr(34) + "6 4" + chr(34) if goal else ""}/>'
        )
        words = f"{2.0**power:g}x{' (goal)' if goal else ''}"
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{words}</text>')
    for size in sorted(set(sizes)):
        at = x(size)
        bottom_line = _TOP_MARGIN + height
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom_line}" y2="{bottom_line + 5}" stroke="#666"/>'
            f'<text transform="translate({at:.1f} {bottom_line + 16}) rotate(30)" font-size="11">{size:,}</text>'
        )
    for k, (figure, points) in enumerate(curves):
        colour = _COLOURS[k % len(_COLOURS)]
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
            for size, value in points
        ]
        line = _TOP_MARGIN + 10 + 20 * k
        name = escape(f"{figure.name.removeprefix('growth-')}, by {figure.note.split()[0]}")
        parts.append(f'<rect x="{_W - 190}" y="{line - 9}" width="14" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_W - 170}" y="{line}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])
