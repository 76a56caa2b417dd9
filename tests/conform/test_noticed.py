"""The comparison looks at every field: a recording that agrees is changed field by field, and each must be found."""

from __future__ import annotations

import copy
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vmviz.cli import main
from vmviz.conform import trace
from vmviz.conform.comparison import DIFFERS, Comparison
from vmviz.conform.entries import bit_names
from vmviz.conform.trace import TraceError, read_trace, replay_trace
from vmviz.tui.facts import fact_lines
from vmviz.views.cells import plain

TRACES = Path(__file__).parent.parent / "data" / "kernel-traces"
CHOSEN = (
    "brk", "cow-pfnmap-fork", "fixed-replaces", "hugetlb-basic", "madv-pageout", "madv-free", "mixedmap", "mlock",
    "pfnmap-access", "cow-fork", "thp-basic", "zap-fork", "zap-pfnram-mmio", "zap-private-cow",
)  # fmt: skip
Record = dict[str, Any]
Change = tuple[str, Callable[[Record], object]]

NOT_STABLE = {"val", "pfns"}
"""Of entries, but for the classes whose frames are the same in every machine."""


def other(value: Any) -> Any:
    """Another value of the same form."""
    if isinstance(value, str):
        return hex(int(value, 16) ^ 0x40) if value.startswith("0x") else f"{value}x"
    return value + 1


def changes(record: Record) -> Iterator[Change]:
    """Every field of a record that is stable, with what changes it; the names say what kind of field it is."""

    def put(*path: Any, value: Any) -> Callable[[Record], object]:
        def change(copied: Record) -> None:
            at = copied
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value

        return change

    for name in ("ret", "errno", "touched", "data", "vec", "child_status", "child_alive"):
        if name in record:
            yield name, put(name, value=other(record[name]))
            yield f"no {name}", lambda r, name=name: r.pop(name)  # type: ignore[misc]
        elif name != "ret":
            yield f"added {name}", put(name, value=0)
    for part in ("sig", "zap", "tables", "mm"):
        for name, value in record.get(part, {}).items():
            if name not in ("brk", "start_brk") or record["op"] == "brk":
                yield f"{part}.{name}", put(part, name, value=other(value))
                yield f"no {part}.{name}", lambda r, part=part, name=name: r[part].pop(name)  # type: ignore[misc]
    for i, vma in enumerate(record["vmas"]):
        yield "no VMA", lambda r, i=i: r["vmas"].pop(i)  # type: ignore[misc]
        for name, value in vma.items():
            if name == "kB":
                for line, kb in value.items():
                    yield f"kB.{line}", put("vmas", i, "kB", line, value=kb + 4)
                yield "another line of smaps", put("vmas", i, "kB", "KSM", value=4)
            elif name == "av":
                yield "av", put("vmas", i, "av", value=0 if value else 99)
            else:
                yield name, put("vmas", i, name, value=other(value))
    for i, run in enumerate(record["pt"]):
        kind = f"{run['cls']} {run['lv']}" if run["leaf"] else run["lv"]
        yield f"{kind}: none", lambda r, i=i: r["pt"].pop(i)  # type: ignore[misc]
        for name, value in run.items():
            if name in NOT_STABLE and run.get("cls") not in ("res", "mmio"):
                continue
            if name == "pfns":
                yield f"{kind}.pfns", put("pt", i, "pfns", 0, value=other(value[0]))
            elif name not in ("lv", "leaf", "cls"):
                yield f"{kind}.{name}", put("pt", i, name, value=other(value))
            elif name == "cls":
                yield f"{kind}.cls", put("pt", i, "cls", value="nostruct")
        if run["n"] > 1 and "pfns" in run and run["cls"] == "page":
            yield "frames shared", put("pt", i, "pfns", 1, value=run["pfns"][0])


