"""The command line.  Each command imports what it needs, so that ``vmviz --version`` is quick."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from .kernel.machine import Config, Machine
    from .live.image import ProcessImage
    from .script.report import Report
    from .script.strace_exec import Area

EXIT_EXPECTATION, EXIT_USAGE = 1, 2
EXIT_OUTPUT, EXIT_INTERRUPT, EXIT_PIPE = 74, 130, 141
"""The output cannot be written (EX_IOERR); ended by SIGINT or SIGPIPE, as a shell counts them."""


class _Group(click.Group):
    """The group of commands: without one, the app opens on the story."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C ends it quietly, with a status that no failed expectation has."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _die("interrupted", EXIT_INTERRUPT)

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
    ctx.obj = {"theme": theme, "ascii": ascii_}
    if ctx.invoked_subcommand is None:
        from .session.story import story_session

        _app(ctx, story_session())


def _app(ctx: click.Context, session: Any, **more: Any) -> None:
    """Open the app; a terminal is needed."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        _die("the app needs a terminal; `vmviz run FILE` runs a script without one")
    from .tui.app import run_app

    run_app(session, theme=ctx.obj["theme"], ascii_glyphs=ctx.obj["ascii"], **more)


def _die(message: str, status: int = EXIT_USAGE) -> NoReturn:
    _warn(f"vmviz: {message}")
    raise SystemExit(status)


def _warn(message: str) -> None:
    """Print a line to standard error, without what a terminal could take for commands."""
    from .script.report import printable

    click.echo(printable(message), err=True)


def _echo(text: str) -> None:
    """Print a line; who reads it may go away (``vmviz run ... | head``), or the disk be full."""
    try:
        click.echo(text)
    except UnicodeEncodeError as error:
        click.echo(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(EXIT_PIPE) from None
    except OSError as error:
        _drop_output()
        _die(f"the output cannot be written: {error.strerror}", EXIT_OUTPUT)


def _drop_output() -> None:
    """Let what is still in the buffer of standard output go nowhere, or Python complains when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


_DIALS = (
    click.option("--kernel", default=None, help="Whose behaviour: 6.1."),
    click.option(
        "--zap-contract",
        type=click.Choice(["int", "void", "special"]),
        default=None,
        help="What zap_vma_ptes returns: int (up to 4.17), void (4.18 to 7.0), special (7.1).",
    ),
)


def _dials(command: Any) -> Any:
    for option in reversed(_DIALS):
        command = option(command)
    return command


def _config(kernel: str | None, zap_contract: str | None) -> Config:
    from .kernel.errors import VmvizError
    from .kernel.machine import Config

    config = Config(kernel=kernel or "6.1", zap_contract=zap_contract or "int")
    try:
        config.validate()
    except VmvizError as error:
        _die(str(error))
    return config


def _read_script(name: str) -> tuple[str, str]:
    """The text and the shown name of a script: a file, ``-`` for standard input, or a bundled example."""
    shown = "<stdin>" if name == "-" else name
    try:
        if name == "-":
            if sys.stdin is None:
                _die("standard input is closed")
            raw = sys.stdin.buffer.read()
        else:
            path = _find(name)
            if path is None:
                _die(f"there is no script {name!r}{_near_example(name)}")
            raw = path.read_bytes()
        return raw.decode("utf-8"), shown
    except UnicodeDecodeError as error:
        _die(f"{shown}: byte {error.start} is no UTF-8; a script is a text file")
    except OSError as error:
        _die(f"{shown}: {error.strerror}")


def _find(name: str) -> Path | None:
    """A file by its path, or a bundled example by its name."""
    from .data import find_example

    try:
        return find_example(name)
    except OSError as error:
        _die(f"{name}: {error.strerror}")


def _near_example(name: str) -> str:
    from .data import examples
    from .script.values import nearest

    near = nearest(name, [path.stem for path in examples()])
    return f"; did you mean the example {near[0]!r}?" if near else ""


def _machine(base: str | None, config: Config) -> Machine | None:
    if base is None:
        return None
    from .kernel.errors import VmvizError
    from .live.load import open_base

    try:
        machine, image = open_base(base, config)
    except VmvizError as error:
        _die(str(error))
    _warn_of(image, f"{base}: ")
    return machine


def _pinned(kernel: str | None, zap_contract: str | None) -> set[str]:
    """The dials that were given: a script must not set them to something else."""
    return {name for name, value in (("kernel", kernel), ("zap_contract", zap_contract)) if value is not None}


def _warn_of(image: ProcessImage, what: str = "") -> None:
    """What is not known of a process: the right that is missing, and the warnings."""
    if image.missing_right:
        _warn(f"vmviz: {what}missing right: {image.missing_right}")
    for warning in image.warnings:
        _warn(f"vmviz: {what}{warning}")


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
@_dials
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

    text, name = _read_script(script)
    config = _config(kernel, zap_contract)
    from .script.parser import looks_like_strace

    if strace or layout is not None or pid is not None or looks_like_strace(text):
        if base is not None:
            _die("an strace log begins with a machine of its own; --base has no place there")
        report = Report(_echo, name, as_json=json_, check=check, trace=trace)
        raise SystemExit(_replay(text, name, config, report, state=state, layout=layout, pid=pid))
    runner = Runner(_machine(base, config), config, pinned=_pinned(kernel, zap_contract))
    report = Report(_echo, name, as_json=json_, check=check, trace=trace)
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
        _warn(line)
    if wrong is not None:
        _warn(str(wrong))
        raise SystemExit(EXIT_USAGE)
    raise SystemExit(EXIT_EXPECTATION if failed else 0)


