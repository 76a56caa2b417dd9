"""`vmviz conform`: what it prints, what it returns, and that it notices what differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vmviz.cli import main
from vmviz.conform import TraceError, read_trace, replay_trace
from vmviz.conform.command import find_traces

TRACES = Path(__file__).parent / "data" / "kernel-traces"
SMALL = ("cow-fork", "zap-whole", "zap-private-cow")


def conform(*args: object) -> Result:
    result = CliRunner().invoke(main, ["conform", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def copy(name: str, to: Path, *, scenario: bool = True) -> Path:
    if scenario:
        shutil.copy(TRACES / f"{name}.scn", to)
    return Path(shutil.copy(TRACES / f"{name}.jsonl", to))


def change(path: Path, line: int, change: dict[str, Any]) -> None:
    """Change fields of one line of a trace."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[line] = json.dumps({**json.loads(lines[line]), **change})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_line_for_each_trace_and_the_totals() -> None:
    result = conform(*(TRACES / f"{name}.jsonl" for name in SMALL))
    ops = {name: len(read_trace(TRACES / f"{name}.jsonl").records) for name in SMALL}
    lines = result.output.splitlines()
    assert [line.split() for line in lines[:-1]] == [[name, f"{ops[name]}/{ops[name]}"] for name in SMALL]
    total = sum(ops.values())
    assert lines[-1] == f"3 of 3 traces agree, {total} of {total} operations"
    assert result.exit_code == 0


def test_json_is_one_object() -> None:
    result = conform("--json", TRACES / "cow-fork.jsonl")
    told = json.loads(result.output)
    assert told["totals"] == {
        "traces": 1, "traces_agreeing": 1, "agreeing": 12, "total": 12, "unreadable": 0,
    }  # fmt: skip
    assert told["unreadable"] == []
    (trace,) = told["traces"]
    assert (trace["name"], trace["agrees"], trace["first"], trace["differences"]) == (
        "cow-fork", True, None, [],
    )  # fmt: skip


def test_the_first_difference_names_operation_field_and_both_values(tmp_path: Path) -> None:
    path = copy("cow-fork", tmp_path)
    record = json.loads(path.read_text(encoding="utf-8").splitlines()[3])
    record["vmas"][0]["kB"]["Rss"] = 4444
    change(path, 3, {"vmas": record["vmas"]})
    result = conform(path)
    assert result.exit_code == 1
    line, totals = result.output.splitlines()
    assert line.split()[:2] == ["cow-fork", "2/12"]
    assert f" line {record['line']}, {record['op']}" in line
    assert line.endswith(f"VMA {record['vmas'][0]['s']}: kB.Rss: kernel 4444, ours 16")
    assert totals == "0 of 1 traces agree, 2 of 12 operations"
    told = json.loads(conform("--json", path).output)["traces"][0]
    assert (told["agrees"], told["agreeing"], told["total"]) == (False, 2, 12)
    assert (told["first"]["field"].split(": ")[1], told["first"]["kernel"], told["first"]["ours"]) == (
        "kB.Rss", 4444, 16,
    )  # fmt: skip


def test_an_unknown_operation_is_a_difference(tmp_path: Path) -> None:
    path = copy("cow-fork", tmp_path)
    scenario = path.with_suffix(".scn")
    lines = scenario.read_text(encoding="utf-8").splitlines()
    number = json.loads(path.read_text(encoding="utf-8").splitlines()[2])["line"]
    lines[number - 1] = "userfault B 4p"
    scenario.write_text("\n".join(lines), encoding="utf-8")
    result = conform(path)
    assert result.exit_code == 1
    assert "1/12" in result.output
    assert f"line {number}, userfault B 4p: operation: kernel 0, ours not simulated" in result.output


def test_a_scenario_that_cannot_be_run_is_a_difference_not_a_traceback(tmp_path: Path) -> None:
    path = copy("cow-fork", tmp_path)
    scenario = path.with_suffix(".scn")
    scenario.write_text(
        scenario.read_text(encoding="utf-8").replace("mmap B ", "mmap Q ", 1), encoding="utf-8"
    )
    result = conform(path)
    assert result.exit_code == 1
    assert "ours ScenarioError: 'Q' is no number" in result.output


def test_what_killed_the_kernel_agrees_when_it_is_refused() -> None:
    result = conform(TRACES / "crash-zap-runaway.jsonl")
    assert result.exit_code == 0
    assert "refused as the caller's bug" in result.output
    told = json.loads(conform("--json", TRACES / "crash-zap-runaway.jsonl").output)["traces"][0]
    assert "zap_pte_range() would step over its end" in told["refusal"]
    assert (told["agrees"], told["agreeing"], told["total"]) == (True, 1, 1)


