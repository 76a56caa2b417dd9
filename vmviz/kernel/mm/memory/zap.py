"""Removing page-table entries (models the zap side of mm/memory.c): zap_vma_ptes() and what it calls.

`zap_vma_ptes` is the function that vmviz exists for.  It judges its arguments in the kernel's order, refuses
the whole call or does it; the entries go, the VMA, the tables, the frames and the counters of raw PFNs stay.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ...arch.tlb import TlbFlush
from ...arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_SPECIAL,
    PTE_PFN_MASK,
)
from ...errors import CheckResult, Refusal
from ...trace.bulk import AddLane, Bulk, CountLane, Lane, Ramp, SetLane
from ...trace.store import index_of
from ...value import Value
from ..flags import VM_HUGETLB, VM_MIXEDMAP, VM_PAT, VM_PFNMAP, VM_SEQ_READ
from ..huge_memory import split_partial, zap_huge_pmd
from ..hugetlb import unmap_hugepage_range
from ..mlock_pages import locks_pages, munlock_before_zap
from ..mm_types import Mm
from ..mmu_gather import MmuGather
from ..page_flags import PG_DIRTY
from ..pagewalk import in_steps
from ..pgtable import TableArena
from ..swap import accessed
from ..swapfile import slots_dropped, user_lanes
from ..vma import Vma
from .alike import Alike
from .memtype import untrack_pfn
from .normal_page import (
    ANON_PAGE,
    OTHER_ENTRY,
    RAW,
    RSS_OF_KIND,
    device_lanes,
    device_line_lanes,
    kinds_of,
    pfns_of,
)
from .zap_checks import WRAP, find_danger, judge, nearest_legal, passes
from .zap_few import ZapFew, zap_few


@attrs.define(eq=False, repr=False)
class ZapResult(Value):
    """What a zap did.

    ``ret`` is what the caller gets: 0 or -1 under the "int" contract, None under the others (and for a call
    that is the caller's bug).  ``verdict`` is 0 or -1 whatever the contract.  ``tlb`` lists the flushes,
    ``checks`` what was judged (both made when asked for after a zap of a few pages), ``danger`` ("BUG_ON",
    "runaway") how the call would have killed a real kernel.
    """

    ret: int | None
    verdict: int | None
    refusal: Refusal | None = None
    ptes_cleared: int = 0
    ptes_unknown: int = 0
    _tlb: tuple[TlbFlush, ...] = attrs.field(default=(), alias="tlb", eq=False)
    frames_freed: int = 0
    why_nothing: str = ""
    _checks: tuple[CheckResult, ...] = attrs.field(default=(), alias="checks", eq=False)
    danger: str = ""
    _few: ZapFew | None = attrs.field(default=None, eq=False, alias="few")
    _asked: tuple[Vma, int, int, str] | None = attrs.field(default=None, eq=False, alias="asked")

    @property
    def tlb(self) -> tuple[TlbFlush, ...]:
        """The flushes."""
        return self._tlb if self._few is None else (self._few.flush,)

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        """What was judged, in the kernel's order."""
        if self._few is not None:
            return self._few.checks
        return self._checks or (judge(*self._asked) if self._asked is not None else ())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ZapResult):
            return NotImplemented
        return Value.__eq__(self, other) and self.tlb == other.tlb and self.checks == other.checks

    __hash__ = Value.__hash__


def zap_vma_ptes(mm: Mm, vma: Vma, address: int, size: int, func: str = "zap_vma_ptes") -> ZapResult:
    """Remove the PTEs of ``[address, address + size)`` from a VM_PFNMAP VMA, and nothing else (mm/memory.c).

    ``address`` and ``size`` are in bytes.  The whole range must lie within ``vma``, else nothing at all
    happens: no clamping, no partial zap.  Neither alignment nor size 0 is checked, as in the kernel; a call
    that would kill a real kernel is refused as the caller's bug (``ret`` None, ``refusal.check``
    "caller_bug") and harms nothing.
    """
    few = zap_few(mm, vma, address, size, func)
    if few is not None:
        return ZapResult(0 if few.contract == "int" else None, 0, None, few.n, few=few)
    j = mm.sys.journal
    contract = mm.sys.zap_contract
    j.enter(func, ("vma", vma.start), ("address", address), ("size", size))
    checks: tuple[CheckResult, ...] = ()
    if j.enabled or not passes(vma, address, size, contract):  # else they are put into words when asked for
        checks = judge(vma, address, size, contract)
    for c in checks:
        j.check(c.name, c.expression, c.compared, c.passed, c.reached, c.note)
    failed = next((c for c in checks if not c.passed), None)
    if failed is not None:
        ret = -1 if contract == "int" else None
        j.leave(func, ret)
        refusal = _refusal(vma, address, size, failed, checks, contract)
        return ZapResult(ret, -1, refusal, checks=checks)
    rule, message = find_danger(mm, vma, address, size)
    if rule:
        j.check("caller_bug", rule, f"{address:x} + {size:x}", False, True, message)
        j.leave(func, None)
        legal = nearest_legal(vma, address, size, contract)
        refusal = Refusal("caller_bug", message, legal, checks)
        return ZapResult(None, None, refusal, checks=checks, danger=rule)
    gather, cleared, unknown = zap_page_range_single(mm, vma, address, size)
    ret = 0 if contract == "int" else None
    j.leave(func, ret)
    why = "" if cleared or unknown else why_nothing(mm, vma, address, size)
    flushes, asked = tuple(gather.flushes), (vma, address, size, contract)
    return ZapResult(ret, 0, None, cleared, unknown, flushes, gather.freed_pages, why, checks, asked=asked)


