"""The fault path (models handle_mm_fault and what it calls in mm/memory.c), one page or a run of equal ones
at a time.

A run is ``n`` neighbouring pages of one VMA and one page table whose entries call for the same handler.  A
run of one page is a few plain writes; a longer one is a bulk record with lanes.  Both leave the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ...arch.tlb import TlbFlush
from ...arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SPECIAL,
    PTE_PFN_MASK,
)
from ...errors import CallerBugError
from ...trace.bulk import Bulk, CountLane, Lane, SetLane
from ..flags import VM_SHARED, VM_WRITE
from ..frames import (
    PG_ANON,
    PG_DIRTY,
    PG_EXCLUSIVE,
    PG_LRU,
    PG_SWAPBACKED,
    PG_UPTODATE,
    ZERO_PFN,
    Frames,
)
from ..mmu_gather import flush_tlb
from ..page_alloc import ANON, OutOfMemory
from ..rmap import anon_vma_prepare
from .pfn import VM_FAULT_NOPAGE, VM_FAULT_OOM, VM_FAULT_SIGBUS, vmf_insert_pfn
from .zap import device_lanes, pfns_of

if TYPE_CHECKING:
    from ..mm_types import Mm
    from ..vma import Vma

ANON_FLAGS = PG_ANON | PG_EXCLUSIVE | PG_LRU | PG_SWAPBACKED | PG_UPTODATE
MKDIRTY = _PAGE_DIRTY | _PAGE_SOFT_DIRTY
"""What pte_mkdirty sets on x86: the dirty bit and the soft-dirty bit."""


@attrs.frozen
class FaultContext:
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
        mm.sys.arena.ensure(mm.pgd, address, mm.counters, leaf=False)
    except OutOfMemory:
        return VM_FAULT_OOM
    if ops is None:
        return do_anonymous_page(mm, vma, address, n, write)
    if ops.fault is None:
        return VM_FAULT_SIGBUS
    j = mm.sys.journal
    j.enter("do_fault", ("address", address), ("nr_pages", n))
    ctx = FaultContext(mm, vma, address, vma.pgoff + ((address - vma.start) >> 12), write, n)
    try:
        ret = ops.fault(ctx)
    except OutOfMemory:
        ret = VM_FAULT_OOM
    except CallerBugError:
        j.leave("do_fault")
        raise
    j.leave("do_fault", ret)
    return ret


def do_anonymous_page(mm: Mm, vma: Vma, address: int, n: int, write: bool) -> int:
    """Missing anonymous pages (mm/memory.c): a read maps the shared zero page, a write allocates zeroed
    pages.
    """
    j = mm.sys.journal
    j.enter("do_anonymous_page", ("address", address), ("nr_pages", n), ("write", write))
    try:
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


def _map_zero(mm: Mm, vma: Vma, address: int, slot: int, n: int) -> None:
    entry = (ZERO_PFN << 12) | vma.page_prot | _PAGE_SPECIAL
    if n == 1:
        mm.sys.journal.write(mm.sys.arena, slot, entry)
        return
    lane = SetLane(mm.sys.arena, slice(slot, slot + n), 0, entry)
    mm.sys.journal.bulk(Bulk("set_pte_at", n, (lane,), address=address))


def _anon_entry(vma: Vma) -> int:
    """The bits of a new anonymous page's entry: ``maybe_mkwrite(pte_mkdirty(mk_pte))``."""
    return vma.page_prot | ((MKDIRTY | _PAGE_RW) if vma.vm_flags & VM_WRITE else 0)


def _map_anon(mm: Mm, vma: Vma, address: int, slot: int, n: int) -> None:
    frames, j, prot = mm.sys.frames, mm.sys.journal, _anon_entry(vma)
    index = vma.pgoff + ((address - vma.start) >> 12)
    if n == 1:
        pfn = frames.alloc_page(ANON, ANON_FLAGS, vma.anon_vma, index, 0, 1)
        j.add(mm.counters, "anon", 1)
        j.write(mm.sys.arena, slot, (pfn << 12) | prot)
        return
    n = min(n, max(1, frames.states.buddy.nr_free()))
    pfns = frames.alloc_range(n)
    lanes = [
        *alloc_lanes(frames, pfns, ANON, ANON_FLAGS, vma.anon_vma, index),
        CountLane(mm.counters, "anon", 1),
        SetLane(mm.sys.arena, slice(slot, slot + n), 0, entries_of(pfns, prot)),
    ]
    j.bulk(Bulk("alloc_zeroed_user_highpage_movable", n, tuple(lanes), address=address))


