"""Random operations on a machine, beside a naive model that knows single pages in dictionaries and
nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.mm.flags import (
    MADV_DONTFORK,
    MADV_NORMAL,
    MADV_RANDOM,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
)
from vmviz.kernel.trace.bulk import Bulk
from vmviz.kernel.verify import leaves, verify, verify_counts

BASE = 0x1000_0000_0000 - (40 << 12)  # the region begins just below a border of all levels
PAGES = 1100
DEVICES = {
    "fb": ("/dev/fb0", 2048, 0xE0000),
    "bar": ("/sys/bus/pci/devices/0000:00:02.0/resource0", 16, 0xFE000),
    "io": ("/dev/io", 1024, 0),
    "page": ("/dev/page", 1024, 0),
    "mixed": ("/dev/mixed", 1024, 0),
}
ADVICE = [MADV_NORMAL, MADV_RANDOM, MADV_DONTFORK]
KINDS = ["anon", "shm", *DEVICES]


def errno_of(call: Callable[..., object], *args: object) -> str:
    """The errno that a call raises, "" when it succeeds."""
    try:
        call(*args)
    except KernelError as error:
        return error.errno
    return ""


class Model:
    """What each page is, what it holds, and what an access of it does: one page at a time, by the fact
    sheets.
    """

    def __init__(self) -> None:
        self.mapped: dict[
            int, tuple[str, bool, bool, Any, int]
        ] = {}  # kind, writable, private, object, index
        self.present: dict[int, str] = {}  # zero, anon, raw, page
        self.locked: set[int] = set()
        self.own: dict[int, int] = {}  # the first byte of a private page
        self.shared: dict[tuple[Any, int], int] = {}  # the first byte of a page of an object

    def unmap(self, first: int, n: int) -> None:
        for page in range(first, first + n):
            self.mapped.pop(page, None)
            self.locked.discard(page)
        self.clear(first, n)

    def clear(self, first: int, n: int) -> None:
        for page in [p for p in self.present if first <= p < first + n]:
            del self.present[page]
            self.own.pop(page, None)

    def map(self, first: int, n: int, kind: str, writable: bool, private: bool, obj: Any, index: int) -> None:
        self.unmap(first, n)
        for i in range(n):
            self.mapped[first + i] = (kind, writable, private, obj, index + i)
            if kind == "fb":
                self.present[first + i] = "raw"
            if kind == "mixed":
                self.present[first + i] = "page"

    def byte(self, page: int) -> int:
        if self.present[page] in ("zero", "anon"):
            return self.own.get(page, 0)
        kind, _, _, obj, index = self.mapped[page]
        first = index & 0xFF if kind in ("io", "page", "mixed") else 0
        return self.shared.get((obj, index), first)

    def touch(self, page: int, write: int | None) -> str:
        """Access one page; returns "" or the signal's code."""
        if page not in self.mapped:
            return "SEGV_MAPERR"
        kind, writable, private, obj, index = self.mapped[page]
        if write is not None and not writable:
            return "SEGV_ACCERR"
        there = self.present.get(page)
        if there is None and kind in ("fb", "mixed"):
            return "BUS_ADRERR"
        if write is not None and private:
            self.present[page], self.own[page] = "anon", write
            return ""
        if there is None:
            self.present[page] = {"anon": "zero", "bar": "raw"}.get(kind, "page")
        if write is not None:
            self.shared[obj, index] = write
        return ""

    def populate(self, page: int) -> None:
        """What faulting in does: a read, or for a private writable page a write of what it holds."""
        _, writable, private, _, _ = self.mapped[page]
        if page not in self.present:
            assert self.touch(page, None) == ""
        if private and writable:
            self.own[page] = self.byte(page)
            self.present[page] = "anon"

    def pfn(self, page: int) -> int:
        kind, _, _, _, index = self.mapped[page]
        return DEVICES[kind][2] + index


