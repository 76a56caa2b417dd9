"""The page tables of a machine in the form of a record, and their comparison with a recorded one.

Runs of entries are taken apart and compared entry by entry, so that it does not matter how they were joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from ..kernel.arch.paging import PagingMode
from ..kernel.arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_DEVMAP,
    _PAGE_DIRTY,
    _PAGE_GLOBAL,
    _PAGE_NX,
    _PAGE_PAT,
    _PAGE_PAT_LARGE,
    _PAGE_PCD,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_PSE,
    _PAGE_PWT,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SPECIAL,
    _PAGE_UFFD_WP,
    _PAGE_USER,
    SWP_OFFSET_MASK,
    is_swap_pte,
    pmd_pfn,
    pte_flags,
    pte_pfn,
    swp_type,
)
from ..kernel.fs.proc import kpagecount, kpageflags, pagemap_entry
from ..kernel.machine import Machine
from ..kernel.mm.frames import ZERO_PFN
from ..kernel.mm.page_flags import (
    PG_ANON,
    PG_DIRTY,
    PG_EXCLUSIVE,
    PG_HEAD,
    PG_LRU,
    PG_MLOCKED,
    PG_RESERVED,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
)
from .difference import Difference, classes
from .oracle import Oracle

_PAGE_FLAGS = (
    ("anon", PG_ANON),
    ("excl", PG_EXCLUSIVE),
    ("resv", PG_RESERVED),
    ("swapcache", PG_SWAPCACHE),
    ("dirty", PG_DIRTY),
    ("lru", PG_LRU),
    ("mlocked", PG_MLOCKED),
    ("unevict", PG_UNEVICTABLE),
    ("swapbacked", PG_SWAPBACKED),
    ("compound", PG_HEAD),
)
_KPF_STABLE = ((1 << 27) - 1) & ~(1 << 2 | 1 << 6)
"""The low 27 bits of kpageflags without REFERENCED and ACTIVE."""

_BITS = (
    ("P", _PAGE_PRESENT),
    ("RW", _PAGE_RW),
    ("US", _PAGE_USER),
    ("PWT", _PAGE_PWT),
    ("PCD", _PAGE_PCD),
    ("A", _PAGE_ACCESSED),
    ("D", _PAGE_DIRTY),
)
_UPPER_BITS = (
    ("SPECIAL", _PAGE_SPECIAL),
    ("UFFDWP", _PAGE_UFFD_WP),
    ("SOFTDIRTY", _PAGE_SOFT_DIRTY),
    ("DEVMAP", _PAGE_DEVMAP),
    ("NX", _PAGE_NX),
)
_FIXED = ("res", "mmio")
"""Classes of frames whose numbers are the same in every machine."""
_WORDS = ("ref", "map", "pf", "pm", "kpc", "kpf", "swtype")
MAX_ENTRIES = 4
"""Of how many entries of one record the differences are told."""

Table = tuple[str, int]
"""An entry that points to a table: its level, the first address that it serves."""


def bit_names(flags: int, *, huge: bool = False) -> str:
    """The bits of an entry as the field ``bits`` of a trace names them; a swap entry has none.

    >>> bit_names(0x8000000000000277), bit_names(0x8E7, huge=True), bit_names(0xA)
    ('P RW US PCD A D SPECIAL NX', 'P RW US A D PSE SOFTDIRTY', '')
    """
    if not flags & (_PAGE_PRESENT | _PAGE_PROTNONE):
        return ""
    names = [name for name, bit in _BITS if flags & bit]
    if flags & _PAGE_PAT:  # the bit is PSE where an entry above the last level is a leaf
        names.append("PSE" if huge else "PAT")
    if huge and flags & _PAGE_PAT_LARGE:
        names.append("PAT")
    if flags & _PAGE_GLOBAL:
        names.append("G" if flags & _PAGE_PRESENT else "PROTNONE")
    return " ".join([*names, *(name for name, bit in _UPPER_BITS if flags & bit)])


def leaves_of(machine: Machine, start: int, end: int) -> dict[int, int]:
    """The non-empty leaf entries of a range by address, huge ones included."""
    arena = machine.sys.arena
    out = {va: arena.flat[slot] for slot, va in arena.huge_leaves(machine.mm.pgd, start, end)}
    for slot, n, va in arena.segments(machine.mm.pgd, start, end):
        for i in np.flatnonzero(arena.entries[slot : slot + n]).tolist():
            out[va + (i << 12)] = arena.flat[slot + i]
    return out


def tables_of(machine: Machine, start: int, end: int) -> dict[Table, int]:
    """The entries that point to tables, of the pgd, pud and pmd level, that serve a range, with their
    values.
    """
    arena, levels = machine.sys.arena, machine.sys.mode.levels
    out: dict[Table, int] = {}

    def down(row: int, level: int, base: int) -> None:
        if level == len(levels) - 1:
            return
        shift = levels[level].shift
        tables = (arena.rows[row] != 0) & (arena.rows[row] & np.uint64(_PAGE_PSE) == 0)
        for i in np.flatnonzero(tables).tolist():
            low = base + (i << shift)
            if low < end and low + (1 << shift) > start:
                slot = (row << arena.bits) | i
                out[levels[level].name, low] = arena.flat[slot]
                down(arena.child_row(slot), level + 1, low)

    down(machine.mm.pgd, 0, 0)
    return out


@attrs.frozen
class Tree:
    """The page tables of one side: the entries that point to tables, and the leaves by address."""

    tables: dict[Table, dict[str, Any]]
    leaves: dict[int, dict[str, Any]]


def tree_simulated(machine: Machine, oracle: Oracle, window: tuple[int, int]) -> Tree:
    """The page tables of a machine in the form of a record."""
    tables = {
        at: {"fl": hex(pte_flags(entry)), "bits": bit_names(entry)}
        for at, entry in tables_of(machine, *window).items()
    }
    leaves = {va: _leaf(machine, oracle, va, entry) for va, entry in leaves_of(machine, *window).items()}
    return Tree(tables, leaves)


def tree_recorded(recorded: list[dict[str, Any]], mode: PagingMode) -> Tree:
    """The page tables of a record, runs taken apart."""
    tables: dict[Table, dict[str, Any]] = {}
    leaves: dict[int, dict[str, Any]] = {}
    for run, va, shift in _runs(recorded, mode):
        for i in range(run["n"]):
            if run["leaf"]:
                leaves[va + (i << shift)] = _recorded_leaf(run, i)
            else:
                tables[run["lv"], va + (i << shift)] = {"fl": run.get("fl"), "bits": run.get("bits")}
    return Tree(tables, leaves)


def compare_entries(
    recorded: list[dict[str, Any]],
    machine: Machine,
    oracle: Oracle,
    window: tuple[int, int],
    cleared: bool = False,
) -> Iterator[Difference]:
    """Every difference between recorded page tables and a machine's; ``cleared`` as in `compare_record`."""
    mode = machine.sys.mode
    want, have = tree_recorded(recorded, mode), tree_simulated(machine, oracle, window)
    entries = len(want.tables) + len(want.leaves)
    told = sum(run["n"] for run in recorded)
    if told != entries:
        yield Difference("entries of the runs, of which some are told twice", told, entries)
    if have.tables.keys() != want.tables.keys():
        extra = sorted(have.tables.keys() - want.tables.keys())[:3]
        missing = sorted(want.tables.keys() - have.tables.keys())[:3]
        texts = [[f"{level} {at:#x}" for level, at in which] for which in (missing, extra)]
        yield Difference("table entries", texts[0], texts[1])
    for level, at in sorted(have.tables.keys() & want.tables.keys()):
        yield from _fields(f"{level} {at:#x}", want.tables[level, at], have.tables[level, at])
    if cleared:
        forget_accessed(want, have)
    ours, theirs = have.leaves, want.leaves
    differ = [va for va in sorted(theirs.keys() | ours.keys()) if theirs.get(va) != ours.get(va)]
    for va in differ[:MAX_ENTRIES]:
        yield from _fields(f"entry {va:#x}", theirs.get(va), ours.get(va))
    if len(differ) > MAX_ENTRIES:
        yield Difference("more entries that differ", 0, len(differ) - MAX_ENTRIES)
    if not differ:
        yield from _frames(recorded, machine, window)


