"""The runner: what each function does with good and bad values, and how outcomes are compared."""

from __future__ import annotations

import pytest

from vmviz.kernel import Config, Machine
from vmviz.kernel.fs import task_mmu
from vmviz.kernel.verify import verify
from vmviz.script import ScriptError, parse, parse_statement
from vmviz.script.functions import FUNCTIONS
from vmviz.script.names import CONSTANTS, NOT_YET
from vmviz.script.outcome import Outcome
from vmviz.script.runner import BOOT_KEYS, Runner

RW, ANON = "PROT_READ|PROT_WRITE", "MAP_PRIVATE|MAP_ANONYMOUS"
SETUP = f"""\
a = mmap(NULL, 64K, {RW}, {ANON}, -1, 0)
fb = mmap(NULL, 8M, {RW}, MAP_SHARED, open("/dev/fb0"), 0)
bar = mmap(NULL, 64K, {RW}, MAP_SHARED, open("/sys/bus/pci/devices/0000:00:02.0/resource0"), 0)
page = mmap(NULL, 16K, {RW}, MAP_SHARED, open("/dev/page"), 0)
mixed = mmap(NULL, 16K, {RW}, MAP_SHARED, open("/dev/mixed"), 0)
m = memfd_create("m")
"""


def run(text: str, runner: Runner | None = None) -> list[Outcome]:
    """Run a script; the outcomes of its statements."""
    runner = runner or Runner(config=Config(ram=64 << 20))
    script = runner.parse(text)
    return [runner.run(s, text) for s in script.statements]


@pytest.fixture
def runner() -> Runner:
    r = Runner(config=Config(ram=64 << 20))
    run(SETUP, r)
    return r