def test_what_killed_the_kernel_differs_when_it_is_not_refused(tmp_path: Path) -> None:
    path = copy("crash-zap-runaway", tmp_path)
    scenario = path.with_suffix(".scn")
    text = scenario.read_text(encoding="utf-8")
    (line,) = (x for x in text.splitlines() if x.startswith("zap!"))
    scenario.write_text(text.replace(line, "zap! B B 1p"), encoding="utf-8")
    result = conform(path)
    assert result.exit_code == 1
    assert "operation: kernel killed by it, ours not refused" in result.output


def test_a_crash_without_the_unfinished_record_is_of_the_scenarios_next_operation(tmp_path: Path) -> None:
    path = copy("crash-zap-runaway", tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text(
        "\n".join(line for line in lines if not line.startswith('{"unfinished"')), encoding="utf-8"
    )
    assert "zap_pte_range()" in replay_trace(path).refusal
    path.with_suffix(".scn").unlink()
    with pytest.raises(TraceError, match="does not tell the operation"):
        read_trace(path)


@pytest.mark.parametrize("name", ["cow-fork", "crash-zap-runaway", "zap-fork", "limits", "random-10"])
def test_a_recording_without_its_scenario_is_replayed_from_its_records(name: str, tmp_path: Path) -> None:
    alone = replay_trace(copy(name, tmp_path, scenario=False))
    whole = replay_trace(TRACES / f"{name}.jsonl")
    assert (alone.agreed, alone.recorded, alone.first, alone.refusal) == (
        whole.agreed, whole.recorded, whole.first, whole.refusal,
    )  # fmt: skip
    assert alone.agrees


def test_directories_are_searched_to_the_bottom(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    copy("cow-fork", tmp_path / "b" / "c")
    copy("zap-whole", tmp_path / "b")
    assert [p.name for p in find_traces([str(tmp_path)])] == ["cow-fork.jsonl", "zap-whole.jsonl"]
    assert find_traces([str(tmp_path / "x.scn")]) == [tmp_path / "x.jsonl"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("{", "it is no trace"),
        ("[]\n", "line 1 is no object"),
        ("{}\n", "it does not begin with the header"),
        ('{"window":["0x0","0x1000"]}\n', "the recording is cut off"),
        ('{"window":["0x0","0x1000"]}\n{"end":1,"ops":1}\n', "the recording is cut off"),
        ("\ufffd\x00", "it is no trace"),
    ],
)
def test_what_is_no_recording_ends_with_status_2(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError, match=message):
        read_trace(path)
    result = conform(path)
    totals = "0 of 0 traces agree, 0 of 0 operations; not replayed: 1\n"
    assert (result.exit_code, result.stdout) == (2, totals)
    assert result.stderr.startswith(f"vmviz: {path}: ")


def test_one_broken_file_among_others_does_not_keep_them_from_being_replayed(tmp_path: Path) -> None:
    good, other = copy("cow-fork", tmp_path), copy("zap-whole", tmp_path)
    broken, no_file = tmp_path / "m.jsonl", tmp_path / "p.jsonl"
    broken.write_text("{", encoding="utf-8")
    no_file.mkdir()
    result = conform(tmp_path)
    total = sum(len(read_trace(path).records) for path in (good, other))
    assert result.exit_code == 2
    assert [line.split()[0] for line in result.stdout.splitlines()[:-1]] == ["cow-fork", "zap-whole"]
    assert (
        result.stdout.splitlines()[-1]
        == f"2 of 2 traces agree, {total} of {total} operations; not replayed: 2"
    )
    first, second = result.stderr.splitlines()
    assert first.startswith(f"vmviz: {broken}: it is no trace")
    assert second.startswith(f"vmviz: {no_file}: ")
    result = conform("--json", tmp_path)
    told = json.loads(result.stdout)
    assert result.exit_code == 2
    assert [one["name"] for one in told["traces"]] == ["cow-fork", "zap-whole"]
    assert [one["path"] for one in told["unreadable"]] == [str(broken), str(no_file)]
    assert told["totals"]["unreadable"] == 2


def test_paths_that_lead_nowhere_end_with_status_2(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.jsonl"):
        result = conform(path)
        assert result.exit_code == 2
        assert str(path) in result.stderr
    assert CliRunner().invoke(main, ["conform"]).exit_code == 2
    binary = tmp_path / "b.jsonl"
    binary.write_bytes(b"\xff\xfe")
    assert conform(binary).exit_code == 2
