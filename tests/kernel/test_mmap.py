"""mmap, munmap and brk: errors in the kernel's order, the choice of addresses, splits, names and
accounting.
"""

from __future__ import annotations

import pytest

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.errors import VmvizError
from vmviz.kernel.mm.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_NONBLOCK,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_SYNC,
    O_CREAT,
    O_RDONLY,
    O_WRONLY,
    VM_SYNC,
)
from vmviz.kernel.mm.vma import vma_name
from vmviz.kernel.verify import verify

B, PAGE = 0x1000_0000_0000, 4096
ANON, SHARED = MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS
TOP = 1 << 64


@pytest.fixture
def m() -> Machine:
    machine = Machine(ram=16 << 20, vdso=False)
    machine.mmap(B, 2 * PAGE, 3, ANON)
    return machine


def errno_of(m: Machine, *args: int) -> str:
    before = m.digest()
    with pytest.raises(KernelError) as info:
        m.mmap(*args)
    assert m.digest() == before, "a refused mmap leaves nothing behind"
    assert info.value.why
    return info.value.errno


# Each row breaks its own rule and, where two are broken, shows which one the kernel meets first.
ERRORS = [
    ("offset unaligned", (B, 0, 3, ANON, -1, 1), "EINVAL"),
    ("bad descriptor before length 0", (B, 0, 3, MAP_PRIVATE, 77), "EBADF"),
    ("length 0 before the type", (B, 0, 3, 0x20), "EINVAL"),
    ("length wraps", (B, TOP - 1, 3, ANON), "ENOMEM"),
    ("length wraps before fixed unaligned", (B + 1, TOP - 1, 3, ANON | MAP_FIXED), "ENOMEM"),
    ("larger than the address space", (B, 0x800000000000, 3, ANON), "ENOMEM"),
    ("fixed past the end", (0x7FFFFFFFE000, 4 * PAGE, 3, ANON | MAP_FIXED), "ENOMEM"),
    ("fixed past the end, unaligned", (0x7FFFFFFFE001, 4 * PAGE, 3, ANON | MAP_FIXED), "ENOMEM"),
    ("fixed unaligned", (B + 1, PAGE, 3, ANON | MAP_FIXED), "EINVAL"),
    ("below mmap_min_addr", (0, PAGE, 3, ANON | MAP_FIXED), "EPERM"),
    ("noreplace over something", (B + PAGE, 2 * PAGE, 3, ANON | MAP_FIXED_NOREPLACE), "EEXIST"),
    ("noreplace before the type", (B + PAGE, 2 * PAGE, 3, MAP_ANONYMOUS | MAP_FIXED_NOREPLACE), "EEXIST"),
    ("no type", (B, PAGE, 3, MAP_ANONYMOUS), "EINVAL"),
    ("anonymous and validate", (B, PAGE, 3, MAP_SHARED_VALIDATE | MAP_ANONYMOUS), "EINVAL"),
    ("a shared stack", (B, PAGE, 3, SHARED | MAP_GROWSDOWN), "EINVAL"),
    ("no huge pages", (B, 2 << 20, 3, ANON | MAP_HUGETLB), "ENOMEM"),
    ("more than the RAM", (B, 17 << 20, 3, ANON), "ENOMEM"),
]


@pytest.mark.parametrize(("args", "errno"), [pytest.param(a, e, id=name) for name, a, e in ERRORS])
def test_mmap_errors(m: Machine, args: tuple[int, ...], errno: str) -> None:
    assert errno_of(m, *args) == errno