GOOD = [
    ('open("/dev/fb0")', "8"),
    ('open("/dev/fb0", O_RDONLY)', "8"),
    ('open("/tmp/x", O_RDWR|O_CREAT, 0644)', "8"),
    ('open("/dev/fb1")', "-1 ENOENT"),
    ('openat(AT_FDCWD, "/dev/fb0", O_RDWR)', "8"),
    ("close(3)", "0"),
    ("close(77)", "-1 EBADF"),
    ("close(-1)", "-1 EBADF"),
    ('memfd_create("n", 0)', "8"),
    ("ftruncate(m, 8K)", "0"),
    ("ftruncate(3, 8K)", "-1 EINVAL"),
    ("ftruncate(55, 8K)", "-1 EBADF"),
    ('pwrite64(m, "abc", 3, 0)', "3"),
    ('pwrite64(m, "abc", 2, 4095)', "2"),
    ('pwrite64(m, "abc", 3, -1)', "-1 EINVAL"),
    ('pwrite64(3, "abc", 3, 0)', "-1 EINVAL"),
    (f"mmap(NULL, 0, {RW}, {ANON})", "-1 EINVAL"),
    (f"mmap(0x10000, 4K, {RW}, {ANON}|MAP_FIXED, -1, 0)", "0x10000"),
    (f"mmap(NULL, 4K, {RW}, MAP_SHARED, 99, 0)", "-1 EBADF"),
    (f"mmap(0x20000, 3p, {RW}, {ANON}|MAP_POPULATE|MAP_FIXED)", "0x20000"),
    ("munmap(a, 4K)", "0"),
    ("munmap(a + 1, 4K)", "-1 EINVAL"),
    ("munmap(0x1000, 4K)", "0"),
    ("brk(0)", "0x555555758000"),
    ("brk(NULL)", "0x555555758000"),
    ("mprotect(a, 4K, PROT_READ)", "0"),
    ("mprotect(a, 64K, PROT_NONE)", "0"),
    ("mprotect(a, 17p, PROT_READ)", "-1 ENOMEM"),
    ("mprotect(a + 1, 4K, PROT_READ)", "-1 EINVAL"),
    ("mremap(a, 16p, 32p, MREMAP_MAYMOVE|MREMAP_FIXED, 0x40000000)", "0x40000000"),
    ("mremap(a, 16p, 8p)", "a"),
    ("madvise(a, 4p, MADV_DONTFORK)", "0"),
    ("madvise(a, 4p, 999)", "-1 EINVAL"),
    ("mlock(a, 4p)", "0"),
    ("mlock(a, 17p)", "-1 ENOMEM"),
    ("mlock2(a, 4p, MLOCK_ONFAULT)", "0"),
    ("mlock2(a, 4p, 8)", "-1 EINVAL"),
    ("munlock(a, 16p)", "0"),
    ("mlockall(MCL_FUTURE)", "0"),
    ("mlockall(MCL_ONFAULT)", "-1 EINVAL"),
    ("munlockall()", "0"),
    ("mincore(a, 16p)", "0"),
    ("mincore(a, 17p)", "-1 ENOMEM"),
    ("msync(a, 16p, MS_SYNC)", "0"),
    ("msync(fb, 4K, MS_SYNC)", "-1 EINVAL"),
    ("msync(a, 4K, MS_SYNC|MS_ASYNC)", "-1 EINVAL"),
    ("remap_file_pages(page, 4K, 0, 2, 0)", "0"),
    ("remap_file_pages(a, 4K, 0, 0, 0)", "-1 EINVAL"),
    ('rlimit("as", 64M)', "0"),
    ('rlimit("cpu", 1)', "-1 EINVAL"),
    ("rlimit(RLIMIT_MEMLOCK, 64K)", "0"),
    ("rlimit(RLIMIT_STACK, RLIM_INFINITY)", "0"),
    ("prctl(PR_SET_MM, PR_SET_MM_BRK, 0x555555800000)", "0"),
    ("prctl(PR_SET_MM, PR_SET_MM_START_BRK, 0x555555800000)", "-1 EINVAL"),
    ("prctl(PR_SET_MM, PR_SET_MM_BRK, 0)", "-1 EINVAL"),
    ("prctl(PR_SET_MM, PR_SET_MM_BRK, 0x555555800000, 1)", "-1 EINVAL"),
    ('memfd_create("n", MFD_CLOEXEC)', "8"),
    ('memfd_create("n", 0x40)', "-1 EINVAL"),
    ('fcntl(memfd_create("n", MFD_CLOEXEC), F_ADD_SEALS, F_SEAL_GROW)', "-1 EPERM"),
    ('fcntl(memfd_create("n", MFD_ALLOW_SEALING), F_ADD_SEALS, F_SEAL_GROW)', "0"),
    ('cat("/proc/9/maps")', "-1 ENOENT"),
    ('sysctl("vm.overcommit_memory", 2)', "0"),
    ('sysctl("vm.swap", 2)', "-1 ENOENT"),
    ("dropcaps()", "0"),
    ("madvise(a, 17p, MADV_RANDOM)", "-1 ENOMEM"),
    ("mremap(fb, 8M, 16M, MREMAP_MAYMOVE)", "-1 EFAULT"),
    ("load(a)", "0"),
    ("load(a, 64K)", "0"),
    ("load(0x1000)", "SIGSEGV SEGV_MAPERR"),
    ("load(-1)", "SIGSEGV SEGV_MAPERR"),
    ("load(1 << 48)", "SIGSEGV SI_KERNEL"),
    ("store(a)", "0"),
    ("store(a, 16p)", "0"),
    ("store(a, 17p)", "SIGSEGV SEGV_MAPERR"),
    ("store(a, 4K, 0x41)", "0"),
    ('store(a, "hello")', "0"),
    ("exec(a)", "SIGSEGV SEGV_ACCERR"),
    ("vma(fb)", "fb"),
    ("vma(fb + 1M)", "fb"),
    ('vma("fb0")', "fb"),
    ('vma("/dev/fb0")', "fb"),
    ("vma(vma(fb))", "fb"),
    ("zap_vma_ptes(vma(fb), fb, 2M)", "0"),
    ("zap_vma_ptes(vma(fb), fb, 0)", "0"),
    ("zap_vma_ptes(vma(a), a, 4K)", "-1"),
    ("zap_vma_ptes(vma(mixed), mixed, 4K)", "-1"),
    ("zap_vma_ptes(vma(fb), fb + 7M, 2M)", "-1"),
    ("remap_pfn_range(vma(page), page, 0xE0000, 16K)", "0"),
    ("remap_pfn_range(vma(page), page + 1, 0xE0000, 16K)", "-1 EINVAL"),
    ("io_remap_pfn_range(vma(page), page, 0xE0000, 4K)", "0"),
    ("vm_iomap_memory(vma(page), 0xE0000000, 16K)", "0"),
    ("vm_iomap_memory(vma(page), 0xE0000000, 8K)", "-1 EINVAL"),
    ("vm_insert_page(vma(page), page, alloc_page())", "0"),
    ("vm_insert_page(vma(page), page + 1M, alloc_page())", "-1 EFAULT"),
    ("vm_insert_page(vma(page), page, 0xE0000)", "-1 EINVAL"),
    ("vm_insert_page(vma(mixed), mixed, alloc_page())", "-1 EBUSY"),
    ("vmf_insert_pfn(vma(bar), bar, 0xFE000)", str(0x100)),
    ("vmf_insert_pfn(vma(bar), bar - 4K, 0xFE000)", "2"),
    ("follow_pfn(vma(fb), fb + 1p)", "0xe0001"),
    ("follow_pfn(vma(bar), bar)", "-1 EINVAL"),
    ("follow_pfn(vma(a), a)", "-1 EINVAL"),
    ("fork()", "2"),
    ("ftruncate(m, 4K)", "0"),
    ("fallocate(m, FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE, 0, 4K)", "0"),
    ("fallocate(m, FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE, 0, 0)", "-1 EINVAL"),
    ("fcntl(m, F_ADD_SEALS, F_SEAL_GROW)", "0"),
    ("fcntl(m, F_ADD_SEALS, 64)", "-1 EINVAL"),
    ('unmap_mapping_range(open("/dev/fb0"), 0, 0, 1)', "0"),
    ("copy_from_user(a, 8K)", "8192"),
    ("copy_from_user(1, 1)", "-1 EFAULT"),
    ("clear_user(a + 60K, 8K)", "4096"),
    ("clear_user(1, 1)", "-1 EFAULT"),
    ("get_user_pages(a, 8K)", "8192"),
    ("get_user_pages(fb, 4K)", "-1 EFAULT"),
    ("clear_refs(4)", "0"),
    ('thp("always")', "0"),
    ('thp("sometimes")', "-1 EINVAL"),
    ("clear_refs(6)", "-1 EINVAL"),
    ("pagemap(a)", "0x80000000000000"),
    ("pagemap(0)", "0x0"),
    ('smaps(a, "Size")', "64"),
    ('smaps(fb, "Rss")', "0"),
    ("kpageflags(0xE0000)", "0x100000"),
    ("kpageflags(1 << 41)", "-1 EINVAL"),
    ("kpagecount(1)", "0"),
    ("wait()", "-1 ECHILD"),
    ("exit(1)", "-1 EPERM"),
    ("exit_group(0)", "-1 EPERM"),
    ('execve("/usr/bin/thing", ["thing"], 0x7ffe /* 2 vars */)', "-1 EBUSY"),
]


