"""Where the program starts, as ``vmviz`` and as ``python -m vmviz``."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from . import __version__


def main() -> None:
    """Run the command line."""
    # What is imported stays to the end: looking for garbage among it, again and again on the way and once more at the
    # end, takes a fifth of the time of a short run.  The commands switch the collector on when they are loaded.
    gc.disable()
    atexit.register(gc.freeze)
    # numpy brings OpenBLAS, which starts a thread for each CPU; there is no linear algebra here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.argv[1:] == ["--version"]:
        _tell_version()
        return
    from .cli import main as command  # noqa: PLC0415 - the version is told without it

    command(prog_name="vmviz")


def _tell_version() -> None:
    """Print what click prints for ``--version``, without click, which takes most of the time."""
    text = f"vmviz, version {__version__}"
    try:
        print(text, flush=True)
    except (OSError, ValueError, AttributeError):  # no output, or one that is closed or full
        from .console import echo  # noqa: PLC0415 - it knows what to say

        echo(text)


if __name__ == "__main__":
    main()
