"""Taking pages of files away (models mm/truncate.c, and unmap_mapping_range of mm/memory.c).

Every mapping of the file in every process loses its entries before the pages leave the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..trace.bulk import Bulk
from .filemap import add_to_page_cache
from .memory.zap import zap_page_range_single
from .mm_types import Inode, Mm, System
from .mmu_gather import free_lanes
from .page_flags import PG_DIRTY
from .swapfile import shmem_slot_dropped
from .vma import Vma

END = (1 << 64) - 1 >> 12
"""The last page index: a range without an end."""


def mappings_of(system: System, inode: int, first: int, last: int) -> Iterator[tuple[Mm, Vma]]:
    """The VMAs of all processes that map pages ``first`` to ``last`` (inclusive) of a file (mapping->i_mmap).

    Their place in the file is vm_pgoff, which of a private PFNMAP mapping is its first frame.
    """
    files = {number for number, file in system.files.data.items() if file.inode == inode}
    for mm in list(system.mms()):
        for vma in list(mm.vmas):
            if vma.file in files and vma.pgoff <= last and vma.pgoff + vma.nr_pages > first:
                yield mm, vma


def unmap_mapping_range(system: System, inode: int, start: int, length: int, even_cows: bool) -> int:
    """Clear the entries that map bytes ``[start, start + length)`` of a file (mm/memory.c), length 0: to the
    end; returns how many were cleared.

    ``even_cows``: private copies too.  Unlike zap_vma_ptes it asks for no kind of mapping.

    >>> from vmviz.kernel import Machine
    >>> m = Machine(ram=16 << 20); fd = m.open("/dev/fb0"); at = m.mmap(0, 8 << 12, "rw", "shared", fd)
    >>> m.unmap_mapping_range(fd, 2 << 12, 3 << 12, True)
    3
    """
    first = start >> 12
    last = first + ((length + 4095) >> 12) - 1
    if last < first:
        last = END
    j = system.journal
    j.enter("unmap_mapping_range", ("inode", inode), ("holebegin", start), ("holelen", length))
    cleared = 0
    for mm, vma in mappings_of(system, inode, first, last):
        low = max(first, vma.pgoff) - vma.pgoff
        high = min(last, vma.pgoff + vma.nr_pages - 1) - vma.pgoff
        at = vma.start + (low << 12)
        cleared += zap_page_range_single(mm, vma, at, (high - low + 1) << 12, even_cows)[1]
    j.leave("unmap_mapping_range")
    return cleared


def truncate_pagecache(system: System, inode: Inode, size: int) -> None:
    """What follows when a file has shrunk to ``size`` bytes: entries behind it go, private copies too, then
    the pages (mm/truncate.c).

    The rest of the last page becomes zeros.
    """
    unmap_mapping_range(system, inode.id, (size + 4095) & -4096, 0, True)
    truncate_inode_pages_range(system, inode, size, 1 << 63)


def truncate_inode_pages_range(system: System, inode: Inode, start: int, end: int) -> None:
    """Take the pages of bytes ``[start, end)`` out of the cache (mm/truncate.c, `shmem_undo_range`).

    Pages that the range covers only in part stay and are zeroed there; of a shmem file they become dirty.
    """
    j, cache = system.journal, system.page_cache
    j.enter("truncate_inode_pages_range", ("inode", inode.id), ("lstart", start), ("lend", end - 1))
    first, last = (start + 4095) >> 12, end >> 12
    _drop_pages(system, inode, first, last)
    for index in sorted({start >> 12, (end - 1) >> 12}):
        if first <= index < last:
            continue
        pfn = cache.get((inode.id, index))
        if pfn is None and (inode.id, index) in system.swap.shmem.data and index << 12 < inode.size:
            pfn = add_to_page_cache(system, inode, index)  # shmem_get_partial_folio
        if pfn is None:
            continue
        low = max(start - (index << 12), 0)
        system.frames.write_bytes(pfn, low, bytes(min(end - (index << 12), 4096) - low))
        if inode.kind == "shmem" and not system.frames.flags.flat[pfn] & PG_DIRTY:
            j.write(system.frames.flags, pfn, system.frames.flags.flat[pfn] | PG_DIRTY)
    j.leave("truncate_inode_pages_range")


def _drop_pages(system: System, inode: Inode, first: int, last: int) -> None:
    j, frames = system.journal, system.frames
    for key in _keys(system.swap.shmem.data, inode.id, first, last):
        shmem_slot_dropped(system, key)
    for key in _keys(system.disk.data, inode.id, first, last):
        j.write(system.disk, key, None)
    keys = _keys(system.page_cache.data, inode.id, first, last)
    if not keys:
        return
    pfns = np.array([system.page_cache.get(key) for key in keys], np.int64)
    for key in keys:
        j.write(system.page_cache, key, None)
    last_use = frames.refcount.array[pfns] == 1
    gone = pfns[last_use]
    if len(gone):
        addresses = gone.astype(np.uint64) << np.uint64(12)
        j.bulk(Bulk("free_unref_page", len(gone), free_lanes(frames, gone), addresses=addresses))
    for pfn in pfns[~last_use].tolist():
        frames.put_page(pfn)


def _keys(store: dict[tuple[int, int], int], inode: int, first: int, last: int) -> list[tuple[int, int]]:
    if last - first < len(store):
        return [(inode, i) for i in range(first, last) if (inode, i) in store]
    return sorted(k for k in store if k[0] == inode and first <= k[1] < last)
