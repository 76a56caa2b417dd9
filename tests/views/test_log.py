"""The log: done, now, future and to come."""

from __future__ import annotations

from vmviz.session import Session
from vmviz.session.story import story_session
from vmviz.views.cells import plain, width
from vmviz.views.log import LogView, short


def rows(session: Session) -> list[tuple[str, int]]:
    """Kind and number of each row."""
    return [(r.kind, r.n) for r in LogView(session).rows]


def test_the_story_at_its_start() -> None:
    session = story_session()
    view = LogView(session)
    assert rows(session) == [
        *(("done", n) for n in range(1, 9)),
        ("border", 0),
        *(("pending", n) for n in range(9, 15)),
    ]
    assert view.now == 7
    assert view.row_count() == 15
    assert [r.result for r in view.rows[9:]] == ["= ?"] * 6, "results to come are hidden"
    assert plain(view.row(7, 60)).startswith("►  8 load(bar, 12K)")
    assert " to come " in plain(view.row(8, 60))


def test_the_marks_follow_the_position() -> None:
    session = story_session()
    session.run_next()
    session.run_next()
    assert LogView(session).now == 9
    session.undo()
    assert LogView(session).now == 8
    assert rows(session)[9] == ("future", 10)
    session.step(1)
    view = LogView(session)
    assert (view.now, view.rows[9].kind, view.rows[9].result) == (9, "done", "...")
    session.seek((0, 0), 0)
    assert LogView(session).now == -1
    assert all(kind == "future" for kind, _ in rows(session)[:10])


def test_what_went_wrong_is_marked() -> None:
    session = story_session()
    for _ in range(6):
        session.run_next()
    roles = {r.text: r.role for r in LogView(session).rows}
    assert roles["zap_vma_ptes(vma(fb), fb + 1M, 2M)"] == "result"
    assert roles["zap_vma_ptes(vma(heap), heap, 4K)"] == "fail"
    assert roles["load(fb + 1M)"] == "fail"


def test_rows_at_all_widths() -> None:
    view = LogView(story_session())
    for columns in (1, 10, 20, 40, 55, 120):
        for i in range(view.row_count()):
            assert width(view.row(i, columns)) <= columns
    assert "... = 0x7ffff7000000" in plain(view.row(5, 55))


def test_the_statement_of_a_row_is_what_is_copied() -> None:
    view = LogView(story_session())
    assert view.statement(7) == "load(bar, 12K) = 0"
    assert view.statement(8) == ""
    assert view.statement(9).startswith("zap_vma_ptes(vma(fb), fb + 1M, 2M)")


def test_an_empty_session() -> None:
    view = LogView(Session())
    assert (view.row_count(), view.now) == (0, -1)
    assert short("load( fb )   = SIGBUS") == "load( fb )"
