"""Faults on mappings that have pages behind them (models do_read_fault, do_cow_fault and do_shared_fault of
mm/memory.c).

A handler only finds the page; how it is mapped depends on the access and on the mapping, and is the same for
page caches and for drivers.
"""

from __future__ import annotations

from collections.abc import Callable

from ...arch.x86 import _PAGE_RW
from ..flags import VM_SHARED, VM_WRITE
from ..mlock_pages import mlock_vma_pages
from ..mm_types import Mm
from ..page_alloc import ANON, OutOfMemory
from ..page_flags import PG_DIRTY
from ..rmap import anon_vma_prepare
from ..vma import Vma
from .fault import ANON_FLAGS, MKDIRTY, FaultContext, file_counter
from .pfn import VM_FAULT_NOPAGE, VM_FAULT_OOM, VM_FAULT_SIGBUS

FindPage = Callable[[], tuple[int, int]]
"""Finds the page of a fault: its pfn (-1: there is none) and a VM_FAULT code, 0 or VM_FAULT_MAJOR."""


def do_fault_page(ctx: FaultContext, find: FindPage, around: Callable[[], bool] | None = None) -> int:
    """Serve a fault with the page that ``find`` finds; returns a VM_FAULT code (SIGBUS where it finds none).

    A read maps the page as vm_page_prot says; a write to a shared mapping maps it writable and dirty; a write
    to a private one makes a copy at once.  ``around`` maps cached neighbours at a read and tells whether that
    was enough.
    """
    mm, vma, j = ctx.mm, ctx.vma, ctx.mm.sys.journal
    private_write = ctx.write and not vma.vm_flags & VM_SHARED
    name = "do_read_fault" if not ctx.write else "do_cow_fault" if private_write else "do_shared_fault"
    j.enter(name, ("address", ctx.address))
    try:
        if around is not None and not ctx.write and around():
            ret = VM_FAULT_NOPAGE
        else:
            if private_write:
                vma = anon_vma_prepare(mm, vma)
            pfn, ret = find()
            if pfn < 0:
                ret = VM_FAULT_SIGBUS
            elif private_write:
                _cow(ctx, vma.anon_vma, pfn)
            else:
                _map(ctx, pfn)
    except OutOfMemory:
        ret = VM_FAULT_OOM
    j.leave(name, ret)
    return ret


def set_file_pte(mm: Mm, vma: Vma, slot: int, pfn: int, prot: int) -> None:
    """One entry for a page of a file, with its reference, mapcount and rss (`do_set_pte`)."""
    j, frames = mm.sys.journal, mm.sys.frames
    j.add(frames.refcount, pfn, 1)
    j.add(frames.mapcount, pfn, 1)
    j.add(mm.counters, file_counter(frames, pfn), 1)
    j.write(mm.sys.arena, slot, (pfn << 12) | prot)
    mlock_vma_pages(mm, vma, [pfn])


def _map(ctx: FaultContext, pfn: int) -> None:
    """Map the page itself (`finish_fault`); a shared write makes entry and page dirty
    (`fault_dirty_shared_page`).
    """
    mm, vma = ctx.mm, ctx.vma
    slot = mm.sys.arena.ensure(mm.pgd, ctx.address, mm.counters)
    prot = vma.page_prot
    if ctx.write:
        prot |= MKDIRTY | (_PAGE_RW if vma.vm_flags & VM_WRITE else 0)
    set_file_pte(mm, vma, slot, pfn, prot)
    flags = mm.sys.frames.flags
    if ctx.write and not flags.flat[pfn] & PG_DIRTY:
        mm.sys.journal.write(flags, pfn, flags.flat[pfn] | PG_DIRTY)


def _cow(ctx: FaultContext, anon_vma: int, source: int) -> None:
    """A private copy of the page, made at once by a write (`do_cow_fault`)."""
    mm, frames, j = ctx.mm, ctx.mm.sys.frames, ctx.mm.sys.journal
    slot = mm.sys.arena.ensure(mm.pgd, ctx.address, mm.counters)
    index = ctx.vma.pgoff + ((ctx.address - ctx.vma.start) >> 12)
    pfn = frames.alloc_page(ANON, ANON_FLAGS, anon_vma, index, frames.content.flat[source], 1)
    j.add(mm.counters, "anon", 1)
    writable = _PAGE_RW if ctx.vma.vm_flags & VM_WRITE else 0
    j.write(mm.sys.arena, slot, (pfn << 12) | ctx.vma.page_prot | MKDIRTY | writable)
    mlock_vma_pages(mm, ctx.vma, [pfn])
