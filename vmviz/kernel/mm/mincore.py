"""Which pages of a range are in memory (models mm/mincore.c)."""

from __future__ import annotations

import numpy as np

from ..arch.x86 import _PAGE_PRESENT, _PAGE_PROTNONE
from ..errors import KernelError, UnsupportedError
from .filemap import inode_of
from .flags import VM_HUGETLB, VM_PFNMAP
from .huge_memory import HPAGE_PMD_SIZE
from .hugetlb_pool import cached_page, vma_hugecache_offset
from .mm_types import Mm
from .vma import Vma

MAX_PAGES = 1 << 24
"""The longest answer: 64 GiB of memory, a byte for each page."""


def do_mincore(mm: Mm, start: int, length: int) -> bytes:
    """One byte per page of ``[start, start + length)`` (bytes; mincore(2)): bit 0, whether it is resident.

    Errors in the kernel's order: EINVAL (unaligned), ENOMEM (beyond user space; a hole).  A mapped entry
    counts as resident, an empty one if its page of the file is cached; VM_PFNMAP mappings are looked up in
    the file's page cache only, where a device has nothing.  Simplified: the process may write every file
    that it maps.  A swapped out page is resident while the swap cache has it.  Raises `UnsupportedError` where the
    answer would be longer than `MAX_PAGES`.
    """
    if start & 4095:
        raise KernelError("EINVAL", "mincore", f"address {start:#x} is not page aligned")
    if start + length > mm.task_size:
        raise KernelError("ENOMEM", "mincore", "the range ends above the user address space")
    out, at = bytearray(), start
    end = start + ((length + 4095) & -4096)
    while at < end:
        vma = mm.vma_at(at)
        if vma is None:
            raise KernelError("ENOMEM", "mincore", f"nothing is mapped at {at:#x}")
        stop = min(vma.end, end)
        if stop - start > MAX_PAGES << 12:
            raise UnsupportedError(f"mincore tells of {MAX_PAGES << 12 >> 30} GiB at most")
        out += _resident(mm, vma, at, stop).tobytes()
        at = stop
    return bytes(out)


def _resident(mm: Mm, vma: Vma, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    out = np.zeros((end - start) >> 12, np.uint8)
    if vma.vm_flags & VM_HUGETLB:
        return _resident_huge(mm, vma, start, end, out)
    if vma.file:
        inode = inode_of(mm.sys, vma.file).id
        first = vma.pgoff + ((start - vma.start) >> 12)
        cache = mm.sys.page_cache.data
        out[:] = [(inode, first + i) in cache for i in range(len(out))]
    if not vma.vm_flags & VM_PFNMAP:
        arena = mm.sys.arena
        for _, haddr in arena.huge_leaves(mm.pgd, start, end):
            out[max(haddr - start, 0) >> 12 : (haddr + HPAGE_PMD_SIZE - start) >> 12] = 1
        for slot, n, va in arena.segments(mm.pgd, start, end):
            entries = arena.entries[slot : slot + n]
            at = (va - start) >> 12
            swapped = np.flatnonzero(
                (entries != 0) & (entries & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE) == 0)
            )
            out[at : at + n] = np.where(
                entries == 0, out[at : at + n], (entries & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE)) != 0
            )
            slots = mm.sys.swap.offsets_of(entries[swapped]).tolist()
            out[at + swapped] = [slot in mm.sys.swap.cache.data for slot in slots]
    return out


def _resident_huge(
    mm: Mm, vma: Vma, start: int, end: int, out: np.ndarray[tuple[int], np.dtype[np.uint8]]
) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Pages of the hugetlb pool (`mincore_hugetlb`): those that are mapped.

    Where not even a table is there Linux looks into the file, and takes each small page for the next huge one.
    """
    arena, inode = mm.sys.arena, inode_of(mm.sys, vma.file).id
    at = start
    while at < end:
        stop = min((at | (HPAGE_PMD_SIZE - 1)) + 1, end)
        first = (at - start) >> 12
        if len(arena.walk(mm.pgd, at)) == len(mm.sys.mode.levels) - 1:
            out[first : (stop - start) >> 12] = arena.huge_slot(mm.pgd, at) >= 0
        else:
            index = vma_hugecache_offset(vma, at)
            for i in range((stop - at) >> 12):
                out[first + i] = cached_page(mm.sys, inode, index + i) >= 0
        at = stop
    return out
