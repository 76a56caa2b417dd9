"""The machine: RAM, CPUs, devices, tasks, and the journal over all of it.

>>> from vmviz.kernel import Machine
>>> m = Machine(ram=64 << 20)
>>> fb = m.mmap(0, 8 << 20, "rw", "shared", m.open("/dev/fb0"))
>>> m.zap_vma_ptes(m.vma(fb), fb + (1 << 20), 2 << 20).ptes_cleared
512
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from .arch import get_mode
from .arch.tlb import Tlb
from .drivers import add_default_devices
from .drivers.special import add_special_mappings
from .errors import VmvizError
from .exec import setup_mm
from .mm.frames import Frames
from .mm.memory.zap_checks import CONTRACTS
from .mm.mm_types import Mm, System
from .mm.page_alloc import Zone
from .mm.pgtable import TableArena
from .mm.swapfile import SWAP_PAGES, SwapArea
from .processes import Processes, Task
from .syscalls import Syscalls
from .trace.journal import Journal, Position, Record
from .trace.store import Keyed, Store
from .value import Value
from .versions import kernel_version

DEFAULT_RAM = 1 << 30


@attrs.frozen(eq=False, repr=False)
class Config(Value):
    """What a machine is made of: RAM and swap in bytes, the paging mode, the dials, whether [vvar] and [vdso] are
    mapped.
    """

    ram: int = DEFAULT_RAM
    mode: str = "x86-64-4l"
    kernel: str = "6.1"
    zap_contract: str = "int"
    vdso: bool = True
    cpus: int = 1
    comm: str = "init"
    swap: int = SWAP_PAGES << 12

    def validate(self) -> None:
        """Raise `VmvizError` naming the first value that makes no machine."""
        if not 1 << 20 <= self.ram <= 1 << 36 or self.ram & 4095:
            raise VmvizError(f"mem={self.ram:#x}: RAM is 1M to 64G, in whole pages")
        if not 0 <= self.swap <= 1 << 36 or self.swap & 4095:
            raise VmvizError(f"swap={self.swap:#x}: a swap device has 0 to 64G, in whole pages")
        kernel_version(self.kernel)
        if self.zap_contract not in CONTRACTS:
            raise VmvizError(
                f"zap_contract {self.zap_contract!r} is not known; known: {', '.join(CONTRACTS)}"
            )
        if get_mode(self.mode).name not in ("x86-64-4l", "x86-64-5l"):
            raise VmvizError(
                f"paging mode {self.mode!r} can be looked at, but machines are x86-64 only so far"
            )


class Machine(Processes, Syscalls):
    """A simulated machine with one process at first, ready to run statements.

    All changes go through ``journal``; `digest` is the same whenever the stores hold the same.
    """

    def __init__(self, config: Config | None = None, **changes: Any) -> None:
        self.config = attrs.evolve(config or Config(), **changes)
        self.config.validate()
        self.journal = Journal()
        self._build(self.config.ram >> 12)
        self._finish_boot()

    def _build(self, nr_frames: int, zones: tuple[Zone, ...] | None = None, initial: int = 0) -> None:
        c, j = self.config, self.journal
        mode = get_mode(c.mode)
        self.frames = Frames(nr_frames, j, zones=zones, initial=initial)
        self.arena = TableArena(mode, self.frames, j)
        tlbs = [Tlb(cpu, j) for cpu in range(c.cpus)]
        self.sys = System(j, mode, self.frames, self.arena, tlbs, c.kernel, c.zap_contract)
        self.sys.swap = SwapArea(self.frames.contents, max(1, c.swap >> 12))
        self.tasks = Keyed("tasks")
        self.fds = Keyed("fds")
        s = self.sys
        self.running = Keyed("running")
        kept = (
            s.files,
            s.inodes,
            s.page_cache,
            s.inode_refs,
            s.disk,
            s.ids,
            s.commit,
            s.driver_pages,
            s.memtypes,
            s.sysctl,
            s.thp,
            s.hugetlb,
        )
        for store in (*kept, s.anon_vmas, *s.swap.stores, self.tasks, self.fds, self.running):
            j.register(store)
        self._mms: dict[int, Mm] = {}
        s.mms = self._living_mms
        add_default_devices(s)
        add_special_mappings(s)
        j.write(self.running, "pid", self._new_task(c.comm))

    def _new_task(self, comm: str) -> int:
        mm = self._new_mm()
        pid = self.sys.new_id("pid")
        self.journal.write(self.tasks, pid, Task(pid, comm, mm.id))
        return pid

    def _new_mm(self) -> Mm:
        mm = Mm(self.sys, self.sys.new_id("mm"))
        self._mms[mm.id] = mm
        return mm

    def _finish_boot(self) -> None:
        setup_mm(self.mm, vdso=self.config.vdso)
        self.seal()

    def seal(self) -> None:
        """What happened up to now is the base: it cannot be taken back."""
        self.journal.clear()

    def known_mms(self) -> tuple[Mm, ...]:
        """The address spaces of all processes of the journal, those to come and those that have ended too."""
        return tuple(self._mms.values())

    def resume(self, records: list[Record], mms: Iterable[Mm]) -> None:
        """`Journal.resume`, with the address spaces that the records write to: another future may have made others
        of the same ids in the meantime.
        """
        for mm in mms:
            self._mms[mm.id] = mm
            mm.register()
        self.journal.resume(records)

    # -- looking

    @property
    def pid(self) -> int:
        """The process that runs."""
        return int(self.running.data["pid"])

    @property
    def mms(self) -> dict[int, Mm]:
        """The address spaces that live, by id."""
        return {t.mm: self._mms[t.mm] for _, t in sorted(self.tasks.data.items()) if t.mm}

    def _living_mms(self) -> list[Mm]:
        return list(self.mms.values())

    @property
    def task(self) -> Task:
        """The process that runs."""
        task: Task = self.tasks.get(self.pid)
        return task

    @property
    def mm(self) -> Mm:
        """The address space of the process that runs."""
        return self._mms[self.tasks.data[self.running.data["pid"]].mm]

    @property
    def position(self) -> Position:
        """Where the stores stand in the journal."""
        return self.journal.position

    def digest(self) -> str:
        """SHA-256 over the canonical content of all stores."""
        return self.journal.digest()

    def stores(self) -> dict[str, Store]:
        """All stores by name."""
        return self.journal.stores
