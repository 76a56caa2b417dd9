"""The ruler: the address under the cursor taken apart into its indexes and put together as a physical address."""

from __future__ import annotations

from ..kernel.arch.paging import PagingMode
from ..kernel.mm.vma import vma_name
from .cells import Line, fit, plain
from .scene import Scene
from .tree_rows import TABLE_NAMES

WIDE = 120
"""From this width on the ruler has two lines: the bits, and what each index leads to."""


def ruler(scene: Scene, width: int) -> list[Line]:
    """The ruler of the scene's cursor: two lines from 120 columns on, else one.

    >>> from vmviz.kernel.machine import Machine
    >>> m = Machine(ram=64 << 20)
    >>> fb = m.mmap(0x7FFFF7000000, 8 << 20, "rw", "shared", m.open("/dev/fb0"))
    >>> plain(ruler(Scene(m, cursor=fb, labels={"fb": fb}), 80)[0]).rstrip()
    ' fb       7ffff7000000  PGD 0ff  PUD 1ff  PMD 1b8  PT 000 +000   pa e0000000'
    """
    return _two_lines(scene, width) if width >= WIDE else [_one_line(scene, width)]


def _name(scene: Scene) -> str:
    """A name for the cursor's place: a label of the script, else the VMA's."""
    label = scene.label(scene.cursor)
    if label:
        return label
    vma = scene.mm.vma_at(scene.cursor)
    return vma_name(scene.mm, vma).rsplit("/", 1)[-1] if vma is not None else ""


def _walk(scene: Scene) -> tuple[list[int], str, int | str]:
    """The entries on the way down, the last step in words, and the physical address of the page (or why none)."""
    mm, mode, va = scene.mm, scene.mm.sys.mode, scene.cursor
    if not 0 <= va < mode.task_size:
        return [], "--", "--"
    arena, page = mm.sys.arena, mode.page_size
    entries = [arena.flat[slot] for slot in arena.walk(mm.pgd, va)]
    entry, level = entries[-1], mode.levels[len(entries) - 1]
    if mode.pte_none(entry):
        start = va & -page
        word = "??" if mm.unknown_pages(start, start + page) else "--"
        return entries, word, word
    if mode.is_swap(entry, level.name):
        return entries, f"swap {mode.swp_type(entry)}:{mode.swp_offset(entry):x}", "--"
    pfn = mode.pte_pfn(entry, level.name)
    if scene.machine.frames.is_hidden(pfn):
        return entries, "pfn hidden", "--"
    return entries, f"pfn {pfn:05x}", (pfn << mode.page_shift) + (va & (level.span - 1) & -page)


def _one_line(scene: Scene, width: int) -> Line:
    mode, va = scene.mm.sys.mode, scene.cursor
    *indexes, offset = mode.split(va)
    _, _, pa = _walk(scene)
    physical = f"{pa + offset:x}" if isinstance(pa, int) else pa
    name = _name(scene)
    # Where the line is too long the name goes to its own length, then the blanks, then the name.
    for label, blank in ((f"{name:8} ", "  "), (f"{name} ", "  "), (f"{name:.8} ", " "), ("", " ")):
        line: Line = [(f" {label}" if label.strip() or blank == "  " else " ", "name"), (f"{va:x}", "addr")]
        for level, index in zip(mode.levels, indexes, strict=True):
            line += [(f"{blank}{TABLE_NAMES[level.name]} ", "label"), (f"{index:03x}", "table")]
        line += [(f" +{offset:03x}", "size"), (f"{blank} pa ", "label"), (physical, _role(pa))]
        if len(plain(line)) <= width:
            break
    return fit(line, width)


def _two_lines(scene: Scene, width: int) -> list[Line]:
    mode, va = scene.mm.sys.mode, scene.cursor
    *indexes, offset = mode.split(va)
    entries, last, pa = _walk(scene)
    first_width, step = (16, 18) if len(indexes) <= 4 else (15, 17)
    top: Line = [(f" {va:x}".ljust(first_width), "addr")]
    low: Line = [(f" {_name(scene)}"[: first_width - 1].ljust(first_width), "name")]
    for n, (level, index) in enumerate(zip(mode.levels, indexes, strict=True)):
        name = TABLE_NAMES[level.name]
        bits = f"{index:0{level.bits}b}"
        top += [(f"{name:3} ", "label"), (bits.ljust(step - 4), "bits")]
        leads, role = _leads(mode, n, entries, last)
        low += [(f"{index:03x} → ", "table"), (leads.ljust(step - 6), role)]
    top += [("offset ", "label"), (f"{offset:0{mode.page_shift}b}", "bits")]
    low += [("pa ", "label"), (f"{pa:x}" if isinstance(pa, int) else pa, _role(pa))]
    if isinstance(pa, int):
        low += [(f" + {offset:03x}", "size")]
    elif _first_outside(scene):
        low += [(" (first page outside)", "mark.outside")]
    return [fit(top, width), fit(low, width)]


def _leads(mode: PagingMode, n: int, entries: list[int], last: str) -> tuple[str, str]:
    """What the index of level ``n`` leads to, and its role."""
    if n >= len(entries):
        return "--", "empty"
    if n < len(entries) - 1:
        name = TABLE_NAMES[mode.levels[n + 1].name]
        return f"{name} {mode.pte_pfn(entries[n], mode.levels[n].name):05x}", "table"
    return last, "empty" if last in ("--", "??") else "unknown" if last == "pfn hidden" else "number"


def _role(pa: int | str) -> str:
    return "number" if isinstance(pa, int) else "unknown" if pa == "??" else "empty"


def _first_outside(scene: Scene) -> bool:
    """Whether the cursor stands on the first page of the range that is not in the VMA meant."""
    r, vma = scene.range, scene.meant
    return r is not None and vma is not None and scene.cursor == vma.end and r.start < vma.end < r.end
