"""The command line.  Each command imports what it needs, so that ``vmviz --version`` is quick."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .console import (
    EXIT_EXPECTATION,
    EXIT_INTERRUPT,
    EXIT_OUTPUT,
    EXIT_USAGE,
    config_of,
    dials,
    die,
    echo,
    find_script,
    is_strace,
    machine_on,
    pinned,
    read_script,
    warn,
    warn_of,
)
from .startup import import_asyncio_without_tls, keep_freed_memory

if TYPE_CHECKING:
    pass


class _Group(click.Group):
    """The group of commands: without one, the app opens on the story."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C ends it quietly, with a status that no failed expectation has."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            die("interrupted", EXIT_INTERRUPT)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from .script.values import nearest

            near = nearest(args[0], self.commands)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            if not near and os.path.exists(args[0]):
                hint = f" Did you mean 'run {args[0]}' or 'open {args[0]}'?"
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx) from error


@click.group(
    cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="vmviz")
@click.option("--theme", default=None, help="Theme of the app; `vmviz themes` lists them.")
@click.option(
    "--ascii/--unicode",
    "ascii_",
    default=None,
    help="Glyph set of the app; chosen by the terminal if not given.",
)
@click.pass_context
def main(ctx: click.Context, theme: str | None, ascii_: bool | None) -> None:
    """See virtual memory: an address space, its page tables and frames, live.

    Without a command the app opens on the built-in story: `n` runs its next statement, `z` zaps a range of your own.
    """
    keep_freed_memory()
    ctx.obj = {"theme": theme, "ascii": ascii_}
    if ctx.invoked_subcommand in (None, "open"):
        gc.disable()  # until the first frame: what is loaded stays, and there is much of it
    elif ctx.invoked_subcommand != "run":
        gc.enable()
    if ctx.invoked_subcommand is None:
        from .session.story import story_session

        _app(ctx, story_session())


