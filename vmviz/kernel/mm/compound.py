"""Compound pages: 512 frames that are one page (models prep_compound_page and its like of mm/page_alloc.c).

References and most flags are the head's alone; mappings of the whole are counted apart from those of its parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..trace.bulk import Bulk, Lane, SetLane
from .page_alloc import FREE, OTHER
from .page_flags import HPAGE_PMD_NR, HPAGE_PMD_ORDER, PG_COMPOUND, PG_HEAD, PG_HUGETLB, PG_TAIL

if TYPE_CHECKING:
    from ..trace.journal import Journal
    from ..trace.store import Column, Keyed
    from .frame_states import FrameStates


class CompoundPages:
    """What `vmviz.kernel.mm.frames.Frames` does with compound pages."""

    journal: Journal
    states: FrameStates
    refcount: Column
    mapcount: Column
    flags: Column
    mapping: Column
    index: Column
    content: Column
    mlock_count: Column
    compound_mapcount: Keyed
    hugetlb_free: Keyed

    def alloc_compound(
        self, state: int, flags: int, tail_flags: int, mapping: int = 0, index: int = 0
    ) -> int:
        """Allocate 2 MiB as one compound page with one reference (`prep_compound_page`); returns the head's pfn.

        References, and of the flags all but ``tail_flags``, are the head's alone.  Raises `OutOfMemory` when
        no block of order 9 is free.
        """
        head = self.states.buddy.take(HPAGE_PMD_ORDER)
        j, n = self.journal, HPAGE_PMD_NR
        j.event("mm_page_alloc", ("pfn", head), ("order", HPAGE_PMD_ORDER))
        where = slice(head, head + n)
        marks = np.full(n, tail_flags | PG_TAIL, np.uint32)
        marks[0] = flags | PG_HEAD
        lanes: list[Lane] = [
            SetLane(self.flags, where, 0, marks),
            SetLane(self.index, where, 0, np.arange(index, index + n, dtype=np.uint64)),
            SetLane(self.states, where, FREE, state),
        ]
        if mapping:
            lanes.append(SetLane(self.mapping, where, 0, mapping))
        j.bulk(Bulk("prep_compound_page", n, tuple(lanes), address=head << 12))
        j.write(self.refcount, head, 1)
        j.write(self.compound_mapcount, head, 0)
        return head

    def put_compound(self, head: int, n: int) -> bool:
        """Drop ``n`` references of a compound page; returns whether that freed it (`free_compound_page`)."""
        count, j = self.refcount.flat[head], self.journal
        if count > n:
            j.write(self.refcount, head, count - n)
            return False
        j.write(self.refcount, head, 0)
        if self.flags.flat[head] & PG_HUGETLB:
            self._free_huge_page(head)
            return True
        j.event("mm_page_free", ("pfn", head), ("order", HPAGE_PMD_ORDER))
        j.write(self.compound_mapcount, head, None)
        if self.mlock_count.flat[head]:
            j.write(self.mlock_count, head, 0)
        where = slice(head, head + HPAGE_PMD_NR)
        columns = (self.flags, self.index, self.mapping, self.content)
        lanes: list[Lane] = [
            SetLane(c, where, c.array[where].copy(), 0) for c in columns if c.array[where].any()
        ]
        lanes.append(SetLane(self.states, where, self.states.array[where].copy(), FREE))
        j.bulk(Bulk("free_compound_page", HPAGE_PMD_NR, tuple(lanes), address=head << 12))
        return True

    def _free_huge_page(self, head: int) -> None:
        """A page of the hugetlb pool goes back there (`free_huge_page`); what it holds stays until it is used
        again.
        """
        j, where = self.journal, slice(head, head + HPAGE_PMD_NR)
        j.write(self.flags, head, PG_HEAD | PG_HUGETLB)
        j.write(self.mapping, head, 0)
        j.write(self.index, head, 0)
        lane = SetLane(self.states, where, self.states.array[where].copy(), OTHER)
        j.bulk(Bulk("free_huge_page", HPAGE_PMD_NR, (lane,), address=head << 12))
        j.write(self.hugetlb_free, head, 1)

    def heads(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The frames that keep references and flags for each of ``pfns`` (`compound_head`), itself mostly."""
        if not self.compound_mapcount.data:
            return pfns
        compound = self.flags.array[pfns] & np.uint32(PG_COMPOUND) != 0
        return np.where(compound, pfns & -HPAGE_PMD_NR, pfns)

    def head_of(self, pfn: int) -> int:
        """`heads` for one frame."""
        return pfn & -HPAGE_PMD_NR if self.flags.flat[pfn] & PG_COMPOUND else pfn

    def page_mapcounts(self, pfns: NDArray[np.int64]) -> NDArray[np.int32]:
        """How often each page is mapped, as part of a huge leaf too (`page_mapcount`)."""
        counts = self.mapcount.array[pfns]
        whole = self.compound_mapcount.data
        if whole:
            compound = np.flatnonzero(self.flags.array[pfns] & np.uint32(PG_COMPOUND))
            counts = counts.copy()
            heads, which = np.unique(pfns[compound] & -HPAGE_PMD_NR, return_inverse=True)
            counts[compound] += np.array([whole[head] for head in heads.tolist()], np.int32)[which]
        return counts

    def page_mapcount(self, pfn: int) -> int:
        """`page_mapcounts` for one frame."""
        count = int(self.mapcount.flat[pfn])
        if self.flags.flat[pfn] & PG_COMPOUND:
            count += self.compound_mapcount.data[pfn & -HPAGE_PMD_NR]
        return count

    def total_mapcount(self, head: int) -> int:
        """Mappings of a compound page and of all its parts (`total_mapcount`)."""
        return int(self.compound_mapcount.data[head]) + int(
            self.mapcount.array[head : head + HPAGE_PMD_NR].sum()
        )
