"""`vmviz conform --live`: the running kernel and the simulator agree; what differs is found and made small."""

from __future__ import annotations

import json
import platform
import random
import re
import sys
from collections.abc import Sequence
from functools import partial

import pytest
from click.testing import CliRunner, Result

from vmviz.cli import main
from vmviz.conform.live import Finding, LiveDifference, advices, explore, replay
from vmviz.conform.live_command import script_of
from vmviz.conform.live_host import WINDOW, Child, Host, LiveError, read_host, simulated
from vmviz.conform.live_ops import Operation, balanced, script, statement
from vmviz.conform.live_random import Chooser
from vmviz.conform.live_shrink import shrink
from vmviz.kernel.mm import mprotect, vma_merge
from vmviz.kernel.mm.flags import MADV_DONTFORK, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE
from vmviz.kernel.verify import verify
from vmviz.script.runner import Runner

LOW = WINDOW[0]
P = 4096
ANON = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
FAKE = Host("6.18.0-test", "6.18", True, 0, 65530, 8 << 20, 1 << 20, 0, False, 0)
"""A host for what needs no kernel."""


@pytest.fixture(scope="module")
def host() -> Host:
    """The running kernel; only where it is no Linux on x86-64, or of a version that is not modelled, is there none to
    compare with. Where it is, a child that does not work is a failure.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(
            f"conform --live compares with Linux on x86-64, not {sys.platform} on {platform.machine()}"
        )
    found = read_host()
    with Child() as child:
        child.run(Operation("munmap", (LOW, P)))
    if not found.exact:
        pytest.skip(f"kernel {found.release} is not on the dial; the nearest is {found.version}")
    return found


def mapped(pages: int = 4, prot: int = 3) -> Operation:
    return Operation("mmap", (LOW, pages * P, prot, ANON, -1, 0))


@pytest.mark.parametrize("seed", range(3))
def test_random_operations_agree(host: Host, seed: int) -> None:
    for finding in explore(host, 200, seed):
        pytest.fail("\n".join(script_of(host, shrink(finding, partial(replay, host)))))


def test_signals_are_results(host: Host) -> None:
    operations = [
        Operation("load", (LOW, 1)),
        mapped(2, 1),
        Operation("store", (LOW, 1, 7)),
        Operation("mmap", (LOW, 40 * P, 3, MAP_FIXED | 1, 0, 0)),
        Operation("store", (LOW, 40, 7)),
        Operation("fork"),
        Operation("store", (LOW - 4096 * 4, 1, 7)),
        Operation("exit"),
        Operation("load", (LOW, 24)),
    ]
    with Child() as child:
        answers = [child.run(op) for op in operations]
    signals = [a.get("sig") for a in answers]
    assert signals[0] == [11, 1, LOW]
    assert signals[2] == [11, 2, LOW]
    assert signals[4] == [7, 2, LOW + 24 * P], "the file ends there"
    assert answers[4]["touched"] == 24
    assert answers[8]["data"] == "07" * 24, "the child's exit has not ended its parent"
    assert replay(host, operations) is None


def test_a_broken_rule_is_found_and_made_small(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_merge(*_: object) -> bool:
        return False

    monkeypatch.setattr(vma_merge, "can_vma_merge_after", no_merge)
    finding = next(explore(host, 2000, 1))
    small = shrink(finding, partial(replay, host))
    assert small.difference.field == finding.difference.field
    assert len(small.operations) <= 5 < len(finding.operations)
    lines = script_of(host, small)
    assert lines[0].startswith(f'boot(kernel="{host.version}"')
    assert lines[-1].startswith(f"# {small.difference.field}: kernel ")
    assert replay(host, small.operations) == small, "it can be seen again"


def test_a_broken_rule_in_a_child_is_made_small_with_its_fork(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    padding = [Operation("madvise", (LOW, P, advice)) for advice in (1, 2, 0, 16, 17)]
    operations = [mapped(), Operation("store", (LOW, 2, 9)), *padding, Operation("fork"), *padding]
    operations += [Operation("mprotect", (LOW, P, 1)), Operation("exit"), *padding]
    assert replay(host, operations) is None
    real = mprotect.do_mprotect

    def broken(mm: object, start: int, length: int, prot: int) -> object:
        return None if getattr(mm, "id", 1) > 1 else real(mm, start, length, prot)  # type: ignore[arg-type]

    monkeypatch.setattr("vmviz.kernel.mm.mprotect.do_mprotect", broken)
    finding = replay(host, operations)
    assert finding is not None
    small = shrink(finding, partial(replay, host))
    assert [op.name for op in small.operations] == ["mmap", "fork", "mprotect"]
    assert script_of(host, small)[-4:-1] == [
        f"mmap({LOW:#x}, 4p, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)",
        "fork() = 2",
        f"[pid 2] mprotect({LOW:#x}, 1p, PROT_READ)",
    ]


def test_a_difference_in_what_is_present_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmviz.kernel.mm.madvise.do_madvise", lambda *_: None)
    finding = replay(host, [mapped(), Operation("store", (LOW, 1, 9)), Operation("madvise", (LOW, P, 4))])
    assert finding is not None
    assert finding.difference == LiveDifference(f"VMA {LOW:x}-{LOW + 4 * P:x}: Rss", 0, 4)


# -- what needs no kernel


def test_random_operations_are_the_same_for_a_seed_and_leave_a_sound_machine() -> None:
    assert chosen(5) == chosen(5)
    assert chosen(5) != chosen(6)
    names = {op.name for seed in range(20) for op in chosen(seed)}
    assert {"mmap", "mremap", "fork", "exit", "store", "fallocate", "mincore", "remap_file_pages"} <= names


def chosen(seed: int) -> list[Operation]:
    pair = simulated(FAKE)
    chooser = Chooser(random.Random(seed), WINDOW, advices(FAKE), lock_all=True)
    out = []
    for _ in range(120):
        out.append(chooser.next(pair.machine, len(pair.parents)))
        pair.run(out[-1])
    assert not verify(pair.machine)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_the_script_does_what_the_operations_did(seed: int) -> None:
    operations = chosen(seed)
    pair = simulated(FAKE)
    for op in operations:
        pair.run(op)
    while pair.parents:
        pair.run(Operation("exit"))
    text = "\n".join(script(operations, "6.18", {"swap": 0}))
    runner = Runner()
    parsed = runner.parse(text)
    for one in parsed.statements:
        outcome = runner.run(one, text)
        placed = re.search(r"\b(mmap|mremap)\(", one.text) and outcome.ret is not None and outcome.ret > 0
        if placed and outcome.ret is not None and not LOW <= outcome.ret < WINDOW[1]:
            op = next(op for op in operations if statement(op) in one.text)
            runner.machine.munmap(outcome.ret, op.args[1 if op.name == "mmap" else 2])
    machine = runner.machine
    machine.switch_to(machine.first_pid)
    seen = [
        [(v.start, v.end, v.vm_flags, v.pgoff, v.name) for v in m.mm.vmas.overlapping(*WINDOW)]
        for m in (machine, pair.machine)
    ]
    assert seen[0] == seen[1]


def test_shrinking_keeps_forks_whole() -> None:
    tried: list[Sequence[Operation]] = []

    def fails(operations: Sequence[Operation]) -> Finding | None:
        tried.append(operations)
        depth = 0
        for i, op in enumerate(operations):
            depth += (op.name == "fork") - (op.name == "exit")
            assert depth >= 0
            if op.name == "munmap" and depth == 1:
                return Finding(tuple(operations[: i + 1]), LiveDifference("ret", 0, -1))
        return None

    other = [Operation("mlock", (LOW + i * P, P)) for i in range(30)]
    many = [*other, Operation("fork"), *other, Operation("exit"), Operation("fork"), *other]
    many += [Operation("munmap", (LOW, P)), Operation("exit")]
    finding = fails(many)
    assert finding is not None
    assert [op.name for op in shrink(finding, fails).operations] == ["fork", "munmap"]
    assert len(tried) < 60
    assert balanced([Operation("exit"), Operation("fork")]) == [Operation("fork")]


def test_what_does_not_show_again_stays_whole_and_says_so() -> None:
    finding = Finding(
        tuple(Operation("mlock", (LOW, P)) for _ in range(100)), LiveDifference("kpageflags", 1, 0)
    )
    tried: list[Sequence[Operation]] = []

    def gone(operations: Sequence[Operation]) -> None:
        tried.append(operations)

    small = shrink(finding, gone)
    assert (small.operations, small.once, len(tried)) == (finding.operations, True, 1)


def test_statements() -> None:
    written = {
        Operation("mremap", (LOW, P, 2 * P, 3, LOW)): f"mremap({LOW:#x}, 1p, 2p, "
        f"MREMAP_MAYMOVE|MREMAP_FIXED, {LOW:#x})",
        Operation("madvise", (LOW, 0, MADV_DONTFORK)): f"madvise({LOW:#x}, 0, MADV_DONTFORK)",
        Operation("madvise", (LOW + 5, P, 77)): f"madvise({LOW + 5:#x}, 1p, 77)",
        Operation("msync", (LOW, P, 64)): f"msync({LOW:#x}, 1p, 0x40)",
        Operation("pwrite64", (2, 0x41, 2, 4090)): 'pwrite64(f2, "\\x41\\x41", 2, 0xffa)',
        Operation("munlockall"): "munlockall()",
    }
    assert {op: statement(op) for op in written} == written


def test_elsewhere_it_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(LiveError, match="needs Linux on x86-64"):
        read_host()


# -- the command


def conform(*args: str) -> Result:
    return CliRunner().invoke(main, ["conform", *args])


def test_the_command(host: Host) -> None:
    result = conform("--live", "--ops", "60", "--seed", "4")
    first, last = result.output.splitlines()
    assert first.startswith(f"kernel {host.release}, compared with {host.version}; 60 operations, seed 4; ")
    assert (last, result.exit_code) == ("no difference in 60 operations", 0)


def test_the_command_tells_a_difference(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmviz.kernel.mm.madvise.do_madvise", lambda *_: None)
    result = conform("--live", "--ops", "400", "--seed", "1", "--json")
    told = json.loads(result.output)
    assert (result.exit_code, told["agrees"], told["seed"]) == (1, False, 1)
    for one in told["differences"]:
        assert one["kernel"] != one["ours"]
        assert "madvise(" in one["script"][-1]
        assert len(one["script"]) <= 7


def test_live_and_recordings_exclude_each_other() -> None:
    assert conform("--live", "somewhere").exit_code == 2
    assert conform().exit_code == 2
