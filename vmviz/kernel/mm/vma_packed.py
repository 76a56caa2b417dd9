"""mmap and munmap where only VMAs and counters change, in one packed record each (mm/mmap.c).

An anonymous mapping that comes into a hole, and a whole VMA that goes before a page of it was touched, are common.
`mapped` and `unmapped` judge whether it is so and then do it; else `mmap_region` and `do_munmap` go their long way.
The records, when somebody looks, are those of the long way.
"""

from __future__ import annotations

from ..arch.x86 import vm_get_page_prot
from ..trace.journal import Enter, Leave, Record, Write
from ..trace.packed import Packed
from ..trace.store import Counters
from .flags import (
    VM_ACCOUNT,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SOFTDIRTY,
    accountable_mapping,
)
from .mm_types import Mm, stat_class
from .util import commit_refusal, may_expand_vm
from .vma import Vma
from .vma_merge import expansion


class PackedWrites(Packed):
    """Plain writes with the kernel functions around them."""

    __slots__ = ("writes",)

    writes: list[Write]

    def redo(self) -> None:
        """Do all writes again."""
        for store, key, _, new in self.writes:
            store.put(key, new)

    def undo(self) -> None:
        """Take all writes back."""
        for store, key, old, _ in reversed(self.writes):
            store.put(key, old)


class PackedMmap(PackedWrites):
    """mmap_region of ``[start, start + size)``: first ``charged`` writes (0 or 1), then the VMAs, at last statistics.

    ``grown`` is how many writes it took a neighbour to grow; 0: the mapping is a VMA of its own.
    """

    __slots__ = ("charged", "flags", "grown", "size", "start")

    def __init__(
        self, writes: list[Write], start: int, size: int, flags: int, charged: int, grown: int
    ) -> None:
        self.writes = writes
        self.start = start
        self.size = size
        self.flags = flags
        self.charged = charged
        self.grown = grown
        self.nr_records = len(writes) + (4 if grown else 2)

    def unpack(self) -> list[Record]:
        """The records of `mmap_region`."""
        fields = (("addr", self.start), ("len", self.size), ("vm_flags", self.flags))
        told: list[Record] = [Enter("mmap_region", fields), *self.writes, Leave("mmap_region", self.start)]
        if self.grown:
            first = 1 + self.charged
            vma = self.writes[self.charged + self.grown - 1][3]
            told.insert(first + self.grown, Leave("vma_expand", 0))
            told.insert(first, Enter("vma_expand", (("start", vma.start), ("end", vma.end))))
        return told


class PackedMunmap(PackedWrites):
    """do_mas_align_munmap of ``[start, end)``: ``gone`` VMAs and map_count, then what they counted for.

    ``floor`` and ``ceiling`` are those of free_pgtables.
    """

    __slots__ = ("ceiling", "end", "floor", "start")

    def __init__(self, writes: list[Write], start: int, end: int, floor: int, ceiling: int) -> None:
        self.writes = writes
        self.start = start
        self.end = end
        self.floor = floor
        self.ceiling = ceiling
        self.nr_records = len(writes) + 10

    def unpack(self) -> list[Record]:
        """The records of `do_munmap`."""
        span = (("start", self.start), ("end", self.end))
        return [
            Enter("do_mas_align_munmap", span),
            *self.writes[:2],
            Enter("unmap_region", span),
            Enter("unmap_page_range", span),
            Leave("unmap_page_range", None),
            Enter("free_pgtables", (("floor", self.floor), ("ceiling", self.ceiling))),
            Leave("free_pgtables", None),
            Enter("tlb_finish_mmu", ()),
            Leave("tlb_finish_mmu", None),
            Leave("unmap_region", None),
            *self.writes[2:],
            Leave("do_mas_align_munmap", 0),
        ]


def mapped(mm: Mm, addr: int, size: int, vm_flags: int, pgoff: int) -> bool:
    """`mmap_region` of private anonymous memory (bytes) with nothing in its way and within all limits, pages
    not locked; False, and nothing done, where it is not so.
    """
    pages = size >> 12
    below, there, above = mm.vmas.around(addr, addr + size)
    if there or not may_expand_vm(mm, vm_flags, pages):
        return False
    writes: list[Write] = []
    flags = vm_flags
    if accountable_mapping(vm_flags):
        if commit_refusal(mm, pages):
            return False
        flags |= VM_ACCOUNT
        commit = mm.sys.commit
        committed = commit.data["committed"]
        writes.append((commit, "committed", committed, committed + pages))
    charged = len(writes)
    vmas, counters = mm.vmas, mm.counters
    grown = expansion(mm, addr, addr + size, flags, 0, pgoff, below, above)
    if grown is None:
        vma = Vma(addr, addr + size, flags | VM_SOFTDIRTY, pgoff, vm_get_page_prot(flags))
        writes.append((vmas, addr, None, vma))
        writes.append(_added(counters, "map_count", 1))
        length = 0
    else:
        new, below, above = grown
        if above is not None:
            writes.append((vmas, above.start, above, None))
            if below is not None:
                writes.append(_added(counters, "map_count", -1))
        writes.append((vmas, new.start, below, new))
        length = len(writes) - charged
    writes.append(_added(counters, "total_vm", pages))
    if name := stat_class(flags):
        writes.append(_added(counters, name, pages))
    mm.sys.journal.perform(PackedMmap(writes, addr, size, vm_flags, charged, length))
    return True


_SLOW = VM_LOCKED | VM_HUGETLB | VM_PFNMAP | VM_MIXEDMAP


def unmapped(mm: Mm, vma: Vma, before: Vma | None, after: Vma | None) -> bool:
    """`do_munmap` of a whole anonymous VMA that has no entry in the page tables, where no table goes with it;
    False, and nothing done, where it is not so.  ``before`` and ``after`` are its neighbours.
    """
    if vma.vm_flags & _SLOW or vma.file or mm.unknown.data or mm.rss > mm.counters.data["hiwater_rss"]:
        return False
    floor = 0 if before is None else before.end
    ceiling = 0 if after is None else after.start
    arena = mm.sys.arena
    if arena.frees_tables(floor, ceiling) or not arena.is_clear(mm.pgd, vma.start, vma.end):
        return False
    counters, pages = mm.counters, (vma.end - vma.start) >> 12
    writes: list[Write] = [
        (mm.vmas, vma.start, vma, None),
        _added(counters, "map_count", -1),
        _added(counters, "total_vm", -pages),
    ]
    if name := stat_class(vma.vm_flags):
        writes.append(_added(counters, name, -pages))
    if vma.vm_flags & VM_ACCOUNT:
        writes.append(_added(mm.sys.commit, "committed", -pages))
    mm.sys.journal.perform(PackedMunmap(writes, vma.start, vma.end, floor, ceiling))
    return True


def _added(counters: Counters, name: str, delta: int) -> Write:
    old = counters.data[name]
    return counters, name, old, old + delta
