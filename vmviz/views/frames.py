"""The frame map as rows: RAM with its free spans folded and counted, and the memory of devices, cell by cell.

The addresses of this view are frame numbers (pfn).
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import attrs
import numpy as np
from numpy.typing import NDArray

from ..kernel.arch.x86 import pmd_pfn
from ..kernel.machine import Machine
from ..kernel.mm.frames import DeviceRegion
from ..kernel.mm.page_alloc import FREE, OTHER
from ..script.values import format_size
from .cells import Cell, Line
from .entries import pfns_of, present_of
from .frame_cells import LEGEND, joined, pages, spread
from .frame_info import frame_words, hidden_count, hidden_words
from .ram import GLYPHS, RamRows, any_in_cells, ram_cells, ram_rows
from .rows import RowView
from .scene import Scene
from .vma_index import Stamp, VmaIndex, mapped_pfns, region_of_file

_WIDE, _NARROW = 16, 32
_MOST, _BESIDE_CELLS = 128, 40
"""Cells of RAM in a row at most, and the columns that the address and the words beside them may need."""
_DEVICE_CELLS = 16
_INFO_ROWS = 4


@attrs.define
class _Kept:
    """What was worked out at one position of the journal."""

    stamp: Stamp
    ram: dict[object, RamRows] = attrs.field(factory=dict)
    regions: list[DeviceRegion] | None = None
    pfns: dict[tuple[int, int, int], NDArray[np.int64]] = attrs.field(factory=dict)
    rows: dict[object, tuple[NDArray[np.int64], ...]] = attrs.field(factory=dict)
    free: int = -1
    known: bool = False


_kept: WeakKeyDictionary[Machine, _Kept] = WeakKeyDictionary()


def _kept_of(machine: Machine) -> _Kept:
    kept = _kept.get(machine)
    if kept is None or not kept.stamp.is_now(machine.journal) or not machine.journal.enabled:
        kept = _kept[machine] = _Kept(Stamp(machine.journal))
    return kept


@attrs.frozen(eq=False)
class _Section:
    """Neighbouring rows of one kind: "ram", "region", or "text" and "heading" with their lines."""

    kind: str
    count: int
    region: DeviceRegion | None = None
    lines: tuple[Line, ...] = ()


class FrameView:
    """The rows of the frame map for one scene; ``layout`` is "narrow" or "wide".

    The frame under the cursor is the scene's ``pfn``, or the one that the cursor's address is mapped to.

    >>> from vmviz.views.cells import plain
    >>> view = FrameView(Scene(Machine(ram=64 << 20)), "wide")
    >>> plain(view.row(1, 33)), [hex(n) for n in view.range_of(2)]
    (' 00000 rz·············· zone DMA', ['0x10', '0x1000'])
    """

    def __init__(self, scene: Scene, layout: str, columns: int = 0) -> None:
        """``columns``: where there are very many, a row has more cells."""
        self.scene = scene
        self.wide = layout == "wide"
        self.machine = machine = scene.machine
        self.per_row = _WIDE if self.wide else _NARROW
        while 2 * self.per_row + _BESIDE_CELLS <= columns and self.per_row < _MOST:
            self.per_row *= 2
        self._kept = _kept_of(machine)
        self._trailed = scene.trail.start, scene.trail.end
        self.pfn = scene.pfn if scene.pfn >= 0 else self._pfn_of_cursor()
        self.regions = self._regions()
        self._ram = self._ram_map()
        self.own = machine.frames.own_pfns
        self.hidden = self._hidden_zones()
        self._start, self._tail, self._end = self._rows_shown()
        top = max([machine.frames.nr_frames, *(r.end_pfn for r in machine.frames.regions)]) - 1
        self._digits = max(5, len(f"{top:x}"))
        self._sections = self._make_sections()
        self._borders = np.cumsum([s.count for s in self._sections])

    @property
    def title_right(self) -> str:
        """What a cell of RAM stands for, for the title; "" when that goes without saying."""
        cell = self._ram.cell
        return "" if self.wide and cell == 1 else f"1 cell = {pages(cell)}"

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return int(self._borders[-1])

    def row(self, index: int, width: int) -> Line:
        """A row as cells."""
        section, i = self._find(index)
        if section.kind == "heading":
            return spread(section.lines[i], width)
        if section.kind == "text":
            return section.lines[i]
        if section.kind == "ram":
            return self._ram_line(index, i, width)
        return self._device_line(index, i, section.region)

    def address_of(self, index: int) -> int | None:
        """The first frame that a row stands for; None for headings, words and legends."""
        span = self.range_of(index)
        return span[0] if span else None

    def range_of(self, index: int) -> tuple[int, int] | None:
        """The frames ``[start, end)`` that a row stands for."""
        if not 0 <= index < self.row_count:
            return None
        section, i = self._find(index)
        if section.kind == "ram":
            return int(self._start[i]), int(self._end[i])
        region = section.region
        if section.kind == "region" and region is not None:
            span = _DEVICE_CELLS * self._device_cell(region)
            first = region.start_pfn + i * span
            return first, min(first + span, region.end_pfn)
        return None

    def index_of(self, pfn: int) -> int:
        """The row that a frame lies in; the first row of frames when it is in none."""
        at = first = 0
        for section in self._sections:
            region = section.region
            if section.kind == "ram":
                first = at
                if pfn < self.machine.frames.nr_frames:
                    return at + max(0, int(np.searchsorted(self._start, pfn, "right")) - 1)
            elif section.kind == "region" and region is not None and pfn in region:
                return at + (pfn - region.start_pfn) // (_DEVICE_CELLS * self._device_cell(region))
            at += section.count
        return first

    def is_cursor(self, index: int) -> bool:
        """Whether the frame under the cursor lies in this row."""
        span = self.range_of(index)
        return span is not None and span[0] <= self.pfn < span[1]

    def can_stand(self, index: int) -> bool:
        """Whether a row has frames, so that the cursor may stand on it."""
        return self.range_of(index) is not None

    # -- cells

    def cell_starts(self, index: int) -> list[int]:
        """The first frame of each cell of a row; a folded span is one cell."""
        span = self.range_of(index)
        if span is None:
            return []
        section, i = self._find(index)
        if section.kind == "region" and section.region is not None:
            return list(range(*span, self._device_cell(section.region)))
        tail, end = int(self._tail[i]), int(self._end[i])
        return [*range(span[0], tail, self._ram.cell), *([tail] if tail < end else [])]

    def pfn_at(self, index: int, column: int) -> int | None:
        """The frame that is shown at a column of a row, the nearest one of the row beside its cells."""
        starts = self.cell_starts(index)
        return starts[max(0, min(column - self._digits - 2, len(starts) - 1))] if starts else None

    def moved(self, pfn: int, rows: int, cells: int) -> int:
        """The frame ``rows`` rows down and ``cells`` cells to the right of a frame (negative: up, left)."""
        index = self.index_of(pfn)
        starts = self.cell_starts(index)
        span = self.range_of(index)
        if not starts or span is None or not span[0] <= pfn < span[1]:
            return starts[0] if starts else pfn
        k = max(0, int(np.searchsorted(starts, pfn, "right")) - 1) + cells
        step = 1 if rows > 0 or k >= len(starts) else -1
        wanted = abs(rows) if rows else int(not 0 <= k < len(starts))
        while wanted:
            onward = index + step
            while 0 <= onward < self.row_count and not self.can_stand(onward):
                onward += step
            if not 0 <= onward < self.row_count:
                break
            index, wanted = onward, wanted - 1
            starts = self.cell_starts(index)
            if not rows:
                k = 0 if step > 0 else len(starts) - 1
        return starts[max(0, min(k, len(starts) - 1))]

    # -- what there is

    def _pfn_of_cursor(self) -> int:
        """The frame that the cursor's address is mapped to, or was before this statement; -1: none."""
        arena = self.machine.arena
        if not 0 <= self.scene.cursor < self.scene.mm.task_size:
            return -1
        slot = arena.lookup(self.scene.mm.pgd, self.scene.cursor)
        if slot < 0:
            huge = arena.huge_slot(self.scene.mm.pgd, self.scene.cursor)
            return pmd_pfn(arena.flat[huge]) + (self.scene.cursor >> 12 & 511) if huge >= 0 else -1
        for entry in (arena.entries[slot : slot + 1], self.scene.trail.was(slot, 1)):
            if present_of(entry, arena.mode)[0]:
                return int(pfns_of(entry, arena.mode)[0])
        return -1

    def _regions(self) -> list[DeviceRegion]:
        """The devices to show: those that a VMA maps or an entry points to, and the one under the cursor."""
        kept, frames = self._kept, self.machine.frames
        if kept.regions is None:
            files = VmaIndex.of(self.scene.mm).files
            mapped = [region_of_file(self.machine, file) for file in files]
            kept.regions = [r for r in frames.regions if r in mapped or r.maps.array.any()]
        under = frames.region_of(self.pfn) if self.pfn >= 0 else None
        return [r for r in frames.regions if r in kept.regions or r is under]

    def _free(self) -> int:
        self._count()
        return self._kept.free

    def _count(self) -> None:
        kept, pyramid = self._kept, self.machine.frames.states.pyramid
        if kept.free < 0:
            kept.free, kept.known = int(pyramid[:, FREE].sum()), not pyramid[:, OTHER].any()

    def _rows_shown(self) -> tuple[NDArray[np.int64], ...]:
        """Start, tail and end of the rows of the zones that are not hidden."""
        ram, key = self._ram, (id(self._ram), *self.hidden)
        if key not in self._kept.rows:
            keep = [s for s, h in zip(ram.rows_of_zone, self.hidden, strict=True) if not h]
            columns = (ram.start, ram.tail, ram.end)
            self._kept.rows[key] = tuple(np.concatenate([c[s] for s in keep]) for c in columns)
        return self._kept.rows[key]

    def differing(self, old: RowView) -> Sequence[range] | None:
        """Rows outside of which this view reads as an older one; None where nothing is known of them."""
        if not (
            isinstance(old, FrameView)
            and old._kept is self._kept
            and self._kept.stamp.is_now(self.machine.journal)
            and self.machine.journal.enabled
            and (old.wide, old.per_row, old.regions, old.hidden, old.scene.range)
            == (self.wide, self.per_row, self.regions, self.hidden, self.scene.range)
            and old._trailed == self._trailed
        ):
            return None
        texts = [
            range(int(end) - section.count, int(end))
            for section, end in zip(self._sections, self._borders, strict=True)
            if section.kind == "text"
        ]
        cursors = [self.index_of(view.pfn) for view in (old, self) if view.pfn >= 0]
        return [*(range(row, row + 1) for row in cursors), *texts]

    def _ram_map(self) -> RamRows:
        trail = self.scene.trail
        key = (self.per_row, trail.start, trail.end)
        if key not in self._kept.ram:
            self._kept.ram[key] = ram_rows(self.machine, trail, self.per_row, merge=not self.wide)
        return self._kept.ram[key]

    def _hidden_zones(self) -> list[bool]:
        """The narrow map leaves out zones that no process has a part of, unless the cursor is there.

        Where frame numbers are hidden, only the last zone is left: vmviz's own frames.
        """
        zones, idle = self.machine.frames.zones, self._ram.idle
        if self.own:
            return [True] * (len(zones) - 1) + [False]
        if self.wide or all(idle):
            return [False] * len(zones)
        return [i and not z.start_pfn <= self.pfn < z.end_pfn for z, i in zip(zones, idle, strict=True)]

    def _device_cell(self, region: DeviceRegion) -> int:
        """Frames per cell: one row of sixteen cells when narrow; else 32, so that a row of them is 2 MiB.

        Small devices have smaller cells, up to four rows of them, and large ones larger cells, in 64 rows.
        """
        cell, rows = 1, 4 if self.wide else 1
        while region.nr_pages > cell * _DEVICE_CELLS * rows:
            if cell == 32 and self.wide:
                rows = max(rows, 64)
                if region.nr_pages <= cell * _DEVICE_CELLS * rows:
                    break
            cell *= 2
        return cell

    def _make_sections(self) -> list[_Section]:
        frames = self.machine.frames
        ram = _Section("ram", len(self._start))
        words = self._words_of_hidden()
        if not self.wide:
            told = [_Section("text", len(words), None, tuple(words))] if words else []
            return [*told, ram, *(_Section("region", 1, region) for region in self.regions)]
        free = self._free()
        free_text = f"{free} of {frames.nr_frames} free" if self._kept.known else f"{frames.nr_frames} frames"
        heading: Line = [(f" RAM {format_size(frames.nr_frames << 12)}", "label"), (free_text, "count")]
        out = [_Section("heading", 1, None, (heading,)), ram]
        if words:
            own = pages(sum(z.end_pfn - z.start_pfn for z in frames.zones[-1:]))
            heading = [(" vmviz's own RAM", "label"), (own, "count")]
            out = [
                _Section("text", len(words) + 1, None, (*words, [])),
                _Section("heading", 1, None, (heading,)),
                ram,
            ]
        for region in self.regions:
            cell = self._device_cell(region)
            path = f"/dev/{region.name}"
            name = path if path in self.machine.sys.drivers else region.name
            label = f" {name} {format_size(region.nr_pages << 12)}"
            line: Line = [(f"{label:<15} ", "label"), (f"cell = {pages(cell)}", "dim")]
            rows = -(-region.nr_pages // (cell * _DEVICE_CELLS))
            out += [_Section("text", 2, None, ([], line)), _Section("region", rows, region)]
        info = (frame_words(self.scene, self.pfn) + [[]] * _INFO_ROWS)[:_INFO_ROWS]
        lines = ([], *info, [], *LEGEND)
        return [*out, _Section("text", len(lines), None, lines)]

    def _words_of_hidden(self) -> list[Line]:
        """What to say instead of a map where the frame numbers of a real machine are hidden; else nothing."""
        if not self.own:
            return []
        count = pages(hidden_count(self.machine))
        return [*hidden_words(self.machine), [(f" {count} with a hidden number", "count")]]

    def _find(self, index: int) -> tuple[_Section, int]:
        k = int(np.searchsorted(self._borders, index, "right"))
        return self._sections[k], index - (int(self._borders[k - 1]) if k else 0)

    # -- the rows themselves

    def _head(self, index: int, pfn: int) -> Line:
        cursor = "►" if self.scene.pfn >= 0 and self.is_cursor(index) else " "
        return [(cursor, "mark.cursor"), (f"{pfn:0{self._digits}x} ", "addr")]

    def _in_range(self, start: int, n: int, cell: int) -> NDArray[np.bool_]:
        """For ``n`` cells from frame ``start`` on: whether the selected range maps a frame of it."""
        r = self.scene.range
        if r is None or r.end <= r.start:
            return np.zeros(n, np.bool_)
        key = (self.scene.mm.id, r.start, r.end)
        if key not in self._kept.pfns:
            self._kept.pfns[key] = np.sort(mapped_pfns(self.machine, r.start, r.end))
        edges = np.arange(start, start + (n + 1) * cell, cell)
        return np.diff(np.searchsorted(self._kept.pfns[key], edges)) > 0

    def _cells(self, start: int, cell: int, cells: list[Cell], filled: NDArray[np.bool_]) -> Line:
        """Cells of frames with what the cursor, the statement and the range add, equal neighbours joined."""
        inside = self._in_range(start, len(cells), cell)
        under = (self.pfn - start) // cell if self.pfn >= start else -1
        marks = np.flatnonzero(filled | inside).tolist()
        if marks or 0 <= under < len(cells):
            cells = list(cells)
            for k in marks:
                glyph, state = cells[k]
                if state not in ("cleared", "free", "unmapped"):
                    cells[k] = glyph, "fresh" if filled[k] else "mark.range"
            if 0 <= under < len(cells):
                cells[under] = cells[under][0], "now"
        return joined(cells)

    def _ram_line(self, index: int, i: int, width: int) -> Line:
        start, tail, end = int(self._start[i]), int(self._tail[i]), int(self._end[i])
        line = self._head(index, start)
        if tail > start:
            cells, filled = ram_cells(self.machine, self.scene.trail, start, tail, self._ram.cell)
            line += self._cells(start, self._ram.cell, cells, filled)
        if end > tail:
            glyph, role = GLYPHS[self.machine.frames.states.flat[tail]]
            line.append((glyph, "now" if tail <= self.pfn < end else role))
            if role != "free":
                line.append((f" {end - tail} not known", "count"))
            elif any(self.hidden) and not self.own and end == self.machine.frames.nr_frames:
                line.append((f" {format_size(self._free() << 12)} free in all", "count"))
            else:
                line.append((f" {end - tail} free", "count"))
        zone = next((z for z in self.machine.frames.zones if z.start_pfn == start), None)
        if zone is not None and not any(self.hidden) and not self.own:
            text = f", zone {zone.name}" if end > tail else f" zone {zone.name}"
            room = width - sum(len(t) for t, _ in line)
            line.append((text if len(text) <= room else text.replace("zone ", ""), "dim"))
        return line

    def _device_line(self, index: int, i: int, region: DeviceRegion | None) -> Line:
        span = self.range_of(index)
        if region is None or span is None:
            return []
        cell = self._device_cell(region)
        n = span[1] - span[0]
        maps = region.maps.array[span[0] - region.start_pfn :][:n] > 0
        moved = self.scene.trail.device(span[0], n)
        mapped, gone, filled = (
            any_in_cells(a, cell) for a in (maps, (moved < 0) & ~maps, (moved > 0) & maps)
        )
        cells: list[Cell] = [
            ("×", "cleared") if g else ("◊", "device") if m else ("○", "unmapped")
            for m, g in zip(mapped.tolist(), gone.tolist(), strict=True)
        ]
        line = self._head(index, span[0]) + self._cells(span[0], cell, cells, filled)
        if not self.wide:
            more = f", cell = {cell}" if cell > 1 else ""
            line.append((" " * (_DEVICE_CELLS - len(cells)) + f" {region.name}{more}", "dim"))
        return line
