"""From the rows of /proc/PID/pagemap, sorted, to the columns of struct page, for a machine that is not sealed yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vmviz.kernel.mm.contents import UNKNOWN_CONTENT
from vmviz.kernel.mm.frames import ZERO_PFN, Frames
from vmviz.kernel.mm.page_alloc import ANON, BLOCK_SHIFT, FILE, OTHER, RESERVED, ZERO
from vmviz.kernel.mm.page_flags import (
    PG_ACTIVE,
    PG_ANON,
    PG_DIRTY,
    PG_EXCLUSIVE,
    PG_HIDDEN,
    PG_LRU,
    PG_REFERENCED,
    PG_RESERVED,
    PG_SWAPBACKED,
    PG_UPTODATE,
    PG_ZERO,
)
from vmviz.kernel.trace.store import index_of
from vmviz.live.image import PM_MMAP_EXCLUSIVE, U64, ProcessImage
from vmviz.live.pour import (
    FIRST_OWN,
    KPF_ACTIVE,
    KPF_DIRTY,
    KPF_KSM,
    KPF_LRU,
    KPF_REFERENCED,
    KPF_SWAPBACKED,
    KPF_SWAPCACHE,
    KPF_UPTODATE,
    Ints,
    Mask,
    SortedPages,
    has,
    set_bits,
)
from vmviz.live.vm_ops import shmem_path

HIDDEN_WHY = "CAP_SYS_ADMIN is missing"
TOO_HIGH_WHY = "more than vmviz keeps (2^26)"
_PG_OF_KPF = {
    KPF_REFERENCED: PG_REFERENCED,
    KPF_UPTODATE: PG_UPTODATE,
    KPF_DIRTY: PG_DIRTY,
    KPF_LRU: PG_LRU,
    KPF_ACTIVE: PG_ACTIVE,
    KPF_SWAPBACKED: PG_SWAPBACKED,
}
_ZERO_FLAGS = PG_ZERO | PG_RESERVED
_SWAP_FILES = 23
"""Swap types from here on are migration, device, poison and marker entries (with all of them configured)."""


def pour_frames(image: ProcessImage, pages: SortedPages, frames: Frames, mapping: U64, pgoff: U64) -> None:
    """Fill the frame columns; ``mapping`` and ``pgoff`` are of the frames in ``pages.frames``.

    mapcount is kpagecount where it is there, else what the rows show: at least 2 for a page that bit 56
    does not call exclusive.  refcount is the least that follows: one for each mapping, one for the page
    cache, one for the swap cache.
    """
    for pfn, column in (
        (0, (RESERVED, 1, 0, PG_RESERVED, 0, 0, 0)),
        (ZERO_PFN, (ZERO, 1, 0, _ZERO_FLAGS, 0, 0, 0)),
    ):
        frames.put(pfn, column)
    for pfn in sorted(set(pages.number[pages.zero].tolist())):
        flags = _ZERO_FLAGS | (PG_HIDDEN if pages.hidden and pfn != ZERO_PFN else 0)
        frames.put(pfn, (ZERO, 1, 0, flags, 0, 0, 0))
    at, first, anon = index_of(pages.frames), index_of(pages.first), pages.anon
    if len(anon):
        told = image.pages.flags[first] if image.pages.flags is not None else None
        exclusive = has(image.pages.entry[first], PM_MMAP_EXCLUSIVE)
        if image.pages.count is not None:
            mapcount = np.minimum(image.pages.count[first], np.uint64((1 << 31) - 4)).astype(np.int32)
        else:
            mapcount = np.where(exclusive, np.int32(1), np.int32(2))
        np.maximum(mapcount, pages.seen, out=mapcount, casting="same_kind")
        refcount = mapcount + ~anon
        if told is not None:
            refcount += has(told, KPF_SWAPCACHE)
        frames.refcount.put_many(at, refcount)
        frames.mapcount.put_many(at, mapcount)
        frames.flags.put_many(at, frame_flags(told, anon, exclusive, is_shmem(image, pages)))
        if pages.hidden:
            frames.flags.array[at] |= np.uint32(PG_HIDDEN)
            highest = max(pages.frames.max(), pages.number[pages.zero].max(initial=0))
            frames.own_pfns = range(FIRST_OWN, int(highest) + 1)
            frames.hidden_why = HIDDEN_WHY if not image.pfns_visible else TOO_HIGH_WHY
        frames.content.put_many(at, UNKNOWN_CONTENT)
        frames.mapping.put_many(at, mapping)
        frames.index.put_many(at, pgoff)
        _set_states(frames, pages.frames, np.where(anon, ANON, FILE))
    frames.others_unknown = True
    bare = pages.number[pages.zero | pages.raw]
    for region in frames.regions:  # a zap takes these away again
        inside = bare[(bare >= region.start_pfn) & (bare < region.end_pfn)]
        region.maps.add_many(inside - region.start_pfn, 1)
        region.content.array[inside - region.start_pfn] = UNKNOWN_CONTENT


def _set_states(frames: Frames, at: Ints, states: Ints) -> None:
    """Set the states of frames that are all `OTHER`; the counts of all blocks follow in one step."""
    column = frames.states
    column.array[index_of(at)] = states
    blocks, width = column.pyramid.shape
    block = at >> BLOCK_SHIFT
    come = np.bincount(block * width + states, minlength=blocks * width)
    column.pyramid += come.reshape(blocks, width).astype(np.int32)
    column.pyramid[:, OTHER] -= np.bincount(block, minlength=blocks).astype(np.int32)


def frame_flags(told: U64 | None, anon: Mask, exclusive: Mask, shmem: Mask) -> NDArray[np.uint32]:
    """Page flags from the words of kpageflags; without them what an ordinary page of its kind has."""
    if told is None:
        flags = np.full(len(anon), PG_UPTODATE | PG_LRU, np.uint32)
        set_bits(flags, anon | shmem, PG_SWAPBACKED)
        set_bits(flags, shmem & ~anon, PG_DIRTY)
    else:
        flags = np.zeros(len(anon), np.uint32)
        for bit, flag in _PG_OF_KPF.items():
            set_bits(flags, has(told, bit), flag)
    set_bits(flags, anon, PG_ANON)
    sole = anon & exclusive & (~has(told, KPF_KSM) if told is not None else True)
    set_bits(flags, sole, PG_EXCLUSIVE)
    return flags


def is_shmem(image: ProcessImage, pages: SortedPages) -> Mask:
    """Which frames are pages of shmem, judged by the file of the VMA that showed them first."""
    texts = image.vmas.path
    by_text = np.array([shmem_path(text) for text in texts.values] or [False])
    mask: Mask = by_text[texts.ids.astype(np.int64)][pages.vma[index_of(pages.first)]]
    return mask


def count_rss(image: ProcessImage, pages: SortedPages, frames: Frames) -> dict[str, int]:
    """rss by kind and swap, in pages, as the frame flags tell and a zap will take away again."""
    flags = frames.flags.array[index_of(pages.frames)]
    anon = int(pages.seen[pages.anon].sum())
    shmem = int(pages.seen[~pages.anon & ((flags & PG_SWAPBACKED) != 0)].sum())
    kinds = image.pages.entry[image.pages.swapped & ~image.pages.present] & np.uint64(31)
    return {
        "anon": anon,
        "shmem": shmem,
        "file": int(pages.seen.sum()) - anon - shmem,
        "swap": int((kinds < _SWAP_FILES).sum()),
    }
