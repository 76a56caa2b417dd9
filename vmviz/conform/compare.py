"""Comparing the state of a machine with a record of a trace: every field that is stable, by the traces'
README.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..kernel.fs.task_mmu import smap_fields, vmflags_text
from ..kernel.machine import Machine
from ..kernel.mm.vma import Vma, vma_name
from .difference import Difference, classes
from .entries import compare_entries, tables_of
from .oracle import PATH, Oracle

COUNTERS = (
    "pgtables", "anon", "file", "shmem", "swap", "total_vm", "locked_vm", "data_vm", "exec_vm", "stack_vm",
    "map_count",
)  # fmt: skip
RESULT = ("ret", "errno", "sig", "touched", "data", "vec", "zap", "child_status", "child_alive")
"""What an operation returns, as a record names it."""

_BELOW = {"pgd": "pud", "pud": "pmd", "pmd": "pte"}
_MMU_PAGE = ("MMUPageSize", 4)
"""The line of smaps that a trace leaves out with this value; it never has KernelPageSize."""


def counters_of(machine: Machine) -> dict[str, int]:
    """The counters that a trace knows."""
    return {name: machine.mm.counters.data[name] for name in COUNTERS}


def table_counts(machine: Machine, start: int, end: int) -> dict[str, int]:
    """How many tables of each level serve a range, as the field ``tables`` of a record counts them."""
    counts = dict.fromkeys(_BELOW.values(), 0)
    for level, _ in tables_of(machine, start, end):
        counts[_BELOW[level]] += 1
    return counts


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
    out += _vmas(record["vmas"], vmas, machine, cleared)
    out += compare_entries(record["pt"], machine, oracle, window, cleared)
    tables = table_counts(machine, low, high)
    if record["tables"] != tables:
        out.append(Difference("tables", record["tables"], tables))
    now, mm = counters_of(machine), record["mm"]
    for name in COUNTERS:
        want, have = mm.get(name), now[name] - start[name]
        if want != have:
            out.append(Difference(f"mm.{name}", want, have))
    for name in ("brk", "start_brk"):
        value, ours = mm.get(name), machine.mm.field(name)
        inside = low <= ours < high if value is None else low <= int(value, 16) < high
        if inside and value != hex(ours):
            out.append(Difference(f"mm.{name}", value, hex(ours)))
    return out


def _results(record: dict[str, Any], got: dict[str, Any], window: tuple[int, int]) -> Iterator[Difference]:
    for name in RESULT:
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
        for key in dict.fromkeys((*ours, *theirs)):
            if key == "kB":
                for name, kernel, have in differing_lines(theirs["kB"], ours["kB"], cleared):
                    yield Difference(f"VMA {theirs['s']}: kB.{name}", kernel, have)
            elif key != "av" and ours.get(key) != theirs.get(key):
                yield Difference(f"VMA {theirs['s']}: {key}", theirs.get(key), ours.get(key))
    kernel_av, ours_av = [v.get("av") for v in recorded], [v.anon_vma for v in vmas]
    if classes(ours_av) != classes(kernel_av):
        yield Difference("anon_vmas", kernel_av, ours_av)


def differing_lines(
    recorded: dict[str, int], ours: dict[str, int], cleared: bool = False
) -> Iterator[tuple[str, int, int]]:
    """The lines of smaps that differ: name, recorded and simulated kB; ``cleared`` as in `compare_record`."""
    for name in dict.fromkeys((*ours, *recorded)):
        want, have = recorded.get(name, 0), ours.get(name, 0)
        if want != have and not (cleared and name == "Referenced" and want <= have):
            yield name, want, have


def vma_fields(machine: Machine, vma: Vma) -> dict[str, Any]:
    """A VMA of a machine in the form of a record, but for ``av``, whose values are names."""
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


__all__ = [
    "COUNTERS",
    "RESULT",
    "compare_record",
    "counters_of",
    "differing_lines",
    "table_counts",
    "vma_fields",
]