@pytest.fixture(scope="module")
def seen() -> dict[str, list[str]]:
    """For each kind of change the records in which it was not found."""
    found: dict[str, list[str]] = {}
    real = trace.compare_record

    def compare(machine: Any, oracle: Any, window: Any, start: Any, record: Any, *rest: Any) -> Any:
        for kind, change in changes(record):
            if len(found.setdefault(kind, [])) or tried.get(kind, 0) == 4:
                continue
            tried[kind] = tried.get(kind, 0) + 1
            changed = copy.deepcopy(record)
            change(changed)
            if not real(machine, oracle, window, start, changed, *rest):
                found[kind].append(f"line {record['line']}, {record['op']}")
        return real(machine, oracle, window, start, record, *rest)

    tried: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "compare_record", compare)
        for name in CHOSEN:
            assert replay_trace(TRACES / f"{name}.jsonl").agrees
    return found


def test_every_change_of_a_stable_field_is_noticed(seen: dict[str, list[str]]) -> None:
    assert {kind: where for kind, where in seen.items() if where} == {}


def test_the_changes_are_of_every_field(seen: dict[str, list[str]]) -> None:
    entries = {"fl", "bits", "n", "pm"}
    counted = entries | {"ref", "map", "pf", "kpc", "kpf", "cls"}
    wanted = {"ret", "errno", "touched", "data", "vec", "child_status", "child_alive", "sig.code", "sig.addr"}
    wanted |= {"zap.danger", "zap.in_range", "zap.pfnmap", "zap.leaves_after", "tables.pud", "mm.brk"}
    wanted |= {
        f"mm.{name}" for name in ("pgtables", "anon", "file", "shmem", "swap", "total_vm", "locked_vm")
    }
    wanted |= {f"mm.{name}" for name in ("data_vm", "exec_vm", "stack_vm", "map_count", "start_brk")}
    wanted |= {"s", "e", "perms", "off", "path", "vm_flags", "pgoff", "prot", "av", "ops", "VmFlags"}
    wanted |= {f"kB.{name}" for name in ("Size", "Rss", "Pss", "Swap", "LazyFree", "AnonHugePages", "Locked")}
    wanted |= {f"{level}.{name}" for level in ("pgd", "pud", "pmd") for name in ("fl", "bits", "n")}
    wanted |= {f"{cls} pte.{name}" for cls in ("page", "pool", "contig") for name in counted}
    wanted |= {f"{cls} pte.{name}" for cls in ("res", "mmio") for name in entries | {"idx", "pfns", "val"}}
    wanted |= {f"page pmd.{name}" for name in counted} | {"swap pte.swtype", "zero pte.fl", "frames shared"}
    assert wanted - seen.keys() == set()


@pytest.mark.parametrize(
    ("flags", "huge", "names"),
    [
        (0x67, False, "P RW US A D"),
        (0x8000000000000BBD, False, "P US PWT PCD A PAT G SPECIAL SOFTDIRTY NX"),
        (0x120, False, "A PROTNONE"),
        (0x10E7 | 1 << 58, True, "P RW US A D PSE PAT DEVMAP"),
        (0x40A, False, ""),
    ],
)
def test_names_of_bits(flags: int, huge: bool, names: str) -> None:
    assert bit_names(flags, huge=huge) == names


def changed_copy(to: Path, name: str, at: int, change: Callable[[Record], object]) -> Path:
    """A copy of a trace with one record changed."""
    lines = (TRACES / f"{name}.jsonl").read_text().splitlines()
    record = json.loads(lines[at])
    change(record)
    lines[at] = json.dumps(record)
    path = to / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    shutil.copy(TRACES / f"{name}.scn", to)
    return path


@pytest.mark.parametrize("at", [1, 4, 5])
def test_the_screen_has_a_row_for_every_change(tmp_path: Path, at: int) -> None:
    name = "zap-private-cow"
    record = json.loads((TRACES / f"{name}.jsonl").read_text().splitlines()[at])
    done: set[str] = set()
    for kind, change in changes(record):
        if kind in done:
            continue
        done.add(kind)
        comparison = Comparison(changed_copy(tmp_path, name, at, change))
        assert (kind, comparison.first) == (kind, at - 1)
        rows = comparison.rows(at - 1)
        assert any(row.differs for row in rows), kind


