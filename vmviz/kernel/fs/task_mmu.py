"""The text of /proc/PID/maps and /proc/PID/smaps, byte for byte as 6.1 prints it (models fs/proc/task_mmu.c).

All amounts are taken from the page tables and the frames when they are asked for; nothing is kept for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arch.x86 import _PAGE_ACCESSED, _PAGE_DIRTY, _PAGE_PRESENT, pmd_pfn
from ..mm.flags import (
    VM_EXEC,
    VM_HUGETLB,
    VM_LOCKED,
    VM_PFNMAP,
    VM_PKEY_SHIFT,
    VM_SHARED,
    VM_WRITE,
    vmflags_codes,
)
from ..mm.huge_memory import hugepage_vma_check, is_huge_zero_pmd
from ..mm.memory.normal_page import OTHER_ENTRY, RAW, kinds_of, pfns_of
from ..mm.mm_types import Inode, Mm
from ..mm.page_flags import PG_ANON, PG_DIRTY, PG_REFERENCED, PG_SWAPBACKED
from ..mm.swapfile import MAX_SWAPFILES, SWAP_HAS_CACHE, SWAP_TYPE
from ..mm.vma import Vma, vma_name

PAGE_SIZE, HPAGE_PMD_SIZE = 4096, 2 << 20
PSS_SHIFT = 12
GATE_VMA = Vma(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, VM_EXEC, name="[vsyscall]")
"""The page at the end of the address space that is no VMA of anybody (`gate_vma`, with vsyscall=xonly)."""

_NAME_COLUMN = 72
_KB_LINES: tuple[str, ...] = (
    "Size", "KernelPageSize", "MMUPageSize", "Rss", "Pss", "Pss_Dirty", "Shared_Clean", "Shared_Dirty",
    "Private_Clean", "Private_Dirty", "Referenced", "Anonymous", "LazyFree", "AnonHugePages",
    "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb", "Swap", "SwapPss", "Locked",
)  # fmt: skip
_PROPORTIONAL = ("Pss", "Pss_Dirty", "SwapPss", "Locked")
"""Kept in units of 1 / 4096 byte while they are summed up, so that shares of pages lose little."""


def maps(mm: Mm) -> str:
    """The text of /proc/PID/maps (`show_map`): a line for each VMA, [vsyscall] last.

    >>> from vmviz.kernel import Machine
    >>> text = maps(Machine(ram=16 << 20).mm)
    >>> text.splitlines()[-1].split()
    ['ffffffffff600000-ffffffffff601000', '--xp', '00000000', '00:00', '0', '[vsyscall]']
    """
    return "".join(f"{map_line(mm, vma)}\n" for vma in (*mm.vmas, *_gate_vmas(mm)))


def smaps(mm: Mm) -> str:
    """The text of /proc/PID/smaps (`show_smap`): for each VMA its line of maps, then what its pages are.

    Amounts are in kB.  Simplified: ProtectionKey is printed for a VMA that has a key, as a processor without
    protection keys prints none at all.

    >>> from vmviz.kernel import Machine
    >>> m = Machine(ram=16 << 20, vdso=False); at = m.mmap(0, 8192, "rw", "private"); _ = m.store(at)
    >>> [line for line in smaps(m.mm).splitlines()[:24] if line.startswith(("Rss", "VmF"))]
    ['Rss:                   4 kB', 'VmFlags: rd wr mr mw me ac sd ']
    """
    return "".join(smap_text(mm, vma) for vma in (*mm.vmas, *_gate_vmas(mm)))


def smap_text(mm: Mm, vma: Vma) -> str:
    """One VMA's part of /proc/PID/smaps (`show_smap`)."""
    fields = smap_fields(mm, vma)
    lines = [map_line(mm, vma)]
    lines += [f"{name + ':':<16}{fields[name]:8} kB" for name in _KB_LINES]
    lines.append(f"THPeligible:    {fields['THPeligible']}")
    if vma.vm_flags >> VM_PKEY_SHIFT & 0xF:
        lines.append(f"ProtectionKey:  {vma.vm_flags >> VM_PKEY_SHIFT & 0xF:8}")
    lines.append(f"VmFlags: {vmflags_text(mm, vma)}")
    return "\n".join(lines) + "\n"


