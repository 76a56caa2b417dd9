"""From the rows of /proc/PID/pagemap to frames and entries: what is known, and what follows.

`sort_pages` decides what each row is, `pour_frames` fills the columns of struct page, `pour_entries` the
page tables. All three are vector steps on whole columns.  They write to the arrays of the stores directly,
for a machine that is not sealed yet, and leave nothing to be taken back.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from vmviz.kernel.arch.x86 import (
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SPECIAL,
    _PAGE_SWP_SOFT_DIRTY,
    _PAGE_SWP_UFFD_WP,
    _PAGE_UFFD_WP,
    PTE_PFN_MASK,
)
from vmviz.kernel.mm.contents import UNKNOWN_CONTENT
from vmviz.kernel.mm.flags import VM_SHARED, VM_SOFTDIRTY, VM_WRITE
from vmviz.kernel.mm.frames import ZERO_PFN, Frames
from vmviz.kernel.mm.mm_types import Mm
from vmviz.kernel.mm.page_alloc import ANON, BLOCK_SHIFT, FILE, OTHER, RESERVED, ZERO, Zone, zones_of
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
from vmviz.kernel.mm.vma_columns import VmaColumns
from vmviz.kernel.trace.store import index_of, rising
from vmviz.live.errors import LiveError
from vmviz.live.image import (
    KPF_NOPAGE,
    PM_FILE,
    PM_MMAP_EXCLUSIVE,
    PM_SOFT_DIRTY,
    PM_UFFD_WP,
    U64,
    ProcessImage,
)
from vmviz.live.vm_ops import shmem_path

MAX_PFN = 1 << 26
"""Frames are dense columns up to the highest PFN; a machine with more (256 GiB) gets numbers of our own."""
FIRST_OWN = 1 << 20
"""Our own numbers and our own memory lie above 4 GiB: below it are the simulated devices' frames."""
SPARE_FRAMES = (64 << 20) >> 12
HIDDEN_WHY = "CAP_SYS_ADMIN is missing"
TOO_HIGH_WHY = "more than vmviz keeps (2^26)"
MAX_TABLES = 1 << 18
"""Page tables beyond 1 GiB of them are refused: only a hostile snapshot needs so many."""

KPF_REFERENCED, KPF_UPTODATE, KPF_DIRTY, KPF_LRU, KPF_ACTIVE = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6
KPF_SWAPCACHE, KPF_SWAPBACKED, KPF_HUGE = 1 << 13, 1 << 14, 1 << 17
KPF_KSM, KPF_THP, KPF_ZERO_PAGE = 1 << 21, 1 << 22, 1 << 24
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

Mask: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]


def has(values: U64, bits: int) -> Mask:
    """Which words have any of ``bits``.

    >>> has(np.array([1, 2, 3], np.uint64), 2).tolist()
    [False, True, True]
    """
    mask: Mask = (values & np.uint64(bits)) != 0
    return mask


@attrs.frozen(eq=False, repr=False)
class SortedPages:
    """The rows of an image, sorted by what they are.

    ``vma`` is each row's VMA (ordinal).  ``counted``: a page with a struct page that rss counts; ``zero``:
    the shared zero page; ``raw``: a bare frame number (kpageflags NOPAGE); else swapped.  ``number`` is the
    frame number used in the simulator (0 for a swapped row).  ``frames`` are the distinct numbers of
    counted rows, ``first`` the row that showed each first, ``of_row`` the ordinal in ``frames`` of each
    counted row, ``seen`` how many rows map it, ``anon`` whether it is anonymous.  ``hidden``: the numbers are our own.
    """

    vma: Ints
    counted: Mask
    zero: Mask
    raw: Mask
    number: Ints
    frames: Ints
    first: Ints
    of_row: Ints
    seen: Ints
    anon: Mask
    hidden: bool
    warnings: tuple[str, ...]
    nr_frames: int
    zones: tuple[Zone, ...]

    @property
    def spare(self) -> Zone:
        """The frames that the image does not speak of: the simulator's own memory."""
        return self.zones[-1]


