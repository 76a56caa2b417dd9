"""Huge pages from the pool: who may have them, what is reserved, and what happens when there are none left."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.arch.x86 import _PAGE_PROTNONE, _PAGE_PSE, _PAGE_RW, pmd_pfn
from vmviz.kernel.errors import CallerBugError
from vmviz.kernel.fs.proc import kpageflags, pagemap_entry
from vmviz.kernel.fs.task_mmu import smap_fields
from vmviz.kernel.mm import flags as F
from vmviz.kernel.mm.hugetlb_pool import free_huge_pages, nr_huge_pages, resv_huge_pages
from vmviz.kernel.verify import verify

B, PAGE, HUGE = 0x1000_0000_0000, 4096, 2 << 20
PRIVATE = F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_HUGETLB
SHARED = F.MAP_SHARED | F.MAP_ANONYMOUS | F.MAP_HUGETLB
FIXED, NORESERVE = F.MAP_FIXED, F.MAP_NORESERVE


def machine(pages: int = 8) -> Machine:
    m = Machine(ram=64 << 20, vdso=False)
    m.sysctl("vm.nr_hugepages", pages)
    return m


def pool(m: Machine) -> tuple[int, int]:
    """The free pages of the pool, and how many of them are reserved."""
    return free_huge_pages(m.sys), resv_huge_pages(m.sys)


def entry(m: Machine, va: int) -> int:
    slot = m.arena.huge_slot(m.mm.pgd, va)
    return int(m.arena.flat[slot]) if slot >= 0 else 0


def errno(call: object, *args: object) -> str:
    with pytest.raises(KernelError) as info:
        call(*args)  # type: ignore[operator]
    return info.value.errno


def test_the_pool_takes_memory_and_gives_it_back() -> None:
    m = Machine(ram=16 << 20, vdso=False)
    before, at = m.digest(), m.position
    m.sysctl("vm.nr_hugepages", 100)  # as far as memory reaches
    assert 0 < nr_huge_pages(m.sys) < 8
    assert verify(m) == []
    after, end = m.digest(), m.position
    m.journal.seek(at)
    assert m.digest() == before
    m.journal.seek(end)
    assert m.digest() == after
    m.sysctl("vm.nr_hugepages", 0)
    assert m.digest() == before


def test_a_private_page() -> None:
    m = machine()
    assert m.mmap(B, HUGE - PAGE, 3, PRIVATE | FIXED) == B
    vma = m.vma(B)
    assert (vma.end - vma.start, vma.pgoff, vma.name) == (HUGE, 0, "/anon_hugepage (deleted)")
    assert vma.vm_flags & (F.VM_HUGETLB | F.VM_DONTEXPAND | F.VM_ACCOUNT) == F.VM_HUGETLB | F.VM_DONTEXPAND
    assert pool(m) == (8, 1)
    assert m.store(B + 5 * PAGE, 1, 0x17).min_flt == 1
    assert pool(m) == (7, 0)
    leaf = entry(m, B)
    assert hex(leaf & 0x8000000000000FFF) == "0x80000000000008e7"
    assert hex(kpageflags(m.sys, pmd_pfn(leaf))) == "0x29808"
    assert pagemap_entry(m.mm, B) >> 55 == 0x103
    assert (m.mm.rss, smap_fields(m.mm, vma)["Private_Hugetlb"]) == (0, 2048)
    m.madvise(B, HUGE, F.MADV_DONTNEED)
    assert pool(m) == (8, 0), "the reservation is used up"
    assert m.load(B).data == b"\0"
    assert not entry(m, B) & _PAGE_RW
    assert errno(m.munmap, B, 1 << 20) == "EINVAL"
    m.munmap(B, HUGE)
    assert pool(m) == (8, 0)
    assert verify(m) == []


MMAP_ERRORS = [
    ("an unaligned fixed address", (B + PAGE, HUGE, 3, PRIVATE | FIXED), "EINVAL"),
    ("an unaligned offset", (B, HUGE, 3, PRIVATE | FIXED, -1, PAGE), "EINVAL"),
    ("an odd offset", (B, HUGE, 3, PRIVATE | FIXED, -1, 1), "EINVAL"),
    ("a size that there is not", (B, HUGE, 3, PRIVATE | F.MAP_HUGE_1GB), "EINVAL"),
    ("length 0", (B, 0, 3, PRIVATE), "EINVAL"),
    ("a stack", (B, HUGE, 3, PRIVATE | F.MAP_GROWSDOWN), "EINVAL"),
    ("no type", (B, HUGE, 3, F.MAP_ANONYMOUS | F.MAP_HUGETLB), "EINVAL"),
    ("more than the pool", (B, 9 * HUGE, 3, PRIVATE), "ENOMEM"),
    ("more than the pool, read-only", (B, 9 * HUGE, 1, PRIVATE), "ENOMEM"),
    ("more than the pool, shared", (B, 9 * HUGE, 3, SHARED), "ENOMEM"),
]


@pytest.mark.parametrize(("args", "expected"), [pytest.param(a, e, id=n) for n, a, e in MMAP_ERRORS])
def test_mmap_errors(args: tuple[int, ...], expected: str) -> None:
    m = machine()
    before = m.digest()
    assert errno(m.mmap, *args) == expected
    assert m.digest() == before


def test_addresses_are_multiples_of_2_mib() -> None:
    m = machine()
    top = m.mmap(0, HUGE, 3, PRIVATE)
    assert top % HUGE == 0
    assert m.mmap(B + 77 * PAGE, HUGE, 3, PRIVATE) == B
    assert m.mmap(B, HUGE, 3, PRIVATE) == top - HUGE


def test_without_a_reservation_an_empty_pool_is_a_signal() -> None:
    m = machine(1)
    m.mmap(B, 2 * HUGE, 3, PRIVATE | FIXED | NORESERVE)
    m.store(B, 1, 1)
    with pytest.raises(SignalRaised, match="SIGBUS"):
        m.store(B + HUGE, 1, 1)
    assert verify(m) == []


def test_a_mapping_is_cut_only_between_huge_pages() -> None:
    m = machine()
    m.mmap(B, 4 * HUGE, 3, PRIVATE | FIXED)
    m.store(B, 4 * HUGE, 5)
    for call in (m.munmap, m.mprotect):
        args = (B + PAGE, PAGE) if call == m.munmap else (B + PAGE, PAGE, 1)
        assert errno(call, *args) == "EINVAL"
    assert errno(m.madvise, B + PAGE, HUGE, F.MADV_DONTNEED) == "EINVAL"
    for advice in (F.MADV_FREE, F.MADV_COLD, F.MADV_PAGEOUT, F.MADV_COLLAPSE):
        assert errno(m.madvise, B, HUGE, advice) == "EINVAL"
    assert errno(m.mremap, B, HUGE, 2 * HUGE, F.MREMAP_MAYMOVE) == "EINVAL"
    m.mprotect(B + HUGE, HUGE, 0)
    leaf = entry(m, B + HUGE)
    assert leaf & (_PAGE_PSE | _PAGE_PROTNONE) == _PAGE_PSE | _PAGE_PROTNONE
    assert len(m.mm.vmas.overlapping(B, B + 4 * HUGE)) == 3
    m.munmap(B + 2 * HUGE, HUGE)
    assert pool(m) == (5, 0)
    new = m.mremap(B, HUGE, HUGE, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, B + 64 * HUGE)
    assert m.load(new + 9 * PAGE).data == b"\x05"
    assert verify(m) == []


def test_a_copy_after_fork_does_not_use_the_reservation() -> None:
    m = machine(2)
    m.mmap(B, HUGE, 3, PRIVATE | FIXED)
    m.store(B, 1, 1)
    first, child = m.pid, m.fork()
    m.store(B, 1, 2)
    assert pool(m) == (0, 0)
    m.switch_to(child)
    assert m.load(B).data == b"\1"
    m.store(B, 1, 3)  # nobody else maps it any more
    m.switch_to(first)
    assert m.load(B).data == b"\2"
    assert verify(m) == []


def test_the_maker_of_a_mapping_takes_the_page_from_its_child() -> None:
    m = machine(1)
    m.mmap(B, HUGE, 3, PRIVATE | FIXED)
    m.store(B, 1, 1)
    first, child = m.pid, m.fork()
    m.store(B, 1, 2)  # no page for a copy: the child's is taken
    assert verify(m) == []
    m.switch_to(child)
    with pytest.raises(SignalRaised, match="SIGBUS"):
        m.load(B)
    m.switch_to(first)
    assert m.load(B).data == b"\2"


def test_a_child_without_a_page_for_its_copy_gets_a_signal() -> None:
    m = machine(1)
    m.mmap(B, HUGE, 3, PRIVATE | FIXED)
    m.store(B, 1, 1)
    m.switch_to(m.fork())
    with pytest.raises(SignalRaised, match="SIGBUS"):
        m.store(B, 1, 2)
    assert verify(m) == []


def test_shared_pages_live_as_long_as_the_file() -> None:
    m = machine(3)
    m.mmap(B, 2 * HUGE, 3, SHARED | FIXED)
    m.store(B, 1, 7)
    assert pool(m) == (2, 1)
    first, child = m.pid, m.fork()
    m.switch_to(child)
    assert m.load(B).data == b"\7"
    m.store(B + HUGE, 1, 8)
    m.switch_to(first)
    assert m.load(B + HUGE).data == b"\x08"
    m.munmap(B, 2 * HUGE)
    assert pool(m) == (1, 0)
    m.switch_to(child)
    m.madvise(B, HUGE, F.MADV_REMOVE)
    assert pool(m) == (2, 0)
    assert m.load(B).data == b"\0"
    m.exit()
    m.switch_to(first)
    assert pool(m) == (3, 0)
    assert verify(m) == []


def test_moving_a_part_forgets_what_the_rest_has_reserved() -> None:
    """Recorded on 6.1: after it all is unmapped, 8 pages cannot be had any more, 7 can."""
    m = machine()
    m.mmap(B, 2 * HUGE, 3, PRIVATE | FIXED)
    m.mremap(B, HUGE, HUGE, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, B + 32 * HUGE)
    m.munmap(B, 64 * HUGE)
    assert pool(m) == (8, 1)
    assert errno(m.mmap, B, 8 * HUGE, 3, PRIVATE | FIXED) == "ENOMEM"
    assert m.mmap(B, 7 * HUGE, 3, PRIVATE | FIXED) == B


class PoolStates(RuleBasedStateMachine):
    """Random operations on a small pool: whatever happens, no page and no reservation is lost."""

    @initialize(pages=st.integers(1, 5))
    def start(self, pages: int) -> None:
        self.m = machine(pages)
        self.pages, self.pids = pages, [self.m.pid]
        self.at, self.digest = self.m.position, self.m.digest()

    where = st.integers(0, 5).map(lambda n: B + n * HUGE)
    sizes = st.integers(1, 3).map(lambda n: n * HUGE)

    def _try(self, call: object, *args: object) -> None:
        try:
            call(*args)  # type: ignore[operator]
        except (KernelError, SignalRaised) as error:
            self.last = error

    @rule(
        at=where, size=sizes, kind=st.sampled_from([PRIVATE, SHARED]), flags=st.sampled_from([0, NORESERVE])
    )
    def mmap(self, at: int, size: int, kind: int, flags: int) -> None:
        self._try(self.m.mmap, at, size, 3, kind | flags | FIXED)

    @rule(at=where, size=sizes)
    def munmap(self, at: int, size: int) -> None:
        self._try(self.m.munmap, at, size)

    @rule(at=where, write=st.booleans())
    def touch(self, at: int, write: bool) -> None:
        self._try(self.m.store if write else self.m.load, at, 1)

    @rule(at=where, size=sizes, prot=st.sampled_from([0, 1, 3]))
    def mprotect(self, at: int, size: int, prot: int) -> None:
        self._try(self.m.mprotect, at, size, prot)

    @rule(
        at=where, size=sizes, advice=st.sampled_from([F.MADV_DONTNEED, F.MADV_REMOVE, F.MADV_POPULATE_WRITE])
    )
    def madvise(self, at: int, size: int, advice: int) -> None:
        self._try(self.m.madvise, at, size, advice)

    @rule(at=where, to=where)
    def mremap(self, at: int, to: int) -> None:
        vma = self.m.mm.vma_at(at)
        if vma is not None and vma.size > HUGE:
            return  # of a part: Linux forgets what the rest has reserved (clear_vma_resv_huge_pages)
        self._try(self.m.mremap, at, HUGE, HUGE, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, to)

    @rule()
    def fork(self) -> None:
        if len(self.pids) < 3:
            self.pids.append(self.m.fork())

    @rule(i=st.integers(0, 2))
    def switch(self, i: int) -> None:
        self.m.switch_to(self.pids[i % len(self.pids)])

    @invariant()
    def holds(self) -> None:
        assert verify(self.m) == []
        assert nr_huge_pages(self.m.sys) == self.pages

    def teardown(self) -> None:
        end, after = self.m.position, self.m.digest()
        for pid in self.pids:
            self.m.switch_to(pid)
            self.m.munmap(B, 16 * HUGE)
        assert pool(self.m) == (self.pages, 0)
        self.m.journal.seek(self.at)
        assert self.m.digest() == self.digest
        self.m.journal.seek(end)
        assert self.m.digest() == after


TestPoolStates = PoolStates.TestCase
TestPoolStates.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("call", ["remap_pfn_range", "vm_iomap_memory", "vm_insert_page", "vmf_insert_pfn"])
def test_a_driver_cannot_put_small_pages_into_a_mapping_of_huge_ones(call: str) -> None:
    m = machine()
    vma = m.vma(m.mmap(B, HUGE, 3, PRIVATE | FIXED))
    arguments = {
        "remap_pfn_range": (vma.start, 0xE0000, 4096),
        "vm_iomap_memory": (0xE0000 << 12, 2 << 20),
        "vm_insert_page": (vma.start, 0x200),
        "vmf_insert_pfn": (vma.start, 0xE0000),
    }
    before = m.digest()
    with pytest.raises(CallerBugError, match="is of huge pages"):
        getattr(m, call)(vma, *arguments[call])
    assert m.digest() == before
    m.munmap(vma.start, vma.size)
    assert verify(m) == []