@pytest.mark.parametrize(("text", "result"), GOOD, ids=[t for t, _ in GOOD])
def test_each_function_gives_what_the_kernel_gives(runner: Runner, text: str, result: str) -> None:
    outcome = runner.run_text(text)
    if result in runner.names:
        result = f"{runner.names[result]:#x}"
    assert outcome.result == result, outcome.why
    assert runner.machine.journal.end == outcome.end
    assert verify(runner.machine) == []


def test_every_function_is_in_the_table_and_has_a_line_of_help() -> None:
    tried = {parse_statement(t).call.func for t, _ in GOOD}  # type: ignore[union-attr]
    assert set(FUNCTIONS) - tried <= {"alloc_page", "zap_special_vma_range"}
    for function in FUNCTIONS.values():
        assert 5 < len(function.about) <= 110, function.name
        low, high = function.arity
        assert 0 <= low <= high


BAD = [
    ("munmap(a)", 1, "munmap takes 2 arguments, not 1: munmap(addr, length)"),
    ("munmap(a, 4K, 3)", 1, "takes 2 arguments, not 3"),
    ("brk()", 1, "brk takes 1 argument, not 0"),
    ("alloc_page(3)", 1, "alloc_page takes no arguments, not 1"),
    ("load(a, 1, 2)", 1, "load takes 1 to 2 arguments"),
    ("munmap(addr=a, 4K)", 8, "takes no named arguments"),
    ('munmap("a", 4K)', 8, "addr must be a number, not a string"),
    ("munmap(a, [4])", 11, "length must be a number"),
    ('brk("x")', 5, "addr must be a number"),
    ("open(3)", 6, "a path in quotes is wanted here"),
    ("close(open(3))", 12, "a path in quotes"),
    ("zap_vma_ptes(fb, fb, 4K)", 14, "vma(address) or vma(name), not as a number"),
    ('zap_vma_ptes("fb0", fb, 4K)', 14, "not as a string"),
    ('zap_vma_ptes(vma(fb), fb, "2M")', 27, "size must be a number"),
    ("zap_special_vma_range(vma(fb), fb, 2M)", 1, "from 7.1 on"),
    ("remap_pfn_range(vma(page), page, 1 << 40, 4K)", 34, "at most 40 bits"),
    ("remap_pfn_range(vma(page), page, 1, 1 << 60)", 37, "would end above 40 bits"),
    ("pwrite64(m, 3, 1, 0)", 13, "buf must be a string"),
    ('store(a, "")', 10, "writes nothing"),
    ('x = a + "b"', 9, "a number is wanted here"),
    ('x = -"b"', 6, "a number is wanted here"),
    ("load(0x7f...)", 6, "cut by strace"),
    ("load(a => 3)", 6, "a value is wanted here"),
    ("fallocate(m, 0, 0, 4K)", 14, "only FALLOC_FL_PUNCH_HOLE"),
    ("fcntl(m, 1, 0)", 10, "only F_ADD_SEALS"),
    ("vm_insert_page(vma(page), page, 0)", 1, "a page of the kernel's own, is not simulated"),
    ("rlimit(7, 1)", 8, "RLIMIT_DATA, RLIMIT_STACK"),
    ("prctl(1, 2, 3)", 7, "only PR_SET_MM"),
    ("prctl(PR_SET_MM, 9, 0x100000)", 1, "PR_SET_MM with 9 is not simulated"),
    ('memfd_create("n", MFD_HUGETLB)', 1, "MFD_HUGETLB is not simulated"),
    ('cat("/proc/self/map")', 5, "cat shows /proc/self/maps and /proc/self/smaps"),
    ('smaps(a, "Rs")', 10, "smaps has the lines Size, "),
    ("boot(mem=64M)", 1, "boot must be the first statement"),
    ("[pid 7] brk(0)", 1, "there is no process 7"),
]


