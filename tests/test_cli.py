"""The command line: exit status, messages, odd files and pipes.  No traceback, whatever comes in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vmviz import __version__
from vmviz.cli import main
from vmviz.data import examples
from vmviz.script.functions import FUNCTIONS

GOOD = 'fb = mmap(NULL, 8M, PROT_READ, MAP_SHARED, open("/dev/fb0"), 0)\nzap_vma_ptes(vma(fb), fb, 4K) = 0\n'
WRONG = GOOD + "zap_vma_ptes(vma(fb), fb + 8M, 4K)   = 0\n"


def invoke(*args: str, stdin: str | bytes = "") -> Result:
    """Run the command line in this process; anything but an orderly exit is raised."""
    result = CliRunner().invoke(main, args, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def spawn(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vmviz", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("path", examples(), ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "options", [(), ("--json",), ("--state",), ("--trace",), ("--json", "--state", "--trace")]
)
def test_examples_meet_their_expectations(path: Path, options: tuple[str, ...]) -> None:
    result = invoke("run", str(path), "--check", *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


@pytest.mark.parametrize("name", ["framebuffer", "framebuffer.vmv", "examples/framebuffer.vmv"])
def test_examples_are_found_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("run", name, "--check").exit_code == 0
    (tmp_path / "framebuffer").mkdir()  # a directory of that name is not meant
    assert invoke("run", name, "--check").exit_code == 0


class TestStatus:
    @pytest.mark.parametrize(
        ("script", "options", "status"),
        [
            (GOOD, (), 0),
            (GOOD, ("--check",), 0),
            (WRONG, (), 0),
            (WRONG, ("--check",), 1),
            (WRONG, ("--check", "--json"), 1),
            (WRONG + "munmp(1)", ("--check",), 2),
            (WRONG + 'brk("x")', ("--check",), 2),
            ("load(", (), 2),
            ("userfaultfd(0)", (), 2),
            ("", (), 0),
            ("", ("--check",), 0),
            ("\n\n", ("--check", "--json"), 0),
            ("# only\n# comments\n", ("--check",), 0),
            (GOOD.replace("\n", "\r\n"), ("--check",), 0),
            ("\ufeff" + GOOD, ("--check",), 0),
            (GOOD.rstrip("\n"), ("--check",), 0),
            ("boot(mem=1)", (), 2),
            ("brk(0)\nboot(mem=64M)", (), 2),
        ],
    )
    def test_of_scripts(self, script: str, options: tuple[str, ...], status: int) -> None:
        assert invoke("run", "-", *options, stdin=script).exit_code == status

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("run",), "Missing argument 'SCRIPT'"),
            (("run", "-", "--chekc"), "No such option"),
            (("--nothing",), "No such option"),
            (("run", "a", "b"), "unexpected extra argument"),
            (
                ("run", "-", "--kernel", "2.4"),
                "kernel '2.4' is not known; the nearest is 6.1; known: 6.1, 6.12, 6.18",
            ),
            (("run", "-", "--zap-contract", "maybe"), "'maybe' is not one of"),
            (("run", "no/such.vmv"), "there is no script 'no/such.vmv'"),
            (("run", "framebufer"), "did you mean the example 'framebuffer'?"),
            (("run", "/"), "Is a directory"),
            (("run", "x" * 5000), "too long"),
            (("open", "x" * 5000), "too long"),
            (("open", "/"), "it is not a regular file"),
            (("snapshot", "1"), "Missing option '-o'"),
            (("rum", "x"), "There is no command 'rum'. Did you mean 'run'?"),
            (("zzz",), "There is no command 'zzz'."),
            (("/",), "Did you mean 'run /' or 'open /'?"),
            ((), "the app needs a terminal"),
            (("open", "framebuffer"), "the app needs a terminal"),
        ],
    )
    def test_of_wrong_command_lines(self, args: tuple[str, ...], said: str) -> None:
        result = invoke(*args)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize("raw", [b"\x7fELF\x02\xff\xfe", bytes(range(256)), b"brk(0)\n\xff"])
    def test_of_binary_files(self, raw: bytes, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        path.write_bytes(raw)
        for result in (invoke("run", str(path)), invoke("run", "-", stdin=raw)):
            assert result.exit_code == 2
            assert "is no UTF-8; a script is a text file" in result.stderr

    def test_of_a_file_with_zeros(self) -> None:
        assert invoke("run", "-", stdin=b"brk(0)\n\0\0").exit_code == 2

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_of_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.vmv"
        path.write_text(GOOD)
        path.chmod(0)
        assert "Permission denied" in invoke("run", str(path)).stderr


class TestMessages:
    def test_a_wrong_expectation_names_file_line_and_column(self, tmp_path: Path) -> None:
        path = tmp_path / "w.vmv"
        path.write_text(WRONG)
        result = invoke("run", str(path), "--check")
        assert result.exit_code == 1
        assert f"{path}:3:38: expected 0, got -1: zap_vma_ptes" in result.stderr
        assert invoke("run", "-", "--check", stdin=WRONG).stderr.startswith("<stdin>:3:38: ")

    def test_a_static_error_is_found_before_anything_runs(self) -> None:
        result = invoke("run", "-", stdin=GOOD + "laod(fb)")
        assert result.stdout == ""
        assert "<stdin>:3:1: unknown function 'laod'" in result.stderr
        assert "did you mean load" in result.stderr

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_an_error_at_run_time_comes_after_what_was_run(self, options: tuple[str, ...]) -> None:
        text = WRONG + 'load(fb)\nload("x")\nload(fb)\n'
        result = invoke("run", "-", "--check", "--state", *options, stdin=text)
        assert result.exit_code == 2
        lines = [line for line in result.stdout.splitlines() if not line.endswith("failed")]
        assert len(lines) == 4
        failed, *error = result.stderr.splitlines()
        assert failed.startswith("<stdin>:3:38: expected 0")
        assert error[0] == "<stdin>:5:6: addr must be a number, not a string"

    def test_json_is_one_object_a_line_and_the_state_one_more(self) -> None:
        out = invoke("run", "-", "--json", "--state", "--trace", stdin=GOOD).stdout.splitlines()
        first, second, last = [json.loads(line) for line in out]
        assert (first["i"], second["i"], list(last)) == (0, 1, ["state"])
        assert {"vmas", "entries", "counters"} <= set(last["state"])

    def test_the_contract_can_be_chosen(self) -> None:
        out = invoke("run", "-", "--json", "--check", "--zap-contract", "void", stdin=GOOD)
        assert out.exit_code == 0
        assert json.loads(out.stdout.splitlines()[1])["ret"] is None

    @pytest.mark.parametrize("name", [None, *main.commands])
    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help(self, name: str | None, option: str) -> None:
        result = invoke(*([name] if name else []), option)
        assert result.exit_code == 0
        assert result.output.startswith("Usage:")
        assert all(len(line) <= 80 for line in result.output.splitlines())

    def test_version(self) -> None:
        assert invoke("--version").output == f"vmviz, version {__version__}\n"

    def test_calls_lists_every_function(self) -> None:
        out = invoke("calls").output
        for function in FUNCTIONS.values():
            assert function.signature in out
            assert function.about in out

    def test_themes(self) -> None:
        assert len(invoke("themes").output.splitlines()) >= 2


class TestBase:
    def test_a_base_that_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "s.snap"
        path.write_bytes(b"\x80\x04junk")
        for base in (str(path), str(tmp_path), "no/such", "99999999999999999999"):
            result = invoke("run", "-", "--base", base, stdin="brk(0)")
            assert (result.exit_code, result.stdout) == (2, "")
            assert result.stderr.startswith("vmviz: ")

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
    def test_boot_has_no_place_on_a_base(self) -> None:
        result = invoke("run", "-", "--base", "self", stdin="boot(mem=64M)")
        assert result.exit_code == 2
        assert "no place on a given base" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
class TestProcess:
    def test_a_reader_that_goes_away(self, tmp_path: Path) -> None:
        path = tmp_path / "long.vmv"
        path.write_text("brk(0)\n" * 3000)
        read, write = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-m", "vmviz", "run", str(path), "--json"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(write)
        os.read(read, 100)
        os.close(read)
        assert child.communicate(timeout=60)[1] == ""
        assert child.returncode == 141

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "s.vmv"
        path.write_text(GOOD)
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "vmviz", "run", str(path)],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (
            74,
            "vmviz: the output cannot be written: No space left on device\n",
        )

    def test_ctrl_c(self) -> None:
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from vmviz.cli import main; main(['run', '-'])"
        )
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        assert child.stdin is not None
        _wait_until_it_reads(child.pid)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out, err.strip()) == (130, "", "vmviz: interrupted")

    def test_no_standard_streams(self) -> None:
        command = f"exec {sys.executable} -m vmviz run - <&- "
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr

    def test_a_terminal_that_lacks_a_character(self, tmp_path: Path) -> None:
        path = tmp_path / "s.vmv"
        path.write_text('open("/tmp/→\\377")', encoding="utf-8")
        done = spawn("run", str(path), env={**os.environ, "PYTHONIOENCODING": "latin-1:strict"})
        assert (done.returncode, done.stderr) == (0, "")
        assert "there is no /tmp/\\u2192\\udcff" in done.stdout

    def test_the_module_runs_as_the_command_does(self) -> None:
        assert spawn("--version").stdout == f"vmviz, version {__version__}\n"


def _wait_until_it_reads(pid: int) -> None:
    """Until the process has opened nothing more and waits in read(2) on its standard input."""
    wchan = Path(f"/proc/{pid}/syscall")
    for _ in range(200_000):
        try:
            if wchan.read_text().startswith("0 0x0 "):
                return
        except OSError:
            pytest.skip("/proc/PID/syscall cannot be read here")
    pytest.skip("the process was never seen to wait")


def test_a_huge_script() -> None:
    text = "x = brk(0)\n" + "x = x + 1\n" * 5_000
    result = invoke("run", "-", "--check", stdin=text)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 5_002


def test_boot_must_not_contradict_the_command_line() -> None:
    script = 'boot(mem=64M, zap_contract="void")\n'
    out = invoke("run", "-", "--zap-contract", "special", stdin=script)
    assert out.exit_code == 2
    assert "zap_contract 'void' contradicts --zap-contract special on the command line" in out.stderr
    assert "<stdin>:1:15" in out.stderr
    assert invoke("run", "-", "--zap-contract", "void", stdin=script).exit_code == 0
    assert invoke("run", "-", stdin=script).exit_code == 0


def test_one_thing_is_not_many() -> None:
    script = (
        GOOD
        + "a = mmap(NULL, 4K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)\nstore(a)\nmunmap(a, 4K)\n"
    )
    lines = invoke("run", "-", stdin=script).stdout.splitlines()
    assert lines[1].endswith("= 0    1 PTE cleared; TLB: 1 page flushed singly")
    assert "1 PTE cleared; 1 frame and" in lines[4]
    assert "1 pages" not in lines[4]


def test_under_the_special_contract_the_refusal_names_both_kinds() -> None:
    script = 'zap_special_vma_range(vma("[stack]"), vma("[stack]"), 4K) = -1\n'
    out = invoke("run", "-", "--zap-contract", "special", "--check", stdin=script)
    assert out.exit_code == 0
    assert "is neither VM_PFNMAP nor VM_MIXEDMAP" in out.stdout
    assert (
        "is not VM_PFNMAP" in invoke("run", "-", stdin=script.replace("special_vma_range", "vma_ptes")).stdout
    )


def test_a_shift_by_less_than_nothing_is_an_error() -> None:
    out = invoke("run", "-", stdin="x = 1 << -1\n")
    assert out.exit_code == 2
    assert "a shift by a negative number of bits (-1)" in out.stderr


def test_frame_numbers_are_hexadecimal() -> None:
    script = f"p = alloc_page()\n{GOOD}follow_pfn(vma(fb), fb + 4K)\n"
    found = [
        json.loads(line)["ret"] for line in invoke("run", "-", "--json", stdin=script).stdout.splitlines()
    ]
    assert found[0].startswith("0x")
    assert found[3] == "0xe0001"
    assert "= 0xe0001" in invoke("run", "-", stdin=script).stdout


def test_too_many_contents_are_refused_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmviz.kernel.mm.contents.MAX_CONTENTS", 300)
    lines = ["a = mmap(NULL, 4K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)"]
    lines += [f'store(a, "{i}")' for i in range(1000, 1300)]
    out = invoke("run", "-", stdin="\n".join(lines))
    assert out.exit_code == 2
    assert "vmviz keeps at most 300 different page contents" in out.stderr