def forget_accessed(want: Tree, have: Tree) -> None:
    """Give simulated leaves the bits of the recorded ones where only the accessed bit is missing there."""
    for va in want.leaves.keys() & have.leaves.keys():
        theirs, ours = want.leaves[va], have.leaves[va]
        if isinstance(theirs["fl"], str) and int(ours["fl"], 16) & ~_PAGE_ACCESSED == int(theirs["fl"], 16):
            ours["fl"], ours["bits"] = (
                theirs["fl"],
                bit_names(int(theirs["fl"], 16), huge=ours["lv"] != "pte"),
            )


def _frames(
    recorded: list[dict[str, Any]], machine: Machine, window: tuple[int, int]
) -> Iterator[Difference]:
    """Which entries have the same frame, and the numbers of the frames that are everywhere the same."""
    leaves = leaves_of(machine, *window)
    frames: list[tuple[int, str]] = []
    for run, va, shift in _runs(recorded, machine.sys.mode):
        if not run["leaf"]:
            continue
        told = run.get("pfns", [])
        frames += [(va + (i << shift), pfn) for i, pfn in enumerate(told)]
        if run.get("cls") in _FIXED:
            have = [
                hex(_pfn(machine, va + (i << shift), leaves[va + (i << shift)])) for i in range(len(told))
            ]
            if told != have or not told:
                yield Difference(f"entry {va:#x}: pfns", told, have)
            if run.get("val") != hex(leaves[va]):
                yield Difference(f"entry {va:#x}: val", run.get("val"), hex(leaves[va]))
    kernel = classes([pfn for _, pfn in frames])
    ours = classes([_pfn(machine, va, leaves[va]) for va, _ in frames if va in leaves])
    if kernel != ours:
        yield Difference("frames shared by entries", kernel, ours)


