"""The status line: what goes first when there is no room."""

from __future__ import annotations

import pytest

from vmviz.session import Session
from vmviz.session.story import story_session
from vmviz.views.cells import plain, width
from vmviz.views.status import progress, status_line


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 60, 76, 80, 100, 120, 200])
def test_it_fills_the_line_and_keeps_the_position(columns: int) -> None:
    line = status_line(story_session(), columns)
    assert width(line) == columns
    if columns >= 20:
        assert plain(line).endswith(" story 0/6 " if columns >= 60 else "  0/6 ")
        assert " rss " in plain(line)


def test_what_it_says() -> None:
    session = story_session()
    text = plain(status_line(session, 120))
    for word in (
        "vmviz",
        "framebuffer.vmv",
        "pid 1 camera",
        "x86-64, 4 levels",
        "kernel 6.1 (0 or -1)",
        "rss 76K",
    ):
        assert word in text
    # Twelve tables below the PGD, as VmPTE counts them.
    assert "VmPTE 48K" in text
    assert session.machine.mm.counters.data["pgtables"] == 48 << 10
    narrow = plain(status_line(session, 80))
    assert "framebuffer  pid 1 camera  x86-64 4-level  kernel 6.1" in narrow


def test_the_position_counts_the_statement_that_is_under_way() -> None:
    session = story_session()
    session.run_next()
    assert plain(status_line(session, 80)).endswith(" story 1/6 ")
    session.step(-1)
    assert plain(status_line(session, 80)).endswith(" story 1/6 ")
    session.undo()
    assert plain(status_line(session, 80)).endswith(" story 0/6 ")


def test_own_statements_are_counted_beside_the_story() -> None:
    session = story_session()
    for text in ("load(bar)", "zap_vma_ptes(vma(fb), fb, 4K)"):
        session.run(text)
    assert plain(status_line(session, 80)).endswith(" story 0/6 +2 ")
    assert "kernel 6.1" in plain(status_line(session, 80)), "the brand goes before what is seen"
    session.undo()
    assert progress(session) == "story 0/6 +1"
    own = Session(title="nothing")
    own.run("x = 5")
    assert progress(own) == "1/1"


def test_a_real_process_is_named_once() -> None:
    session = Session(title="python (pid 1)")
    assert plain(status_line(session, 80)).count("pid 1") == 1
