"""Random operations of several processes on files, private memory and swap: every invariant after each step."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.mm import flags as F
from vmviz.kernel.verify import verify

B, PAGE = 0x1000_0000_0000 - (8 << 12), 4096
ADVICE = [
    F.MADV_DONTNEED, F.MADV_FREE, F.MADV_PAGEOUT, F.MADV_COLD, F.MADV_WILLNEED, F.MADV_REMOVE, F.MADV_DONTFORK,
    F.MADV_WIPEONFORK, F.MADV_KEEPONFORK, F.MADV_POPULATE_READ, F.MADV_POPULATE_WRITE, F.MADV_DONTDUMP,
]  # fmt: skip


class SharedStates(RuleBasedStateMachine):
    """Whatever happens: references are what holds a page, counters what the entries make, nothing is lost."""

    @initialize()
    def start(self) -> None:
        self.m = Machine(ram=32 << 20, vdso=False)
        self.pids = [self.m.pid]
        self.files = [self.m.memfd_create("a"), self.m.ramfs_create("b")]
        for fd in self.files:
            self.m.ftruncate(fd, 24 * PAGE)
        self.at, self.digest = self.m.position, self.m.digest()

    pages = st.integers(0, 40).map(lambda n: B + n * PAGE)
    sizes = st.integers(1, 24).map(lambda n: n * PAGE)

    def _try(self, call: object, *args: object) -> None:
        try:
            call(*args)  # type: ignore[operator]
        except (KernelError, SignalRaised) as error:
            self.last = error

    @rule(at=pages, size=sizes, kind=st.integers(0, 4), file=st.integers(0, 1), off=st.integers(0, 8))
    def mmap(self, at: int, size: int, kind: int, file: int, off: int) -> None:
        flags = F.MAP_FIXED | (F.MAP_SHARED if kind & 1 else F.MAP_PRIVATE)
        if kind < 2:
            self._try(self.m.mmap, at, size, 3, flags | F.MAP_ANONYMOUS)
        elif kind < 4:
            self._try(self.m.mmap, at, size, 3, flags, self.files[file], off * PAGE)
        else:
            self._try(self.m.mmap, at, size, 3, flags | F.MAP_ANONYMOUS | F.MAP_GROWSDOWN)

    @rule(at=pages, size=sizes, write=st.booleans())
    def touch(self, at: int, size: int, write: bool) -> None:
        self._try(self.m.store if write else self.m.load, at, size)

    @rule(at=pages, size=sizes, advice=st.sampled_from(ADVICE))
    def madvise(self, at: int, size: int, advice: int) -> None:
        self._try(self.m.madvise, at, size, advice)

    @rule(at=pages, size=sizes, prot=st.sampled_from([0, 1, 3]))
    def mprotect(self, at: int, size: int, prot: int) -> None:
        self._try(self.m.mprotect, at, size, prot)

    @rule(at=pages, size=sizes, to=pages, keep=st.booleans())
    def mremap(self, at: int, size: int, to: int, keep: bool) -> None:
        flags = F.MREMAP_MAYMOVE | F.MREMAP_FIXED | (F.MREMAP_DONTUNMAP if keep else 0)
        self._try(self.m.mremap, at, size, size, flags, to)

    @rule(at=pages, size=sizes)
    def munmap(self, at: int, size: int) -> None:
        self._try(self.m.munmap, at, size)

    @rule(at=pages, size=sizes, how=st.integers(0, 2))
    def lock(self, at: int, size: int, how: int) -> None:
        if how == 2:
            self._try(self.m.mlock2, at, size, F.MLOCK_ONFAULT)
        else:
            self._try(self.m.mlock if how else self.m.munlock, at, size)

    @rule(file=st.integers(0, 1), size=st.integers(0, 24).map(lambda n: n * PAGE))
    def truncate(self, file: int, size: int) -> None:
        self._try(self.m.ftruncate, self.files[file], size)

    @rule(off=st.integers(0, 24), size=sizes)
    def punch(self, off: int, size: int) -> None:
        self._try(self.m.punch_hole, self.files[0], off * PAGE, size)

    @rule(kind=st.sampled_from([1, 4]))
    def clear_refs(self, kind: int) -> None:
        self.m.clear_refs(kind)

    @rule(at=pages, size=sizes)
    def pvread(self, at: int, size: int) -> None:
        self._try(self.m.process_vm_readv, at, size)

    @rule()
    def fork(self) -> None:
        if len(self.pids) < 3:
            self.pids.append(self.m.fork())

    @rule(i=st.integers(0, 2))
    def switch(self, i: int) -> None:
        self.m.switch_to(self.pids[i % len(self.pids)])

    @rule()
    def exit(self) -> None:
        if self.m.pid != self.pids[0]:
            self.pids.remove(self.m.pid)
            self.m.exit()
            self.m.switch_to(self.pids[0])

    @invariant()
    def holds(self) -> None:
        assert verify(self.m) == []

    def teardown(self) -> None:
        end, after = self.m.position, self.m.digest()
        self.m.journal.seek(self.at)
        assert self.m.digest() == self.digest
        self.m.journal.seek(end)
        assert self.m.digest() == after


TestSharedStates = SharedStates.TestCase
TestSharedStates.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
