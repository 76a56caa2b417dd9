"""What the views keep between two scenes, by position of the journal: the ordinals of the VMAs and counts.

A `Stamp` is a moment of a journal.  What was worked out at one moment holds as long as the stores stand
there; the index of the VMAs holds until a record between then and now writes the VMA set.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..kernel.arch.x86 import pmd_pfn
from ..kernel.machine import Machine
from ..kernel.mm.flags import VM_PFNMAP
from ..kernel.mm.frames import DeviceRegion
from ..kernel.mm.mm_types import Mm
from ..kernel.mm.vma import Vma
from ..kernel.trace.journal import Journal
from .entries import pfns_of, present_of

_SCAN_LIMIT = 50_000


def mapped_pfns(machine: Machine, start: int, end: int) -> NDArray[np.int64]:
    """The frames that the present entries of ``[start, end)`` (bytes) point to, in address order.

    What lies behind the end of user space is left out: a range may be as wrong as a caller can make it.
    """
    start, end = max(start, 0), min(end, machine.mm.task_size)
    arena, parts = machine.arena, [np.zeros(0, np.int64)]
    for slot, n, _, _ in arena.runs(machine.mm.pgd, start, end):
        entries = arena.entries[slot : slot + n]
        parts.append(pfns_of(entries[present_of(entries, arena.mode)], arena.mode))
    for slot, va in arena.huge_leaves(machine.mm.pgd, start, end):
        first, low, high = (
            pmd_pfn(arena.flat[slot]),
            max(start, va),
            min(end, va + arena.mode.levels[-2].span),
        )
        parts.append(np.arange(first + ((low - va) >> 12), first + ((high - va + 4095) >> 12)))
    return np.concatenate(parts)


class Stamp:
    """A moment of a journal, to be compared with a later one without looking at the stores."""

    __slots__ = ("_at", "_before", "position")

    def __init__(self, journal: Journal) -> None:
        rec, step = self.position = journal.position
        self._before = journal.records[rec - 1] if rec else None
        self._at = journal.records[rec] if step else None

    def holds(self, journal: Journal) -> bool:
        """Whether the records up to the moment are still the journal's (no new statement replaced them)."""
        rec, step = self.position
        records = journal.records
        if rec + bool(step) > len(records):
            return False
        return (not rec or records[rec - 1] is self._before) and (not step or records[rec] is self._at)

    def is_now(self, journal: Journal) -> bool:
        """Whether the stores stand at this moment."""
        return journal.position == self.position and self.holds(journal)


class VmaIndex:
    """The rows of the list without details, as prefix sums over the ordinals of the VMAs.

    ``row_of[i]`` is the row of VMA ``i``; a gap has a row of its own above the VMA that ends it,
    or at the end.  ``files`` are the ids of all files that a VMA maps, ``pfnmaps`` the number of VMAs that
    are VM_PFNMAP, ``first_pfnmap`` the ordinal of the first of them (-1: none).
    """

    def __init__(self, mm: Mm) -> None:
        self.stamp = Stamp(mm.sys.journal)
        self.count = count = len(mm.vmas)
        starts, ends, vm_flags, files = _columns(mm)
        bounds = np.zeros(count + 1, np.uint64)
        bounds[1:] = ends
        self.row_of: NDArray[np.int64] = np.arange(count) + np.cumsum(starts > bounds[:-1])
        self.end = int(bounds[-1])
        self.tail_gap = self.end < mm.task_size
        self.rows = (int(self.row_of[-1]) + 1 if count else 0) + self.tail_gap
        self.files = set(files)
        bare = np.flatnonzero(vm_flags & np.uint64(VM_PFNMAP))
        self.pfnmaps, self.first_pfnmap = len(bare), int(bare[0]) if len(bare) else -1

    @staticmethod
    def of(mm: Mm) -> VmaIndex:
        """The index of an address space as it is now; made anew only when its VMA set was written."""
        kept = _indexes.get(mm)
        journal = mm.sys.journal
        if kept is None or len(mm.vmas) != kept.count or not kept.stamp.holds(journal) or not journal.enabled:
            kept = _indexes[mm] = VmaIndex(mm)
        elif kept.stamp.position != journal.position:
            if _written(mm, kept.stamp):
                kept = _indexes[mm] = VmaIndex(mm)
            else:
                kept.stamp = Stamp(journal)
        return kept

    def what(self, row: int) -> tuple[bool, int]:
        """Whether a row is a gap, and the ordinal of its VMA (of the one above the gap's end)."""
        i = int(np.searchsorted(self.row_of, row))
        return i == self.count or int(self.row_of[i]) != row, i


