"""The command line.  Each command imports what it needs, so that ``vmviz --version`` is quick."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import __version__

if TYPE_CHECKING:
    from .kernel.machine import Config, Machine

EXIT_EXPECTATION, EXIT_USAGE = 1, 2


class _Group(click.Group):
    """The group of commands: without one, the app opens on the story."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from .script.values import nearest

            near = nearest(args[0], self.commands)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx) from error


@click.group(cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmviz")
@click.option("--theme", default=None, help="Theme of the app; `vmviz themes` lists them.")
@click.option("--ascii/--unicode", "ascii_", default=None, help="Glyph set of the app; chosen by the terminal if not given.")
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
    if not sys.stdout.isatty() or not sys.stdin.isatty():
        _die("the app needs a terminal; `vmviz run FILE` runs a script without one")
    from .tui.app import run_app

    run_app(session, theme=ctx.obj["theme"], ascii_glyphs=ctx.obj["ascii"], **more)


def _die(message: str, status: int = EXIT_USAGE) -> NoReturn:
    click.echo(f"vmviz: {message}", err=True)
    raise SystemExit(status)


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
    from .data import find_example

    if name == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace"), "<stdin>"
    path = find_example(name)
    if path is None:
        _die(f"there is no script {name!r}")
    try:
        return path.read_bytes().decode("utf-8"), name
    except UnicodeDecodeError as error:
        _die(f"{name}: byte {error.start} is no UTF-8; a script is a text file")
    except OSError as error:
        _die(f"{name}: {error.strerror}")


def _machine(base: str | None, config: Config) -> Machine | None:
    if base is None:
        return None
    from .kernel.errors import VmvizError
    from .live.load import open_base

    try:
        machine, image = open_base(base, config)
    except VmvizError as error:
        _die(str(error))
    for warning in image.warnings:
        click.echo(f"vmviz: {base}: {warning}", err=True)
    return machine


@main.command()
@click.argument("script")
@click.option("--json", "json_", is_flag=True, help="One JSON object per statement.")
@click.option("--check", is_flag=True, help="Compare every `= value`; exit 1 when one differs.")
@click.option("--state", is_flag=True, help="Append the final state: VMAs, leaf entries, counters.")
@click.option("--base", default=None, metavar="PID|FILE", help="Run on a real process or a snapshot of one.")
@click.option("--trace", is_flag=True, help="Print the calls, checks and tracepoints of each statement.")
@_dials
def run(
    script: str,
    json_: bool,
    check: bool,
    state: bool,
    base: str | None,
    trace: bool,
    kernel: str | None,
    zap_contract: str | None,
) -> None:
    """Run SCRIPT (a file, a bundled example, or - for standard input) without the app and print what happened.

    Exit status: 0 all well, 1 an expectation failed (with --check), 2 the script or the command line is wrong.
    """
    from .script.errors import ScriptError
    from .script.report import Report
    from .script.runner import Runner

    text, name = _read_script(script)
    config = _config(kernel, zap_contract)
    runner = Runner(_machine(base, config), config)
    report = Report(click.echo, name, as_json=json_, check=check, trace=trace)
    try:
        parsed = runner.parse(text, name)
        for statement in parsed.statements:
            report.add(runner.machine, runner.run(statement, text, name), statement)
    except ScriptError as error:
        click.echo(str(error), err=True)
        raise SystemExit(EXIT_USAGE) from None
    if state:
        report.state(runner.machine)
    failed = report.finish()
    for line in failed:
        click.echo(line, err=True)
    raise SystemExit(EXIT_EXPECTATION if failed else 0)


@main.command("open")
@click.argument("target")
@_dials
@click.pass_context
def open_(ctx: click.Context, target: str, kernel: str | None, zap_contract: str | None) -> None:
    """Open a real process (PID or self), a snapshot, or a script in the app.  Strictly read-only for the process."""
    from .data import find_example

    config = _config(kernel, zap_contract)
    path = None if target.isdigit() or target == "self" else find_example(target)
    if path is not None and path.suffix == ".vmv":
        from .script.errors import ScriptError
        from .session.story import script_session

        text, name = _read_script(target)
        try:
            session = script_session(text, name, config)
        except ScriptError as error:
            _die(str(error))
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
    for warning in image.warnings:
        click.echo(f"vmviz: {warning}", err=True)
    click.echo(f"{output}: {image.name} (pid {image.pid}), {len(image.vmas)} VMAs, {len(image.pages.vpn)} pages")


@main.command()
def themes() -> None:
    """List the themes of the app."""
    from .tui.themes import available_themes, load_theme

    for name in available_themes():
        click.echo(f"{name:16} {load_theme(name).description}")


@main.command()
def calls() -> None:
    """List the calls of the language, each with a line of help."""
    from .script.functions import FUNCTIONS

    for function in FUNCTIONS.values():
        click.echo(f"{function.signature}\n    {function.about}")
