"""``vmviz conform --live``: random operations on the running kernel and in the simulator, compared after each.

Compared are the result with its errno or signal, the bytes that were read, the window's lines of
/proc/PID/maps (as smaps repeats them), VmFlags and amounts of smaps, and of each page what pagemap says:
present, swapped, file or shared, exclusive; VmLck; with CAP_SYS_ADMIN also which pages have the same frame.
Operations come in runs of `RUN`; each begins with a fresh child and a fresh machine, so that a difference can
be made small.

What differs between versions is in the kernel dial; nothing is tolerated here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs

from ..kernel.errors import VmvizError
from ..kernel.fs.proc import kpagecount, kpageflags, pagemap_entry
from ..kernel.fs.task_mmu import smap_fields, vmflags_text
from ..kernel.mm.flags import MADV_MERGEABLE, MADV_PAGEOUT, MADV_UNMERGEABLE
from ..kernel.mm.vma import vma_name
from ..kernel.verify import verify
from .live_host import WINDOW, Child, Host, LiveError, simulated
from .live_ops import Operation, Simulated, statement
from .live_random import ADVICE, Chooser

RUN = 200
"""Operations between two fresh starts."""

_SIGNALS = {11: "SIGSEGV", 7: "SIGBUS"}
_CODES = {(11, 1): "SEGV_MAPERR", (11, 2): "SEGV_ACCERR", (11, 128): "SI_KERNEL", (7, 2): "BUS_ADRERR"}
_KB = ("Size", "Rss", "Pss", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty", "Anonymous",
       "LazyFree", "Swap", "Locked")  # fmt: skip
"""The lines of smaps that are compared."""
_PRESENT, _SWAP, _FILE, _EXCLUSIVE, _SOFT = (1 << bit for bit in (63, 62, 61, 56, 55))
_PFN = (1 << 55) - 1
_KPF = ((1 << 25) - 1) & ~(1 << 2 | 1 << 6)
"""The low bits of kpageflags, without REFERENCED and ACTIVE, which depend on what else ran, and below IDLE, which
DAMON and idle page tracking set on anybody's pages.
"""
_BITS = {
    _PRESENT: "present",
    _SWAP: "swapped",
    _FILE: "file or shared",
    _EXCLUSIVE: "exclusive",
    _SOFT: "soft-dirty",
}


@attrs.frozen
class LiveDifference:
    """The first field in which the kernel and the simulator differ after an operation."""

    field: str
    kernel: Any
    ours: Any


@attrs.frozen
class Finding:
    """Operations that lead to a difference, the last of them to just that one; ``once``: it was not there
    again when they ran a second time.
    """

    operations: tuple[Operation, ...]
    difference: LiveDifference
    once: bool = False


Observer = Callable[[dict[str, Any]], dict[str, Any]]


def replay(host: Host, operations: Iterable[Operation]) -> Finding | None:
    """Run operations on a fresh child and a fresh machine up to the first difference; None if there is none.

    Raises `LiveError` when the child ends.
    """
    done: list[Operation] = []
    with Child() as child:
        pair = _Pair(host, child, simulated(host))
        for op in operations:
            done.append(op)
            difference = pair.step(op)
            if difference is not None:
                return Finding(tuple(done), difference)
    return None


def explore(
    host: Host, count: int, seed: int, told: Callable[[int], None] = lambda _: None
) -> Iterator[Finding]:
    """Do ``count`` random operations, `RUN` at a time; yields what differs, and goes on with the next run.

    ``told`` is called with the number of operations done, after each run.
    """
    done = 0
    number = 0
    while done < count:
        rng = random.Random(f"{seed}:{number}")
        number += 1
        n = min(RUN, count - done)
        finding = _explore_run(host, rng, n)
        done += n
        told(done)
        if finding is not None:
            yield finding


def _explore_run(host: Host, rng: random.Random, count: int) -> Finding | None:
    operations: list[Operation] = []
    with Child() as child:
        pair = _Pair(host, child, simulated(host))
        chooser = Chooser(rng, WINDOW, advices(host), host.can_lock)
        for _ in range(count):
            op = chooser.next(pair.simulated.machine, len(pair.simulated.parents))
            operations.append(op)
            difference = pair.step(op)
            if difference is not None:
                return Finding(tuple(operations), difference)
        wrong = verify(pair.simulated.machine)
        if wrong:
            return Finding(tuple(operations), LiveDifference("invariants of the simulator", "", wrong[0]))
    return None


def advices(host: Host) -> tuple[int, ...]:
    """The advices whose effect does not depend on what the rest of the system does."""
    ksm = (MADV_MERGEABLE, MADV_UNMERGEABLE) if host.ksm else ()
    pageout = () if host.swap_pages else (MADV_PAGEOUT,)
    return tuple(a for a in ADVICE if a not in ksm) + pageout


class _Pair:
    """A child and a machine that do the same."""

    def __init__(self, host: Host, child: Child, machine: Simulated) -> None:
        self.host, self.child, self.simulated = host, child, machine
        self.soft_dirty = child.first["soft_dirty"]
        self.alone = True  # whether only the window's memory is locked

    def step(self, op: Operation) -> LiveDifference | None:
        """Do one operation on both sides; the first difference."""
        theirs = self.child.run(op)
        try:
            ours = self.simulated.run(op)
        except VmvizError as error:
            return LiveDifference("operation", _result(theirs, WINDOW), f"not simulated: {error}")
        want, have = _result(theirs, WINDOW), _result(ours, WINDOW)
        for name in dict.fromkeys((*want, *have)):
            if want.get(name) != have.get(name):
                return LiveDifference(name, want.get(name), have.get(name))
        state = theirs["state"]
        difference = _compare_vmas(state["vmas"], self._vmas())
        difference = difference or self._compare_pages(state)
        self.alone = self.alone and op.name != "mlockall"
        locked = self.simulated.machine.mm.counters.data["locked_vm"] << 2
        if difference is None and self.alone and state["VmLck"] != locked:
            return LiveDifference("VmLck", state["VmLck"], locked)
        return difference

    def _vmas(self) -> list[dict[str, Any]]:
        mm = self.simulated.machine.mm
        out = []
        for vma in mm.vmas.overlapping(*WINDOW):
            fields = smap_fields(mm, vma)
            flags = [c for c in vmflags_text(mm, vma).split() if self.soft_dirty or c != "sd"]
            out.append(
                {
                    "range": f"{vma.start:x}-{vma.end:x}",
                    "perms": vma.perms,
                    "offset": hex(vma.pgoff << 12 if vma.file else 0),
                    "file": mm.sys.files.get(vma.file).inode if vma.file else 0,
                    "name": vma_name(mm, vma),
                    "VmFlags": " ".join(flags),
                    **{name: fields[name] for name in _KB},
                }
            )
        return out

    def _compare_pages(self, state: dict[str, Any]) -> LiveDifference | None:
        words = bytes.fromhex(state["pagemap"])
        mask = _PRESENT | _SWAP | _FILE | _EXCLUSIVE | (_SOFT if self.soft_dirty else 0)
        mm = self.simulated.machine.mm
        frames: tuple[list[int], list[int]] = ([], [])
        for i, address in enumerate(range(*WINDOW, 4096)):
            theirs = int.from_bytes(words[8 * i : 8 * i + 8], "little")
            ours = pagemap_entry(mm, address)
            if (theirs ^ ours) & mask:
                return LiveDifference(f"pagemap of {address:#x}", _page(theirs & mask), _page(ours & mask))
            for side, word in zip(frames, (theirs, ours), strict=True):
                side.append(word & _PFN if word & _PRESENT else 0)
        for (count, flags), pfn in zip(state["frames"], filter(None, frames[1]), strict=False):
            ours_count, ours_flags = kpagecount(mm.sys, pfn), kpageflags(mm.sys, pfn)
            if count != ours_count:
                return LiveDifference("kpagecount", count, ours_count)
            if (flags ^ ours_flags) & _KPF:
                return LiveDifference("kpageflags", hex(flags & _KPF), hex(ours_flags & _KPF))
        if self.host.privileged and _classes(frames[0]) != _classes(frames[1]):
            return LiveDifference("pages with the same frame", *map(_sharing, frames))
        return None


def _result(answer: dict[str, Any], window: tuple[int, int]) -> dict[str, Any]:
    """The result fields, in one form for both sides; an address outside the window is only that."""
    out = {k: answer[k] for k in ("ret", "errno", "touched", "data") if answer.get(k) not in (None, "")}
    ret = out["ret"]
    if isinstance(ret, int) and ret > 1 << 20:
        out["ret"] = hex(ret) if window[0] <= ret < window[1] else "an address elsewhere"
    signal = answer.get("sig")
    if signal is not None:
        number, code, address = signal
        if isinstance(number, int):
            names = (str(_SIGNALS.get(number, number)), _CODES.get((number, code), str(code)))
        else:
            names = (number, code)
        out["signal"] = f"{names[0]} {names[1]} {address:#x}"
    return out


def _kernel_vma(entry: dict[str, Any]) -> dict[str, Any]:
    parts = entry["line"].split(None, 5)
    return {
        "range": parts[0],
        "perms": parts[1],
        "offset": hex(int(parts[2], 16)),
        "file": int(parts[4]),
        "name": parts[5] if len(parts) > 5 else "",
        "VmFlags": entry["VmFlags"],
        **{name: entry["kB"].get(name, 0) for name in _KB},
    }


def _compare_vmas(entries: Sequence[dict[str, Any]], ours: list[dict[str, Any]]) -> LiveDifference | None:
    theirs = [_kernel_vma(e) for e in entries]
    ranges = [[f"{v['range']} {v['perms']}" for v in side] for side in (theirs, ours)]
    if ranges[0] != ranges[1]:
        return LiveDifference("maps", ranges[0], ranges[1])
    files = [_classes([v.pop("file") for v in side]) for side in (theirs, ours)]
    for want, have in zip(theirs, ours, strict=True):
        for name, value in want.items():
            if have[name] != value:
                return LiveDifference(f"VMA {want['range']}: {name}", value, have[name])
    if files[0] != files[1]:
        return LiveDifference("files of the mappings", files[0], files[1])
    return None


def _classes(values: list[int]) -> list[int]:
    """Values by first appearance, so that only equality counts; 0 stays."""
    seen: dict[int, int] = {0: 0}
    return [seen.setdefault(v, len(seen)) for v in values]


def _sharing(frames: list[int]) -> str:
    """Which pages of the window have one frame, in words."""
    groups: dict[int, list[str]] = {}
    for i, frame in enumerate(frames):
        if frame:
            groups.setdefault(frame, []).append(f"{WINDOW[0] + (i << 12):#x}")
    return "; ".join(" ".join(pages) for pages in groups.values() if len(pages) > 1) or "none"


def _page(word: int) -> str:
    return ", ".join(text for bit, text in _BITS.items() if word & bit) or "nothing"


__all__ = ["RUN", "Finding", "LiveDifference", "LiveError", "advices", "explore", "replay", "statement"]
