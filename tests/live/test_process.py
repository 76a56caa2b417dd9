"""Reading synthetic /proc trees: what a live kernel does not do on demand."""

import errno
import os
import shutil

import pytest

from tests.live.synthetic import PAGE, PRESENT, SWAPPED, FakeProc, FakeVma, example
from vmviz.live import Limits, LiveError, read_process
from vmviz.live.check import problems
from vmviz.live.process import read_from
from vmviz.live.procfs import ProcFs

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")


class Hooked(ProcFs):
    """Calls ``hook(name, n)`` before the n-th opening (from 1) of each file."""

    def __init__(self, fake, hook):
        super().__init__(str(fake.root), fake.pid)
        self.hook = hook
        self.seen = {}

    def open(self, name):
        self.seen[name] = self.seen.get(name, 0) + 1
        self.hook(name, self.seen[name])
        return super().open(name)


def test_the_whole_image(tmp_path):
    image = read_process(example(tmp_path).pid, root=str(tmp_path), taken="2024-01-01")
    assert (image.pid, image.name, image.cmdline, image.kernel_release, image.taken, image.page_size) == (
        77,
        "fake (x) y",
        ("fake", "--flag"),
        "6.1.0-fake",
        "2024-01-01",
        4096,
    )
    assert [(v.start, v.end, v.path, v.is_pfnmap) for v in image.vmas] == [
        (0x400000, 0x404000, "/bin/a file", False),
        (0x404000, 0x406000, "", False),
        (0x500000, 0x503000, "/dev/fb0", True),
    ]
    pages = image.pages
    assert pages.vpn.tolist() == [0x400, 0x403, 0x404, 0x405]
    assert pages.entry.tolist() == [PRESENT | 5, PRESENT | 900, SWAPPED | 0x201, PRESENT | 6]
    assert pages.pfn.tolist() == [5, 900, 0, 6]
    assert pages.flags.tolist() == [0x828, 0x82C, 0, 0x5828]
    assert pages.count.tolist() == [3, 2, 0, 1]
    assert pages.swapped.tolist() == [False, False, True, False]
    assert image.pages_of(image.vmas[1]) == slice(2, 4)
    assert image.pfns_visible
    assert (image.missing_right, image.warnings) == ("", ())
    assert "[vsyscall]" in image.notes[0]
    assert image.unknown_ranges == ((0x500000, 0x503000),)
    assert image.counters == {"VmRSS": 128, "VmPTE": 40}
    assert (image.layout["start_brk"], image.layout["start_stack"]) == (0x600000, 0x7000000)


def test_hidden_pfns_name_the_right(tmp_path):
    fake = FakeProc(tmp_path, [FakeVma(0x400000, 2, pages={0: PRESENT, 1: SWAPPED})]).write()
    image = read_process(fake.pid, root=str(tmp_path))
    assert not image.pfns_visible
    assert "CAP_SYS_ADMIN" in image.missing_right
    assert image.pages.flags is None
    assert image.pages.count is None
    assert len(image.pages) == 2


def test_a_pfn_beyond_the_memory_map_has_no_page(tmp_path):
    fake = FakeProc(tmp_path, [FakeVma(0x400000, 1, pages={0: PRESENT | 5000})], frames={1: (1, 1)}).write()
    image = read_process(fake.pid, root=str(tmp_path))
    assert (image.pages.flags.tolist(), image.pages.count.tolist()) == ([1 << 20], [0])


def test_unreadable_kpageflags_is_a_missing_right_and_no_failure(tmp_path):
    fake = example(tmp_path)
    (tmp_path / "kpageflags").unlink()
    image = read_process(fake.pid, root=str(tmp_path))
    assert image.pages.flags is None
    assert image.pages.count.tolist() == [3, 2, 0, 1]
    assert "kpageflags" in image.missing_right
    assert image.pfns_visible


def test_unreadable_pagemap_makes_everything_unknown(tmp_path):
    def deny(name, n):
        if name == "pagemap":
            raise PermissionError(errno.EPERM, "Operation not permitted")

    image = read_from(Hooked(example(tmp_path), deny), limits=Limits())
    assert len(image.pages) == 0
    assert image.unknown_ranges == ((0x400000, 0x406000), (0x500000, 0x503000))
    assert "pagemap" in image.missing_right
    assert "unknown" in image.warnings[0]