@pytest.mark.parametrize(("text", "column", "message"), BAD, ids=[t for t, *_ in BAD])
def test_bad_arguments_are_errors_with_a_place_and_change_nothing(
    runner: Runner, text: str, column: int, message: str
) -> None:
    *before, last = text.split("; ")
    for statement in before:
        runner.run_text(statement)
    digest, names, end = runner.machine.digest(), dict(runner.names), runner.machine.journal.end
    with pytest.raises(ScriptError) as caught:
        run(" " * (len(text) - len(last)) + last, runner)
    assert (caught.value.line, caught.value.column) == (1, column), str(caught.value)
    assert message in caught.value.message
    assert (runner.machine.digest(), runner.names, runner.machine.journal.end) == (digest, names, end)


STATIC = [
    ("munmp(1, 2)", 1, "unknown function 'munmp'", "munmap"),
    ("load(fbb)", 6, "'fbb' is not defined", "fb"),
    ("mmap(NULL, 4K, PROT_RAED, MAP_PRIVATE)", 16, "'PROT_RAED' is not defined", "PROT_READ"),
    ("PROT_READ = 4", 1, "'PROT_READ' is a constant", None),
    ("load(later); later = 4", 6, "'later' is not defined", None),
    ("load(process_madvise(0, 1, 2, 3))", 6, "process_madvise is a call of Linux", None),
    ("userfaultfd(0)", 1, "userfaultfd is a call of Linux that vmviz does not simulate yet", None),
    ("load()", 1, "load takes 1 to 2 arguments, not 0", None),
]


@pytest.mark.parametrize(("text", "column", "message", "near"), STATIC, ids=[t for t, *_ in STATIC])
def test_static_errors_are_found_before_anything_runs(
    text: str, column: int, message: str, near: str | None
) -> None:
    r = Runner(config=Config(ram=16 << 20))
    with pytest.raises(ScriptError) as caught:
        r.parse(f"fb = brk(NULL)\n{text}\n", "s.vmv")
    error = caught.value
    assert (error.filename, error.line, error.column) == ("s.vmv", 2, column)
    assert message in error.message
    if near is not None:
        assert error.nearest == near
    assert r.machine.journal.end == (0, 0)


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_calls_that_are_not_simulated_are_named(name: str) -> None:
    with pytest.raises(ScriptError, match=f"{name} is a call of Linux"):
        Runner(config=Config(ram=16 << 20)).run_text(f"{name}(1, 2)")


