"""The report: text lines, JSON objects, the final state and the trace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vmviz.kernel import Config
from vmviz.kernel.arch.tlb import TlbFlush
from vmviz.script.report import Report, call_text, printable, trace_lines
from vmviz.script.runner import Runner

SCRIPT = """\
fb = mmap(NULL, 8M, PROT_READ|PROT_WRITE, MAP_SHARED, open("/dev/fb0"), 0)   # a frame buffer
heap = mmap(NULL, 64K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)
store(heap, "hi there")
zap_vma_ptes(vma(fb), fb + 1M, 2M)   = 0
zap_vma_ptes(vma(fb), fb + 1M, 16K)  = 0
zap_vma_ptes(vma(fb), fb, 3p)
zap_vma_ptes(vma(heap), heap, 4K)    = -1
zap_vma_ptes(vma(fb), fb + 7M, 2M)   = -1
zap_vma_ptes(vma(fb), fb, 2049)
load(fb + 1M)                        = SIGBUS BUS_ADRERR
munmap(heap, 64K)
munmap(heap + 1, 4K)                 = 0
"""
FIELDS = {
    "i": int,
    "line": int,
    "text": str,
    "ret": (int, str, type(None)),
    "errno": (str, type(None)),
    "signal": (dict, type(None)),
    "refusal": (dict, type(None)),
    "ptes_cleared": int,
    "ptes_unknown": int,
    "tlb": list,
}


def report(
    text: str, contract: str = "int", *, state: bool = False, **options: bool
) -> tuple[list[str], list[str]]:
    """What is printed, and the expectations that failed."""
    out: list[str] = []
    runner = Runner(config=Config(ram=64 << 20, zap_contract=contract))
    r = Report(out.append, "s.vmv", **options)
    script = runner.parse(text, "s.vmv")
    for statement in script.statements:
        r.add(runner.machine, runner.run(statement, text, "s.vmv"), statement)
    if state:
        r.state(runner.machine)
    return out, r.finish()


def objects(text: str, contract: str = "int", **options: bool) -> list[dict[str, Any]]:
    """The JSON objects, one a line."""
    return [json.loads(line) for line in report(text, contract, as_json=True, **options)[0]]


def test_each_json_object_has_the_fields_and_types() -> None:
    found = objects(SCRIPT)
    assert [(o["i"], o["line"]) for o in found] == [(i, i + 1) for i in range(12)]
    for o in found:
        for name, kind in FIELDS.items():
            assert isinstance(o[name], kind), (name, o)  # type: ignore[arg-type]
        for flush in o["tlb"]:
            assert flush["kind"] in ("pages", "full")
            assert flush["start"].startswith("0x")
        if o["refusal"] is not None:
            assert o["refusal"]["message"]
            assert {"check", "message", "legal"} <= set(o["refusal"])


def test_json_values() -> None:
    fb, heap, store, big, again, few, not_pfn, past, bug, load, munmap, odd = objects(SCRIPT)
    base = int(fb["ret"], 16)
    assert fb["text"].endswith("0)")
    assert heap["ret"].startswith("0x7f")
    assert (store["touched"], store["min_flt"], store["maj_flt"]) == (1, 1, 0)
    assert (big["ret"], big["ptes_cleared"]) == (0, 512)
    assert big["tlb"] == [
        {"kind": "full", "start": f"{base + (1 << 20):#x}", "end": f"{base + (3 << 20):#x}", "pages": 512}
    ]
    assert (again["ret"], again["ptes_cleared"], again["tlb"]) == (0, 0, [])
    assert again["why"]
    assert few["tlb"][0]["kind"] == "pages"
    assert (not_pfn["ret"], not_pfn["refusal"]["check"], not_pfn["refusal"]["legal"]) == (
        -1,
        "VM_PFNMAP",
        None,
    )
    assert past["refusal"]["legal"]["address"] == f"{base + (7 << 20):#x}"
    assert (bug["ret"], bug["refusal"]["check"]) == (None, "caller_bug")
    assert load["signal"] == {"name": "SIGBUS", "code": "BUS_ADRERR", "addr": f"{base + (1 << 20):#x}"}
    assert munmap["frames_freed"] == 1
    assert (odd["ret"], odd["errno"]) == (-1, "EINVAL")
    assert odd["expected"] == {"ok": False, "mismatch": "expected 0, got -1 EINVAL"}
    assert load["expected"]["ok"] is True
    assert "expected" not in munmap


@pytest.mark.parametrize("contract", ["void", "special"])
def test_json_of_the_contracts_that_return_nothing(contract: str) -> None:
    found = objects(SCRIPT, contract)
    assert [(o["ret"], o["verdict"]) for o in found[3:5]] == [(None, 0), (None, 0)]
    assert (found[6]["ret"], found[6]["verdict"], found[6]["expected"]["ok"]) == (None, -1, True)


def test_text() -> None:
    out, failed = report(SCRIPT)
    assert failed == []
    for line, source in zip(out, SCRIPT.splitlines(), strict=True):
        head = source.partition("#")[0].split("  = ")[0].rstrip()
        assert line.startswith(f"{head} = "), line
    assert "512 PTEs cleared; TLB: full flush (512 pages)" in out[3]
    assert "refused, nothing changed" in out[6]
    assert "nearest legal: 0x7ffff" in out[7]
    assert out[7].endswith(", 1M")
    assert "no fault handler" in out[9]


def test_text_of_a_void_zap_says_the_verdict() -> None:
    out, _ = report(SCRIPT, "void")
    assert "= ? (verdict 0)" in out[3]
    assert "= ? (verdict -1)    refused" in out[6]


def test_failed_expectations_name_file_line_and_column() -> None:
    out, failed = report(SCRIPT, check=True)
    assert failed == ["s.vmv:12:38: expected 0, got -1 EINVAL: munmap(heap + 1, 4K)                 = 0"]
    assert out[-2].endswith("WRONG: expected 0, got -1 EINVAL")
    assert out[-1] == "12 statements, 1 expectation failed"


def test_state_text_and_json_agree() -> None:
    state = objects(SCRIPT, state=True)[-1]["state"]
    lines = report(SCRIPT, state=True)[0]
    assert [v["name"] for v in state["vmas"]] == ["/dev/fb0", "[vvar]", "[vdso]", "[stack]"]
    text = "\n".join(lines)
    for vma in state["vmas"]:
        assert vma["start"] in text
        assert vma["end"] in text
    fb = int(state["vmas"][0]["start"], 16)
    runs = [(int(e["va"], 16) - fb, e["n"], int(e["pfn"], 16), e["level"]) for e in state["entries"]]
    assert runs == [(3 << 12, 253, 0xE0003, "pte"), (3 << 20, 1280, 0xE0300, "pte")]
    assert state["entries"][0]["bits"].startswith("P RW US PCD")
    assert int(state["entries"][0]["val"], 16) >> 12 & 0xFFFFF == 0xE0003
    assert state["counters"]["rss"] == 0
    assert state["counters"]["map_count"] == 4


def test_runs_of_the_state_go_on_across_tables() -> None:
    text = "a = mmap(0x10000000, 6M, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED)\nload(a, 6M)"
    (entry,) = [e for e in objects(text, state=True)[-1]["state"]["entries"] if e["va"] == "0x10000000"] or [
        {}
    ]
    assert (
        entry["n"] == 1
    )  # the zero page again and again: the frame is the same, so each is a run of its own
    text = text.replace("load(a, 6M)", "store(a, 6M)")
    entries = [e for e in objects(text, state=True)[-1]["state"]["entries"] if int(e["va"], 16) < 1 << 32]
    assert sum(e["n"] for e in entries) == 1536
    assert len(entries) < 8


def test_trace_in_text_is_a_call_graph() -> None:
    out, _ = report(SCRIPT.splitlines()[0] + "\nzap_vma_ptes(vma(fb), fb, 4M)\n", trace=True)
    zap = out[next(i for i, line in enumerate(out) if line.startswith("zap")) + 1 :]
    names = [line.strip().partition("(")[0] for line in zap if "{" in line or "x " in line]
    assert names[:4] == ["zap_vma_ptes", "zap_page_range_single", "untrack_pfn", "unmap_page_range"]
    assert names.count("zap_pte_range") >= 2
    depth = 0
    for line in zap:
        depth -= line.strip().startswith("}")
        assert len(line) - len(line.lstrip()) == 4 + 2 * depth, line
        depth += line.endswith("{")
    assert depth == 0


def test_trace_in_json_stays_in_the_object_of_its_statement() -> None:
    found = objects(SCRIPT, trace=True)
    assert len(found) == 12
    assert found[3]["trace"][0].startswith("zap_vma_ptes(")
    assert any("not reached, would fail" in line for o in found for line in o["trace"]) or found[7]["trace"]


def test_trace_of_a_refusal_shows_the_checks() -> None:
    runner = Runner(config=Config(ram=64 << 20))
    for line in SCRIPT.splitlines()[:2]:
        runner.run_text(line)
    lines = trace_lines(runner.machine, runner.run_text("zap_vma_ptes(vma(heap), heap - 4K, 4K)"))
    assert [line.rpartition(": ")[2] for line in lines if "<=" in line or "vm_flags &" in line] == [
        "FAIL",
        "not reached, would pass",
        "not reached, would fail",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("munmap(0x1000, 4K) = 0 (a = b)", "munmap(0x1000, 4K)"),
        ("munmap(0x1000,\n   4K)  = 0", "munmap(0x1000, 4K)"),
        ("munmap(0x1000, /* one = page */ 4K) = 0  # = 3", "munmap(0x1000, 4K)"),
        ("x  =  5", "x  =  5"),
    ],
)
def test_the_call_is_shown_without_what_it_expects(text: str, shown: str) -> None:
    from vmviz.script import parse_statement

    assert call_text(parse_statement(text)) == shown


def test_what_a_terminal_could_obey_is_escaped() -> None:
    out, _ = report('open("\\33[2J\\377")')
    assert out[0].isprintable()
    assert printable("a\x1b\u202e\nb\udcff") == "a\\x1b\\u202e\nb\\udcff"


def test_a_flush_is_a_hull() -> None:
    text = SCRIPT.splitlines()[0] + "\nzap_vma_ptes(vma(fb), fb + 4K, 98p)\nzap_vma_ptes(vma(fb), fb, 100p)"
    runner = Runner(config=Config(ram=64 << 20))
    *_, last = [runner.run(s, text) for s in runner.parse(text).statements]
    (flush,) = last.tlb
    assert isinstance(flush, TlbFlush)
    assert (last.ptes_cleared, flush.kind, flush.nr_pages) == (2, "full", 100)
