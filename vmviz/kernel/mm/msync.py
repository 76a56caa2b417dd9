"""Writing mapped files back (models mm/msync.c)."""

from __future__ import annotations

import numpy as np

from ..arch.tlb import TlbFlush
from ..arch.x86 import _PAGE_DIRTY, _PAGE_PRESENT, _PAGE_RW
from ..errors import KernelError
from ..trace.bulk import Bulk, SetLane
from .filemap import MEMORY_KINDS, inode_of
from .flags import MS_ASYNC, MS_INVALIDATE, MS_SYNC, VM_LOCKED, VM_SHARED
from .mm_types import Mm
from .mmu_gather import flush_tlb
from .page_flags import PG_DIRTY
from .vma import Vma

TOP = 1 << 64


def _error(errno: str, why: str) -> KernelError:
    return KernelError(errno, "msync", why)


def do_msync(mm: Mm, start: int, length: int, flags: int) -> None:
    """Write back what shared mappings of a range have changed (bytes; msync(2)).

    Errors in the kernel's order: EINVAL (unknown flags; unaligned; MS_ASYNC with MS_SYNC), ENOMEM (the range
    wraps), EBUSY (MS_INVALIDATE on a locked mapping), EINVAL (MS_SYNC on a device without fsync), ENOMEM (a
    hole; the rest is done, unless MS_ASYNC is alone).  Only MS_SYNC on a shared mapping writes anything.
    """
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC):
        raise _error("EINVAL", f"unknown flags {flags:#x}")
    if start & 4095:
        raise _error("EINVAL", f"address {start:#x} is not page aligned")
    if flags & MS_ASYNC and flags & MS_SYNC:
        raise _error("EINVAL", "MS_ASYNC and MS_SYNC exclude each other")
    end = start + ((length + 4095) & -4096 & (TOP - 1))
    if end >= TOP:
        raise _error("ENOMEM", "the range wraps")
    hole = False
    while start < end:
        vma = mm.find_vma(start)
        if vma is None:
            raise _error("ENOMEM", f"nothing is mapped at {start:#x}")
        if start < vma.start:
            if flags == MS_ASYNC or vma.start >= end:
                raise _error("ENOMEM", f"nothing is mapped at {start:#x}")
            hole, start = True, vma.start
        if flags & MS_INVALIDATE and vma.vm_flags & VM_LOCKED:
            raise _error("EBUSY", f"the mapping at {vma.start:#x} is locked")
        stop = min(vma.end, end)
        if flags & MS_SYNC and vma.file and vma.vm_flags & VM_SHARED:
            vfs_fsync_range(mm, vma, start, stop)
        start = stop
    if hole:
        raise _error("ENOMEM", "part of the range is not mapped; the rest is written")


def vfs_fsync_range(mm: Mm, vma: Vma, start: int, end: int) -> None:
    """Write back the part of a file that a range of a VMA maps (fs/sync.c); EINVAL for a device.

    Memory files have nothing to write to: nothing changes.  The pages of a regular file become clean, and
    their entries here clean and read-only, so that the next write is noticed (`page_mkclean`).  Simplified:
    entries of other mappings of the file stay writable.
    """
    inode = inode_of(mm.sys, vma.file)
    if inode.kind not in ("reg", *MEMORY_KINDS):
        raise _error("EINVAL", f"{inode.path} has no fsync")
    if inode.kind != "reg":
        return
    j, arena, frames = mm.sys.journal, mm.sys.arena, mm.sys.frames
    j.enter("vfs_fsync_range", ("start", start), ("end", end))
    for slot, n, va in arena.segments(mm.pgd, start, end):
        entries = arena.entries[slot : slot + n]
        bits = np.uint64(_PAGE_RW | _PAGE_DIRTY)
        where = np.flatnonzero(((entries & np.uint64(_PAGE_PRESENT)) != 0) & ((entries & bits) != 0))
        if len(where):
            old = entries[where]
            lane = SetLane(arena, where + slot, old, old & ~bits)
            at = (where.astype(np.uint64) << np.uint64(12)) + np.uint64(va)
            j.bulk(Bulk("page_mkclean", len(where), (lane,), address=int(at[0]), addresses=at))
            flush_tlb(mm, TlbFlush.of(int(at[0]), int(at[-1]) + 4096))
    first = vma.pgoff + ((start - vma.start) >> 12)
    cache = mm.sys.page_cache.data
    pages = [(i, cache.get((inode.id, i))) for i in range(first, first + ((end - start) >> 12))]
    for index, pfn in pages:
        if pfn is not None and frames.flags.flat[pfn] & PG_DIRTY:
            j.write(mm.sys.disk, (inode.id, index), frames.content.flat[pfn] or None)
            j.write(frames.flags, pfn, frames.flags.flat[pfn] & ~PG_DIRTY)
    j.leave("vfs_fsync_range", 0)