def test_mmap_errors_of_files(m: Machine) -> None:
    fb_ro, fb_wo, fb = m.open("/dev/fb0", O_RDONLY), m.open("/dev/fb0", O_WRONLY), m.open("/dev/fb0")
    assert errno_of(m, 0, PAGE, 3, MAP_SHARED, fb_ro) == "EACCES"
    for prot in (0, 1, 3):
        assert errno_of(m, 0, PAGE, prot, MAP_PRIVATE, fb_wo) == "EACCES"
    assert errno_of(m, 0, PAGE, 3, 0, fb) == "EINVAL"
    assert errno_of(m, 0, PAGE, 3, MAP_PRIVATE | MAP_GROWSDOWN, fb) == "EINVAL"
    assert m.mmap(0, PAGE, 3, MAP_PRIVATE, fb_ro)
    fd = m.memfd_create("f")
    assert errno_of(m, 0, 2 * PAGE, 3, MAP_SHARED, fd, (1 << 63) - PAGE) == "EOVERFLOW"
    assert errno_of(m, 0, 2 * PAGE, 3, MAP_SHARED, fb, TOP - PAGE) == "EOVERFLOW"
    for unknown in (MAP_SYNC, MAP_FIXED_NOREPLACE):  # only DAX files know MAP_SYNC; the check precedes EACCES
        assert errno_of(m, B + 8 * PAGE, PAGE, 3, MAP_SHARED_VALIDATE | unknown, fb_ro) == "EOPNOTSUPP"


def test_map_sync_is_kept_where_nobody_validates_it(m: Machine) -> None:
    m.mmap(B + 8 * PAGE, PAGE, 3, ANON | MAP_SYNC)
    vma = m.mm.vma_at(B + 8 * PAGE)
    assert vma is not None
    assert vma.vm_flags & VM_SYNC


def test_a_driver_that_refuses_leaves_no_trace_but_the_hole(m: Machine) -> None:
    m.mmap(B + 8 * PAGE, PAGE, 3, ANON)
    fd, committed = m.open("/dev/fb0"), m.sys.commit.data["committed"]
    before = m.digest()
    with pytest.raises(KernelError, match="EINVAL"):
        m.mmap(0, 16 << 20, 3, MAP_PRIVATE, fd)  # private: charged before the driver is asked
    assert (m.digest(), m.sys.commit.data["committed"]) == (before, committed)
    with pytest.raises(KernelError, match="EINVAL"):
        m.mmap(B + 8 * PAGE, PAGE, 3, MAP_SHARED | MAP_FIXED, fd, 1 << 30)
    assert m.mm.vma_at(B + 8 * PAGE) is None  # MAP_FIXED had removed it by then
    assert verify(m) == []


def test_address_choice(m: Machine) -> None:
    first = m.mmap(0, PAGE, 1, ANON)
    assert first == 0x7FFFF7FFE000
    assert m.mmap(0, 3 * PAGE, 3, SHARED) == first - 3 * PAGE
    assert m.mmap(B + 2 * PAGE + 1, PAGE, 1, ANON) == B + 2 * PAGE  # a hint is rounded down
    assert m.mmap(B + PAGE, PAGE, 1, SHARED) == first - 4 * PAGE  # taken: the hint is ignored
    assert m.mmap(PAGE, PAGE, 1, ANON) == 0x10000  # raised to mmap_min_addr
    assert m.mmap(1, PAGE, 1, ANON) == first - 5 * PAGE  # rounds down to 0, which is no hint
    m.munmap(first - 2 * PAGE, PAGE)
    assert m.mmap(0, PAGE, 5, SHARED) == first - 2 * PAGE  # the highest hole that is large enough


def test_a_stack_above_keeps_its_guard_gap_free(m: Machine) -> None:
    stack = m.mmap(B + 1024 * PAGE, 4 * PAGE, 3, ANON | MAP_GROWSDOWN)
    assert m.mmap(stack - 256 * PAGE, PAGE, 3, ANON) != stack - 256 * PAGE
    assert m.mmap(stack - 257 * PAGE, PAGE, 3, ANON) == stack - 257 * PAGE
    with pytest.raises(SignalRaised, match="SEGV_MAPERR"):
        m.store(stack - 1)
    m.munmap(stack - 257 * PAGE, PAGE)
    m.load(stack - 1)
    grown = m.vma(stack - 1)
    assert (grown.start, grown.pgoff) == (stack - PAGE, (stack - PAGE) >> 12)
    assert grown.anon_vma  # growing prepares one, also for a read
    assert verify(m) == []


