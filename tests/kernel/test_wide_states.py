"""Random operations of the kinds that small private memory does not see: huge pages of both kinds, devices and
their drivers, seals, accesses of the kernel, the heap, limits, stacks, several processes.

After every one all invariants hold (references are what holds a page, mapcounts its mappings, rss by kind what
the entries make, tables what the entries need), it can be taken back and done again byte by byte, and in the end
no frame is lost.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.errors import CallerBugError, UnsupportedError
from vmviz.kernel.mm import flags as F
from vmviz.kernel.mm.page_alloc import DRIVER
from vmviz.kernel.syscalls import VmaNotFound
from vmviz.kernel.verify import verify

PAGE, HUGE = 4096, 2 << 20
B = 0x1000_0000_0000 - 2 * HUGE  # a border of all levels lies in the middle
END = B + 5 * HUGE
PAR = F.MAP_PRIVATE | F.MAP_ANONYMOUS
DEVICES = (
    "/dev/fb0",
    "/dev/mixed",
    "/dev/io",
    "/dev/page",
    "/sys/bus/pci/devices/0000:00:02.0/resource0",
)
FLAGS = (
    PAR,
    PAR | F.MAP_POPULATE,
    PAR | F.MAP_LOCKED,
    PAR | F.MAP_NORESERVE,
    PAR | F.MAP_GROWSDOWN,
    PAR | F.MAP_STACK,
    F.MAP_SHARED | F.MAP_ANONYMOUS,
    F.MAP_SHARED | F.MAP_ANONYMOUS | F.MAP_POPULATE,
)
ADVICE = (
    F.MADV_HUGEPAGE, F.MADV_NOHUGEPAGE, F.MADV_COLLAPSE, F.MADV_DONTNEED, F.MADV_DONTNEED_LOCKED, F.MADV_FREE,
    F.MADV_PAGEOUT, F.MADV_COLD, F.MADV_POPULATE_WRITE, F.MADV_REMOVE, F.MADV_DONTFORK, F.MADV_DOFORK,
    F.MADV_WIPEONFORK, F.MADV_SEQUENTIAL,
)  # fmt: skip
addresses = st.one_of(
    st.integers(0, 5 * 512 - 1).map(lambda n: B + n * PAGE), st.integers(0, 4).map(lambda n: B + n * HUGE)
)
sizes = st.one_of(st.integers(1, 24).map(lambda n: n * PAGE), st.integers(1, 2).map(lambda n: n * HUGE))
offsets = st.integers(0, 40).map(lambda n: n * PAGE)
files = st.integers(0, 2)


class WideStates(RuleBasedStateMachine):
    """Whatever happens, and in whichever order."""

    @initialize(policy=st.sampled_from(("always", "madvise")), mode=st.integers(0, 2))
    def start(self, policy: str, mode: int) -> None:
        m = self.m = Machine(ram=96 << 20, vdso=False)
        m.sysctl("vm.nr_hugepages", 4)
        m.sysctl("vm.overcommit_memory", mode)
        m.thp(policy)
        self.files = [m.memfd_create("a"), m.ramfs_create("b"), m.open("/data", F.O_RDWR | F.O_CREAT)]
        for fd in self.files:
            m.ftruncate(fd, 24 * PAGE)
        self.devices = [m.open(path) for path in DEVICES]
        self.pids = [m.pid]
        self.at, self.digest = m.position, m.digest()
        self.before = (self.at, self.digest)

    def _try(self, call: object, *args: object) -> None:
        """Do it; errors are results, and what it has changed can be taken back and done again."""
        self.before = (self.m.position, self.m.digest())
        try:
            call(*args)  # type: ignore[operator]
        except (KernelError, SignalRaised, CallerBugError, UnsupportedError, VmaNotFound) as error:
            self.last = error

    @rule(at=addresses, size=sizes, flags=st.sampled_from(FLAGS), prot=st.sampled_from((0, 1, 3, 7)))
    def mmap(self, at: int, size: int, flags: int, prot: int) -> None:
        self._try(self.m.mmap, at, size, prot, flags | F.MAP_FIXED)

    @rule(
        at=addresses, size=sizes, file=files, off=offsets, shared=st.booleans(), prot=st.sampled_from((1, 3))
    )
    def map_file(self, at: int, size: int, file: int, off: int, shared: bool, prot: int) -> None:
        flags = F.MAP_FIXED | (F.MAP_SHARED if shared else F.MAP_PRIVATE)
        self._try(self.m.mmap, at, size, prot, flags, self.files[file], off)

    @rule(at=addresses, size=sizes, device=st.integers(0, 4), off=offsets, shared=st.booleans())
    def map_device(self, at: int, size: int, device: int, off: int, shared: bool) -> None:
        flags = F.MAP_FIXED | (F.MAP_SHARED if shared else F.MAP_PRIVATE)
        self._try(self.m.mmap, at, size, 3, flags, self.devices[device], off)

    @rule(n=st.integers(0, 4), size=st.integers(1, 2), shared=st.booleans(), more=st.booleans())
    def map_hugetlb(self, n: int, size: int, shared: bool, more: bool) -> None:
        flags = F.MAP_FIXED | F.MAP_ANONYMOUS | F.MAP_HUGETLB | (F.MAP_NORESERVE if more else 0)
        flags |= F.MAP_SHARED if shared else F.MAP_PRIVATE
        self._try(self.m.mmap, B + n * HUGE, size * HUGE, 3, flags)

    @rule(n=st.integers(0, 6))
    def pool(self, n: int) -> None:
        self._try(self.m.sysctl, "vm.nr_hugepages", n)

    @rule(at=addresses, size=sizes, how=st.integers(0, 5))
    def touch(self, at: int, size: int, how: int) -> None:
        m = self.m
        calls = (m.store, m.load, m.copy_from_user, m.clear_user, m.process_vm_readv, m.mincore)
        self._try(calls[how], at, size)

    @rule(at=addresses, below=st.integers(1, 300))
    def stack(self, at: int, below: int) -> None:
        self._try(self.m.store, at - below * PAGE, 1)

    @rule(at=addresses)
    def fetch(self, at: int) -> None:
        self._try(self.m.exec, at)

    @rule(at=addresses, size=sizes, advice=st.sampled_from(ADVICE))
    def madvise(self, at: int, size: int, advice: int) -> None:
        self._try(self.m.madvise, at, size, advice)

    @rule(at=addresses, size=sizes, prot=st.sampled_from((0, 1, 3, 5)))
    def mprotect(self, at: int, size: int, prot: int) -> None:
        self._try(self.m.mprotect, at, size, prot)

    @rule(at=addresses, size=sizes, new=sizes, to=addresses, how=st.integers(0, 3))
    def mremap(self, at: int, size: int, new: int, to: int, how: int) -> None:
        both = F.MREMAP_MAYMOVE | F.MREMAP_FIXED
        flags = (0, F.MREMAP_MAYMOVE, both, both | F.MREMAP_DONTUNMAP)[how]
        if how == 1:  # where it goes to is of no interest, and must not be lost sight of
            self._try(self.m.mremap, at, size, min(size, new), flags, 0)
        else:
            self._try(self.m.mremap, at, size, size if how == 3 else new, flags, to)

    @rule(at=addresses, size=sizes)
    def munmap(self, at: int, size: int) -> None:
        self._try(self.m.munmap, at, size)

    @rule(at=addresses, size=sizes, pgoff=st.integers(0, 40), flags=st.sampled_from((0, F.MAP_NONBLOCK)))
    def remap_file_pages(self, at: int, size: int, pgoff: int, flags: int) -> None:
        self._try(self.m.remap_file_pages, at, size, 0, pgoff, flags)

    @rule(at=addresses, size=sizes, how=st.integers(0, 5), flags=st.integers(1, 7))
    def lock(self, at: int, size: int, how: int, flags: int) -> None:
        m = self.m
        match how:
            case 0:
                self._try(m.mlock, at, size)
            case 1:
                self._try(m.mlock2, at, size, F.MLOCK_ONFAULT)
            case 2:
                self._try(m.mlockall, flags)
            case 3:
                self._try(m.munlockall)
            case _:
                self._try(m.munlock, at, size)

    @rule(at=addresses, size=sizes, flags=st.integers(1, 7))
    def msync(self, at: int, size: int, flags: int) -> None:
        self._try(self.m.msync, at, size, flags)

    @rule(at=addresses, start=addresses, size=sizes, odd=st.sampled_from((0, 0, 0, 8, 0x800)))
    def zap(self, at: int, start: int, size: int, odd: int) -> None:
        def call() -> None:
            self.m.zap_vma_ptes(self.m.vma(at), start, size + odd)

        self._try(call)

    @rule(at=addresses, n=st.integers(1, 8), kind=st.integers(0, 3))
    def driver(self, at: int, n: int, kind: int) -> None:
        """What a driver does to a mapping of its device, or in error to another one."""
        m = self.m

        def call() -> None:
            vma = m.vma(at)
            match kind:
                case 0:
                    m.remap_pfn_range(vma, at, 0xE0000, n * PAGE)
                case 1:
                    m.vmf_insert_pfn(vma, at, 0xFE000 + n)
                case 2:
                    m.vm_iomap_memory(vma, 0xE0000 << 12, vma.size)
                case _:
                    m.vm_insert_page(vma, at, m.sys.frames.alloc_page(DRIVER) if n > 3 else n - 1)

        self._try(call)

    @rule(device=st.integers(0, 4), start=offsets, size=st.one_of(st.just(0), sizes), cows=st.booleans())
    def unmap_device(self, device: int, start: int, size: int, cows: bool) -> None:
        self._try(self.m.unmap_mapping_range, self.devices[device], start, size, cows)

    @rule(file=files, size=st.integers(0, 40 * PAGE))
    def truncate(self, file: int, size: int) -> None:
        self._try(self.m.ftruncate, self.files[file], size)

    @rule(file=files, off=st.integers(0, 30 * PAGE), size=st.integers(0, 20 * PAGE))
    def punch(self, file: int, off: int, size: int) -> None:
        self._try(self.m.punch_hole, self.files[file], off, size)

    @rule(file=files, off=st.integers(0, 30 * PAGE), data=st.binary(max_size=9000))
    def write_file(self, file: int, off: int, data: bytes) -> None:
        self._try(self.m.pwrite, self.files[file], data, off)

    @rule(seals=st.sampled_from((F.F_SEAL_SHRINK, F.F_SEAL_GROW, F.F_SEAL_WRITE, F.F_SEAL_FUTURE_WRITE)))
    def seal(self, seals: int) -> None:
        self._try(self.m.add_seals, self.files[0], seals)

    @rule(name=st.sampled_from(("as", "data", "memlock", "stack")), room=st.integers(0, 64 << 20))
    def rlimit(self, name: str, room: int) -> None:
        self._try(self.m.rlimit, name, room)

    @rule(room=st.integers(0, 8))
    def max_map_count(self, room: int) -> None:
        self._try(self.m.sysctl, "vm.max_map_count", self.m.mm.counters.data["map_count"] + room)

    @rule()
    def dropcaps(self) -> None:
        self._try(self.m.dropcaps)

    @rule(n=st.integers(0, 40))
    def brk(self, n: int) -> None:
        self._try(self.m.brk, self.m.mm.field("start_brk") + n * 1000)

    @rule(at=addresses, opt=st.sampled_from((F.PR_SET_MM_BRK, F.PR_SET_MM_START_BRK)))
    def move_heap(self, at: int, opt: int) -> None:
        self._try(self.m.prctl_set_mm, opt, at)

    @rule(kind=st.integers(1, 5))
    def clear_refs(self, kind: int) -> None:
        self._try(self.m.clear_refs, kind)

    @rule()
    def fork(self) -> None:
        if len(self.pids) < 3:
            self._try(lambda: self.pids.append(self.m.fork()))

    @rule(i=st.integers(0, 2))
    def switch(self, i: int) -> None:
        self.m.switch_to(self.pids[i % len(self.pids)])
        self.before = (self.m.position, self.m.digest())

    @rule()
    def exit(self) -> None:
        if self.m.pid != self.pids[0]:
            self.pids.remove(self.m.pid)
            self.m.exit()
            self.m.switch_to(self.pids[0])
            self.m.wait()
            self.before = (self.m.position, self.m.digest())

    @invariant()
    def holds(self) -> None:
        assert verify(self.m) == []

    @invariant()
    def the_last_one_can_be_taken_back(self) -> None:
        end, after = self.m.position, self.m.digest()
        place, digest = self.before
        if place == end:
            return
        self.m.journal.seek(place)
        assert self.m.digest() == digest
        self.m.journal.seek(end)
        assert self.m.digest() == after

    def teardown(self) -> None:
        if not hasattr(self, "pids"):
            return
        m = self.m
        for pid in self.pids[1:]:
            m.switch_to(pid)
            m.exit()
        m.switch_to(self.pids[0])
        for vma in list(m.mm.vmas):
            if vma.name != "[stack]":
                m.munmap(vma.start, vma.size)
        for fd in (*self.files, *self.devices):
            m.close(fd)
        assert verify(m) == []
        assert {mm.id for mm in m.mms.values() if len(mm.vmas)} == {m.mm.id}
        end, after = m.position, m.digest()
        m.journal.seek(self.at)
        assert m.digest() == self.digest
        m.journal.seek(end)
        assert m.digest() == after


TestWideStates = WideStates.TestCase
TestWideStates.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