def _replay(
    text: str, name: str, config: Config, report: Report, *, state: bool, layout: str | None, pid: int | None
) -> int:
    """Replay an strace log; returns the exit status."""
    from .script.errors import ScriptError
    from .script.strace import Replay
    from .script.strace_exec import ThisHost, parse_layout

    areas: tuple[Area, ...] = ()
    if layout is not None:
        try:
            with open(layout, encoding="utf-8", errors="surrogateescape") as file:
                areas = parse_layout(file.read())
        except OSError as error:
            _die(f"{layout}: {error.strerror}")
        except ValueError as error:
            _die(f"{layout}: {error}")
    try:
        replay = Replay(text, name, config, host=ThisHost(), layout=areas, keep=pid)
        for outcome, statement in replay.run():
            report.add(replay.machine, outcome, statement)
    except ScriptError as error:
        _warn(str(error))
        return EXIT_USAGE
    report.tally(replay.tally)
    if state:
        report.state(replay.machine)
    failed = report.finish()
    for line in failed:
        _warn(line)
    return EXIT_EXPECTATION if failed else 0


@main.command()
@click.argument("script")
@click.option(
    "--tables", "output", required=True, metavar="FILE", help="Where to write the final page tables."
)
@_dials
def export(script: str, output: str, kernel: str | None, zap_contract: str | None) -> None:
    """Run SCRIPT and write its final page tables to FILE, for another MMU to walk.

    FILE is a raw, sparse image of physical memory, each table at its frame's address. What switches the tables
    on is printed: the paging mode, CR0, CR4, EFER, and CR3 of each process, that which runs first.
    """
    from .conform.export import write_tables
    from .script.errors import ScriptError
    from .script.runner import Runner

    text, name = _read_script(script)
    runner = Runner(config=_config(kernel, zap_contract))
    try:
        for statement in runner.parse(text, name).statements:
            runner.run(statement, text, name)
    except ScriptError as error:
        _warn(str(error))
        raise SystemExit(EXIT_USAGE) from None
    try:
        image = write_tables(runner.machine, output)
    except OSError as error:
        _die(f"{output}: {error.strerror}", EXIT_OUTPUT)
    for line in image.lines():
        _echo(line)


@main.command("open")
@click.argument("target")
@_dials
@click.pass_context
def open_(ctx: click.Context, target: str, kernel: str | None, zap_contract: str | None) -> None:
    """Open a real process (PID or self), a snapshot, or a script in the app.

    Strictly read-only for the process.
    """
    config = _config(kernel, zap_contract)
    path = None if target.isdigit() or target == "self" else _find(target)
    if path is not None and path.suffix == ".vmv":
        from .script.errors import ScriptError
        from .session.story import script_session

        text, name = _read_script(target)
        try:
            session = script_session(text, name, config, _pinned(kernel, zap_contract))
        except ScriptError as error:
            _warn(str(error))
            raise SystemExit(EXIT_USAGE) from None
        _app(ctx, session)
        return
    from .kernel.errors import VmvizError
    from .live.load import open_base
    from .session.story import live_session

    try:
        machine, image = open_base(target, config)
    except VmvizError as error:
        _die(str(error))
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
        _die(str(error))
    except OSError as error:
        _die(f"{output}: {error.strerror}")
    _warn_of(image)
    amounts = f"{_counted(len(image.vmas), 'VMA')}, {_counted(len(image.pages.vpn), 'page')}"
    _echo(f"{output}: {image.name} (pid {image.pid}), {amounts}")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@main.command()
def themes() -> None:
    """List the themes of the app."""
    from .tui.themes import available_themes, load_theme

    for name in available_themes():
        _echo(f"{name:16} {load_theme(name).description}")


@main.command()
def calls() -> None:
    """List the calls of the language, each with a line of help."""
    from .script.functions import FUNCTIONS

    for function in FUNCTIONS.values():
        _echo(f"{function.signature}\n    {function.about}")


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--json", "json_", is_flag=True, help="One JSON object: each trace, its differences, totals.")
def conform(paths: tuple[str, ...], json_: bool) -> None:
    """Replay recordings of a real kernel (.jsonl files or directories of them) and compare every state.

    Exit status: 0 all agree, 1 one differs, 2 a path is no recording.
    """
    from .conform.command import conform as run_conform
    from .kernel.errors import VmvizError

    try:
        status = run_conform(paths, _echo, as_json=json_)
    except VmvizError as error:
        _die(str(error))
    except OSError as error:
        _die(f"{error.filename}: {error.strerror}")
    raise SystemExit(status)
