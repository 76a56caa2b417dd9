"""The kernel's own accesses to a process's memory: copies in system calls (models lib/usercopy.c and the
callers in fs/pipe.c and drivers/char/mem.c), and pages that are taken by the hand (mm/process_vm_access.c).
"""

from __future__ import annotations

import numpy as np

from ..arch.x86 import _PAGE_PRESENT, _PAGE_RW
from ..errors import KernelError, SignalRaised
from .access import READ, WRITE, access
from .flags import VM_HUGETLB, VM_IO, VM_PFNMAP, VM_READ
from .gup import fault_missing, touch_pages
from .huge_memory import FAULT_FALLBACK, do_huge_pmd_wp_page
from .hugetlb import hugetlb_wp
from .memory.normal_page import ANON_PAGE, kinds_of, pfns_of
from .memory.wp import handle_unshare
from .mm_types import Mm
from .page_flags import PG_ANON, PG_EXCLUSIVE


def write_to_pipe(mm: Mm, addr: int, length: int) -> int:
    """write(2) to a pipe: the kernel reads ``length`` bytes at ``addr``; returns how many (`copy_from_user`).

    Whole pieces of 4096 bytes count.  EFAULT when not even the first can be read: what would be a signal for
    the process is an error here.  VM_PFNMAP and VM_IO mappings can be read, as by the process.
    """
    done = 0
    while done < length:
        piece = min(4096, length - done)
        try:
            access(mm, addr + done, piece, READ)
        except SignalRaised as signal:
            if done:
                return done
            raise KernelError("EFAULT", "write", f"the kernel cannot read there: {signal}") from None
        done += piece
    return done


def read_from_zero(mm: Mm, addr: int, length: int) -> int:
    """read(2) from /dev/zero: the kernel writes zeros to ``length`` bytes at ``addr``; returns how many
    (`clear_user`).

    EFAULT when not even the first byte can be written.
    """
    done = 0
    while done < length:
        piece = min(1 << 20, length - done)
        try:
            access(mm, addr + done, piece, WRITE, bytes(piece))
        except SignalRaised as signal:
            done += max(0, signal.addr - addr - done) if signal.touched else 0
            if not done:
                raise KernelError("EFAULT", "read", f"the kernel cannot write there: {signal}") from None
            return done
        done += piece
    return done


def process_vm_readv(mm: Mm, addr: int, length: int) -> int:
    """process_vm_readv(2) of the process's own memory; returns how many bytes it got (get_user_pages).

    EFAULT when not even the first page can be had: no mapping, no VM_READ, or a mapping of a device
    (VM_IO, VM_PFNMAP), which has no pages to take.  A private page that others share is unshared first.
    """
    at, end = addr, addr + length
    while at < end:
        vma = mm.vma_at(at)
        why = "nothing is mapped" if vma is None else ""
        if vma is not None and vma.vm_flags & (VM_IO | VM_PFNMAP):
            why = "a device mapping has no pages to take (VM_IO, VM_PFNMAP)"
        elif vma is not None and not vma.vm_flags & VM_READ:
            why = f"the mapping is {vma.perms}"
        if vma is None or why:
            return _partial(at - addr, why or "")
        stop = min(end, vma.end)
        taken = _pin(mm, at, stop)
        if taken < stop:
            return _partial(max(0, taken - addr), "a page could not be faulted in")
        at = stop
    return length


def _partial(done: int, why: str) -> int:
    if done <= 0:
        raise KernelError("EFAULT", "process_vm_readv", why)
    return done


def _pin(mm: Mm, start: int, end: int) -> int:
    """Fault the pages of ``[start, end)`` in and unshare them; returns how far it came."""
    first, last = start & -4096, (end + 4095) & -4096
    error, _ = fault_missing(mm, first, last, False)
    arena, frames = mm.sys.arena, mm.sys.frames
    for va in range(first, last, 4096):
        entry = arena.entry_at(mm.pgd, va)
        if not entry & _PAGE_PRESENT:
            touch_pages(mm, first, va)
            return va if error else end
        huge = arena.huge_slot(mm.pgd, va)
        value = np.array([entry], np.uint64)
        if entry & _PAGE_RW or (huge < 0 and int(kinds_of(mm, value)[0]) != ANON_PAGE):
            continue
        pfn = int(pfns_of(value)[0])
        flags = frames.flags.flat[frames.head_of(pfn) if huge >= 0 else pfn]
        if flags & (PG_ANON | PG_EXCLUSIVE) == PG_ANON:
            now = mm.vma_at(va)
            assert now is not None
            if now.vm_flags & VM_HUGETLB:
                if hugetlb_wp(mm, now, va, huge, unshare=True):
                    touch_pages(mm, first, va)
                    return va
            elif huge < 0 or do_huge_pmd_wp_page(mm, now, va, huge, True) == FAULT_FALLBACK:
                handle_unshare(mm, now, va, arena.lookup(mm.pgd, va))
            mm.sys.journal.add(mm.counters, "min_flt", 1)
    touch_pages(mm, first, last)
    return end
