"""What the frame map says in words: the frame under the cursor, who maps it, a range that leaves its VMA."""

from __future__ import annotations

import textwrap
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np

from ..kernel.arch.x86 import pmd_pfn
from ..kernel.machine import Machine
from ..kernel.mm.page_alloc import ANON, FILE, FREE, OTHER, STATE_NAMES, TABLE
from ..kernel.mm.page_flags import PG_HIDDEN
from .cells import Line
from .entries import pfns_of, present_of
from .scene import Scene
from .vma_index import Stamp, mapped_pfns

_COLUMNS = 32
_found: WeakKeyDictionary[Machine, tuple[Stamp, int, list[tuple[int, int]]]] = WeakKeyDictionary()


def mappers(machine: Machine, pfn: int, limit: int = 64) -> list[tuple[int, int]]:
    """Who maps a frame: pairs of an mm's id and a virtual address, at most ``limit``.

    One look through the last-level tables of all processes, with numpy.

    >>> m = Machine(ram=64 << 20); h = m.mmap(0, 4096, "rw", "private"); _ = m.store(h, 1)
    >>> [(mm, va == h) for mm, va in mappers(m, int(mapped_pfns(m, h, h + 4096)[0]))]
    [(1, True)]
    """
    arena, mode = machine.arena, machine.arena.mode
    levels = mode.levels
    used = np.flatnonzero(arena.pfn_of.array)
    level_of = arena.level_of.array[used]
    rows = used[level_of == len(levels) - 1]
    entries = arena.rows[rows]
    hits = np.argwhere(present_of(entries, mode) & (pfns_of(entries, mode) == pfn))[:limit]
    roots = {mm.pgd: mm.id for mm in machine.mms.values()}
    bases: dict[int, tuple[int, int]] = {}
    out = []
    for k, index in hits.tolist():
        row = int(rows[k])
        if row not in bases:
            bases[row] = (-1, 0)
            address, at = 0, row
            for n in range(len(levels) - 2, -1, -1):
                upper = used[level_of == n]
                above = arena.rows[upper]
                found = np.argwhere(present_of(above, mode) & (pfns_of(above, mode) == arena.pfn_of.flat[at]))
                if not len(found):
                    break
                at = int(upper[found[0][0]])
                address += int(found[0][1]) << levels[n].shift
            else:
                bases[row] = (roots.get(at, -1), address)
        mm, address = bases[row]
        if mm >= 0:
            out.append((mm, address + (index << arena.page_shift)))
    if arena.huge.data:
        out += _huge_mappers(machine, pfn)
    return sorted(out)[:limit]


def _huge_mappers(machine: Machine, pfn: int) -> list[tuple[int, int]]:
    """Who maps a frame as a part of a huge leaf."""
    arena, out = machine.arena, []
    for mm in machine.mms.values():
        for slot, va in arena.huge_leaves(mm.pgd, 0, mm.task_size):
            part = pfn - pmd_pfn(arena.flat[slot])
            if 0 <= part < arena.mode.levels[-1].entries:
                out.append((mm.id, va + (part << arena.page_shift)))
    return out


def frame_words(scene: Scene, pfn: int) -> list[Line]:
    """Up to four lines about frame ``pfn`` (-1: none), or about a range that leaves its VMA."""
    outside = _outside(scene) if scene.pfn < 0 else []
    if outside:
        return outside
    if pfn < 0:
        return [
            [(f" no frame at {scene.address(scene.cursor)}", "text")],
            [(" nothing is mapped here", "dim")],
        ]
    frames = scene.machine.frames
    hidden = frames.is_hidden(pfn)
    head: Line = [
        (" frame ", "label"),
        ("hidden" if hidden else f"{pfn:05x}", "unknown" if hidden else "addr"),
    ]
    page = frames.page(pfn)
    if page is None:
        return _device(scene, head, pfn)
    head.append((f": {page.state}", "text"))
    if hidden:
        return [head, *hidden_words(scene.machine), _mapped_by(scene, pfn)]
    if page.state == STATE_NAMES[TABLE]:
        row = scene.machine.arena.row_of.flat[pfn] - 1
        level = scene.machine.arena.mode.levels[scene.machine.arena.level_of.flat[row]].name
        return [head, [(f" it holds a table of {level} entries", "text")]]
    if page.state == STATE_NAMES[OTHER]:
        return [head, [(" nothing is known of it", "dim")], [], _mapped_by(scene, pfn)]
    if page.state == STATE_NAMES[FREE]:
        return [head, [(" in the lists of the allocator", "dim")]]
    counts: Line = [(f" refcount {page.refcount}, mapcount {page.mapcount}", "text")]
    return [head, counts, [(_flag_text(page.flags), "flag")], _mapped_by(scene, pfn)]


