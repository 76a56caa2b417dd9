"""The comparison that the app shows: every operation of a trace, with the simulator beside the kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmviz.conform.comparison import AGREES, DIFFERS, NOT_COMPARED, Comparison
from vmviz.tui.facts import fact_lines, step_line
from vmviz.views.cells import plain, width

TRACES = Path(__file__).parent.parent / "data" / "kernel-traces"


def tampered(tmp_path: Path, name: str, at: int, **changes: object) -> Path:
    """A copy of a trace in which record ``at`` tells something else."""
    lines = (TRACES / f"{name}.jsonl").read_text().splitlines()
    for i, line in enumerate(lines):
        record = json.loads(line)
        if record.get("i") == at:
            record["mm"].update(changes)
            lines[i] = json.dumps(record)
    path = tmp_path / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / f"{name}.scn").write_text((TRACES / f"{name}.scn").read_text())
    return path


@pytest.mark.parametrize("name", ["cow-fork", "thp-basic", "hugetlb-basic", "zap-hole"])
def test_a_trace_that_agrees_has_no_row_that_differs(name: str) -> None:
    comparison = Comparison(TRACES / f"{name}.jsonl")
    assert comparison.first == -1
    assert comparison.agreed == len(comparison.steps)
    for i in reversed(range(len(comparison.steps))):  # any order: each step is a seek
        assert [row for row in comparison.rows(i) if row.differs] == []


def test_the_first_difference_ends_the_comparison(tmp_path: Path) -> None:
    comparison = Comparison(tampered(tmp_path, "thp-basic", 4, anon=7, swap=2))
    assert [s.verdict for s in comparison.steps] == [AGREES] * 4 + [DIFFERS] + [NOT_COMPARED] * 7
    assert comparison.first == 4
    assert [(r.name, r.kernel, r.ours) for r in comparison.rows(4) if r.differs] == [
        ("anon", "7", "1024"),
        ("swap", "2", "0"),
    ]
    assert comparison.rows(5)[0].ours == "not run"


@pytest.mark.parametrize("columns", [56, 80, 118])
def test_lines_put_the_kernel_beside_the_simulator(tmp_path: Path, columns: int) -> None:
    comparison = Comparison(tampered(tmp_path, "thp-basic", 4, anon=7))
    lines, first = fact_lines(comparison.rows(4), columns)
    assert max(width(line) for line in lines) <= columns
    assert plain(lines[first]).split() == ["kernel", "simulator"]
    assert plain(lines[first + 1]).split() == ["anon", "7", "│", "1024"]
    assert ("7 ", "fail") in lines[first + 1]
    assert plain(step_line(comparison.steps[4], 60)).split()[:3] == ["6", "✗", "write"]
