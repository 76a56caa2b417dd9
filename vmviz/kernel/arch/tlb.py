"""A CPU's TLB, as far as a course needs it (models arch/x86/mm/tlb.c): what may still be cached, and how it
goes away.

Simplified: 64 entries, direct mapped by the low bits of the page number, one level, 4 KiB entries only.  The
simulated MMU always consults the page tables; the TLB remembers the translations it has handed out, so that
the moment between clearing an entry and flushing can be seen.  Flushing follows x86: page by page up to
`TLB_SINGLE_PAGE_FLUSH_CEILING` pages, the whole address space above.
"""

from __future__ import annotations

import attrs

from ..trace.journal import Journal
from ..trace.store import Keyed
from ..value import Value

TLB_SINGLE_PAGE_FLUSH_CEILING = 33
TLB_ENTRIES = 64


@attrs.frozen(eq=False, repr=False)
class TlbFlush(Value):
    """One flush: ``kind`` is "pages" (INVLPG each) or "full"; the range is the hull of the cleared pages, in
    bytes.

    >>> TlbFlush.of(0x1000, 0x1000 + 33 * 4096).kind, TlbFlush.of(0x1000, 0x1000 + 34 * 4096).kind
    ('pages', 'full')
    """

    kind: str
    start: int
    end: int
    nr_pages: int
    freed_tables: bool = False

    @classmethod
    def of(cls, start: int, end: int, freed_tables: bool = False) -> TlbFlush:
        """How x86 flushes the hull ``[start, end)`` (`flush_tlb_mm_range`)."""
        pages = (end - start) >> 12
        kind = "pages" if pages <= TLB_SINGLE_PAGE_FLUSH_CEILING else "full"
        return cls(kind, start, end, pages, freed_tables)


class Tlb:
    """The TLB of one CPU; ``entries`` is a store of ``(mm id, page number, entry)`` by slot."""

    def __init__(self, cpu: int, journal: Journal) -> None:
        self.cpu = cpu
        self.journal = journal
        self.entries = Keyed(f"tlb.cpu{cpu}")
        journal.register(self.entries)

    def fill(self, mm: int, vpn: int, entry: int) -> None:
        """Remember a translation, in place of the one that had its slot."""
        slot = vpn & (TLB_ENTRIES - 1)
        new = (mm, vpn, entry)
        if self.entries.data.get(slot) != new:
            self.journal.write(self.entries, slot, new)

    def flush(self, mm: int, flush: TlbFlush) -> int:
        """Forget the translations that a flush is about; returns how many were there."""
        gone = self.doomed(mm, flush.start >> 12, (flush.end - 1) >> 12, flush.kind == "full")
        for slot in gone:
            self.journal.write(self.entries, slot, None)
        return len(gone)

    def doomed(self, mm: int, first: int, last: int, whole: bool = False) -> list[int]:
        """The slots with translations of the pages ``first`` to ``last``, or of all pages of ``mm``, ascending."""
        data = self.entries.data
        if not whole and last - first < len(data):  # direct mapped: each page has one slot that it can be in
            slots = [vpn & (TLB_ENTRIES - 1) for vpn in range(first, last + 1)]
            return sorted(s for vpn, s in enumerate(slots, first) if s in data and data[s][:2] == (mm, vpn))
        return sorted(
            slot for slot, (owner, vpn, _) in data.items() if owner == mm and (whole or first <= vpn <= last)
        )

    def stale(self, mm: int, start: int, end: int) -> int:
        """How many translations of ``[start, end)`` are cached now."""
        return sum(
            1 for owner, vpn, _ in self.entries.data.values() if owner == mm and start <= vpn << 12 < end
        )
