"""What ``vmviz conform --live`` prints and returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from ..script.report import printable
from .command import AGREE, DIFFER
from .live import Finding, explore, replay
from .live_host import Host, read_host
from .live_ops import script
from .live_shrink import shrink

MAX_DIFFERENCES = 3
"""After so many differences the comparison ends: the rest may follow from them."""

_MAX_VALUE = 300


def conform_live(
    ops: int, seed: int, echo: Callable[[str], None], *, as_json: bool = False, host: Host | None = None
) -> int:
    """Compare ``ops`` random operations on the running kernel; print what differs, each as a small script.

    Returns `AGREE` or `DIFFER`.  Raises `LiveError` where no comparison can be made.
    """
    host = host or read_host()
    if not as_json:
        for line in _header(host, ops, seed):
            echo(line)
    small: list[Finding] = []
    done = [0]
    for finding in explore(host, ops, seed, lambda n: done.__setitem__(0, n)):
        one = shrink(finding, partial(replay, host))
        small.append(one)
        if not as_json:
            how = "that did not show again, so not made small" if one.once else "made small"
            echo(f"a difference within {done[0]} operations, {how}:")
            for line in script_of(host, one):
                echo(printable(f"    {line}"))
        if len(small) == MAX_DIFFERENCES:
            break
    if as_json:
        echo(json.dumps(_as_json(host, done[0], seed, small), ensure_ascii=True, default=str))
    elif small:
        echo(f"{len(small)} difference{'s' * (len(small) > 1)} in {done[0]} operations")
    else:
        echo(f"no difference in {done[0]} operations")
    return DIFFER if small else AGREE


def _header(host: Host, ops: int, seed: int) -> list[str]:
    like = f"kernel {host.release}, compared with {host.version}"
    if not host.exact:
        like += ", the nearest that is known"
    frames = "frames are compared" if host.privileged else "frames are not compared (no CAP_SYS_ADMIN)"
    return [f"{like}; {ops} operations, seed {seed}; {frames}"]


def script_of(host: Host, finding: Finding) -> list[str]:
    """A finding as a script of the language, with the kernel's value and ours behind its last statement."""
    options = {} if host.swap else {"swap": 0}
    lines = script(finding.operations, host.version, options, host.setup())
    one = finding.difference
    return [*lines, f"# {one.field}: kernel {_value(one.kernel)}, vmviz {_value(one.ours)}"]


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."


def _as_json(host: Host, done: int, seed: int, small: list[Finding]) -> dict[str, Any]:
    return {
        "kernel": host.release,
        "version": host.version,
        "exact": host.exact,
        "frames_compared": host.privileged,
        "operations": done,
        "seed": seed,
        "agrees": not small,
        "differences": [
            {
                "script": script_of(host, one)[:-1],
                "field": one.difference.field,
                "kernel": one.difference.kernel,
                "ours": one.difference.ours,
                "once": one.once,
            }
            for one in small
        ],
    }


__all__ = ["conform_live", "script_of"]