def sort_pages(image: ProcessImage) -> SortedPages:
    """Decide what each row is and which frame numbers stand for it.

    Raises `LiveError` when the pages need more page tables than any real process has.
    """
    pages, vmas = image.pages, image.vmas
    warnings: list[str] = []
    address = pages.vpn << np.uint64(12)
    vma = np.searchsorted(vmas.start, address, side="right").astype(np.int64) - 1
    present = pages.present
    told = pages.flags
    none = np.zeros(len(pages), bool)
    if told is not None:
        zero = present & has(told, KPF_ZERO_PAGE)
        raw = present & has(told, KPF_NOPAGE) & ~zero
    else:
        zero, raw = _infer_zero(image, vma, present, warnings), none
    counted = present & ~zero & ~raw
    number, hidden = _number(image, counted, zero, warnings)
    rows = np.flatnonzero(counted)
    frames, first, of_row, seen = _frames_of(number[rows])
    first = rows[first]
    # Bit 61 is of the same moment as the entry; kpageflags are read later, of whoever has the frame then.
    anon = ~has(pages.entry[first], PM_FILE)
    nr_tables = sum(len(_distinct(pages.vpn >> np.uint64(shift))) for shift in (9, 18, 27, 36))
    if nr_tables > MAX_TABLES:
        why = f"its pages need {nr_tables} page tables, and vmviz keeps at most {MAX_TABLES}"
        raise LiveError(f"PID {image.pid} ({image.name})", why, "open a process with fewer scattered pages")
    known = number[present & (number < 2 * MAX_PFN)]
    top = max(FIRST_OWN, int(known.max()) + 1 if len(known) else 0)
    top = (top + 1023) & -1024  # a zone begins at a whole buddy block
    nr_frames = top + ((SPARE_FRAMES + nr_tables + 1023) & -1024)
    zones = (*zones_of(top), Zone("Spare", top, nr_frames))
    return SortedPages(
        vma=vma,
        counted=counted,
        zero=zero,
        raw=raw,
        number=number,
        frames=frames,
        first=first,
        of_row=of_row,
        seen=seen,
        anon=anon,
        hidden=hidden,
        warnings=tuple(warnings),
        nr_frames=nr_frames,
        zones=zones,
    )


