"""What drivers do with page tables (models the driver side of mm/memory.c): raw frame numbers and inserted
pages.

A violation that a real kernel answers with BUG raises `CallerBugError` and changes nothing.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ...arch.x86 import (
    _PAGE_PCD,
    _PAGE_PRESENT,
    _PAGE_SPECIAL,
    PTE_PFN_MASK,
    mk_pte,
    pte_pfn,
)
from ...errors import CallerBugError, KernelError, Refusal
from ...trace.bulk import Bulk, Lane, Ramp, SetLane
from ..flags import (
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_IO,
    VM_MIXEDMAP,
    VM_PAT,
    VM_PFNMAP,
    is_cow_mapping,
)
from ..mm_types import Mm
from ..page_alloc import OutOfMemory
from ..page_flags import PG_ANON
from ..vma import Vma
from .memtype import memtype_reserve
from .normal_page import device_line_lanes

VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_MAJOR, VM_FAULT_SIGSEGV, VM_FAULT_NOPAGE = 0x1, 0x2, 0x4, 0x40, 0x100


def caller_bug(func: str, rule: str, message: str) -> NoReturn:
    """Refuse a call that a real kernel would answer with a BUG."""
    raise CallerBugError(func, rule, message, Refusal("caller_bug", message))


def _want_tables(mm: Mm, func: str, start: int, end: int) -> None:
    """Refuse a driver's pages in ``[start, end)`` (bytes) where a huge leaf is: the kernel would take its page for a
    page table (`walk_to_pmd`, `remap_pmd_range`).
    """
    for _, at in mm.sys.arena.huge_leaves(mm.pgd, start, end):
        caller_bug(func, "VM_BUG_ON(pmd_trans_huge(*pmd))", f"a huge page is mapped at {at:#x}")


def pgprot_noncached(prot: int) -> int:
    """The protection with the cache bits for UC- set: PCD (arch/x86).

    >>> hex(pgprot_noncached(0x8000000000000027))
    '0x8000000000000037'
    """
    return prot | _PAGE_PCD


def remap_pfn_range(
    mm: Mm, vma: Vma, addr: int, pfn: int, size: int, prot: int | None = None, func: str = "remap_pfn_range"
) -> Vma:
    """Map ``size`` bytes of consecutive frames from ``pfn`` on at ``addr`` (mm/memory.c); returns the changed
    VMA.

    Sets VM_IO, VM_PFNMAP, VM_DONTEXPAND and VM_DONTDUMP.  No reference, no rss: there need be no struct page.
    Errors: EINVAL (``addr`` not page aligned; a COW mapping not mapped whole), ENOMEM (no table).  A size of
    0, and an entry or a huge leaf in the way, are caller bugs.  Not tested, as in the kernel: that the range
    lies in the VMA.
    """
    j = mm.sys.journal
    j.enter(func, ("vma", vma.start), ("addr", addr), ("pfn", pfn), ("size", size))
    end = addr + ((size + 4095) & -4096)
    if not j.check("PAGE_ALIGNED", "PAGE_ALIGNED(addr)", f"{addr:x}", not addr & 4095):
        j.leave(func, "EINVAL")
        raise KernelError("EINVAL", func, f"addr {addr:#x} is not page aligned")
    whole = addr == vma.start and end == vma.end
    flags = vma.vm_flags
    pgoff = vma.pgoff
    if is_cow_mapping(flags):
        if not j.check("cow_whole", "a COW mapping is mapped whole", f"{addr:x}..{end:x}", whole):
            j.leave(func, "EINVAL")
            raise KernelError("EINVAL", func, "a private writable mapping must be mapped whole, in one call")
        pgoff = pfn
    if addr >= end:
        j.leave(func)
        caller_bug(func, "BUG_ON(addr >= end)", "size is 0")
    try:
        _want_tables(mm, func, addr, end)
    except CallerBugError:
        j.leave(func)
        raise
    entries = mm.sys.arena
    for slot, n, va, _ in entries.runs(mm.pgd, addr, end):
        taken = entries.entries[slot : slot + n]
        if taken.any():
            at = va + (int(np.flatnonzero(taken)[0]) << 12)
            j.leave(func)
            caller_bug(func, "BUG_ON(!pte_none(*pte))", f"the entry for {at:#x} is not empty")
    flags |= VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP
    if whole:
        flags |= VM_PAT  # track_pfn_remap: the memtype of the whole VMA is reserved
        memtype_reserve(mm.sys, pfn, pfn + vma.nr_pages)
    new = vma.replace(vm_flags=flags, pgoff=pgoff)
    mm.set_vma(vma, new)
    _remap_range(mm, addr, end, pfn, (vma.page_prot if prot is None else prot) | _PAGE_SPECIAL, func)
    j.leave(func, 0)
    return new


def _remap_range(mm: Mm, addr: int, end: int, pfn: int, prot: int, func: str) -> None:
    arena, frames = mm.sys.arena, mm.sys.frames
    runs = arena.runs(mm.pgd, addr, end)
    if sum(n for _, n, _, _ in runs) << 12 != end - addr:
        try:
            for va in (addr, *range((addr & -(1 << 21)) + (1 << 21), end, 1 << 21)):
                arena.ensure(mm.pgd, va, mm.counters)
        except OutOfMemory as error:
            mm.sys.journal.leave(func, "ENOMEM")
            raise KernelError("ENOMEM", func, str(error)) from None
        runs = arena.runs(mm.pgd, addr, end)
    for slot, n, first, cuts in runs:
        begin = pfn + ((first - addr) >> 12)
        new: Any = Ramp(mk_pte(begin, prot), n)
        if not prot & _PAGE_PRESENT or (begin + n) << 12 > PTE_PFN_MASK:
            pfns = np.arange(begin, begin + n, dtype=np.int64)
            frames_part = (pfns.astype(np.uint64) << np.uint64(12)) & np.uint64(PTE_PFN_MASK)
            if not prot & _PAGE_PRESENT:  # a PROT_NONE entry holds its frame inverted, as mk_pte has it
                frames_part ^= np.uint64(PTE_PFN_MASK)
            new = frames_part | np.uint64(prot)
        lanes: list[Lane] = [
            SetLane(arena, slice(slot, slot + n), 0, new),
            *device_line_lanes(frames, begin, n, 1),
        ]
        mm.sys.journal.bulk(Bulk("remap_pte_range", n, tuple(lanes), address=first, cuts=cuts))


def io_remap_pfn_range(mm: Mm, vma: Vma, addr: int, pfn: int, size: int, prot: int | None = None) -> Vma:
    """`remap_pfn_range` for device memory; the same on x86 without memory encryption."""
    return remap_pfn_range(mm, vma, addr, pfn, size, prot, "io_remap_pfn_range")


def vm_iomap_memory(mm: Mm, vma: Vma, start: int, length: int) -> Vma:
    """Map the physical range ``[start, start + length)`` (bytes) over the whole VMA, at its vm_pgoff
    (mm/memory.c).

    EINVAL, in this order: the range wraps; its pages wrap; vm_pgoff lies behind it; the VMA is larger than
    the rest. An unaligned start is rounded down.
    """
    func = "vm_iomap_memory"
    j = mm.sys.journal
    j.enter(func, ("vma", vma.start), ("start", start), ("len", length))
    top = 1 << 64
    pages = (length + (start & 4095) + 4095) >> 12
    pfn = start >> 12
    tests = (
        ("start + len wraps", start + length < top),
        ("pfn + pages wraps", pfn + pages <= (top >> 12)),
        ("vm_pgoff <= pages", vma.pgoff <= pages),
        ("vma pages <= pages - vm_pgoff", vma.nr_pages <= pages - vma.pgoff),
    )
    for text, good in tests:
        if not j.check("range", text, f"{start:x} + {length:x}", good):
            j.leave(func, "EINVAL")
            raise KernelError("EINVAL", func, f"check failed: {text}")
    try:
        new = io_remap_pfn_range(mm, vma, vma.start, pfn + vma.pgoff, vma.size)
    except KernelError as error:
        j.leave(func, error.errno)
        raise
    except CallerBugError:
        j.leave(func)
        raise
    j.leave(func, 0)
    return new


def vm_insert_page(mm: Mm, vma: Vma, addr: int, pfn: int) -> Vma:
    """Map one page that has a struct page (mm/memory.c): reference, file rmap and rss FILE go up by one.

    Errors: EFAULT (``addr`` outside the VMA), EINVAL (no reference; an anonymous page), EBUSY (the entry is
    taken), ENOMEM.  Sets VM_MIXEDMAP; in a VM_PFNMAP VMA, or where a huge leaf is, that is a caller bug.
    """
    func = "vm_insert_page"
    j, frames = mm.sys.journal, mm.sys.frames
    j.enter(func, ("vma", vma.start), ("addr", addr), ("pfn", pfn))

    def fail(errno: str, why: str) -> NoReturn:
        j.leave(func, errno)
        raise KernelError(errno, func, why)

    if not vma.start <= addr < vma.end:
        fail("EFAULT", f"{addr:#x} lies outside the VMA {vma.start:#x}-{vma.end:#x}")
    if not frames.pfn_valid(pfn) or frames.refcount.flat[pfn] == 0:
        fail("EINVAL", f"frame {pfn:#x} has no struct page with a reference")
    if not frames.flags.flat[pfn] & PG_ANON:  # which is refused before tables are looked at
        try:
            _want_tables(mm, func, addr & -4096, addr + 1)
        except CallerBugError:
            j.leave(func)
            raise
    if not vma.vm_flags & VM_MIXEDMAP:
        if vma.vm_flags & VM_PFNMAP:
            j.leave(func)
            caller_bug(func, "BUG_ON(vma->vm_flags & VM_PFNMAP)", "the VMA is VM_PFNMAP")
        new = vma.replace(vm_flags=vma.vm_flags | VM_MIXEDMAP)
        mm.set_vma(vma, new)
        vma = new
    try:
        insert_page(mm, vma, addr, pfn, func)
    except KernelError as error:
        j.leave(func, error.errno)
        raise
    j.leave(func, 0)
    return vma


def insert_page(mm: Mm, vma: Vma, addr: int, pfn: int, func: str = "insert_page") -> None:
    """The entry, reference, mapcount and rss of one inserted page (`insert_page`)."""
    j, frames, arena = mm.sys.journal, mm.sys.frames, mm.sys.arena
    if frames.flags.flat[pfn] & PG_ANON:
        raise KernelError("EINVAL", func, f"frame {pfn:#x} is an anonymous page")
    try:
        slot = arena.ensure(mm.pgd, addr, mm.counters)
    except OutOfMemory as error:
        raise KernelError("ENOMEM", func, str(error)) from None
    if arena.flat[slot]:
        raise KernelError("EBUSY", func, f"the entry for {addr:#x} is taken")
    j.add(frames.refcount, pfn, 1)
    j.add(frames.mapcount, pfn, 1)
    j.add(mm.counters, "file", 1)
    j.write(arena, slot, mk_pte(pfn, vma.page_prot))


def vmf_insert_pfn(mm: Mm, vma: Vma, addr: int, pfn: int, prot: int | None = None) -> int:
    """Map one raw frame from a fault handler (mm/memory.c); returns VM_FAULT_NOPAGE, _SIGBUS or _OOM.

    An entry that is already there is left alone.  Caller bugs: the VMA is neither PFNMAP nor MIXEDMAP or
    both; a COW PFNMAP mapping; a MIXEDMAP VMA and a frame with a struct page; a huge leaf in the way.
    """
    func = "vmf_insert_pfn"
    flags = vma.vm_flags
    kinds = flags & (VM_PFNMAP | VM_MIXEDMAP)
    if kinds not in (VM_PFNMAP, VM_MIXEDMAP):
        caller_bug(
            func, "BUG_ON(exactly one of PFNMAP, MIXEDMAP)", "the VMA is neither VM_PFNMAP nor VM_MIXEDMAP"
        )
    if kinds == VM_PFNMAP and is_cow_mapping(flags):
        caller_bug(
            func, "BUG_ON(is_cow_mapping)", "a private writable PFNMAP mapping cannot be filled by faults"
        )
    if kinds == VM_MIXEDMAP and mm.sys.frames.pfn_valid(pfn):
        caller_bug(func, "BUG_ON(VM_MIXEDMAP && pfn_valid(pfn))", f"frame {pfn:#x} has a struct page")
    j, arena = mm.sys.journal, mm.sys.arena
    if vma.start <= addr < vma.end:
        _want_tables(mm, func, addr & -4096, addr + 1)
    j.enter(func, ("addr", addr), ("pfn", pfn))
    if not vma.start <= addr < vma.end:
        j.leave(func, "VM_FAULT_SIGBUS")
        return VM_FAULT_SIGBUS
    try:
        slot = arena.ensure(mm.pgd, addr, mm.counters)
    except OutOfMemory:
        j.leave(func, "VM_FAULT_OOM")
        return VM_FAULT_OOM
    if not arena.flat[slot]:
        entry = mk_pte(pfn, (vma.page_prot if prot is None else prot) | _PAGE_SPECIAL)
        region = mm.sys.frames.region_of(pfn)
        if region is not None:
            j.add(region.maps, pfn - region.start_pfn, 1)
        j.write(arena, slot, entry)
    j.leave(func, "VM_FAULT_NOPAGE")
    return VM_FAULT_NOPAGE


def follow_pfn(mm: Mm, vma: Vma, addr: int) -> int:
    """The frame number behind an address of a VM_IO or VM_PFNMAP mapping (mm/memory.c); EINVAL else."""
    if not vma.vm_flags & (VM_IO | VM_PFNMAP):
        raise KernelError("EINVAL", "follow_pfn", "the VMA is neither VM_IO nor VM_PFNMAP")
    slot = mm.sys.arena.lookup(mm.pgd, addr)
    entry = mm.sys.arena.flat[slot] if slot >= 0 else 0
    if not entry & 1:
        raise KernelError("EINVAL", "follow_pfn", f"no entry is present for {addr:#x}")
    return pte_pfn(entry)
