"""``vmviz bench``: run the workloads and tell the figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..kernel.errors import VmvizError
from ..script.values import nearest
from .growth import GROWTH
from .harness import REPETITIONS, Figure, Workload, measure
from .live import LIVE
from .memory import MEMORY
from .model import MODEL
from .plot import svg_plot, text_plot
from .screen import SCREEN
from .startup import STARTUP

WORKLOADS: tuple[Workload, ...] = tuple(
    sorted((*MEMORY, *MODEL, *LIVE, *SCREEN, *GROWTH, *STARTUP), key=lambda w: w.row)
)
"""All workloads, by row."""


def chosen(names: Sequence[str]) -> list[Workload]:
    """The workloads of these names or rows, all without any; raises `VmvizError` with the nearest name."""
    if not names:
        return list(WORKLOADS)
    out: list[Workload] = []
    for name in names:
        found = [w for w in WORKLOADS if name in (w.name, str(w.row)) or (w.row == 19 and name == "growth")]
        if not found:
            known = [w.name for w in WORKLOADS]
            near = nearest(name, known)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise VmvizError(f"there is no workload {name!r}; {hint}")
        out += [w for w in found if w not in out]
    return out


def bench(
    names: Sequence[str],
    echo: Callable[[str], None],
    *,
    as_json: bool = False,
    scale: int = 1,
    repetitions: int = REPETITIONS,
    svg: str = "",
) -> list[Figure]:
    """Run the workloads, tell each as it is done (with ``as_json`` all at the end), and return the figures.

    Those about growth are drawn below, and into the file ``svg``.  Raises `VmvizError`; for an ``svg`` that cannot be
    written before anything is measured.
    """
    workloads = chosen(names)
    if svg:
        _check_drawing(svg, workloads)
    figures = []
    for workload in workloads:
        figure = measure(workload, scale, repetitions)
        figures.append(figure)
        if not as_json:
            echo(line(workload, figure))
    if as_json:
        echo(json.dumps([figure.to_json() for figure in figures]))
    else:
        judged = [f for f in figures if f.met is not None]
        met, missing = sum(bool(f.met) for f in judged), len(figures) - len(judged)
        for words in text_plot(figures):
            echo(words)
        echo(f"{met} of {len(judged)} goals met, {missing} without a yardstick")
    if svg:
        _write(svg, svg_plot(figures))
    return figures


def _check_drawing(svg: str, workloads: Sequence[Workload]) -> None:
    """Raise `VmvizError` where there is nothing to draw, or no file to draw it into."""
    if not any(w.row == 19 for w in workloads):
        raise VmvizError("--svg draws the growth workloads, and none of them is to be run")
    _write(svg, "")


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise VmvizError(f"{path}: {error.strerror}") from error


def line(workload: Workload, figure: Figure) -> str:
    """A figure as a line."""
    head = f"{workload.row:2} {workload.name:16}"
    if figure.ratio is None:
        ours = f"; ours {figure.seconds * 1e3:.3g} ms" if figure.seconds else ""
        return f"{head} no yardstick: {figure.note or workload.yardstick}{ours}"
    word = "met" if figure.met else "NOT MET"
    spread = f"[{figure.low:.3g}..{figure.high:.3g}]"
    return f"{head} {figure.ratio:8.3g}x {spread:18} {figure.goal:15} {word:8} {workload.about} / {workload.yardstick}"


def listing() -> list[str]:
    """What there is to run: a line for each workload."""
    return [f"{w.row:2} {w.name:16} {w.goal_text:15} {w.about} / {w.yardstick}" for w in WORKLOADS]
