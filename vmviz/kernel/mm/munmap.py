"""Taking mappings away (models the unmapping side of mm/mmap.c and free_pgtables of mm/memory.c)."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from ..arch.x86 import _PAGE_PSE
from ..errors import KernelError
from .filemap import put_inode
from .flags import VM_ACCOUNT, VM_HUGETLB, VM_LOCKED
from .hugetlb_pool import hugetlb_vm_op_close
from .memory.zap import unmap_single_vma, update_hiwater_rss
from .mm_types import STAT_FLAGS, Mm
from .mmu_gather import MmuGather
from .pgtable import TableArena
from .util import max_map_count
from .vma import Vma
from .vma_merge import do_split_vma


def _fail(errno: str, why: str) -> NoReturn:
    raise KernelError(errno, "munmap", why)


def do_munmap(mm: Mm, addr: int, length: int) -> MmuGather | None:
    """Unmap ``[addr, addr + length)`` (bytes; munmap(2)): split, detach, clear entries, free tables, account.

    Returns the gather (what was flushed and freed), None when nothing was mapped there, which is no error.
    Errors: EINVAL (unaligned, length 0, beyond user space), ENOMEM (a split would exceed max_map_count).
    """
    if addr & 4095:
        _fail("EINVAL", f"address {addr:#x} is not page aligned")
    size = (length + 4095) & ~4095 & ((1 << 64) - 1)
    if addr > mm.task_size or length > mm.task_size - addr:
        _fail("EINVAL", "the range ends above the user address space")
    if size == 0:
        _fail("EINVAL", "length is 0")
    end = addr + size
    before, vmas, after = mm.vmas.around(addr, end)
    if not vmas:
        return None
    j = mm.sys.journal
    j.enter("do_mas_align_munmap", ("start", addr), ("end", end))
    first, last = vmas[0], vmas[-1]
    if first.start < addr and first.end > end and len(mm.vmas) >= max_map_count(mm):
        j.leave("do_mas_align_munmap", "ENOMEM")
        _fail("ENOMEM", "punching a hole would exceed max_map_count")
    if first.start < addr or last.end > end:
        try:
            if first.start < addr:
                first = do_split_vma(mm, first, addr)[1]
            if last.start < addr:
                last = first
            if last.end > end:
                do_split_vma(mm, last, end)
        except KernelError as error:
            j.leave("do_mas_align_munmap", error.errno)
            raise
        before, vmas, after = mm.vmas.around(addr, end)
    locked = 0
    for vma in vmas:
        j.change(mm.vmas, vma.start, vma, None)
        if vma.vm_flags & VM_LOCKED:
            locked += vma.nr_pages
    j.add(mm.counters, "map_count", -len(vmas))
    if locked:
        j.add(mm.counters, "locked_vm", -locked)
    gather = unmap_region(mm, vmas, 0 if before is None else before.end, 0 if after is None else after.start)
    remove_mt(mm, vmas)
    j.leave("do_mas_align_munmap", 0)
    return gather


def remove_mt(mm: Mm, vmas: list[Vma]) -> None:
    """Take detached VMAs out of the counters, give their charge back, close them (mm/mmap.c).

    The charge is given back once, the counters once for each kind of VMA, however many go.
    """
    committed = 0
    pages: dict[int, int] = {}  # by the flags that the counters go by
    for vma in vmas:
        flags, n = vma.vm_flags, (vma.end - vma.start) >> 12
        if flags & VM_ACCOUNT:
            committed += n
        kind = flags & STAT_FLAGS
        pages[kind] = pages.get(kind, 0) + n
        if flags & VM_HUGETLB:
            hugetlb_vm_op_close(mm.sys, vma)
        if vma.file:
            put_inode(mm.sys, vma.file)
    for kind, n in pages.items():
        mm.account(kind, -n)
    if committed:
        mm.sys.journal.add(mm.sys.commit, "committed", -committed)


def unmap_region(mm: Mm, vmas: list[Vma], floor: int, ceiling: int) -> MmuGather:
    """Clear the entries of detached VMAs and free the tables that nobody needs (`unmap_region`).

    ``floor`` is the end of the VMA before, ``ceiling`` the start of the one after (0: none).
    """
    j = mm.sys.journal
    j.enter("unmap_region", ("start", vmas[0].start), ("end", vmas[-1].end))
    gather = MmuGather(mm)
    update_hiwater_rss(mm)
    for vma in vmas:
        unmap_single_vma(mm, vma, vma.start, vma.end, gather)
    free_pgtables(mm, vmas[0].start, vmas[-1].end, floor, ceiling, gather)
    gather.finish()
    j.leave("unmap_region")
    return gather


def free_pgtables(mm: Mm, start: int, end: int, floor: int, ceiling: int, gather: MmuGather) -> None:
    """Free the tables of ``[start, end)`` whose whole span lies between ``floor`` and ``ceiling`` (0: no
    limit).

    A table goes when none of the surviving neighbours reaches into its span; the root lives as long as the
    mm.
    """
    j = mm.sys.journal
    j.enter("free_pgtables", ("floor", floor), ("ceiling", ceiling))
    if mm.sys.arena.frees_tables(floor, ceiling):
        _free_level(mm, mm.pgd, 0, 0, start, end, floor, ceiling or mm.task_size + (1 << 39), gather)
    j.leave("free_pgtables")


def _free_level(
    mm: Mm, row: int, level: int, base: int, start: int, end: int, floor: int, ceiling: int, gather: MmuGather
) -> None:
    """Free the children of the table in ``row``, which maps from address ``base`` on, the lowest level
    first.
    """
    arena, levels = mm.sys.arena, mm.sys.mode.levels
    if level == len(levels) - 1:
        return
    shift, mask = levels[level].shift, levels[level].entries - 1
    for i in _filled(arena, row, (start >> shift) & mask, ((end - 1) >> shift) & mask):
        slot = (row << arena.bits) | i
        if arena.flat[slot] & _PAGE_PSE:
            continue
        low = base + (i << shift)
        high = low + (1 << shift)
        child = arena.child_row(slot)
        _free_level(mm, child, level + 1, low, max(start, low), min(end, high), floor, ceiling, gather)
        if low >= floor and high <= ceiling:
            name = f"free_{levels[level + 1].name}_range"
            j = mm.sys.journal
            j.enter(name, ("address", low))
            j.write(arena, slot, 0)
            j.add(mm.counters, "pgtables", -4096)
            gather.remove_table(child, max(start, low))
            j.leave(name)


def _filled(arena: TableArena, row: int, first: int, last: int) -> list[int]:
    """Which entries ``first`` to ``last`` of a table are not empty."""
    slot, n = (row << arena.bits) | first, last - first + 1
    if n > FEW:
        return [first + i for i in np.flatnonzero(arena.entries[slot : slot + n]).tolist()]
    return [first + i for i in range(n) if arena.flat[slot + i]]


FEW = 16
"""Up to so many entries plain numbers are faster than numpy."""
