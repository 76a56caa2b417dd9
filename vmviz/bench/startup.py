"""Row 20: how long a user waits for the first word."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from .harness import Bench, Sample, Workload

SCRIPT = """\
a = mmap(NULL, 64K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)
store(a, 8K, 1)
mprotect(a, 4K, PROT_READ)
load(a, 4K)
munmap(a, 64K)
"""


def _process(*words: str) -> Sample:
    """Seconds of a Python process with these arguments; its bytecode is kept between runs."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def sample() -> float:
        begin = perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
        return perf_counter() - begin

    return sample


def _version(_scale: int) -> Bench:
    return Bench(_process("-m", "vmviz", "--version"), _process("-c", "pass"))


def _run(_scale: int) -> Bench:
    directory = tempfile.TemporaryDirectory()
    path = Path(directory.name) / "five.vmv"
    path.write_text(SCRIPT, encoding="utf-8")
    return Bench(_process("-m", "vmviz", "run", str(path)), _process("-c", "pass"), close=directory.cleanup)


STARTUP: tuple[Workload, ...] = (
    Workload("version", 20, "vmviz --version", "python -c pass", 6, _version, at_least=False),
    Workload("run", 20, "vmviz run of five lines", "python -c pass", 20, _run, at_least=False),
)
