"""Changing the protection of mappings (models mm/mprotect.c)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_CHG_MASK,
    _PAGE_DIRTY,
    _PAGE_GLOBAL,
    _PAGE_NX,
    _PAGE_PAT,
    _PAGE_PCD,
    _PAGE_PKEY_MASK,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_PWT,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SPECIAL,
    _PAGE_USER,
    PTE_PFN_MASK,
)
from ..errors import KernelError
from ..trace.bulk import Bulk, FlipLane, SetLane
from .flags import (
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    PROT_SEM,
    PROT_WRITE,
    VM_ACCESS_FLAGS,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_NORESERVE,
    VM_PKEY_MASK,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WRITE,
    calc_vm_prot_bits,
)
from .gup import populate_vma_page_range
from .huge_memory import change_huge_pmd, split_partial
from .hugetlb import hugetlb_change_protection
from .memory.alike import Alike
from .memory.normal_page import pfns_of
from .mm_types import Mm
from .mmap import vma_page_prot, vma_wants_writenotify
from .mmu_gather import MmuGather
from .page_flags import PG_ANON, PG_EXCLUSIVE
from .util import may_expand_vm, vm_enough_memory
from .vma import Vma
from .vma_merge import vma_modify

TOP = 1 << 64
_VALID = PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM
_FLUSH_ON_CHANGE = np.uint64(
    _PAGE_RW | _PAGE_USER | _PAGE_PWT | _PAGE_PCD | _PAGE_PAT | _PAGE_GLOBAL | _PAGE_PKEY_MASK | _PAGE_NX
)
_FLUSH_ON_CLEAR = np.uint64(_PAGE_DIRTY | _PAGE_PRESENT | _PAGE_ACCESSED)
_PRESENT = np.uint64(_PAGE_PRESENT)


def _error(errno: str, why: str) -> KernelError:
    return KernelError(errno, "mprotect", why)


def do_mprotect(mm: Mm, start: int, length: int, prot: int) -> MmuGather | None:
    """Change the protection of ``[start, start + length)`` (bytes; mprotect(2), do_mprotect_pkey).

    Returns the gather (what was flushed); None for a length of 0.  Errors in the kernel's order: EINVAL (both
    PROT_GROWS*, unaligned, unknown bits), ENOMEM (the range wraps, a hole), EINVAL (PROT_GROWSDOWN without a
    stack), EACCES (a VM_MAY* bit is missing), ENOMEM (a limit).  The VMAs before the failing one stay
    changed.  Not simulated: protection keys.
    """
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    prot &= ~(PROT_GROWSDOWN | PROT_GROWSUP)
    if grows == PROT_GROWSDOWN | PROT_GROWSUP:
        raise _error("EINVAL", "PROT_GROWSDOWN and PROT_GROWSUP exclude each other")
    if start & 4095:
        raise _error("EINVAL", f"address {start:#x} is not page aligned")
    if length == 0:
        return None
    end = (start + ((length + 4095) & -4096 & (TOP - 1))) & (TOP - 1)
    if end <= start:
        raise _error("ENOMEM", "the range is empty or wraps when rounded up to pages")
    if prot & ~_VALID:
        raise _error("EINVAL", f"prot has unknown bits {prot & ~_VALID:#x}")
    vma = mm.find_vma(start)
    if vma is None:
        raise _error("ENOMEM", f"no VMA lies at or above {start:#x}")
    if grows & PROT_GROWSDOWN:
        if vma.start >= end:
            raise _error("ENOMEM", f"nothing is mapped at {start:#x}")
        start = vma.start
        if not vma.vm_flags & VM_GROWSDOWN:
            raise _error("EINVAL", "PROT_GROWSDOWN needs a mapping that grows down")
    else:
        if vma.start > start:
            raise _error("ENOMEM", f"nothing is mapped at {start:#x}; the next VMA starts at {vma.start:#x}")
        if grows & PROT_GROWSUP:
            raise _error("EINVAL", "PROT_GROWSUP: no mapping grows up on x86")
    gather = MmuGather(mm)
    try:
        _walk(mm, vma, start, end, prot, gather)
    finally:
        gather.finish()
    return gather


def _walk(mm: Mm, vma: Vma | None, at: int, end: int, prot: int, gather: MmuGather) -> None:
    while True:
        if vma is None or vma.start > at:
            raise _error("ENOMEM", f"nothing is mapped at {at:#x}")
        flags = calc_vm_prot_bits(prot) | (vma.vm_flags & ~(VM_ACCESS_FLAGS | VM_PKEY_MASK))
        if flags & ~(flags >> 4) & VM_ACCESS_FLAGS:
            raise _error("EACCES", f"the mapping {vma.name or hex(vma.start)} must not get these rights")
        stop = min(vma.end, end)
        vma = mprotect_fixup(mm, vma, at, stop, flags, gather)
        at = max(stop, vma.end)
        if at >= end:
            return
        vma = mm.find_vma(at)


def mprotect_fixup(mm: Mm, vma: Vma, start: int, end: int, newflags: int, gather: MmuGather) -> Vma:
    """Give a range of one VMA new flags, and its entries the protection that follows (mm/mprotect.c).

    Returns the VMA that has the range then.  ENOMEM: RLIMIT_AS or RLIMIT_DATA, commit charge, max_map_count.
    The charge stays when a range loses its write permission (later kernels: `KernelVersion.drops_account`).
    """
    oldflags, pages = vma.vm_flags, (end - start) >> 12
    if newflags == oldflags:
        return vma
    j, charged = mm.sys.journal, 0
    j.enter("mprotect_fixup", ("start", start), ("end", end), ("newflags", newflags))
    try:
        if newflags & VM_WRITE:
            if not may_expand_vm(mm, newflags, pages) and may_expand_vm(mm, oldflags, pages):
                raise _error("ENOMEM", "the range turns into data, which would exceed RLIMIT_DATA")
            if not oldflags & (VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE):
                vm_enough_memory(mm, pages, "mprotect")
                charged, newflags = pages, newflags | VM_ACCOUNT
        elif mm.sys.version.drops_account and vma.is_anonymous and not vma.anon_vma:
            newflags &= ~VM_ACCOUNT
        vma = vma_modify(mm, vma, start, end, newflags, "mprotect")
    except KernelError as error:
        if charged:
            j.add(mm.sys.commit, "committed", -charged)
        j.leave("mprotect_fixup", error.errno)
        raise
    if newflags & VM_SHARED:
        upgrade = vma_wants_writenotify(mm, vma, newflags, vma.page_prot)
    else:
        upgrade = bool(newflags & VM_WRITE)
    new = vma.replace(vm_flags=newflags, page_prot=vma_page_prot(mm, vma, newflags))
    mm.set_vma(vma, new)
    change_protection(mm, new, start, end, gather, upgrade)
    if oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and newflags & VM_WRITE:
        populate_vma_page_range(mm, new, start, end)
    if oldflags & ~newflags & VM_ACCOUNT:
        j.add(mm.sys.commit, "committed", -pages)
    mm.account(oldflags, -pages)
    mm.account(newflags, pages)
    j.leave("mprotect_fixup", 0)
    return mm.vma_at(start) or new


def change_protection(mm: Mm, vma: Vma, start: int, end: int, gather: MmuGather, upgrade: bool) -> int:
    """Give the present entries of a range the protection of their VMA (mm/mprotect.c); returns how many
    changed.

    Frame, cache bits, A, D and the software bits stay.  ``upgrade``: entries that could be writable without
    a fault become so (MM_CP_TRY_CHANGE_WRITABLE).  One record per run of tables that lie side by side.
    """
    j, arena, changed = mm.sys.journal, mm.sys.arena, 0
    j.enter("change_protection", ("start", start), ("end", end), ("newprot", vma.page_prot))
    if vma.vm_flags & VM_HUGETLB:
        changed = hugetlb_change_protection(mm, vma, start, end, gather)
        j.leave("change_protection", changed)
        return changed
    for slot, haddr in split_partial(mm, vma, start, end):
        changed += change_huge_pmd(mm, vma, slot, haddr, gather)
    for slot, n, address, cuts in arena.runs(mm.pgd, start, end):
        flip = _common_change(mm, vma, Alike.of(arena, slot, n), upgrade)
        if flip is not None:
            changed += _change_alike(mm, slot, n, address, cuts, flip, gather)
            continue
        old = arena.entries[slot : slot + n]
        new = pte_modify_many(old, vma.page_prot)
        if upgrade:
            new = np.where(can_change_pte_writable(mm, vma, new), new | np.uint64(_PAGE_RW), new)
        where = np.flatnonzero(old != new)
        if not len(where):
            continue
        changed += len(where)
        old, new = old[where], new[where]
        lo, m = int(where[0]), len(where)
        dense = int(where[-1]) - lo + 1 == m
        index: Any = slice(slot + lo, slot + lo + m) if dense else where + slot
        addresses = None if dense else (where.astype(np.uint64) << np.uint64(12)) + np.uint64(address)
        here = tuple(c - lo for c in cuts if lo < c < lo + m) if dense else ()
        lane = SetLane(arena, index, old, new)
        at = address + (lo << 12)
        j.bulk(Bulk("change_pte_range", m, (lane,), address=at, addresses=addresses, cuts=(0, *here)))
        flush = where[pte_needs_flush(old, new)]
        if len(flush):
            gather.note(address + (int(flush[0]) << 12), address + ((int(flush[-1]) + 1) << 12))
    j.leave("change_protection", changed)
    return changed


def _common_change(mm: Mm, vma: Vma, alike: Alike | None, upgrade: bool) -> int | None:
    """The bits that change in entries that are alike, the same in all; None where each is to be judged by itself."""
    if alike is None:
        return None
    old = np.array([alike.entry], np.uint64)
    new = pte_modify_many(old, vma.page_prot)
    if upgrade and _able(vma, new)[0]:
        if not vma.vm_flags & VM_SHARED:
            if alike.entry & _PAGE_SPECIAL or not alike.anonymous(mm.sys.frames):
                return None
            own = alike.all_have(mm.sys.frames, PG_EXCLUSIVE)
            if own is None:
                return None
            upgrade = own
        if upgrade:
            new |= np.uint64(_PAGE_RW)
    return int((old ^ new)[0])


def _change_alike(
    mm: Mm, slot: int, n: int, address: int, cuts: tuple[int, ...], flip: int, gather: MmuGather
) -> int:
    """Turn the same bits of ``n`` neighbouring entries over; returns how many changed."""
    if not flip:
        return 0
    arena = mm.sys.arena
    old = np.array([arena.flat[slot]], np.uint64)
    lane = FlipLane(arena, slice(slot, slot + n), flip)
    mm.sys.journal.bulk(Bulk("change_pte_range", n, (lane,), address=address, cuts=cuts))
    if pte_needs_flush(old, old ^ np.uint64(flip))[0]:
        gather.note(address, address + (n << 12))
    return n


def pte_modify_many(entries: NDArray[np.uint64], newprot: int) -> NDArray[np.uint64]:
    """`pte_modify` for many entries; those that keep no frame (empty, swapped out) stay as they are.

    >>> old = np.array([0, 0x8000000010007227], np.uint64)
    >>> [hex(x) for x in pte_modify_many(old, 0x120)]
    ['0x0', '0xfffffefff8320']
    """
    new = (entries & np.uint64(_PAGE_CHG_MASK)) | np.uint64(newprot & ~_PAGE_CHG_MASK)
    turned = (entries & _PRESENT) != (new & _PRESENT)  # a PROT_NONE entry holds its frame inverted
    new = np.where(turned, new ^ np.uint64(PTE_PFN_MASK), new)
    keeps = (entries & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE)) != 0
    return np.where(keeps, new, entries)


def can_change_pte_writable(mm: Mm, vma: Vma, entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which entries may get the write bit without a fault (mm/mprotect.c): dirty ones that nobody tracks;
    in a private mapping only those of pages that are its own alone.
    """
    able = _able(vma, entries)
    if vma.vm_flags & VM_SHARED or not able.any():
        return able
    frames = mm.sys.frames
    pfns = pfns_of(entries)
    able &= ((entries & np.uint64(_PAGE_SPECIAL)) == 0) & (pfns < frames.nr_frames)
    own = PG_ANON | PG_EXCLUSIVE
    able[able] = frames.flags.array[pfns[able]] & own == own
    return able


def _able(vma: Vma, entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which entries are dirty, read-only and not tracked."""
    wanted = _PAGE_PRESENT | _PAGE_DIRTY | (0 if vma.vm_flags & VM_SOFTDIRTY else _PAGE_SOFT_DIRTY)
    able: NDArray[np.bool_] = (entries & np.uint64(wanted | _PAGE_RW)) == np.uint64(wanted)
    return able


def pte_needs_flush(old: NDArray[np.uint64], new: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which changes a TLB must hear of (arch/x86/include/asm/tlbflush.h): those of entries it may hold.

    On x86 a change of the write bit counts in both directions.
    """
    differ = old ^ new
    told = (differ & _FLUSH_ON_CHANGE) | (differ & old & _FLUSH_ON_CLEAR) | (differ & np.uint64(PTE_PFN_MASK))
    needs: NDArray[np.bool_] = ((old & _PRESENT) != 0) & (told != 0)
    return needs