def vmflags_text(mm: Mm, vma: Vma) -> str:
    """What follows ``VmFlags: `` in smaps (`show_smap_vma_flags`): each code with a space after it."""
    codes = vmflags_codes(vma.vm_flags, "lf" if mm.sys.version.lockonfault_code else "??")
    return f"{codes} " if codes else ""


def map_line(mm: Mm, vma: Vma) -> str:
    """A VMA's line of /proc/PID/maps without its end (`show_map_vma`); a newline in a name prints as ``\\012``.

    The name begins in column 73, or after two spaces where the numbers reach so far.
    """
    file = mm.sys.file_of(vma)
    inode: Inode | None = mm.sys.inodes.get(file.inode) if file else None
    offset, dev, number = (vma.pgoff << 12, inode.dev, inode.number) if inode else (0, "00:00", 0)
    line = f"{vma.start:08x}-{vma.end:08x} {vma.perms} {offset:08x} {dev} {number} "
    name = vma_name(mm, vma)
    return f"{line:<{_NAME_COLUMN}} {_escaped(name)}" if name else line


def _escaped(name: str) -> str:
    return name.replace("\n", "\\012")


def _gate_vmas(mm: Mm) -> tuple[Vma, ...]:
    """The VMA that a whole listing ends with (`get_gate_vma`): x86-64 only."""
    return (GATE_VMA,) if mm.sys.mode.name.startswith("x86-64") else ()


def smap_fields(mm: Mm, vma: Vma) -> dict[str, int]:
    """The numbers of a VMA's part of smaps by name: kB, and 0 or 1 for ``THPeligible``."""
    page = HPAGE_PMD_SIZE if vma.vm_flags & VM_HUGETLB else PAGE_SIZE
    stats = smap_gather_stats(mm, vma)
    for name in _PROPORTIONAL:
        stats[name] >>= PSS_SHIFT
    stats.update(Size=vma.size, KernelPageSize=page, MMUPageSize=page)
    fields = {name: stats[name] >> 10 for name in _KB_LINES}
    return fields | {"THPeligible": int(hugepage_vma_check(mm, vma, smaps=True))}


def smap_gather_stats(mm: Mm, vma: Vma) -> dict[str, int]:
    """What the pages of a VMA add up to, by the names of smaps, in bytes (fs/proc/task_mmu.c); Pss,
    Pss_Dirty, SwapPss and Locked in bytes << 12.

    A VM_PFNMAP mapping is passed over, private copies in it too (`walk_page_test`).
    """
    stats: dict[str, int] = dict.fromkeys(_KB_LINES, 0)
    holes = _shmem_swap(mm, vma, stats)
    if vma.vm_flags & VM_PFNMAP:
        return stats
    arena = mm.sys.arena
    for slot, n, address, _ in arena.runs(mm.pgd, vma.start, vma.end):
        entries = arena.entries[slot : slot + n]
        there = np.flatnonzero(entries)
        if holes:
            first = vma.pgoff + ((address - vma.start) >> 12)
            holes -= {first + i for i in there.tolist()}
        if len(there):
            _pte_range(mm, vma, entries[there], stats)
    for slot, _ in arena.huge_leaves(mm.pgd, vma.start, vma.end):
        _pmd_entry(mm, vma, arena.flat[slot], stats)
    stats["Swap"] += len(holes) * PAGE_SIZE
    return stats


def _pte_range(mm: Mm, vma: Vma, entries: NDArray[np.uint64], stats: dict[str, int]) -> None:
    """Non-empty entries of last-level tables (`smaps_pte_range`)."""
    kinds = kinds_of(mm, entries)
    normal = (kinds != RAW) & (kinds != OTHER_ENTRY)
    if normal.any():
        values = entries[normal]
        young = values & np.uint64(_PAGE_ACCESSED) != 0
        dirty = values & np.uint64(_PAGE_DIRTY) != 0
        _account(mm, vma, pfns_of(values), young, dirty, stats)
    gone = entries[kinds == OTHER_ENTRY]
    types = gone >> np.uint64(59)
    swapped, types = gone[types < MAX_SWAPFILES], types[types < MAX_SWAPFILES]
    if len(swapped):
        area = mm.sys.swap
        slots = area.offsets_of(swapped)
        known = (types == SWAP_TYPE) & (slots < area.nr_pages)
        counts = np.where(known, area.map.array[np.where(known, slots, 0)] & ~SWAP_HAS_CACHE, 1)
        stats["Swap"] += len(swapped) * PAGE_SIZE
        stats["SwapPss"] += int(_shares(counts).sum())


