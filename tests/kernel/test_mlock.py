"""Locked memory, limits and overcommitting, by the tables of the fact sheets."""

from __future__ import annotations

import pytest

from vmviz.kernel import KernelError, Machine
from vmviz.kernel.errors import UnsupportedError
from vmviz.kernel.mm import flags as F
from vmviz.kernel.mm.page_flags import PG_MLOCKED, PG_UNEVICTABLE
from vmviz.kernel.verify import leaves, verify

B = 0x1000_0000_0000
P = 4096
ANON = F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED
SHARED = F.MAP_SHARED | F.MAP_ANONYMOUS | F.MAP_FIXED
LOCKED = PG_MLOCKED | PG_UNEVICTABLE


@pytest.fixture
def m() -> Machine:
    return Machine(ram=64 << 20, vdso=False)


def marks(m: Machine) -> list[bool]:
    """Which of the present pages from B on are locked, in address order."""
    pfns = [(e >> 12) & 0xFF_FFFF_FFFF for va, e in leaves(m.mm) if B <= va < B + (1 << 40)]
    return [bool(m.frames.flags.flat[p] & LOCKED) for p in pfns if m.frames.pfn_valid(p)]


def fails(errno: str, call: object, *args: object) -> None:
    with pytest.raises(KernelError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.errno == errno


def undone(m: Machine) -> None:
    assert verify(m) == []
    end = m.digest()
    m.journal.seek((0, 0))
    m.journal.seek(m.journal.end)
    assert m.digest() == end


def test_mlock_faults_in_and_marks_munlock_unmarks(m: Machine) -> None:
    m.mmap(B, 8 * P, 3, ANON)
    m.store(B + P)
    m.mlock(B + 1, 3 * P)  # rounded to whole pages
    assert (marks(m), m.mm.counters.data["locked_vm"]) == ([True] * 4, 4)
    m.munlock(B, 2 * P)
    assert (marks(m), m.mm.counters.data["locked_vm"]) == ([False, False, True, True], 2)
    m.munmap(B + 2 * P, P)
    assert m.mm.counters.data["locked_vm"] == 1
    undone(m)


def test_two_locks_of_one_page_take_two_unlocks(m: Machine) -> None:
    m.mmap(B, 2 * P, 3, SHARED)
    m.mremap(B, 0, 2 * P, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, B + 16 * P)
    for at in (B, B + 16 * P, B):
        m.mlock(at, 2 * P)
    m.munlock(B, 2 * P)
    assert marks(m) == [True] * 4
    m.munmap(B + 16 * P, 2 * P)
    assert marks(m) == [False] * 2
    undone(m)


def test_what_a_locked_mapping_gets_later_is_locked(m: Machine) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.load(B, 4 * P)
    m.mlock2(B, 4 * P, F.MLOCK_ONFAULT)
    assert m.vma(B).vm_flags & F.VM_LOCKED_MASK == F.VM_LOCKED_MASK
    assert m.mm.counters.data["anon"] == 0  # nothing is faulted in
    m.store(B + P, 2 * P)
    assert marks(m).count(True) == 2
    m.mlock(B, 4 * P)
    assert marks(m) == [True] * 4
    assert m.mm.counters.data["locked_vm"] == 4
    undone(m)


def test_a_copy_on_write_in_a_locked_mapping(m: Machine) -> None:
    parent = m.pid
    m.mmap(B, 4 * P, 3, ANON)
    m.mlock(B, 4 * P)
    child = m.fork()
    m.switch_to(child)
    assert not m.vma(B).vm_flags & F.VM_LOCKED
    m.switch_to(parent)
    m.store(B, 4 * P)
    assert marks(m) == [True] * 4  # the copies are
    m.switch_to(child)
    assert marks(m) == [False] * 4  # what is left to the child is not
    undone(m)


@pytest.mark.parametrize(
    ("errno", "call"),
    [
        ("ENOMEM", lambda m: m.mlock(B + 6 * P, 4 * P)),
        ("ENOMEM", lambda m: m.munlock(B + 6 * P, 4 * P)),
        ("ENOMEM", lambda m: m.mlock(B + 16 * P, P)),  # PROT_NONE cannot be faulted in
        ("EINVAL", lambda m: m.mlock2(B, P, 2)),
        ("EINVAL", lambda m: m.mlockall(0)),
        ("EINVAL", lambda m: m.mlockall(8)),
        ("EINVAL", lambda m: m.mlockall(F.MCL_ONFAULT)),
        ("EINVAL", lambda m: m.mlock(B, (1 << 64) - 2 * P)),
    ],
)
def test_errors(m: Machine, errno: str, call: object) -> None:
    m.mmap(B, 8 * P, 3, ANON)
    m.mmap(B + 16 * P, P, 0, ANON)
    m.sys.cap_ipc_lock = True
    fails(errno, call, m)
    undone(m)


def test_the_limit(m: Machine) -> None:
    m.mmap(B, 16 * P, 3, ANON)
    m.rlimit("memlock", 4 * P)
    fails("ENOMEM", m.mlock, B, 5 * P)
    m.mlock(B, 4 * P)
    m.mlock(B, 4 * P)  # what is locked already is not counted twice
    fails("ENOMEM", m.mlock, B + 4 * P, P)
    fails("EAGAIN", m.mmap, B + 64 * P, P, 3, ANON | F.MAP_LOCKED)
    fails("EAGAIN", m.mremap, B, 4 * P, 5 * P, F.MREMAP_MAYMOVE)
    fails("ENOMEM", m.mlockall, F.MCL_CURRENT)
    m.rlimit("memlock", 0)
    fails("EPERM", m.mlock, B, P)
    fails("EPERM", m.mmap, B + 64 * P, P, 3, ANON | F.MAP_LOCKED)
    m.sys.cap_ipc_lock = True
    m.mlock(B, 16 * P)
    m.dropcaps()
    fails("EPERM", m.mlockall, F.MCL_CURRENT)
    undone(m)


def test_mlockall(m: Machine) -> None:
    m.mmap(B, 2 * P, 3, ANON)
    m.mlockall(F.MCL_CURRENT | F.MCL_FUTURE)
    m.mmap(B + 8 * P, 2 * P, 3, ANON)
    assert marks(m) == [True] * 4
    start = m.mm.field("start_brk")
    m.brk(start + 2 * P)
    total = m.mm.counters.data["total_vm"]
    assert m.mm.counters.data["locked_vm"] == total
    assert m.mincore(start, 2 * P) == b"\1\1"
    m.munlockall()
    assert m.mm.counters.data["locked_vm"] == 0
    m.mmap(B + 16 * P, 2 * P, 3, ANON)
    assert marks(m) == [False] * 4
    undone(m)


def test_special_mappings_are_passed_over(m: Machine) -> None:
    m.mmap(B, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED, m.open("/dev/fb0"))
    m.mlock(B, 2 * P)
    m.mmap(B + 8 * P, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED | F.MAP_LOCKED, m.open("/dev/mixed"))
    assert {v.vm_flags & F.VM_LOCKED for v in m.mm.vmas} == {0}
    assert m.mm.counters.data["locked_vm"] == 0
    undone(m)


@pytest.mark.parametrize(("name", "counter"), [("as", "total_vm"), ("data", "data_vm")])
def test_limits_of_size(m: Machine, name: str, counter: str) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.rlimit(name, (m.mm.counters.data[counter] + 4) * P)
    fails("ENOMEM", m.mmap, B + 16 * P, 5 * P, 3, ANON)
    m.mmap(B, 8 * P, 3, ANON)  # the pages that it replaces are credited
    fails("ENOMEM", m.mremap, B, 8 * P, 9 * P, F.MREMAP_MAYMOVE)
    start = m.mm.field("start_brk")
    assert m.brk(start + P) == start
    if name == "data":
        m.mmap(B + 32 * P, 4 * P, 1, ANON)
        fails("ENOMEM", m.mprotect, B + 32 * P, 4 * P, 3)
    undone(m)


def test_the_stack_limit(m: Machine) -> None:
    from vmviz.kernel import SignalRaised

    stack = next(v for v in m.mm.vmas if v.vm_flags & F.VM_GROWSDOWN)
    m.rlimit("stack", stack.size + 4 * P)
    m.store(stack.start - 4 * P)
    with pytest.raises(SignalRaised, match="SEGV_MAPERR"):
        m.store(stack.start - 5 * P)
    undone(m)


@pytest.mark.parametrize(
    ("mode", "size", "good"), [(0, 65, False), (0, 64, True), (1, 4096, True), (2, 31, False)]
)
def test_overcommit(m: Machine, mode: int, size: int, good: bool) -> None:
    """64 MiB of RAM: mode 0 judges one request by it, mode 2 allows half of it in all."""
    m.sysctl("vm.overcommit_memory", mode)
    if good:
        m.mmap(B, size << 20, 3, ANON)
    else:
        fails("ENOMEM", m.mmap, B, size << 20, 3, ANON)
    m.mmap(B, 4 << 20, 3, ANON)
    if mode == 2:
        fails("ENOMEM", m.mmap, B + (8 << 20), 31 << 20, 3, ANON | F.MAP_NORESERVE)
    undone(m)


# ---- mincore and msync (section 11)


@pytest.mark.parametrize(
    ("errno", "call"),
    [
        ("EINVAL", lambda m: m.mincore(B + 1, P)),
        ("ENOMEM", lambda m: m.mincore(0x7FFFFFFFE000, 2 * P)),
        ("ENOMEM", lambda m: m.mincore(B + 3 * P, 2 * P)),
        ("EINVAL", lambda m: m.msync(B, P, 8)),
        ("EINVAL", lambda m: m.msync(B + 1, P, F.MS_SYNC)),
        ("EINVAL", lambda m: m.msync(B, P, F.MS_SYNC | F.MS_ASYNC)),
        ("ENOMEM", lambda m: m.msync(B, (1 << 64) - P, F.MS_SYNC)),
        ("ENOMEM", lambda m: m.msync(B, 6 * P, F.MS_SYNC)),
        ("ENOMEM", lambda m: m.msync(B - P, 2 * P, F.MS_ASYNC)),
        ("EBUSY", lambda m: m.msync(B, P, F.MS_INVALIDATE)),
    ],
)
def test_mincore_and_msync_errors(m: Machine, errno: str, call: object) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.mlock(B, P)
    fails(errno, call, m)
    undone(m)


def test_mincore_looks_at_entries_and_the_page_cache(m: Machine) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.load(B)
    m.store(B + 2 * P)
    assert m.mincore(B, 4 * P) == b"\1\0\1\0"
    fd = m.memfd_create("f")
    m.ftruncate(fd, 4 * P)
    m.pwrite(fd, b"x", P)
    m.mmap(B + 8 * P, 4 * P, 1, F.MAP_PRIVATE | F.MAP_FIXED, fd)
    assert m.mincore(B + 8 * P, 4 * P) == b"\0\1\0\0"
    m.mmap(B + 16 * P, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED, m.open("/dev/fb0"))
    assert m.mincore(B + 16 * P, 2 * P) == b"\0\0"


def test_an_answer_of_mincore_that_no_memory_could_hold_is_refused(m: Machine) -> None:
    m.sysctl("vm.overcommit_memory", 1)
    at = m.mmap(B, 32 << 40, 3, ANON)
    with pytest.raises(UnsupportedError, match="64 GiB at most"):
        m.mincore(at, 32 << 40)


def test_msync_cleans_pages_and_the_next_write_is_noticed(m: Machine) -> None:
    fd = m.open("/tmp/f", F.O_RDWR | F.O_CREAT)
    m.ftruncate(fd, 4 * P)
    m.mmap(B, 4 * P, 3, F.MAP_SHARED | F.MAP_FIXED, fd)
    m.store(B, 4 * P, 5)
    m.msync(B, 2 * P, F.MS_SYNC)
    assert [e & 0x42 for va, e in leaves(m.mm) if va >= B] == [0, 0, 0x42, 0x42]
    assert m.store(B).min_flt == 1
    undone(m)


def test_remap_file_pages_is_an_mmap(m: Machine) -> None:
    m.mmap(B, 8 * P, 3, SHARED)
    for i in range(8):
        m.store(B + i * P, 1, i + 1)
    m.remap_file_pages(B, 2 * P, 0, 4, 0)
    assert [m.load(B + i * P).data[0] for i in range(4)] == [5, 6, 3, 4]
    assert m.vma(B).pgoff == 4
    for args in ((B, 2 * P, 1, 0, 0), (B, 0, 0, 0, 0), (B + 7 * P, 2 * P, 0, 0, 0), (B, P, 0, 1 << 64, 0)):
        fails("EINVAL", m.remap_file_pages, *args)
    undone(m)
