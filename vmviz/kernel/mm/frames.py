"""Physical frames as columns: what struct page keeps (models include/linux/mm_types.h), and what is in the
pages.

RAM is frames 0 to ``nr_frames``.  Device memory lies elsewhere and has no struct page: a `DeviceRegion` keeps
for each of its frames how many entries point to it.  The kernel has no such number for raw PFNs; it is kept
here for the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ..trace.journal import Journal
from ..trace.store import Column, Keyed, RangeColumn
from ..value import Value
from .compound import CompoundPages
from .contents import ContentColumn, Contents
from .frame_states import FrameStates
from .page_alloc import FREE, RESERVED, STATE_NAMES, TABLE, ZERO, OutOfMemory, Zone
from .page_flags import HPAGE_PMD_NR, PG_COMPOUND, PG_HIDDEN, PG_NAMES, PG_RESERVED, PG_ZERO

ZERO_PFN = 1
"""The shared zero page: here the second frame of RAM; a real kernel keeps it in its image."""


@attrs.frozen(eq=False, repr=False)
class Page(Value):
    """One frame as struct page tells it: a value at the edge of the API."""

    pfn: int
    state: str
    refcount: int
    mapcount: int
    flags: tuple[str, ...]
    mapping: int
    index: int


_NONE = np.zeros(0, np.int64)


class DeviceRegion:
    """Physical memory of a device, frames ``start_pfn`` to ``end_pfn``, outside RAM and without struct
    pages.
    """

    def __init__(
        self, name: str, start_pfn: int, nr_pages: int, contents: Contents, pattern: bool = False
    ) -> None:
        self.name = name
        self.start_pfn = start_pfn
        self.end_pfn = start_pfn + nr_pages
        self.nr_pages = nr_pages
        self.maps = RangeColumn(f"device.{name}.maps", nr_pages, np.int32)
        self.content = ContentColumn(f"device.{name}.content", nr_pages, contents)
        if pattern:
            pages = [contents.number(bytes([i & 0xFF]) * 16) for i in range(min(256, nr_pages))]
            self.content.array[:] = np.resize(np.array(pages, np.int32), nr_pages)

    def __contains__(self, pfn: int) -> bool:
        return self.start_pfn <= pfn < self.end_pfn


class Frames(CompoundPages):
    """The frames of RAM in columns, the device regions beside them, and the allocator over them.

    ``own_pfns`` are numbers that stand for frames of a real machine whose own numbers are hidden, and
    ``hidden_why`` says in a few words why they are; ``others_unknown``: what frames outside RAM and of no
    region hold is not known.

    A whole struct page is one write: ``frames.put(pfn, (state, refcount, mapcount, flags, mapping, index,
    content))``.
    """

    name = "frames"

    def __init__(
        self, nr_frames: int, journal: Journal, *, zones: Sequence[Zone] | None = None, initial: int = FREE
    ) -> None:
        self.nr_frames = nr_frames
        self.journal = journal
        self.contents = Contents()
        self.states = FrameStates(nr_frames, zones, initial)
        self.refcount = Column("frame.refcount", nr_frames, np.int32)
        self.mapcount = Column("frame.mapcount", nr_frames, np.int32)
        self.flags = Column("frame.flags", nr_frames, np.uint32)
        self.mapping = Column("frame.mapping", nr_frames, np.uint32)
        self.index = Column("frame.index", nr_frames, np.uint64)
        self.content = ContentColumn("frame.content", nr_frames, self.contents)
        self.mlock_count = Column("frame.mlock_count", nr_frames, np.int32)
        self.compound_mapcount = Keyed("frame.compound_mapcount")
        self.hugetlb_free = Keyed("frame.hugetlb_free")
        columns = self.refcount, self.mapcount, self.flags, self.mapping, self.index, self.content
        self._flats = tuple(column.flat for column in columns)
        self.regions: list[DeviceRegion] = []
        self.own_pfns, self.hidden_why = range(0), ""
        self.others_unknown = False
        for store in (
            self.states,
            self.refcount,
            self.mapcount,
            self.flags,
            self.mapping,
            self.index,
            self.content,
            self.mlock_count,
            self.compound_mapcount,
            self.hugetlb_free,
        ):
            journal.register(store)
        self._set_reserved()

    def _set_reserved(self) -> None:
        if self.states.flat[0] == FREE:
            self.put(0, (RESERVED, 1, 0, PG_RESERVED, 0, 0, 0))
            self.put(ZERO_PFN, (ZERO, 1, 0, PG_ZERO | PG_RESERVED, 0, 0, 0))

    @property
    def zones(self) -> tuple[Zone, ...]:
        """The zones of RAM, lowest first."""
        return self.states.buddy.zones

    def get(self, pfn: int, /) -> tuple[int, ...]:
        """All columns of one frame, in the order of `put`."""
        return (
            self.states.flat[pfn],
            self.refcount.flat[pfn],
            self.mapcount.flat[pfn],
            self.flags.flat[pfn],
            self.mapping.flat[pfn],
            self.index.flat[pfn],
            self.content.flat[pfn],
        )

    def put(self, pfn: int, page: tuple[int, ...], /) -> None:
        """Set all columns of one frame; only the journal and packed records call this."""
        refcount, mapcount, flags, mapping, index, content = self._flats
        (
            state,
            refcount[pfn],
            mapcount[pfn],
            flags[pfn],
            mapping[pfn],
            index[pfn],
            content[pfn],
        ) = page
        self.states.put(pfn, state)

    def take(self, page: tuple[int, ...]) -> int:
        """Fill the columns of the frame that an allocation is handed, and return it; only packed records call this.

        Raises `OutOfMemory` when there is none.
        """
        # As `put` does it, but without asking for the state before: this is most of what a fault costs.
        refcount, mapcount, flags, mapping, index, content = self._flats
        pfn = self.states.take(page[0])
        (
            _,
            refcount[pfn],
            mapcount[pfn],
            flags[pfn],
            mapping[pfn],
            index[pfn],
            content[pfn],
        ) = page
        return pfn

    def serial(self) -> bytes:
        """Empty: each column is a store of its own."""
        return b""

    def alloc_page(
        self,
        state: int,
        flags: int = 0,
        mapping: int = 0,
        index: int = 0,
        content: int = 0,
        mapcount: int = 0,
    ) -> int:
        """Allocate one frame (`__alloc_pages`, order 0) with a reference count of 1; returns its pfn.

        Raises `OutOfMemory` when there is no free frame.
        """
        pfn = self.states.buddy.take(0)
        j = self.journal
        j.event("mm_page_alloc", ("pfn", pfn), ("order", 0))
        j.write(self, pfn, (state, 1, mapcount, flags, mapping, index, content))
        return pfn

    def alloc_range(self, n: int) -> NDArray[np.int64]:
        """The ``n`` frames that ``n`` single allocations would hand out, in that order; their states do not
        change.

        Raises `OutOfMemory` when fewer are free.
        """
        return np.concatenate([np.arange(a, a + size) for a, size in self.alloc_runs(n)]) if n else _NONE

    def alloc_runs(self, n: int) -> list[tuple[int, int]]:
        """`alloc_range` as runs of neighbours: (first, how many)."""
        buddy = self.states.buddy
        if n > buddy.nr_free():
            raise OutOfMemory(f"{n} frames are wanted, {buddy.nr_free()} are free")
        return list(buddy.hand_out(n))

    def free_page(self, pfn: int) -> None:
        """Give a frame back to the buddy allocator (`free_unref_page`)."""
        j = self.journal
        j.event("mm_page_free", ("pfn", pfn), ("order", 0))
        if self.mlock_count.flat[pfn]:
            j.write(self.mlock_count, pfn, 0)
        j.write(self, pfn, (FREE, 0, 0, 0, 0, 0, 0))

    def put_page(self, pfn: int) -> bool:
        """Drop one reference (`put_page`); returns whether that freed the frame."""
        if self.flags.flat[pfn] & PG_COMPOUND:
            return self.put_compound(pfn & -HPAGE_PMD_NR, 1)
        count = self.refcount.flat[pfn]
        if count > 1:
            self.journal.write(self.refcount, pfn, count - 1)
            return False
        self.free_page(pfn)
        return True

    def pfn_valid(self, pfn: int) -> bool:
        """Whether a struct page stands behind the frame (`pfn_valid`)."""
        return 0 <= pfn < self.nr_frames

    def add_region(self, region: DeviceRegion) -> DeviceRegion:
        """Make the memory of a device known."""
        self.regions.append(region)
        self.journal.register(region.maps)
        self.journal.register(region.content)
        return region

    def region_of(self, pfn: int) -> DeviceRegion | None:
        """The device that owns a frame, or None."""
        for region in self.regions:
            if region.start_pfn <= pfn < region.end_pfn:
                return region
        return None

    def page(self, pfn: int) -> Page | None:
        """One frame as a value; None when it has no struct page."""
        if not self.pfn_valid(pfn):
            return None
        state, _, _, flags, mapping, index, _ = self.get(pfn)
        names = tuple(name for bit, name in PG_NAMES.items() if flags & bit)
        ref = self.refcount.flat[self.head_of(pfn)]
        mapping = 0 if state == TABLE else mapping
        return Page(pfn, STATE_NAMES[state], ref, self.page_mapcount(pfn), names, mapping, index)

    def read(self, pfn: int, offset: int, length: int) -> bytes:
        """Bytes of one page, of RAM or of a device."""
        column, i = self.content_cell(pfn)
        return self.contents.read(column.flat[i], offset, length) if column is not None else bytes(length)

    def is_hidden(self, pfn: int) -> bool:
        """Whether ``pfn`` stands for a frame whose real number nobody may see (PG_HIDDEN)."""
        return 0 <= pfn < self.nr_frames and bool(self.flags.flat[pfn] & PG_HIDDEN)

    def hidden_of(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`is_hidden` for many frames."""
        hidden = np.zeros(len(pfns), np.bool_)
        if self.own_pfns:
            inside = (pfns >= 0) & (pfns < self.nr_frames)
            hidden[inside] = (self.flags.array[pfns[inside]] & np.uint32(PG_HIDDEN)) != 0
        return hidden

    def known(self, pfn: int, offset: int, length: int) -> bool:
        """Whether all of ``length`` bytes at ``offset`` of a page are known."""
        column, i = self.content_cell(pfn)
        return (
            self.contents.known(column.flat[i], offset, length)
            if column is not None
            else not self.others_unknown
        )

    def content_cell(self, pfn: int) -> tuple[Any, int]:
        """The column and index that hold the content number of a frame; (None, 0) where nothing answers."""
        if pfn < self.nr_frames:
            return self.content, pfn
        region = self.region_of(pfn)
        return (region.content, pfn - region.start_pfn) if region else (None, 0)

    def write_bytes(self, pfn: int, offset: int, data: bytes) -> None:
        """Write into one page; a write to frames that nobody answers for is lost, as on real hardware."""
        column, i = self.content_cell(pfn)
        if column is None:
            return
        old = column.flat[i]
        new = self.contents.written(old, offset, data)
        if new != old:
            self.journal.write(column, i, new)
