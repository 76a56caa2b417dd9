"""/proc/PID/maps and smaps from the model: the text byte for byte, and what each line counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vmviz.kernel import Machine
from vmviz.kernel.arch.x86 import _PAGE_DIRTY
from vmviz.kernel.fs.task_mmu import map_line, maps, smap_fields, smap_text, smaps
from vmviz.kernel.mm.flags import (
    MADV_DONTNEED,
    MADV_FREE,
    MADV_PAGEOUT,
    PROT_READ,
    VM_DONTEXPAND,
    VM_HUGEPAGE,
    VM_NOHUGEPAGE,
)
from vmviz.kernel.mm.huge_memory import hugepage_vma_check
from vmviz.kernel.verify import verify

PAGE = 4096
BASE = 0x100000000000


def machine(ram: int = 64 << 20) -> Machine:
    return Machine(ram=ram, vdso=False)


def area(m: Machine, pages: int, kind: str = "private", fd: int = -1) -> int:
    return m.mmap(BASE, pages * PAGE, "rw", kind, fd)


def numbers(m: Machine, at: int) -> dict[str, int]:
    """The lines of smaps that are not zero, without the sizes."""
    fields = smap_fields(m.mm, m.vma(at))
    return {k: v for k, v in fields.items() if v and k not in ("Size", "KernelPageSize", "MMUPageSize")}


SMAPS = """\
100000000000-100000004000 rw-p 00000000 00:00 0 
Size:                 16 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   8 kB
Pss:                   8 kB
Pss_Dirty:             8 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         8 kB
Referenced:            8 kB
Anonymous:             8 kB
LazyFree:              0 kB
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  0 kB
SwapPss:               0 kB
Locked:                0 kB
THPeligible:    0
VmFlags: rd wr mr mw me ac sd 
"""  # noqa: W291 (the kernel prints these blanks)


def test_smaps_is_printed_as_the_kernel_does() -> None:
    m = machine()
    at = area(m, 4)
    m.store(at, 2 * PAGE)
    assert smap_text(m.mm, m.vma(at)) == SMAPS
    assert smaps(m.mm).startswith(SMAPS)
    assert smaps(m.mm).count("VmFlags:") == len(m.mm.vmas) + 1


def test_maps_lines() -> None:
    m = machine()
    m.brk(m.brk(0) + PAGE)
    fd = m.memfd_create("a name")
    m.ftruncate(fd, 2 * PAGE)
    at = m.mmap(BASE, PAGE, "rw", "shared", fd, PAGE)
    lines = maps(m.mm).splitlines()
    named = {line[73:]: line for line in lines}
    assert sorted(named) == ["/memfd:a name (deleted)", "[heap]", "[stack]", "[vsyscall]"]
    assert all(line[72] == " " for line in lines)
    assert named["/memfd:a name (deleted)"].startswith("100000000000-100000001000 rw-s 00001000 ")
    assert named["[vsyscall]"].startswith("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  ")
    assert map_line(m.mm, m.vma(at)) == named["/memfd:a name (deleted)"]


def test_a_name_follows_two_blanks_when_the_numbers_reach_its_column_and_newlines_are_escaped() -> None:
    m = machine()
    at = area(m, 1)
    vma = m.vma(at).replace(name="a\nb")
    assert map_line(m.mm, vma)[73:] == "a\\012b"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("nothing", {}),
        ("read", {}),  # the zero page counts nowhere
        ("write", dict.fromkeys(("Rss", "Pss", "Pss_Dirty", "Private_Dirty", "Referenced", "Anonymous"), 16)),
        ("free", dict.fromkeys(("Rss", "Pss", "Private_Clean", "Anonymous", "LazyFree"), 16)),
        ("dontneed", {}),
        ("pageout", {"Swap": 16, "SwapPss": 16}),
        (
            "mlock",
            dict.fromkeys(
                ("Rss", "Pss", "Pss_Dirty", "Private_Dirty", "Referenced", "Anonymous", "Locked"), 16
            ),
        ),
    ],
)
def test_private_anonymous_memory(what: str, expected: dict[str, int]) -> None:
    m = machine()
    at = area(m, 4)
    if what not in ("nothing", "read"):
        m.store(at, 4 * PAGE)
    match what:
        case "read":
            m.load(at, 4 * PAGE)
        case "mlock":
            m.mlock(at, 4 * PAGE)
        case "free" | "dontneed" | "pageout":
            advice = {"free": MADV_FREE, "dontneed": MADV_DONTNEED, "pageout": MADV_PAGEOUT}[what]
            m.madvise(at, 4 * PAGE, advice)
    assert numbers(m, at) == expected


def test_pages_and_slots_are_shared_out_among_processes() -> None:
    m = machine()
    at = area(m, 4)
    m.store(at, 4 * PAGE)
    m.madvise(at, PAGE, MADV_PAGEOUT)
    first = m.pid
    child = m.fork()
    for pid in (first, child):
        m.switch_to(pid)
        got = numbers(m, at)
        assert (got["Rss"], got["Pss"], got["Pss_Dirty"], got["Shared_Dirty"]) == (12, 6, 6, 12)
        assert (got["Swap"], got["SwapPss"]) == (4, 2)
        # fork makes the child's entries old; the parent's stay as they are
        assert got.get("Referenced", 0) == (12 if pid == first else 0)
    m.store(at + PAGE)
    got = numbers(m, at)
    assert (got["Private_Dirty"], got["Shared_Dirty"], got["Pss"]) == (4, 8, 8)


def test_thirds_of_pages_are_rounded_down() -> None:
    """Three thirds of 4096 << 12 are one unit short of a page, and kB are rounded down: 3, as on Linux."""
    m = machine()
    at = area(m, 3)
    m.store(at, 3 * PAGE)
    m.fork()
    m.fork()
    assert numbers(m, at)["Pss"] == 3


@pytest.mark.parametrize("mode", ["x86-64-4l", "x86-64-5l"])
@pytest.mark.parametrize(
    ("users", "dirty", "expected"),
    [
        (1, True, {"Pss": 2048, "Pss_Dirty": 2048, "Private_Dirty": 2048}),
        (1, False, {"Pss": 2048, "Private_Clean": 2048}),
        (2, True, {"Pss": 1024, "Pss_Dirty": 1024, "Shared_Dirty": 2048}),
    ],
)
def test_a_huge_page(mode: str, users: int, dirty: bool, expected: dict[str, int]) -> None:
    m = Machine(ram=64 << 20, vdso=False, mode=mode)
    m.thp("always")
    at = m.mmap(BASE, 8 << 20, "rw", "private")
    m.store(at + (2 << 20))
    slot = m.arena.huge_slot(m.mm.pgd, at + (2 << 20))
    if not dirty:
        m.journal.write(m.arena, slot, m.arena.flat[slot] & ~_PAGE_DIRTY)
    if users == 2:
        m.fork()
    common = dict.fromkeys(("Rss", "Anonymous", "AnonHugePages", "Referenced"), 2048)
    assert numbers(m, at) == common | expected | {"THPeligible": 1}


@pytest.mark.parametrize(
    ("start", "size", "policy", "advice", "eligible"),
    [
        (0, 2 << 20, "always", 0, True),
        (0, 2 << 20, "madvise", 0, False),
        (0, 2 << 20, "never", 0, False),
        (PAGE, 2 << 20, "always", 0, False),  # no aligned 2 MiB fit
        (PAGE, (4 << 20) - PAGE, "always", 0, True),
        (0, (2 << 20) - PAGE, "always", 0, False),
        (0, 2 << 20, "madvise", VM_HUGEPAGE, True),
        (0, 2 << 20, "always", VM_NOHUGEPAGE, False),
        (0, 2 << 20, "always", VM_DONTEXPAND, False),
    ],
)
def test_thp_eligible(start: int, size: int, policy: str, advice: int, eligible: bool) -> None:
    m = machine()
    at = m.mmap(BASE + start, size, "rw", "private")
    m.thp(policy)
    vma = m.vma(at)
    assert vma.start == BASE + start
    assert hugepage_vma_check(m.mm, vma.replace(vm_flags=vma.vm_flags | advice), smaps=True) == eligible


def test_a_device_of_raw_frames_counts_nothing() -> None:
    m = machine()
    fb = m.mmap(0, 16 * PAGE, "rw", "shared", m.open("/dev/fb0"))
    assert numbers(m, fb) == {}
    assert " pf " in smap_text(m.mm, m.vma(fb))


@pytest.mark.parametrize(("kind", "prot", "swap"), [("shared", "rw", 16), ("private", "r", 16)])
def test_swapped_pages_of_a_memory_file(kind: str, prot: str, swap: int) -> None:
    m = machine()
    fd = m.memfd_create("f")
    m.ftruncate(fd, 4 * PAGE)
    at = m.mmap(BASE, 4 * PAGE, "rw", "shared", fd)
    m.store(at, 4 * PAGE)
    m.madvise(at, 4 * PAGE, MADV_PAGEOUT)
    other = m.mmap(BASE + (1 << 30), 4 * PAGE, prot, kind, fd)
    assert numbers(m, other).get("Swap", 0) == swap
    assert "SwapPss" not in numbers(m, other)


def test_a_private_writable_mapping_counts_what_it_has_no_entry_for() -> None:
    m = machine()
    fd = m.memfd_create("f")
    m.ftruncate(fd, 4 * PAGE)
    other = m.mmap(BASE + (1 << 30), 4 * PAGE, "rw", "private", fd)
    m.store(other + PAGE)  # a private copy of page 1
    at = m.mmap(BASE, 4 * PAGE, "rw", "shared", fd)
    m.store(at, 4 * PAGE)
    m.madvise(at, 4 * PAGE, MADV_PAGEOUT)
    assert numbers(m, at)["Swap"] == 16
    assert numbers(m, other)["Swap"] == 12


class TestTheUseOfPages:
    """PG_referenced and PG_active, of which smaps tells the first one (Referenced)."""

    @pytest.mark.parametrize(
        ("uses", "flag"), [(0, set()), (1, {"referenced"}), (2, {"active"}), (3, {"active", "referenced"})]
    )
    def test_taking_pages_by_the_hand(self, uses: int, flag: set[str]) -> None:
        m = machine()
        at = area(m, 3)
        m.store(at, 3 * PAGE)
        before, start = m.digest(), m.position
        for _ in range(uses):
            m.process_vm_readv(at, 3 * PAGE)
        after = m.digest()
        for i in range(3):
            page = m.frames.page(pfn_at(m, at + i * PAGE))
            assert page is not None
            assert set(page.flags) & {"referenced", "active"} == flag
        m.journal.seek(start)
        assert m.digest() == before
        m.journal.seek(m.journal.end)
        assert m.digest() == after
        assert not verify(m)

    @pytest.mark.parametrize("present", [0, 300, 1200])
    def test_a_range_is_what_its_pages_are_one_by_one(self, present: int) -> None:
        """The records grow with the tables, and the state is that of a loop over pages."""
        pages, digests, records = 1200, [], []
        for step in (pages, 1):
            m = machine()
            at = area(m, pages)
            if present:
                m.store(at, present * PAGE)
            before = len(m.journal.records)
            for i in range(0, pages, step):
                m.process_vm_readv(at + i * PAGE, step * PAGE)
            digests.append(m.digest())
            records.append(len(m.journal.records) - before)
        assert digests[0] == digests[1]
        assert records[0] < 300 < records[1]  # a TLB has 64 entries to fill

    def test_a_locked_page_keeps_the_mark(self) -> None:
        m = machine()
        at = area(m, 1)
        m.store(at)
        for _ in range(3):
            m.mlock(at, PAGE)
            page = m.frames.page(pfn_at(m, at))
            assert page is not None
            assert {"referenced", "unevictable"} <= set(page.flags)
            assert "active" not in page.flags
        m.process_vm_readv(at, PAGE)
        m.fork()
        m.switch_to(m.pid + 1)
        assert numbers(m, at)["Referenced"] == 4

    def test_a_page_that_is_unshared_first_is_the_one_that_is_used(self) -> None:
        m = machine()
        at = area(m, 1)
        m.store(at)
        m.fork()
        old = pfn_at(m, at)
        m.process_vm_readv(at, PAGE)
        new = pfn_at(m, at)
        pages = [m.frames.page(pfn) for pfn in (old, new)]
        assert ["referenced" in page.flags for page in pages if page] == [False, True]

    @pytest.mark.parametrize(("advice", "marked"), [(0, True), (2, False)])
    def test_unmapping_a_used_page_of_a_file(self, advice: int, marked: bool) -> None:
        m = machine()
        fd = m.memfd_create("f")
        m.ftruncate(fd, PAGE)
        at = m.mmap(BASE, PAGE, PROT_READ, "shared", fd)
        m.madvise(at, PAGE, advice)  # MADV_SEQUENTIAL: what was read once is not worth keeping
        m.load(at)
        pfn = pfn_at(m, at)
        m.munmap(at, PAGE)
        page = m.frames.page(pfn)
        assert page is not None
        assert ("referenced" in page.flags) == marked


def pfn_at(m: Machine, address: int) -> int:
    return m.arena.flat[m.arena.lookup(m.mm.pgd, address)] >> 12 & ((1 << 40) - 1)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc/PID/maps here")
def test_the_maps_of_a_real_process_are_printed_as_its_kernel_prints_them() -> None:
    from vmviz.live.load import open_base

    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()  # it has started, and waits
        try:
            imported, _ = open_base(str(process.pid))
            real = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        finally:
            process.stdin.close()
    ours = maps(imported.mm)
    if "[vsyscall]" not in real:
        ours = "".join(line for line in ours.splitlines(keepends=True) if "[vsyscall]" not in line)
    assert ours == real
