"""Pages of files (models mm/filemap.c and mm/shmem.c).

The page cache maps ``(inode, index)`` to a frame.  A regular file's missing page is read with its neighbours
(read-around, simplified to the 32-page window around the page); a shmem file's is made on the spot, zeroed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..trace.store import Keyed
from .hugetlb_pool import hugetlbfs_evict_inode
from .memory.do_fault import do_fault_page, set_file_pte
from .memory.fault import FaultContext
from .memory.pfn import VM_FAULT_MAJOR
from .page_alloc import FILE, OutOfMemory
from .page_flags import PG_DIRTY, PG_LRU, PG_SWAPBACKED, PG_UNEVICTABLE, PG_UPTODATE
from .swap import accessed
from .swapfile import shmem_slot_dropped

if TYPE_CHECKING:
    from .mm_types import Inode, System

FILE_FLAGS = PG_UPTODATE | PG_LRU
SHMEM_FLAGS = PG_UPTODATE | PG_LRU | PG_SWAPBACKED
RAMFS_FLAGS = PG_UPTODATE | PG_LRU | PG_UNEVICTABLE
MEMORY_KINDS = ("shmem", "ramfs", "hugetlbfs")
"""Files whose pages are nowhere else: they live as long as somebody uses the file."""
FAULT_AROUND_PAGES = 16
READ_AROUND_PAGES = 32


def inode_of(system: System, file_id: int) -> Inode:
    """The inode behind an open file."""
    inode: Inode = system.inodes.get(system.files.get(file_id).inode)
    return inode


def get_inode(system: System, file_id: int) -> None:
    """A VMA or a descriptor begins to use a file: memory files live as long as somebody does (`get_file`).

    Only files made here are counted: who else uses a file of an imported process is not known.
    """
    inode = inode_of(system, file_id)
    refs = system.inode_refs.get(inode.id)
    if refs is not None:
        system.journal.write(system.inode_refs, inode.id, refs + 1)


def put_inode(system: System, file_id: int) -> None:
    """A VMA or a descriptor lets go of a file (`fput`); the last one frees a memory file's pages."""
    inode = inode_of(system, file_id)
    refs = system.inode_refs.get(inode.id)
    if refs is None:
        return
    j = system.journal
    j.write(system.inode_refs, inode.id, refs - 1 or None)
    if refs > 1:
        return
    if inode.kind == "hugetlbfs":
        hugetlbfs_evict_inode(system, inode.id, file_id)
        return
    j.enter("shmem_evict_inode", ("inode", inode.id))
    for key, pfn in sorted(item for item in system.page_cache.data.items() if item[0][0] == inode.id):
        j.write(system.page_cache, key, None)
        system.frames.put_page(pfn)
    for key in sorted(k for k in system.swap.shmem.data if k[0] == inode.id):
        shmem_slot_dropped(system, key)
    j.leave("shmem_evict_inode")


def add_to_page_cache(system: System, inode: Inode, index: int) -> int:
    """Allocate a page for ``(inode, index)`` and put it into the cache, which holds its reference; returns
    the pfn.
    """
    flags = {"shmem": SHMEM_FLAGS, "ramfs": RAMFS_FLAGS}.get(inode.kind, FILE_FLAGS)
    content = system.disk.get((inode.id, index)) or 0
    slot = system.swap.shmem.get((inode.id, index))
    if slot is not None:
        content, flags = system.swap.content.flat[slot], flags | PG_DIRTY
    pfn = system.frames.alloc_page(FILE, flags, inode.id, index, content, 0)
    shmem_slot_dropped(system, (inode.id, index))  # shmem_swapin_folio: what was read is in the slot no more
    system.journal.write(system.page_cache, (inode.id, index), pfn)
    system.journal.event("mm_filemap_add_to_page_cache", ("pfn", pfn), ("index", index))
    return pfn


def write_page(system: System, inode: Inode, index: int, offset: int, data: bytes) -> None:
    """Write bytes into one cached page of a file, which becomes dirty (`generic_perform_write`).

    For a shmem file that is a use of the page (`shmem_get_folio_gfp`, SGP_WRITE).
    """
    pfn, _ = _get_page(system, inode, index)
    frames = system.frames
    frames.write_bytes(pfn, offset, data)
    flags = frames.flags.flat[pfn]
    new = flags | PG_DIRTY
    if inode.kind == "shmem":
        new = int(accessed(np.array([new], np.uint32))[0])
    if new != flags:
        system.journal.write(frames.flags, pfn, new)


