"""The fault path (models handle_mm_fault and what it calls in mm/memory.c), one page or a run of equal ones
at a time.

A run is ``n`` neighbouring pages of one VMA and one page table whose entries call for the same handler.  A
run of one page is a few plain writes; a longer one is a bulk record with lanes.  Both leave the same state.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ...arch.x86 import (
    _PAGE_DIRTY,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SPECIAL,
)
from ...errors import CallerBugError
from ...trace.bulk import Bulk, CountLane, Lane, SetLane, part
from ...trace.pieces import Lines, Pieces, index_of_cells
from ...trace.store import Index, cells_of, index_of
from ...value import Value
from ..flags import VM_HUGETLB, VM_WRITE
from ..frames import ZERO_PFN, Frames
from ..huge_memory import FAULT_FALLBACK, do_huge_pmd_anonymous_page, hugepage_vma_check
from ..mlock_pages import locks_pages, mlock_vma_pages
from ..page_alloc import ANON, OutOfMemory
from ..page_flags import PG_ANON, PG_EXCLUSIVE, PG_LRU, PG_SWAPBACKED, PG_UPTODATE
from ..rmap import anon_vma_prepare
from .normal_page import device_lanes
from .pfn import VM_FAULT_NOPAGE, VM_FAULT_OOM, VM_FAULT_SIGBUS, vmf_insert_pfn

if TYPE_CHECKING:
    from ..mm_types import Mm
    from ..vma import Vma

ANON_FLAGS = PG_ANON | PG_EXCLUSIVE | PG_LRU | PG_SWAPBACKED | PG_UPTODATE
MKDIRTY = _PAGE_DIRTY | _PAGE_SOFT_DIRTY
"""What pte_mkdirty sets on x86: the dirty bit and the soft-dirty bit."""


@attrs.frozen(eq=False, repr=False)
class FaultContext(Value):
    """What a fault handler is told (struct vm_fault): ``address`` (bytes, page aligned), ``pgoff``,
    ``write``, and ``nr_pages``, how many neighbours want the same.
    """

    mm: Mm
    vma: Vma
    address: int
    pgoff: int
    write: bool
    nr_pages: int = 1


def handle_missing(mm: Mm, vma: Vma, address: int, n: int, write: bool) -> int:
    """Serve ``n`` missing pages from ``address`` on; returns a VM_FAULT code, 0 when all are there
    (`do_pte_missing`).

    Fewer than ``n`` may have been served: the access is simply tried again, as the processor does.
    """
    ops = mm.sys.ops_of(vma)
    try:
        slot = mm.sys.arena.ensure(mm.pgd, address, mm.counters, leaf=False)
        huge = (
            ops is None
            and mm.sys.arena.lookup(mm.pgd, address) < 0
            and hugepage_vma_check(mm, vma, in_pf=True)
        )
        if huge and do_huge_pmd_anonymous_page(mm, vma, address, slot, write) != FAULT_FALLBACK:
            return 0
    except OutOfMemory:
        return VM_FAULT_OOM
    if ops is None:
        return do_anonymous_page(mm, vma, address, n, write)
    if ops.fault is None:
        return VM_FAULT_SIGBUS
    j = mm.sys.journal
    name = "hugetlb_fault" if vma.vm_flags & VM_HUGETLB else "do_fault"
    j.enter(name, ("address", address), ("nr_pages", n))
    ctx = FaultContext(mm, vma, address, vma.pgoff + ((address - vma.start) >> 12), write, n)
    try:
        ret = ops.fault(ctx)
    except OutOfMemory:
        ret = VM_FAULT_OOM
    except CallerBugError:
        j.leave(name)
        raise
    j.leave(name, ret)
    return ret


def do_anonymous_page(mm: Mm, vma: Vma, address: int, n: int, write: bool) -> int:
    """Missing anonymous pages (mm/memory.c): a read maps the shared zero page, a write allocates zeroed
    pages.
    """
    j = mm.sys.journal
    j.enter("do_anonymous_page", ("address", address), ("nr_pages", n), ("write", write))
    try:
        if (address >> 12 & mm.sys.arena.leaf_mask) + n > mm.sys.arena.leaf_mask + 1:
            map_tables(mm, vma, address, n, write)
            j.leave("do_anonymous_page", 0)
            return 0
        slot = mm.sys.arena.ensure(mm.pgd, address, mm.counters)
        if write:
            vma = anon_vma_prepare(mm, vma)
            _map_anon(mm, vma, address, slot, n)
        else:
            _map_zero(mm, vma, address, slot, n)
    except OutOfMemory:
        j.leave("do_anonymous_page", "VM_FAULT_OOM")
        return VM_FAULT_OOM
    j.leave("do_anonymous_page", 0)
    return 0


def _map_zero(mm: Mm, vma: Vma, address: int, slot: int, n: int, cuts: tuple[int, ...] = (0,)) -> None:
    entry = (ZERO_PFN << 12) | vma.page_prot | _PAGE_SPECIAL
    if n == 1:
        mm.sys.journal.write(mm.sys.arena, slot, entry)
        return
    lane = SetLane(mm.sys.arena, slice(slot, slot + n), 0, entry)
    mm.sys.journal.bulk(Bulk("set_pte_at", n, (lane,), address=address, cuts=cuts))


def missing_tables(mm: Mm, vma: Vma, address: int, end: int, write: bool) -> int:
    """How many pages from ``address`` on a fault of many can be for: those for which there is no table, under one
    parent, as far as ``end``, the VMA and the free frames go.  0 where not even two tables are to be made.

    Only for anonymous memory of which huge pages are not to be had; others are served table by table.
    """
    arena = mm.sys.arena
    if vma.ops or mm.unknown.data or hugepage_vma_check(mm, vma, in_pf=True):
        return 0
    shift, mask = arena.upper[-1]
    span = 1 << shift
    stop = min(end, vma.end, (address & -(span * (mask + 1))) + span * (mask + 1))
    tables = arena.missing_children(mm.pgd, address, stop)
    n = min(stop, (address & -span) + tables * span) - address >> 12
    frames = tables + len(arena.upper) + (n if write else 0)
    return n if tables > 1 and mm.sys.frames.states.buddy.nr_free() >= frames else 0


def map_tables(mm: Mm, vma: Vma, address: int, n: int, write: bool) -> None:
    """Missing pages of several tables at once (see `missing_tables`): frames go to tables and pages in the order of
    single faults.
    """
    arena, frames = mm.sys.arena, mm.sys.frames
    parent = arena.ensure(mm.pgd, address, mm.counters, leaf=False)
    if write:
        vma = anon_vma_prepare(mm, vma)
    shift = arena.upper[-1][0]
    end = address + (n << 12)
    bases = [address, *range((address & -(1 << shift)) + (1 << shift), end, 1 << shift)]
    pages: list[tuple[int, int]] = []
    if write:
        runs, first = frames.alloc_runs(len(bases) + n)[::-1], []
        for base, stop in pairwise((*bases, end)):
            first.append(_next_runs(runs, 1)[0][0])
            pages += _next_runs(runs, (stop - base) >> 12)
        tables = np.array(first, np.int64)
    else:
        tables = frames.alloc_range(len(bases))
    slots = np.arange(parent, parent + len(bases))
    arena.hang_tables(slots, tables, np.array(bases, np.uint64), mm.counters)
    for slot, count, at, cuts in arena.runs(mm.pgd, address, end):
        if write:
            done = (at - address) >> 12
            map_new_pages(mm, vma, at, slot, count, part(index_of_cells(pages), done, done + count), cuts)
        else:
            _map_zero(mm, vma, at, slot, count, cuts)


def _next_runs(runs: list[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """The next ``n`` frames of runs of which the last comes first; they are taken from the list."""
    out = []
    while n:
        first, size = runs.pop()
        used = min(n, size)
        out.append((first, used))
        n -= used
        if used < size:
            runs.append((first + used, size - used))
    return out


def anon_entry(vma: Vma) -> int:
    """The bits of a new anonymous page's entry: ``maybe_mkwrite(pte_mkdirty(mk_pte))``."""
    return vma.page_prot | ((MKDIRTY | _PAGE_RW) if vma.vm_flags & VM_WRITE else 0)


