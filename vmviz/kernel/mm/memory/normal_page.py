"""What is behind page-table entries, many at a time (models vm_normal_page of mm/memory.c).

A raw frame or the zero page has no struct page that counts; a page of a process, a file or shmem has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...arch.x86 import _PAGE_PRESENT, _PAGE_PROTNONE, _PAGE_SPECIAL, PTE_PFN_MASK
from ...trace.bulk import AddLane, Lane
from ..frames import Frames
from ..mm_types import Mm
from ..page_flags import PG_ANON, PG_SWAPBACKED

RAW, ANON_PAGE, FILE_PAGE, SHMEM_PAGE, OTHER_ENTRY = range(5)
RSS_OF_KIND = {ANON_PAGE: "anon", FILE_PAGE: "file", SHMEM_PAGE: "shmem"}


def kinds_of(mm: Mm, values: NDArray[np.uint64]) -> NDArray[np.int8]:
    """What is behind each entry (`vm_normal_page`): RAW, or a kind of page."""
    present = (values & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE)) != 0
    special = present & ((values & np.uint64(_PAGE_SPECIAL)) != 0)  # the bit belongs to a swap entry's offset
    if special.all():
        return np.zeros(len(values), np.int8)
    kinds = np.where(special, RAW, FILE_PAGE).astype(np.int8)
    kinds[~present] = OTHER_ENTRY
    normal = np.flatnonzero(present & ~special)
    pfns = pfns_of(values[normal])
    known = pfns < mm.sys.frames.nr_frames
    kinds[normal[~known]] = RAW
    flags = mm.sys.frames.flags.array[pfns[known]]
    kinds[normal[known][flags & PG_SWAPBACKED != 0]] = SHMEM_PAGE
    kinds[normal[known][flags & PG_ANON != 0]] = ANON_PAGE
    return kinds


def pfns_of(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The frame numbers in a run of entries; PROT_NONE entries hold theirs inverted (L1TF)."""
    raw = values & np.uint64(PTE_PFN_MASK)
    hidden = (values & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE)) == np.uint64(_PAGE_PROTNONE)
    if hidden.any():
        raw = np.where(hidden, raw ^ np.uint64(PTE_PFN_MASK), raw)
    return (raw >> np.uint64(12)).astype(np.int64)


def device_lanes(frames: Frames, pfns: NDArray[np.int64], delta: int) -> list[Lane]:
    """The lanes that count mappings of devices' frames, one per device that the frames belong to."""
    lanes: list[Lane] = []
    m, first, last = len(pfns), int(pfns[0]), int(pfns[-1])
    line = last - first + 1 == m and (m < 3 or bool((np.diff(pfns) == 1).all()))
    for region in frames.regions:
        if line and region.start_pfn <= first and last < region.end_pfn:
            at = first - region.start_pfn
            return [AddLane(region.maps, slice(at, at + m), delta)]
        inside = (pfns >= region.start_pfn) & (pfns < region.end_pfn)
        if inside.any():
            index = np.where(inside, pfns - region.start_pfn, 0)
            lanes.append(AddLane(region.maps, index, np.where(inside, delta, 0)))
    return lanes


def device_line_lanes(frames: Frames, first: int, n: int, delta: int) -> list[Lane]:
    """`device_lanes` for ``n`` frames in line from ``first`` on."""
    for region in frames.regions:
        at = first - region.start_pfn
        if at >= 0 and first + n <= region.end_pfn:
            return [AddLane(region.maps, slice(at, at + n), delta)]
    return device_lanes(frames, np.arange(first, first + n), delta)