def _refusal(
    vma: Vma, address: int, size: int, failed: CheckResult, checks: tuple[CheckResult, ...], contract: str
) -> Refusal:
    end = (address + size) & WRAP
    legal = nearest_legal(vma, address, size, contract)
    if failed.name == "VM_PFNMAP":
        special = contract == "special"
        wrong = "neither VM_PFNMAP nor VM_MIXEDMAP" if special else "not VM_PFNMAP"
        message = (
            f"the VMA {vma.start:#x}-{vma.end:#x} {vma.name or 'anonymous'} is {wrong}: "
            f"only mappings {'that a driver filled' if special else 'of raw frame numbers'} may be zapped by a driver"
        )
    elif failed.expression.startswith("vm_start"):
        message = f"address {address:#x} lies below vm_start {vma.start:#x}, {failed.note}"
    else:
        message = f"the range ends at {end:#x}, past vm_end {vma.end:#x}, {failed.note}"
    return Refusal(failed.name, message, legal, checks)


def why_nothing(mm: Mm, vma: Vma, address: int, size: int) -> str:
    """Why a zap that returned 0 cleared nothing, in one sentence."""
    if size == 0:
        return "size is 0: the range is empty, which the checks allow"
    if address + size > WRAP:
        return "address + size wraps around 2^64, and what is left of the range has no page in the VMA"
    ops = mm.sys.ops_of(vma)
    if ops is not None and ops.imported:
        return "already empty; what its driver would do on a touch is unknown (imported process)"
    if ops is not None and ops.fault is not None:
        return (
            "the entries are empty: this driver fills a page when it is first touched, "
            "and these were never touched or have been zapped before"
        )
    return "the entries were empty already; a driver without a fault handler never fills them again"


def zap_page_range_single(
    mm: Mm, vma: Vma, address: int, size: int, even_cows: bool = True
) -> tuple[MmuGather, int, int]:
    """Clear the entries of a range of one VMA (mm/memory.c); returns the gather and the cleared and unknown
    pages.
    """
    j = mm.sys.journal
    j.enter("zap_page_range_single", ("vma", vma.start), ("address", address), ("size", size))
    gather = MmuGather(mm)
    update_hiwater_rss(mm)
    cleared, unknown = unmap_single_vma(mm, vma, address, (address + size) & WRAP, gather, even_cows)
    gather.finish()
    j.leave("zap_page_range_single")
    return gather, cleared, unknown


def update_hiwater_rss(mm: Mm) -> None:
    """Note the highest rss before it falls (`update_hiwater_rss`): VmHWM."""
    if mm.counters.data["hiwater_rss"] < mm.rss:
        mm.sys.journal.write(mm.counters, "hiwater_rss", mm.rss)


def unmap_single_vma(
    mm: Mm, vma: Vma, start: int, end: int, gather: MmuGather, even_cows: bool = True
) -> tuple[int, int]:
    """Clamp the range to the VMA, drop its PAT reservation, clear the entries (mm/memory.c).

    On x86 up to 6.15 the PAT reservation of a VMA mapped by one remap_pfn_range goes at any zap, even of size
    0 strictly inside it: VM_PAT is cleared before the range is looked at.
    """
    start, end = max(vma.start, start), min(vma.end, end)
    if start >= vma.end or end <= vma.start:
        return 0, 0
    if vma.vm_flags & VM_PFNMAP and vma.vm_flags & VM_PAT:
        untrack_pfn(mm, vma)
    if start == end:
        return 0, 0
    unknown = mm.forget_unknown(start & -4096, end & -4096) if mm.unknown.data else 0
    if vma.vm_flags & VM_HUGETLB:
        cleared = unmap_hugepage_range(mm, vma, start, end, gather)
    else:
        cleared = unmap_page_range(mm, vma, start, end, gather, even_cows)
    gather.cleared += cleared
    gather.unknown += unknown
    return cleared, unknown


