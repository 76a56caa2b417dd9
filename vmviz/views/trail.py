"""What the statement under the position has changed up to the position: what stays visible as "was ..." until the next.

A trail is made from the records between two positions of the journal; it keeps the lanes, not one object per entry, and
answers for a range of slots, frames or VMAs at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernel.machine import Machine
from ..kernel.mm.pgtable import TableArena
from ..kernel.mm.vma import Vma
from ..kernel.mm.vma_set import VmaSet
from ..kernel.trace.bulk import AddLane, Bulk, CopyLane, FlipLane, SetLane, part
from ..kernel.trace.journal import Check, Position
from ..kernel.trace.store import cells_of

_BLOCK = 9
"""Single writes are kept by blocks of 512 places, so that a row asks only for its own."""


class _Places:
    """Ranges and single places with what happened there, in order; asked for a stretch of places at a time."""

    def __init__(self) -> None:
        self.lanes: list[tuple[Any, Any]] = []
        self.single: dict[int, list[tuple[int, Any]]] = {}

    def add(self, index: Any, what: Any) -> None:
        """A lane's part: a slice, or cells one by one."""
        self.lanes.append((index if isinstance(index, slice) else cells_of(index), what))

    def add_one(self, place: int, what: Any) -> None:
        """One place."""
        self.single.setdefault(place >> _BLOCK, []).append((place, what))

    def lanes_in(self, first: int, n: int) -> Iterator[tuple[Any, Any, Any]]:
        """The lanes that touch ``[first, first + n)``: where in it, which of their steps, and what."""
        for index, what in self.lanes:
            where, pick = _overlap(index, first, n)
            if where is not None:
                yield where, pick, what

    def singles_in(self, first: int, n: int) -> Iterator[tuple[int, Any]]:
        """The single places in ``[first, first + n)``, from its start, and what happened there."""
        blocks = range(first >> _BLOCK, ((first + n - 1) >> _BLOCK) + 1)
        keys: Iterable[int] = blocks if len(blocks) <= len(self.single) else sorted(self.single)
        for block in keys:
            for place, what in self.single.get(block, ()):
                if first <= place < first + n:
                    yield place - first, what


class Trail:
    """The changes between two positions of a machine's journal, by pane; `extend` takes it further."""

    def __init__(self, machine: Machine, start: Position, end: Position) -> None:
        self.start, self.end = start, start
        self._slots, self._maps, self._frames = _Places(), _Places(), _Places()
        self.vmas: dict[int, tuple[Vma | None, Vma | None]] = {}
        self.checks: list[Check] = []
        self.cleared = 0
        self._bases = {id(r.maps): r.start_pfn for r in machine.frames.regions}
        self.extend(machine, end)

    def extend(self, machine: Machine, end: Position) -> None:
        """Add what lies between the end so far and ``end``, which must not lie before it."""
        for record, a, b in machine.journal.between(self.end, end):
            if isinstance(record, Check):
                self.checks.append(record)
            elif isinstance(record, Bulk):
                self._bulk(record, a, b, machine)
            elif type(record) is tuple:
                self._write(record, machine)
        self.end = end

    def _bulk(self, record: Bulk, a: int, b: int, machine: Machine) -> None:
        for lane in record.lanes:
            if isinstance(lane, SetLane) and isinstance(lane.store, TableArena):
                old, new = lane.old_part(a, b), lane.new_part(a, b)
                self._slots.add(part(lane.index, a, b), (old, new))
                if isinstance(new, int) and new == 0:
                    self.cleared += b - a
            elif isinstance(lane, FlipLane | CopyLane) and isinstance(lane.store, TableArena):
                self._slots.add(
                    part(lane.index, a, b), (0, 1)
                )  # what is changed or new, not what was cleared
            elif isinstance(lane, AddLane) and id(lane.store) in self._bases:
                index: Any = part(lane.index, a, b)
                delta = lane.delta
                if isinstance(delta, np.ndarray):  # steps about frames of others have a delta of 0
                    mine = delta[a:b] != 0
                    index, delta = cells_of(index)[mine], int(np.sign(delta[a:b].sum()))
                moved = _moved(index, self._bases[id(lane.store)])
                self._maps.add(moved, int(np.sign(delta)))
            elif isinstance(lane, SetLane) and lane.store is machine.frames.states:
                self._frames.add(part(lane.index, a, b), True)

    def _write(self, record: Any, machine: Machine) -> None:
        store, key, old, new = record
        if isinstance(store, TableArena):
            self._slots.add_one(key, (old, new))
            self.cleared += int(bool(old) and not new)
        elif id(store) in self._bases:
            self._maps.add_one(key + self._bases[id(store)], 1 if new > old else -1)
        elif isinstance(store, VmaSet):
            first = self.vmas[key][0] if key in self.vmas else old
            self.vmas[key] = (first, new)
        elif store is machine.frames:
            self._frames.add_one(key, True)

    def was(self, slot: int, n: int) -> NDArray[np.uint64]:
        """For ``n`` slots from ``slot`` on: the entry that this statement cleared there, 0 where it cleared none."""
        out = np.zeros(n, np.uint64)
        for where, pick, (old, new) in self._slots.lanes_in(slot, n):
            olds = old[pick] if isinstance(old, np.ndarray) else np.uint64(old)
            news = new[pick] if isinstance(new, np.ndarray) else np.uint64(new)
            out[where] = np.where(news == 0, olds, np.uint64(0))
        for i, (old, new) in self._slots.singles_in(slot, n):
            out[i] = 0 if new else old
        return out

    def fresh(self, slot: int, n: int) -> NDArray[np.bool_]:
        """For ``n`` slots from ``slot`` on: whether this statement filled or changed the entry."""
        out = np.zeros(n, np.bool_)
        for where, pick, (_, new) in self._slots.lanes_in(slot, n):
            news = new[pick] if isinstance(new, np.ndarray) else np.uint64(new)
            out[where] = news != 0
        for i, (_, new) in self._slots.singles_in(slot, n):
            out[i] = new != 0
        return out

    def device(self, pfn: int, n: int) -> NDArray[np.int8]:
        """For ``n`` frames of a device from ``pfn`` on: -1 where an entry to it went, 1 where one came, else 0."""
        out = np.zeros(n, np.int8)
        for where, _, sign in self._maps.lanes_in(pfn, n):
            out[where] = sign
        for i, sign in self._maps.singles_in(pfn, n):
            out[i] = sign
        return out

    def frames(self, pfn: int, n: int) -> NDArray[np.bool_]:
        """For ``n`` frames of RAM from ``pfn`` on: whether this statement allocated or freed them."""
        out = np.zeros(n, np.bool_)
        for where, _, _ in self._frames.lanes_in(pfn, n):
            out[where] = True
        for i, _ in self._frames.singles_in(pfn, n):
            out[i] = True
        return out

    def gone_flags(self, start: int) -> int:
        """VMA flags that this statement took from the VMA at ``start``."""
        old, new = self.vmas.get(start, (None, None))
        return old.vm_flags & ~new.vm_flags if old is not None and new is not None else 0


def _moved(index: Any, by: int) -> Any:
    return slice(index.start + by, index.stop + by) if isinstance(index, slice) else index + by


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
