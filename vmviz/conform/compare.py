"""Comparing the state of a machine with a record of a trace: every field that is stable, by the traces'
README.

Runs of entries are taken apart and compared page by page, so that it does not matter how they were joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from ..kernel.arch.paging import PagingMode
from ..kernel.arch.x86 import (
    _PAGE_ACCESSED,
    _PAGE_PAT_LARGE,
    _PAGE_PSE,
    _PAGE_SPECIAL,
    SWP_OFFSET_MASK,
    is_swap_pte,
    pmd_pfn,
    pte_flags,
    pte_pfn,
    swp_type,
)
from ..kernel.fs.proc import kpagecount, kpageflags, pagemap_entry
from ..kernel.fs.task_mmu import smap_fields, vmflags_text
from ..kernel.machine import Machine
from ..kernel.mm.frames import (
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
    ZERO_PFN,
)
from ..kernel.mm.vma import Vma, vma_name
from .oracle import PATH, Oracle

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

COUNTERS = (
    "pgtables", "anon", "file", "shmem", "swap", "total_vm", "locked_vm", "data_vm", "exec_vm", "stack_vm",
    "map_count",
)  # fmt: skip
MAX_ENTRIES = 4
"""Of how many entries of one record the differences are told."""
_RESULT = ("ret", "errno", "sig", "touched", "data", "zap", "vec", "child_status", "child_alive")


_MMU_PAGE = ("MMUPageSize", 4)
"""The line of smaps that a trace leaves out with this value; it never has KernelPageSize."""


@attrs.frozen
class Difference:
    """One field in which a machine differs from a trace: ``operation`` is the line of the scenario,
    ``kernel`` the recorded value and ``ours`` the simulated one.

    >>> str(Difference("mm.anon", 2, 1, "line 4, write B 2p"))
    'line 4, write B 2p: mm.anon 1, recorded 2'
    """

    field: str
    kernel: Any
    ours: Any
    operation: str = ""

    def __str__(self) -> str:
        where = f"{self.operation}: " if self.operation else ""
        return f"{where}{self.field} {self.ours!r}, recorded {self.kernel!r}"


def counters_of(machine: Machine) -> dict[str, int]:
    """The counters that a trace knows."""
    return {name: machine.mm.counters.data[name] for name in COUNTERS}


def leaves_of(machine: Machine, start: int, end: int) -> dict[int, int]:
    """The non-empty leaf entries of a range by address, huge ones included."""
    arena = machine.sys.arena
    out = {va: arena.flat[slot] for slot, va in arena.huge_leaves(machine.mm.pgd, start, end)}
    for slot, n, va in arena.segments(machine.mm.pgd, start, end):
        for i in np.flatnonzero(arena.entries[slot : slot + n]).tolist():
            out[va + (i << 12)] = arena.flat[slot + i]
    return out


def tables_of(machine: Machine, start: int, end: int) -> set[tuple[str, int]]:
    """The entries that point to tables, of the pgd, pud and pmd level, that serve a range: (level,
    address).
    """
    arena, levels = machine.sys.arena, machine.sys.mode.levels
    out: set[tuple[str, int]] = set()

    def down(row: int, level: int, base: int) -> None:
        if level == len(levels) - 1:
            return
        shift = levels[level].shift
        tables = (arena.rows[row] != 0) & (arena.rows[row] & np.uint64(_PAGE_PSE) == 0)
        for i in np.flatnonzero(tables).tolist():
            low = base + (i << shift)
            if low < end and low + (1 << shift) > start:
                out.add((levels[level].name, low))
                down(arena.child_row((row << arena.bits) | i), level + 1, low)

    down(machine.mm.pgd, 0, 0)
    return out


def compare_record(
    machine: Machine,
    oracle: Oracle,
    window: tuple[int, int],
    start: dict[str, int],
    record: dict[str, Any],
    got: dict[str, Any],
    cleared: bool = False,
) -> list[Difference]:
    """Every difference between a record and the machine after the operation, whose result fields are
    ``got``.

    ``cleared``: the referenced bits have been cleared before.  The kernel does not flush the TLB for that, so
    an entry that the processor still holds need not get its accessed bit back.
    """
    out = list(_results(record, got, window))
    low, high = window
    vmas = machine.mm.vmas.overlapping(low, high)
    out += _vmas(record.get("vmas", []), vmas, machine, cleared)
    out += _entries(record.get("pt", []), machine, oracle, window, cleared)
    tables = {"pud": 0, "pmd": 0, "pte": 0}
    below = {"pgd": "pud", "pud": "pmd", "pmd": "pte"}
    for level, _ in tables_of(machine, low, high):
        tables[below[level]] += 1
    if record.get("tables", tables) != tables:
        out.append(Difference("tables", record["tables"], tables))
    now = counters_of(machine)
    for name in COUNTERS:
        want, have = record["mm"][name], now[name] - start[name]
        if want != have:
            out.append(Difference(f"mm.{name}", want, have))
    for name in ("brk", "start_brk"):
        value = int(record["mm"][name], 16)
        if low <= value < high and machine.mm.field(name) != value:
            out.append(Difference(f"mm.{name}", hex(value), hex(machine.mm.field(name))))
    return out


def _results(record: dict[str, Any], got: dict[str, Any], window: tuple[int, int]) -> Iterator[Difference]:
    for name in _RESULT:
        want, have = record.get(name), got.get(name)
        if want == have:
            continue
        if name == "ret" and isinstance(want, str) and isinstance(have, str):
            inside = [window[0] <= int(x, 16) < window[1] for x in (want, have)]
            if not any(inside):
                continue  # the kernel's own choice depends on what else the traced program had mapped
        if isinstance(want, dict) and isinstance(have, dict) and name == "zap":
            for key in [k for k in (*want, *(have.keys() - want.keys())) if have.get(k) != want.get(k)]:
                yield Difference(f"zap.{key}", want.get(key), have.get(key))
        else:
            yield Difference(name, want, have)


def _vmas(
    recorded: list[dict[str, Any]], vmas: list[Vma], machine: Machine, cleared: bool
) -> Iterator[Difference]:
    mine = [vma_fields(machine, v) for v in vmas]
    ranges = [[f"{v['s']}-{v['e']}" for v in side] for side in (recorded, mine)]
    if ranges[0] != ranges[1]:
        yield Difference("vmas", ranges[0], ranges[1])
        return
    for ours, theirs in zip(mine, recorded, strict=True):
        for key, value in ours.items():
            if key == "kB":
                names = [n for n in (*value, *theirs[key]) if value.get(n, 0) != theirs[key].get(n, 0)]
                for name in dict.fromkeys(names):
                    if cleared and name == "Referenced" and theirs[key].get(name, 0) <= value.get(name, 0):
                        continue
                    field = f"VMA {theirs['s']}: kB.{name}"
                    yield Difference(field, theirs[key].get(name, 0), value.get(name, 0))
            elif value != theirs[key]:
                yield Difference(f"VMA {theirs['s']}: {key}", theirs[key], value)
    kernel, ours_av = [v["av"] for v in recorded], [v.anon_vma for v in vmas]
    if _classes(ours_av) != _classes(kernel):
        yield Difference("anon_vmas", kernel, ours_av)


def vma_fields(machine: Machine, vma: Vma) -> dict[str, Any]:
    """A VMA of a machine in the form of a record."""
    name = vma_name(machine.mm, vma)
    path = PATH if name.startswith("vmoracle:") else name
    lines = smap_fields(machine.mm, vma)
    return {
        "s": hex(vma.start),
        "e": hex(vma.end),
        "perms": vma.perms,
        "off": hex(vma.pgoff << 12 if vma.file else 0),
        "path": path,
        "vm_flags": hex(vma.vm_flags),
        "pgoff": hex(vma.pgoff),
        "prot": hex(vma.page_prot),
        "ops": int(bool(vma.ops)),
        "VmFlags": vmflags_text(machine.mm, vma).rstrip(),
        "kB": {k: v for k, v in lines.items() if v and k != "KernelPageSize" and (k, v) != _MMU_PAGE},
    }


def _classes(values: list[int]) -> list[int]:
    """Values by first appearance: two lists have the same classes when they name the same equalities; 0
    stays.
    """
    seen: dict[int, int] = {0: 0}
    return [seen.setdefault(v, len(seen)) for v in values]


def _entries(
    recorded: list[dict[str, Any]],
    machine: Machine,
    oracle: Oracle,
    window: tuple[int, int],
    cleared: bool,
) -> Iterator[Difference]:
    shift = {level.name: level.shift for level in machine.sys.mode.levels}
    tables = {
        (r["lv"], int(r["va"], 16) + (i << shift[r["lv"]]))
        for r in recorded if not r["leaf"] for i in range(r["n"])
    }  # fmt: skip
    mine = tables_of(machine, *window)
    if mine != tables:
        extra, missing = sorted(mine - tables)[:3], sorted(tables - mine)[:3]
        texts = [[f"{level} {at:#x}" for level, at in which] for which in (missing, extra)]
        yield Difference("table entries", texts[0], texts[1])
    want, have = leaves_recorded(recorded, machine.sys.mode), leaves_simulated(machine, oracle, window)
    if cleared:
        for va in want.keys() & have.keys():
            if int(have[va]["fl"], 16) & ~_PAGE_ACCESSED == int(want[va]["fl"], 16):
                have[va]["fl"] = want[va]["fl"]
    differ = [va for va in sorted(want.keys() | have.keys()) if want.get(va) != have.get(va)]
    for va in differ[:MAX_ENTRIES]:
        yield from _entry_differences(va, want.get(va), have.get(va))
    if len(differ) > MAX_ENTRIES:
        yield Difference("more entries that differ", 0, len(differ) - MAX_ENTRIES)
    if not differ:
        frames, leaves = _recorded_frames(recorded, machine.sys.mode), leaves_of(machine, *window)
        classes = [
            _classes([pfn for _, pfn in frames]),
            _classes([_pfn(machine, va, leaves[va]) for va, _ in frames]),
        ]
        if classes[0] != classes[1]:
            yield Difference("frames shared by entries", classes[0], classes[1])


def _recorded_runs(
    recorded: list[dict[str, Any]], mode: PagingMode
) -> Iterator[tuple[dict[str, Any], int, int]]:
    """The runs of leaves of a record, with the first address and the shift of the level."""
    shift = {level.name: level.shift for level in mode.levels}
    for run in recorded:
        if run["leaf"]:
            yield run, int(run["va"], 16), shift[run["lv"]]


def leaves_recorded(recorded: list[dict[str, Any]], mode: PagingMode) -> dict[int, dict[str, Any]]:
    """The leaves of a record by address, runs taken apart."""
    return {
        va + (i << shift): _recorded_leaf(run, i)
        for run, va, shift in _recorded_runs(recorded, mode)
        for i in range(run["n"])
    }


def _recorded_frames(recorded: list[dict[str, Any]], mode: PagingMode) -> list[tuple[int, int]]:
    """The frame numbers that a record tells, with the address of each."""
    return [
        (va + (i << shift), int(pfn, 16))
        for run, va, shift in _recorded_runs(recorded, mode)
        for i, pfn in enumerate(run.get("pfns", []))
    ]


def leaves_simulated(machine: Machine, oracle: Oracle, window: tuple[int, int]) -> dict[int, dict[str, Any]]:
    """The leaves of a machine in the form of a record."""
    return {va: _leaf(machine, oracle, va, entry) for va, entry in leaves_of(machine, *window).items()}


def _entry_differences(
    va: int, want: dict[str, Any] | None, have: dict[str, Any] | None
) -> Iterator[Difference]:
    if want is None or have is None:
        yield Difference(f"entry {va:#x}", want, have)
        return
    for key in dict.fromkeys((*want, *have)):
        if want.get(key) != have.get(key):
            yield Difference(f"entry {va:#x}: {key}", want.get(key), have.get(key))


def _recorded_leaf(run: dict[str, Any], i: int) -> dict[str, Any]:
    out = {"lv": run["lv"], "fl": run["fl"], "cls": run["cls"]}
    if "idx" in run:
        out["idx"] = run["idx"] + i
    for key in ("ref", "map", "pf", "pm", "kpc", "kpf", "swtype"):
        if key in run:
            out[key] = run[key]
    return out


def _pfn(machine: Machine, va: int, entry: int) -> int:
    return pmd_pfn(entry) if machine.sys.arena.huge_slot(machine.mm.pgd, va) >= 0 else pte_pfn(entry)


def _leaf(machine: Machine, oracle: Oracle, va: int, entry: int) -> dict[str, Any]:
    huge = machine.sys.arena.huge_slot(machine.mm.pgd, va) >= 0
    out: dict[str, Any] = {"lv": "pmd" if huge else "pte", "pm": hex(pagemap_entry(machine.mm, va) >> 55)}
    if is_swap_pte(entry):
        return out | {"fl": hex(entry & ~SWP_OFFSET_MASK), "cls": "swap", "swtype": swp_type(entry)}
    pfn = pmd_pfn(entry) if huge else pte_pfn(entry)
    out["fl"] = hex(pte_flags(entry) | (entry & _PAGE_PAT_LARGE if huge else 0))
    if pfn == ZERO_PFN and entry & _PAGE_SPECIAL:
        return out | {"cls": "zero"}
    cls, index = oracle.frame_class(pfn)
    out["cls"] = cls
    if index is not None:
        out["idx"] = index
    frames = machine.sys.frames
    if frames.pfn_valid(pfn):
        head = frames.head_of(pfn)
        flags = frames.flags.flat[head] & ~PG_EXCLUSIVE | frames.flags.flat[pfn] & PG_EXCLUSIVE
        out["ref"], out["map"] = frames.refcount.flat[head], frames.page_mapcount(pfn)
        out["kpc"] = kpagecount(machine.sys, pfn)
        out["kpf"] = hex(kpageflags(machine.sys, pfn) & _KPF_STABLE)
        out["pf"] = " ".join(name for name, bit in _PAGE_FLAGS if flags & bit)
    return out
