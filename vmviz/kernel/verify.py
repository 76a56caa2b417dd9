"""What is wrong with a machine: every invariant that holds between two statements, checked from scratch.

Nothing here trusts a derived value: page-table walks, counts and owners are recomputed from the entries and
compared with what the columns and counters say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from .arch.x86 import (
    _PAGE_PSE,
    _PAGE_RW,
    _PAGE_SPECIAL,
    is_swap_pte,
    pmd_pfn,
    pte_pfn,
    pte_present,
    swp_offset,
)
from .mm.filemap import MEMORY_KINDS
from .mm.flags import VM_ACCOUNT, VM_MIXEDMAP, VM_PFNMAP, VM_WRITE
from .mm.frames import ZERO_PFN
from .mm.hugetlb_pool import free_huge_pages, resv_huge_pages
from .mm.mm_types import Mm, stat_class
from .mm.page_alloc import ANON, DRIVER, FILE, FREE, OTHER, RESERVED, TABLE, ZERO
from .mm.page_flags import (
    HPAGE_PMD_NR,
    PG_ANON,
    PG_COMPOUND,
    PG_HEAD,
    PG_HIDDEN,
    PG_HUGETLB,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
)
from .mm.pgtable import NO_DEPOSIT
from .mm.rmap import anon_vma_record
from .mm.swapfile import SWAP_HAS_CACHE
from .mm.vma import Vma

if TYPE_CHECKING:
    from .machine import Machine

Leaf = tuple[int, int]
"""An entry of the last level: its address (bytes) and its value."""


def verify(machine: Machine) -> list[str]:
    """Everything that is wrong with the machine, in words; empty when all is well.

    Meant for the time between two statements: in the middle of an operation a VMA may be detached before its
    entries.

    >>> from vmviz.kernel import Machine
    >>> m = Machine(ram=16 << 20); verify(m)
    []
    >>> m.mm.counters.put("anon", 7); verify(m)
    ['mm 1: anon is 7, its entries make 0']
    """
    return [
        *verify_counts(machine),
        *(text for mm in machine.mms.values() for text in _mm(mm)),
        *_tables(machine),
        *machine.arena.check(),
        *_owners(machine),
        *_tlb(machine),
        *_commit(machine),
        *_swap(machine),
    ]


def verify_counts(machine: Machine) -> list[str]:
    """The part of `verify` that also holds at every position inside a bulk record.

    Mapcounts and the rss counters are what the entries make, and no page has more mappings than references.
    """
    out: list[str] = []
    frames = machine.sys.frames
    mapped: Counter[int] = Counter()
    raw: Counter[int] = Counter()
    whole: Counter[int] = Counter()
    for mm in machine.mms.values():
        kinds = {"anon": 0, "file": 0, "shmem": 0}
        for _, entry in leaves(mm):
            pfn = pte_pfn(entry)
            if not pte_present(entry):
                continue
            if entry & _PAGE_SPECIAL or not frames.pfn_valid(pfn):
                raw[pfn] += 1
                continue
            mapped[pfn] += 1
            flags = frames.flags.flat[pfn]
            kinds["anon" if flags & PG_ANON else "shmem" if flags & PG_SWAPBACKED else "file"] += 1
        for _, entry in huge_leaves(mm):
            head = pmd_pfn(entry)
            if head != machine.sys.thp.get("huge_zero_pfn"):
                whole[head] += 1
                kinds["anon"] += 0 if frames.flags.flat[head] & PG_HUGETLB else HPAGE_PMD_NR
        for name, n in kinds.items():
            if mm.counters.data[name] != n:
                out.append(f"mm {mm.id}: {name} is {mm.counters.data[name]}, its entries make {n}")
    out += _mapcounts(machine, mapped)
    told = {head: n for head, n in frames.compound_mapcount.data.items() if n}
    if told != dict(whole):
        out.append(f"compound mapcounts are {_some(told)}, huge leaves make {_some(whole)}")
    for region in frames.regions:
        have = {
            region.start_pfn + i: int(region.maps.array[i])
            for i in np.flatnonzero(region.maps.array).tolist()
        }
        want = {pfn: n for pfn, n in raw.items() if region.start_pfn <= pfn < region.end_pfn}
        if have != want:
            out.append(f"device {region.name}: mappings counted {_some(have)}, entries make {_some(want)}")
    return out


def leaves(mm: Mm) -> Iterator[Leaf]:
    """All non-empty entries of the last level, wherever they are."""
    arena = mm.sys.arena
    for slot, n, va in arena.segments(mm.pgd, 0, 1 << mm.sys.mode.va_bits):
        for i in np.flatnonzero(arena.entries[slot : slot + n]).tolist():
            yield va + (i << 12), int(arena.flat[slot + i])


def huge_leaves(mm: Mm) -> Iterator[Leaf]:
    """All huge leaves, wherever they are."""
    arena = mm.sys.arena
    for slot, va in arena.huge_leaves(mm.pgd, 0, 1 << mm.sys.mode.va_bits):
        yield va, int(arena.flat[slot])


def _some(items: dict[int, int]) -> str:
    shown = ", ".join(f"{k:#x}: {v}" for k, v in sorted(items.items())[:4])
    return "{" + shown + (", ..." if len(items) > 4 else "") + "}"


def _mapcounts(machine: Machine, mapped: Counter[int]) -> Iterator[str]:
    frames = machine.sys.frames
    hidden = frames.flags.array & PG_HIDDEN != 0  # imported frames whose counts cannot be observed
    told = {
        int(i): int(frames.mapcount.array[i]) for i in np.flatnonzero((frames.mapcount.array != 0) & ~hidden)
    }
    want = {pfn: n for pfn, n in mapped.items() if not hidden[pfn]}
    others = {pfn for pfn in told if frames.states.flat[pfn] == OTHER or _imported(machine)}
    for pfn in sorted((told.keys() | want.keys()) - others):
        if told.get(pfn, 0) != want.get(pfn, 0):
            yield f"frame {pfn:#x}: mapcount is {told.get(pfn, 0)}, {want.get(pfn, 0)} entries map it"
    small = frames.flags.array & np.uint32(PG_COMPOUND) == 0
    short = np.flatnonzero((frames.mapcount.array > frames.refcount.array) & small)
    for pfn in short.tolist()[:4]:
        refs = frames.refcount.flat[pfn]
        yield f"frame {pfn:#x}: {frames.mapcount.flat[pfn]} mappings, but only {refs} references"


def _imported(machine: Machine) -> bool:
    """Whether the machine comes from a real process: its frames are also mapped by processes that are not
    here.
    """
    return bool(machine.sys.frames.states._initial)


def _mm(mm: Mm) -> Iterator[str]:
    """VMAs, the counters of their sizes, and each entry against its VMA."""
    yield from (f"mm {mm.id}: VMAs: {text}" for text in mm.vmas.check())
    vmas = list(mm.vmas)
    for a, b in pairwise(vmas):
        if a.end > b.start:
            yield f"mm {mm.id}: VMAs {a.start:#x} and {b.start:#x} overlap"
    sizes = Counter({"map_count": len(vmas)})
    for v in vmas:
        if v.start >= v.end or (v.start | v.end) & 4095:
            yield f"mm {mm.id}: VMA {v.start:#x}-{v.end:#x} is no range of pages"
        sizes["total_vm"] += v.nr_pages
        sizes[stat_class(v.vm_flags)] += v.nr_pages
    for name in ("map_count", "total_vm", "data_vm", "exec_vm", "stack_vm"):
        if mm.counters.data[name] != sizes[name]:
            yield f"mm {mm.id}: {name} is {mm.counters.data[name]}, its VMAs make {sizes[name]}"
    for address, entry in huge_leaves(mm):
        vma = mm.vma_at(address)
        if vma is None or vma.end < address + (HPAGE_PMD_NR << 12):
            yield f"mm {mm.id}: the huge leaf {entry:#x} at {address:#x} leaves its VMA"
            return
    for address, entry in leaves(mm):
        vma = mm.vma_at(address)
        if vma is None:
            yield f"mm {mm.id}: entry {entry:#x} at {address:#x} lies in no VMA"
            return
        text = _entry(mm, vma, address, entry)
        if text:
            yield f"mm {mm.id}: entry {entry:#x} at {address:#x} {text}"
            return


def _entry(mm: Mm, vma: Vma, address: int, entry: int) -> str:
    if not pte_present(entry):
        return ""
    pfn, frames = pte_pfn(entry), mm.sys.frames
    if entry & _PAGE_RW and not vma.vm_flags & VM_WRITE:
        return "is writable in a VMA that is not"
    if entry & _PAGE_SPECIAL:
        if vma.vm_flags & (VM_PFNMAP | VM_MIXEDMAP) or (pfn == ZERO_PFN and not entry & _PAGE_RW):
            return ""
        return "is a raw frame in a VMA that is neither VM_PFNMAP nor VM_MIXEDMAP"
    if not frames.pfn_valid(pfn):
        return "points to a frame without struct page and is not special"
    if frames.flags.flat[pfn] & PG_HIDDEN or frames.states.flat[pfn] == OTHER:
        return ""
    index = vma.pgoff + ((address - vma.start) >> 12)
    if frames.states.flat[pfn] == ANON:
        chain, mapping = anon_vma_record(mm.sys, vma.anon_vma).chain, frames.mapping.flat[frames.head_of(pfn)]
        if not vma.anon_vma or mapping not in chain:
            return f"maps a page of anon_vma {mapping} in a VMA of anon_vma {vma.anon_vma}"
        return (
            "" if frames.index.flat[pfn] == index else f"maps page {frames.index.flat[pfn]}, not page {index}"
        )
    if frames.states.flat[pfn] == FILE:
        file = mm.sys.file_of(vma)
        if file is None or mm.sys.page_cache.get((file.inode, index)) != pfn:
            return f"maps a page of a file that is not page {index} of this VMA's"
        return ""
    return "" if frames.states.flat[pfn] == DRIVER else f"maps a frame in state {frames.states.flat[pfn]}"


def _tables(machine: Machine) -> Iterator[str]:
    """Every table is reached once, belongs to a VMA, and is counted; what is not in use is empty."""
    arena, seen = machine.sys.arena, set[int]()
    for mm in machine.mms.values():
        count = 0
        for row, level, base, span in _walk(mm):
            if row in seen:
                yield f"mm {mm.id}: the table in row {row} is reached twice"
            seen.add(row)
            if arena.level_of.flat[row] != level:
                told = arena.level_of.flat[row]
                yield f"mm {mm.id}: the table at {base:#x} is of level {told}, not {level}"
            count += bool(level)
            if level == len(arena.mode.levels) - 2:
                kept, leaves_here = _deposits(mm, row)
                count += len(kept)
                seen |= kept
                if leaves_here != len(kept):
                    yield f"mm {mm.id}: {leaves_here} huge leaves at {base:#x}, {len(kept)} tables kept for them"
            if level and mm.vmas.first_overlap(base, base + span) is None:
                yield f"mm {mm.id}: the table for {base:#x}-{base + span:#x} serves no VMA"
        if mm.counters.data["pgtables"] != count << 12:
            yield f"mm {mm.id}: pgtables is {mm.counters.data['pgtables']}, its tables make {count << 12}"
    used = {int(r) for r in np.flatnonzero(arena.pfn_of.array)}
    if used != seen:
        lost, bare = sorted(used - seen)[:4], sorted(seen - used)[:4]
        yield f"tables: rows {lost} are reached from no root, {bare} have no frame"
    for row in np.flatnonzero(arena.rows.any(axis=1)).tolist():
        if row not in used:
            yield f"tables: row {row} is not in use and not empty"
    tables = np.flatnonzero(machine.sys.frames.states.array == TABLE)
    rows = arena.row_of.array[tables].astype(np.int64) - 1
    if sorted(rows.tolist()) != sorted(used) or (arena.pfn_of.array[rows] != tables).any():
        yield "tables: the translation from frames to rows does not match"


def _deposits(mm: Mm, row: int) -> tuple[set[int], int]:
    """The tables kept for the huge leaves in a PMD table, and how many of its leaves want one."""
    arena = mm.sys.arena
    slots = [(row << arena.bits) | i for i in np.flatnonzero(arena.rows[row] & np.uint64(_PAGE_PSE)).tolist()]
    rows = [arena.huge.get(slot) for slot in slots]
    wanted = sum(kept != NO_DEPOSIT for kept in rows)
    return {kept for kept in rows if kept is not None and kept != NO_DEPOSIT}, wanted


def _walk(mm: Mm) -> Iterator[tuple[int, int, int, int]]:
    """All tables of an mm: (row, level, first address, bytes that it maps)."""
    arena, levels = mm.sys.arena, mm.sys.mode.levels
    stack = [(mm.pgd, 0, 0)]
    while stack:
        row, level, base = stack.pop()
        yield row, level, base, levels[level].entries << levels[level].shift
        if level == len(levels) - 1:
            continue
        for i in np.flatnonzero(arena.rows[row]).tolist():
            slot = (row << arena.bits) | i
            if not arena.flat[slot] & _PAGE_PSE:
                stack.append((arena.child_row(slot), level + 1, base + (i << levels[level].shift)))


def _owners(machine: Machine) -> Iterator[str]:
    """Each frame has exactly one owner, or is free and blank; references are what the owners hold."""
    s = machine.sys
    frames, arena = s.frames, s.arena
    yield from (f"buddy: {text}" for text in frames.states.buddy.check())
    states = frames.states.array
    block = np.arange(len(states)) >> 9
    pyramid = np.bincount((block << 3) | states, minlength=frames.states.pyramid.size).reshape(-1, 8)
    if (pyramid != frames.states.pyramid).any():
        yield "the pyramid of counts does not match the states"
    free = states == FREE
    for column in (
        frames.refcount,
        frames.mapcount,
        frames.flags,
        frames.mapping,
        frames.index,
        frames.content,
    ):
        dirty = np.flatnonzero(free & (column.array != 0))
        if len(dirty):
            yield f"free frame {int(dirty[0]):#x}: {column.name} is {column.flat[int(dirty[0])]}"
    if _imported(machine):
        return
    cached = {pfn: key for key, pfn in s.page_cache.data.items()}
    driver = set(s.driver_pages.data.values())
    cached_swap = set(s.swap.slot_of.data)
    cached_huge = {head for key, head in s.hugetlb.data.items() if key[0] == "page"}
    if resv_huge_pages(s) > free_huge_pages(s) or resv_huge_pages(s) < 0:
        yield f"{resv_huge_pages(s)} huge pages are reserved of {free_huge_pages(s)} free ones"
    for pfn in np.flatnonzero(~free).tolist():
        state, refs, mapped = states[pfn], frames.refcount.flat[pfn], frames.mapcount.flat[pfn]
        if frames.flags.flat[pfn] & PG_COMPOUND:
            head = frames.flags.flat[pfn] & PG_HEAD
            if frames.flags.flat[pfn] & PG_HUGETLB:
                want = head and frames.total_mapcount(pfn) + (pfn in cached_huge)
                if refs != want or (head and not want) != (pfn in frames.hugetlb_free.data):
                    yield f"huge page {pfn:#x}: {refs} references, its owners hold {want}"
                continue
            if refs != (head and (frames.total_mapcount(pfn) or 1)):
                yield f"frame {pfn:#x}: {refs} references to a compound page of {frames.page_mapcount(pfn)} mappings"
            if head and state == ANON and not frames.total_mapcount(pfn):
                yield f"frame {pfn:#x}: a compound page that nobody maps"
            continue
        owned, want = {
            ANON: (mapped > 0 or pfn in cached_swap, mapped + (pfn in cached_swap)),
            FILE: (pfn in cached, mapped + 1),
            TABLE: (arena.row_of.flat[pfn] > 0 and arena.pfn_of.flat[arena.row_of.flat[pfn] - 1] == pfn, 1),
            DRIVER: (pfn in driver or refs > 0, mapped + 1),
            RESERVED: (True, 1),
            ZERO: (True, 1),
        }.get(int(state), (True, refs))
        if not owned:
            yield f"frame {pfn:#x}: in state {state}, but nothing owns it"
        if refs != want:
            yield f"frame {pfn:#x}: {refs} references, its owners hold {want}"


def _tlb(machine: Machine) -> Iterator[str]:
    """No CPU remembers a translation that the tables no longer make."""
    arena = machine.sys.arena
    for tlb in machine.sys.tlbs:
        for owner, vpn, entry in tlb.entries.data.values():
            mm = machine.mms.get(owner)
            now = arena.entry_at(mm.pgd, vpn << 12) if mm else 0
            if not pte_present(now) or pte_pfn(now) != pte_pfn(entry):
                yield f"cpu {tlb.cpu}: the TLB still translates {vpn << 12:#x} to frame {pte_pfn(entry):#x}"
            elif entry & _PAGE_RW and not now & _PAGE_RW:
                yield f"cpu {tlb.cpu}: the TLB still lets writes through at {vpn << 12:#x}"


def _swap(machine: Machine) -> Iterator[str]:
    """Each slot is named as often as it counts, and the swap cache holds the pages that say so."""
    if _imported(machine):
        return
    s, want = machine.sys, Counter[int]()
    for mm in machine.mms.values():
        entries = [e for _, e in leaves(mm) if is_swap_pte(e)]
        want.update(swp_offset(e) for e in entries)
        if mm.counters.data["swap"] != len(entries):
            yield f"mm {mm.id}: swap is {mm.counters.data['swap']}, its entries make {len(entries)}"
    want.update(s.swap.shmem.data.values())
    for slot in np.flatnonzero(s.swap.map.array).tolist():
        if s.swap.count(slot) != want.pop(slot, 0):
            yield f"swap slot {slot}: its count is {s.swap.count(slot)}, which is not how often it is named"
        if bool(s.swap.map.flat[slot] & SWAP_HAS_CACHE) != (slot in s.swap.cache.data):
            yield f"swap slot {slot}: the swap cache does not agree with the slot"
    if want:
        yield f"swap slots {sorted(want)[:4]} are named, but free"
    if np.flatnonzero((s.swap.map.array == 0) & (s.swap.content.array != 0)).size:
        yield "a free swap slot holds something"
    if not s.swap.marked.data.keys() <= s.swap.cache.data.keys():
        yield "a slot is marked as read ahead, but not in the swap cache"
    if {pfn: slot for slot, pfn in s.swap.cache.data.items()} != s.swap.slot_of.data:
        yield "the two sides of the swap cache differ"
    marked = set(np.flatnonzero(s.frames.flags.array & PG_SWAPCACHE).tolist())
    if marked != set(s.swap.slot_of.data):
        yield f"frames {sorted(marked ^ set(s.swap.slot_of.data))[:4]}: swapcache is marked wrongly"


def _commit(machine: Machine) -> Iterator[str]:
    """What is charged, and who uses each memory file."""
    if _imported(machine):
        return
    s = machine.sys
    users = [v.file for mm in machine.mms.values() for v in mm.vmas if v.file] + list(
        machine.fds.data.values()
    )
    inodes = Counter(s.files.get(f).inode for f in users)
    want = {i: n for i, n in inodes.items() if s.inodes.get(i).kind in MEMORY_KINDS}
    if want != {i: n for i, n in s.inode_refs.data.items() if n}:
        yield f"memory files are used {s.inode_refs.data}, counted {want}"
    pages = sum(v.nr_pages for mm in machine.mms.values() for v in mm.vmas if v.vm_flags & VM_ACCOUNT)
    told = machine.sys.commit.data["committed"]
    if told != pages:
        yield f"committed is {told}, the accounted VMAs make {pages}"
