"""What the commands do with strace logs; imported only when one is there, as it brings the simulator."""

from __future__ import annotations

import attrs

from .console import EXIT_EXPECTATION, EXIT_USAGE, die, warn
from .kernel.machine import Config
from .script.errors import ScriptError
from .script.report import Report
from .script.strace import Replay
from .script.strace_exec import Area, ThisHost, parse_layout


def run_strace(
    text: str,
    name: str,
    config: Config,
    kernel: str | None,
    report: Report,
    *,
    state: bool,
    layout: str | None,
    pid: int | None,
) -> int:
    """Replay an strace log as on the given kernel, else as on this machine's; returns the exit status."""
    try:
        replay = strace_replay(text, name, config, kernel, layout, pid)
        for outcome, statement in replay.run():
            report.add(replay.machine, outcome, statement)
    except ScriptError as error:
        warn(str(error))
        return EXIT_USAGE
    report.tally(replay.tally)
    if state:
        report.state(replay.machine)
    failed = report.finish()
    for line in failed:
        warn(line)
    return EXIT_EXPECTATION if failed else 0


def strace_replay(
    text: str,
    name: str,
    config: Config,
    kernel: str | None,
    layout: str | None = None,
    pid: int | None = None,
) -> Replay:
    """An strace log ready to run as on the given kernel, else as on this machine's; raises `ScriptError`."""
    areas: tuple[Area, ...] = ()
    if layout is not None:
        try:
            with open(layout, encoding="utf-8", errors="surrogateescape") as file:
                areas = parse_layout(file.read())
        except OSError as error:
            die(f"{layout}: {error.strerror}")
        except ValueError as error:
            die(f"{layout}: {error}")
    host = ThisHost()
    config = attrs.evolve(config, kernel=kernel or host.kernel)
    return Replay(text, name, config, host=host, layout=areas, keep=pid)
