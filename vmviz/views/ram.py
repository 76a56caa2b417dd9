"""The frames of RAM and of devices for the frame map: which rows RAM has, what is in the cells.

RAM up to 1 GiB has a cell for each frame.  Where there is more, the pyramid of counts tells which rows are in
use, and only the rows that are looked at are read from the states.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from ..kernel.machine import Machine
from ..kernel.mm.frames import DeviceRegion
from ..kernel.mm.page_alloc import FREE, OTHER, RESERVED, ZERO
from .cells import Cell
from .trail import Trail

_Pfns = NDArray[np.int64]

GLYPHS: tuple[Cell, ...] = (
    ("·", "free"),
    ("T", "table"),
    ("a", "anon"),
    ("f", "file"),
    ("r", "reserved"),
    ("z", "zero"),
    ("d", "reserved"),
    ("?", "other"),
)
"""The glyph and role of each state of a frame of RAM, in the order of the states."""

SINGLE_LIMIT = 1 << 18
"""RAM of up to as many frames (1 GiB) is shown frame by frame."""

MAX_RAM_ROWS = 4096
"""The rows that larger RAM is brought down to."""

BESIDE = 12
"""Cells of a row in use that leave room for the words of the free span behind them."""


def cell_size(nr_frames: int, per_row: int) -> int:
    """How many frames of RAM a cell stands for: a power of two, 1 up to `SINGLE_LIMIT`.

    >>> cell_size(16384, 16), cell_size(1 << 18, 32), cell_size(1 << 24, 16), cell_size(1 << 24, 32)
    (1, 1, 256, 128)
    """
    if nr_frames <= SINGLE_LIMIT:
        return 1
    cell = 512 // per_row
    while nr_frames > cell * per_row * MAX_RAM_ROWS:
        cell *= 2
    return cell


@attrs.frozen(eq=False, repr=False)
class RamRows:
    """The rows of RAM: row ``i`` has cells for ``[start, tail)`` and folds the span ``[tail, end)``."""

    start: _Pfns
    tail: _Pfns
    end: _Pfns
    idle: tuple[bool, ...]
    rows_of_zone: tuple[slice, ...]
    cell: int


def ram_rows(machine: Machine, trail: Trail, per_row: int, merge: bool) -> RamRows:
    """Which rows RAM has; ``merge`` puts a free span behind the last few frames in use."""
    frames = machine.frames
    cell = cell_size(frames.nr_frames, per_row)
    step = cell * per_row
    parts: list[tuple[_Pfns, _Pfns, _Pfns]] = []
    idle: list[bool] = []
    slices: list[slice] = []
    at = 0
    freed = trail.frames(0, frames.nr_frames) if cell == 1 and trail.end != trail.start else None
    for zone in frames.zones:
        counts = frames.states.pyramid[zone.start_pfn >> 9 : (zone.end_pfn + 511) >> 9]
        total = counts.sum(axis=0)
        idle.append(int(total.sum()) == int(total[[FREE, RESERVED, ZERO, OTHER]].sum()))
        starts = np.arange(zone.start_pfn, zone.end_pfn, step)
        if cell > 1 and not zone.start_pfn & 511:
            size, every = step >> 9, counts.sum(axis=1)
            busy, known = counts[:, FREE] < every, counts[:, OTHER] < every
        else:
            size, states = step, frames.states.array[zone.start_pfn : zone.end_pfn]
            busy, known = states != FREE, states != OTHER
            if freed is not None:
                busy = busy | freed[zone.start_pfn : zone.end_pfn]
        in_use = _rows_of(busy, len(starts), size)
        # 0: a row with something to see; 1: all free; 2: nothing is known of any frame.  The last two fold.
        used: NDArray[np.bool_] = np.logical_or.reduce(in_use, axis=1)
        mixed: NDArray[np.bool_] = np.logical_or.reduce(_rows_of(known, len(starts), size), axis=1)
        kind = np.where(used, np.where(mixed, 0, 2), 1)
        keep = kind == 0
        keep[1:] |= kind[1:] != kind[:-1]
        keep[:1] = True
        start, kind, in_use = starts[keep], kind[keep], in_use[keep]
        end = np.append(start[1:], zone.end_pfn)
        tail = np.where(kind == 0, end, start)
        if merge and cell == 1 and len(kind) > 1:
            before = np.flatnonzero((kind[:-1] == 0) & (kind[1:] == 1))
            last = step - np.argmax(in_use[before][:, ::-1], axis=1)
            before, last = before[last <= BESIDE], last[last <= BESIDE]
            tail[before] = start[before] + last
            end[before] = end[before + 1]
            start, tail, end = (np.delete(a, before + 1) for a in (start, tail, end))
        parts.append((start, tail, end))
        slices.append(slice(at, at + len(start)))
        at += len(start)
    joined = [np.concatenate([p[i] for p in parts]) for i in range(3)]
    return RamRows(joined[0], joined[1], joined[2], tuple(idle), tuple(slices), cell)


def _rows_of(flags: NDArray[np.bool_], rows: int, size: int) -> NDArray[np.bool_]:
    """Flags by row, the last row filled up."""
    full = np.zeros(rows * size, np.bool_)
    full[: len(flags)] = flags
    return full.reshape(rows, size)


def any_in_cells(flags: NDArray[np.bool_], cell: int) -> NDArray[np.bool_]:
    """Whether any frame of each cell is flagged; the last cell may have fewer frames.

    >>> any_in_cells(np.array([0, 0, 1, 0, 1], np.bool_), 2).tolist()
    [False, True, True]
    """
    return np.logical_or.reduceat(flags, np.arange(0, len(flags), cell))


def ram_cells(
    machine: Machine, trail: Trail, start: int, end: int, cell: int
) -> tuple[list[Cell], NDArray[np.bool_]]:
    """The glyphs of frames ``[start, end)``, and which cells this statement filled.

    A cell of many frames shows what most of its frames in use are, as far as that is known.
    """
    states = machine.frames.states.array[start:end]
    touched = trail.frames(start, end - start)
    free = states == FREE
    filled, gone = touched & ~free, touched & free
    if cell > 1:
        filled, gone = any_in_cells(filled, cell), any_in_cells(gone, cell)
    if cell == 1:
        top = states
    else:
        number = np.arange(end - start) // cell
        cells = int(number[-1]) + 1
        counts = np.bincount(number * 8 + states, minlength=cells * 8).reshape(cells, 8)
        rest = np.where(counts[:, OTHER] > 0, OTHER, FREE)
        counts[:, (FREE, OTHER)] = 0
        top = np.where(counts.any(axis=1), counts.argmax(axis=1), rest)
    glyphs = list(map(GLYPHS.__getitem__, top.tolist()))
    for k in np.flatnonzero(gone).tolist():
        if top[k] == FREE:
            glyphs[k] = "×", "cleared"
    return glyphs, filled


def device_cells(
    region: DeviceRegion, trail: Trail, start: int, end: int, cell: int
) -> tuple[list[Cell], NDArray[np.bool_]]:
    """The glyphs of frames ``[start, end)`` of a device, and which cells this statement filled."""
    maps = region.maps.array[start - region.start_pfn : end - region.start_pfn] > 0
    moved = trail.device(start, end - start)
    mapped, gone, filled = (any_in_cells(a, cell) for a in (maps, (moved < 0) & ~maps, (moved > 0) & maps))
    cells: list[Cell] = [
        ("×", "cleared") if g else ("◊", "device") if m else ("○", "unmapped")
        for m, g in zip(mapped.tolist(), gone.tolist(), strict=True)
    ]
    return cells, filled
