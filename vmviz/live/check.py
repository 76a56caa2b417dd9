"""What must hold in a `ProcessImage`; a reader of foreign files asks it before anybody trusts the columns."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
import numpy as np

from vmviz.kernel.value import Value
from vmviz.live.image import (
    PM_PFRAME,
    PM_PRESENT,
    PM_SWAP,
    VM_PFNMAP,
    ProcessImage,
    TextColumn,
    VmaTable,
    inside_mask,
    pages_inside,
)

ADDRESS_LIMIT = 1 << 57  # one past the largest user address of any supported mode, rounded up
_PERMS = re.compile(r"[r-][w-][x-][ps]")


@attrs.frozen(eq=False, repr=False)
class Problem(Value):
    """One broken rule: the column (as the snapshot names it) or header field, and why."""

    where: str
    why: str


def problems(image: ProcessImage) -> Iterator[Problem]:
    """Yield what is wrong with ``image``, nothing when it is sound.

    >>> from vmviz.live.image import PageColumns, VmaRecord
    >>> def vma(start, end):
    ...     return VmaRecord(start, end, "rw-p", 0, "00:00", 0, "", 0x73, "rd wr mr mw me")
    >>> vmas = VmaTable.of([vma(0x1000, 0x3000), vma(0x2000, 0x4000)])
    >>> image = ProcessImage(1, "x", 4096, vmas, PageColumns())
    >>> [p.why for p in problems(image)]
    ['VMA 1 begins at 0x2000, inside or before its neighbour, which ends at 0x3000']
    """
    size = image.page_size
    if size not in (1 << shift for shift in range(12, 17)):
        yield Problem("page_size", f"{size} is no page size (4096 to 65536, a power of two)")
        return
    found = False
    for problem in (*_lengths(image), *_texts(image.vmas)):
        found = True
        yield problem
    if found:  # the rest compares columns row by row
        return
    for problem in _vma_ranges(image.vmas, size):
        found = True
        yield problem
    if not found:
        yield from _pages(image)
        yield from _unknown(image)


def _lengths(image: ProcessImage) -> Iterator[Problem]:
    vmas, pages = image.vmas, image.pages
    n = len(vmas)
    columns = {"offset": vmas.offset, "inode": vmas.inode, "vm_flags": vmas.vm_flags, "end": vmas.end}
    columns |= {f"smaps.{name}": values for name, values in vmas.smaps.items()}
    for name, text in texts(vmas).items():
        columns[name] = text.ids
    for name, values in columns.items():
        if len(values) != n:
            yield Problem(f"vma.{name}", f"it has {len(values)} rows, but there are {n} VMAs")
    for field in ("entry", "pfn", "flags", "count"):
        values = getattr(pages, field)
        if values is not None and len(values) != len(pages):
            yield Problem(f"page.{field}", f"it has {len(values)} rows, but there are {len(pages)} pages")


def texts(vmas: VmaTable) -> dict[str, TextColumn]:
    """Return the text columns of ``vmas`` by name."""
    return {"perms": vmas.perms, "dev": vmas.dev, "path": vmas.path, "codes": vmas.codes}


def _texts(vmas: VmaTable) -> Iterator[Problem]:
    for name, text in texts(vmas).items():
        if len(text.ids) and int(text.ids.max()) >= len(text.values):
            yield Problem(f"vma.{name}", f"a row names text {int(text.ids.max())} of {len(text.values)}")
    for value in vmas.perms.values:
        if not _PERMS.fullmatch(value):
            yield Problem("vma.perms", f"{value[:20]!r} is not of the form rwxp")


def _vma_ranges(vmas: VmaTable, page_size: int) -> Iterator[Problem]:
    if not len(vmas):
        return
    mask = np.uint64(page_size - 1)
    for name, values in (("start", vmas.start), ("end", vmas.end)):
        if np.bitwise_or.reduce(values) & mask:
            bad = np.flatnonzero(values & mask)
            yield Problem(f"vma.{name}", f"VMA {bad[0]}: {int(values[bad[0]]):#x} is not aligned to a page")
    bad = np.flatnonzero(vmas.start >= vmas.end)
    if len(bad):
        yield Problem("vma.end", f"VMA {bad[0]} is empty or ends before it begins")
    bad = np.flatnonzero(vmas.end > np.uint64(ADDRESS_LIMIT))
    if len(bad):
        yield Problem("vma.end", f"VMA {bad[0]} ends at {int(vmas.end[bad[0]]):#x}, above every user address")
    bad = np.flatnonzero(vmas.start[1:] < vmas.end[:-1])
    if len(bad):
        at, before = int(vmas.start[bad[0] + 1]), int(vmas.end[bad[0]])
        yield Problem(
            "vma.start",
            f"VMA {bad[0] + 1} begins at {at:#x}, inside or before its neighbour, which ends at {before:#x}",
        )
    # VM_READ, VM_WRITE, VM_EXEC and VM_MAYSHARE are what maps prints; two answers would have no truth.
    told = np.array(
        [
            sum(1 << i for i in range(3) if p[i] != "-") | (0x80 if p[3] == "s" else 0)
            for p in vmas.perms.values
        ],
        dtype=np.uint64,
    )
    bad = np.flatnonzero((vmas.vm_flags & np.uint64(0x87)) != told[vmas.perms.ids.view(np.int64)])
    if len(bad):
        row = int(bad[0])
        yield Problem(
            "vma.vm_flags", f"VMA {row}: {int(vmas.vm_flags[row]):#x} contradicts {vmas.perms[row]}"
        )


def _pages(image: ProcessImage) -> Iterator[Problem]:
    pages = image.pages
    if (pages.vpn[1:] <= pages.vpn[:-1]).any():
        yield Problem("page.vpn", "the pages are not in strictly ascending order")
        return
    if pages_inside(pages.vpn, image.vmas, image.page_size) != len(pages):
        vpn = int(pages.vpn[np.argmin(inside_mask(pages.vpn, image.vmas, image.page_size))])
        yield Problem("page.vpn", f"page {vpn:#x} lies in no VMA, or in one with VM_PFNMAP")
    if not (pages.entry & np.uint64(PM_PRESENT | PM_SWAP)).all():
        yield Problem("page.entry", "an entry is neither present nor swapped")
    told = pages.entry & np.uint64(PM_PFRAME)
    told *= pages.present
    if not np.array_equal(told, pages.pfn):
        yield Problem("page.pfn", "a PFN is not the one of its entry")
    if not image.pfns_visible and pages.pfn.any():
        yield Problem("page.pfn", "there are PFNs, though they are said to be hidden")


def _unknown(image: ProcessImage) -> Iterator[Problem]:
    last = 0
    for start, end in image.unknown_ranges:
        if start < last or end <= start or end > ADDRESS_LIMIT or (start | end) % image.page_size:
            yield Problem(
                "unknown_ranges", f"{start:#x}-{end:#x} is empty, unaligned, overlapping or out of order"
            )
            return
        last = end
        rows = image.pages.rows(start, end, image.page_size)
        if rows.start != rows.stop:
            yield Problem("unknown_ranges", f"{start:#x}-{end:#x} is said to be unknown, but has pages")
            return
    lows = np.array([start for start, _ in image.unknown_ranges], dtype=np.uint64)
    highs = np.array([end for _, end in image.unknown_ranges], dtype=np.uint64)
    hidden = (image.vmas.vm_flags & np.uint64(VM_PFNMAP)) != 0
    at = np.searchsorted(lows, image.vmas.start[hidden], side="right")
    covered = at > 0
    covered[covered] &= highs[at[covered] - 1] >= image.vmas.end[hidden][covered]
    if not covered.all():
        yield Problem("unknown_ranges", "a VMA with VM_PFNMAP is not covered: its entries cannot be known")
