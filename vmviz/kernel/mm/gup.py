"""Faulting pages in before they are touched (models populate_vma_page_range and __mm_populate, mm/gup.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..arch.x86 import _PAGE_ACCESSED, _PAGE_DIRTY, _PAGE_PRESENT, _PAGE_RW, _PAGE_SOFT_DIRTY, _PAGE_SPECIAL
from ..errors import SignalRaised, UnknownContentsError
from ..trace.bulk import Bulk, SetLane
from .access import READ, WRITE, access, fault
from .flags import VM_ACCESS_FLAGS, VM_IO, VM_LOCKONFAULT, VM_PFNMAP, VM_SHARED, VM_WRITE
from .memory.fault import missing_tables
from .memory.normal_page import pfns_of
from .page_alloc import OutOfMemory
from .page_flags import PG_DIRTY
from .pgtable import NO_DEPOSIT
from .swap import mark_page_accessed

if TYPE_CHECKING:
    from .mm_types import Mm
    from .vma import Vma


def mm_populate(mm: Mm, start: int, length: int, *, ignore_errors: bool = True) -> str:
    """Fault in what ``[start, start + length)`` (bytes) maps (`__mm_populate`); returns an errno or "".

    Mappings of devices (VM_IO, VM_PFNMAP) and holes are left alone.  An error ends the VMA that it came from,
    and unless ``ignore_errors`` everything.
    """
    j = mm.sys.journal
    j.enter("__mm_populate", ("start", start), ("len", length))
    end, error = start + ((length + 4095) & -4096), ""
    for vma in mm.vmas.overlapping(start, end):
        if vma.vm_flags & (VM_IO | VM_PFNMAP):
            continue
        error = populate_vma_page_range(mm, vma, max(start, vma.start), min(end, vma.end))
        if error and not ignore_errors:
            break
        error = ""
    j.leave("__mm_populate", error or 0)
    return error


def populate_vma_page_range(mm: Mm, vma: Vma, start: int, end: int) -> str:
    """Fault in a range of one VMA (mm/gup.c), for writing where a write would be private; returns an errno.

    EFAULT: the mapping allows no access, or a page cannot be served; ENOMEM: no frame is left.  Pages that
    are there are left alone (their A and D bits too: no processor touches them).  A VM_LOCKONFAULT mapping
    is left as it is.
    """
    if vma.vm_flags & VM_LOCKONFAULT:
        return ""
    if not vma.vm_flags & VM_ACCESS_FLAGS or vma.vm_flags & (VM_IO | VM_PFNMAP):
        return "EFAULT"
    return faultin_page_range(mm, start, end, vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE)


def faultin_page_range(mm: Mm, start: int, end: int, write: bool) -> str:
    """Fault in what is missing of a range of one VMA, for reading or for writing, and use each page; returns
    an errno or "" (`faultin_vma_page_range`).
    """
    error, reached = fault_missing(mm, start, end, write)
    touch_pages(mm, start, reached)
    return error


def fault_missing(mm: Mm, start: int, end: int, write: bool) -> tuple[str, int]:
    """The faults of `faultin_page_range` alone: an errno or "", and the address up to which pages were had."""
    at = start
    while at < end:
        vma = mm.vma_at(at)
        many = missing_tables(mm, vma, at, end, write) if vma is not None and _may(vma, write) else 0
        if vma is not None and many:
            fault(mm, vma, at, at, -1, many, write)
            at += many << 12
            continue
        stop = min(end, (at | ((1 << 21) - 1)) + 1)
        first, n = _wanting(mm, at, (stop - at) >> 12, write)
        if n:
            wanting = at + (first << 12)
            try:
                access(mm, wanting, ((n - 1) << 12) + 1, WRITE if write else READ, b"", mmu=False)
            except (SignalRaised, UnknownContentsError) as error:
                return "EFAULT", wanting + (getattr(error, "touched", 0) << 12)
            except OutOfMemory:
                return "ENOMEM", wanting
            finally:
                slot = mm.sys.arena.lookup(mm.pgd, wanting)
                if write and slot >= 0:  # a driver's handler leaves the entry clean
                    _dirty_pages(mm, wanting, mm.sys.arena.entries[slot : slot + n])
        at = at + ((first + n) << 12)
    return "", end


def _may(vma: Vma, write: bool) -> bool:
    """Whether the access is allowed in the VMA."""
    return bool(vma.vm_flags & (VM_WRITE if write else VM_ACCESS_FLAGS))


_USES = 3
"""After so many uses in a row a page changes no more: referenced, active, both."""


def touch_pages(mm: Mm, start: int, end: int) -> None:
    """Pages that were found count as used (FOLL_TOUCH, `follow_page_pte`).  Simplified: the zero page does
    not.
    """
    arena, frames = mm.sys.arena, mm.sys.frames
    vma = mm.vma_at(start)
    once = vma is not None and end <= vma.end and not frames.compound_mapcount.data  # no page comes up twice
    at_once = ((slot, n, address) for slot, n, address, _ in arena.runs(mm.pgd, start, end))
    for slot, n, address in at_once if once else arena.segments(mm.pgd, start, end):
        entries = arena.entries[slot : slot + n]
        if np.bitwise_and.reduce(entries) & np.uint64(_PAGE_SPECIAL):  # the zero page, or raw frames
            continue
        where = np.flatnonzero(
            (entries & np.uint64(_PAGE_PRESENT | _PAGE_SPECIAL)) == np.uint64(_PAGE_PRESENT)
        )
        pfns = pfns_of(entries[where])
        known = pfns < frames.nr_frames
        addresses = (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
        pfns, addresses = pfns[known], addresses[known]
        if frames.compound_mapcount.data:  # each part of a compound page is a use of its head
            pfns = frames.heads(pfns)
            for _ in range(_USES):
                first = np.sort(np.unique(pfns, return_index=True)[1])
                mark_page_accessed(mm.sys, pfns[first], addresses[first])
                pfns, addresses = np.delete(pfns, first), np.delete(addresses, first)
        else:
            mark_page_accessed(mm.sys, pfns, addresses)


def _wanting(mm: Mm, address: int, n: int, write: bool) -> tuple[int, int]:
    """The first run of pages that must fault among ``n`` of one page table: its offset and length, in
    pages.
    """
    arena = mm.sys.arena
    slot = arena.lookup(mm.pgd, address)
    if slot < 0:
        return (n, 0) if _touch_pmd(mm, address, write) else (0, n)
    entries = arena.entries[slot : slot + n]
    wanted = np.uint64(_PAGE_PRESENT | (_PAGE_RW if write else 0))
    todo = (entries & wanted) != wanted
    first = int(todo.argmax()) if todo.any() else n
    if write and first:
        _dirty_pages(mm, address, entries[:first])
    rest = ~todo[first:]
    return first, int(rest.argmax()) if rest.any() else n - first


def _touch_pmd(mm: Mm, address: int, write: bool) -> bool:
    """Whether a huge leaf serves the address; for writing it counts as dirty then (`touch_pmd`).

    On x86 pmdp_set_access_flags writes nothing for a read: the accessed bit stays as it is.
    """
    arena = mm.sys.arena
    slot = arena.huge_slot(mm.pgd, address)
    wanted = _PAGE_PRESENT | (_PAGE_RW if write else 0)
    if slot >= 0 and arena.huge.get(slot) == NO_DEPOSIT:  # follow_hugetlb_page marks nothing
        return arena.flat[slot] & wanted == wanted
    if slot < 0 or arena.flat[slot] & wanted != wanted:
        return False
    new = arena.flat[slot] | (_PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_SOFT_DIRTY if write else 0)
    if new != arena.flat[slot]:
        mm.sys.journal.write(arena, slot, new)
    return True


def _dirty_pages(mm: Mm, address: int, entries: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
    """Pages that are there for writing but clean count as dirty from now on (FOLL_TOUCH,
    `follow_page_pte`).
    """
    frames = mm.sys.frames
    state = entries & np.uint64(_PAGE_PRESENT | _PAGE_RW | _PAGE_DIRTY)
    where = np.flatnonzero(state == np.uint64(_PAGE_PRESENT | _PAGE_RW))
    pfns = pfns_of(entries[where])
    known = pfns < frames.nr_frames
    pfns, where = frames.heads(pfns[known]), where[known]
    clean = frames.flags.array[pfns] & PG_DIRTY == 0
    pfns, where = pfns[clean], where[clean]
    if frames.compound_mapcount.data:
        pfns, firsts = np.unique(pfns, return_index=True)
        where = where[firsts]
    if len(pfns):
        old = frames.flags.array[pfns]
        lane = SetLane(frames.flags, pfns, old, old | PG_DIRTY)
        addresses = (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
        mm.sys.journal.bulk(Bulk("set_page_dirty", len(pfns), (lane,), address=address, addresses=addresses))
