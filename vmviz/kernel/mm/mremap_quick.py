"""mremap that moves whole page tables of a whole VMA, judged and done at the cost of that (mm/mremap.c).

A large mapping goes to another place by the entries that point to its tables.  Where that is all (an anonymous VMA, all
tables there, nothing in the way or beside the new place), `quick_mremap` does it, and `PackedMove` keeps what was done;
else the call goes its long way, `do_mremap`.  Both leave the same state and the same records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arch.x86 import _PAGE_PSE, PTE_PFN_MASK
from .flags import (
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MIXEDMAP,
    VM_PFNMAP,
)
from .move_packed import Hung, PackedMove, Piece, hang_table, table_page, take_back
from .page_alloc import OutOfMemory
from .util import commit_refusal, max_map_count
from .vma import Vma

if TYPE_CHECKING:
    from .mm_types import Mm
    from .pgtable import TableArena

_MOVE = MREMAP_MAYMOVE | MREMAP_FIXED
_KIND = VM_LOCKED | VM_HUGETLB | VM_PFNMAP | VM_MIXEDMAP | VM_GROWSDOWN
_PSE = np.uint64(_PAGE_PSE)


def quick_mremap(mm: Mm, addr: int, old_len: int, new_len: int, flags: int, new_addr: int) -> int:
    """mremap (bytes) of exactly one anonymous VMA to a free place, where it does not touch another, by whole page
    tables, all of which are there; the address, or -1, and nothing done, where it is not so.
    """
    if flags != _MOVE or old_len != new_len or not old_len:
        return -1
    s = mm.sys
    arena = s.arena
    if (
        (addr | old_len | new_addr) & ((1 << arena.upper[-1][0]) - 1)
        or mm.unknown.data
        or s.journal.at is not None
    ):
        return -1
    end, new_end = addr + old_len, new_addr + new_len
    if end > mm.task_size or new_end > mm.task_size or new_addr < s.mmap_min_addr:
        return -1
    vmas = mm.vmas
    below, there, above = vmas.around(addr, end)
    if len(there) != 1 or len(vmas) + 5 >= max_map_count(mm):
        return -1
    vma = there[0]
    vm_flags = vma.vm_flags
    if vma.start != addr or vma.end != end or vm_flags & _KIND or vma.file or vma.ops:
        return -1
    left, taken, right = vmas.around(new_addr, new_end)
    if taken or (left and left.end == new_addr) or (right and right.start == new_end):
        return -1
    if vm_flags & VM_ACCOUNT and commit_refusal(mm, 0):
        return -1
    floor = 0 if below is None else below.end
    ceiling = 0 if above is None else above.start
    if new_addr < addr:
        floor = max(floor, new_end)
    elif not ceiling or new_addr < ceiling:
        ceiling = new_addr
    plan = _plan(mm, addr, end, new_addr - addr, floor, ceiling)
    if plan is None:
        return -1
    pieces, missing, freed = plan
    made: list[Hung | None] = []
    for i, up in enumerate(missing):
        hung = None
        if up >= 0 and not arena.flat[up]:
            hung = _make_table(mm, up)
            if hung is None:
                take_back(mm, made)
                return -1
        made.append(hung)
        if up >= 0:
            slot, to, n, entries = pieces[i]
            pieces[i] = slot, (arena.child_row(up) << arena.bits) | to, n, entries
    new = Vma(
        new_addr,
        new_end,
        vm_flags,
        vma.pgoff if vma.anon_vma else new_addr >> 12,
        vma.page_prot,
        0,
        vma.anon_vma,
        "",
        vma.name,
        vma.private,
        vma.chain,
    )
    move = PackedMove(mm, vma, new, pieces, made, freed, (floor, ceiling))
    move.move()
    if s.journal.enabled:
        s.journal.pack(move)
    return new_addr


def _plan(
    mm: Mm, at: int, end: int, delta: int, floor: int, ceiling: int
) -> tuple[list[Piece], list[int], list[Hung]] | None:
    """What moves from ``[at, end)`` (bytes) to ``delta`` bytes further, and what goes with it between ``floor`` and
    ``ceiling``; None where this is not so simple: an entry is not there or in the way, a larger table moves or goes.

    In a piece whose new table is missing the new slot is its place in that table, and ``missing`` has the slot of the
    entry that is to point to the table; -1 where the table is there.
    """
    arena, pgd = mm.sys.arena, mm.pgd
    flat, cells, bits = arena.flat, arena.entries, arena.bits
    if len(arena.upper) < 3:
        return None
    (above, _), (wide, mask), (span, _) = arena.upper[-3:]
    step, up = wide - span, above - span
    # From here on in units of a last-level table: small numbers are quicker.
    first, last, apart = at >> span, end >> span, delta >> span
    there = first + apart
    if (first ^ (last - 1)) >> up or (there ^ (last + apart - 1)) >> up:
        return None
    low = (floor + (1 << wide) - 1) >> wide
    high = (ceiling or mm.task_size + (1 << 39)) >> wide
    if low <= first >> up << (up - step) and ((first >> up) + 1) << (up - step) <= high:
        return None
    old_base = new_base = _row_above(arena, pgd, at) << bits
    if (first ^ there) >> up:
        new_base = _row_above(arena, pgd, at + delta) << bits
    if old_base < 0 or new_base < 0:
        return None
    size, row_of = 1 << step, arena.row_of.flat
    pieces: list[Piece] = []
    missing: list[int] = []
    freed: list[Hung] = []
    row = table = -1
    while first < last:
        there = first + apart
        if first >> step != table:
            table = first >> step
            down = old_base | (table & mask)
            entry = flat[down]
            if not entry or entry & _PAGE_PSE:
                return None
            pfn = (entry & PTE_PFN_MASK) >> 12
            row = row_of[pfn] - 1
            if low <= table < high:
                freed.append((down, row, pfn))
        index, place = first & (size - 1), there & (size - 1)
        n = min(size - (index if index > place else place), last - first)
        if n == size:
            return None
        slot = (row << bits) | index
        if n > 1:
            entries: Any = cells[slot : slot + n].copy()
            if np.count_nonzero(entries) != n or (arena.huge.data and (entries & _PSE).any()):
                return None
        else:
            entries = flat[slot]
            if not entries or entries & _PAGE_PSE:
                return None
        above_new = new_base | ((there >> step) & mask)
        entry = flat[above_new]
        if entry:
            if entry & _PAGE_PSE:
                return None
            place |= (row_of[(entry & PTE_PFN_MASK) >> 12] - 1) << bits
            if any(flat[place : place + n]) if n <= 16 else cells[place : place + n].any():
                return None
            above_new = -1
        pieces.append((slot, place, n, entries))
        missing.append(above_new)
        first += n
    return pieces, missing, freed


def _row_above(arena: TableArena, pgd: int, va: int) -> int:
    """The row of the table two levels above the last on the way to ``va``; -1 when one is missing."""
    flat, row_of, bits = arena.flat, arena.row_of.flat, arena.bits
    row = pgd
    for shift, mask in arena.upper[:-2]:
        entry = flat[(row << bits) | ((va >> shift) & mask)]
        if not entry or entry & _PAGE_PSE:
            return -1
        row = row_of[(entry & PTE_PFN_MASK) >> 12] - 1
    return row


def _make_table(mm: Mm, up: int) -> Hung | None:
    """A table above the last level that the entry in ``up`` points to; None where there is no room for it."""
    arena = mm.sys.arena
    row = arena.pfn_of.lowest_free()
    if row < 0:
        return None
    try:
        pfn = mm.sys.frames.take(table_page(row))
    except OutOfMemory:
        return None
    hang_table(arena, up, row, pfn)
    return up, row, pfn
