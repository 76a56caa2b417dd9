"""``vmviz conform PATH...``: replay recordings of a real kernel and tell where the simulator differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..kernel.errors import VmvizError
from ..script.report import printable
from .difference import Difference
from .recording import TraceError
from .trace import TraceResult, replay_trace

AGREE, DIFFER, UNREADABLE = 0, 1, 2
"""What `conform` returns: all traces agree, one does not, or one is no recording."""

_MAX_VALUE = 400
"""Longer values are cut in the lines for people; --json has them whole."""


def find_traces(paths: Iterable[str]) -> list[Path]:
    """The recordings that the paths name: files, or all .jsonl in a directory and below, in order of name.

    Raises `TraceError` for a path that does not exist and for a directory without recordings.
    """
    out: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            found = sorted(path.rglob("*.jsonl"))
            if not found:
                raise TraceError(f"{name}: there is no .jsonl in this directory")
            out += found
        elif path.suffix == ".scn":
            out.append(path.with_suffix(".jsonl"))
        else:
            out.append(path)
    return out


def conform(
    paths: Sequence[str],
    echo: Callable[[str], None],
    warn: Callable[[str], None],
    *,
    as_json: bool = False,
) -> int:
    """Replay every recording and print a line for each as it is done, then the totals; returns `AGREE`, `DIFFER` or
    `UNREADABLE`.

    What is no recording or cannot be read is told by ``warn``, and the rest is replayed all the same.  With
    ``as_json`` one object is printed at the end instead of lines.  Raises what `find_traces` raises.
    """
    files = find_traces(paths)
    width = max((len(path.stem) for path in files), default=0)
    results: list[tuple[Path, TraceResult]] = []
    unreadable: list[tuple[Path, str]] = []
    for path in files:
        try:
            result = replay_trace(path)
        except (VmvizError, OSError) as error:
            why = f"{error.filename or path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            unreadable.append((path, why))
            warn(f"vmviz: {why}")
            continue
        results.append((path, result))
        if not as_json:
            echo(printable(_line(result, width)))
    totals = _totals([result for _, result in results], len(unreadable))
    if as_json:
        traces = [_as_json(path, result) for path, result in results]
        left = [{"path": str(path), "why": why} for path, why in unreadable]
        told = {"traces": traces, "unreadable": left, "totals": totals}
        echo(json.dumps(told, ensure_ascii=True, default=str))
    else:
        echo(
            f"{totals['traces_agreeing']} of {totals['traces']} traces agree, "
            f"{totals['agreeing']} of {totals['total']} operations"
            + (f"; not replayed: {len(unreadable)}" if unreadable else "")
        )
    if unreadable:
        return UNREADABLE
    return AGREE if totals["traces_agreeing"] == totals["traces"] else DIFFER


def _totals(results: list[TraceResult], unreadable: int) -> dict[str, int]:
    return {
        "traces": len(results),
        "traces_agreeing": sum(r.agrees for r in results),
        "agreeing": sum(r.agreed for r in results),
        "total": sum(r.recorded for r in results),
        "unreadable": unreadable,
    }


def _line(result: TraceResult, width: int) -> str:
    text = f"{result.name:<{width}} {f'{result.agreed}/{result.recorded}':>7}"
    if result.first is not None:
        one = result.first
        text += f"  {one.operation}: {one.field}: kernel {_value(one.kernel)}, ours {_value(one.ours)}"
    elif result.refusal:
        text += f"  refused as the caller's bug, as it killed the kernel: {result.refusal}"
    return text


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, default=str)
    text = text or '""'
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."


def _as_json(path: Path, result: TraceResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "path": str(path),
        "agrees": result.agrees,
        "agreeing": result.agreed,
        "total": result.recorded,
        "first": None if result.first is None else _difference(result.first),
        "differences": [_difference(one) for one in result.differences],
        "refusal": result.refusal or None,
    }


def _difference(one: Difference) -> dict[str, Any]:
    return {"operation": one.operation, "field": one.field, "kernel": one.kernel, "ours": one.ours}


__all__ = ["AGREE", "DIFFER", "UNREADABLE", "conform", "find_traces"]