@pytest.mark.parametrize(
    ("addr", "length", "errno"),
    [
        (B + 1, PAGE, "EINVAL"),
        (B, 0, "EINVAL"),
        (0x7FFFFFFFF000, 16 * PAGE, "EINVAL"),
        (TOP - PAGE, PAGE, "EINVAL"),
        (B, TOP - 1, "EINVAL"),
        (B, 0x7FFFFFFFF000, "EINVAL"),
    ],
)
def test_munmap_errors(m: Machine, addr: int, length: int, errno: str) -> None:
    before = m.digest()
    with pytest.raises(KernelError, match=errno):
        m.munmap(addr, length)
    assert m.digest() == before


def test_munmap(m: Machine) -> None:
    assert m.munmap(B + 100 * PAGE, 4 * PAGE) is None
    m.mmap(B + 4 * PAGE, 6 * PAGE, 3, ANON)
    m.store(B, 2 * PAGE)
    m.store(B + 4 * PAGE, 6 * PAGE)
    gather = m.munmap(B + PAGE, 5 * PAGE)  # over a hole and two VMAs
    assert gather is not None
    assert (gather.freed_pages, gather.freed_table_pages) == (3, 0)
    assert [(v.start, v.end) for v in m.mm.vmas.overlapping(B, B + 20 * PAGE)] == [
        (B, B + PAGE),
        (B + 6 * PAGE, B + 10 * PAGE),
    ]
    m.munmap(B + 7 * PAGE, 1)  # the length is rounded up; a middle hole makes two VMAs
    high = m.vma(B + 8 * PAGE)
    assert high.pgoff == (B >> 12) + 8
    last = m.munmap(B, 20 * PAGE)
    assert last is not None
    assert last.freed_table_pages == 3
    assert verify(m) == []


def test_max_map_count(m: Machine) -> None:
    m.mmap(B + 16 * PAGE, 8 * PAGE, 1, ANON)
    m.sys.max_map_count = len(m.mm.vmas)
    with pytest.raises(KernelError, match="ENOMEM"):
        m.munmap(B + 18 * PAGE, PAGE)
    m.mmap(B + 32 * PAGE, PAGE, 1, ANON)  # the check is map_count > max: one more than the limit can exist
    assert errno_of(m, B + 34 * PAGE, PAGE, 1, ANON) == "ENOMEM"
    m.munmap(B + 16 * PAGE, PAGE)
    assert verify(m) == []


def test_populate(m: Machine) -> None:
    at = m.mmap(0, 4 * PAGE, 3, ANON | MAP_POPULATE)
    assert m.mm.counters.data["anon"] == 4
    m.mmap(0, 4 * PAGE, 1, ANON | MAP_POPULATE)  # reads: the zero page, which does not count
    m.mmap(0, 4 * PAGE, 3, ANON | MAP_POPULATE | MAP_NONBLOCK)
    lazy = m.mmap(
        0, 4 * PAGE, 3, MAP_SHARED | MAP_POPULATE, m.open("/sys/bus/pci/devices/0000:00:02.0/resource0")
    )
    assert m.mm.counters.data["anon"] == 4
    assert m.load(at, 4 * PAGE).min_flt == 0
    assert m.load(lazy).min_flt == 1
    assert verify(m) == []


def test_brk_and_names(m: Machine) -> None:
    start = m.mm.field("start_brk")
    assert m.brk(start + 4 * PAGE) == start + 4 * PAGE
    heap = m.vma("[heap]")
    assert (heap.start, heap.end) == (start, start + 4 * PAGE)
    assert m.brk(start - 1) == start + 4 * PAGE  # fails, and says so by returning the old one
    above = m.mmap(start + 4 * PAGE, PAGE, 3, ANON)  # joins the heap: nothing tells them apart
    assert m.vma(above) == m.vma(start)
    assert vma_name(m.mm, m.vma(above)) == "[heap]"
    m.mmap(
        start + PAGE, PAGE, 1, ANON | MAP_FIXED
    )  # what lies in the break's range is called so, whoever made it
    assert vma_name(m.mm, m.vma(start + PAGE)) == "[heap]"
    assert vma_name(m.mm, m.vma("[stack]")) == "[stack]"
    assert vma_name(m.mm, m.vma(B)) == ""
    growth = m.mmap(0, PAGE, 3, ANON | MAP_GROWSDOWN)
    assert vma_name(m.mm, m.vma(growth)) == ""
    assert m.brk(start) == start
    assert verify(m) == []


