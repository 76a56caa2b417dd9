"""Which rows the frame map has: headings, RAM with its free spans folded, the memory of devices, words.

They stay the same while the journal stands and the cursor asks for no other device or zone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import attrs
import numpy as np

from ..kernel.machine import Machine
from ..kernel.mm.frames import DeviceRegion
from ..script.values import format_size
from .cells import Cell, Line
from .frame_cells import LEGEND, pages
from .frame_info import hidden_count, hidden_words
from .ram import RamRows

DEVICE_CELLS = 16
INFO_ROWS = 4
"""Rows about the frame under the cursor."""


@attrs.frozen(eq=False, repr=False)
class Section:
    """Neighbouring rows of one kind: "ram", "region", "info", or "text" and "heading" with their lines."""

    kind: str
    count: int
    region: DeviceRegion | None = None
    lines: tuple[Line, ...] = ()


class FrameRows:
    """The rows, section by section; ``cells`` keeps those of rows that were looked at, as they are without a cursor.

    ``hidden`` tells of each zone whether it is left out, ``free`` counts the free frames, as far as they are known.
    """

    def __init__(
        self,
        machine: Machine,
        wide: bool,
        ram: RamRows,
        regions: Sequence[DeviceRegion],
        hidden: Sequence[bool],
        free: int,
        known: bool,
    ) -> None:
        frames = machine.frames
        self.machine, self.wide, self.ram = machine, wide, ram
        self.free, self.known = free, known
        self.regions, self.hidden = list(regions), list(hidden)
        keep = [s for s, h in zip(ram.rows_of_zone, hidden, strict=True) if not h]
        columns = (ram.start, ram.tail, ram.end)
        self.start, self.tail, self.end = (
            np.concatenate([column[s] for s in keep]).data for column in columns
        )
        self.zones = {} if any(hidden) or frames.own_pfns else {z.start_pfn: z.name for z in frames.zones}
        top = max([frames.nr_frames, *(r.end_pfn for r in frames.regions)]) - 1
        self.digits = max(5, len(f"{top:x}"))
        self._device_cells = {r.start_pfn: self._cell_of(r) for r in self.regions}
        self.sections = self._wide_sections() if wide else self._narrow_sections()
        self._borders = list(accumulate(section.count for section in self.sections))
        self.count = self._borders[-1]
        self.cells: dict[int, list[Cell]] = {}
        self.cells_for: object = None

    def find(self, index: int) -> tuple[Section, int]:
        """The section of a row, and which of its rows it is."""
        k = bisect_right(self._borders, index)
        return self.sections[k], index - (self._borders[k - 1] if k else 0)

    def first_of(self, kind: str) -> int:
        """The first row of a kind; -1: there is none."""
        at = 0
        for section in self.sections:
            if section.kind == kind:
                return at
            at += section.count
        return -1

    def range_of(self, index: int) -> tuple[int, int] | None:
        """The frames ``[start, end)`` that a row stands for; None for headings and words."""
        if not 0 <= index < self.count:
            return None
        section, i = self.find(index)
        if section.kind == "ram":
            return self.start[i], self.end[i]
        region = section.region
        if section.kind == "region" and region is not None:
            span = DEVICE_CELLS * self.device_cell(region)
            first = region.start_pfn + i * span
            return first, min(first + span, region.end_pfn)
        return None

    def index_of(self, pfn: int) -> int:
        """The row that a frame lies in; the first row of frames when it is in none."""
        at = first = 0
        for section in self.sections:
            region = section.region
            if section.kind == "ram":
                first = at
                if pfn < self.machine.frames.nr_frames:
                    return at + max(0, bisect_right(self.start, pfn) - 1)
            elif section.kind == "region" and region is not None and pfn in region:
                return at + (pfn - region.start_pfn) // (DEVICE_CELLS * self.device_cell(region))
            at += section.count
        return first

    def device_cell(self, region: DeviceRegion) -> int:
        """How many frames of a device a cell stands for."""
        return self._device_cells[region.start_pfn]

    def _cell_of(self, region: DeviceRegion) -> int:
        """Frames per cell: one row of sixteen cells when narrow; else 32, so that a row of them is 2 MiB.

        Small devices have smaller cells, up to four rows of them, and large ones larger cells, in 64 rows.
        """
        cell, rows = 1, 4 if self.wide else 1
        while region.nr_pages > cell * DEVICE_CELLS * rows:
            if cell == 32 and self.wide:
                rows = max(rows, 64)
                if region.nr_pages <= cell * DEVICE_CELLS * rows:
                    break
            cell *= 2
        return cell

    def _narrow_sections(self) -> list[Section]:
        words = self._words_of_hidden()
        told = [Section("text", len(words), None, tuple(words))] if words else []
        devices = [Section("region", 1, region) for region in self.regions]
        return [*told, Section("ram", len(self.start)), *devices]

    def _wide_sections(self) -> list[Section]:
        frames, words = self.machine.frames, self._words_of_hidden()
        nr = frames.nr_frames
        free_text = f"{self.free} of {nr} free" if self.known else f"{nr} frames"
        heading: Line = [(f" RAM {format_size(nr << 12)}", "label"), (free_text, "count")]
        out = []
        if words:
            own = pages(sum(z.end_pfn - z.start_pfn for z in frames.zones[-1:]))
            heading = [(" vmviz's own RAM", "label"), (own, "count")]
            out = [Section("text", len(words) + 1, None, (*words, []))]
        out += [Section("heading", 1, None, (heading,)), Section("ram", len(self.start))]
        for region in self.regions:
            cell = self.device_cell(region)
            path = f"/dev/{region.name}"
            name = path if path in self.machine.sys.drivers else region.name
            label = f" {name} {format_size(region.nr_pages << 12)}"
            line: Line = [(f"{label:<15} ", "label"), (f"cell = {pages(cell)}", "dim")]
            rows = -(-region.nr_pages // (cell * DEVICE_CELLS))
            out += [Section("text", 2, None, ([], line)), Section("region", rows, region)]
        lines = ([], *LEGEND)
        return [
            *out,
            Section("text", 1, None, ([],)),
            Section("info", INFO_ROWS),
            Section("text", len(lines), None, lines),
        ]

    def _words_of_hidden(self) -> list[Line]:
        """What to say instead of a map where the frame numbers of a real machine are hidden; else nothing."""
        if not self.machine.frames.own_pfns:
            return []
        count = pages(hidden_count(self.machine))
        return [*hidden_words(self.machine), [(f" {count} with a hidden number", "count")]]