def _columns(mm: Mm) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], Iterable[int]]:
    """Start, end and flags of all VMAs, and the ids of the files behind them.

    An imported address space has them as columns, which hold before its first statement.
    """
    base = mm.vmas.base
    if base is not None and mm.sys.journal.enabled and mm.sys.journal.position == (0, 0):
        return base.start, base.end, base.vm_flags, base.files
    vmas = mm.vmas.items_slice(0, len(mm.vmas))
    return (
        np.array([v.start for v in vmas], np.uint64),
        np.array([v.end for v in vmas], np.uint64),
        np.array([v.vm_flags for v in vmas], np.uint64),
        {v.file for v in vmas},
    )


def _written(mm: Mm, stamp: Stamp) -> bool:
    """Whether VMAs came, went, or got other ends, files or VM_PFNMAP between a moment and now (or may have)."""
    journal = mm.sys.journal
    low, high = sorted((stamp.position, journal.position))
    if high[0] - low[0] > _SCAN_LIMIT:
        return True
    for record, _, _ in journal.between(low, high):
        if type(record) is tuple and record[0] is mm.vmas:
            _, _, old, new = record
            if (
                old is None
                or new is None
                or (old.end, old.file, old.is_pfnmap) != (new.end, new.file, new.is_pfnmap)
            ):
                return True
    return False


_indexes: WeakKeyDictionary[Mm, VmaIndex] = WeakKeyDictionary()
_counts: WeakKeyDictionary[Machine, tuple[Stamp, dict[tuple[int, int, int], int]]] = WeakKeyDictionary()


def present_in(machine: Machine, vma: Vma) -> int:
    """How many pages of a VMA of the running process are present, counted in its tables; a huge leaf is 512.

    Kept until the journal moves.  Ranges that cannot be observed count as nothing: see `Mm.unknown_pages`.

    >>> m = Machine(ram=64 << 20); h = m.mmap(0, 65536, "rw", "private"); _ = m.store(h, 8192)
    >>> present_in(m, m.vma(h))
    2
    """
    kept = _counts.get(machine)
    if kept is None or not kept[0].is_now(machine.journal) or not machine.journal.enabled:
        kept = _counts[machine] = (Stamp(machine.journal), {})
    key = (machine.mm.id, vma.start, vma.end)
    if key not in kept[1]:
        arena = machine.arena
        runs = arena.runs(machine.mm.pgd, vma.start, vma.end)
        kept[1][key] = sum(
            int(np.count_nonzero(present_of(arena.entries[s : s + n], arena.mode))) for s, n, _, _ in runs
        )
        huge = arena.huge_leaves(machine.mm.pgd, vma.start, vma.end)
        kept[1][key] += len(huge) * arena.mode.levels[-1].entries
    return kept[1][key]


def device_of(machine: Machine, vma: Vma) -> DeviceRegion | None:
    """The device memory behind a VMA, None when there is none."""
    return region_of_file(machine, vma.file)


def region_of_file(machine: Machine, file_id: int) -> DeviceRegion | None:
    """The device memory that an open file (by its id) gives access to, None when there is none."""
    file = machine.sys.files.get(file_id) if file_id else None
    inode = machine.sys.inodes.get(file.inode) if file else None
    name = inode.device.rsplit("/", 1)[-1] if inode else ""
    return next((r for r in machine.frames.regions if name and r.name == name), None)
