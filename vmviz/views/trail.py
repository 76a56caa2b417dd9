"""What the statement under the position has changed up to the position: what stays visible as "was ..." until the next.

A trail is made from the records between two positions of the journal; it keeps the lanes, not one object per entry, and
answers for a range of slots, frames or VMAs at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernel.machine import Machine
from ..kernel.mm.pgtable import TableArena
from ..kernel.mm.vma import Vma
from ..kernel.mm.vma_set import VmaSet
from ..kernel.trace.bulk import AddLane, Bulk, SetLane, part
from ..kernel.trace.journal import Check, Position


class Trail:
    """The changes between two positions of a machine's journal, by pane."""

    def __init__(self, machine: Machine, start: Position, end: Position) -> None:
        self.start, self.end = start, end
        self._slots: list[tuple[Any, Any, Any]] = []
        self._maps: list[tuple[int, Any, int]] = []
        self._frames: list[Any] = []
        self.vmas: dict[int, tuple[Vma | None, Vma | None]] = {}
        self.checks: list[Check] = []
        self.cleared = 0
        self.last_slot = -1
        bases = {id(r.maps): r.start_pfn for r in machine.frames.regions}
        for record, a, b in machine.journal.between(start, end):
            if isinstance(record, Check):
                self.checks.append(record)
            elif isinstance(record, Bulk):
                self._bulk(record, a, b, machine, bases)
            elif type(record) is tuple:
                self._write(record, machine, bases)

    def _bulk(self, record: Bulk, a: int, b: int, machine: Machine, bases: dict[int, int]) -> None:
        for lane in record.lanes:
            if isinstance(lane, SetLane) and isinstance(lane.store, TableArena):
                index = part(lane.index, a, b)
                old, new = lane.old_part(a, b), lane.new_part(a, b)
                self._slots.append((index, old, new))
                if isinstance(new, int) and new == 0:
                    self.cleared += b - a
                self.last_slot = index.stop - 1 if isinstance(index, slice) else int(index[-1])
            elif isinstance(lane, AddLane) and id(lane.store) in bases:
                sign = int(np.sign(lane.delta if isinstance(lane.delta, int) else lane.delta.sum()))
                self._maps.append((bases[id(lane.store)], part(lane.index, a, b), sign))
            elif isinstance(lane, SetLane) and lane.store is machine.frames.states:
                self._frames.append(part(lane.index, a, b))

    def _write(self, record: Any, machine: Machine, bases: dict[int, int]) -> None:
        store, key, old, new = record
        if isinstance(store, TableArena):
            self._slots.append((slice(key, key + 1), old, new))
            self.cleared += int(bool(old) and not new)
            self.last_slot = key
        elif id(store) in bases:
            self._maps.append((bases[id(store)], slice(key, key + 1), 1 if new > old else -1))
        elif isinstance(store, VmaSet):
            first = self.vmas[key][0] if key in self.vmas else old
            self.vmas[key] = (first, new)
        elif store is machine.frames:
            self._frames.append(slice(key, key + 1))

    def was(self, slot: int, n: int) -> NDArray[np.uint64]:
        """For ``n`` slots from ``slot`` on: the entry that this statement cleared there, 0 where it cleared none."""
        out = np.zeros(n, np.uint64)
        for index, old, new in self._slots:
            where, pick = _overlap(index, slot, n)
            if where is None:
                continue
            olds = old[pick] if isinstance(old, np.ndarray) else np.uint64(old)
            news = new[pick] if isinstance(new, np.ndarray) else np.uint64(new)
            out[where] = np.where(news == 0, olds, np.uint64(0))
        return out

    def fresh(self, slot: int, n: int) -> NDArray[np.bool_]:
        """For ``n`` slots from ``slot`` on: whether this statement filled or changed the entry."""
        out = np.zeros(n, np.bool_)
        for index, _, new in self._slots:
            where, pick = _overlap(index, slot, n)
            if where is not None:
                news = new[pick] if isinstance(new, np.ndarray) else np.uint64(new)
                out[where] = news != 0
        return out

    def device(self, pfn: int, n: int) -> NDArray[np.int8]:
        """For ``n`` frames of a device from ``pfn`` on: -1 where an entry to it went, 1 where one came, else 0."""
        out = np.zeros(n, np.int8)
        for base, index, sign in self._maps:
            moved = slice(index.start + base, index.stop + base) if isinstance(index, slice) else index + base
            where, _ = _overlap(moved, pfn, n)
            if where is not None:
                out[where] = sign
        return out

    def frames(self, pfn: int, n: int) -> NDArray[np.bool_]:
        """For ``n`` frames of RAM from ``pfn`` on: whether this statement allocated or freed them."""
        out = np.zeros(n, np.bool_)
        for index in self._frames:
            where, _ = _overlap(index, pfn, n)
            if where is not None:
                out[where] = True
        return out

    def gone_flags(self, start: int) -> int:
        """VMA flags that this statement took from the VMA at ``start``."""
        old, new = self.vmas.get(start, (None, None))
        return old.vm_flags & ~new.vm_flags if old is not None and new is not None else 0


def _overlap(index: Any, first: int, n: int) -> tuple[Any, Any]:
    """Where a lane's index falls into ``[first, first + n)``: positions there, and which steps they are."""
    if isinstance(index, slice):
        low, high = max(index.start, first), min(index.stop, first + n)
        if low >= high:
            return None, None
        return slice(low - first, high - first), slice(low - index.start, high - index.start)
    inside = np.flatnonzero((index >= first) & (index < first + n))
    if not len(inside):
        return None, None
    return index[inside] - first, inside
