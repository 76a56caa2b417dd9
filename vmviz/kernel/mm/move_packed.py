"""A move of whole page tables in one packed record: what `mremap_quick` has done (mm/mremap.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..arch.tlb import TlbFlush
from ..arch.x86 import _PAGE_TABLE
from ..trace.bulk import Bulk, SetLane
from ..trace.journal import Enter, Event, Leave
from ..trace.packed import Packed
from .flags import (
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    VM_ACCOUNT,
)
from .mm_types import Mm, stat_class
from .page_alloc import FREE, TABLE
from .page_flags import PG_PGTABLE
from .pgtable import ALLOC_NAMES
from .vma import Vma

if TYPE_CHECKING:
    from ..trace.journal import Record, Write
    from ..trace.store import Counters, Keyed
    from .pgtable import TableArena

Piece = tuple[int, int, int, Any]
"""Neighbouring entries that move: their first slot, the first one at the new place, how many, and the entries: an
array, a number where it is one."""
Hung = tuple[int, int, int]
"""A table above the last level that is made or freed: the slot of the entry that points to it, its row, its frame."""

_FREE_PAGE = (FREE, 0, 0, 0, 0, 0, 0)
_MOVE = MREMAP_MAYMOVE | MREMAP_FIXED


class PackedMove(Packed):
    """mremap of the whole of ``vma`` to where ``new`` is; ``pieces`` move, each behind the table in ``made`` that it
    needs (None: one is there).

    ``freed`` are the tables that go with the old place, between ``floor`` and ``ceiling``.  ``gone`` lists the
    translations that the flush took out of the TLBs: ``(store, key, old)``.  ``before`` is
    what the counters were.
    """

    __slots__ = (
        *("before", "ceiling", "committed", "floor", "freed", "gone", "made", "mm", "new", "pieces", "rss"),
        "vma",
    )

    def __init__(
        self,
        mm: Mm,
        vma: Vma,
        new: Vma,
        pieces: list[Piece],
        made: list[Hung | None],
        freed: list[Hung],
        limits: tuple[int, int],
    ) -> None:
        self.before = before = mm.counters.data.copy()
        self.mm = mm
        self.vma = vma
        self.new = new
        self.pieces = pieces
        self.made = made
        self.freed = freed
        self.floor, self.ceiling = limits
        self.committed = mm.sys.commit.data["committed"]
        self.rss = rss = before["file"] + before["anon"] + before["shmem"]
        self.gone: list[tuple[Keyed, int, Any]] = []
        for tlb in mm.sys.tlbs:
            held = tlb.entries.data
            if held:
                self.gone += [(tlb.entries, key, held[key]) for key in tlb.doomed(mm.id, 0, 0, whole=True)]
        vm_flags = vma.vm_flags
        n = 22 + len(self.gone) + 8 * (len(made) - made.count(None) + len(freed)) + 4 * len(pieces)
        for _, _, many, _ in pieces:
            if many == 1:
                n += 3
        if freed:
            n += 3
        if stat_class(vm_flags):
            n += 2
        if vm_flags & VM_ACCOUNT:
            n += 2
        if rss > before["hiwater_rss"]:
            n += 1
        self.nr_records = n

    def redo(self) -> None:
        """Do all writes again."""
        for hung in self.made:
            if hung is not None:
                slot, row, pfn = hung
                self.mm.sys.frames.put(pfn, table_page(row))
                hang_table(self.mm.sys.arena, slot, row, pfn)
        self.move()

    def move(self) -> None:
        """What is done when the tables are made."""
        mm, vma, new = self.mm, self.vma, self.new
        arena = mm.sys.arena
        for slot, to, n, entries in self.pieces:
            arena.hang(slot, to, n, entries)
        for slot, row, pfn in self.freed:
            _unhang(arena, slot, row)
            mm.sys.frames.put(pfn, _FREE_PAGE)
        for store, key, _ in self.gone:
            store.put(key, None)
        mm.vmas.put(new.start, new)
        mm.vmas.put(vma.start, None)
        data = mm.counters.data
        made = len(self.made) - self.made.count(None)
        data["pgtables"] = self.before["pgtables"] + ((made - len(self.freed)) << 12)
        if self.rss > self.before["hiwater_rss"]:
            data["hiwater_rss"] = self.rss

    def undo(self) -> None:
        """Take all writes back."""
        mm, vma = self.mm, self.vma
        arena, frames = mm.sys.arena, mm.sys.frames
        data = mm.counters.data
        data["pgtables"] = self.before["pgtables"]
        data["hiwater_rss"] = self.before["hiwater_rss"]
        mm.vmas.put(vma.start, vma)
        mm.vmas.put(self.new.start, None)
        for store, key, old in self.gone:
            store.put(key, old)
        for slot, row, pfn in reversed(self.freed):
            frames.put(pfn, table_page(row))
            hang_table(arena, slot, row, pfn)
        for slot, to, n, entries in self.pieces:
            arena.hang(to, slot, n, entries)
        take_back(mm, self.made)

    def unpack(self) -> list[Record]:
        """The records of mremap."""
        mm, vma, new = self.mm, self.vma, self.new
        size, pages = vma.size, vma.nr_pages
        fields = (("addr", vma.start), ("old_len", size), ("new_len", size), ("flags", _MOVE))
        there = ("new_addr", new.start)
        told: list[Record] = [Enter("mremap", (*fields, there))]
        charged = vma.vm_flags & VM_ACCOUNT
        if charged:
            told.append(_added(mm.sys.commit, "committed", self.committed, 0))
        told += [
            Enter("move_vma", (("old_addr", vma.start), there, ("new_len", size))),
            (mm.vmas, new.start, None, new),
            _added(mm.counters, "map_count", self.before["map_count"], 1),
            Enter("move_page_tables", (("old_addr", vma.start), there, ("len", size))),
            *self._moved(),
            Leave("move_page_tables", size),
            *self._accounted(0, pages),
        ]
        left = vma
        if charged:
            left = vma.replace(vm_flags=vma.vm_flags & ~VM_ACCOUNT)
            told.append((mm.vmas, vma.start, vma, left))
        span = (("start", vma.start), ("end", vma.end))
        told += [
            Enter("do_mas_align_munmap", span),
            (mm.vmas, vma.start, left, None),
            _added(mm.counters, "map_count", self.before["map_count"] + 1, -1),
            Enter("unmap_region", span),
        ]
        if self.rss > self.before["hiwater_rss"]:
            told.append((mm.counters, "hiwater_rss", self.before["hiwater_rss"], self.rss))
        told += [
            Enter("unmap_page_range", span),
            Leave("unmap_page_range", None),
            *self._freed(),
            Leave("unmap_region", None),
            *self._accounted(pages, -pages),
            Leave("do_mas_align_munmap", 0),
            Leave("move_vma", new.start),
            Leave("mremap", 0),
        ]
        return told

    def _accounted(self, so_far: int, pages: int) -> list[Record]:
        counters, name = self.mm.counters, stat_class(self.vma.vm_flags)
        told: list[Record] = [_added(counters, "total_vm", self.before["total_vm"] + so_far, pages)]
        if name:
            told.append(_added(counters, name, self.before[name] + so_far, pages))
        return told

    def _moved(self) -> list[Record]:
        """Tables made and entries moved, each move with its flush."""
        mm, arena = self.mm, self.mm.sys.arena
        shift = arena.upper[-1][0]
        level = len(arena.upper) - 1
        name = arena.mode.levels[level].name
        told: list[Record] = []
        at, pgtables = self.vma.start, self.before["pgtables"]
        for (slot, to, n, entries), hung in zip(self.pieces, self.made, strict=True):
            if hung is not None:
                above, row, pfn = hung
                told += [
                    Enter(ALLOC_NAMES[name], (("address", at + self.new.start - self.vma.start),)),
                    Event("mm_page_alloc", (("pfn", pfn), ("order", 0))),
                    (mm.sys.frames, pfn, _FREE_PAGE, table_page(row)),
                    (arena.pfn_of, row, 0, pfn),
                    (arena.level_of, row, 0, level),
                    (arena, above, 0, (pfn << 12) | _PAGE_TABLE),
                    _added(mm.counters, "pgtables", pgtables, 4096),
                    Leave(ALLOC_NAMES[name], 0),
                ]
                pgtables += 4096
            flushed = _flushed(
                TlbFlush.of(at, at + (n << shift)), self.gone if slot == self.pieces[0][0] else []
            )
            func = f"move_normal_{name}"
            if n > 1:
                lanes = (
                    SetLane(arena, slice(slot, slot + n), entries, 0),
                    SetLane(arena, slice(to, to + n), 0, entries),
                )
                told += [Bulk(func, n, lanes, address=at, stride=1 << shift), *flushed]
            else:
                told += [
                    Enter(func, (("old_addr", at),)),
                    (arena, slot, entries, 0),
                    (arena, to, 0, entries),
                    *flushed,
                    Leave(func, 1),
                ]
            at += n << shift
        return told

    def _freed(self) -> list[Record]:
        """free_pgtables, and the end of the batch."""
        mm, arena, vma = self.mm, self.mm.sys.arena, self.vma
        level = len(arena.upper) - 1
        span = 1 << arena.upper[-2][0]
        func = f"free_{arena.mode.levels[level].name}_range"
        pgtables = self.before["pgtables"] + ((len(self.made) - self.made.count(None)) << 12)
        told: list[Record] = [Enter("free_pgtables", (("floor", self.floor), ("ceiling", self.ceiling)))]
        gather: list[int] = []
        low = vma.start & -span
        for slot, _row, pfn in self.freed:
            while low < self.floor:
                low += span
            told += [
                Enter(func, (("address", low),)),
                (arena, slot, (pfn << 12) | _PAGE_TABLE, 0),
                _added(mm.counters, "pgtables", pgtables, -4096),
                Leave(func, None),
            ]
            gather.append(max(vma.start, low))
            pgtables -= 4096
            low += span
        told += [Leave("free_pgtables", None), Enter("tlb_finish_mmu", ())]
        if gather:
            told += _flushed(TlbFlush.of(gather[0], gather[-1] + 4096, True), [])
        for _slot, row, pfn in self.freed:
            told += [
                (arena.pfn_of, row, pfn, 0),
                (arena.level_of, row, level, 0),
                Event("mm_page_free", (("pfn", pfn), ("order", 0))),
                (mm.sys.frames, pfn, table_page(row), _FREE_PAGE),
            ]
        told.append(Leave("tlb_finish_mmu", None))
        return told


def _flushed(flush: TlbFlush, gone: list[tuple[Keyed, int, Any]]) -> list[Record]:
    pages = flush.nr_pages
    told: list[Record] = [
        Enter("flush_tlb_mm_range", (("start", flush.start), ("end", flush.end), ("pages", pages))),
        Event("tlb_flush", (("pages", -1 if flush.kind == "full" else pages), ("kind", flush.kind))),
    ]
    told += [(store, key, old, None) for store, key, old in gone]
    told.append(Leave("flush_tlb_mm_range", None))
    return told


def _added(counters: Counters, name: str, old: int, delta: int) -> Write:
    return counters, name, old, old + delta


def table_page(row: int) -> tuple[int, ...]:
    return TABLE, 1, 0, PG_PGTABLE, row + 1, 0, 0


def hang_table(arena: TableArena, slot: int, row: int, pfn: int) -> None:
    """Make ``row`` a table in the frame ``pfn``, which ``slot`` points to."""
    arena.pfn_of.put(row, pfn)
    arena.level_of.flat[row] = len(arena.upper) - 1
    arena.put(slot, (pfn << 12) | _PAGE_TABLE)


def _unhang(arena: TableArena, slot: int, row: int) -> None:
    arena.put(slot, 0)
    arena.level_of.flat[row] = 0
    arena.pfn_of.put(row, 0)


def take_back(mm: Mm, made: list[Hung | None]) -> None:
    for hung in reversed(made):
        if hung is not None:
            slot, row, pfn = hung
            _unhang(mm.sys.arena, slot, row)
            mm.sys.frames.put(pfn, _FREE_PAGE)
