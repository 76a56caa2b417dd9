"""Every call of the language: it can be taken back, and what it does inside has words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vmviz
from vmviz.kernel.trace.bulk import Bulk
from vmviz.kernel.trace.explain import explain
from vmviz.kernel.trace.journal import Enter, Event
from vmviz.script.functions import FUNCTIONS
from vmviz.session import Session
from vmviz.tui.command import completion
from vmviz.views.cells import plain
from vmviz.views.help import call_help
from vmviz.views.reasons import about_call

from .test_runner import GOOD, SETUP

PACKAGE = Path(vmviz.__file__).parent
NAMED = re.compile(r'(?:\.enter|\.event|_span|Bulk)\(\s*"([a-zA-Z_0-9]+)"')


def test_every_call_is_tried() -> None:
    tried = {name for text, _ in GOOD for name in re.findall(r"(\w+)\(", text)}
    assert (
        set(FUNCTIONS) - tried - {"zap_vma_ptes", "zap_special_vma_range", "vma", "load", "store", "exec"}
        == set()
    )


def session() -> Session:
    made = Session()
    for line in SETUP.splitlines():
        made.run(line)
    return made


@pytest.mark.parametrize("text", [text for text, _ in GOOD])
def test_every_call_can_be_taken_back_and_done_again(text: str) -> None:
    s = session()
    before = s.machine.digest()
    s.run(text)
    after = s.machine.digest()
    s.undo()
    assert s.machine.digest() == before
    s.redo()
    assert s.machine.digest() == after


@pytest.mark.parametrize("text", [text for text, _ in GOOD])
def test_what_happens_inside_has_words(text: str) -> None:
    s = session()
    outcome = s.run(text)
    records = s.machine.journal.records[outcome.start[0] : outcome.end[0]]
    names = {r.func for r in records if isinstance(r, Enter | Bulk)}
    names |= {r.name for r in records if isinstance(r, Event)}
    assert [name for name in sorted(names) if not explain(name).sentence] == []


def test_every_name_that_the_kernel_gives_the_journal_has_words() -> None:
    names = {
        name for path in PACKAGE.rglob("*.py") for name in NAMED.findall(path.read_text(encoding="utf-8"))
    }
    assert len(names) > 100
    assert [name for name in sorted(names) if not explain(name).sentence] == []


def test_every_call_has_help_and_completion() -> None:
    helped = "\n".join(plain(line) for line in call_help())
    for name, function in FUNCTIONS.items():
        assert function.signature in helped
        assert about_call(name).endswith(".")
        words = [f"{one}(" for one in FUNCTIONS]
        done = completion(f"x = {name[:-1]}", words, [])
        assert done is not None
        assert done.removeprefix("x = ") in words