def _runs(recorded: list[dict[str, Any]], mode: PagingMode) -> Iterator[tuple[dict[str, Any], int, int]]:
    """The runs of a record, with the first address and the shift of the level."""
    shift = {level.name: level.shift for level in mode.levels}
    for run in recorded:
        yield run, int(run["va"], 16), shift[run["lv"]]


def _fields(name: str, want: dict[str, Any] | None, have: dict[str, Any] | None) -> Iterator[Difference]:
    if want is None or have is None:
        yield Difference(name, want, have)
        return
    for key in dict.fromkeys((*want, *have)):
        if want.get(key) != have.get(key):
            yield Difference(f"{name}: {key}", want.get(key), have.get(key))


def _recorded_leaf(run: dict[str, Any], i: int) -> dict[str, Any]:
    out = {"lv": run["lv"], "fl": run.get("fl"), "bits": run.get("bits"), "cls": run.get("cls")}
    if "idx" in run:
        out["idx"] = run["idx"] + i
    return out | {key: run[key] for key in _WORDS if key in run}


def _pfn(machine: Machine, va: int, entry: int) -> int:
    return pmd_pfn(entry) if machine.sys.arena.huge_slot(machine.mm.pgd, va) >= 0 else pte_pfn(entry)


def _leaf(machine: Machine, oracle: Oracle, va: int, entry: int) -> dict[str, Any]:
    """A leaf of a machine in the form of a record.

    Two classes that a record may have are never ours, and differ where a recording has them: ``nostruct`` (a frame
    that has no struct page and is not the device's) and ``nonpresent`` (an entry that is neither present nor of swap).
    No recording does: no operation that is simulated brings such an entry about.
    """
    huge = machine.sys.arena.huge_slot(machine.mm.pgd, va) >= 0
    out: dict[str, Any] = {"lv": "pmd" if huge else "pte", "pm": hex(pagemap_entry(machine.mm, va) >> 55)}
    if is_swap_pte(entry):
        low = entry & ~SWP_OFFSET_MASK
        return out | {"fl": hex(low), "bits": bit_names(low), "cls": "swap", "swtype": swp_type(entry)}
    pfn = pmd_pfn(entry) if huge else pte_pfn(entry)
    flags = pte_flags(entry) | (entry & _PAGE_PAT_LARGE if huge else 0)
    out["fl"], out["bits"] = hex(flags), bit_names(flags, huge=huge)
    if pfn == ZERO_PFN and entry & _PAGE_SPECIAL:
        return out | {"cls": "zero"}
    cls, index = oracle.frame_class(pfn)
    out["cls"] = cls
    if index is not None:
        out["idx"] = index
    frames = machine.sys.frames
    if frames.pfn_valid(pfn):
        head = frames.head_of(pfn)
        words = frames.flags.flat[head] & ~PG_EXCLUSIVE | frames.flags.flat[pfn] & PG_EXCLUSIVE
        out["ref"], out["map"] = frames.refcount.flat[head], frames.page_mapcount(pfn)
        out["kpc"] = kpagecount(machine.sys, pfn)
        out["kpf"] = hex(kpageflags(machine.sys, pfn) & _KPF_STABLE)
        out["pf"] = " ".join(name for name, bit in _PAGE_FLAGS if words & bit)
    return out


__all__ = [
    "MAX_ENTRIES",
    "Tree",
    "bit_names",
    "compare_entries",
    "forget_accessed",
    "leaves_of",
    "tables_of",
    "tree_recorded",
    "tree_simulated",
]
