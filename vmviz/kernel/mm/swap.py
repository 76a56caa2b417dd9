"""What the lists of reclaim remember of a page (models mm/swap.c): PG_referenced and PG_active."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..trace.bulk import Bulk, SetLane
from .page_flags import PG_ACTIVE, PG_LRU, PG_REFERENCED, PG_UNEVICTABLE

if TYPE_CHECKING:
    from .mm_types import System


def accessed(flags: NDArray[Any], *, unevictable: bool = False) -> NDArray[Any]:
    """Page flags after one more use of each page (`folio_mark_accessed`).

    The first use marks a page as referenced, the second makes it active and forgets the mark.  An unevictable
    page keeps the mark; a page on no list (a driver's own) only loses it.  ``unevictable``: they all count as
    such, whatever their flags say.

    >>> one = np.array([PG_LRU], np.uint32)
    >>> [accessed(one).tolist() == [PG_LRU | PG_REFERENCED],
    ...  accessed(accessed(one)).tolist() == [PG_LRU | PG_ACTIVE]]
    [True, True]
    """
    again = flags & PG_REFERENCED != 0
    rises = again & (flags & (PG_ACTIVE | PG_UNEVICTABLE) == 0) & (not unevictable)
    up = np.where(flags & PG_LRU != 0, PG_ACTIVE, 0).astype(flags.dtype)
    risen = (flags | up) & ~np.uint32(PG_REFERENCED)
    return np.where(rises, risen, flags | np.uint32(PG_REFERENCED)).astype(flags.dtype)


def mark_page_accessed(system: System, pfns: NDArray[np.int64], addresses: NDArray[np.uint64]) -> None:
    """Note a use of pages that have a struct page (mm/folio-compat.c): frames and the addresses (bytes) at
    which they were used.
    """
    frames = system.frames
    old = frames.flags.array[pfns]
    new = accessed(old)
    where = np.flatnonzero(new != old)
    if len(where):
        lane = SetLane(frames.flags, pfns[where], old[where], new[where])
        at = addresses[where]
        record = Bulk("mark_page_accessed", len(where), (lane,), address=int(at[0]), addresses=at)
        system.journal.bulk(record)


__all__ = ["accessed", "mark_page_accessed"]
