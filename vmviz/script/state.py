"""The state of a process as data (``run --state``): VMAs, leaf entries run-length encoded, counters."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernel.arch.x86 import _PAGE_PAT_LARGE, pmd_pfn, pte_flags
from ..kernel.fs.task_mmu import vmflags_text
from ..kernel.machine import Machine
from ..kernel.mm.flags import perms
from ..kernel.mm.memory.normal_page import pfns_of
from ..kernel.mm.mm_types import Mm
from ..kernel.mm.page_flags import HPAGE_PMD_NR
from ..kernel.mm.vma import vma_name
from .values import format_addr

PFN_BITS = np.uint64(0x000F_FFFF_FFFF_F000)


def state_json(machine: Machine) -> dict[str, Any]:
    """VMAs, entries and counters of the running process; addresses and raw values are hex strings.

    Where the frame numbers of a real process are hidden (``pfns_visible`` false), its entries have ``pfn`` and ``val``
    null and ``hidden`` true.
    """
    mm = machine.mm
    return {
        "pid": machine.pid,
        "comm": machine.task.comm,
        "pfns_visible": machine.pfns_visible,
        "vmas": [
            {
                "start": format_addr(v.start),
                "end": format_addr(v.end),
                "perms": perms(v.vm_flags),
                "vm_flags": format_addr(v.vm_flags),
                "VmFlags": vmflags_text(mm, v).rstrip(),
                "pgoff": format_addr(v.pgoff),
                "prot": format_addr(v.page_prot),
                "name": vma_name(mm, v),
            }
            for v in mm.vmas
        ],
        "entries": leaf_runs(machine, mm),
        "unknown": [
            {"start": format_addr(s), "end": format_addr(e)} for s, e in sorted(mm.unknown.data.items())
        ],
        "counters": {**mm.counters.data, "rss": mm.rss},
        "frames": {"free": machine.frames.states.buddy.nr_free(), "total": machine.frames.nr_frames},
        "digest": machine.digest(),
    }


def leaf_runs(machine: Machine, mm: Mm) -> list[dict[str, Any]]:
    """The non-empty leaf entries in address order; equal flags and consecutive frames make one run (of hidden
    frames: equal flags).  A run is of one ``level``, "pte" or "pmd" (huge leaves); ``n`` counts its entries.
    """
    runs: list[list[int]] = []  # va, n, pfn (-1: hidden), flags, the first entry's raw value
    for vma in mm.vmas:
        for slot, n, va in machine.arena.segments(mm.pgd, vma.start, vma.end):
            _runs_of_table(machine, slot, n, va, runs)
    out = [_run(machine, "pte", *run) for run in runs]
    huge: list[list[int]] = []
    for slot, va in machine.arena.huge_leaves(mm.pgd, 0, mm.task_size):
        entry = machine.arena.flat[slot]
        flags = pte_flags(entry) | entry & _PAGE_PAT_LARGE
        _append(huge, [va, 1, pmd_pfn(entry), flags, entry], HPAGE_PMD_NR)
    out += [_run(machine, "pmd", *run) for run in huge]
    return sorted(out, key=lambda run: int(run["va"], 16))


def _runs_of_table(machine: Machine, slot: int, n: int, va: int, runs: list[list[int]]) -> None:
    values = machine.arena.entries[slot : slot + n]
    where = np.flatnonzero(values)
    if not len(where):
        return
    found = values[where]
    pfns, flags = pfns_of(found), found & ~PFN_BITS
    hidden = machine.frames.hidden_of(pfns)
    steady = np.where(hidden[1:], hidden[:-1], (np.diff(pfns) == 1) & ~hidden[:-1])
    pfns = np.where(hidden, -1, pfns)
    line = (np.diff(where) == 1) & steady & (flags[1:] == flags[:-1])
    first = 0
    for stop in [*(np.flatnonzero(~line) + 1).tolist(), len(where)]:
        run = [va + (int(where[first]) << 12), stop - first, int(pfns[first]), int(flags[first])]
        _append(runs, [*run, int(found[first])])
        first = stop


def _run(machine: Machine, level: str, va: int, n: int, pfn: int, flags: int, value: int) -> dict[str, Any]:
    return {
        "va": format_addr(va),
        "n": n,
        "level": level,
        "pfn": format_addr(pfn) if pfn >= 0 else None,
        "val": format_addr(value) if pfn >= 0 else None,
        **({"hidden": True} if pfn < 0 else {}),
        "fl": format_addr(flags),
        "bits": " ".join(machine.sys.mode.decode(value, level)),
    }


def _append(runs: list[list[int]], run: list[int], pages: int = 1) -> None:
    """Add a run, or lengthen the last one by it where it goes on (at the border of two tables)."""
    if runs:
        va, n, pfn, flags, _ = runs[-1]
        on = [va + (n * pages << 12), pfn + n * pages if pfn >= 0 else pfn, flags]
        if on == [run[0], run[2], run[3]]:
            runs[-1][1] += run[1]
            return
    runs.append(run)