class TestBoot:
    OPTIONS = [
        ("mem=64M", "ram", 64 << 20),
        ('mode="x86-64-5l"', "mode", "x86-64-5l"),
        ('kernel="6.1"', "kernel", "6.1"),
        ('zap_contract="void"', "zap_contract", "void"),
        ("vdso=0", "vdso", False),
        ("cpus=4", "cpus", 4),
        ("swap=16M", "swap", 16 << 20),
        ('comm="a name longer than fits"', "comm", "a name longer t"),
    ]

    @pytest.mark.parametrize(("option", "field", "value"), OPTIONS)
    def test_options(self, option: str, field: str, value: object) -> None:
        r = Runner(config=Config(ram=16 << 20))
        assert r.run_text(f"boot({option})").result == "0"
        assert getattr(r.machine.config, field) == value

    def test_all_keys_are_tried(self) -> None:
        assert {o.partition("=")[0] for o, *_ in self.OPTIONS} == set(BOOT_KEYS)

    @pytest.mark.parametrize(
        ("options", "column", "message"),
        [
            ("mem=1", 6, "RAM is 1M to 64G"),
            ("mem=64M+1", 6, "whole pages"),
            ('mem="64M"', 6, "mem wants a number"),
            ("mem=-64M", 6, "RAM is"),
            ("64M", 6, "boot takes mem="),
            ("men=64M", 6, "boot takes mem="),
            ("vdso=0, mem=8M, mem=9M", 22, "mem is given twice"),
            ('kernel="5.4"', 6, "'5.4' is not known; the nearest is 6.1; known: 6.1, 6.12, 6.18"),
            ('zap_contract="viod"', 6, "known: int, void, special"),
            ('mode="sv39"', 6, "machines are x86-64 only"),
            ('mode="x86"', 6, "x86"),
            ("vdso=2", 6, "vdso is 0 or 1"),
            ("cpus=0", 6, "cpus is 1 to 64"),
            ("cpus=1000000", 6, "cpus is 1 to 64"),
            ("comm=3", 6, "comm wants a string"),
        ],
    )
    def test_errors(self, options: str, column: int, message: str) -> None:
        r = Runner(config=Config(ram=16 << 20))
        with pytest.raises(ScriptError) as caught:
            r.run_text(f"boot({options})")
        assert caught.value.column == column
        assert message in caught.value.message
        assert r.machine.config.ram == 16 << 20

    def test_nearest(self) -> None:
        with pytest.raises(ScriptError) as caught:
            Runner(config=Config(ram=16 << 20)).run_text("boot(men=64M)")
        assert caught.value.nearest == "mem"
        with pytest.raises(ScriptError) as caught:
            Runner(config=Config(ram=16 << 20)).run_text('boot(zap_contract="viod")')
        assert caught.value.nearest == "void"

    def test_only_first_and_never_on_a_given_machine(self) -> None:
        with pytest.raises(ScriptError, match="first statement"):
            run("brk(0)\nboot(mem=64M)")
        with pytest.raises(ScriptError, match="no place on a given base"):
            Runner(Machine(ram=16 << 20)).run_text("boot(mem=64M)")


class TestProc:
    def test_cat_shows_what_the_kernel_would(self, runner: Runner) -> None:
        outcome = runner.run_text('cat("/proc/self/smaps")')
        assert outcome.output == task_mmu.smaps(runner.machine.mm)
        assert outcome.ret == len(outcome.output)
        assert outcome.to_json()["output"] == outcome.output

    def test_cat_of_another_process(self, runner: Runner) -> None:
        runner.run_text("fork()")
        runner.run_text("[pid 2] munmap(a, 64K)")
        first, second = (runner.run_text(f'cat("/proc/{pid}/maps")').output for pid in (1, 2))
        assert first is not None
        assert second is not None
        assert first.count("\n") == second.count("\n") + 1

    def test_nearest(self, runner: Runner) -> None:
        with pytest.raises(ScriptError) as caught:
            runner.run_text('cat("/proc/self/smap")')
        assert caught.value.nearest == "/proc/self/smaps"

    def test_the_heap_moves_in_two_steps(self, runner: Runner) -> None:
        runner.run_text("prctl(PR_SET_MM, PR_SET_MM_BRK, 0x600000000000)")
        runner.run_text("prctl(PR_SET_MM, PR_SET_MM_START_BRK, 0x600000000000)")
        assert runner.run_text("brk(0x600000002000)").result == "0x600000002000"
        assert runner.run_text('vma("[heap]")').result == "0x600000000000"
        runner.run_text("dropcaps()")
        assert runner.run_text("prctl(PR_SET_MM, PR_SET_MM_BRK, 0x600000004000)").errno == "EPERM"


ZAPS = [
    ("zap_vma_ptes(vma(fb), fb, 2M)", 0),
    ("zap_vma_ptes(vma(a), a, 4K)", -1),
    ("zap_vma_ptes(vma(fb), fb - 4K, 8K)", -1),
]