def test_unknown_vma_names_offer_the_nearest(m: Machine) -> None:
    with pytest.raises(VmvizError, match=r"\[stack\]"):
        m.vma("[stak]")


def test_a_shared_mapping_of_a_read_only_descriptor(m: Machine) -> None:
    m.open("/data", O_CREAT)
    at = m.mmap(0, PAGE, 1, MAP_SHARED, m.open("/data", O_RDONLY))
    assert m.vma(at).vm_flags == 0x80000D1
    assert m.vma(at).perms == "r--s"
    with pytest.raises(SignalRaised, match="SEGV_ACCERR"):
        m.store(at)


@pytest.mark.parametrize(
    ("prot", "flags", "vm_flags"),
    [
        (3, ANON, 0x8100073), (1, ANON, 0x8000071), (3, SHARED, 0x80000FB), (5, ANON, 0x8000075),
        (3, ANON | 0x4000, 0x8200073),
    ],
)  # fmt: skip
def test_vm_flags(m: Machine, prot: int, flags: int, vm_flags: int) -> None:
    assert m.vma(m.mmap(0, PAGE, prot, flags)).vm_flags == vm_flags


def test_execute(m: Machine) -> None:
    at = m.mmap(0, 2 * PAGE, 1, ANON)
    for _ in range(2):  # missing at first: read in, then refused; present the second time
        with pytest.raises(SignalRaised) as info:
            m.exec(at)
        assert (info.value.code, info.value.addr) == ("SEGV_ACCERR", at)
    assert m.mm.counters.data["min_flt"] == 1
    code = m.mmap(0, PAGE, 5, ANON)
    assert m.exec(code).touched == 1
    none = m.mmap(0, PAGE, 0, ANON)
    with pytest.raises(SignalRaised, match="SEGV_ACCERR"):
        m.load(none)
    with pytest.raises(SignalRaised, match="SI_KERNEL"):
        m.load(0x800000000000)


def test_private_file_counts_one_fault_per_copied_page(m: Machine) -> None:
    fd = m.memfd_create("f")
    m.pwrite(fd, b"x" * 64 * PAGE, 0)
    at = m.mmap(B + (1 << 20), 64 * PAGE, 3, MAP_PRIVATE, fd)
    assert m.load(at + 21 * PAGE).min_flt == 1
    assert m.mm.counters.data["shmem"] == 16  # fault-around: pages 16 to 31
    assert m.store(at + 16 * PAGE, 4 * PAGE).min_flt == 4
    assert (m.mm.counters.data["shmem"], m.mm.counters.data["anon"]) == (12, 4)
    assert m.load(at + 16 * PAGE + 1).data == b"x"
    assert verify(m) == []


def test_memory_files_live_as_long_as_somebody_uses_them(m: Machine) -> None:
    free = m.sys.frames.states.buddy.nr_free()
    at = m.mmap(B + (1 << 39), 8 * PAGE, 3, SHARED)
    m.store(at, 8 * PAGE, 7)
    m.munmap(at + 2 * PAGE, 2 * PAGE)  # two parts are left, and the file keeps the pages of the hole
    assert m.mm.counters.data["shmem"] == 6
    m.munmap(at, 2 * PAGE)
    m.munmap(at, 8 * PAGE)
    assert m.sys.frames.states.buddy.nr_free() == free
    fd = m.memfd_create("f")
    m.ftruncate(fd, 4 * PAGE)
    at = m.mmap(B + (1 << 39), 4 * PAGE, 3, MAP_SHARED, fd)
    m.store(at, 4 * PAGE, 9)
    m.munmap(at, 4 * PAGE)
    again = m.mmap(B + (1 << 39), 4 * PAGE, 3, MAP_SHARED, fd)
    assert m.load(again).data == bytes([9])
    m.close(fd)
    assert m.load(again + PAGE).data == bytes([9])
    assert verify(m) == []
    m.munmap(again, 4 * PAGE)
    assert m.sys.frames.states.buddy.nr_free() == free
    assert verify(m) == []
