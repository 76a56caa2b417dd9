"""mmap and munmap where only VMAs and counters change, in one packed record each (mm/mmap.c).

A private anonymous mapping that comes into a hole, and a whole VMA that goes before a page of it was touched, are
common. `quick_mmap` and `quick_munmap` do what is so; else the call goes its long way, `do_mmap` and `do_munmap`. The
records, when somebody looks, are those of the long way.
"""

from __future__ import annotations

from ..arch.x86 import vm_get_page_prot
from ..errors import KernelError
from ..trace.journal import Enter, Leave, Record, Write
from ..trace.packed import Packed
from ..trace.store import Counters
from .flags import (
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_TYPE,
    VM_ACCOUNT,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SOFTDIRTY,
    accountable_mapping,
)
from .mm_types import Mm, stat_class
from .mmap import judge_mmap
from .mmu_gather import MmuGather
from .util import commit_refusal, may_expand_vm
from .vma import Vma
from .vma_merge import expansion


class PackedMmap(Packed):
    """mmap, called with ``call`` (its addr, length, prot, flags, fd), of ``[start, start + size)``: ``new`` takes the
    place of ``below`` or ``above``, which it has grown over, of both, or of nothing.

    The other numbers are what counters were before; ``committed`` is -1 where nothing is charged.
    """

    __slots__ = (
        *("above", "below", "call", "committed", "map_count", "mm", "name", "new", "of_class"),
        *("size", "start", "total_vm", "vm_flags"),
    )

    def __init__(
        self,
        mm: Mm,
        call: tuple[int, int, int, int, int],
        start: int,
        size: int,
        vm_flags: int,
        committed: int,
        new: Vma,
        below: Vma | None,
        above: Vma | None,
    ) -> None:
        data = mm.counters.data
        self.mm = mm
        self.call = call
        self.start = start
        self.size = size
        self.vm_flags = vm_flags
        self.committed = committed
        self.new = new
        self.below = below
        self.above = above
        self.map_count = data["map_count"]
        self.total_vm = data["total_vm"]
        self.name = name = stat_class(vm_flags)
        self.of_class = data[name] if name else 0
        n = 7 + (below is not None) + 2 * (above is not None)
        self.nr_records = n + (committed >= 0) + (name != "")

    def redo(self) -> None:
        """Do all writes again."""
        mm, new, above, pages = self.mm, self.new, self.above, self.size >> 12
        if self.committed >= 0:
            mm.sys.commit.data["committed"] = self.committed + pages
        mm.vmas.put(new.start, new)
        if above is not None:  # last, so that in between there is no hole to be noted
            mm.vmas.put(above.start, None)
        data = mm.counters.data
        data["map_count"] = self.map_count + (self.below is None) - (above is not None)
        data["total_vm"] = self.total_vm + pages
        if self.name:
            data[self.name] = self.of_class + pages

    def undo(self) -> None:
        """Take all writes back."""
        mm, above = self.mm, self.above
        if above is not None:
            mm.vmas.put(above.start, above)
        mm.vmas.put(self.new.start, self.below)
        if self.committed >= 0:
            mm.sys.commit.data["committed"] = self.committed
        data = mm.counters.data
        data["map_count"] = self.map_count
        data["total_vm"] = self.total_vm
        if self.name:
            data[self.name] = self.of_class

    def unpack(self) -> list[Record]:
        """The records of mmap."""
        mm, new, below, above, pages = self.mm, self.new, self.below, self.above, self.size >> 12
        fields = (("addr", self.start), ("len", self.size), ("vm_flags", self.vm_flags))
        call = tuple(zip(("addr", "length", "prot", "flags", "fd"), self.call, strict=True))
        told: list[Record] = [Enter("mmap", call), Enter("mmap_region", fields)]
        if self.committed >= 0:
            told.append(_added(mm.sys.commit, "committed", self.committed, pages))
        if below is None and above is None:
            told += [(mm.vmas, new.start, None, new), _added(mm.counters, "map_count", self.map_count, 1)]
        else:
            told.append(Enter("vma_expand", (("start", new.start), ("end", new.end))))
            if above is not None:
                told.append((mm.vmas, above.start, above, None))
                if below is not None:
                    told.append(_added(mm.counters, "map_count", self.map_count, -1))
            told += [(mm.vmas, new.start, below, new), Leave("vma_expand", 0)]
        told.append(_added(mm.counters, "total_vm", self.total_vm, pages))
        if self.name:
            told.append(_added(mm.counters, self.name, self.of_class, pages))
        told += [Leave("mmap_region", self.start), Leave("mmap", self.start)]
        return told