class MachineStates(RuleBasedStateMachine):
    ranges = Bundle("ranges")

    @initialize()
    def start(self) -> None:
        self.m = Machine(ram=64 << 20, vdso=False)
        self.base = self.m.digest()
        self.model = Model()
        self.objects = 0
        self.heap = 0

    def _expect_vmas(self) -> set[int]:
        return {p for v in self.m.mm.vmas if v.name != "[stack]" for p in range(v.start >> 12, v.end >> 12)}

    @rule(
        target=ranges, kind=st.sampled_from(KINDS), page=st.integers(0, PAGES), n=st.integers(1, 30),
        big=st.booleans(), writable=st.booleans(), private=st.booleans(),
        how=st.sampled_from(["fixed", "hint", "any"]), index=st.integers(0, 8),
    )  # fmt: skip
    def mmap(
        self, kind: str, page: int, n: int, big: bool, writable: bool, private: bool, how: str, index: int
    ) -> tuple[int, int]:
        n = 700 if big and kind in ("anon", "fb") else n
        if kind == "bar":
            n, index = min(n, 16), 0
        addr = 0 if how == "any" else BASE + (page << 12)
        flags = (MAP_PRIVATE if private else MAP_SHARED) | (MAP_FIXED if how == "fixed" else 0)
        fd = self.m.open(DEVICES[kind][0]) if kind in DEVICES else -1
        if kind == "shm":
            flags = flags & ~MAP_PRIVATE | MAP_SHARED
            private = False
        if kind == "anon":
            flags = flags & ~MAP_SHARED | MAP_PRIVATE
            private = True
        if fd < 0:
            flags |= MAP_ANONYMOUS
            index = 0
        free = not any(p in self.model.mapped for p in range(addr >> 12, (addr >> 12) + n))
        prot = "rw" if writable else "r"
        try:
            bits = {"rw": 3, "r": 1}[prot]
            at = self.m.mmap(addr, n << 12, bits, flags, fd, index << 12)
        except KernelError as error:
            refused = (kind, private, error.errno)
            assert refused == ("bar", True, "EINVAL")
            if how == "fixed":  # what was there is gone before the driver is asked
                self.model.unmap(addr >> 12, n)
            return (BASE >> 12) + page, n
        if how == "fixed" or (how == "hint" and free):
            assert at == addr
        else:
            used = {*self.model.mapped}
            top = next(
                p for p in range(0x7FFFF7FFF - n, 0, -1) if not used & set(range(p, p + n))
            )  # the highest hole, searched page by page
            assert at >> 12 == top
        self.objects += 1
        obj = kind if kind in DEVICES else ("shm", self.objects)
        if kind in ("io", "page", "mixed"):
            obj = DEVICES[kind][0]
        self.model.map(at >> 12, n, kind, writable, private, obj, index)
        return at >> 12, n

    @rule(r=ranges, skip=st.integers(-3, 12), n=st.integers(1, 40))
    def munmap(self, r: tuple[int, int], skip: int, n: int) -> None:
        first = max(16, r[0] + skip)
        self.m.munmap(first << 12, n << 12)
        self.model.unmap(first, n)

    @rule(
        r=ranges, skip=st.integers(-2, 10), n=st.integers(1, 45), whole=st.booleans(),
        value=st.none() | st.integers(0, 255),
    )  # fmt: skip
    def access(self, r: tuple[int, int], skip: int, n: int, whole: bool, value: int | None) -> None:
        first, n = r if whole else (r[0] + skip, n)
        signal, touched = "", 0
        for page in range(first, first + n):
            signal = self.model.touch(page, value)
            if signal:
                break
            touched += 1
        addr, length = first << 12, ((n - 1) << 12) + 1
        try:
            done = self.m.load(addr, length) if value is None else self.m.store(addr, length, value)
            assert not signal
            assert done.touched == touched
        except SignalRaised as raised:
            got = (raised.code, raised.touched, raised.addr)
            assert got == (signal, touched, (first + touched) << 12)

    @rule(
        r=ranges, page=st.integers(-3, 40), n=st.integers(0, 50), odd=st.sampled_from([0, 0, 0, 0x10, 0x800])
    )
    def zap(self, r: tuple[int, int], page: int, n: int, odd: int) -> None:
        vma = self.m.mm.vma_at(r[0] << 12)
        if vma is None:
            return
        address, size = ((r[0] + page) << 12) + odd, n << 12
        legal = (
            vma.start <= address and address + size <= vma.end and self.model.mapped[r[0]][0] in ("fb", "bar")
        )
        before = self.m.digest()
        result = self.m.zap_vma_ptes(vma, address, size)
        if not legal:
            assert (result.ret, result.ptes_cleared) == (-1, 0)
            assert self.m.digest() == before
            assert result.refusal is not None
            return
        inside = [p for p in self.model.present if address >> 12 <= p < (address + size) >> 12]
        if result.ret is None:  # an odd range over a border of tables
            assert odd
            assert self.m.digest() == before
            return
        assert (result.ret, result.ptes_cleared) == (0, len(inside))
        self.model.clear(address >> 12, n)

    def _until_hole(self, first: int, n: int) -> int:
        return next((i for i in range(n) if first + i not in self.model.mapped), n)

    @rule(r=ranges, skip=st.integers(-2, 12), n=st.integers(1, 40), writable=st.booleans())
    def mprotect(self, r: tuple[int, int], skip: int, n: int, writable: bool) -> None:
        first = r[0] + skip
        done = self._until_hole(first, n)
        errno = errno_of(self.m.mprotect, first << 12, n << 12, "rw" if writable else "r")
        assert errno == ("ENOMEM" if done < n else "")
        for page in range(first, first + done):
            kind, before, private, obj, index = self.model.mapped[page]
            self.model.mapped[page] = (kind, writable, private, obj, index)
            if page in self.model.locked and private and writable and not before:
                self.model.populate(page)

    @rule(r=ranges, skip=st.integers(-2, 12), n=st.integers(1, 40), to=st.integers(0, PAGES))
    def mremap(self, r: tuple[int, int], skip: int, n: int, to: int) -> None:
        first, target = r[0] + skip, (BASE >> 12) + to
        vma, model = self.m.mm.vma_at(first << 12), self.model
        errno = ""
        if vma is None:
            errno = "EFAULT"
        elif first + n > target and target + n > first:
            errno = "EINVAL"
        else:
            model.unmap(target, n)  # stays unmapped if the move fails
            if (first + n) << 12 > vma.end:
                errno = "EFAULT"
        flags = MREMAP_MAYMOVE | MREMAP_FIXED
        assert errno_of(self.m.mremap, first << 12, n << 12, n << 12, flags, target << 12) == errno
        if errno:
            return
        for i in range(n):
            model.mapped[target + i] = model.mapped.pop(first + i)
            if first + i in model.locked:
                model.locked ^= {first + i, target + i}
            for table in (model.present, model.own):
                if first + i in table:
                    table[target + i] = table.pop(first + i)  # type: ignore[index, assignment]

    @rule(r=ranges, skip=st.integers(-2, 12), n=st.integers(1, 40), lock=st.booleans())
    def mlock(self, r: tuple[int, int], skip: int, n: int, lock: bool) -> None:
        first = r[0] + skip
        whole = self._until_hole(first, n) == n
        errno = errno_of(self.m.mlock if lock else self.m.munlock, first << 12, n << 12)
        assert errno == ("" if whole else "ENOMEM")
        for page in range(first, first + self._until_hole(first, n)):
            kind = self.model.mapped[page][0]
            if not lock or kind in ("anon", "shm", "page"):  # what is special is not locked
                (self.model.locked.add if lock else self.model.locked.discard)(page)
            if lock and whole and kind not in ("fb", "bar", "io"):  # VM_IO, VM_PFNMAP are not faulted in
                self.model.populate(page)

    @rule(r=ranges, skip=st.integers(-2, 12), n=st.integers(1, 40), advice=st.sampled_from(ADVICE))
    def madvise(self, r: tuple[int, int], skip: int, n: int, advice: int) -> None:
        first = r[0] + skip
        whole = all(page in self.model.mapped for page in range(first, first + n))
        assert errno_of(self.m.madvise, first << 12, n << 12, advice) == ("" if whole else "ENOMEM")

    @rule(n=st.integers(0, 30))
    def brk(self, n: int) -> None:
        start = self.m.mm.field("start_brk")
        first = start >> 12
        assert self.m.brk(start + (n << 12)) == start + (n << 12)
        if n < self.heap:
            self.model.unmap(first + n, self.heap - n)
        for i in range(self.heap, n):
            self.model.mapped[first + i] = ("anon", True, True, "heap", i)
        self.heap = n

    @rule()
    def refused_calls_change_nothing(self) -> None:
        before = self.m.digest()
        for addr, length in ((BASE + 1, 4096), (BASE, 0), (0x7FFFFFFFF000, 8192)):
            with pytest.raises(KernelError, match="EINVAL"):
                self.m.munmap(addr, length)
        with pytest.raises(KernelError, match="EINVAL"):
            self.m.mmap(BASE + 1, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
        assert self.m.digest() == before

    @invariant()
    def agrees(self) -> None:
        assert verify(self.m) == []
        model, mm = self.model, self.m.mm
        assert self._expect_vmas() == set(model.mapped)
        entries = {va >> 12: entry for va, entry in leaves(mm)}
        for page in entries.keys() - model.present.keys():
            # Fault-around may map more of a shared file, but only pages that are there and belong there.
            assert model.mapped[page][0] == "shm"
            model.present[page] = "page"
        assert entries.keys() == model.present.keys()
        for page, state in model.present.items():
            assert self.m.peek(page << 12, 1)[0] == model.byte(page), f"page {page:#x}"
            if state == "raw":
                assert (entries[page] >> 12) & 0xFF_FFFF_FFFF == model.pfn(page)
        kinds = list(model.present.values())
        counters = mm.counters.data
        assert counters["anon"] == kinds.count("anon")
        assert counters["file"] + counters["shmem"] == kinds.count("page")

    def teardown(self) -> None:
        if not hasattr(self, "m"):
            return
        journal, end = self.m.journal, self.m.digest()
        journal.seek((0, 0))
        assert self.m.digest() == self.base
        assert verify(self.m) == []
        bulks = [i for i, r in enumerate(journal.records) if isinstance(r, Bulk) and r.n > 1]
        dice = random.Random(len(journal.records))
        for i in dice.sample(bulks, min(6, len(bulks))):
            record = journal.records[i]
            assert isinstance(record, Bulk)
            journal.seek((i, dice.randrange(1, record.n)))
            assert verify_counts(self.m) == []
            assert self.m.sys.frames.states.buddy.check() == []
        journal.seek(journal.end)
        assert self.m.digest() == end


TestMachineStates = MachineStates.TestCase
TestMachineStates.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
