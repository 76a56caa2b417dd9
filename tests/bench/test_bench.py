"""``vmviz bench``: its arithmetic with times that are given, and each workload at a small size."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from vmviz.bench import kernel, live
from vmviz.bench.command import WORKLOADS, chosen, line, listing
from vmviz.bench.harness import REPETITIONS, Bench, Figure, MissingError, Workload, measure
from vmviz.bench.images import SnapshotFile
from vmviz.bench.plot import svg_plot, text_plot
from vmviz.bench.terminal import COLUMNS, LINES, Terminal, vmviz_open
from vmviz.cli import main
from vmviz.kernel.errors import VmvizError


def workload(
    ours: list[float], yard: list[float] | None, *, at_least: bool = True, apart: bool = False
) -> Workload:
    """A workload whose samples are given; the first of each is the one that does not count."""

    def sample(values: list[float]) -> Callable[[], float]:
        times: Iterator[float] = iter(values)
        return lambda: next(times)

    def prepare(_scale: int) -> Bench:
        return Bench(sample(ours), sample(yard) if yard else None, why="no such tool", apart=apart)

    return Workload("w", 7, "a thing", "another", 2.0, prepare, at_least)


def figures(figure: Figure) -> tuple[object, ...]:
    return figure.ratio, figure.low, figure.high, figure.met


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    faster = workload([9, 1, 2, 4], [9, 4, 4, 4])
    assert figures(measure(faster, repetitions=3)) == (2, 1, 4, True)
    slower = workload([9, 4, 4, 4], [9, 1, 2, 4], at_least=False)
    assert figures(measure(slower, repetitions=3)) == (2, 1, 4, True)
    assert measure(workload([9, 4, 4, 4], [9, 4, 4, 4]), repetitions=3).met is False


def test_samples_apart_are_judged_by_the_yardsticks_median() -> None:
    figure = measure(workload([9, 1, 2, 4], [9, 2, 8, 4], apart=True), repetitions=3)
    assert figures(figure) == (2, 1, 4, True)


def test_a_missing_yardstick_is_said_and_judges_nothing() -> None:
    figure = measure(workload([9, 1, 1, 1], None), repetitions=3)
    assert figures(figure) == (None, None, None, None)
    assert (figure.note, figure.seconds) == ("no such tool", 1)

    def refuse(_scale: int) -> Bench:
        raise MissingError("no Linux here")

    assert measure(Workload("w", 1, "", "", 1, refuse)).note == "no Linux here"


@pytest.mark.parametrize(
    ("error", "why"),
    [(OSError(28, "No space left on device"), "No space left"), (MemoryError(), "not enough memory")],
)
def test_what_the_machine_is_too_small_for_ends_only_its_own_row(error: Exception, why: str) -> None:
    def fail(_scale: int) -> Bench:
        raise error

    figure = measure(Workload("w", 1, "", "", 1, fail))
    assert (figure.ratio, figure.met) == (None, None)
    assert why in figure.note


def test_what_is_exact_is_so_each_time() -> None:
    def counts(values: list[float]) -> Workload:
        given = iter(values)
        return Workload("w", 7, "", "", 1, lambda _: Bench(lambda: next(given), lambda: 5.0), exact=True)

    right = measure(counts([5, 5, 5, 5]), repetitions=3)
    assert (*figures(right), right.goal) == (1, 1, 1, True, "exact")
    assert figures(measure(counts([5, 5, 4, 5]), repetitions=3)) == (1, 0.8, 1, False)


@pytest.mark.parametrize("apart", [False, True])
def test_a_yardstick_that_turns_out_missing_ends_only_its_own_row(apart: bool) -> None:
    closed: list[bool] = []

    def refuse() -> float:
        raise MissingError("madvise 22: Invalid argument")

    def prepare(_scale: int) -> Bench:
        return Bench(lambda: 2.0, refuse, apart=apart, close=lambda: closed.append(True))

    figure = measure(Workload("w", 1, "", "", 1, prepare), repetitions=3)
    assert (*figures(figure), figure.note) == (None, None, None, None, "madvise 22: Invalid argument")
    assert (figure.seconds, closed) == (2, [True])


def named(name: str) -> Workload:
    (found,) = chosen([name])
    return found


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


@linux
@pytest.mark.parametrize(("name", "tool"), [("open-4g", "page-types"), ("smaps-60k", "pmap")])
def test_a_tool_that_is_missing_or_fails_is_told(
    name: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    figure = measure(named(name), scale=512, repetitions=1)
    assert (*figures(figure), figure.note) == (None, None, None, None, f"{tool} is not installed")
    assert figure.seconds > 0
    (tmp_path / tool).write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / tool).chmod(0o755)
    figure = measure(named(name), scale=512, repetitions=1)
    assert figure.met is None
    assert f"{tool} fails with status 3" in figure.note


@linux
def test_a_process_that_cannot_be_made_says_so_in_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingError, match="cannot be made here"):
        live._Child("raise MemoryError")
    assert capfd.readouterr() == ("", "")


@linux
def test_the_count_needs_no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    figure = measure(named("count-60k"), scale=512, repetitions=2)
    assert figures(figure) == (1, 1, 1, True)
    assert "page-types" in figure.note


@linux
def test_without_perf_events_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_SYS_PERF_EVENT_OPEN", 1 << 20)
    figure = measure(named("zap"), scale=256, repetitions=1)
    assert figure.met is None
    assert "perf_event_open" in figure.note


def test_nine_repetitions_at_least() -> None:
    assert REPETITIONS >= 9


@pytest.mark.parametrize("one", WORKLOADS, ids=lambda w: w.name)
def test_each_workload_runs_at_a_small_size(one: Workload) -> None:
    figure = measure(one, scale=256, repetitions=2)
    assert figure.goal == one.goal_text
    assert (figure.ratio is None) == (figure.met is None)
    assert figure.ratio is None or 0 < figure.low <= figure.ratio <= figure.high  # type: ignore[operator]
    assert figure.ratio is not None or figure.note
    assert one.name in line(one, figure)


def test_names_and_rows_choose() -> None:
    assert [w.name for w in chosen(["zap", "3"])] == ["zap", "zap-undo"]
    assert len(chosen([])) == len(WORKLOADS) == len({w.name for w in WORKLOADS})
    with pytest.raises(VmvizError, match="there is no workload 'zapp'; did you mean 'zap'"):
        chosen(["zapp"])
    for name in ("qqq", ""):
        with pytest.raises(VmvizError, match="there are zap, "):
            chosen([name])


def test_the_command() -> None:
    listed = CliRunner().invoke(main, ["bench", "--list"])
    assert listed.output.splitlines() == listing()
    result = CliRunner().invoke(main, ["bench", "walks", "--scale", "500", "--json"])
    (figure,) = json.loads(result.output)
    assert {"name", "ratio", "low", "high", "goal", "met", "note"} <= figure.keys()
    assert CliRunner().invoke(main, ["bench", "nothing"]).exit_code == 2


def test_without_a_pseudo_terminal_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> tuple[int, int]:
        raise OSError("out of pty devices")

    monkeypatch.setattr("pty.openpty", none)
    for name in ("key", "key-scroll", "start", "growth-key"):
        figure = measure(chosen([name])[0], scale=600, repetitions=1)
        assert (figure.ratio, figure.met) == (None, None)
        assert "no pseudo terminal" in figure.note


def test_a_program_that_ends_at_once_is_said_with_its_words() -> None:
    terminal = Terminal([sys.executable, "-c", "print('no such thing')"])
    try:
        with pytest.raises(MissingError, match="no such thing"):
            terminal.first_frame(b"framebuffer")
    finally:
        terminal.close()


def test_the_first_frame_is_whole() -> None:
    pyte = pytest.importorskip("pyte")
    snapshot = SnapshotFile(5000)
    terminal = Terminal(vmviz_open(snapshot.path))
    try:
        terminal.first_frame(b"many")
        shown = pyte.Screen(COLUMNS, LINES)
        pyte.ByteStream(shown).feed(bytes(terminal.output))
        text = "\n".join(shown.display)
        for words in (
            "many (pid 4711)",
            "5000 VMAs",
            "Page tables",
            "Frames",
            "PGD",
            "mapped by many",
            "zap a range",
        ):
            assert words in text
        assert terminal.key() > 0
    finally:
        terminal.close()
        snapshot.close()


def test_growth_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "growth.svg"
    result = CliRunner().invoke(
        main, ["bench", "growth-zap", "growth-step", "--scale", "60", "--svg", str(path)]
    )
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert any(line.startswith("growth-zap (VMAs)") for line in lines)
    assert sum("#" in line and line.rstrip().endswith("s") for line in lines) >= 4
    root = ElementTree.parse(path).getroot()
    assert len(root.findall("{*}polyline")) == 2


def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    wrong = CliRunner().invoke(
        main, ["bench", "growth-zap", "--scale", "600", "--svg", str(tmp_path / "no" / "x")]
    )
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr == f"vmviz: {tmp_path / 'no' / 'x'}: No such file or directory\n"
    path = tmp_path / "x.svg"
    wrong = CliRunner().invoke(main, ["bench", "zap-1", "--scale", "600", "--svg", str(path)])
    assert (wrong.exit_code, wrong.stdout, path.exists()) == (2, "", False)
    assert "growth" in wrong.stderr


_QUICK = (
    "zap",
    "dontneed",
    "mremap",
    "fault",
    "walks",
    "memory",
    "storm",
    "storm-kernel",
    "frame-map",
    "seek",
    "step",
)


@pytest.mark.parametrize(("scale", "names"), [(3, ("memory",)), (10**20, (*_QUICK, "growth-pages"))])
def test_any_scale_leaves_something_to_measure(scale: int, names: tuple[str, ...]) -> None:
    for name in names:
        assert measure(named(name), scale=scale, repetitions=1).seconds > 0


def test_growth_chooses_all_its_workloads() -> None:
    names = [w.name for w in chosen(["growth"])]
    assert names == [w.name for w in chosen(["19"])]
    assert len(names) >= 9


def test_a_curve_that_is_cut_off_still_has_the_goal() -> None:
    figure = Figure("growth-x", 19, 50.0, 50.0, 50.0, "", False, "VMAs", 1.0, ((100, 1e-6), (1000, 5e-5)))
    _, two, three = text_plot([figure])
    assert (two.count("|"), three.count("+")) == (1, 1)
    assert len(three) < 80
    assert "50x" in three
    ElementTree.fromstring(svg_plot([figure]))
    ElementTree.fromstring(svg_plot([]))