def entries_of(pfns: NDArray[np.int64], prot: int) -> NDArray[np.uint64]:
    """Entries for frames, all with the same protection bits."""
    return (pfns.astype(np.uint64) << np.uint64(12)) | np.uint64(prot)


def alloc_lanes(
    frames: Frames,
    pfns: NDArray[np.int64],
    state: int,
    flags: int,
    mapping: int,
    index: int,
    contents: Any = 0,
    mapcount: int = 1,
) -> list[Lane]:
    """The lanes that turn free frames into pages with one reference each."""
    first, n = int(pfns[0]), len(pfns)
    where: Any = slice(first, first + n) if int(pfns[-1]) - first + 1 == n and _rising(pfns) else pfns
    indexes = np.arange(index, index + n, dtype=np.uint64)
    return [
        SetLane(frames.refcount, where, 0, 1),
        SetLane(frames.mapcount, where, 0, mapcount),
        SetLane(frames.flags, where, 0, flags),
        SetLane(frames.mapping, where, 0, mapping),
        SetLane(frames.index, where, 0, indexes),
        SetLane(frames.content, where, 0, contents),
        SetLane(frames.states, where, 0, state),
    ]


def _rising(pfns: NDArray[np.int64]) -> bool:
    return len(pfns) < 3 or bool((np.diff(pfns) == 1).all())


def handle_write_protected(mm: Mm, vma: Vma, address: int, slot: int, n: int) -> int:
    """A write to present but read-only pages (`do_wp_page`): reuse the page or copy it.

    Serves as many of the ``n`` pages as are of the first one's kind.
    """
    j, arena = mm.sys.journal, mm.sys.arena
    values = arena.entries[slot : slot + n]
    kinds = wp_kinds(mm, vma, values)
    first = kinds[0]
    other = np.flatnonzero(kinds != first)
    m = int(other[0]) if len(other) else n
    j.enter("do_wp_page", ("address", address), ("nr_pages", m))
    try:
        if first == REUSE:
            _wp_page_reuse(mm, address, slot, m)
        else:
            vma = anon_vma_prepare(mm, vma)
            handler: Callable[..., None] = _wp_copy_page if first == COPY_PAGE else _wp_copy_raw
            handler(mm, vma, address, slot, m)
    except OutOfMemory:
        j.leave("do_wp_page", "VM_FAULT_OOM")
        return VM_FAULT_OOM
    j.leave("do_wp_page", 0)
    return 0


REUSE, COPY_RAW, COPY_PAGE = range(3)


def wp_kinds(mm: Mm, vma: Vma, values: NDArray[np.uint64]) -> NDArray[np.int8]:
    """What a write to each read-only entry leads to: reuse, a copy of a raw frame, a copy of a page."""
    if vma.vm_flags & VM_SHARED:
        return np.full(len(values), REUSE, np.int8)
    kinds = np.full(len(values), COPY_RAW, np.int8)
    normal = np.flatnonzero((values & np.uint64(_PAGE_SPECIAL)) == 0)
    if len(normal):
        frames = mm.sys.frames
        pfns = pfns_of(values[normal])
        known = pfns < frames.nr_frames
        flags = frames.flags.array[pfns[known]]
        sole = (flags & PG_EXCLUSIVE != 0) | (frames.refcount.array[pfns[known]] == 1)
        reusable = (flags & PG_ANON != 0) & sole
        kinds[normal[known]] = np.where(reusable, REUSE, COPY_PAGE)
    return kinds


