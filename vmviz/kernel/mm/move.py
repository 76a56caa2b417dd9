"""Moving entries to other addresses (models move_page_tables and what it calls in mm/mremap.c).

Entries move one page table at a time; where a whole table, or a whole table of tables, moves to an equally
aligned place, only the entry that points to it moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arch.tlb import TlbFlush
from ..arch.x86 import _PAGE_PRESENT, _PAGE_PROTNONE, _PAGE_PSE, _PAGE_SOFT_DIRTY, _PAGE_SWP_SOFT_DIRTY
from ..trace.bulk import Bulk, SetLane
from .flags import VM_HUGETLB
from .huge_memory import HPAGE_PMD_MASK, HPAGE_PMD_SIZE, move_huge_pmd, split_huge_pmd
from .hugetlb import move_hugetlb_page_tables
from .mm_types import Mm
from .mmu_gather import flush_tlb
from .page_alloc import OutOfMemory
from .vma import Vma


def move_page_tables(mm: Mm, vma: Vma, old_addr: int, new_addr: int, length: int) -> int:
    """Move the entries of ``[old_addr, old_addr + length)`` (bytes, page aligned) to ``new_addr``.

    Returns how many bytes were done: fewer than ``length`` when no frame was left for a table.  Tables at the
    new place are made where the old one has some, also where those turn out to be empty.
    """
    j, arena = mm.sys.journal, mm.sys.arena
    j.enter("move_page_tables", ("old_addr", old_addr), ("new_addr", new_addr), ("len", length))
    if vma.vm_flags & VM_HUGETLB:
        done = _move_hugetlb(mm, old_addr, new_addr, length)
        j.leave("move_page_tables", done)
        return done
    pmd = len(mm.sys.mode.levels) - 2
    pud = pmd - 1
    at, end, delta = old_addr, old_addr + length, new_addr - old_addr
    try:
        while at < end:
            extent = _extent(mm, pud, at, end, at + delta)
            slots = arena.walk(mm.pgd, at)
            if len(slots) <= pmd:
                at += extent
                continue
            to = arena.ensure_level(mm.pgd, at + delta, mm.counters, pud)
            if extent == 1 << mm.sys.mode.levels[pud].shift and _move_table(mm, slots[pud], to, at, pud):
                at += extent
                continue
            extent = _extent(mm, pmd, at, end, at + delta)
            if not arena.flat[slots[pmd]]:
                at += extent
                continue
            to = arena.ensure_level(mm.pgd, at + delta, mm.counters, pmd)
            room = min(end - at, _room(mm, pmd, at, at + delta))
            moved = _move_tables(mm, slots[pmd], to, (at, at + delta), room, pmd)
            if moved:
                at += moved
                continue
            if arena.flat[slots[pmd]] & _PAGE_PSE:
                whole = extent == HPAGE_PMD_SIZE
                if whole and move_huge_pmd(mm, slots[pmd], to, at):
                    at += extent
                    continue
                split_huge_pmd(mm, vma, slots[pmd], at & HPAGE_PMD_MASK)
            elif extent == 1 << mm.sys.mode.levels[pmd].shift and _move_table(mm, slots[pmd], to, at, pmd):
                at += extent
                continue
            to = arena.ensure(mm.pgd, at + delta, mm.counters)
            move_ptes(mm, arena.lookup(mm.pgd, at), to, extent >> 12, at)
            at += extent
    except OutOfMemory:
        pass
    done = min(at, end) - old_addr
    j.leave("move_page_tables", done)
    return done


def _move_hugetlb(mm: Mm, old_addr: int, new_addr: int, length: int) -> int:
    try:
        return move_hugetlb_page_tables(mm, old_addr, new_addr, length)
    except OutOfMemory:
        return 0


def _extent(mm: Mm, level: int, old: int, end: int, new: int) -> int:
    """How far one step may go: to the next border of an entry of ``level`` at either place (`get_extent`)."""
    span = 1 << mm.sys.mode.levels[level].shift
    return min(span - old % span, end - old, span - new % span)


def _room(mm: Mm, level: int, old: int, new: int) -> int:
    """How many bytes lie before the end of the table of ``level`` at either place."""
    span = mm.sys.mode.levels[level].entries << mm.sys.mode.levels[level].shift
    return min(span - old % span, span - new % span)


def _move_tables(mm: Mm, slot: int, to: int, at: tuple[int, int], room: int, level: int) -> int:
    """Hang several neighbouring tables to another place as one record (`move_normal_pmd`, one call each).

    ``at`` are the old and the new address.  Returns how many bytes that were: 0 for fewer than two tables, or
    where a place does not begin with a table.
    """
    arena, span, address = mm.sys.arena, 1 << mm.sys.mode.levels[level].shift, at[0]
    if address % span or at[1] % span or room < 2 * span:
        return 0
    n = room // span
    old, new = arena.entries[slot : slot + n], arena.entries[to : to + n]
    fit = (old != 0) & (old & np.uint64(_PAGE_PSE) == 0) & (new == 0)
    n = n if fit.all() else int(fit.argmin())
    if n < 2:
        return 0
    entries = old[:n].copy()
    lanes = (SetLane(arena, slice(slot, slot + n), entries, 0), SetLane(arena, slice(to, to + n), 0, entries))
    name = f"move_normal_{mm.sys.mode.levels[level].name}"
    mm.sys.journal.bulk(Bulk(name, n, lanes, address=address, stride=span))
    flush_tlb(mm, TlbFlush.of(address, address + n * span))
    return n * span


def _move_table(mm: Mm, slot: int, to: int, address: int, level: int) -> bool:
    """Hang a whole table to another place (`move_normal_pmd`, `_pud`); false when it is taken."""
    j, arena = mm.sys.journal, mm.sys.arena
    if arena.flat[to]:
        return False
    name, shift = mm.sys.mode.levels[level].name, mm.sys.mode.levels[level].shift
    j.enter(f"move_normal_{name}", ("old_addr", address))
    entry = arena.flat[slot]
    j.write(arena, slot, 0)
    j.write(arena, to, entry)
    flush_tlb(mm, TlbFlush.of(address, address + (1 << shift)))
    j.leave(f"move_normal_{name}", 1)
    return True


def move_ptes(mm: Mm, slot: int, to: int, n: int, address: int) -> None:
    """Move ``n`` entries of one page table, that of ``address`` first, to the slots from ``to`` on
    (mm/mremap.c).

    Moved entries count as soft-dirty.  If one of them kept a frame, the TLB is flushed of the old range.
    """
    arena = mm.sys.arena
    entries = arena.entries[slot : slot + n]
    where = np.flatnonzero(entries)
    if not len(where):
        return
    old = entries[where]
    present = (old & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE)) != 0
    new = old | np.where(present, np.uint64(_PAGE_SOFT_DIRTY), np.uint64(_PAGE_SWP_SOFT_DIRTY))
    lo, m = int(where[0]), len(where)
    dense = int(where[-1]) - lo + 1 == m
    source: Any = slice(slot + lo, slot + lo + m) if dense else where + slot
    target: Any = slice(to + lo, to + lo + m) if dense else where + to
    lanes = (SetLane(arena, source, old, 0), SetLane(arena, target, 0, new))
    addresses = None if dense else (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
    mm.sys.journal.bulk(Bulk("move_ptes", m, lanes, address=address + (lo << 12), addresses=addresses))
    if present.any():
        flush_tlb(mm, TlbFlush.of(address, address + (n << 12)))