class TestExpectations:
    @pytest.mark.parametrize("contract", ["int", "void", "special"])
    @pytest.mark.parametrize(("text", "verdict"), ZAPS, ids=[t for t, _ in ZAPS])
    def test_zap_contracts_compare_the_verdict(self, contract: str, text: str, verdict: int) -> None:
        r = Runner(config=Config(ram=64 << 20, zap_contract=contract))
        run(SETUP, r)
        other = -1 - verdict
        wrong = r.run_text(f"{text} = {other}")
        right = r.run_text(f"{text} = {verdict}")
        assert (wrong.expected, right.expected) == (False, True)
        assert right.verdict == verdict
        assert right.ret == (verdict if contract == "int" else None)
        assert right.to_json()["ret"] == right.ret
        assert (right.refusal is None) == (verdict == 0)
        if contract != "int":
            assert f"the verdict is {verdict}" in wrong.mismatch

    @pytest.mark.parametrize(
        ("text", "ok"),
        [
            ("brk(NULL) = 0x555555758000", True),
            ("brk(NULL) = 0x1000", False),
            ("munmap(a + 1, 4K) = -1 EINVAL", True),
            ("munmap(a + 1, 4K) = -1", True),
            ("munmap(a + 1, 4K) = 0", False),
            ("munmap(a + 1, 4K) = -1 ENOMEM", False),
            ("munmap(a, 4K) = -1 EINVAL", False),
            ("load(fb) = 0", True),
            ("load(fb) = SIGBUS", False),
            ("load(0x1000) = SIGSEGV", True),
            ("load(0x1000) = SIGSEGV SEGV_MAPERR", True),
            ("load(0x1000) = SIGSEGV SEGV_ACCERR", False),
            ("load(0x1000) = SIGBUS SEGV_MAPERR", False),
            ("load(0x1000) = -1", False),
            ("load(0x1000) = ?", None),
            ("load(a) = ?", None),
            ("load(a)", None),
            ('memfd_create("x") = 8', True),
            ('memfd_create("x") = 8p', False),
            ("vma(0x1000) = -1", True),
            ("vma(0x1000) = 0", False),
            ("zap_vma_ptes(vma(0x1000), 0, 4K) = -1", True),
            ("vma(0x1000) = -1 EINVAL", False),
            ("zap_vma_ptes(vma(fb), fb + 4K, -8K) = 0", True),  # wraps to below the VMA: a no-op
            ("zap_vma_ptes(vma(fb), fb + 8K, -4K) = 0", False),  # wraps into the VMA: BUG_ON
        ],
    )
    def test_kinds(self, runner: Runner, text: str, ok: bool | None) -> None:
        outcome = runner.run_text(text)
        assert outcome.expected is ok
        assert bool(outcome.mismatch) == (ok is False)


class TestValues:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1K", 1 << 10),
            ("2M", 2 << 20),
            ("3G", 3 << 30),
            ("3p", 12288),
            ("a + 1p", 0x7FFFF7FB2000 + 4096),
            ("0x10 | 3", 0x13),
            ("1 << 12", 4096),
            ("1 << 64", 0),
            ("~0", (1 << 64) - 1),
            ("0 - 4096", -4096),
            ("-4096 + 4096", 0),
            ("0xffffffffffffffff + 2", 1),
            ("PROT_READ|PROT_WRITE", 3),
            ("vma(fb) + 4K", None),
        ],
    )
    def test_arithmetic_is_that_of_c(self, runner: Runner, text: str, value: int | None) -> None:
        wanted = runner.names["fb"] + 4096 if value is None else value
        if "a +" in text:
            wanted = runner.names["a"] + 4096
        assert runner.evaluate(f"x = {text}") == wanted

    def test_variables_hold_results_and_the_error_value(self, runner: Runner) -> None:
        run("x = munmap(a + 1, 4K)\ny = x\nv = vma(fb)\nw = v", runner)
        assert (runner.names["x"], runner.names["y"]) == (-1, -1)
        assert runner.names["w"] == runner.machine.vma("/dev/fb0")

    def test_numbers_never_grow_beyond_64_bits(self, runner: Runner) -> None:
        run("x = 0 - 3\n" + "x = x * 0xffffffffffffffff\n" * 50, runner)
        assert -(1 << 63) <= runner.names["x"] < 1 << 64

    def test_an_address_is_told_from_a_size(self, runner: Runner) -> None:
        assert runner.run_text("x = fb + 1M").to_json()["ret"] == f"{runner.names['fb'] + (1 << 20):#x}"
        assert runner.run_text("n = 8M").to_json()["ret"] == 8 << 20

    def test_a_vma_variable_sees_what_becomes_of_the_vma(self, runner: Runner) -> None:
        """In C it is a pointer: remap_pfn_range sets VM_PFNMAP on what it points to."""
        last = run(
            "v = vma(page)\nremap_pfn_range(v, page, 0xE0000, 16K)\nzap_vma_ptes(v, page, 16K)", runner
        )[-1]
        assert (last.result, last.ptes_cleared) == ("0", 4)

    def test_a_vma_that_is_gone_is_a_caller_bug(self, runner: Runner) -> None:
        last = run("v = vma(page)\nmunmap(page, 16K)\nzap_vma_ptes(v, page, 16K)", runner)[-1]
        assert last.ret is None
        assert last.refusal is not None
        assert last.refusal.check == "caller_bug"

    def test_no_such_vma_is_told_with_the_nearest(self, runner: Runner) -> None:
        by_name, by_address = run('vma("/dev/fb1")\nvma(0x1000)', runner)
        assert by_name.refusal is not None
        assert by_address.refusal is not None
        assert (by_name.refusal.check, by_name.ret) == ("find_vma", None)
        assert "/dev/fb0" in by_name.why
        assert "nearest" in by_address.why

    def test_pid(self, runner: Runner) -> None:
        assert runner.run_text(f"[pid {runner.machine.pid}] load(a)").result == "0"