def unmap_page_range(
    mm: Mm, vma: Vma, start: int, end: int, gather: MmuGather, even_cows: bool = True
) -> int:
    """Clear every entry of a range; returns how many were cleared (mm/memory.c).

    Tables that lie side by side in the arena are cleared as one record: the calls of zap_pte_range are its
    cuts.
    """
    j = mm.sys.journal
    j.enter("unmap_page_range", ("start", start), ("end", end))
    cleared = 0
    if start & 4095:
        # The loop begins at the entry of the page that holds start and takes one entry for every 4096 bytes:
        # an odd range with equal offsets at both ends leaves its last, partial page alone.
        start, end = start & -4096, end & -4096
    munlock_before_zap(mm, vma, start, end, even_cows)
    gather.seq_read, gather.locked = vma.vm_flags & VM_SEQ_READ != 0, locks_pages(vma)
    for slot, haddr in split_partial(mm, vma, start, end):
        cleared += zap_huge_pmd(mm, vma, slot, haddr, gather)
    for slot, n, address, cuts in mm.sys.arena.runs(mm.pgd, start, end):
        cleared += zap_pte_range(mm, slot, n, address, cuts, gather, even_cows)
    if vma.vm_flags & (VM_PFNMAP | VM_MIXEDMAP):
        gather.flush()  # tlb_end_vma: frames of drivers may go as soon as the entries are gone
    j.leave("unmap_page_range")
    return cleared


_FUNC = "zap_pte_range"