def _wp_page_reuse(mm: Mm, address: int, slot: int, n: int) -> None:
    """Make the entries writable and dirty in place (`wp_page_reuse`)."""
    arena, j, frames = mm.sys.arena, mm.sys.journal, mm.sys.frames
    j.enter("wp_page_reuse", ("address", address), ("nr_pages", n))
    old = arena.entries[slot : slot + n].copy()
    new = old | np.uint64(_PAGE_RW | _PAGE_ACCESSED | MKDIRTY)
    pfns = pfns_of(old)
    inside = pfns[pfns < frames.nr_frames]
    shy = inside[(frames.flags.array[inside] & (PG_ANON | PG_EXCLUSIVE)) == PG_ANON]
    for pfn in shy.tolist():  # page_move_anon_rmap: the last one left owns the page
        j.write(frames.flags, pfn, frames.flags.flat[pfn] | PG_EXCLUSIVE)
    clean = pfns_of(old[(old & np.uint64(_PAGE_SPECIAL)) == 0])
    clean = clean[clean < frames.nr_frames]
    clean = clean[(frames.flags.array[clean] & (PG_ANON | PG_DIRTY)) == 0]
    for pfn in clean.tolist():  # fault_dirty_shared_page
        j.write(frames.flags, pfn, frames.flags.flat[pfn] | PG_DIRTY)
    lane = SetLane(arena, slice(slot, slot + n), old, new)
    j.bulk(Bulk("ptep_set_access_flags", n, (lane,), address=address))
    j.leave("wp_page_reuse")


def _wp_copy_raw(mm: Mm, vma: Vma, address: int, slot: int, n: int) -> None:
    """Copy frames without a struct page into new anonymous pages (`wp_page_copy`); the zero page needs no
    copy.
    """
    frames, j, arena = mm.sys.frames, mm.sys.journal, mm.sys.arena
    n = min(n, frames.states.buddy.nr_free())
    if not n:
        raise OutOfMemory("no frame is free for the copy")
    j.enter("wp_page_copy", ("address", address), ("nr_pages", n))
    old = arena.entries[slot : slot + n].copy()
    contents = contents_of(frames, pfns_of(old))
    pfns = frames.alloc_range(n)
    index = vma.pgoff + ((address - vma.start) >> 12)
    lanes: list[Lane] = [
        *alloc_lanes(frames, pfns, ANON, ANON_FLAGS, vma.anon_vma, index, contents),
        CountLane(mm.counters, "anon", 1),
        SetLane(arena, slice(slot, slot + n), old, entries_of(pfns, _anon_entry(vma))),
        *device_lanes(frames, pfns_of(old), -1),
    ]
    j.bulk(Bulk("wp_page_copy", n, tuple(lanes), address=address))
    # Each copy flushes its own page (ptep_clear_flush): a long run is many single flushes, never a full one.
    flush_tlb(mm, TlbFlush("pages", address, address + (n << 12), n))
    j.leave("wp_page_copy", 0)


def _wp_copy_page(mm: Mm, vma: Vma, address: int, slot: int, n: int) -> None:
    """Copy pages that others use too (`wp_page_copy`), one at a time: each may be the last use of its
    page.
    """
    frames, j, arena = mm.sys.frames, mm.sys.journal, mm.sys.arena
    n = min(n, frames.states.buddy.nr_free())
    if not n:
        raise OutOfMemory("no frame is free for the copy")
    for i in range(n):
        va = address + (i << 12)
        j.enter("wp_page_copy", ("address", va))
        old = arena.flat[slot + i]
        source = (old & PTE_PFN_MASK) >> 12
        index = vma.pgoff + ((va - vma.start) >> 12)
        pfn = frames.alloc_page(ANON, ANON_FLAGS, vma.anon_vma, index, frames.content.flat[source], 1)
        if not frames.flags.flat[source] & PG_ANON:
            j.add(mm.counters, file_counter(frames, source), -1)
            j.add(mm.counters, "anon", 1)
        j.write(arena, slot + i, (pfn << 12) | _anon_entry(vma))
        flush_tlb(mm, TlbFlush.of(va, va + 4096))
        j.add(frames.mapcount, source, -1)
        frames.put_page(source)
        j.leave("wp_page_copy", 0)


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