class TestBytes:
    @pytest.mark.parametrize(
        ("literal", "data"),
        [("hello", b"hello"), (r"\xff\0\x41", b"\xff\0A"), ("ü", "ü".encode())],
    )
    @pytest.mark.parametrize("offset", [0, 4094])
    def test_what_is_stored_is_read_back(
        self, runner: Runner, literal: str, data: bytes, offset: int
    ) -> None:
        assert runner.run_text(f'store(a + {offset}, "{literal}")').result == "0"
        got = runner.run_text(f"load(a + {offset}, {len(data)})")
        assert got.data == data
        assert got.to_json()["data"] == data.hex()

    def test_a_long_load_shows_the_first_bytes_of_its_pages(self, runner: Runner) -> None:
        run("store(a, 4K, 0x41)\nstore(a + 4K, 4K, 0x42)", runner)
        got = runner.run_text("load(a, 8K)")
        assert (got.data, got.page_bytes, got.touched) == (None, b"AB", 2)

    def test_bytes_of_a_file_are_seen_through_its_mapping(self, runner: Runner) -> None:
        run('ftruncate(m, 4K)\npwrite64(m, "word", 4, 8)', runner)
        assert run(f"f = mmap(NULL, 4K, {RW}, MAP_SHARED, m, 0)\nload(f + 8, 4)", runner)[-1].data == b"word"