def test_without_smaps_an_empty_vma_is_unknown_not_absent(tmp_path):
    fake = example(tmp_path)
    (tmp_path / "77/smaps").unlink()
    image = read_process(fake.pid, root=str(tmp_path))
    assert len(image.pages) == 4
    assert image.unknown_ranges == ((0x500000, 0x503000),)
    assert "smaps" in image.warnings[0]


BIG = 1 << 20


@pytest.mark.parametrize(
    ("rss", "limits", "vpns", "unknown", "warning"),
    [
        (0, Limits(), [0x400], (), "Rss and Swap 0"),
        (4, Limits(), [0x400, 0x1000 + BIG - 1], (), None),
        (
            4,
            Limits(blind_pages=1000),
            [0x400],
            (((0x1000 + 1000) * PAGE, (0x1000 + BIG) * PAGE),),
            "at most 1000",
        ),
        (
            4,
            Limits(max_pages=1),
            [0x400],
            ((0x1000 * PAGE, (0x1000 + BIG) * PAGE),),
            "limit of 1 pages",
        ),
        (0, Limits(dense_pages=BIG), [0x400, 0x1000 + BIG - 1], (), None),
    ],
)
def test_a_large_sparse_vma_without_pagemap_scan(tmp_path, rss, limits, vpns, *, unknown, warning):
    fake = FakeProc(
        tmp_path,
        [
            FakeVma(0x400000, 1, pages={0: PRESENT | 1}),
            FakeVma(0x1000000, BIG, pages={BIG - 1: PRESENT | 2}, rss=rss),
        ],
    ).write()
    image = read_process(fake.pid, root=str(tmp_path), limits=limits)
    assert image.pages.vpn.tolist() == vpns
    assert image.unknown_ranges == unknown
    assert (warning is None and not image.warnings) or warning in image.warnings[0]


def test_a_small_hole_is_joined_and_its_entries_are_not_pages(tmp_path):
    fake = example(tmp_path)
    with open(tmp_path / "77/pagemap", "r+b") as file:  # inside the PFNMAP VMA: the kernel shows a hole there
        file.seek(0x501 * 8)
        file.write((PRESENT | 7).to_bytes(8, "little"))
    assert read_process(fake.pid, root=str(tmp_path), limits=Limits()).pages.vpn.tolist() == [
        0x400,
        0x403,
        0x404,
        0x405,
    ]


def test_a_process_that_changes_once_is_read_again(tmp_path):
    fake = example(tmp_path)

    def grow(name, n):
        if name == "maps" and n == 2:
            fake.vmas.insert(2, FakeVma(0x480000, 1, pages={0: PRESENT | 6}))
            fake.write()

    image = read_from(Hooked(fake, grow), limits=Limits())
    assert image.warnings == ()
    assert 0x480 in image.pages.vpn


def test_a_process_that_always_changes_gives_a_stated_partial_result(tmp_path):
    fake = example(tmp_path)

    def grow(name, n):
        if name == "maps" and n % 2 == 0:
            fake.vmas[1].nr_pages += 1
            fake.write()

    proc = Hooked(fake, grow)
    image = read_from(proc, limits=Limits(attempts=3))
    assert proc.seen["maps"] == 6
    assert len(image.vmas) == 3
    assert image.warnings[0].startswith("changed while read: 1 VMA went or changed, 1 came (first: 00404000-")


@pytest.mark.parametrize("times", [2, 20])
def test_what_was_seen_twice_is_read_again(tmp_path, times):
    """A VMA that grows over the place where a reading of smaps stands is told once more."""
    fake = example(tmp_path)

    def grow(name, n):
        if name == "smaps" and n <= times:
            fake.vmas.insert(
                1, FakeVma(fake.vmas[0].start, fake.vmas[0].nr_pages + 1, pages=fake.vmas[0].pages)
            )
            fake.write()
        elif name == "smaps" and n == times + 1:
            del fake.vmas[1 : 1 + times]
            fake.write()

    proc = Hooked(fake, grow)
    proc.close()  # without the helper files are opened in turn, as where this process reads itself
    if times < 8:
        image = read_from(proc, limits=Limits(attempts=8))
        assert (proc.seen["smaps"], list(problems(image)), image.warnings) == (times + 2, [], ())
    else:
        with pytest.raises(LiveError, match="its address space was changed each time it was read; try again"):
            read_from(proc, limits=Limits(attempts=8))


