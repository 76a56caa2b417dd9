"""More recordings of Linux 6.1.192 on the traced machine: families of scenarios and random walks by subject.

They were made by another recorder than the traces of tests/data/kernel-traces, in the same form (without kernel
messages); all of those traces it records alike.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from vmviz.conform.trace import replay_trace

ARCHIVE = Path(__file__).parent.parent / "data" / "recorded.tar.xz"

with tarfile.open(ARCHIVE) as _tar:
    NAMES = sorted(name.removesuffix(".jsonl") for name in _tar.getnames() if name.endswith(".jsonl"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recorded")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(directory, filter="data")
    return directory


def test_there_are_recordings_of_every_subject() -> None:
    assert len(NAMES) > 250
    walks = {name.split("-")[1] for name in NAMES if name.startswith("walk-")}
    assert walks >= {
        "swap",
        "merge",
        "file",
        "limit",
        "dev",
        "sparse",
        "wide",
        "big",
        "ht",
        "brk",
        "mmio",
        "odd",
        "flags",
        "forks",
    }


@pytest.mark.parametrize("name", NAMES)
def test_recording_agrees(recordings: Path, name: str) -> None:
    result = replay_trace(recordings / f"{name}.jsonl")
    assert (str(result.first or ""), result.agreed) == ("", result.recorded)