@lru_cache(64)
def _flag_text(flags: tuple[str, ...]) -> str:
    names = textwrap.shorten(" ".join(flags), _COLUMNS, placeholder=" …")
    return f" {names}" if names else " no flags"


def hidden_count(machine: Machine) -> int:
    """How many frames stand for ones of a real machine whose numbers are hidden."""
    own = machine.frames.own_pfns
    return int(np.count_nonzero(machine.frames.flags.array[own.start : own.stop] & np.uint32(PG_HIDDEN)))


def hidden_words(machine: Machine) -> list[Line]:
    """Two lines that say that frame numbers are hidden, and why."""
    return [
        [(" frame numbers are hidden:", "unknown")],
        [(f" {machine.frames.hidden_why}", "unknown")],
    ]


def _device(scene: Scene, head: Line, pfn: int) -> list[Line]:
    region = scene.machine.frames.region_of(pfn)
    head = [*head, (": device memory" if region else ": not known", "text")]
    if region is None:
        texts = ("outside RAM and of no known", "device, so nothing is known")
    elif scene.trail.cleared and not region.maps.get(pfn - region.start_pfn):
        texts = ("stays as it is; no PTE points", "here any more")
    elif scene.trail.cleared and scene.range is not None:
        texts = ("stays as it is; only the last", "PTE that points here goes")
    else:
        texts = ("outside RAM, so no refcount and", "no mapcount; never freed")
    return [head, *([(f" {text}", "text")] for text in texts), _mapped_by(scene, pfn)]


def sole_mapper(scene: Scene, pfn: int) -> list[tuple[int, int]]:
    """What `mappers` finds, where that goes without a look: the cursor's page is mapped to a frame that is mapped once.

    Empty where only a look can tell.
    """
    machine, arena = scene.machine, scene.machine.arena
    if not 0 <= scene.cursor < scene.mm.task_size:
        return []
    slot = arena.lookup(scene.mm.pgd, scene.cursor)
    if slot < 0:
        return []
    entry, frames = arena.flat[slot], machine.frames
    if not arena.mode.pte_present(entry) or arena.mode.pte_pfn(entry) != pfn:
        return []
    if frames.pfn_valid(pfn):
        # Bare frame numbers are not counted, so only frames that are none count as mapped once.
        once = frames.states.flat[pfn] in (ANON, FILE) and frames.page_mapcount(pfn) == 1
    else:
        region = frames.region_of(pfn)
        once = region is not None and region.maps.flat[pfn - region.start_pfn] == 1
    return [(scene.mm.id, scene.cursor >> arena.page_shift << arena.page_shift)] if once else []


def _mapped_by(scene: Scene, pfn: int) -> Line:
    machine = scene.machine
    found = sole_mapper(scene, pfn)
    if not found:
        kept = _found.get(machine)
        if kept is None or kept[1] != pfn or not kept[0].is_now(machine.journal):
            kept = _found[machine] = (Stamp(machine.journal), pfn, mappers(machine, pfn))
        found = kept[2]
    if not found:
        return [(" mapped by nobody", "dim")]
    mm, va = found[0]
    comm = next((t.comm for t in machine.tasks.data.values() if t.mm == mm), f"mm {mm}")
    pmd, pte = machine.arena.mode.levels[-2:]
    slot = f"{va >> pmd.shift & pmd.entries - 1:03x}/{va >> pte.shift & pte.entries - 1:03x}"
    more = f", {len(found) - 1} more" if len(found) > 1 else ""
    return [(f" mapped by {comm} ", "text"), (slot, "addr"), (more, "dim")]


def _outside(scene: Scene) -> list[Line]:
    """About a range that leaves the VMA it is meant for; empty when it does not."""
    r, vma = scene.range, scene.meant
    if r is None or vma is None or (vma.start <= r.start and r.end <= vma.end):
        return []
    low, high = max(r.start, vma.start), min(r.end, vma.end)
    inside = mapped_pfns(scene.machine, low, high) if low < high else np.zeros(0, np.int64)
    pages = (r.end - r.start - max(0, high - low)) >> 12
    others = len(mapped_pfns(scene.machine, r.start, r.end)) - len(inside) if r.start < r.end else 0
    span = f"{int(inside.min()):05x}..{int(inside.max()):05x}" if len(inside) else "no frame"
    if bool(scene.machine.frames.hidden_of(inside).any()):
        span = "hidden frames"
    some = f"{others or 'no'} frame{'s' * (others > 1)}"
    gone = scene.trail.cleared
    return [
        [(" inside the VMA: ", "label"), (span, "addr" if len(inside) else "dim")],
        [
            (" outside it: ", "label"),
            (f"{pages} page{'s' * (pages != 1)}, {some}", "text"),
        ],
        [(" cleared: ", "label"), (str(gone) if gone else "none", "count")],
    ]
