"""A zap of a few raw frames at the cost of a few (models zap_vma_ptes and what it calls in mm/memory.c).

What a driver does most is to zap a page or two.  Where nothing out of the way can happen (one page table, raw
frames of one device in line, nothing to unlock or to split), the entries are cleared by plain numbers, and what
`zap.zap_vma_ptes` would have told step by step is told by `ZapFew` when somebody looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...arch.tlb import TLB_SINGLE_PAGE_FLUSH_CEILING, TlbFlush
from ...arch.x86 import _PAGE_PRESENT, _PAGE_SPECIAL, PTE_PFN_MASK
from ...trace.bulk import AddLane, Bulk, Ramp, SetLane
from ...trace.journal import Check, Enter, Event, Leave
from ...trace.packed import Packed
from ..flags import VM_HUGETLB, VM_PAT, VM_PFNMAP
from .zap_checks import judge

if TYPE_CHECKING:
    from ...errors import CheckResult
    from ...trace.journal import Record, Write
    from ...trace.store import Keyed, RangeColumn
    from ..mm_types import Mm
    from ..pgtable import TableArena
    from ..vma import Vma

_RAW = _PAGE_PRESENT | _PAGE_SPECIAL
_KIND = VM_PFNMAP | VM_PAT | VM_HUGETLB
_MOST = TLB_SINGLE_PAGE_FLUSH_CEILING << 12


class ZapFew(Packed):
    """A zap of ``n`` raw frames in line: entries from ``first`` on, in ``slot`` and its neighbours.

    ``gone`` lists the translations that the flush took out of the TLBs: ``(store, key, old)``; ``peak`` is the write
    that notes the highest rss, where there is one.
    """

    __slots__ = (
        "address",
        "arena",
        "at_map",
        "contract",
        "first",
        "func",
        "gone",
        "maps",
        "n",
        "peak",
        "slot",
        "vma",
    )

    def __init__(
        self,
        func: str,
        contract: str,
        vma: Vma,
        address: int,
        n: int,
        arena: TableArena,
        slot: int,
        first: int,
        maps: RangeColumn,
        at_map: int,
        gone: tuple[tuple[Keyed, int, Any], ...],
        peak: Write | None,
    ) -> None:
        self.func = func
        self.contract = contract
        self.vma = vma
        self.address = address
        self.n = n
        self.arena = arena
        self.slot = slot
        self.first = first
        self.maps = maps
        self.at_map = at_map
        self.gone = gone
        self.peak = peak
        self.nr_records = 15 + len(gone) + (peak is not None)

    def redo(self) -> None:
        """Clear the entries."""
        n, slot, peak = self.n, self.slot, self.peak
        if peak is not None:
            peak[0].put(peak[1], peak[3])
        self.arena.clear_few(slot, n)
        self.maps.add_few(self.at_map, n, -1)
        for store, key, _ in self.gone:
            store.put(key, None)

    def undo(self) -> None:
        """Put the entries back."""
        n = self.n
        for store, key, old in self.gone:
            store.put(key, old)
        self.maps.add_few(self.at_map, n, 1)
        self.arena.fill_few(self.slot, n, self.first)
        if self.peak is not None:
            self.peak[0].put(self.peak[1], self.peak[2])

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        """What was judged."""
        return judge(self.vma, self.address, self.n << 12, self.contract)

    @property
    def flush(self) -> TlbFlush:
        """The flush of the cleared pages."""
        return TlbFlush.of(self.address, self.address + (self.n << 12))

    def unpack(self) -> list[Record]:
        """The calls, checks, the bulk record and the flush."""
        address, n, flush = self.address, self.n, self.flush
        end, vma = address + (n << 12), self.vma
        lanes = (
            SetLane(self.arena, slice(self.slot, self.slot + n), Ramp(self.first, n), 0),
            AddLane(self.maps, slice(self.at_map, self.at_map + n), -1),
        )
        of = (("vma", vma.start), ("address", address), ("size", n << 12))
        return [
            Enter(self.func, of),
            *(Check(c.name, c.expression, c.compared, c.passed, c.reached, c.note) for c in self.checks),
            Enter("zap_page_range_single", of),
            *(() if self.peak is None else (self.peak,)),
            Enter("unmap_page_range", (("start", address), ("end", end))),
            Bulk("zap_pte_range", n, lanes, address=address),
            Enter("flush_tlb_mm_range", (("start", address), ("end", end), ("pages", n))),
            Event("tlb_flush", (("pages", n), ("kind", flush.kind))),
            *((store, key, old, None) for store, key, old in self.gone),
            Leave("flush_tlb_mm_range", None),
            Leave("unmap_page_range", None),
            Enter("tlb_finish_mmu", ()),
            Leave("tlb_finish_mmu", None),
            Leave("zap_page_range_single", None),
            Leave(self.func, 0 if self.contract == "int" else None),
        ]


def zap_few(mm: Mm, vma: Vma, address: int, size: int, func: str) -> ZapFew | None:
    """Clear a few entries, if that is all there is to do, and keep it in the journal; None where it is not.

    ``address`` and ``size`` are in bytes.  Nothing is refused here: what might be is left to the whole function.
    """
    if (
        not 0 < size <= _MOST
        or (address | size) & 4095
        or address < vma.start
        or address + size > vma.end
        or vma.vm_flags & _KIND != VM_PFNMAP
        or mm.unknown.data
        or mm.sys.journal.at is not None
    ):
        return None
    s, c = mm.sys, mm.counters.data
    j, arena = s.journal, s.arena
    slot, n = arena.near_slot(mm.pgd, address), size >> 12
    if slot < 0 or (slot & arena.leaf_mask) + n > arena.width:
        return None
    first = arena.flat[slot]
    if first & _RAW != _RAW or (
        n > 1 and arena.flat[slot : slot + n].tolist() != list(range(first, first + size, 4096))
    ):
        return None
    pfn = (first & PTE_PFN_MASK) >> 12
    for region in s.frames.regions:
        if region.start_pfn <= pfn and pfn + n <= region.end_pfn:
            break
    else:
        return None
    at_map = pfn - region.start_pfn
    peak, rss, highest = None, c["file"] + c["anon"] + c["shmem"], c["hiwater_rss"]
    if highest < rss:
        peak = (mm.counters, "hiwater_rss", highest, rss)
        c["hiwater_rss"] = rss
    arena.clear_few(slot, n)
    region.maps.add_few(at_map, n, -1)
    gone: tuple[tuple[Keyed, int, Any], ...] = ()
    for tlb in s.tlbs:
        data = tlb.entries.data
        if data:
            for key in tlb.doomed(mm.id, address >> 12, (address + size - 1) >> 12):
                gone += ((tlb.entries, key, data.pop(key)),)
    zapped = ZapFew(
        func, s.zap_contract, vma, address, n, arena, slot, first, region.maps, at_map, gone, peak
    )
    if j.enabled:
        j.pack(zapped)
    return zapped