def _get_page(system: System, inode: Inode, index: int) -> tuple[int, int]:
    """The cached page of ``index``, read if need be: ``(pfn, 0 or VM_FAULT_MAJOR)``; pfn -1 behind the file's
    end.
    """
    if index >= (inode.size + 4095) >> 12:
        return -1, 0
    cache: Keyed = system.page_cache
    pfn = cache.get((inode.id, index))
    if pfn is not None:
        return pfn, 0
    if inode.kind == "shmem":
        major = VM_FAULT_MAJOR if (inode.id, index) in system.swap.shmem.data else 0
        return add_to_page_cache(system, inode, index), major
    if inode.kind == "ramfs":  # no device is read, and nothing read ahead
        return add_to_page_cache(system, inode, index), VM_FAULT_MAJOR
    first = max(0, index - READ_AROUND_PAGES // 2)
    last = min((inode.size + 4095) >> 12, first + READ_AROUND_PAGES)
    system.journal.enter("page_cache_ra_order", ("index", first), ("nr_pages", last - first))
    try:
        for i in (
            index,
            *range(first, last),
        ):  # the wanted page first: if memory is short, the others can wait
            if cache.get((inode.id, i)) is None:
                add_to_page_cache(system, inode, i)
    except OutOfMemory:
        if cache.get((inode.id, index)) is None:
            raise
    finally:
        system.journal.leave("page_cache_ra_order")
    return cache.get((inode.id, index)), VM_FAULT_MAJOR


def read_ahead(system: System, inode: Inode, first: int, last: int) -> None:
    """Read pages ``first`` to ``last`` (exclusive) that are not cached, as far as the file and memory reach
    (`force_page_cache_ra`).
    """
    last = min(last, (inode.size + 4095) >> 12)
    missing = [i for i in range(first, last) if system.page_cache.get((inode.id, i)) is None]
    if not missing:
        return
    system.journal.enter("page_cache_ra_order", ("index", first), ("nr_pages", last - first))
    try:
        for i in missing:
            add_to_page_cache(system, inode, i)
    except OutOfMemory:
        pass
    system.journal.leave("page_cache_ra_order")


def filemap_fault(ctx: FaultContext) -> int:
    """Serve a fault on a file mapping from the page cache (`filemap_fault`, `shmem_fault`)."""
    system = ctx.mm.sys
    inode = inode_of(system, ctx.vma.file)
    return do_fault_page(ctx, lambda: _get_page(system, inode, ctx.pgoff), lambda: _fault_around(ctx, inode))


def _fault_around(ctx: FaultContext, inode: Inode) -> bool:
    """Map what is cached around a read (`do_fault_around`); returns whether the wanted page was among it.

    16 pages from the start of their 64 KiB window, or from the VMA's start if that lies inside the window;
    clipped to the VMA, the page table and the file.
    """
    mm, vma, arena, cache = ctx.mm, ctx.vma, ctx.mm.sys.arena, ctx.mm.sys.page_cache
    low = max(ctx.address & -(FAULT_AROUND_PAGES << 12), vma.start)
    high = min(low + (FAULT_AROUND_PAGES << 12), vma.end, (low | ((1 << 21) - 1)) + 1)
    end_index = (inode.size + 4095) >> 12
    first = vma.pgoff + ((low - vma.start) >> 12)
    pages = [
        (i, cache.get((inode.id, first + i))) for i in range((high - low) >> 12) if first + i < end_index
    ]
    cached = [(i, pfn) for i, pfn in pages if pfn is not None]
    if not cached:
        return False
    mm.sys.journal.enter("do_fault_around", ("start", low), ("end", high))
    try:
        base = arena.ensure(mm.pgd, low, mm.counters)
        for i, pfn in cached:
            if not arena.flat[base + i]:
                set_file_pte(mm, vma, base + i, pfn, vma.page_prot)
    finally:
        mm.sys.journal.leave("do_fault_around")
    return arena.flat[base + ((ctx.address - low) >> 12)] != 0
