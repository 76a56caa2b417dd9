"""The address space of a process and what all of mm shares (models include/linux/mm_types.h).

`System` is what belongs to the machine as a whole (frames, tables, files, CPUs' TLBs, the dials), so that the
code of mm needs no machine.  `Mm` is mm_struct: its VMAs, counters and fields are stores, the rest never
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from ..arch.paging import PagingMode
from ..arch.tlb import Tlb
from ..trace.journal import Journal
from ..trace.store import Counters, Keyed
from ..value import Value
from ..versions import VERSIONS, KernelVersion, kernel_version
from .flags import VM_EXEC, VM_GROWSDOWN, VM_SHARED, VM_WRITE
from .frames import Frames
from .pgtable import TableArena
from .swapfile import SwapArea
from .vma import Vma
from .vma_set import VmaSet

if TYPE_CHECKING:
    from .memory.fault import FaultContext

COUNTER_NAMES = (
    "file",
    "anon",
    "swap",
    "shmem",
    "pgtables",
    "total_vm",
    "locked_vm",
    "data_vm",
    "exec_vm",
    "stack_vm",
    "map_count",
    "min_flt",
    "maj_flt",
    "hiwater_rss",
)
STACK_GUARD_GAP = 256 << 12


@attrs.frozen(eq=False, repr=False)
class File(Value):
    """An open file (struct file): ``inode`` names what is behind it, ``flags`` is O_RDONLY, O_WRONLY or
    O_RDWR.
    """

    id: int
    path: str
    flags: int
    inode: int


@attrs.frozen(eq=False, repr=False)
class Inode(Value):
    """What is behind a file: ``kind`` is "reg", "shmem", "ramfs", "chr" or "dir"; ``size`` in bytes;
    ``device`` names the driver; ``seals`` are the F_SEAL_* bits of a file in memory.
    """

    id: int
    path: str
    kind: str
    size: int = 0
    device: str = ""
    number: int = 0
    dev: str = "00:00"
    seals: int = 0


@attrs.frozen(eq=False, repr=False)
class VmOperations(Value):
    """The vm_operations_struct of a mapping: what a driver or file system wants to hear of its VMAs.

    ``fault`` serves a missing page; without it a missing page is SIGBUS.  ``per_page``: a run of pages is
    served as one fault each.  ``close``: the driver wants to hear of the end of a VMA, which keeps it from
    merging.  ``explain`` says in a sentence what the handler does.
    ``may_split`` is asked before a cut at an address and returns an errno to refuse it; ``page_mkwrite``: the
    first write to a page of a shared mapping is to fault.  ``imported``: the table of a real process, of which
    nobody knows what it does.
    """

    name: str
    fault: Callable[[FaultContext], int] | None = None
    per_page: bool = False
    close: bool = False
    explain: str = ""
    may_split: Callable[[Vma, int], str] | None = None
    page_mkwrite: bool = False
    imported: bool = False


def _version(name: str | KernelVersion) -> KernelVersion:
    return kernel_version(name) if isinstance(name, str) else name


@attrs.define(eq=False, repr=False)
class System:
    """What the whole machine shares.  ``version`` (given by name) and ``zap_contract`` are the dials;
    ``cap_sys_rawio``: the process may map below ``mmap_min_addr`` (bytes), as root may;
    ``cap_ipc_lock``: it may lock without limit; ``cap_sys_admin``: root's reserve is open to it.
    ``mms`` tells the address spaces that live.
    ``totalram_pages`` (0: all frames) and ``total_swap_pages`` are what overcommitting goes by."""

    journal: Journal
    mode: PagingMode
    frames: Frames
    arena: TableArena
    tlbs: list[Tlb]
    version: KernelVersion = attrs.field(default=VERSIONS["6.1"], converter=_version)
    zap_contract: str = "int"
    max_map_count: int = 65530
    mmap_min_addr: int = 65536
    cap_sys_rawio: bool = False
    cap_ipc_lock: bool = False
    cap_sys_admin: bool = False
    totalram_pages: int = 0
    total_swap_pages: int = 0
    sysctl: Keyed = attrs.field(factory=lambda: Keyed("sysctl"))
    thp: Keyed = attrs.field(factory=lambda: Keyed("thp"))
    hugetlb: Keyed = attrs.field(factory=lambda: Keyed("hugetlb"))
    files: Keyed = attrs.field(factory=lambda: Keyed("files"))
    inodes: Keyed = attrs.field(factory=lambda: Keyed("inodes"))
    page_cache: Keyed = attrs.field(factory=lambda: Keyed("page_cache"))
    inode_refs: Keyed = attrs.field(factory=lambda: Keyed("inode_refs"))
    disk: Keyed = attrs.field(factory=lambda: Keyed("disk"))
    ids: Counters = attrs.field(factory=lambda: Counters("ids", ("file", "inode", "anon_vma", "mm", "pid")))
    commit: Counters = attrs.field(factory=lambda: Counters("commit", ("committed",)))
    driver_pages: Keyed = attrs.field(factory=lambda: Keyed("driver_pages"))
    memtypes: Keyed = attrs.field(factory=lambda: Keyed("memtypes"))
    anon_vmas: Keyed = attrs.field(factory=lambda: Keyed("anon_vmas"))
    swap: SwapArea = attrs.field(
        default=attrs.Factory(lambda self: SwapArea(self.frames.contents), takes_self=True)
    )
    vm_ops: dict[str, VmOperations] = attrs.field(factory=dict)
    mms: Callable[[], Iterable[Mm]] = tuple
    drivers: dict[str, Any] = attrs.field(factory=dict)

    def new_id(self, kind: str) -> int:
        """The next id of a kind (file, inode, anon_vma, mm, pid)."""
        self.journal.add(self.ids, kind, 1)
        return self.ids.get(kind)

    def file_of(self, vma: Vma) -> File | None:
        """The open file behind a VMA."""
        return self.files.get(vma.file) if vma.file else None

    def ops_of(self, vma: Vma) -> VmOperations | None:
        """The VMA's vm_ops; None for an anonymous VMA (vm_ops NULL)."""
        return self.vm_ops[vma.ops] if vma.ops else None


