"""The pool of huge pages and who has a claim on it (models the hstate and the reservations of mm/hugetlb.c).

The pool holds whole 2 MiB pages that nothing else can use.  A mapping reserves what it may need when it is
made, so that its faults do not fail; the *region map* of a private mapping names the pages whose reservation
is used up, that of a file the pages that are reserved.  Simplified: one size, one node, no surplus pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KernelError
from .flags import VM_MAYSHARE, VM_NORESERVE
from .page_alloc import OTHER, OutOfMemory
from .page_flags import HPAGE_PMD_ORDER, PG_HEAD, PG_HUGETLB, PG_UPTODATE

if TYPE_CHECKING:
    from .mm_types import Inode, System
    from .vma import Vma

HPAGE_SHIFT = 12 + HPAGE_PMD_ORDER
HPAGE_SIZE = 1 << HPAGE_SHIFT
HPAGE_MASK = -HPAGE_SIZE
HPAGE_RESV_OWNER, HPAGE_RESV_UNMAPPED = 1, 2
"""In vm_private_data of a private mapping: its process has made the reservation; a page was taken from it."""


def nr_huge_pages(system: System) -> int:
    """How many pages the pool has, used ones included."""
    return system.hugetlb.get("nr") or 0


def free_huge_pages(system: System) -> int:
    """How many pages of the pool nobody uses; some of them may be reserved."""
    return len(system.frames.hugetlb_free.data)


def resv_huge_pages(system: System) -> int:
    """How many of the free pages somebody has a claim on."""
    return system.hugetlb.get("resv") or 0


def set_nr_huge_pages(system: System, wanted: int) -> None:
    """Write vm.nr_hugepages: grow or shrink the pool as far as memory and users allow
    (`set_max_huge_pages`).
    """
    j, frames, n = system.journal, system.frames, nr_huge_pages(system)
    while n < wanted:
        try:
            head = frames.alloc_compound(OTHER, PG_HUGETLB, PG_HUGETLB)
        except OutOfMemory:
            break
        j.write(frames.refcount, head, 0)
        j.write(frames.hugetlb_free, head, 1)
        n += 1
    while n > wanted and free_huge_pages(system) > resv_huge_pages(system):
        head = max(frames.hugetlb_free.data)
        j.write(frames.hugetlb_free, head, None)
        j.write(frames.flags, head, PG_HEAD)
        j.write(frames.refcount, head, 1)
        frames.put_compound(head, 1)
        n -= 1
    j.write(system.hugetlb, "nr", n or None)


def hugetlb_acct_memory(system: System, delta: int) -> bool:
    """Change how many pages are reserved; false when the free ones do not suffice (mm/hugetlb.c)."""
    resv = resv_huge_pages(system) + delta
    if delta > 0 and resv > free_huge_pages(system):
        return False
    if delta:
        system.journal.write(system.hugetlb, "resv", resv or None)
    return True


# Region maps


def _map_key(system: System, vma: Vma) -> tuple[str, int] | None:
    """Which region map speaks for a mapping (`vma_resv_map`); None: it has none."""
    if vma.vm_flags & VM_MAYSHARE:
        return ("inode", system.files.get(vma.file).inode)
    return ("vma", vma.file) if vma.private & HPAGE_RESV_OWNER else None


def regions(system: System, key: tuple[str, int]) -> tuple[int, ...]:
    """The huge page numbers that a region map names, ascending."""
    return system.hugetlb.get(key) or ()


def _set_regions(system: System, key: tuple[str, int], pages: set[int]) -> None:
    new = tuple(sorted(pages))
    if new != regions(system, key):
        system.journal.write(system.hugetlb, key, new or None)


def vma_hugecache_offset(vma: Vma, address: int) -> int:
    """The huge page number in the file that a mapping has at ``address``."""
    return ((address - vma.start) >> HPAGE_SHIFT) + (vma.pgoff >> HPAGE_PMD_ORDER)


def hugetlb_reserve_pages(system: System, inode: Inode, first: int, last: int, vma: Vma) -> Vma | None:
    """Reserve huge pages ``first`` to ``last`` (exclusive) of a file for a new mapping (mm/hugetlb.c).

    A shared mapping reserves what the file has not reserved yet, a private one all of its own, also when it
    is read-only.  Returns the VMA, marked as owner if it is; None when the pool does not suffice.
    """
    if vma.vm_flags & VM_NORESERVE:
        return vma
    if vma.vm_flags & VM_MAYSHARE:
        key = ("inode", inode.id)
        missing = set(range(first, last)).difference(regions(system, key))
        if not hugetlb_acct_memory(system, len(missing)):
            return None
        _set_regions(system, key, missing.union(regions(system, key)))
        return vma
    if not hugetlb_acct_memory(system, last - first):
        return None
    return vma.replace(private=HPAGE_RESV_OWNER)


def vma_needs_reservation(system: System, vma: Vma, index: int) -> bool:
    """Whether a page of a mapping would have to come from what nobody has reserved (mm/hugetlb.c)."""
    key = _map_key(system, vma)
    if key is None:
        return True
    named = index in regions(system, key)
    return not named if vma.vm_flags & VM_MAYSHARE else named


def _vma_has_reserves(vma: Vma, needs: bool) -> bool:
    if needs or (vma.vm_flags & VM_NORESERVE and not vma.vm_flags & VM_MAYSHARE):
        return False
    return bool(vma.vm_flags & VM_MAYSHARE or vma.private & HPAGE_RESV_OWNER)


def alloc_huge_page(system: System, vma: Vma, index: int, avoid_reserve: bool = False) -> int:
    """Take a page from the pool for huge page ``index`` of a mapping (mm/hugetlb.c): the head's pfn, -1 when
    there is none for it.

    ``avoid_reserve``: the reservation at this place must not be used, as for a copy that fork made necessary.
    """
    needs = vma_needs_reservation(system, vma, index)
    unclaimed = free_huge_pages(system) - resv_huge_pages(system)
    reserved = _vma_has_reserves(vma, needs or avoid_reserve)
    if not free_huge_pages(system) or (unclaimed <= 0 and not reserved):
        return -1
    if reserved:
        hugetlb_acct_memory(system, -1)
    j, frames = system.journal, system.frames
    head: int = min(frames.hugetlb_free.data)
    j.write(frames.hugetlb_free, head, None)
    j.write(frames.refcount, head, 1)
    j.write(frames.flags, head, PG_HEAD | PG_HUGETLB | PG_UPTODATE)
    key = _map_key(system, vma)
    if key is not None:
        _set_regions(system, key, {index}.union(regions(system, key)))
    return head


def hugetlb_vm_op_close(system: System, vma: Vma) -> None:
    """A mapping goes: what a private one has reserved and not used is given back (mm/hugetlb.c)."""
    if vma.vm_flags & VM_MAYSHARE or not vma.private & HPAGE_RESV_OWNER:
        return
    first, last = vma_hugecache_offset(vma, vma.start), vma_hugecache_offset(vma, vma.end)
    used = sum(first <= i < last for i in regions(system, ("vma", vma.file)))
    hugetlb_acct_memory(system, used - (last - first))


def hugetlb_unreserve_pages(system: System, inode: int, pages: set[int], freed: int) -> None:
    """A file loses huge pages and what is reserved for them (mm/hugetlb.c); ``freed`` of them were used."""
    key = ("inode", inode)
    gone = pages.intersection(regions(system, key))
    _set_regions(system, key, set(regions(system, key)) - gone)
    hugetlb_acct_memory(system, freed - len(gone) if gone else 0)


def cached_page(system: System, inode: int, index: int) -> int:
    """The head of a file's huge page; -1 when it has none yet (`hugetlbfs_pagecache_page`)."""
    head: int | None = system.hugetlb.get(("page", inode, index))
    return -1 if head is None else head