def _map_anon(mm: Mm, vma: Vma, address: int, slot: int, n: int) -> None:
    frames, j, prot = mm.sys.frames, mm.sys.journal, anon_entry(vma)
    index = vma.pgoff + ((address - vma.start) >> 12)
    if n == 1:
        pfn = frames.alloc_page(ANON, ANON_FLAGS, vma.anon_vma, index, 0, 1)
        j.add(mm.counters, "anon", 1)
        j.write(mm.sys.arena, slot, (pfn << 12) | prot)
        mlock_vma_pages(mm, vma, [pfn])
        return
    n = min(n, max(1, frames.states.buddy.nr_free()))
    map_new_pages(mm, vma, address, slot, n, index_of_cells(frames.alloc_runs(n)))


def map_new_pages(
    mm: Mm, vma: Vma, address: int, slot: int, n: int, pfns: Index, cuts: tuple[int, ...] = (0,)
) -> None:
    """Turn free frames into anonymous pages at ``n`` neighbouring entries, at ``cuts`` of the next table."""
    frames = mm.sys.frames
    index = vma.pgoff + ((address - vma.start) >> 12)
    lanes = [
        *alloc_lanes(frames, pfns, ANON, ANON_FLAGS, vma.anon_vma, index),
        CountLane(mm.counters, "anon", 1),
        SetLane(mm.sys.arena, slice(slot, slot + n), 0, entries_of(pfns, anon_entry(vma))),
    ]
    record = Bulk("alloc_zeroed_user_highpage_movable", n, tuple(lanes), address=address, cuts=cuts)
    mm.sys.journal.bulk(record)
    if locks_pages(vma):
        mlock_vma_pages(mm, vma, cells_of(pfns))


