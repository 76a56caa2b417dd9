"""Loads, stores and fetches of a process (models the MMU and do_user_addr_fault of arch/x86/mm/fault.c).

An access touches every page of its range, in order; each page is translated, faulted in where needed, and
gets its accessed and dirty bits.  Neighbours that need the same are served as one run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import numpy as np
from numpy.typing import NDArray

from ..arch.tlb import TLB_ENTRIES
from ..arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_NX,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_RW,
    PTE_PFN_MASK,
    is_swap_pte,
    pmd_pfn,
)
from ..errors import CallerBugError, SignalRaised, UnknownContentsError
from ..trace.bulk import Bulk, SetLane
from ..value import Value
from .access_one import touch_one
from .brk import expand_downwards
from .contents import Contents
from .flags import VM_EXEC, VM_GROWSDOWN, VM_HUGETLB, VM_READ, VM_WRITE
from .huge_memory import FAULT_FALLBACK, do_huge_pmd_wp_page
from .hugetlb import hugetlb_wp
from .memory.fault import handle_missing
from .memory.normal_page import pfns_of
from .memory.pfn import VM_FAULT_MAJOR, VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV
from .memory.swap import do_swap_page
from .memory.wp import handle_write_protected
from .page_alloc import OutOfMemory

if TYPE_CHECKING:
    from .mm_types import Mm
    from .vma import Vma

READ, WRITE, EXEC = "read", "write", "exec"
SHOWN_PAGES = 16
NOT_READ = "what the page holds was not read: vmviz imports no contents"


@attrs.frozen(eq=False, repr=False)
class Access(Value):
    """What an access did: pages ``touched``; ``data``, the first byte of each page of a read (16 at most), or
    the bytes read when they lie in one page (None where the pages are those of an imported process, whose
    contents were not read: ``why`` says so); minor and major faults.
    """

    touched: int
    data: bytes | None = b""
    min_flt: int = 0
    maj_flt: int = 0
    why: str = ""


def access(
    mm: Mm, addr: int, length: int, kind: str, data: bytes | int = 0x5A, *, mmu: bool = True
) -> Access:
    """Touch ``[addr, addr + length)`` (bytes) page by page; ``kind`` is "read", "write" or "exec".

    A write stores ``data``: bytes, from ``addr`` on, or one value, into the first byte of each page touched.
    Without ``mmu`` only the faults are served, as for get_user_pages: no processor marks the entries.
    Raises `SignalRaised` where the kernel sends a signal (``touched`` pages were reached),
    `UnknownContentsError` where an imported process does not tell what would happen, `OutOfMemory` when no
    frame is left.
    """
    minor, major = mm.counters.data["min_flt"], mm.counters.data["maj_flt"]
    page, last = addr >> 12, (addr + max(length, 1) - 1) >> 12
    first = page
    try:
        while page <= last:
            at = max(addr, page << 12)
            vma = _good_area(mm, at, kind)
            n = min(last + 1, vma.end >> 12, (page | 511) + 1) - page
            done = _run(mm, vma, page, n, kind, at, mmu)
            if done and kind == WRITE:
                _write_data(mm, page, done, addr, data)
            page += done
    except SignalRaised as signal:
        signal.touched = page - first
        raise
    finally:
        if mmu:
            _fill_tlb(mm, max(first, page - TLB_ENTRIES), page)
    read = _read_data(mm, addr, length) if kind == READ else b""
    c = mm.counters.data
    why = NOT_READ if read is None else ""
    return Access(last - first + 1, read, c["min_flt"] - minor, c["maj_flt"] - major, why)


WRITTEN = Access(1), Access(1, min_flt=1)
"""What a write of one page comes to, without and with a fault (see `access_one.touch_one`)."""


def load_one(mm: Mm, addr: int, length: int) -> Access | None:
    """Read ``length`` bytes of one page, if that is as simple as it mostly is; None where `access` has to do it."""
    touched = touch_one(mm, addr, False, 0)
    if touched is None:
        return None
    entry, faults = touched
    frames, pfn = mm.sys.frames, (entry & PTE_PFN_MASK) >> 12
    n = length if length <= 64 else 1
    known = frames.known(pfn, addr & 4095, n)
    read = frames.read(pfn, addr & 4095, n) if known else None
    return Access(1, read, faults, 0, "" if known else NOT_READ)


def _signal(name: str, code: str, addr: int, why: str) -> NoReturn:
    raise SignalRaised(name, code, addr, why)


def _good_area(mm: Mm, at: int, kind: str) -> Vma:
    """Find the VMA of an address, grow a stack to it, and check the access (`do_user_addr_fault`)."""
    mode = mm.sys.mode
    if not mode.is_canonical(at):
        _signal(
            "SIGSEGV",
            "SI_KERNEL",
            0,
            f"{at:#x} is not canonical: a general protection fault, not a page fault",
        )
    if at >= mm.task_size:
        _signal("SIGSEGV", "SEGV_MAPERR", at, "the address lies in the kernel half")
    vma = mm.find_vma(at)
    if vma is None:
        _signal("SIGSEGV", "SEGV_MAPERR", at, "no VMA lies at or above the address")
    if at < vma.start:
        if not vma.vm_flags & VM_GROWSDOWN:
            _signal(
                "SIGSEGV",
                "SEGV_MAPERR",
                at,
                f"no VMA holds the address; the next one starts at {vma.start:#x}",
            )
        error = expand_downwards(mm, vma, at & -4096)
        if error:
            _signal("SIGSEGV", "SEGV_MAPERR", at, f"the stack cannot grow to the address: {error}")
        vma = mm.vma_at(at)
        assert vma is not None
    if kind == WRITE and not vma.vm_flags & VM_WRITE:
        _signal("SIGSEGV", "SEGV_ACCERR", at, f"a write to a mapping that is {vma.perms}")
    if kind != WRITE and not vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC):
        _signal("SIGSEGV", "SEGV_ACCERR", at, "the mapping allows no access at all (PROT_NONE)")
    return vma


MISSING, PROTECTED, FINE, NOEXEC, SWAPPED = range(5)


def _kind_of(entry: int, kind: str) -> int:
    if not entry & _PAGE_PRESENT:
        return SWAPPED if is_swap_pte(entry) else MISSING
    if kind == WRITE and not entry & _PAGE_RW:
        return PROTECTED
    if kind == EXEC and entry & _PAGE_NX:
        return NOEXEC
    return FINE


def _extent(values: Any, kind: str, first: int) -> int:
    """How many entries from the first on are of its kind."""
    if len(values) == 1:
        return 1
    present = (values & np.uint64(_PAGE_PRESENT)) != 0
    if first == MISSING:
        other = np.flatnonzero(values != 0)
    elif first == SWAPPED:
        other = np.flatnonzero((values == 0) | (values & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE) != 0))
    elif kind == WRITE:
        writable = (values & np.uint64(_PAGE_RW)) != 0
        other = np.flatnonzero(~(present & (writable == (first == FINE))))
    else:
        other = np.flatnonzero(~present)
    return int(other[0]) if len(other) else len(values)


def _run(mm: Mm, vma: Vma, page: int, n: int, kind: str, at: int, mmu: bool) -> int:
    """Serve a run from ``page`` on; returns how many pages are done, 0 when the access has to be tried
    again.
    """
    arena, va = mm.sys.arena, page << 12
    slot = arena.lookup(mm.pgd, va)
    huge = arena.huge_slot(mm.pgd, va) if slot < 0 else -1
    entry = arena.flat[max(slot, huge)] if slot >= 0 or huge >= 0 else 0
    first = _kind_of(entry, kind)
    if huge >= 0 and first == FINE:
        wanted = entry | _PAGE_ACCESSED | (_PAGE_DIRTY if kind == WRITE else 0)
        if mmu and entry != wanted:
            mm.sys.journal.write(arena, huge, wanted)
        return n
    if slot >= 0 and n > 1:
        n = _extent(arena.entries[slot : slot + n], kind, first)
    if first == FINE and not mmu:
        return n
    if first == FINE:
        _mark(mm, page, slot, n, kind == WRITE)
        return n
    if first == NOEXEC or (kind == EXEC and entry and not vma.vm_flags & VM_EXEC):
        _signal("SIGSEGV", "SEGV_ACCERR", at, f"a fetch from a page without execute permission ({vma.perms})")
    if mm.unknown.data and (hidden := mm.unknown_pages(va, va + (n << 12))):
        raise UnknownContentsError(
            f"{hidden} of the entries at {va:#x} cannot be observed from user space (VM_PFNMAP), so whether "
            "the access would fault is not known; a zap_vma_ptes makes them known to be empty"
        )
    fault(mm, vma, at, va, slot if huge < 0 else huge, n, kind == WRITE, first)
    return 0


def fault(mm: Mm, vma: Vma, at: int, va: int, slot: int, n: int, write: bool, kind: int = MISSING) -> None:
    """A page fault at ``at`` that is served for ``n`` pages from ``va`` on; raises as `access` does."""
    j = mm.sys.journal
    code = (0x4 | (0x2 if write else 0)) | (0x1 if kind == PROTECTED else 0)
    j.enter("exc_page_fault", ("address", at), ("error_code", code), ("times", n))
    j.event("page_fault_user", ("address", at), ("error_code", code))
    j.enter("handle_mm_fault", ("address", at), ("vma", vma.start))
    try:
        if kind == SWAPPED:
            ret = do_swap_page(mm, vma, va, slot, n, write)
        elif kind == PROTECTED:
            ret = _write_protected(mm, vma, va, slot, n)
        else:
            ret = handle_missing(mm, vma, va, n, write)
    except CallerBugError:
        j.leave("handle_mm_fault")
        j.leave("exc_page_fault")
        raise
    j.leave("handle_mm_fault", ret)
    if kind != SWAPPED and not ret & (VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV | VM_FAULT_OOM):
        major = bool(ret & VM_FAULT_MAJOR)
        ops = mm.sys.ops_of(vma)
        single = kind == MISSING and ops is not None and not ops.per_page
        times = 1 if major or single else _served(mm, va, n)
        j.add(mm.counters, "maj_flt" if major else "min_flt", times)
    j.leave("exc_page_fault")
    if ret & VM_FAULT_OOM:
        raise OutOfMemory(
            "no frame is left; a real kernel starts the OOM killer here, which vmviz does not have"
        )
    if ret & VM_FAULT_SIGBUS:
        ops = mm.sys.ops_of(vma)
        if ops is not None and ops.fault is None:
            why = f"the entry is empty and {vma.name or 'the driver'} has no fault handler to fill it"
        else:
            why = f"the fault handler of {vma.name or 'the mapping'} has no page for the address"
        _signal("SIGBUS", "BUS_ADRERR", at, why)
    if ret & VM_FAULT_SIGSEGV:
        _signal("SIGSEGV", "SEGV_MAPERR", at, "the fault handler refused")


def _write_protected(mm: Mm, vma: Vma, va: int, slot: int, n: int) -> int:
    """A write to what is read-only, of a huge leaf too: if it has to be split, its small entry goes on."""
    arena = mm.sys.arena
    if arena.huge.data and arena.huge.get(slot) is not None:
        if vma.vm_flags & VM_HUGETLB:
            return hugetlb_wp(mm, vma, va, slot)
        if do_huge_pmd_wp_page(mm, vma, va, slot) != FAULT_FALLBACK:
            return 0
        slot, n = arena.lookup(mm.pgd, va), 1
    return handle_write_protected(mm, vma, va, slot, n)


def _served(mm: Mm, va: int, n: int) -> int:
    """Faults that a run stands for: one per page that is there now and was not before, one for a huge leaf."""
    slot = mm.sys.arena.lookup(mm.pgd, va)
    if slot < 0:
        return 1
    if (slot & mm.sys.arena.leaf_mask) + n > mm.sys.arena.leaf_mask + 1:  # several tables, all of them filled
        return n
    present = mm.sys.arena.entries[slot : slot + n] & np.uint64(_PAGE_PRESENT | _PAGE_RW)
    alike = np.flatnonzero(present != present[0])
    return int(alike[0]) if len(alike) else n


def _mark(mm: Mm, page: int, slot: int, n: int, write: bool) -> None:
    """Set the accessed bit, and the dirty bit on a write, as the MMU does."""
    arena, j = mm.sys.arena, mm.sys.journal
    wanted = _PAGE_ACCESSED | (_PAGE_DIRTY if write else 0)
    if n == 1:
        entry = arena.flat[slot]
        if entry & wanted != wanted:
            j.write(arena, slot, entry | wanted)
    else:
        values = arena.entries[slot : slot + n]
        todo = np.flatnonzero((values & np.uint64(wanted)) != wanted)
        if len(todo):
            old = values[todo]
            lane = SetLane(arena, todo + slot, old, old | np.uint64(wanted))
            addresses = (todo.astype(np.uint64) << np.uint64(12)) + np.uint64(page << 12)
            j.bulk(Bulk("mmu_set_bits", len(todo), (lane,), address=page << 12, addresses=addresses))


def _fill_tlb(mm: Mm, first: int, end: int) -> None:
    """Remember the translations of the last pages that an access has reached; earlier ones have lost their slots."""
    arena = mm.sys.arena
    for page in range(first, end):
        entry = arena.entry_at(mm.pgd, page << 12)
        if entry:
            mm.sys.tlbs[0].fill(mm.id, page, entry)


def _write_data(mm: Mm, page: int, n: int, addr: int, data: bytes | int) -> None:
    frames, mapped = mm.sys.frames, _frames_of(mm, page, n)
    if isinstance(data, bytes) or n == 1:
        for i in range(n):
            va = (page + i) << 12
            at = max(addr, va)
            piece = bytes([data]) if isinstance(data, int) else data[at - addr : va + 4096 - addr]
            if piece:
                frames.write_bytes(int(mapped[i]), at & 4095, piece)
        return
    if page << 12 < addr:
        _write_data(mm, page, 1, addr, data)
        page, n, mapped = page + 1, n - 1, mapped[1:]
    pfns = mapped
    columns = [(frames.content, 0, frames.nr_frames)]
    columns += [(r.content, r.start_pfn, r.end_pfn) for r in frames.regions]
    for column, low, high in columns:
        inside = np.flatnonzero((pfns >= low) & (pfns < high))
        if len(inside):
            index = pfns[inside] - low
            old = column.array[index]
            new = _with_byte(frames.contents, old, data)
            changed = np.flatnonzero(old != new)
            if len(changed):
                lane = SetLane(column, index[changed], old[changed], new[changed])
                addresses = (inside[changed].astype(np.uint64) + np.uint64(page)) << np.uint64(12)
                mm.sys.journal.bulk(
                    Bulk("store", len(changed), (lane,), address=page << 12, addresses=addresses)
                )


def _frames_of(mm: Mm, page: int, n: int) -> NDArray[np.int64]:
    """The frames of ``n`` present pages of one page table or huge leaf."""
    arena = mm.sys.arena
    slot = arena.lookup(mm.pgd, page << 12)
    if slot >= 0:
        return pfns_of(arena.entries[slot : slot + n])
    first = pmd_pfn(arena.flat[arena.huge_slot(mm.pgd, page << 12)]) + (page & 511)
    return np.arange(first, first + n)


def _with_byte(contents: Contents, numbers: Any, byte: int) -> Any:
    kinds, which = np.unique(numbers, return_inverse=True)
    written = [contents.written(k, 0, bytes([byte])) for k in kinds.tolist()]
    return np.array(written, np.int32)[which]


def peek(mm: Mm, addr: int, length: int) -> bytes:
    """The bytes at ``addr`` as far as pages are present, without touching anything; missing pages read as
    zeros.
    """
    out = bytearray()
    end = addr + length
    while addr < end:
        piece = min(end, (addr | 4095) + 1) - addr
        entry = mm.sys.arena.entry_at(mm.pgd, addr)
        if entry & _PAGE_PRESENT:
            out += mm.sys.frames.read((entry & 0x000F_FFFF_FFFF_F000) >> 12, addr & 4095, piece)
        else:
            out += bytes(piece)
        addr += piece
    return bytes(out)


def is_known(mm: Mm, addr: int, length: int) -> bool:
    """Whether `peek` tells the truth: no byte of a present page is one that nobody has read (see
    `vmviz.kernel.mm.contents.UNKNOWN_CONTENT`).
    """
    end = addr + length
    while addr < end:
        piece = min(end, (addr | 4095) + 1) - addr
        entry = mm.sys.arena.entry_at(mm.pgd, addr)
        if entry & _PAGE_PRESENT and not mm.sys.frames.known(
            (entry & 0x000F_FFFF_FFFF_F000) >> 12, addr & 4095, piece
        ):
            return False
        addr += piece
    return True


def _read_data(mm: Mm, addr: int, length: int) -> bytes | None:
    if length <= 64 and (addr & 4095) + length <= 4096:
        spots = [(addr, max(length, 1))]
    else:
        spots = [(max(addr, va), 1) for va in range(addr & -4096, addr + length, 4096)[:SHOWN_PAGES]]
    if not all(is_known(mm, at, n) for at, n in spots):
        return None
    return b"".join(peek(mm, at, n) for at, n in spots)