def remove_inode_hugepages(system: System, inode: int, first: int, last: int) -> None:
    """Drop huge pages of a file and their reservations (fs/hugetlbfs/inode.c)."""
    pages = [
        key for key in system.hugetlb.data if key[0] == "page" and key[1] == inode and first <= key[2] < last
    ]
    for key in sorted(pages):
        head = system.hugetlb.get(key)
        system.journal.write(system.hugetlb, key, None)
        system.frames.put_page(head)
    named = {i for i in regions(system, ("inode", inode)) if first <= i < last}
    hugetlb_unreserve_pages(system, inode, named, len(pages))


def hugetlbfs_evict_inode(system: System, inode: int, file_id: int) -> None:
    """Nobody uses a file of huge pages any more (fs/hugetlbfs/inode.c)."""
    remove_inode_hugepages(system, inode, 0, 1 << 52)
    _set_regions(system, ("vma", file_id), set())


def check_size(flags: int, shift: int, mask: int) -> None:
    """EINVAL for a MAP_HUGE_* size that the machine does not have (`hstate_sizelog`); 0 is the default."""
    log = flags >> shift & mask
    if log not in (0, HPAGE_SHIFT):
        raise KernelError("EINVAL", "mmap", f"there are no huge pages of 2^{log} bytes")
