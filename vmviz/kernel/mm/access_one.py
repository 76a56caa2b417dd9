"""An access to one page at the cost of one (models the MMU, do_user_addr_fault and do_anonymous_page).

Most accesses touch a page that is there, or one of anonymous memory that is missing in a page table that exists.
These are served here by plain numbers; everything else is left to `access.access`, and both leave the same state.
What a fault did is one `FaultOne`, which tells the calls and writes one by one when somebody looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..arch.tlb import TLB_ENTRIES
from ..arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_RW,
    _PAGE_SPECIAL,
    PTE_PFN_MASK,
)
from ..errors import UnsupportedError
from ..trace.journal import Enter, Event, Leave
from ..trace.packed import Packed
from .flags import VM_EXEC, VM_HUGETLB, VM_LOCKED, VM_READ, VM_WRITE
from .frames import ZERO_PFN
from .memory.fault import ANON_FLAGS, MKDIRTY
from .page_alloc import ANON, FREE, OutOfMemory

if TYPE_CHECKING:
    from ..trace.journal import Record
    from ..trace.store import Keyed
    from .mm_types import Mm
    from .vma import Vma

_ANY = VM_READ | VM_WRITE | VM_EXEC
_WRITTEN = MKDIRTY | _PAGE_RW
_FREE_PAGE = (FREE, 0, 0, 0, 0, 0, 0)

Touch = tuple[int, int]
"""What a page's access came to: its entry, and the minor faults taken (0 or 1)."""


class FaultOne(Packed):
    """A fault on one missing anonymous page: the entry ``entry`` in ``slot``, and for a write the frame ``pfn``
    allocated for it, with the content number that the write left (a read maps the zero page: ``pfn`` 0).

    ``anon`` and ``min_flt`` are the counters before, ``known`` what the TLB's slot held.
    """

    __slots__ = (
        "addr",
        "anon",
        "content",
        "entry",
        "known",
        "min_flt",
        "mm",
        "pfn",
        "slot",
        "tlb",
        "vma",
    )

    def __init__(
        self,
        mm: Mm,
        vma: Vma,
        addr: int,
        slot: int,
        entry: int,
        pfn: int,
        content: int,
        anon: int,
        min_flt: int,
        tlb: Keyed,
        known: Any,
    ) -> None:
        self.mm = mm
        self.vma = vma
        self.addr = addr
        self.slot = slot
        self.entry = entry
        self.pfn = pfn
        self.content = content
        self.anon = anon
        self.min_flt = min_flt
        self.tlb = tlb
        self.known = known
        self.nr_records = 10 + (3 if pfn else 0) + (content != 0)

    def _page(self, content: int) -> tuple[int, ...]:
        vma = self.vma
        index = vma.pgoff + ((self.addr >> 12) - (vma.start >> 12))
        return ANON, 1, 1, ANON_FLAGS, vma.anon_vma, index, content

    def redo(self) -> None:
        """Serve the fault."""
        mm, vpn = self.mm, self.addr >> 12
        counters = mm.counters.data
        if self.pfn:
            mm.sys.frames.put(self.pfn, self._page(self.content))
            counters["anon"] = self.anon + 1
        mm.sys.arena.put(self.slot, self.entry)
        counters["min_flt"] = self.min_flt + 1
        self.tlb.data[vpn & (TLB_ENTRIES - 1)] = (mm.id, vpn, self.entry)

    def undo(self) -> None:
        """Take the page away again."""
        mm = self.mm
        self.tlb.put((self.addr >> 12) & (TLB_ENTRIES - 1), self.known)
        counters = mm.counters.data
        counters["min_flt"] = self.min_flt
        mm.sys.arena.put(self.slot, 0)
        if self.pfn:
            counters["anon"] = self.anon
            mm.sys.frames.put(self.pfn, _FREE_PAGE)

    def unpack(self) -> list[Record]:
        """The exception, the calls in it, the page, and what the processor did then."""
        mm, addr, pfn = self.mm, self.addr, self.pfn
        s, vpn, va = mm.sys, addr >> 12, addr & -4096
        code = 0x6 if pfn else 0x4
        of = (("address", va), ("nr_pages", 1), ("write", bool(pfn)))
        return [
            Enter("exc_page_fault", (("address", addr), ("error_code", code), ("times", 1))),
            Event("page_fault_user", (("address", addr), ("error_code", code))),
            Enter("handle_mm_fault", (("address", addr), ("vma", self.vma.start))),
            Enter("do_anonymous_page", of),
            *([Event("mm_page_alloc", (("pfn", pfn), ("order", 0)))] if pfn else []),
            *([(s.frames, pfn, _FREE_PAGE, self._page(0))] if pfn else []),
            *([(mm.counters, "anon", self.anon, self.anon + 1)] if pfn else []),
            (s.arena, self.slot, 0, self.entry),
            Leave("do_anonymous_page", 0),
            Leave("handle_mm_fault", 0),
            (mm.counters, "min_flt", self.min_flt, self.min_flt + 1),
            Leave("exc_page_fault", None),
            *([(s.frames.content, pfn, 0, self.content)] if self.content else []),
            (self.tlb, vpn & (TLB_ENTRIES - 1), self.known, (mm.id, vpn, self.entry)),
        ]