def test_the_screen_shows_the_call_that_killed_the_kernel() -> None:
    comparison = Comparison(TRACES / "crash-zap-runaway.jsonl")
    (row,) = comparison.rows(1)
    assert comparison.first == -1
    assert row.kernel == "killed by it"
    assert row.ours.startswith("refused as the caller's bug: ")
    assert not row.differs
    lines, first = fact_lines([row], 118)
    assert first == -1
    text = " ".join(word for line in lines for word in plain(line).split())
    assert "killed by it" in text
    assert "refused as the caller's bug" in text


@pytest.mark.parametrize("name", ["clear-refs-referenced"])
def test_an_agreeing_step_behind_clear_refs_shows_no_difference(tmp_path: Path, name: str) -> None:
    with tarfile.open(TRACES.parent / "recorded.tar.xz") as tar:
        for suffix in ("scn", "jsonl"):
            tar.extract(f"{name}.{suffix}", tmp_path, filter="data")
    comparison = Comparison(tmp_path / f"{name}.jsonl")
    assert any(step.cleared for step in comparison.steps)
    for i in range(len(comparison.steps)):
        assert [row for row in comparison.rows(i) if row.differs] == []


def test_what_the_screen_shows_is_of_the_window_of_then(tmp_path: Path) -> None:
    text = "mmap B 2p rw- private,anon\nwindow B+1p B+4p\nwindow B 0x110000000000\n"
    header = {"window": ["0x100000000000", "0x110000000000"]}
    empty: Record = {"who": "parent", "vmas": [], "pt": [], "tables": {}, "mm": {}, "args": []}
    records = [empty | {"op": op, "line": n} for n, op in enumerate(("mmap", "window", "window"), 1)]
    (tmp_path / "w.scn").write_text(text)
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, [header, *records, {"end": 1, "ops": 3}])))
    comparison = Comparison(tmp_path / "w.jsonl")
    assert comparison.steps[0].verdict == DIFFERS
    assert comparison.steps[0].window == (0x100000000000, 0x110000000000)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("mm"),
        lambda r: r.pop("vmas"),
        lambda r: r.update(pt=7),
        lambda r: r.update(line="x"),
        lambda r: r.update(args=None),
        lambda r: r.update(mm=[]),
        lambda r: r["vmas"].append(3),
        lambda r: r["vmas"][0].pop("kB"),
        lambda r: r["vmas"][0].update(s="zz"),
        lambda r: r["vmas"][0].update(s=4),
        lambda r: r["pt"][0].update(va="x"),
        lambda r: r["pt"][0].update(n="1"),
        lambda r: r["pt"][0].update(n=-1),
        lambda r: r["pt"][0].update(leaf=2),
        lambda r: r["pt"][0].update(lv="p9d"),
        lambda r: r["pt"][-1].update(fl="x"),
        lambda r: r["pt"][-1].update(pfns=3),
        lambda r: r["pt"][-1].update(pfns=[["0x1"]]),
        lambda r: r["vmas"][0].update(av=[1]),
        lambda r: r["vmas"][0]["kB"].update(Rss=None),
        lambda r: r["mm"].update(brk="x"),
    ],
)
def test_records_of_another_form_are_named(tmp_path: Path, change: Callable[[Record], object]) -> None:
    path = changed_copy(tmp_path, "zap-private-cow", 4, change)
    with pytest.raises(TraceError, match="line 5"):
        read_trace(path)
    result = CliRunner().invoke(main, ["conform", str(path)])
    assert (result.exit_code, result.stdout.count("\n")) == (2, 1)
    assert "not replayed: 1" in result.stdout
    assert result.stderr.startswith(f"vmviz: {path}: line 5")