def _shares(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """A page's part for one of its ``counts`` users, in bytes << 12, rounded down."""
    return (PAGE_SIZE << PSS_SHIFT) // np.maximum(counts.astype(np.int64), 1)


def _account(
    mm: Mm,
    vma: Vma,
    pfns: NDArray[np.int64],
    young: NDArray[np.bool_],
    dirty: NDArray[np.bool_],
    stats: dict[str, int],
) -> None:
    """Add mapped pages (`smaps_account` and `smaps_page_accumulate`); of a part of a compound page the head's
    reference count and flags speak.
    """
    frames = mm.sys.frames
    head = frames.heads(pfns)
    flags = frames.flags.array[head]
    mapped = frames.page_mapcounts(pfns)
    single = frames.refcount.array[head] == 1
    private = single | (mapped < 2)
    pss = np.where(single, PAGE_SIZE << PSS_SHIFT, _shares(mapped))
    unclean = dirty | (flags & PG_DIRTY != 0)
    anon = flags & PG_ANON != 0
    lazy = anon & (flags & PG_SWAPBACKED == 0) & ~unclean

    def add(name: str, which: NDArray[np.bool_]) -> None:
        stats[name] += int(np.count_nonzero(which)) * PAGE_SIZE

    stats["Rss"] += len(pfns) * PAGE_SIZE
    stats["Pss"] += int(pss.sum())
    stats["Pss_Dirty"] += int(pss[unclean].sum())
    if vma.vm_flags & VM_LOCKED:
        stats["Locked"] += int(pss.sum())
    add("Anonymous", anon)
    add("LazyFree", lazy)
    add("Referenced", young | (flags & PG_REFERENCED != 0))
    add("Private_Dirty", private & unclean)
    add("Private_Clean", private & ~unclean)
    add("Shared_Dirty", ~private & unclean)
    add("Shared_Clean", ~private & ~unclean)


def _pmd_entry(mm: Mm, vma: Vma, entry: int, stats: dict[str, int]) -> None:
    """A huge leaf: a transparent huge page (`smaps_pmd_entry`) or one of hugetlb (`smaps_hugetlb_range`).

    A hugetlb page counts only as Shared_Hugetlb or Private_Hugetlb, the huge zero page not at all.
    """
    if not entry & _PAGE_PRESENT and not vma.vm_flags & VM_HUGETLB:  # PROT_NONE looks like NUMA balancing
        return
    pfn, frames = pmd_pfn(entry), mm.sys.frames
    if not frames.pfn_valid(pfn) or is_huge_zero_pmd(mm.sys, entry):
        return
    if vma.vm_flags & VM_HUGETLB:
        name = "Shared_Hugetlb" if frames.page_mapcount(pfn) >= 2 else "Private_Hugetlb"
        stats[name] += HPAGE_PMD_SIZE
        return
    flags = frames.flags.flat[pfn]
    kind = (
        "AnonHugePages" if flags & PG_ANON
        else "ShmemPmdMapped" if flags & PG_SWAPBACKED
        else "FilePmdMapped"
    )  # fmt: skip
    stats[kind] += HPAGE_PMD_SIZE
    pages = HPAGE_PMD_SIZE // PAGE_SIZE
    young, dirty = np.full(pages, bool(entry & _PAGE_ACCESSED)), np.full(pages, bool(entry & _PAGE_DIRTY))
    _account(mm, vma, np.arange(pfn, pfn + pages, dtype=np.int64), young, dirty, stats)


def _shmem_swap(mm: Mm, vma: Vma, stats: dict[str, int]) -> set[int]:
    """Pages of a memory file in swap (`smap_gather_stats`, `shmem_swap_usage`): added at once, or for a
    private writable mapping returned by index, as only those count that the mapping has no entry for.
    """
    file = mm.sys.file_of(vma)
    if file is None or not mm.sys.swap.shmem.data:
        return set()
    low, high = vma.pgoff, vma.pgoff + vma.nr_pages
    gone = {i for inode, i in mm.sys.swap.shmem.data if inode == file.inode and low <= i < high}
    if vma.vm_flags & VM_SHARED or not vma.vm_flags & VM_WRITE:
        stats["Swap"] += len(gone) * PAGE_SIZE
        return set()
    return gone


__all__ = ["map_line", "maps", "smap_fields", "smap_text", "smaps"]