def touch_one(mm: Mm, addr: int, write: bool, data: bytes | int) -> Touch | None:
    """Read one page at ``addr``, or write ``data`` into it; None where there is more to it, and nothing is done.

    ``data`` is one byte's value, or bytes that end in the page.
    """
    vma = mm.vmas.find_exact(addr)
    if vma is None or mm.unknown.data:
        return None
    s, vm_flags = mm.sys, vma.vm_flags
    if not vm_flags & (VM_WRITE if write else _ANY) or s.journal.at is not None:
        return None
    arena = s.arena
    if arena.near == addr >> 21 and arena.near_pgd == mm.pgd:  # near_slot, without a call
        slot = arena.near_base | addr >> 12 & 511
    else:
        slot = arena.near_slot(mm.pgd, addr)
        if slot < 0:
            return None
    entry = arena.flat[slot]
    if entry:
        return _touch_present(mm, addr, slot, entry, write, data)
    if vma.ops or vm_flags & (VM_LOCKED | VM_HUGETLB):
        return None
    vpn = addr >> 12
    pfn = content = 0
    prot = vma.page_prot
    frames, counters = s.frames, mm.counters.data
    if write:
        if not vma.anon_vma or prot & _PAGE_ACCESSED == 0:
            return None
        try:
            if type(data) is int:
                content = frames.contents.with_byte(0, addr & 4095, data)
            else:
                content = frames.contents.written(0, addr & 4095, data)  # type: ignore[arg-type]
            index = vma.pgoff + vpn - (vma.start >> 12)
            pfn = frames.take((ANON, 1, 1, ANON_FLAGS, vma.anon_vma, index, content))
        except (UnsupportedError, OutOfMemory):
            return None
        entry = pfn << 12 | (prot | _WRITTEN)
        anon = counters["anon"]
        counters["anon"] = anon + 1
    else:
        entry = (ZERO_PFN << 12) | prot | _PAGE_SPECIAL
        if entry & (_PAGE_PRESENT | _PAGE_ACCESSED) != _PAGE_PRESENT | _PAGE_ACCESSED:
            return None
        anon = 0
    arena.flat[slot] = entry  # nothing is known of a table with an empty entry that this might change
    min_flt = counters["min_flt"]
    counters["min_flt"] = min_flt + 1
    tlb = s.tlbs[0].entries
    place = vpn & (TLB_ENTRIES - 1)
    known = tlb.data.get(place)
    tlb.data[place] = (mm.id, vpn, entry)
    if s.journal.enabled:
        s.journal.pack(FaultOne(mm, vma, addr, slot, entry, pfn, content, anon, min_flt, tlb, known))
    return entry, 1


def _touch_present(mm: Mm, addr: int, slot: int, entry: int, write: bool, data: bytes | int) -> Touch | None:
    """A page that is there: the processor marks the entry and remembers the translation."""
    if not entry & _PAGE_PRESENT or (write and not entry & _PAGE_RW):
        return None
    s = mm.sys
    j, new = s.journal, entry | (_PAGE_ACCESSED | _PAGE_DIRTY if write else _PAGE_ACCESSED)
    column, i = s.frames.content_cell((entry & PTE_PFN_MASK) >> 12) if write else (None, 0)
    old = content = 0
    if column is not None:
        old = column.flat[i]
        try:
            if isinstance(data, int):
                content = s.frames.contents.with_byte(old, addr & 4095, data)
            else:
                content = s.frames.contents.written(old, addr & 4095, data)
        except UnsupportedError:
            return None
    if new != entry:
        j.write(s.arena, slot, new)
    if column is not None and content != old:
        j.write(column, i, content)
    s.tlbs[0].fill(mm.id, addr >> 12, new)
    return new, 0
