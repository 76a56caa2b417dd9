"""Transparent huge pages: who gets one, what splits it, and what stays exact meanwhile."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.arch.x86 import _PAGE_ACCESSED, _PAGE_DIRTY, _PAGE_PSE, _PAGE_RW, pmd_pfn
from vmviz.kernel.errors import CallerBugError
from vmviz.kernel.fs.proc import kpagecount, kpageflags, pagemap_entry
from vmviz.kernel.mm import flags as F
from vmviz.kernel.mm import khugepaged
from vmviz.kernel.mm.page_alloc import DRIVER
from vmviz.kernel.mm.page_flags import PG_COMPOUND, PG_DIRTY, PG_EXCLUSIVE, PG_SWAPBACKED
from vmviz.kernel.trace.journal import Enter, Leave
from vmviz.kernel.verify import huge_leaves, verify

B, PAGE, HUGE = 0x1000_0000_0000, 4096, 2 << 20


def machine(policy: str = "always") -> Machine:
    m = Machine(ram=64 << 20, vdso=False)
    m.thp(policy)
    return m


def area(m: Machine, size: int = 4 * HUGE, at: int = B) -> int:
    return m.mmap(at, size, "rw", "private")


def leaves(m: Machine) -> list[int]:
    return [va for va, _ in huge_leaves(m.mm)]


def entry(m: Machine, va: int) -> int:
    return int(m.arena.flat[m.arena.huge_slot(m.mm.pgd, va)])


@pytest.mark.parametrize(
    ("policy", "advice", "start", "size", "touch", "huge"),
    [
        ("always", 0, 0, HUGE, 5 * PAGE, True),
        ("madvise", 0, 0, HUGE, 0, False),
        ("madvise", F.MADV_HUGEPAGE, 0, HUGE, 0, True),
        ("always", F.MADV_NOHUGEPAGE, 0, HUGE, 0, False),
        ("never", F.MADV_HUGEPAGE, 0, HUGE, 0, False),
        ("always", 0, PAGE, 2 * HUGE, 0, False),  # the first aligned range begins below the VMA
        ("always", 0, PAGE, 2 * HUGE, HUGE, True),
        ("always", 0, 0, HUGE - PAGE, 0, False),
    ],
)
def test_who_gets_a_huge_page(
    policy: str, advice: int, start: int, size: int, touch: int, huge: bool
) -> None:
    m = machine(policy)
    at = area(m, size, B + start)
    if advice:
        m.madvise(at, size, advice)
    fault = m.store(at + touch, 1)
    assert fault.min_flt == 1
    assert bool(leaves(m)) == huge
    assert m.mm.counters.data["anon"] == (512 if huge else 1)
    assert verify(m) == []


def test_a_huge_page_is_one_fault_one_entry_and_a_table_in_store() -> None:
    m = machine()
    at = area(m)
    tables = m.mm.counters.data["pgtables"]
    assert m.store(at, HUGE, 0x66).min_flt == 1
    assert m.mm.counters.data["pgtables"] - tables == 3 * 4096  # pud, pmd and the table kept for a split
    leaf, head = entry(m, at), pmd_pfn(entry(m, at))
    assert leaf & (_PAGE_PSE | _PAGE_RW | _PAGE_DIRTY) == _PAGE_PSE | _PAGE_RW | _PAGE_DIRTY
    assert (m.frames.page(head).refcount, m.frames.page(head + 9).mapcount) == (1, 1)  # type: ignore[union-attr]
    assert m.load(at + 77 * PAGE, 1).data == b"\x66"
    assert hex(kpageflags(m.sys, head)) == "0x40d828"
    assert hex(kpageflags(m.sys, head + 1)) == "0x411800"
    assert kpagecount(m.sys, head + 1) == 1
    assert pagemap_entry(m.mm, at + PAGE) & ((1 << 55) - 1) == head + 1


def test_a_read_gets_the_huge_zero_page_and_a_write_splits_it() -> None:
    m = machine()
    at = area(m)
    assert m.load(at, HUGE).min_flt == 1
    assert m.mm.rss == 0
    assert m.store(at + 3 * PAGE, 1, 7).min_flt == 1
    assert leaves(m) == []
    assert m.mm.counters.data["anon"] == 1
    assert m.load(at, 5 * PAGE).data == b"\0\0\0\7\0"
    assert verify(m) == []


def _munmap(m: Machine, at: int) -> None:
    m.munmap(at + 16 * PAGE, PAGE)


def _mprotect(m: Machine, at: int) -> None:
    m.mprotect(at, 16 * PAGE, F.PROT_READ)


def _dontneed(m: Machine, at: int) -> None:
    m.madvise(at, PAGE, F.MADV_DONTNEED)


def _mlock(m: Machine, at: int) -> None:
    m.mlock(at + PAGE, PAGE)


def _mremap(m: Machine, at: int) -> None:
    m.mremap(at, 16 * PAGE, 16 * PAGE, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, at + 32 * HUGE)


def _dontfork(m: Machine, at: int) -> None:
    m.madvise(at + PAGE, 2 * PAGE, F.MADV_DONTFORK)


@pytest.mark.parametrize("cut", [_munmap, _mprotect, _dontneed, _mlock, _mremap, _dontfork])
def test_what_takes_a_part_splits_the_entry_and_not_the_page(cut: Any) -> None:
    m = machine()
    at = area(m)
    m.store(at, 2 * HUGE, 0x31)
    head = pmd_pfn(entry(m, at))
    base, before = m.digest(), m.position
    cut(m, at)
    assert leaves(m) == [at + HUGE]
    assert m.frames.flags.flat[head] & PG_DIRTY  # the entry's dirty bit went to the page
    slot = m.arena.lookup(m.mm.pgd, at + 99 * PAGE)
    assert not m.arena.flat[slot] & _PAGE_DIRTY
    assert m.frames.flags.flat[head + 99] & PG_EXCLUSIVE
    assert m.frames.flags.flat[head + 99] & PG_COMPOUND
    assert verify(m) == []
    after, end = m.digest(), m.position
    m.journal.seek(before)
    assert m.digest() == base
    m.journal.seek(end)
    assert m.digest() == after
    m.munmap(at, 64 * HUGE)
    assert m.mm.counters.data["anon"] == 0
    assert not m.frames.flags.flat[head] & PG_COMPOUND
    assert verify(m) == []


def test_whole_leaves_are_changed_moved_and_unmapped_as_one() -> None:
    m = machine()
    at = area(m)
    m.store(at, 2 * HUGE, 0x32)
    m.mprotect(at, 4 * HUGE, F.PROT_READ)
    assert not entry(m, at) & _PAGE_RW
    m.mprotect(at, 4 * HUGE, F.PROT_READ | F.PROT_WRITE)
    assert not entry(m, at) & _PAGE_RW, "6.1 leaves it to the next write"
    assert m.store(at, 1).min_flt == 1
    assert entry(m, at) & _PAGE_RW
    pgtables = m.mm.counters.data["pgtables"]
    new = m.mremap(at, 4 * HUGE, 4 * HUGE, F.MREMAP_MAYMOVE | F.MREMAP_FIXED, at + 64 * HUGE)
    assert leaves(m) == [new, new + HUGE]
    assert m.mm.counters.data["pgtables"] == pgtables
    assert m.load(new + HUGE + 5 * PAGE, 1).data == b"\x32"
    assert verify(m) == []
    m.madvise(new, HUGE, F.MADV_DONTNEED)
    assert leaves(m) == [new + HUGE]
    assert m.mm.counters.data["anon"] == 512
    assert verify(m) == []


def test_fork_shares_a_huge_page_until_somebody_writes() -> None:
    m = machine()
    at = area(m, HUGE)
    m.store(at + 7 * PAGE, 1, 0x3A)
    head, first = pmd_pfn(entry(m, at)), m.pid
    child = m.fork()
    m.switch_to(child)
    assert not entry(m, at) & (_PAGE_RW | _PAGE_ACCESSED)
    assert m.frames.page(head).refcount == 2  # type: ignore[union-attr]
    m.store(at, 1, 0x3B)
    assert leaves(m) == []
    assert (kpagecount(m.sys, head), kpagecount(m.sys, head + 1)) == (1, 2)
    assert verify(m) == []
    m.exit()
    m.switch_to(first)
    m.wait()
    assert m.frames.page(head).refcount == 1  # type: ignore[union-attr]
    m.store(at, 1, 0x3C)
    assert leaves(m) == [at]
    assert m.frames.flags.flat[head] & PG_EXCLUSIVE
    assert verify(m) == []


def test_pageout_takes_the_page_apart_and_swaps_it() -> None:
    m = machine()
    at = area(m, HUGE)
    m.store(at, HUGE, 0x44)
    m.madvise(at, HUGE, F.MADV_PAGEOUT)
    assert (m.mm.counters.data["anon"], m.mm.counters.data["swap"]) == (0, 512)
    assert verify(m) == []
    assert m.load(at + 300 * PAGE, 1).data == b"\x44"
    assert verify(m) == []


def test_free_makes_a_whole_page_lazy_and_splits_for_a_part() -> None:
    m = machine()
    at = area(m, 2 * HUGE)
    m.store(at, 2 * HUGE, 0x44)
    heads = [pmd_pfn(entry(m, at + i * HUGE)) for i in range(2)]
    m.madvise(at, HUGE + PAGE, F.MADV_FREE)
    assert leaves(m) == [at]
    assert not entry(m, at) & (_PAGE_DIRTY | _PAGE_ACCESSED)
    assert not m.frames.flags.flat[heads[0]] & PG_SWAPBACKED
    assert not m.frames.flags.flat[heads[1]] & PG_COMPOUND
    assert verify(m) == []


def test_collapse_gathers_small_pages() -> None:
    m = machine("never")
    at = area(m, 2 * HUGE)
    with pytest.raises(KernelError, match="EINVAL"):
        m.madvise(at, HUGE, F.MADV_COLLAPSE)  # no anonymous page yet
    m.store(at + 3 * PAGE, 1, 9)
    m.store(at + 5 * PAGE, 1, 8)
    m.madvise(at + 5 * PAGE, PAGE, F.MADV_PAGEOUT)
    tables = m.mm.counters.data["pgtables"]
    with pytest.raises(KernelError, match="EINVAL"):
        m.madvise(at + PAGE, PAGE, F.MADV_COLLAPSE)  # no aligned 2 MiB inside
    m.madvise(at, HUGE, F.MADV_COLLAPSE)
    assert leaves(m) == [at]
    assert m.mm.counters.data["pgtables"] == tables
    assert (m.mm.counters.data["anon"], m.mm.counters.data["swap"]) == (512, 0)
    assert m.load(at, 6 * PAGE).data == b"\0\0\0\x09\0\x08"
    assert verify(m) == []


@pytest.mark.parametrize("call", ["vm_insert_page", "vmf_insert_pfn", "remap_pfn_range"])
def test_a_driver_that_maps_small_pages_where_a_huge_one_is_harms_nothing(call: str) -> None:
    m = machine()
    at = area(m)
    m.store(at + HUGE, 1)
    page = m.frames.alloc_page(DRIVER)
    if call == "vmf_insert_pfn":
        m.vm_insert_page(m.vma(at), at, page)  # makes the mapping VM_MIXEDMAP
    before = m.digest()
    calls = {
        "vm_insert_page": lambda: m.vm_insert_page(m.vma(at), at + HUGE + PAGE, page),
        "vmf_insert_pfn": lambda: m.vmf_insert_pfn(m.vma(at), at + HUGE + PAGE, 0xFE000),
        "remap_pfn_range": lambda: m.remap_pfn_range(m.vma(at), at, 0xE0000, 4 * HUGE),
    }
    with pytest.raises(CallerBugError, match=r"pmd_trans_huge.*a huge page is mapped at 0x100000200000"):
        calls[call]()
    assert m.digest() == before
    assert [type(r) for r in m.journal.records].count(Enter) == [type(r) for r in m.journal.records].count(
        Leave
    )
    m.munmap(at, 4 * HUGE)
    assert m.frames.states.flat[page] == DRIVER


def test_collapse_passes_over_what_has_no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    m = machine("never")
    m.sysctl("vm.overcommit_memory", 1)
    at = area(m, 32 << 40)
    m.store(at + (1 << 30), 1)
    m.store(at + (20 << 40) + HUGE, 1)
    seen: list[int] = []
    scan = khugepaged.hpage_collapse_scan_pmd
    monkeypatch.setattr(
        khugepaged, "hpage_collapse_scan_pmd", lambda mm, vma, va: seen.append(va) or scan(mm, vma, va)
    )
    with pytest.raises(KernelError, match="EINVAL"):
        m.madvise(at, 32 << 40, F.MADV_COLLAPSE)
    assert leaves(m) == [at + (1 << 30), at + (20 << 40) + HUGE]
    assert len(seen) < 3 * 512
    assert verify(m) == []


def test_without_a_block_of_order_9_pages_are_small() -> None:
    m = Machine(ram=2 << 20, vdso=False)
    m.thp("always")
    at = area(m, HUGE)
    assert m.store(at, 1).min_flt == 1
    assert (leaves(m), m.mm.counters.data["anon"]) == ([], 1)


def test_another_policy_is_refused() -> None:
    m = machine()
    with pytest.raises(KernelError, match="always, madvise, never"):
        m.thp("sometimes")


class HugeStates(RuleBasedStateMachine):
    """Random operations over four huge ranges of a process and its child, beside a model of single bytes."""

    @initialize(policy=st.sampled_from(["always", "madvise"]))
    def start(self, policy: str) -> None:
        self.m = machine(policy)
        area(self.m)
        self.model: dict[int, dict[int, int]] = {self.m.pid: dict.fromkeys(range(2048), 0)}
        self.ro: dict[int, set[int]] = {self.m.pid: set()}
        self.freed: set[int] = set()  # pages that MADV_FREE has ever been said of: MADV_PAGEOUT may drop them
        self.start_digest, self.start_at = self.m.digest(), self.m.position

    ranges = st.tuples(
        st.sampled_from([0, 512, 1024, 1536, 1, 100, 511, 513, 1000, 1535, 2000]),
        st.sampled_from([1, 2, 16, 300, 512, 513, 1024]),
    )

    def _pages(self, r: tuple[int, int]) -> range:
        return range(r[0], min(2048, r[0] + r[1]))

    @rule(r=ranges, byte=st.integers(1, 255))
    def store(self, r: tuple[int, int], byte: int) -> None:
        pages, model = self._pages(r), self.model[self.m.pid]
        bad = next((p for p in pages if p not in model or p in self.ro[self.m.pid]), None)
        expected = nullcontext() if bad is None else pytest.raises(SignalRaised, match=f"{B + bad * PAGE:x}")
        with expected:
            self.m.store(B + pages.start * PAGE, (len(pages) - 1) * PAGE + 1, byte)
        pages = range(pages.start, pages.stop if bad is None else bad)
        for page in pages:
            model[page] = byte

    @rule(r=ranges)
    def load(self, r: tuple[int, int]) -> None:
        pages, model = self._pages(r)[:16], self.model[self.m.pid]
        if all(p in model for p in pages):
            got = self.m.load(B + pages.start * PAGE, (len(pages) - 1) * PAGE + 1).data
            assert got == bytes(model[p] for p in pages)

    @rule(r=ranges)
    def munmap(self, r: tuple[int, int]) -> None:
        pages = self._pages(r)
        self.m.munmap(B + pages.start * PAGE, len(pages) * PAGE)
        for page in pages:
            self.model[self.m.pid].pop(page, None)
            self.ro[self.m.pid].discard(page)

    @rule(r=ranges)
    def mmap(self, r: tuple[int, int]) -> None:
        pages = self._pages(r)
        self.m.mmap(
            B + pages.start * PAGE, len(pages) * PAGE, "rw", F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED
        )
        self.model[self.m.pid].update(dict.fromkeys(pages, 0))
        self.ro[self.m.pid] -= set(pages)

    @rule(r=ranges, write=st.booleans())
    def mprotect(self, r: tuple[int, int], write: bool) -> None:
        pages = self._pages(r)
        if all(p in self.model[self.m.pid] for p in pages):
            self.m.mprotect(B + pages.start * PAGE, len(pages) * PAGE, 3 if write else 1)
            self.ro[self.m.pid] = self.ro[self.m.pid] - set(pages) | (set() if write else set(pages))

    @rule(
        r=ranges,
        advice=st.sampled_from(
            [
                F.MADV_DONTNEED,
                F.MADV_COLD,
                F.MADV_PAGEOUT,
                F.MADV_COLLAPSE,
                F.MADV_HUGEPAGE,
                F.MADV_NOHUGEPAGE,
                F.MADV_FREE,
            ]
        ),
    )
    def madvise(self, r: tuple[int, int], advice: int) -> None:
        pages, model = self._pages(r), self.model[self.m.pid]
        if not all(p in model for p in pages):
            return
        errno = ""
        before = self._entries(pages)
        try:
            self.m.madvise(B + pages.start * PAGE, len(pages) * PAGE, advice)
        except KernelError as error:
            errno = error.errno
        if errno:
            locked = any(v.vm_flags & F.VM_LOCKED for v in self.m.mm.vmas)
            assert errno == "EINVAL" if locked else advice == F.MADV_COLLAPSE
            if advice == F.MADV_DONTNEED:  # what came before the locked part is gone
                there = [self.m.arena.entry_at(self.m.mm.pgd, B + page * PAGE) for page in pages]
                model.update((page, 0) for page, entry in zip(pages, there, strict=True) if not entry)
            return
        if advice == F.MADV_DONTNEED:
            model.update(dict.fromkeys(pages, 0))
        if advice == F.MADV_FREE:  # what is in swap goes at once
            model.update((page, 0) for page, entry in before.items() if entry and not entry & 0x101)
            self.freed.update(pages)
        if advice == F.MADV_PAGEOUT:
            after = self._entries(pages)
            model.update(
                (page, 0) for page in self.freed.intersection(pages) if before[page] and not after[page]
            )

    def _entries(self, pages: range) -> dict[int, int]:
        """The entries of pages; a huge leaf is the entry of all of its pages."""
        arena, pgd = self.m.arena, self.m.mm.pgd
        return {page: arena.entry_at(pgd, B + page * PAGE) for page in pages}

    @rule(r=ranges, lock=st.booleans())
    def mlock(self, r: tuple[int, int], lock: bool) -> None:
        pages = self._pages(r)
        if all(p in self.model[self.m.pid] for p in pages):
            call = self.m.mlock if lock else self.m.munlock
            call(B + pages.start * PAGE, len(pages) * PAGE)

    @rule()
    def fork(self) -> None:
        if len(self.model) < 3:
            parent = self.m.pid
            child = self.m.fork()
            self.model[child], self.ro[child] = dict(self.model[parent]), set(self.ro[parent])

    @rule()
    def switch(self) -> None:
        pids = sorted(self.model)
        self.m.switch_to(pids[(pids.index(self.m.pid) + 1) % len(pids)])

    @rule(kind=st.sampled_from([1, 4]))
    def clear_refs(self, kind: int) -> None:
        self.m.clear_refs(kind)

    @invariant()
    def holds(self) -> None:
        assert verify(self.m) == []

    def teardown(self) -> None:
        end, after = self.m.position, self.m.digest()
        self.m.journal.seek(self.start_at)
        assert self.m.digest() == self.start_digest
        self.m.journal.seek(end)
        assert self.m.digest() == after


TestHugeStates = HugeStates.TestCase
TestHugeStates.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
