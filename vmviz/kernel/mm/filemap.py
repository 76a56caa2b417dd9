"""Pages of files (models mm/filemap.c, mm/shmem.c and the file side of mm/memory.c's do_fault).

The page cache maps ``(inode, index)`` to a frame.  A regular file's missing page is read with its neighbours
(read-around, simplified to the 32-page window around the page); a shmem file's is made on the spot, zeroed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arch.x86 import _PAGE_DIRTY, _PAGE_RW, _PAGE_SOFT_DIRTY
from ..trace.store import Keyed
from .flags import VM_SHARED, VM_WRITE
from .frames import PG_DIRTY, PG_LRU, PG_SWAPBACKED, PG_UPTODATE
from .memory.fault import ANON_FLAGS, FaultContext, file_counter
from .memory.pfn import VM_FAULT_MAJOR, VM_FAULT_SIGBUS
from .page_alloc import ANON, FILE
from .rmap import anon_vma_prepare

if TYPE_CHECKING:
    from .mm_types import Inode, Mm, System

FILE_FLAGS = PG_UPTODATE | PG_LRU
SHMEM_FLAGS = PG_UPTODATE | PG_LRU | PG_SWAPBACKED | PG_DIRTY
FAULT_AROUND_PAGES = 16
READ_AROUND_PAGES = 32


def inode_of(system: System, file_id: int) -> Inode:
    """The inode behind an open file."""
    inode: Inode = system.inodes.get(system.files.get(file_id).inode)
    return inode


def add_to_page_cache(system: System, inode: Inode, index: int) -> int:
    """Allocate a page for ``(inode, index)`` and put it into the cache, which holds its reference; returns the pfn."""
    flags = SHMEM_FLAGS if inode.kind == "shmem" else FILE_FLAGS
    content = system.disk.get((inode.id, index)) or 0
    pfn = system.frames.alloc_page(FILE, flags, inode.id, index, content, 0)
    system.journal.write(system.page_cache, (inode.id, index), pfn)
    system.journal.event("mm_filemap_add_to_page_cache", ("pfn", pfn), ("index", index))
    return pfn


def _get_page(system: System, inode: Inode, index: int) -> tuple[int, bool]:
    """The cached page of ``index``, read if need be: ``(pfn, whether that was major)``; pfn -1 behind the file's end."""
    if index >= (inode.size + 4095) >> 12:
        return -1, False
    cache: Keyed = system.page_cache
    pfn = cache.get((inode.id, index))
    if pfn is not None:
        return pfn, False
    if inode.kind == "shmem":
        return add_to_page_cache(system, inode, index), False
    first = max(0, index - READ_AROUND_PAGES // 2)
    last = min((inode.size + 4095) >> 12, first + READ_AROUND_PAGES)
    system.journal.enter("page_cache_ra_order", ("index", first), ("nr_pages", last - first))
    for i in range(first, last):
        if cache.get((inode.id, i)) is None:
            add_to_page_cache(system, inode, i)
    system.journal.leave("page_cache_ra_order")
    return cache.get((inode.id, index)), True


def filemap_fault(ctx: FaultContext) -> int:
    """Serve a fault on a file mapping: the read, private write and shared write cases of do_fault."""
    mm, vma, system = ctx.mm, ctx.vma, ctx.mm.sys
    inode = inode_of(system, vma.file)
    shared = bool(vma.vm_flags & VM_SHARED)
    name = "do_read_fault" if not ctx.write else "do_shared_fault" if shared else "do_cow_fault"
    j = system.journal
    j.enter(name, ("address", ctx.address))
    if ctx.write and not shared:
        vma = anon_vma_prepare(mm, vma)
    pfn, major = _get_page(system, inode, ctx.pgoff)
    ret = VM_FAULT_SIGBUS if pfn < 0 else VM_FAULT_MAJOR if major else 0
    if pfn >= 0:
        slot = system.arena.ensure(mm.pgd, ctx.address, mm.counters)
        if ctx.write and not shared:
            _cow(ctx, vma.anon_vma, slot, pfn)
        else:
            dirty = _PAGE_DIRTY | _PAGE_SOFT_DIRTY if ctx.write else 0
            writable = _PAGE_RW if ctx.write and vma.vm_flags & VM_WRITE else 0
            _set_file_pte(mm, slot, pfn, vma.page_prot | dirty | writable)
            if not ctx.write:
                _fault_around(ctx, inode)
    j.leave(name, ret)
    return ret


def _set_file_pte(mm: Mm, slot: int, pfn: int, prot: int) -> None:
    """One entry for a page of a file, with its reference, mapcount and rss (`do_set_pte`)."""
    j, frames = mm.sys.journal, mm.sys.frames
    j.add(frames.refcount, pfn, 1)
    j.add(frames.mapcount, pfn, 1)
    j.add(mm.counters, file_counter(frames, pfn), 1)
    j.write(mm.sys.arena, slot, (pfn << 12) | prot)


def _cow(ctx: FaultContext, anon_vma: int, slot: int, source: int) -> None:
    """A private copy of a page of a file, made at once by a write (`do_cow_fault`)."""
    mm, frames, j = ctx.mm, ctx.mm.sys.frames, ctx.mm.sys.journal
    pfn = frames.alloc_page(ANON, ANON_FLAGS, anon_vma, ctx.pgoff, frames.content.flat[source], 1)
    j.add(mm.counters, "anon", 1)
    prot = ctx.vma.page_prot | _PAGE_DIRTY | _PAGE_SOFT_DIRTY
    j.write(mm.sys.arena, slot, (pfn << 12) | prot | (_PAGE_RW if ctx.vma.vm_flags & VM_WRITE else 0))


def _fault_around(ctx: FaultContext, inode: Inode) -> None:
    """Map the cached neighbours too (`do_fault_around`): 16 pages, clipped to the VMA, the table and the cache."""
    mm, vma, arena, cache = ctx.mm, ctx.vma, ctx.mm.sys.arena, ctx.mm.sys.page_cache
    span = FAULT_AROUND_PAGES << 12
    low = max(ctx.address & -span, vma.start)
    high = min((ctx.address & -span) + span, vma.end)
    end_index = (inode.size + 4095) >> 12
    mm.sys.journal.enter("do_fault_around", ("start", low), ("end", high))
    base = arena.lookup(mm.pgd, ctx.address) - ((ctx.address - low) >> 12)
    for i, va in enumerate(range(low, high, 4096)):
        index = vma.pgoff + ((va - vma.start) >> 12)
        pfn = cache.get((inode.id, index))
        if pfn is not None and index < end_index and not arena.flat[base + i]:
            _set_file_pte(mm, base + i, pfn, vma.page_prot)
    mm.sys.journal.leave("do_fault_around")