class PackedMunmap(Packed):
    """munmap of ``vma``, called with ``length``; ``floor`` and ``ceiling`` are those of free_pgtables.

    The other numbers are what counters were before; ``committed`` is -1 where nothing was charged.
    """

    __slots__ = (
        *("ceiling", "committed", "floor", "length", "map_count", "mm", "name", "of_class", "total_vm"),
        "vma",
    )

    def __init__(self, mm: Mm, vma: Vma, length: int, floor: int, ceiling: int) -> None:
        data = mm.counters.data
        self.mm = mm
        self.vma = vma
        self.length = length
        self.floor = floor
        self.ceiling = ceiling
        self.committed = mm.sys.commit.data["committed"] if vma.vm_flags & VM_ACCOUNT else -1
        self.map_count = data["map_count"]
        self.total_vm = data["total_vm"]
        self.name = name = stat_class(vma.vm_flags)
        self.of_class = data[name] if name else 0
        self.nr_records = 15 + (self.committed >= 0) + (name != "")

    def redo(self) -> None:
        """Do all writes again."""
        mm, vma = self.mm, self.vma
        pages = (vma.end - vma.start) >> 12
        mm.vmas.put(vma.start, None)
        data = mm.counters.data
        data["map_count"] = self.map_count - 1
        data["total_vm"] = self.total_vm - pages
        if self.name:
            data[self.name] = self.of_class - pages
        if self.committed >= 0:
            mm.sys.commit.data["committed"] = self.committed - pages

    def undo(self) -> None:
        """Take all writes back."""
        mm, vma = self.mm, self.vma
        mm.vmas.put(vma.start, vma)
        data = mm.counters.data
        data["map_count"] = self.map_count
        data["total_vm"] = self.total_vm
        if self.name:
            data[self.name] = self.of_class
        if self.committed >= 0:
            mm.sys.commit.data["committed"] = self.committed

    def unpack(self) -> list[Record]:
        """The records of munmap."""
        mm, vma = self.mm, self.vma
        span = (("start", vma.start), ("end", vma.end))
        told: list[Record] = [
            Enter("munmap", (("addr", vma.start), ("length", self.length))),
            Enter("do_mas_align_munmap", span),
            (mm.vmas, vma.start, vma, None),
            _added(mm.counters, "map_count", self.map_count, -1),
            Enter("unmap_region", span),
            Enter("unmap_page_range", span),
            Leave("unmap_page_range", None),
            Enter("free_pgtables", (("floor", self.floor), ("ceiling", self.ceiling))),
            Leave("free_pgtables", None),
            Enter("tlb_finish_mmu", ()),
            Leave("tlb_finish_mmu", None),
            Leave("unmap_region", None),
            _added(mm.counters, "total_vm", self.total_vm, -vma.nr_pages),
        ]
        if self.name:
            told.append(_added(mm.counters, self.name, self.of_class, -vma.nr_pages))
        if self.committed >= 0:
            told.append(_added(mm.sys.commit, "committed", self.committed, -vma.nr_pages))
        told += [Leave("do_mas_align_munmap", 0), Leave("munmap", 0)]
        return told


def _added(counters: Counters, name: str, old: int, delta: int) -> Write:
    return counters, name, old, old + delta


_KIND = MAP_TYPE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_LOCKED | MAP_POPULATE


def quick_mmap(mm: Mm, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
    """mmap of private anonymous memory (bytes) with nothing in its way and within all limits, its pages neither
    locked nor made; the address, or -1, and nothing done, where it is not so.
    """
    if flags & _KIND != MAP_PRIVATE | MAP_ANONYMOUS:
        return -1
    try:
        start, size, vm_flags, pgoff = judge_mmap(mm, addr, length, prot, flags, None, offset)
    except KernelError:
        return -1
    pages = size >> 12
    below, there, above = mm.vmas.around(start, start + size)
    if there or vm_flags & VM_LOCKED or not may_expand_vm(mm, vm_flags, pages):
        return -1
    charged, committed = vm_flags, -1
    if accountable_mapping(vm_flags):
        if commit_refusal(mm, pages):
            return -1
        charged |= VM_ACCOUNT
        committed = mm.sys.commit.data["committed"]
    grown = expansion(mm, start, start + size, charged, 0, pgoff, below, above)
    if grown is None:
        new = Vma(start, start + size, charged | VM_SOFTDIRTY, pgoff, vm_get_page_prot(charged))
        below = above = None
    else:
        new, below, above = grown
    call = (addr, length, prot, flags, fd)
    mm.sys.journal.perform(PackedMmap(mm, call, start, size, vm_flags, committed, new, below, above))
    return start


_SLOW = VM_LOCKED | VM_HUGETLB | VM_PFNMAP | VM_MIXEDMAP


def quick_munmap(mm: Mm, addr: int, length: int) -> MmuGather | None:
    """munmap of exactly one anonymous VMA that has no entry in the page tables, where no table goes with it;
    None, and nothing done, where it is not so.
    """
    end = addr + (length + 4095 & -4096)
    before, there, after = mm.vmas.around(addr, end) if addr < end <= mm.task_size else (None, [], None)
    if len(there) != 1:
        return None
    vma = there[0]
    if vma.start != addr or vma.end != end or vma.vm_flags & _SLOW or vma.file or mm.unknown.data:
        return None
    if mm.rss > mm.counters.data["hiwater_rss"]:
        return None
    floor = 0 if before is None else before.end
    ceiling = 0 if after is None else after.start
    arena = mm.sys.arena
    if arena.frees_tables(floor, ceiling) or not arena.is_clear(mm.pgd, vma.start, vma.end):
        return None
    mm.sys.journal.perform(PackedMunmap(mm, vma, length, floor, ceiling))
    return MmuGather(mm)
