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
from .frame_cells import joined, pages, spread
from .frame_info import frame_words
from .frame_rows import DEVICE_CELLS, INFO_ROWS, FrameRows
from .ram import GLYPHS, RamRows, device_cells, ram_cells, ram_rows
from .rows import RowView
from .scene import Scene
from .vma_index import Stamp, VmaIndex, mapped_pfns, region_of_file

_WIDE, _NARROW = 16, 32
_MOST, _BESIDE_CELLS = 128, 40
"""Cells of RAM in a row at most, and the columns that the address and the words beside them may need."""


@attrs.define(eq=False, repr=False)
class _Kept:
    """What was worked out at one position of the journal."""

    stamp: Stamp
    ram: dict[object, RamRows] = attrs.field(factory=dict)
    regions: list[DeviceRegion] | None = None
    pfns: dict[tuple[int, int, int], NDArray[np.int64]] = attrs.field(factory=dict)
    rows: dict[object, FrameRows] = attrs.field(factory=dict)


_kept: WeakKeyDictionary[Machine, _Kept] = WeakKeyDictionary()


def _kept_of(machine: Machine) -> _Kept:
    kept = _kept.get(machine)
    if kept is None or not kept.stamp.is_now(machine.journal) or not machine.journal.enabled:
        kept = _kept[machine] = _Kept(Stamp(machine.journal))
    return kept


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
        self.pfn = scene.pfn if scene.pfn >= 0 else self._pfn_of_cursor()
        self.regions = self._regions()
        self._ram = self._ram_map()
        self.own = machine.frames.own_pfns
        self.hidden = self._hidden_zones()
        self.rows = self._rows_shown()
        self.row_count = self.rows.count
        """The number of rows."""
        self._info = (frame_words(scene, self.pfn) + [[]] * INFO_ROWS)[:INFO_ROWS] if self.wide else []

    @property
    def title_right(self) -> str:
        """What a cell of RAM stands for, for the title; "" when that goes without saying."""
        cell = self._ram.cell
        return "" if self.wide and cell == 1 else f"1 cell = {pages(cell)}"

    def row(self, index: int, width: int) -> Line:
        """A row as cells."""
        section, i = self.rows.find(index)
        match section.kind:
            case "ram":
                return self._ram_line(index, i, width)
            case "region":
                return self._device_line(index, section.region)
            case "info":
                return self._info[i]
            case "heading":
                return spread(section.lines[i], width)
            case _:
                return section.lines[i]

    def address_of(self, index: int) -> int | None:
        """The first frame that a row stands for; None for headings, words and legends."""
        span = self.range_of(index)
        return span[0] if span else None

    def range_of(self, index: int) -> tuple[int, int] | None:
        """The frames ``[start, end)`` that a row stands for; None for headings, words and legends."""
        return self.rows.range_of(index)

    def index_of(self, pfn: int) -> int:
        """The row that a frame lies in; the first row of frames when it is in none."""
        return self.rows.index_of(pfn)

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
        section, i = self.rows.find(index)
        if section.kind == "region" and section.region is not None:
            return list(range(*span, self.rows.device_cell(section.region)))
        tail, end = self.rows.tail[i], self.rows.end[i]
        return [*range(span[0], tail, self._ram.cell), *([tail] if tail < end else [])]

    def pfn_at(self, index: int, column: int) -> int | None:
        """The frame that is shown at a column of a row, the nearest one of the row beside its cells."""
        starts = self.cell_starts(index)
        return starts[max(0, min(column - self.rows.digits - 2, len(starts) - 1))] if starts else None

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
        entry = arena.flat[slot]
        if not arena.mode.pte_present(entry):
            entry = int(self.scene.trail.was(slot, 1)[0])
        return arena.mode.pte_pfn(entry) if arena.mode.pte_present(entry) else -1

    def _regions(self) -> list[DeviceRegion]:
        """The devices to show: those that a VMA maps or an entry points to, and the one under the cursor."""
        kept, frames = self._kept, self.machine.frames
        if kept.regions is None:
            files = VmaIndex.of(self.scene.mm).files
            mapped = [region_of_file(self.machine, file) for file in files]
            kept.regions = [r for r in frames.regions if r in mapped or r.maps.array.any()]
        under = frames.region_of(self.pfn) if self.pfn >= 0 else None
        return [r for r in frames.regions if r in kept.regions or r is under]

    def _rows_shown(self) -> FrameRows:
        key = (self.wide, id(self._ram), *self.hidden, *(region.start_pfn for region in self.regions))
        found = self._kept.rows.get(key)
        if found is None:
            pyramid = self.machine.frames.states.pyramid
            free, known = int(pyramid[:, FREE].sum()), not pyramid[:, OTHER].any()
            found = FrameRows(self.machine, self.wide, self._ram, self.regions, self.hidden, free, known)
            self._kept.rows[key] = found
        return found

    def differing(self, old: RowView) -> Sequence[range] | None:
        """Rows outside of which this view reads as an older one; None where nothing is known of them."""
        if not isinstance(old, FrameView) or old.rows is not self.rows or old.scene.range != self.scene.range:
            return None
        changed = [self.index_of(view.pfn) for view in (old, self) if view.pfn >= 0]
        if old._info != self._info:
            first = self.rows.first_of("info")
            lines = zip(old._info, self._info, strict=True)
            changed += [first + i for i, (was, now) in enumerate(lines) if was != now]
        return [range(row, row + 1) for row in changed]

    def _ram_map(self) -> RamRows:
        trail = self.scene.trail
        key = (self.per_row, self.wide, trail.start, trail.end)
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

    # -- the rows themselves

    def _head(self, index: int, pfn: int) -> Line:
        cursor = "►" if self.scene.pfn >= 0 and self.is_cursor(index) else " "
        return [(cursor, "mark.cursor"), (f"{pfn:0{self.rows.digits}x} ", "addr")]

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

    def _kept_cells(
        self, index: int, start: int, end: int, cell: int, region: DeviceRegion | None
    ) -> list[Cell]:
        """The cells of a row with what the statement and the range add: as long as neither changes, they stay."""
        kept, key = self.rows, (self.scene.mm.id, self.scene.range)
        if kept.cells_for != key:
            kept.cells_for = key
            kept.cells.clear()
        cells = kept.cells.get(index)
        if cells is None:
            if region is None:
                cells, filled = ram_cells(self.machine, self.scene.trail, start, end, cell)
            else:
                cells, filled = device_cells(region, self.scene.trail, start, end, cell)
            for k in np.flatnonzero(filled | self._in_range(start, len(cells), cell)).tolist():
                glyph, state = cells[k]
                if state not in ("cleared", "free", "unmapped"):
                    cells[k] = glyph, "fresh" if filled[k] else "mark.range"
            kept.cells[index] = cells
        return cells

    def _cells(self, index: int, start: int, end: int, cell: int, region: DeviceRegion | None = None) -> Line:
        """Cells of frames with the cursor, equal neighbours joined."""
        cells = self._kept_cells(index, start, end, cell, region)
        if start <= self.pfn < start + len(cells) * cell:
            under = (self.pfn - start) // cell
            cells = [*cells[:under], (cells[under][0], "now"), *cells[under + 1 :]]
        return joined(cells)

    def _ram_line(self, index: int, i: int, width: int) -> Line:
        rows = self.rows
        start, tail, end = rows.start[i], rows.tail[i], rows.end[i]
        line = self._head(index, start)
        if tail > start:
            line += self._cells(index, start, tail, self._ram.cell)
        if end > tail:
            glyph, role = GLYPHS[self.machine.frames.states.flat[tail]]
            line.append((glyph, "now" if tail <= self.pfn < end else role))
            if role != "free":
                line.append((f" {end - tail} not known", "count"))
            elif any(self.hidden) and not self.own and end == self.machine.frames.nr_frames:
                line.append((f" {format_size(rows.free << 12)} free in all", "count"))
            else:
                line.append((f" {end - tail} free", "count"))
        zone = rows.zones.get(start)
        if zone is not None:
            text = f", zone {zone}" if end > tail else f" zone {zone}"
            room = width - sum(len(t) for t, _ in line)
            line.append((text if len(text) <= room else text.replace("zone ", ""), "dim"))
        return line

    def _device_line(self, index: int, region: DeviceRegion | None) -> Line:
        span = self.range_of(index)
        if region is None or span is None:
            return []
        cell = self.rows.device_cell(region)
        line = self._head(index, span[0]) + self._cells(index, *span, cell, region)
        if not self.wide:
            more = f", cell = {cell}" if cell > 1 else ""
            line.append(
                (" " * (DEVICE_CELLS - -(-(span[1] - span[0]) // cell)) + f" {region.name}{more}", "dim")
            )
        return line