def _frames_of(number: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """The distinct numbers, ascending, with the row that shows each first, each row's ordinal among them, and their
    counts.  Numbers of our own ascend with the rows, which takes no sorting to see.
    """
    if rising(number):
        ordinals = np.arange(len(number))
        return number, ordinals, ordinals, np.ones(len(number), np.int64)
    frames, first, of_row, seen = np.unique(
        number, return_index=True, return_inverse=True, return_counts=True
    )
    return frames, first, of_row.reshape(-1), seen


def _infer_zero(image: ProcessImage, vma: Ints, present: Mask, warnings: list[str]) -> Mask:
    """Find the zero page without kpageflags: Rss leaves it out, and pagemap sets neither bit 56 nor 61."""
    entry = image.pages.entry
    maybe = present & ~has(entry, PM_FILE | PM_MMAP_EXCLUSIVE)
    rss = image.vmas.smaps.get("Rss")
    if rss is None or not maybe.any():
        return np.zeros(len(entry), bool)
    n = len(image.vmas)
    there = np.bincount(vma[present], minlength=n)
    candidates = np.bincount(vma[maybe], minlength=n)
    # Rss and the entries are of different moments: a VMA that changed in between is not judged.
    missing = there - (rss // np.uint64(4)).astype(np.int64)
    sure = (missing > 0) & (candidates == missing)
    doubtful = int(candidates[(missing > 0) & ~sure].sum())
    if doubtful:
        warnings.append(
            f"{doubtful} pages may be the shared zero page or pages shared with other processes: without "
            "kpageflags they look alike, and are taken as shared"
        )
    zero: Mask = maybe & sure[vma]
    return zero


def _number(image: ProcessImage, counted: Mask, zero: Mask, warnings: list[str]) -> tuple[Ints, bool]:
    """The frame number of each row: the real one, or our own where it is hidden or cannot be kept."""
    number = image.pages.pfn.astype(np.int64)
    if image.pfns_visible:
        real = number[counted | zero]
        if not len(real) or (int(real.min()) > ZERO_PFN and int(real.max()) < MAX_PFN):
            return number, False
        distinct, back = np.unique(real, return_inverse=True)
        number[counted | zero] = back.reshape(-1) + FIRST_OWN
        warnings.append(
            f"the PFNs reach from {int(distinct[0]):#x} to {int(distinct[-1]):#x}, more than vmviz keeps "
            f"({MAX_PFN:#x} frames): the frames have numbers of vmviz's own"
        )
        return number, True
    number[counted] = np.arange(FIRST_OWN, FIRST_OWN + int(counted.sum()))
    number[zero] = ZERO_PFN
    return number, bool(counted.any())


def _distinct(ascending: U64) -> U64:
    """The distinct values of a sorted column."""
    keep = np.ones(len(ascending), bool)
    keep[1:] = ascending[1:] != ascending[:-1]
    distinct: U64 = ascending[keep]
    return distinct


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
        mapcount = np.maximum(pages.seen, np.where(exclusive, 1, 2))
        if image.pages.count is not None:
            count = np.minimum(image.pages.count[first], np.uint64((1 << 31) - 4)).astype(np.int64)
            mapcount = np.maximum(pages.seen, count)
        refcount = mapcount + ~anon
        if told is not None:
            refcount = refcount + has(told, KPF_SWAPCACHE)
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
        flags[anon | shmem] |= np.uint32(PG_SWAPBACKED)
        flags[shmem & ~anon] |= np.uint32(PG_DIRTY)
    else:
        flags = np.zeros(len(anon), np.uint32)
        for bit, flag in _PG_OF_KPF.items():
            flags[has(told, bit)] |= np.uint32(flag)
    flags[anon] |= np.uint32(PG_ANON)
    sole = anon & exclusive & (~has(told, KPF_KSM) if told is not None else True)
    flags[sole] |= np.uint32(PG_EXCLUSIVE)
    return flags


def is_shmem(image: ProcessImage, pages: SortedPages) -> Mask:
    """Which frames are pages of shmem, judged by the file of the VMA that showed them first."""
    texts = image.vmas.path
    by_text = np.array([shmem_path(text) for text in texts.values] or [False])
    mask: Mask = by_text[texts.ids.astype(np.int64)][pages.vma[index_of(pages.first)]]
    return mask


def entry_bits(image: ProcessImage, pages: SortedPages, vmas: VmaColumns) -> U64:
    """The entry of each row.

    A and the rights come from vm_page_prot.  Anonymous pages are dirty, as they came into being by a write,
    and writable when the VMA is and nobody else maps them; pages of shared writable mappings are writable,
    and dirty when kpageflags say so.  In a VMA with VM_SOFTDIRTY bit 55 tells nothing of the entry: there a
    dirty one has it.
    """
    kind = vmas.kind[pages.vma]
    flags, prot = (
        np.array(values, np.uint64)[kind] if len(kind) else np.empty(0, np.uint64)
        for values in ([k.vm_flags for k in vmas.kinds], [k.page_prot for k in vmas.kinds])
    )
    raw, told = image.pages.entry, image.pages.flags
    anon = np.zeros(len(raw), bool)
    anon[pages.counted] = pages.anon[index_of(pages.of_row)]
    if told is not None:
        anon &= ~has(told, KPF_KSM)
    writable, shared = has(flags, VM_WRITE), has(flags, VM_SHARED)
    guarded = has(raw, PM_UFFD_WP)
    dirty = anon.copy()
    if told is not None:
        dirty |= pages.counted & shared & writable & has(told, KPF_DIRTY)
    soft = has(raw, PM_SOFT_DIRTY) & (dirty | ~has(flags, VM_SOFTDIRTY))
    prot[anon & writable & ~shared & has(raw, PM_MMAP_EXCLUSIVE)] |= np.uint64(_PAGE_RW)
    prot[guarded] &= np.uint64(~_PAGE_RW & (1 << 64) - 1)
    for mask, bit in (
        (guarded, _PAGE_UFFD_WP),
        (dirty, _PAGE_DIRTY),
        (soft, _PAGE_SOFT_DIRTY),
        (pages.zero | pages.raw, _PAGE_SPECIAL),
    ):
        prot[mask] |= np.uint64(bit)
    frame = pages.number.astype(np.uint64) << np.uint64(12)
    frame = np.where(has(prot, _PAGE_PRESENT), frame, ~frame) & np.uint64(PTE_PFN_MASK)
    entries: U64 = np.where(image.pages.present, frame | prot, swap_bits(raw))
    return entries


def swap_bits(raw: U64) -> U64:
    """The swap entries of pagemap words: type and offset as `vmviz.kernel.arch.x86.swp_entry` puts them.

    >>> from vmviz.kernel.arch.x86 import swp_entry
    >>> int(swap_bits(np.array([1 << 62 | 0x1234 << 5 | 3], np.uint64))[0]) == swp_entry(3, 0x1234)
    True
    """
    kind = raw & np.uint64(31)
    offset = (raw >> np.uint64(5)) & np.uint64((1 << 50) - 1)
    out: U64 = kind << np.uint64(59) | (~offset & np.uint64((1 << 50) - 1)) << np.uint64(9)
    out[has(raw, PM_SOFT_DIRTY)] |= np.uint64(_PAGE_SWP_SOFT_DIRTY)
    out[has(raw, PM_UFFD_WP)] |= np.uint64(_PAGE_SWP_UFFD_WP)
    return out


def pour_entries(image: ProcessImage, entries: U64, mm: Mm) -> None:
    """Make the page tables and fill them; the tables' frames come from the spare zone."""
    vpn, arena = image.pages.vpn, mm.sys.arena
    if not len(vpn):
        return
    table = vpn >> np.uint64(9)
    bases = [arena.ensure(mm.pgd, va, mm.counters) for va in (_distinct(table) << np.uint64(21)).tolist()]
    turn = np.concatenate((np.zeros(1, np.int64), np.cumsum(table[1:] != table[:-1])))
    slots = np.array(bases, np.int64)[turn] + (vpn & np.uint64(511)).astype(np.int64)
    arena.put_many(slots, entries)


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


def visible_unknown(image: ProcessImage) -> list[tuple[int, int]]:
    """The unknown ranges as far as there are VMAs, neighbours joined."""
    starts, ends = image.vmas.start, image.vmas.end
    out: list[tuple[int, int]] = []
    for low, high in image.unknown_ranges:
        i = int(np.searchsorted(ends, np.uint64(low), side="right"))
        j = int(np.searchsorted(starts, np.uint64(high), side="left"))
        for start, end in zip(starts[i:j].tolist(), ends[i:j].tolist(), strict=True):
            a, b = max(low, start), min(high, end)
            if out and out[-1][1] == a:
                out[-1] = (out[-1][0], b)
            else:
                out.append((a, b))
    return out