def zap_pte_range(
    mm: Mm,
    slot: int,
    n: int,
    address: int,
    cuts: tuple[int, ...],
    gather: MmuGather,
    even_cows: bool = True,
) -> int:
    """Clear ``n`` entries from ``slot`` on (mm/memory.c), by what is behind them; returns how many were not
    empty.

    A raw PFN or the zero page: the entry goes, nothing else.  A page with a struct page: its mapping, its
    reference and its place in rss go too; a swap entry lets go of its slot.  Equal neighbours are one record.
    Without ``even_cows`` (struct zap_details) private pages and swap entries stay.
    """
    if _zap_raw_line(mm, slot, n, address, cuts, gather):
        return n
    alike = Alike.of(mm.sys.arena, slot, n)
    if alike is not None and _zap_alike(mm, alike, slot, address, cuts, gather, even_cows):
        return n
    entries = mm.sys.arena.entries[slot : slot + n]
    where = np.flatnonzero(entries)
    if not len(where):
        return 0
    values = entries[where]
    kinds = kinds_of(mm, values)
    if not even_cows:
        shared = (kinds != ANON_PAGE) & (kinds != OTHER_ENTRY)
        where, values, kinds = where[shared], values[shared], kinds[shared]
        if not len(where):
            return 0
    first = 0
    borders = [*(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(where)] if len(kinds) > 1 else [len(where)]
    for stop in borders:
        _zap_run(mm, slot, address, where[first:stop], values[first:stop], int(kinds[first]), cuts, gather)
        first = stop
    return len(where)


FEW = 48
"""Below so many entries plain numbers are faster than numpy."""


def _ramp_of(arena: TableArena, slot: int, n: int) -> Ramp | None:
    """The entries as raw frames in line with equal bits; None when they are not."""
    first = arena.flat[slot]
    if first & (_PAGE_PRESENT | _PAGE_SPECIAL) != _PAGE_PRESENT | _PAGE_SPECIAL:
        return None
    if n < FEW:
        line = arena.flat[slot : slot + n].tolist() == list(range(first, first + (n << 12), 4096))
        return Ramp(first, n) if line else None
    entries, low, high = arena.entries, (slot + arena.width - 1) >> arena.bits, (slot + n) >> arena.bits
    if low >= high:
        return Ramp.of(entries[slot : slot + n])
    head, tail = (low << arena.bits) - slot, slot + n - (high << arena.bits)
    firsts = arena.line[low:high]
    if int(firsts[0]) != first + (head << 12) or not in_steps(firsts, arena.width << 12):
        return Ramp.of(entries[slot : slot + n])
    for at, length in ((0, head), (n - tail, tail)):
        if length:
            ramp = Ramp.of(entries[slot + at : slot + at + length])
            if ramp is None or ramp.first != first + (at << 12):
                return None
    return Ramp(first, n)


def _zap_raw_line(mm: Mm, slot: int, n: int, address: int, cuts: tuple[int, ...], gather: MmuGather) -> bool:
    """Clear entries that are raw frames in line with equal bits, as of a whole device; False if they are not."""
    ramp = _ramp_of(mm.sys.arena, slot, n)
    if ramp is None:
        return False
    first = (ramp.first & PTE_PFN_MASK) >> 12
    lanes: list[Lane] = [
        SetLane(mm.sys.arena, slice(slot, slot + n), ramp, 0),
        *device_line_lanes(mm.sys.frames, first, n, -1),
    ]
    gather.note(address & -4096, (address + (n << 12)) & -4096)
    mm.sys.journal.bulk(Bulk(_FUNC, n, tuple(lanes), address=address, cuts=cuts))
    return True


def _zap_alike(
    mm: Mm, alike: Alike, slot: int, address: int, cuts: tuple[int, ...], gather: MmuGather, even_cows: bool
) -> bool:
    """Clear entries that are alike: all of the zero page, or of anonymous pages; False if they are of others."""
    arena, frames, n = mm.sys.arena, mm.sys.frames, alike.n
    lanes: list[Lane] = [SetLane(arena, slice(slot, slot + n), alike.values, 0)]
    if alike.entry & _PAGE_SPECIAL:
        if not isinstance(alike.values, int) or frames.region_of((alike.entry & PTE_PFN_MASK) >> 12):
            return False
    elif even_cows and alike.anonymous(frames):
        lanes += [
            AddLane(frames.mapcount, alike.frames, -1),
            CountLane(mm.counters, RSS_OF_KIND[ANON_PAGE], -1),
        ]
        gather.pages.append(alike.frames)
    else:
        return False
    gather.note(address & -4096, (address + (n << 12)) & -4096)
    mm.sys.journal.bulk(Bulk(_FUNC, n, tuple(lanes), address=address, cuts=cuts))
    return True


def _zap_run(
    mm: Mm,
    slot: int,
    address: int,
    where: NDArray[np.int64],
    values: NDArray[np.uint64],
    kind: int,
    cuts: tuple[int, ...],
    gather: MmuGather,
) -> None:
    arena, frames = mm.sys.arena, mm.sys.frames
    m, lo = len(where), int(where[0])
    dense = int(where[-1]) - lo + 1 == m
    index: Any = slice(slot + lo, slot + lo + m) if dense else where + slot
    lanes: list[Lane] = [SetLane(arena, index, values, 0)]
    pfns = pfns_of(values)
    if kind == RAW:
        lanes += device_lanes(frames, pfns, -1)
    elif kind in RSS_OF_KIND:
        lanes.append(AddLane(frames.mapcount, index_of(pfns), -1))
        lanes.append(CountLane(mm.counters, RSS_OF_KIND[kind], -1))
        gather.pages.append(pfns)
        if kind != ANON_PAGE:  # what the entry knew of the page's use, the page must know now
            flags = frames.flags.array[pfns]
            new = np.where(values & np.uint64(_PAGE_DIRTY) != 0, flags | PG_DIRTY, flags)
            if not gather.seq_read:
                used = accessed(new, unevictable=gather.locked)
                new = np.where(values & np.uint64(_PAGE_ACCESSED) != 0, used, new)
            if (new != flags).any():
                lanes.append(SetLane(frames.flags, pfns, flags, new))
    start = address + (lo << 12)
    if kind == OTHER_ENTRY:
        _zap_swap(mm, values, lanes, start, where * 4096 + address)
        return
    gather.note(start & -4096, (address + ((int(where[-1]) + 1) << 12)) & -4096)
    here = sorted({c for c in np.searchsorted(where, cuts).tolist() if 0 < c < m})
    addresses = None if dense else (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
    mm.sys.journal.bulk(Bulk(_FUNC, m, tuple(lanes), address=start, addresses=addresses, cuts=(0, *here)))


def _zap_swap(
    mm: Mm, values: NDArray[np.uint64], lanes: list[Lane], start: int, at: NDArray[np.int64]
) -> None:
    """Clear swap entries: each lets go of its slot (`free_swap_and_cache`); no TLB knows them."""
    lanes += user_lanes(mm.sys, mm.counters, values, -1)
    mm.sys.journal.bulk(Bulk(_FUNC, len(at), tuple(lanes), address=start, addresses=at.astype(np.uint64)))
    slots_dropped(mm.sys, mm.sys.swap.offsets_of(values))