class TestRefusals:
    @pytest.mark.parametrize(
        "text",
        [
            "zap_vma_ptes(vma(fb), fb + 8K, -4K)",
            "zap_vma_ptes(vma(fb), fb, 2049)",
            "remap_pfn_range(vma(fb), fb, 0xE0000, 4K)",
            "vmf_insert_pfn(vma(a), a, 0xE0000)",
            "remap_pfn_range(vma(page), 0x7ffffffff000, 0xE0000, 4K)",
            "remap_pfn_range(vma(page), 0xffff800000000000, 0xE0000, 4K)",
            "io_remap_pfn_range(vma(page), -4K, 0xE0000, 8K)",
            "remap_pfn_range(vma(page), page, 0xE0000, 0)",
            "vm_insert_page(vma(bar), bar, alloc_page())",
        ],
    )
    def test_caller_bugs_are_explained_and_harmless(self, runner: Runner, text: str) -> None:
        out = runner.run_text(text)
        j = out.to_json()
        assert (j["ret"], j["errno"], j["signal"]) == (None, None, None)
        assert j["refusal"]["check"] == "caller_bug"
        assert j["refusal"]["message"]
        assert verify(runner.machine) == []

    def test_a_caller_bug_of_a_zap_names_the_legal_range(self, runner: Runner) -> None:
        j = runner.run_text("zap_vma_ptes(vma(fb), fb, 2049)").to_json()
        fb = runner.names["fb"]
        assert j["ret"] is None
        assert j["refusal"]["legal"] == {"address": f"{fb:#x}", "end": f"{fb + 4096:#x}", "size": 4096}

    def test_a_refusal_carries_its_checks(self, runner: Runner) -> None:
        j = runner.run_text("zap_vma_ptes(vma(fb), fb + 7M, 2M)").to_json()
        fb = runner.names["fb"]
        assert (j["ret"], j["verdict"], j["ptes_cleared"], j["tlb"]) == (-1, -1, 0, [])
        assert j["refusal"]["check"] == "range_in_vma"
        assert j["refusal"]["legal"] == {
            "address": f"{fb + (7 << 20):#x}",
            "end": f"{fb + (8 << 20):#x}",
            "size": 1 << 20,
        }
        assert [c["passed"] for c in j["refusal"]["checks"]] == [True, False, True]

    def test_what_an_import_does_not_tell_is_said(self, runner: Runner) -> None:
        m = runner.machine
        fb = runner.names["fb"]
        runner.run_text("zap_vma_ptes(vma(fb), fb, 8M)")
        m.journal.write(m.mm.unknown, fb, fb + (8 << 20))
        out = runner.run_text("load(fb)")
        assert out.ret is None
        assert out.refusal is not None
        assert out.refusal.check == "unknown"
        zap = runner.run_text("zap_vma_ptes(vma(fb), fb, 4M)")
        assert (zap.ret, zap.ptes_unknown) == (0, 1024)

    def test_out_of_memory_is_an_errno(self) -> None:
        r = Runner(config=Config(ram=2 << 20))
        out = run(f"x = mmap(NULL, 64M, {RW}, {ANON}|MAP_NORESERVE)\nstore(x, 64M)", r)[-1]
        assert (out.ret, out.errno) == (-1, "ENOMEM")
        assert verify(r.machine) == []
        assert r.run_text("alloc_page()").errno == "ENOMEM"


def test_pages_of_a_driver_can_be_inserted_and_unmapped_again(runner: Runner) -> None:
    before = runner.machine.frames.states.buddy.nr_free()
    text = "p = alloc_page()\nvm_insert_page(vma(page), page, p)\nload(page)\nmunmap(page, 16K)"
    assert [o.result for o in run(text, runner)][1:] == ["0", "0", "0"]
    assert runner.machine.frames.refcount.flat[runner.names["p"]] == 1
    assert runner.machine.frames.states.buddy.nr_free() == before - 1


def test_exec_runs_a_program_in_a_fresh_machine() -> None:
    out = run('execve("/bin/true", ["true"], NULL)\nexec(0x555555554000)\nexec(0x555555555000)')
    assert [o.result for o in out] == ["0", "0", "0"]


def test_evaluate_calls_nothing_that_changes(runner: Runner) -> None:
    with pytest.raises(ScriptError, match="unknown function 'munmap'"):
        runner.evaluate("x = munmap(a, 4K)")
    assert runner.evaluate('x = vma("/dev/fb0") + 0') == runner.names["fb"]


def test_constants_are_those_of_linux_on_x86() -> None:
    known = {
        "NULL": 0,
        "PROT_READ": 1,
        "MAP_FIXED": 0x10,
        "MAP_ANONYMOUS": 0x20,
        "O_CREAT": 0o100,
        "VM_PFNMAP": 0x400,
    }
    assert {k: CONSTANTS[k] for k in known} == known


def test_outcomes_are_numbered_and_know_their_lines() -> None:
    script = parse("brk(0)\n\nx = brk(0); brk(x)")
    r = Runner(config=Config(ram=16 << 20))
    assert [(o.i, o.line) for o in (r.run(s) for s in script.statements)] == [(0, 1), (1, 3), (2, 3)]


def test_processes_take_turns_by_the_prefix_of_a_statement() -> None:
    r = Runner()
    for text, result in (
        (f"a = mmap(NULL, 8K, {RW}, {ANON}, -1, 0)", ""),
        ("store(a, 8K, 1)", "0"),
        ("child = fork()", "2"),
        ("[pid 2] store(a, 1, 2)", "0"),
        ("load(a)", "0"),
        ("[pid 2] exit(0)", "0"),
        ("wait()", "2"),
    ):
        outcome = r.run_text(text)
        assert not result or outcome.result == result, (text, outcome.why)
    assert r.machine.peek(r.names["a"], 1) == b"\1"
    assert r.machine.pid == 1
    with pytest.raises(ScriptError, match="there is no process 2; the only one is 1"):
        r.run_text("[pid 2] load(a)")
    assert verify(r.machine) == []
