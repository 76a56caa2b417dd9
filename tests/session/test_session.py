"""The session: a timeline that can be moved, whose every statement border has one state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmviz.kernel import Config, Machine, VmvizError
from vmviz.kernel.trace.bulk import Bulk
from vmviz.kernel.verify import verify
from vmviz.script import ScriptError
from vmviz.script.runner import Runner
from vmviz.session import InsideStatement, Session, live_session, script_session, story_session
from vmviz.session.export import boot_line, dump

RW, ANON = "PROT_READ|PROT_WRITE", "MAP_PRIVATE|MAP_ANONYMOUS"
STATEMENTS = [
    f"a = mmap(NULL, 64K, {RW}, {ANON}, -1, 0)",
    f'fb = mmap(NULL, 8M, {RW}, MAP_SHARED, open("/dev/fb0"), 0)',
    f'bar = mmap(NULL, 64K, {RW}, MAP_SHARED, open("/sys/bus/pci/devices/0000:00:02.0/resource0"), 0)',
    'zap_vma_ptes(vma("/dev/fb0"), vma("/dev/fb0") + 1M, 2M)',
    'zap_vma_ptes(vma("fb0"), vma("fb0") + 7M, 2M)',
    'zap_vma_ptes(vma("[stack]"), 0x7ffffffde000, 4K)',
    'store(vma("[stack]") + 64K, 16K)',
    'load(vma("resource0"), 12K)',
    'load(vma("fb0") + 1M)',
    'store(vma("[stack]"), "hello")',
    "heap = brk(0x555555768000)",
    "store(0x555555758000, 40K)",
    "brk(NULL)",
    "munmap(0x555555758000, 8K)",
    'munmap(vma("fb0") + 1M, 3M)',
    "munmap(1, 2)",
    "x = 5",
    "y = 3 + 4",
    "p = alloc_page()",
    'v = vma("[stack]")',
    "load(0x1000)",
]
MOVES = ["undo", "redo", "step", "back", "call", "call back", "function", "function back", "seek", "finish"]
CONFIG = Config(ram=16 << 20)


def session() -> Session:
    """A session on a small machine."""
    s = Session()
    s.runner = Runner(config=CONFIG)
    return s


def state(s: Session) -> tuple[str, dict[str, Any]]:
    """What must come back whenever the position does."""
    return s.machine.digest(), dict(s.runner.names)


def move(s: Session, what: str, n: int) -> None:
    """One move in time, by its name in `MOVES`."""
    match what:
        case "undo":
            s.undo()
        case "redo" | "finish":
            s.redo()
        case "step" | "back":
            s.step(n if what == "step" else -n)
        case "call" | "call back" | "function" | "function back":
            s.step_call(-1 if "back" in what else 1, functions="function" in what)
        case "seek":
            i = n % (len(s.done) + 1)
            s.seek(s.done[i].start if i < len(s.done) else s.machine.journal.end, i)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(st.sampled_from(STATEMENTS), st.tuples(st.sampled_from(MOVES), st.integers(1, 900))),
        min_size=2,
        max_size=30,
    )
)
def test_each_statement_border_has_one_state(actions: list[str | tuple[str, int]]) -> None:
    s = session()
    borders = [state(s)]
    for action in actions:
        if isinstance(action, str):
            while s.inside is not None:
                s.undo()
            at = s.index
            s.run(action)
            assert (s.index, len(s.done), s.future) == (at + 1, at + 1, [])
            borders[at + 1 :] = [state(s)]
        else:
            move(s, *action)
            if s.inside is None:
                assert state(s) == borders[s.index]
            else:
                assert s.runner.names == borders[s.index][1]
                assert s.done[s.index].start < s.position < s.done[s.index].end
        assert 0 <= s.index <= len(s.done) == len(borders) - 1
    for i in reversed(range(len(borders))):
        move(s, "seek", i)
        assert state(s) == borders[i]
    move(s, "seek", len(s.done))
    assert state(s) == borders[-1]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(STATEMENTS), max_size=12))
def test_a_saved_session_gives_the_same_journal_headless(texts: list[str]) -> None:
    s = session()
    for text in texts:
        s.run(text)
    script = s.script()
    runner = Runner()
    again = [runner.run(x, script) for x in runner.parse(script).statements]
    booted = int(script.startswith("boot("))
    assert all(o.expected is not False for o in again)
    assert runner.machine.config == CONFIG
    assert dump(runner.machine.journal) == s.dump()
    for done, outcome in zip(s.done, again[booted:], strict=True):
        assert (outcome.start, outcome.end, outcome.result) == (done.start, done.end, done.outcome.result)
    assert runner.machine.digest() == s.machine.digest()
    assert runner.names == s.runner.names


class TestMoving:
    def test_steps_go_forwards_and_back_over_the_same_states(self) -> None:
        s = session()
        for text in STATEMENTS[:4]:
            s.run(text)
        s.seek((0, 0), 0)
        seen = [s.machine.digest()]
        positions = [(s.position, s.index)]
        while s.step(1):
            seen.append(s.machine.digest())
            positions.append((s.position, s.index))
        assert s.index == 4
        assert len(seen) > 512 + 2048
        for digest, place in zip(reversed(seen[:-1]), reversed(positions[:-1]), strict=True):
            assert s.step(-1)
            assert (s.position, s.index) == place
            assert s.machine.digest() == digest
        assert not s.step(-1)

    @pytest.mark.parametrize("functions", [False, True])
    def test_calls_go_forwards_and_back_over_the_same_places(self, functions: bool) -> None:
        s = session()
        for text in [*STATEMENTS[:4], "x = 5", "y = 3", STATEMENTS[6]]:
            s.run(text)
        s.seek((0, 0), 0)
        places = [(s.position, s.index)]
        while s.step_call(1, functions=functions):
            places.append((s.position, s.index))
        assert s.index == len(s.done)
        back = [(s.position, s.index)]
        while s.step_call(-1, functions=functions):
            back.append((s.position, s.index))
        assert back == places[::-1]
        assert len(places) == len(set(places))

    def test_a_statement_without_records_is_a_step_of_its_own(self) -> None:
        s = session()
        s.run("x = 5")
        s.run("y = x")
        for move_back in (lambda: s.step(-1), lambda: s.step_call(-1), s.undo):
            move_back()
            assert (s.index, s.runner.names) == (1, {"x": 5})
            s.redo()
        assert s.runner.names == {"x": 5, "y": 5}

    def test_nothing_to_move_over(self) -> None:
        s = session()
        s.undo()
        s.redo()
        assert (s.step(), s.step(-1), s.step_call(1), s.step_call(-1)) == (False,) * 4
        assert (s.index, s.current, s.inside, s.future) == (0, None, None, [])

    def test_undo_inside_takes_the_statement_back_and_redo_ends_it(self) -> None:
        s = session()
        s.run(STATEMENTS[1])
        s.run(STATEMENTS[3])
        zap = s.done[1]
        s.undo()
        s.step(100)
        assert s.inside is zap
        assert s.current is zap
        assert s.future == []
        s.redo()
        assert (s.position, s.index) == (zap.end, 2)
        s.step(-1)
        s.undo()
        assert (s.position, s.index, s.current) == (zap.start, 1, s.done[0])


class TestRunning:
    def test_inside_a_statement_nothing_runs(self) -> None:
        s = session()
        s.run(STATEMENTS[1])
        s.step(-1)
        for call in (lambda: s.run("brk(0)"), s.run_next):
            with pytest.raises(InsideStatement, match="inside a statement"):
                call()

    def test_what_is_packed_stays_so_until_somebody_looks(self) -> None:
        s = Session()
        s.run(STATEMENTS[0])
        s.run("store(a)")
        kept = len(s.machine.journal._packed)
        s.run("store(a + 4K)")
        s.run("store(a + 8K)")
        assert len(s.machine.journal._packed) == kept + 2

    def test_a_new_statement_in_the_past_drops_the_future_and_its_names(self) -> None:
        s = session()
        s.run("x = 5")
        s.run(STATEMENTS[0])
        s.undo()
        with pytest.raises(ScriptError, match="'a' is not defined"):
            s.run("load(a)")
        assert len(s.future) == 1
        s.run("b = x + 1")
        assert (s.runner.names, s.future) == ({"x": 5, "b": 6}, [])
        assert [d.outcome.i for d in s.done] == [0, 1]

    @pytest.mark.parametrize(
        "text", ["load(zz)", "load(", "", "# words", "brk(0); brk(0)", 'load("x")', "userfaultfd(1)"]
    )
    def test_a_wrong_statement_changes_nothing(self, text: str) -> None:
        s = session()
        s.run(STATEMENTS[0])
        before = state(s), s.index, len(s.done)
        with pytest.raises(VmvizError):
            s.run(text)
        assert (state(s), s.index, len(s.done)) == before

    @pytest.mark.parametrize("text", ['load("x")', "zap_vma_ptes(1, 2, 3)", "store(a, 4K, vma)"])
    def test_a_wrong_statement_in_the_past_keeps_the_future(self, text: str) -> None:
        s = session()
        for statement in STATEMENTS[:3]:
            s.run(statement)
        end = s.machine.digest()
        s.undo()
        here = s.machine.digest()
        with pytest.raises(VmvizError):
            s.run(text)
        assert (s.machine.digest(), s.index, len(s.future)) == (here, 2, 1)
        s.redo()
        assert (s.machine.digest(), s.index, s.future) == (end, 3, [])

    def test_a_wrong_statement_that_forks_keeps_the_processes_of_the_future(self) -> None:
        s = Session()
        s.run(STATEMENTS[0])
        s.run("store(a, 8K)")
        s.run("fork()")
        s.run("[pid 2] store(a)")
        end = s.machine.digest()
        s.undo()
        s.undo()
        with pytest.raises(ScriptError):
            s.run("zap_vma_ptes(fork(), 1, 2)")
        s.redo()
        s.redo()
        assert (s.machine.digest(), verify(s.machine)) == (end, [])

    def test_boot_is_taken_back_with_what_follows(self) -> None:
        s = Session()
        s.run("boot(mem=64M, vdso=0)")
        s.run("brk(NULL)")
        s.undo()
        s.undo()
        s.run("brk(NULL)")
        assert s.machine.config == Config()
        s.undo()
        s.run("boot(cpus=2)")
        assert s.machine.config == Config(cpus=2)
        assert s.script() == "boot(cpus=2) = 0\n"


class TestStory:
    def test_the_story_runs_to_its_end_as_it_says(self) -> None:
        s = story_session()
        assert s.at_story_start
        told = [p.told for p in s.pending]
        assert all(told)
        assert not any(t.startswith("story") for t in told)
        while (outcome := s.run_next()) is not None:
            assert outcome.expected is True, outcome.mismatch
        assert s.pending == []
        assert not s.at_story_start

    def test_a_users_statement_goes_in_before_the_rest(self) -> None:
        s = story_session()
        first, second = s.pending[:2]
        s.run_next()
        s.run("x = 5")
        assert s.pending[0] is second
        s.undo()
        s.undo()
        s.run("y = 6")
        assert s.pending[:2] == [first, second]
        assert s.done[-1].story is None

    def test_run_next_in_the_past_does_it_again(self) -> None:
        s = story_session()
        outcome = s.run_next()
        pending = list(s.pending)
        s.undo()
        assert s.run_next() == outcome
        assert s.pending == pending

    def test_equal_statements_come_one_by_one(self) -> None:
        s = script_session("# story\nbrk(0)\nbrk(0)\nbrk(0)\n", "three.vmv")
        assert [p.statement.line for p in s.pending] == [2, 3, 4]
        s.run_next()
        s.run_next()
        s.undo()
        s.run("x = 1")
        assert [p.statement.line for p in s.pending] == [3, 4]

    def test_only_the_word_alone_divides(self) -> None:
        s = script_session("# story time begins\nbrk(0)\n#story\nbrk(0)  # told here\n", "s.vmv")
        assert (len(s.done), len(s.pending), s.pending[0].told) == (1, 1, "told here")

    def test_a_script_without_mark_is_all_to_come(self) -> None:
        s = script_session("brk(0)\nx = 1\n", "s.vmv", Config(ram=16 << 20))
        assert (len(s.done), len(s.pending), s.machine.config.ram) == (0, 2, 16 << 20)

    def test_a_wrong_script_is_an_error(self) -> None:
        with pytest.raises(ScriptError, match=r"s\.vmv:2:1: unknown function"):
            script_session("brk(0)\nbrq(0)\n", "s.vmv")


class TestScript:
    def test_results_are_expectations(self) -> None:
        s = Session(Machine(ram=64 << 20, zap_contract="void"), title="a base")
        for text in (
            STATEMENTS[1],
            *STATEMENTS[3:5],
            "munmap(1, 2)",
            "load(0x1000)",
            'vma("nothing")',
            "x = 5",
        ):
            s.run(text)
        first, *lines = s.script().splitlines()
        assert first.startswith("# To be run on its base (a base)")
        assert [line.rpartition(" = ")[2] for line in lines[1:]] == [
            "0",
            "-1",
            "-1 EINVAL",
            "SIGSEGV SEGV_MAPERR",
            "?",
            "5",
        ]

    def test_it_does_not_depend_on_the_position(self) -> None:
        s = session()
        for text in STATEMENTS[:4]:
            s.run(text)
        script, journal = s.script(), s.dump()
        s.undo()
        s.step(-3)
        assert (s.script(), s.dump()) == (script, journal)

    @pytest.mark.parametrize(
        "config",
        [
            Config(),
            Config(ram=1 << 20, vdso=False),
            Config(mode="x86-64-5l", zap_contract="special", cpus=3, comm='a "b" \\c'),
        ],
    )
    def test_the_boot_line_boots_the_same_machine(self, config: Config) -> None:
        runner = Runner()
        for line in boot_line(config):
            runner.run_text(line)
        assert runner.machine.config == config

    def test_dumps_tell_runs_apart(self) -> None:
        one, two, three = session(), session(), session()
        for s, pages in ((one, "16K"), (two, "16K"), (three, "20K")):
            s.run(STATEMENTS[0])
            s.run(f"store(a, {pages})")
        assert one.dump() == two.dump() != three.dump()


def test_labels_are_the_variables_that_lie_in_mappings() -> None:
    s = session()
    s.run(STATEMENTS[0])
    a = s.runner.names["a"]
    for text in ("small = 4096", "far = a + 1G", "b = a + 4K", "v = vma(a)"):
        s.run(text)
    assert s.labels() == {"a": a, "b": a + 4096, "v": a}
    s.run("munmap(a, 64K)")
    assert s.labels() == {}
    s.undo()
    assert set(s.labels()) == {"a", "b", "v"}
    s.undo()
    assert set(s.labels()) == {"a", "b"}


def test_a_live_session_says_what_is_missing() -> None:
    class Image:
        name, pid = "sh", 7
        pfns_visible, missing_right = False, "CAP_SYS_ADMIN in the first user namespace"
        warnings = ("changed",)

    sentence = "Frame numbers are hidden: the right CAP_SYS_ADMIN in the first user namespace is missing"
    s = live_session(Machine(ram=16 << 20), Image())  # type: ignore[arg-type]
    assert (s.title, s.remarks) == ("sh (pid 7)", [sentence, "changed"])
    with pytest.raises(ScriptError, match="no place on a given base"):
        s.run("boot()")


def test_there_are_bulk_records_to_stand_inside() -> None:
    """The moves above mean something only if a zap is one record."""
    s = session()
    s.run(STATEMENTS[1])
    s.run(STATEMENTS[3])
    records = s.machine.journal.records[s.done[1].start[0] :]
    assert sum(r.n for r in records if isinstance(r, Bulk)) >= 512
    assert len(records) < 60
