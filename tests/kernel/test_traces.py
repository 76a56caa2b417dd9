"""The traces of a real 6.1 kernel are the final judge: every operation that is simulated agrees with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmviz.conform import Replayer, TraceResult, parse_scn, replay_trace
from vmviz.conform.compare import compare_record
from vmviz.conform.scn import ScenarioError, number

TRACES = Path(__file__).parent.parent / "data" / "kernel-traces"

# Traces whose every operation is simulated: they agree to the end.  This set only grows.
COMPLETE = {
    "brk",
    "cow-fork",
    "cow-pfnmap-fork",
    "driver-merge",
    "fixed-replaces",
    "growsdown",
    "hint-placement",
    "limits",
    "madv-dontneed",
    "madv-flags",
    "madv-fork",
    "madv-free",
    "madv-pageout",
    "madv-populate",
    "madv-remove-basic",
    "merge-anon-both-sides",
    "merge-anon-vma",
    "mixedmap",
    "mlock",
    "mlockall-basic",
    "mmap-errors",
    "mprotect-errors",
    "mprotect-split-merge",
    "mremap-basic",
    "mremap-errors",
    "pageout-fork-basic",
    "pfnmap-access",
    "pfnmap-madvise",
    "pfnmap-mremap",
    "pgtable-free",
    "private-file",
    "ramfs-basic",
    "random-01",
    "random-02",
    "random-03",
    "random-04",
    "random-05",
    "random-06",
    "random-07",
    "random-08",
    "random-09",
    "random-10",
    "random-11",
    "random-12",
    "segv-codes",
    "shared-file",
    "softdirty",
    "truncate-basic",
    "unmap-mapping-cow",
    "unmap-mapping-range",
    "zap-after-mprotect",
    "zap-after-split",
    "zap-before-start",
    "zap-cross-end",
    "zap-fork",
    "zap-half",
    "zap-hole",
    "zap-lazy-refault",
    "zap-not-pfnmap",
    "zap-overflow",
    "zap-partial",
    "zap-pfnram-mmio",
    "zap-private-cow",
    "zap-sparse-gigs",
    "zap-subpage-empty",
    "zap-subpage-runaway",
    "zap-subpage",
    "zap-three-tables",
    "zap-whole",
    "zap-zero-size",
    "zero-page",
}

# How far the others must agree at least, in operations, before the first one that is not simulated.
AT_LEAST = {
    "crash-zap-runaway": 2,
}

_results: dict[str, TraceResult] = {}


def result(name: str) -> TraceResult:
    if name not in _results:
        _results[name] = replay_trace(TRACES / f"{name}.jsonl")
    return _results[name]


@pytest.mark.parametrize("name", sorted(p.stem for p in TRACES.glob("*.jsonl")))
def test_trace_agrees_until_the_first_operation_that_is_not_simulated(name: str) -> None:
    r = result(name)
    assert r.differences == []
    assert r.complete or r.unsupported, "a replay that stops early says why"


@pytest.mark.parametrize("name", sorted(COMPLETE))
def test_trace_is_replayed_whole(name: str) -> None:
    r = result(name)
    assert (r.replayed, r.unsupported) == (r.ops, "")


@pytest.mark.parametrize(("name", "ops"), sorted(AT_LEAST.items()))
def test_trace_is_replayed_as_far_as_before(name: str, ops: int) -> None:
    assert result(name).replayed >= ops


def test_what_killed_the_real_kernel_is_refused_and_harms_nothing() -> None:
    r = result("crash-zap-runaway")
    assert (r.replayed, r.differences) == (2, [])
    assert "traced kernel" in r.unsupported


def test_the_comparison_notices_every_kind_of_difference() -> None:
    """A record that agrees is changed field by field; each change must be found."""
    import json

    lines = [json.loads(x) for x in (TRACES / "zap-private-cow.jsonl").read_text().splitlines()]
    player = Replayer()
    operations = parse_scn((TRACES / "zap-private-cow.scn").read_text())
    for op in operations[:4]:
        got = player.run(op)
    record = lines[4]

    def differences(changed: dict[str, object]) -> list[str]:
        window = (1 << 44, 0x110000000000)
        return compare_record(player.machine, player.oracle, window, player.start, changed, got)

    assert differences(record) == []
    leaf = next(i for i, r in enumerate(record["pt"]) if r["leaf"] and r["cls"] == "page")
    changes: list[tuple[tuple[object, ...], object]] = [
        (("ret",), -1),
        (("errno",), "EINVAL"),
        (("touched",), 3),
        (("zap", "leaves_after"), 7),
        (("zap", "danger"), "x"),
        (("vmas", 0, "vm_flags"), "0x1"),
        (("vmas", 0, "pgoff"), "0x1"),
        (("vmas", 0, "av"), 0),
        (("vmas", 0, "ops"), 0),
        (("vmas", 0, "off"), "0x0"),
        (("vmas", 0, "prot"), "0x0"),
        (("vmas", 0, "path"), "x"),
        (("vmas", 0, "VmFlags"), "rd"),
        (("vmas", 0, "kB", "Size"), 4),
        (("vmas", 0, "kB", "Rss"), 4),
        (("vmas", 0, "kB", "SwapPss"), 4),
        (("vmas", 0, "kB", "MMUPageSize"), 2048),
        (("vmas", 0, "kB", "AnotherLine"), 4),
        (("tables", "pte"), 2),
        (("pt", leaf, "fl"), "0x0"),
        (("pt", leaf, "ref"), 2),
        (("pt", leaf, "map"), 2),
        (("pt", leaf, "pf"), ""),
        (("pt", leaf, "pm"), "0x103"),
        (("pt", leaf, "kpc"), 2),
        (("pt", leaf, "kpf"), "0x800"),
        (("pt", leaf, "n"), 2),
        (("pt", leaf + 1, "idx"), 0),
        (("pt", leaf + 1, "cls"), "mmio"),
        (("pt", 0, "n"), 2),
        (("mm", "anon"), 2),
        (("mm", "pgtables"), 0),
        (("mm", "map_count"), 0),
    ]
    for path, value in changes:
        changed = json.loads(json.dumps(record))
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        assert differences(changed), f"{path} = {value!r} went unnoticed"


@pytest.mark.parametrize("text", ["", "x", "B4p", "4q", "0x", "B+", "1p2"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(ScenarioError):
        number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("B-1p", 0xFFFFFFFF000),
        ("$+0x10", 0x5010),
        ("2m", 2 << 20),
        ("3g", 3 << 30),
        ("B+1g+2m", 0x100040200000),
        ("0", 0),
    ],
)
def test_numbers(text: str, value: int) -> None:
    assert number(text, 0x5000) == value


def test_forks_nest_and_a_fork_that_fails_skips_what_it_nests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace made by hand; its third fork fails, as the first page of the VM_PAT mapping is private."""
    import json

    from vmviz.conform import trace

    text = (
        "fork\nfork\ndump\nendfork\ndump\nendfork keep\nreap\n"
        "mmap B 2p rw- private,dev:pfnmap\nwrite B 1p\nfork\nfork\nendfork\nendfork\ndump\n"
    )
    who = {2: "child", 3: "grandchild", 4: "child", 5: "child"}
    header = {"window": ["0x100000000000", "0x110000000000"]}
    empty: dict[str, object] = {"args": [], "vmas": [], "pt": [], "tables": {}, "mm": {}}
    records: list[dict[str, object]] = [
        {"op": text.splitlines()[n - 1].split()[0], "line": n, "who": who.get(n, "parent")} | empty
        for n in (*range(1, 11), 14)
    ]
    records[9] |= {"ret": -1, "errno": "ENOMEM"}
    (tmp_path / "t.scn").write_text(text)
    (tmp_path / "t.jsonl").write_text(
        "\n".join(map(json.dumps, [header, *records, {"end": 1, "ops": len(records)}]))
    )
    results = []
    monkeypatch.setattr(trace, "compare_record", lambda *a: results.append(a[5]) or [])
    r = replay_trace(tmp_path / "t.jsonl")
    assert (r.differences, r.replayed, r.ops, r.complete) == ([], 11, 11, True)
    assert results[9] == {"ret": -1, "errno": "ENOMEM"}
    assert (results[3]["child_alive"], results[5]["child_alive"]) == (0, 1)
    records[2]["who"] = "child"
    (tmp_path / "t.jsonl").write_text(
        "\n".join(map(json.dumps, [header, *records, {"end": 1, "ops": len(records)}]))
    )
    (difference,) = replay_trace(tmp_path / "t.jsonl").differences
    assert (difference.field, difference.kernel) == ("who", "child, line 3, dump")
