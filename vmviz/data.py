"""Where the bundled files are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_directory(kind: str) -> Path:
    """The directory of "themes" or "examples"."""
    packed = PACKAGE / "_data" / kind
    return packed if packed.is_dir() else PACKAGE.parent / kind


def examples() -> list[Path]:
    """The bundled example scripts."""
    return sorted(data_directory("examples").glob("*.vmv"))


def find_example(name: str) -> Path | None:
    """The file ``name``: a path, else a bundled example (``.vmv`` may be left out); None if neither.

    Raises `OSError` where the path cannot be looked at.

    >>> find_example("framebuffer").name, find_example("no/such/script")
    ('framebuffer.vmv', None)
    """
    path = Path(name)
    if "\0" in name:
        return None
    if path.is_file():
        return path
    for example in examples():
        if name.removeprefix("examples/") in (example.name, example.stem):
            return example
    return path if path.exists() else None