def _app(ctx: click.Context, session: Any, **more: Any) -> None:
    """Open the app; a terminal is needed."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        die("the app needs a terminal; `vmviz run FILE` runs a script without one")
    import_asyncio_without_tls()
    from .tui.app import run_app
    from .tui.themes import ThemeError

    try:
        run_app(session, theme=ctx.obj["theme"], ascii_glyphs=ctx.obj["ascii"], **more)
    except ThemeError as error:
        die(str(error))


@main.command()
@click.argument("script")
@click.option("--json", "json_", is_flag=True, help="One JSON object per statement.")
@click.option("--check", is_flag=True, help="Compare every `= value`; exit 1 when one differs.")
@click.option("--state", is_flag=True, help="Append the final state: VMAs, leaf entries, counters.")
@click.option("--base", default=None, metavar="PID|FILE", help="Run on a real process or a snapshot of one.")
@click.option("--trace", is_flag=True, help="Print the calls, checks and tracepoints of each statement.")
@click.option("--strace", is_flag=True, help="SCRIPT is an strace log (it is recognised without, too).")
@click.option(
    "--layout",
    default=None,
    metavar="MAPS",
    help="With an strace log: /proc/PID/maps, for what no call tells.",
)
@click.option("--pid", type=int, default=None, help="With an strace log: the process to look at in the end.")
@dials
def run(
    script: str,
    json_: bool,
    check: bool,
    state: bool,
    base: str | None,
    trace: bool,
    strace: bool,
    layout: str | None,
    pid: int | None,
    kernel: str | None,
    zap_contract: str | None,
) -> None:
    """Run SCRIPT (a file, a bundled example, or - for standard input) without the app; print what happened.

    An strace log (strace -f -e trace=memory,desc,process) is replayed: its mappings are placed where it says.

    Exit status: 0 all well, 1 an expectation failed (with --check), 2 the script or the command line is wrong.
    """
    from .script.errors import ScriptError
    from .script.report import Report
    from .script.runner import Runner

    gc.freeze()
    gc.enable()
    text, name = read_script(script)
    config = config_of(kernel, zap_contract)
    from .script.looks import looks_like_strace

    if strace or layout is not None or pid is not None or looks_like_strace(text):
        from .cli_strace import run_strace

        if base is not None:
            die("an strace log begins with a machine of its own; --base has no place there")
        report = Report(echo, name, as_json=json_, check=check, trace=trace)
        replayed = None if kernel is None else config.kernel
        raise SystemExit(
            run_strace(text, name, config, replayed, report, state=state, layout=layout, pid=pid)
        )
    runner = Runner(machine_on(base, config), config, pinned=pinned(kernel, zap_contract))
    report = Report(echo, name, as_json=json_, check=check, trace=trace)
    wrong: ScriptError | None = None
    try:
        parsed = runner.parse(text, name)
        for statement in parsed.statements:
            report.add(runner.machine, runner.run(statement, text, name), statement)
    except ScriptError as error:
        wrong = error
    if state and wrong is None:
        report.state(runner.machine)
    failed = report.finish()
    for line in failed:
        warn(line)
    if wrong is not None:
        warn(str(wrong))
        raise SystemExit(EXIT_USAGE)
    raise SystemExit(EXIT_EXPECTATION if failed else 0)


@main.command()
@click.argument("script")
@click.option(
    "--tables", "output", required=True, metavar="FILE", help="Where to write the final page tables."
)
@dials
def export(script: str, output: str, kernel: str | None, zap_contract: str | None) -> None:
    """Run SCRIPT and write its final page tables to FILE, for another MMU to walk.

    FILE is a raw, sparse image of physical memory, each table at its frame's address. What switches the tables
    on is printed: the paging mode, CR0, CR4, EFER, and CR3 of each process, that which runs first.
    """
    from .conform.export import write_tables
    from .script.errors import ScriptError
    from .script.runner import Runner

    text, name = read_script(script)
    runner = Runner(config=config_of(kernel, zap_contract))
    try:
        for statement in runner.parse(text, name).statements:
            runner.run(statement, text, name)
    except ScriptError as error:
        warn(str(error))
        raise SystemExit(EXIT_USAGE) from None
    try:
        image = write_tables(runner.machine, output)
    except OSError as error:
        die(f"{output}: {error.strerror}", EXIT_OUTPUT)
    for line in image.lines():
        echo(line)


@main.command("open")
@click.argument("target")
@dials
@click.pass_context
def open_(ctx: click.Context, target: str, kernel: str | None, zap_contract: str | None) -> None:
    """Open a real process (PID or self), a snapshot, a script or an strace log in the app.

    Strictly read-only for the process.
    """
    config = config_of(kernel, zap_contract)
    path = None if target.isdigit() or target == "self" else find_script(target)
    if path is not None and path.suffix not in (".vmv", ".json", ".vms") and is_strace(path):
        from .cli_strace import strace_replay
        from .script.errors import ScriptError
        from .session.story import strace_session

        text, name = read_script(target)
        try:
            replay = strace_replay(text, name, config, None if kernel is None else config.kernel)
            session = strace_session(replay, name)
        except ScriptError as error:
            warn(str(error))
            raise SystemExit(EXIT_USAGE) from None
        _app(ctx, session)
        return
    if path is not None and path.suffix == ".vmv":
        from .script.errors import ScriptError
        from .session.story import script_session

        text, name = read_script(target)
        try:
            session = script_session(text, name, config, pinned(kernel, zap_contract))
        except ScriptError as error:
            warn(str(error))
            raise SystemExit(EXIT_USAGE) from None
        _app(ctx, session)
        return
    from .kernel.errors import VmvizError
    from .live.load import open_base
    from .session.story import live_session

    try:
        machine, image = open_base(target, config)
    except VmvizError as error:
        die(str(error))
    _app(ctx, live_session(machine, image))


@main.command()
@click.argument("pid")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to write the snapshot.")
def snapshot(pid: str, output: str) -> None:
    """Write a snapshot of the process PID (or self) to FILE; it opens on any operating system."""
    from .kernel.errors import VmvizError
    from .live import read_process, write_snapshot

    try:
        image = read_process(pid)
        write_snapshot(image, output)
    except VmvizError as error:
        die(str(error))
    except OSError as error:
        die(f"{output}: {error.strerror}")
    warn_of(image)
    amounts = f"{_counted(len(image.vmas), 'VMA')}, {_counted(len(image.pages.vpn), 'page')}"
    echo(f"{output}: {image.name} (pid {image.pid}), {amounts}")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@main.command()
def themes() -> None:
    """List the themes of the app."""
    from .tui.themes import available_themes, load_theme

    for name in available_themes():
        echo(f"{name:16} {load_theme(name).description}")


@main.command()
def calls() -> None:
    """List the calls of the language, each with a line of help."""
    from .script.functions import FUNCTIONS
    from .script.runner import BOOT_HELP

    for signature, about in [*((f.signature, f.about) for f in FUNCTIONS.values()), BOOT_HELP]:
        echo(f"{signature}\n    {about}")


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--json", "json_", is_flag=True, help="An array with an object for each workload.")
@click.option("--list", "list_", is_flag=True, help="List the workloads; nothing is run.")
@click.option("--scale", default=1, type=click.IntRange(1), help="Divide the sizes, for a quick look.")
@click.option("--svg", default="", metavar="FILE", help="Draw the growth workloads into FILE, too.")
def bench(names: tuple[str, ...], json_: bool, list_: bool, scale: int, svg: str) -> None:
    """Measure vmviz beside the real kernel and the usual tools; NAME is a workload's name or row, or `growth`.

    "At least" goals are yardstick / vmviz (times faster), "at most" goals vmviz / yardstick; median of 9
    interleaved repetitions, with lowest and highest. Exit status: 0 whether or not the goals are met.
    """
    from .bench.command import bench as run_bench
    from .bench.command import listing
    from .kernel.errors import VmvizError

    if list_:
        for line in listing():
            echo(line)
        return
    try:
        run_bench(names, echo, as_json=json_, scale=scale, svg=svg)
    except VmvizError as error:
        die(str(error))


@main.command()
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--json", "json_", is_flag=True, help="One JSON object: each trace, its differences, totals.")
@click.option("--view", is_flag=True, help="Look at them in the app: simulator beside kernel, step by step.")
@click.option("--live", is_flag=True, help="Random operations on the running kernel instead of recordings.")
@click.option(
    "--ops", type=click.IntRange(1), default=1000, show_default=True, help="With --live: how many operations."
)
@click.option("--seed", type=int, default=1, show_default=True, help="With --live: which operations.")
@click.pass_context
def conform(
    ctx: click.Context, paths: tuple[str, ...], json_: bool, view: bool, live: bool, ops: int, seed: int
) -> None:
    """Replay recordings of a real kernel (.jsonl files or directories of them) and compare every state.

    With --live a child process does random operations (mmap, mremap, madvise, touches, fork, ...) on its own
    memory on the running Linux, and the simulator, set to the nearest kernel that it knows, does the same; the results,
    /proc/PID/smaps and pagemap are compared after each. A difference is made small and printed as a script. No
    privilege is needed; with CAP_SYS_ADMIN frames are compared too.

    Exit status: 0 all agree, 1 one differs, 2 a file is no recording (the others are replayed all the same), or no
    comparison can be made here.
    """
    from .conform.command import conform as run_conform
    from .conform.command import find_traces
    from .conform.live_command import conform_live
    from .kernel.errors import VmvizError

    if live == bool(paths):
        die("conform wants either --live or the recordings' PATH...")
    if live and view:
        die("--view shows recordings; --live has none")
    if view:
        from .session.story import story_session

        try:
            traces = find_traces(paths)
        except VmvizError as error:
            die(str(error))
        _app(ctx, story_session(), traces=traces)
        return
    try:
        status = (
            conform_live(ops, seed, echo, as_json=json_)
            if live
            else run_conform(paths, echo, warn, as_json=json_)
        )
    except VmvizError as error:
        die(str(error))
    except OSError as error:
        die(f"{error.filename}: {error.strerror}")
    raise SystemExit(status)