def entries_of(pfns: Index, prot: int) -> NDArray[np.uint64] | Lines:
    """Entries for frames, all with the same protection bits."""
    if isinstance(pfns, slice):
        return Lines(np.array([(pfns.start << 12) | prot], np.uint64), [pfns.stop - pfns.start])
    if isinstance(pfns, Pieces):
        return Lines((np.array(pfns.starts, np.uint64) << np.uint64(12)) | np.uint64(prot), pfns.sizes)
    return (pfns.astype(np.uint64) << np.uint64(12)) | np.uint64(prot)


def alloc_lanes(
    frames: Frames,
    pfns: Index,
    state: int,
    flags: int,
    mapping: int,
    index: int,
    contents: Any = 0,
    mapcount: int = 1,
) -> list[Lane]:
    """The lanes that turn free frames into pages with one reference each."""
    where = index_of(pfns) if isinstance(pfns, np.ndarray) else pfns
    n = where.stop - where.start if isinstance(where, slice) else len(where)
    indexes = Lines(np.array([index], np.uint64), [n], 1)
    return [
        SetLane(frames.refcount, where, 0, 1),
        SetLane(frames.mapcount, where, 0, mapcount),
        SetLane(frames.flags, where, 0, flags),
        SetLane(frames.mapping, where, 0, mapping),
        SetLane(frames.index, where, 0, indexes),
        SetLane(frames.content, where, 0, contents),
        SetLane(frames.states, where, 0, state),
    ]


def file_counter(frames: Frames, pfn: int) -> str:
    """The rss counter of a page of a file (`mm_counter_file`): shmem pages are swap-backed."""
    return "shmem" if frames.flags.flat[pfn] & PG_SWAPBACKED else "file"


def contents_of(frames: Frames, pfns: NDArray[np.int64]) -> NDArray[np.int32]:
    """The content numbers of frames of RAM and of devices; 0 where nothing answers."""
    out = np.zeros(len(pfns), np.int32)
    ram = pfns < frames.nr_frames
    out[ram] = frames.content.array[pfns[ram]]
    for region in frames.regions:
        inside = (pfns >= region.start_pfn) & (pfns < region.end_pfn)
        out[inside] = region.content.array[pfns[inside] - region.start_pfn]
    return out


def insert_pfn_run(ctx: FaultContext, pfn: int, prot: int | None = None) -> int:
    """The fault handler of a driver whose frames are in line: vmf_insert_pfn() for each missing page of a
    run.

    ``pfn`` is the frame of the first page, ``prot`` the entries' bits if not vm_page_prot's.  The range form
    of calling `vmf_insert_pfn` from one fault after another.
    """
    mm, vma = ctx.mm, ctx.vma
    first = vmf_insert_pfn(mm, vma, ctx.address, pfn, prot)
    if first != VM_FAULT_NOPAGE or ctx.nr_pages == 1:
        return first
    arena = mm.sys.arena
    slot = arena.lookup(mm.pgd, ctx.address) + 1
    n = ctx.nr_pages - 1
    pfns = np.arange(pfn + 1, pfn + 1 + n, dtype=np.int64)
    new = entries_of(pfns, (vma.page_prot if prot is None else prot) | _PAGE_SPECIAL)
    lanes: list[Lane] = [*device_lanes(mm.sys.frames, pfns, 1), SetLane(arena, slice(slot, slot + n), 0, new)]
    mm.sys.journal.bulk(Bulk("vmf_insert_pfn", n, tuple(lanes), address=ctx.address + 4096))
    return VM_FAULT_NOPAGE
