"""The state of a process as data: its VMAs, its leaf entries run-length encoded, its counters (``run --state``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernel.machine import Machine
from ..kernel.mm.flags import perms, vmflags_codes
from ..kernel.mm.memory.zap import pfns_of
from ..kernel.mm.mm_types import Mm
from .values import format_addr

PFN_BITS = np.uint64(0x000F_FFFF_FFFF_F000)


def state_json(machine: Machine) -> dict[str, Any]:
    """VMAs, entries and counters of the running process; addresses and raw values are hex strings."""
    mm = machine.mm
    return {
        "pid": machine.pid,
        "comm": machine.task.comm,
        "vmas": [
            {
                "start": format_addr(v.start),
                "end": format_addr(v.end),
                "perms": perms(v.vm_flags),
                "vm_flags": format_addr(v.vm_flags),
                "VmFlags": vmflags_codes(v.vm_flags),
                "pgoff": format_addr(v.pgoff),
                "prot": format_addr(v.page_prot),
                "name": v.name,
            }
            for v in mm.vmas
        ],
        "entries": leaf_runs(machine, mm),
        "unknown": [{"start": format_addr(s), "end": format_addr(e)} for s, e in sorted(mm.unknown.data.items())],
        "counters": {**mm.counters.data, "rss": mm.rss},
        "frames": {"free": machine.frames.states.buddy.nr_free(), "total": machine.frames.nr_frames},
        "digest": machine.digest(),
    }


def leaf_runs(machine: Machine, mm: Mm) -> list[dict[str, Any]]:
    """The non-empty leaf entries in address order, neighbours with equal flags and consecutive frames as one run."""
    out: list[dict[str, Any]] = []
    arena, mode = machine.arena, machine.sys.mode
    for vma in mm.vmas:
        for slot, n, va in arena.segments(mm.pgd, vma.start, vma.end):
            values = arena.entries[slot : slot + n]
            where = np.flatnonzero(values)
            if not len(where):
                continue
            found = values[where]
            pfns, flags = pfns_of(found), found & ~PFN_BITS
            line = (np.diff(where) == 1) & (np.diff(pfns) == 1) & (flags[1:] == flags[:-1])
            first = 0
            for stop in [*(np.flatnonzero(~line) + 1).tolist(), len(where)]:
                address = va + (int(where[first]) << 12)
                _append(out, address, stop - first, int(pfns[first]), int(flags[first]), int(found[first]), mode)
                first = stop
    return out


def _append(out: list[dict[str, Any]], va: int, n: int, pfn: int, flags: int, value: int, mode: Any) -> None:
    if out:
        last = out[-1]
        if (
            int(last["va"], 16) + (last["n"] << 12) == va
            and last["fl"] == format_addr(flags)
            and int(last["pfn"], 16) + last["n"] == pfn
        ):
            last["n"] += n
            return
    out.append(
        {
            "va": format_addr(va),
            "n": n,
            "level": "pte",
            "pfn": format_addr(pfn),
            "val": format_addr(value),
            "fl": format_addr(flags),
            "bits": " ".join(mode.decode(value)),
        }
    )
