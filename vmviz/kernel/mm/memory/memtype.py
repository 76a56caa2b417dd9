"""Which memory types are reserved for frames outside RAM (models arch/x86/mm/pat/memtype.c and
memtype_interval.c).

`remap_pfn_range` reserves the frames of a whole VMA, and the VMA (VM_PAT) gives them back when it is zapped or goes.
After a split it gives back what was never reserved like this, so that the reservation is cut at its end or leaks for
good, as in the kernel.  Simplified: every reservation is write-back, so none conflicts with another.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...arch.x86 import _PAGE_SPECIAL, pte_pfn
from ..flags import VM_PAT, is_cow_mapping
from ..mm_types import Mm, System
from ..vma import Vma

Interval = tuple[int, int]


def memtype_reserve(system: System, start: int, end: int) -> None:
    """Note one more reservation of the frames ``[start, end)`` (pfns); RAM needs none."""
    if not system.frames.pfn_valid(start):
        _count(system, (start, end), 1)


def memtype_free(system: System, start: int, end: int) -> bool:
    """Give the frames ``[start, end)`` (pfns) back (`memtype_erase`); False where the kernel knows no such
    reservation ("freeing invalid memtype") and keeps what it has.

    One that begins earlier and ends there is cut at ``start``; of several the one that begins first.
    """
    if system.frames.pfn_valid(start):
        return True
    known = system.memtypes.data
    if (start, end) in known:
        _count(system, (start, end), -1)
        return True
    longer = min((one for one in known if one[0] < start and one[1] == end), default=None)
    if longer is None:
        return False
    _count(system, longer, -1)
    _count(system, (longer[0], start), 1)
    return True


def memtype_intervals(system: System) -> Iterable[Interval]:
    """The reserved ranges of frames: half open, in no order; what lies in none is UC- to `lookup_memtype`."""
    return system.memtypes.data.keys()


def untrack_pfn(mm: Mm, vma: Vma) -> None:
    """Drop the memtype reservation of the whole VMA and clear VM_PAT (arch/x86/mm/pat/memtype.c).

    Which frames it covers the first entry tells, in a private mapping vm_pgoff where that has been copied.
    """
    j = mm.sys.journal
    j.enter("untrack_pfn", ("vma", vma.start))
    slot = mm.sys.arena.lookup(mm.pgd, vma.start)
    entry = mm.sys.arena.flat[slot] if slot >= 0 else 0
    pfn = pte_pfn(entry) if entry & _PAGE_SPECIAL else vma.pgoff if is_cow_mapping(vma.vm_flags) else None
    if pfn is not None:
        memtype_free(mm.sys, pfn, pfn + vma.nr_pages)
    current = mm.vmas.get(vma.start)
    if current is not None and current.vm_flags & VM_PAT:
        mm.set_vma(current, current.replace(vm_flags=current.vm_flags & ~VM_PAT))
    j.leave("untrack_pfn")


def _count(system: System, interval: Interval, by: int) -> None:
    left = (system.memtypes.data.get(interval) or 0) + by
    system.journal.write(system.memtypes, interval, left or None)


__all__ = ["memtype_free", "memtype_intervals", "memtype_reserve", "untrack_pfn"]