@pytest.mark.parametrize(
    ("file", "n"),
    [("maps", 1), ("smaps", 1), ("pagemap", 1), ("pagemap", 2), ("maps", 2), ("stat", 2)],
    ids=str,
)
def test_exit_while_reading(tmp_path, file, n):
    fake = example(tmp_path)

    def exit_now(name, at):
        if (name, at) == (file, n):
            shutil.rmtree(tmp_path / str(fake.pid))

    with pytest.raises(LiveError, match=r"PID 77.*exited while it was read"):
        read_from(Hooked(fake, exit_now), limits=Limits())


@pytest.mark.parametrize(("field", "match"), [("starttime", "exited"), ("state", "zombie")])
def test_a_reused_pid_and_a_zombie(tmp_path, field, match):
    fake = example(tmp_path)

    def change(name, n):
        if name == "pagemap":
            setattr(fake, field, 99999 if field == "starttime" else "Z")
            fake.write()
            if field == "state":
                (tmp_path / "77/maps").write_bytes(b"")

    with pytest.raises(LiveError, match=match):
        read_from(Hooked(fake, change), limits=Limits())


def test_an_address_space_that_is_cut_off_each_time(tmp_path):
    fake = example(tmp_path)
    os.truncate(tmp_path / "77/pagemap", 0x401 * 8)
    with pytest.raises(LiveError, match="replaced each time"):
        read_process(fake.pid, root=str(tmp_path))


def test_a_kernel_thread(tmp_path):
    FakeProc(tmp_path, [], pid=2, comm="kthreadd", stat_flags=0x208040).write()
    with pytest.raises(LiveError, match=r"PID 2 \(kthreadd\): it is a kernel thread"):
        read_process(2, root=str(tmp_path))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_no_permission_names_the_right(tmp_path, number):
    def deny(name, n):
        if name == "maps":
            raise OSError(number, os.strerror(number))

    with pytest.raises(LiveError, match=r"ptrace_may_access.*CAP_SYS_PTRACE") as caught:
        read_from(Hooked(example(tmp_path), deny), limits=Limits())
    assert f"uid {os.stat(tmp_path).st_uid}" in caught.value.hint


def test_a_missing_pid_names_the_nearest(tmp_path):
    example(tmp_path)
    with pytest.raises(LiveError, match=r"PID 80: there is no such process.*the nearest is PID 77 \(fake"):
        read_process(80, root=str(tmp_path))


@pytest.mark.parametrize("pid", [0, -3, "x", "", "../1", True, "1.5", "²"])
def test_what_is_no_pid(tmp_path, pid):
    with pytest.raises(LiveError, match="positive number"):
        read_process(pid, root=str(tmp_path))


def test_no_proc_and_a_foreign_proc(tmp_path):
    with pytest.raises(LiveError, match=r"no /proc of Linux.*snapshot"):
        read_process("self", root=str(tmp_path / "none"))
    (tmp_path / "5").mkdir()
    with pytest.raises(LiveError, match="no procfs of Linux"):
        read_process(5, root=str(tmp_path))


def test_a_text_above_the_limit(tmp_path):
    fake = example(tmp_path)
    with pytest.raises(LiveError, match="limit of 10 bytes"):
        read_process(fake.pid, root=str(tmp_path), limits=Limits(max_text=10))


def test_sixty_thousand_vmas(tmp_path):
    n = 60_000
    vmas = [
        FakeVma(0x10000000 + i * PAGE, 1, *(("r--p", "rd mr mw me") if i % 2 else ("rw-p", "rd wr mr mw me")))
        for i in range(n)
    ]
    for i in range(0, n, 7):
        vmas[i].pages[0] = PRESENT | (i + 1)
    fake = FakeProc(tmp_path, vmas, frames={n: (0, 0)}).write()
    image = read_process(fake.pid, root=str(tmp_path))
    assert len(image.vmas) == n
    assert image.pages.vpn.tolist() == [0x10000 + i for i in range(0, n, 7)]
    assert image.pages.pfn.tolist() == [i + 1 for i in range(0, n, 7)]
    assert image.vmas[59_999].perms == "r--p"
    assert image.warnings == ()
