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
    """The file ``name``: as a path, else a bundled example by its name with or without ``.vmv``; None if neither."""
    path = Path(name)
    if path.exists():
        return path
    for example in examples():
        if name.removeprefix("examples/") in (example.name, example.stem):
            return example
    return None