class Mm:
    """An address space (mm_struct)."""

    def __init__(self, system: System, mm_id: int) -> None:
        self.id = mm_id
        self.sys = system
        self.vmas = VmaSet(f"mm{mm_id}.vmas")
        self.counters = Counters(f"mm{mm_id}.counters", COUNTER_NAMES)
        self.fields = Keyed(f"mm{mm_id}.fields")
        self.unknown = Keyed(f"mm{mm_id}.unknown")  # start -> end of ranges whose entries cannot be observed
        self.register()
        self.pgd = system.arena.alloc_table(0)
        self.task_size = system.mode.task_size

    def register(self) -> None:
        """Make its stores part of the digest."""
        for store in (self.vmas, self.counters, self.fields, self.unknown):
            self.sys.journal.register(store)

    @property
    def rss(self) -> int:
        """Resident pages (`get_mm_rss`): file, anonymous and shmem pages; raw PFNs and the zero page never
        count.
        """
        c = self.counters.data
        return c["file"] + c["anon"] + c["shmem"]

    def field(self, name: str) -> Any:
        """A field of mm_struct: start_brk, brk, mmap_base, start_stack, def_flags; 0 when never set."""
        return self.fields.data.get(name, 0)

    def set_field(self, name: str, value: Any) -> None:
        """Set a field of mm_struct through the journal."""
        self.sys.journal.write(self.fields, name, value)

    def find_vma(self, address: int) -> Vma | None:
        """The first VMA whose end lies above ``address`` (`find_vma`); it need not contain it."""
        return self.vmas.find(address)

    def vma_at(self, address: int) -> Vma | None:
        """The VMA that contains ``address`` (`vma_lookup`)."""
        return self.vmas.find_exact(address)

    def set_vma(self, old: Vma, new: Vma) -> None:
        """Replace a VMA by another with the same start."""
        self.sys.journal.write(self.vmas, old.start, new)

    def account(self, vma_flags: int, pages: int) -> None:
        """Add pages to the counters of the VMA's class (`vm_stat_account`); negative to take away."""
        j = self.sys.journal
        j.add(self.counters, "total_vm", pages)
        name = stat_class(vma_flags)
        if name:
            j.add(self.counters, name, pages)

    def unknown_pages(self, start: int, end: int) -> int:
        """Pages of ``[start, end)`` whose entries cannot be observed."""
        return sum(
            (min(e, end) - max(s, start)) >> 12 for s, e in self.unknown.data.items() if s < end and e > start
        )

    def forget_unknown(self, start: int, end: int) -> int:
        """Take ``[start, end)`` out of the unknown ranges; returns the pages it covered."""
        j = self.sys.journal
        pages = 0
        for s, e in sorted(self.unknown.data.items()):
            if s >= end or e <= start:
                continue
            pages += (min(e, end) - max(s, start)) >> 12
            j.write(self.unknown, s, start if s < start else None)
            if e > end:
                j.write(self.unknown, end, e)
        return pages


STAT_FLAGS = VM_EXEC | VM_WRITE | VM_SHARED | VM_GROWSDOWN
"""The flags that tell which counter a VMA's pages add to."""


def stat_class(vm_flags: int) -> str:
    """The counter that a VMA's pages add to besides total_vm, as mm/mmap.c decides it.

    >>> stat_class(VM_WRITE), stat_class(VM_EXEC), stat_class(VM_WRITE | VM_GROWSDOWN), stat_class(VM_SHARED)
    ('data_vm', 'exec_vm', 'stack_vm', '')
    """
    return _CLASSES[vm_flags & STAT_FLAGS]


def _class_of(kind: int) -> str:
    if (kind & (VM_EXEC | VM_WRITE | VM_GROWSDOWN)) == VM_EXEC:
        return "exec_vm"
    if kind & VM_GROWSDOWN:
        return "stack_vm"
    if (kind & (VM_WRITE | VM_SHARED)) == VM_WRITE:
        return "data_vm"
    return ""


_BITS = (VM_EXEC, VM_WRITE, VM_SHARED, VM_GROWSDOWN)
_CLASSES = {
    flags: _class_of(flags)
    for flags in (sum(bit for k, bit in enumerate(_BITS) if i >> k & 1) for i in range(1 << len(_BITS)))
}
