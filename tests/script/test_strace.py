"""strace logs: real ones against the process's own /proc/PID/maps, and each rule of the replay by itself."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vmviz.cli import main
from vmviz.kernel.mm.vma import vma_name
from vmviz.kernel.verify import verify
from vmviz.script.errors import ScriptError
from vmviz.script.strace import Replay
from vmviz.script.strace_exec import Area, NoHost, ThisHost, parse_layout
from vmviz.script.strace_log import read_log

DATA = Path(__file__).parents[1] / "data" / "strace"
LOGS = ("cat", "cells", "python")
KNOWN: dict[str, Any] = json.loads((DATA / "programs.json").read_text())
ANON = "MAP_PRIVATE|MAP_ANONYMOUS"
Row = tuple[int, int, str, str]


class RecordedHost:
    """The machine on which the logs were taken, as far as it is recorded: links, program headers, its 6.18."""

    kernel = "6.18"

    def realpath(self, path: str) -> str:
        return str(KNOWN["links"].get(path, path))

    def program(self, path: str) -> bytes | None:
        known = KNOWN["programs"].get(path)
        return elf_bytes(**known) if known else None


def elf_bytes(type: int, segments: list[list[int]], interp: str, relro: list[int] | None) -> bytes:
    """An ELF64 file that has these program headers, and nothing else."""
    headers = [struct.pack("<IIQQQQQQ", 1, f, o, v, v, fs, ms, 4096) for o, v, fs, ms, f in segments]
    end = 64 + 56 * (len(segments) + 2)
    text = interp.encode() + b"\0"
    if interp:
        headers.append(struct.pack("<IIQQQQQQ", 3, 4, end, 0, 0, len(text), len(text), 1))
    if relro:
        headers.append(struct.pack("<IIQQQQQQ", 0x6474E552, 4, 0, relro[0], relro[0], relro[1], relro[1], 1))
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<HHIQQQIHHHHHH", type, 62, 1, 0, 64, 0, 0, 64, 56, len(headers), 0, 0, 0)
    return (ident + head + b"".join(headers)).ljust(end, b"\0") + text


def rows(replay: Replay) -> list[Row]:
    mm = replay.machine.mm
    return [(v.start, v.end, v.perms, vma_name(mm, v)) for v in mm.vmas]


def told(areas: tuple[Area, ...]) -> list[Row]:
    return [(a.start, a.end, a.perms, a.name) for a in areas if a.name != "[vsyscall]"]


def special(areas: tuple[Area, ...]) -> tuple[Area, ...]:
    """The areas whose place no log tells."""
    return tuple(a for a in areas if a.name in ("[stack]", "[vdso]") or a.name.startswith("[vvar"))


def replayed(*lines: str, **options: Any) -> Replay:
    replay = Replay("\n".join(lines), **options)
    for _ in replay.run():
        pass
    assert verify(replay.machine) == []
    return replay


def mapped(replay: Replay) -> list[Row]:
    """Without the stack."""
    return [row for row in rows(replay) if row[3] != "[stack]"]


@pytest.mark.parametrize("source", ["headers", "layout"])
@pytest.mark.parametrize("name", LOGS)
def test_a_real_log_ends_in_the_maps_that_the_process_printed(name: str, source: str) -> None:
    areas = parse_layout((DATA / f"{name}.maps").read_text())
    host: Any = RecordedHost()
    if source == "layout":
        host.program = lambda _: None
    layout = special(areas) if source == "headers" else areas
    replay = Replay((DATA / f"{name}.strace").read_text(), host=host, layout=layout)
    wrong = [(o.text, o.mismatch) for o, _ in replay.run() if o.expected is False]
    assert wrong == []
    assert rows(replay) == told(areas)
    assert verify(replay.machine) == []
    if source == "headers":
        assert not replay.tally.unplaced
        assert not replay.tally.refused


@pytest.mark.parametrize("name", LOGS)
def test_a_replay_can_be_taken_back(name: str) -> None:
    replay = Replay((DATA / f"{name}.strace").read_text(), host=RecordedHost())
    machine = replay.machine
    before, ends = machine.digest(), []
    for step, (outcome, _) in enumerate(replay.run()):
        if step % 40 == 0:
            ends.append((outcome.end, machine.digest()))
    after = machine.digest()
    end = machine.position
    for position, digest in reversed(ends):
        machine.journal.seek(position)
        assert machine.digest() == digest
    machine.journal.seek((0, 0))
    assert machine.digest() == before
    machine.journal.seek(end)
    assert machine.digest() == after


A, B, C = 0x7F0000000000, 0x7F0000010000, 0x7F0000020000


def mmap(
    at: int, size: int, prot: str = "PROT_READ", flags: str = ANON, fd: str = "-1", off: str = "0"
) -> str:
    return f"mmap(NULL, {size}, {prot}, {flags}, {fd}, {off}) = {at:#x}"


RW = "PROT_READ|PROT_WRITE"
OPEN_LIB = 'openat(AT_FDCWD, "/lib/a.so", O_RDONLY|O_CLOEXEC) = 3'
MAP_LIB = mmap(A, 4096, flags="MAP_PRIVATE", fd="3")
RULES: dict[str, tuple[list[str], list[Row]]] = {
    "mmap is placed where it was": ([mmap(A, 5000)], [(A, A + 8192, "r--p", "")]),
    "a hint that was not taken": (
        [f"mmap({B:#x}, 4096, PROT_READ, {ANON}, -1, 0) = {A:#x}"],
        [(A, A + 4096, "r--p", "")],
    ),
    "MAP_FIXED_NOREPLACE": (
        [mmap(A, 4096, flags=f"{ANON}|MAP_FIXED_NOREPLACE")],
        [(A, A + 4096, "r--p", "")],
    ),
    "unknown flags are left out": ([mmap(A, 4096, flags=f"{ANON}|MAP_ABOVE4G")], [(A, A + 4096, "r--p", "")]),
    "a failed call": (
        [mmap(A, 4096), f"munmap({A + 1:#x}, 1) = -1 EINVAL (Invalid argument)"],
        [(A, A + 4096, "r--p", "")],
    ),
    "mremap moves": (
        [mmap(A, 4096, RW), f"mremap({A:#x}, 4096, 8192, MREMAP_MAYMOVE) = {B:#x}"],
        [(B, B + 8192, "rw-p", "")],
    ),
    "mremap stays": (
        [mmap(A, 4096, RW), f"mremap({A:#x}, 4096, 8192, MREMAP_MAYMOVE) = {A:#x}"],
        [(A, A + 8192, "rw-p", "")],
    ),
    "the first break begins the heap": (
        ["brk(NULL) = 0x5000000", "brk(0x5002000) = 0x5002000"],
        [(0x5000000, 0x5002000, "rw-p", "[heap]")],
    ),
    "a refused break": (
        ["brk(NULL) = 0x5000000", "brk(0x5002000) = 0x5002000", "brk(0x9002000) = 0x5002000"],
        [(0x5000000, 0x5002000, "rw-p", "[heap]")],
    ),
    "a file, its size from fstat": (
        [
            OPEN_LIB,
            'newfstatat(3, "", {st_mode=S_IFREG|0644, st_size=9000, ...}, AT_EMPTY_PATH) = 0',
            MAP_LIB,
        ],
        [(A, A + 4096, "r--p", "/lib/a.so")],
    ),
    "the same open file joins": (
        [
            OPEN_LIB,
            "dup(3) = 9",
            MAP_LIB,
            "close(3) = 0",
            mmap(A + 4096, 4096, flags="MAP_PRIVATE", fd="9", off="0x1000"),
        ],
        [(A, A + 8192, "r--p", "/lib/a.so")],
    ),
    "another open file does not": (
        [
            OPEN_LIB,
            MAP_LIB,
            "close(3) = 0",
            OPEN_LIB,
            mmap(A + 4096, 4096, flags="MAP_PRIVATE", fd="3", off="0x1000"),
        ],
        [(A, A + 4096, "r--p", "/lib/a.so"), (A + 4096, A + 8192, "r--p", "/lib/a.so")],
    ),
    "what strace -y says of a descriptor": (
        [
            'openat(AT_FDCWD</home>, "b", O_RDONLY) = 3</data/b>',
            mmap(A, 4096, flags="MAP_SHARED", fd="3</data/b>"),
        ],
        [(A, A + 4096, "r--s", "/data/b")],
    ),
    "a relative path": (
        ['openat(AT_FDCWD</home>, "./b", O_RDONLY) = 3', mmap(A, 4096, flags="MAP_SHARED", fd="3")],
        [(A, A + 4096, "r--s", "/home/b")],
    ),
    "an inherited descriptor": (
        [mmap(A, 4096, flags="MAP_SHARED", fd="7</data/c>")],
        [(A, A + 4096, "r--s", "/data/c")],
    ),
    "memory files": (
        [
            'memfd_create("m", MFD_CLOEXEC) = 5',
            "ftruncate(5, 8192) = 0",
            mmap(A, 8192, RW, "MAP_SHARED", "5"),
        ],
        [(A, A + 8192, "rw-s", "/memfd:m (deleted)")],
    ),
    "System V": (
        ["shmget(IPC_PRIVATE, 8192, IPC_CREAT|0600) = 4", f"shmat(4, NULL, 0) = {A:#x}"],
        [(A, A + 8192, "rw-s", "/SYSV00000000 (deleted)")],
    ),
    "System V, taken away": (
        [
            "shmget(0x10, 8192, IPC_CREAT|0600) = 4",
            f"shmat(4, NULL, SHM_RDONLY) = {A:#x}",
            f"shmdt({A:#x}) = 0",
        ],
        [],
    ),
    "pkey_mprotect": (
        [mmap(A, 4096, RW), f"pkey_mprotect({A:#x}, 4096, PROT_READ, 1) = 0"],
        [(A, A + 4096, "r--p", "")],
    ),
    "a range that is freed before munmap returns": (
        [
            f"7 {mmap(A, 4096)}",
            f"7 munmap({A:#x}, 4096 <unfinished ...>",
            f"8 {mmap(A, 4096, RW)}",
            "7 <... munmap resumed>) = 0",
        ],
        [(A, A + 4096, "rw-p", "")],
    ),
    "halves are joined by pid": (
        [
            f"7 mmap(NULL, 4096, PROT_READ, {ANON}, -1, 0 <unfinished ...>",
            f"8 mmap(NULL, 4096, {RW}, {ANON}, -1, 0 <unfinished ...>",
            f"7 <... mmap resumed>) = {A:#x}",
            f"8 <... mmap resumed>) = {B:#x}",
        ],
        [(A, A + 4096, "r--p", ""), (B, B + 4096, "rw-p", "")],
    ),
    "a line that strace has interrupted": (
        [
            "clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD}, 88strace: Process 9 attached",
            " <unfinished ...>",
            '[pid 9] execve("/bin/x", ["x"], 0x7ff /* 1 vars */) = 0',
            f"[pid 9] {mmap(B, 4096)}",
            "[pid 8] <... clone3 resumed>) = 9",
            f"[pid 8] {mmap(A, 4096)}",
        ],
        [(A, A + 4096, "r--p", "")],
    ),
    "a call that has changed its last argument before it returns": (
        [
            "8 clone3({flags=CLONE_VM|CLONE_THREAD, parent_tid=0x7f5a, exit_signal=0} <unfinished ...>",
            "9 set_robust_list(0x7f5a, 24) = 0",
            "8 <... clone3 resumed> => {parent_tid=[9]}, 88) = 9",
            f"9 {mmap(A, 4096)}",
        ],
        [(A, A + 4096, "r--p", "")],
    ),
    "a thread shares": (
        [
            "7 clone(child_stack=0x1, flags=CLONE_VM|CLONE_FILES|CLONE_THREAD) = 8",
            f"8 {mmap(A, 4096)}",
            "8 exit(0) = ?",
            "8 +++ exited with 0 +++",
        ],
        [(A, A + 4096, "r--p", "")],
    ),
    "a child has its own": (
        [
            f"7 {mmap(A, 4096)}",
            "7 clone(child_stack=NULL, flags=SIGCHLD) = 8",
            f"8 munmap({A:#x}, 4096) = 0",
            f"7 {mmap(B, 4096)}",
        ],
        [(A, A + 4096, "r--p", ""), (B, B + 4096, "r--p", "")],
    ),
    "execve begins anew": (
        [mmap(A, 4096), 'execve("/bin/x", ["x"], 0x7ff /* 1 vars */) = 0', mmap(B, 4096)],
        [(B, B + 4096, "r--p", "")],
    ),
    "flags as numbers": ([mmap(A, 4096, "0x3", "0x22")], [(A, A + 4096, "rw-p", "")]),
    "a failed execve does not": (
        [
            mmap(A, 4096),
            'execve("/bin/x", ["x"], 0x7ff /* 1 vars */) = -1 ENOENT (No such file or directory)',
        ],
        [(A, A + 4096, "r--p", "")],
    ),
    "execve by a thread": (
        [
            "7 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD) = 8",
            f"7 {mmap(A, 4096)}",
            '8 execve("/bin/x", ["x"], 0x7ff /* 1 vars */ <unfinished ...>',
            "7 +++ superseded by execve in pid 8 +++",
            "7 <... execve resumed>) = 0",
        ],
        [],
    ),
    "a killed process keeps its last state": (
        [mmap(A, 4096), "+++ killed by SIGKILL +++"],
        [(A, A + 4096, "r--p", "")],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    lines, expected = RULES[rule]
    assert mapped(replayed(*lines)) == expected


def test_size_of_a_placeholder() -> None:
    """fstat tells it; without, the mapping does."""
    fstat = "fstat(3, {st_mode=S_IFREG|0644, st_size=9000, ...}) = 0"
    for lines, size in (([OPEN_LIB, fstat, MAP_LIB], 9000), ([OPEN_LIB, MAP_LIB], 4096)):
        replay = replayed(*lines)
        assert [i.size for i in replay.machine.sys.inodes.data.values() if i.path == "/lib/a.so"] == [size]


def test_close_on_exec() -> None:
    """Descriptors with O_CLOEXEC are closed by execve, others stay open."""
    execve = 'execve("/bin/x", ["x"], 0x7ff /* 1 vars */) = 0'
    other = mmap(B, 4096, flags="MAP_PRIVATE", fd="4")
    replay = replayed(OPEN_LIB, 'open("/lib/b.so", O_RDONLY) = 4', MAP_LIB, other, execve)
    files = replay.machine.sys.files
    assert [files.get(n).path for n in replay.machine.fds.data.values()] == ["/lib/b.so"]


def test_the_tally_counts_every_call() -> None:
    replay = replayed(
        'read(0, "", 5) = 0',
        "futex(0x1, FUTEX_WAIT, 2, NULL <unfinished ...>",
        "<... futex resumed>) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)",
        'openat(AT_FDCWD, "/no", O_RDONLY) = -1 ENOENT (No such file or directory)',
        "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---",
        f"mprotect({A:#x}, 4096, PROT_READ) = 0",
        mmap(B, 4096),
        f"madvise({B:#x}, 4096, MADV_OF_THE_FUTURE) = 0",
        "process_madvise(3, [], 1, MADV_COLD, 0) = 5",
        "exit_group(0) = ?",
        "+++ exited with 0 +++",
    )
    told = replay.tally.to_json()
    notes = told.pop("notes")
    assert told == {
        "replayed": 1,
        "differing": 0,
        "skipped": {"exit_group": 1, "futex": 1, "process_madvise": 1, "read": 1},
        "failed": {"openat": 1},
        "unplaced": {"mprotect": 1},
        "not_simulated": {"madvise": 1},
        "events": 2,
    }
    assert notes == ["line 8: MADV_OF_THE_FUTURE is not simulated"]


def test_a_child_can_be_looked_at() -> None:
    lines = ["7 fork() = 8", f"8 {mmap(A, 4096)}", "8 exit_group(0) = ?", "8 +++ exited with 0 +++"]
    assert mapped(replayed(*lines)) == []
    assert mapped(replayed(*lines, keep=8)) == [(A, A + 4096, "r--p", "")]


def test_a_wrong_line_is_named() -> None:
    with pytest.raises(ScriptError) as caught:
        read_log("brk(NULL) = 0x5000\nmmap(NULL, 40", "a.log")
    assert (caught.value.line, caught.value.filename) == (2, "a.log")


def test_only_lines_that_matter_must_be_understood() -> None:
    log = read_log("ioctl(3, {{{ = 0\n!!\n12:00:00 poll([, = 1")
    assert (log.entries, dict(log.skipped)) == ([], {"ioctl": 1, "poll": 1})


def invoke(*args: str, stdin: str = "") -> Any:
    return CliRunner().invoke(main, ["run", *args], input=stdin)


def test_run_recognises_a_log_and_tells_its_state() -> None:
    result = invoke(str(DATA / "cells.strace"), "--json", "--state", "--check")
    assert result.exit_code == 0, result.output
    *_, tally, state = [json.loads(line) for line in result.stdout.splitlines()]
    assert tally["strace"]["skipped"]["read"] == 4
    assert tally["strace"]["differing"] == 0
    assert any(v["name"] == "/memfd:cells (deleted)" for v in state["state"]["vmas"])


@pytest.mark.parametrize(
    ("args", "stdin", "status", "words"),
    [
        (
            ("--strace", "-"),
            f"{mmap(A, 4096)}\nread(0) = 0\n",
            0,
            "1 call without effect on memory skipped: read 1",
        ),
        (("-",), "7 brk(NULL) = 0x5000000\n", 0, "skipped: brk 1"),
        (("-",), 'execve("/no/x", ["x"], 0x7ff /* 3 vars */) = 0\n', 0, "where /no/x lies is not told"),
        (("--strace", "-"), "mmap(NULL, 40", 2, "<stdin>:1:"),
        (("--strace", "-", "--base", "self"), "", 2, "--base has no place there"),
        (("-", "--layout", "/no/maps"), "", 2, "/no/maps: No such file or directory"),
        (("-", "--layout", __file__), "", 2, "is no line of /proc/PID/maps"),
    ],
)
def test_run(args: tuple[str, ...], stdin: str, status: int, words: str) -> None:
    result = invoke(*args, stdin=stdin)
    assert (result.exit_code, words in result.output) == (status, True), result.output


PROGRAM = """
import mmap, os
a = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
b = mmap.mmap(-1, 1 << 16)
fd = os.open("/proc/self/maps", 0); out = b""
while d := os.read(fd, 1 << 20): out += d
os.write(1, out); os._exit(0)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_process_of_this_machine(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=memory,desc,process"]
    run = subprocess.run(
        [*command, sys.executable, "-I", "-S", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if run.returncode:
        pytest.skip(f"this process may not trace: {run.stderr.strip()[:80]}")
    areas = parse_layout(run.stdout)
    replay = Replay(log.read_text(), host=ThisHost(), layout=special(areas))
    assert [o.mismatch for o, _ in replay.run() if o.expected is False] == []
    files = [row for row in told(areas) if row[3].startswith("/")]
    assert [row for row in rows(replay) if row[3].startswith("/")] == files
    writable = {row for row in told(areas) if not row[3]} ^ {row for row in rows(replay) if not row[3]}
    assert all(row[2] == "rw-p" for row in writable)  # which neighbours join depends on what was touched


def test_without_a_host_nothing_is_asked() -> None:
    assert (NoHost().realpath("/lib/x"), NoHost().program("/bin/sh")) == ("/lib/x", None)
