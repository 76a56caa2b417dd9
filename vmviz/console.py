"""What the commands of the command line share: where lines go, how they end, what they read, the dials."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from pathlib import Path

    from .kernel.machine import Config, Machine
    from .live.image import ProcessImage

EXIT_EXPECTATION, EXIT_USAGE = 1, 2
EXIT_OUTPUT, EXIT_INTERRUPT, EXIT_PIPE = 74, 130, 141
"""The output cannot be written (EX_IOERR); ended by SIGINT or SIGPIPE, as a shell counts them."""


def die(message: str, status: int = EXIT_USAGE) -> NoReturn:
    """End with a line of why."""
    warn(f"vmviz: {message}")
    raise SystemExit(status)


def warn(message: str) -> None:
    """Print a line to standard error, without what a terminal could take for commands."""
    from .script.report import printable

    click.echo(printable(message), err=True)


def echo(text: str) -> None:
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
        die(f"the output cannot be written: {error.strerror}", EXIT_OUTPUT)


def _drop_output() -> None:
    """Let what is still in the buffer of standard output go nowhere, or Python complains when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


_DIALS = (
    click.option("--kernel", default=None, help="Whose behaviour: 6.1 (if not given), 6.12 or 6.18."),
    click.option(
        "--zap-contract",
        type=click.Choice(["int", "void", "special"]),
        default=None,
        help="What zap_vma_ptes returns: int (up to 4.17), void (4.18 to 7.0), special (7.1).",
    ),
)


def dials(command: Any) -> Any:
    """The options ``--kernel`` and ``--zap-contract`` for a command."""
    for option in reversed(_DIALS):
        command = option(command)
    return command


def config_of(kernel: str | None, zap_contract: str | None) -> Config:
    """The machine that the dials ask for."""
    from .kernel.errors import VmvizError
    from .kernel.machine import Config

    config = Config(kernel=kernel or "6.1", zap_contract=zap_contract or "int")
    try:
        config.validate()
    except VmvizError as error:
        die(str(error))
    return config


def read_script(name: str) -> tuple[str, str]:
    """The text and the shown name of a script: a file, ``-`` for standard input, or a bundled example."""
    shown = "<stdin>" if name == "-" else name
    try:
        if name == "-":
            if sys.stdin is None:
                die("standard input is closed")
            raw = sys.stdin.buffer.read()
        else:
            path = find_script(name)
            if path is None:
                die(f"there is no script {name!r}{_near_example(name)}")
            raw = path.read_bytes()
        return raw.decode("utf-8"), shown
    except UnicodeDecodeError as error:
        die(f"{shown}: byte {error.start} is no UTF-8; a script is a text file")
    except OSError as error:
        die(f"{shown}: {error.strerror}")


def find_script(name: str) -> Path | None:
    """A file by its path, or a bundled example by its name."""
    from .data import find_example

    try:
        return find_example(name)
    except OSError as error:
        die(f"{name}: {error.strerror}")


def is_strace(path: Path) -> bool:
    """Whether a file is an strace log, by its beginning; what is no text is none."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:  # who opens it next says why
        return False
    if b"\0" in head:
        return False
    from .script.looks import looks_like_strace

    return looks_like_strace(head.decode("utf-8", "replace"))


def _near_example(name: str) -> str:
    from .data import examples
    from .script.values import nearest

    near = nearest(name, [path.stem for path in examples()])
    return f"; did you mean the example {near[0]!r}?" if near else ""


def machine_on(base: str | None, config: Config) -> Machine | None:
    """The machine of a real process or snapshot; None without a base."""
    if base is None:
        return None
    from .kernel.errors import VmvizError
    from .live.load import open_base

    try:
        machine, image = open_base(base, config)
    except VmvizError as error:
        die(str(error))
    warn_of(image, f"{base}: ")
    return machine


def pinned(kernel: str | None, zap_contract: str | None) -> set[str]:
    """The dials that were given: a script must not set them to something else."""
    return {name for name, value in (("kernel", kernel), ("zap_contract", zap_contract)) if value is not None}


def warn_of(image: ProcessImage, what: str = "") -> None:
    """What is not known of a process: the right that is missing, and the warnings."""
    if image.missing_right:
        warn(f"vmviz: {what}missing right: {image.missing_right}")
    for warning in image.warnings:
        warn(f"vmviz: {what}{warning}")
