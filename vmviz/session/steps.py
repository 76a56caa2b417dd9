"""Steps: the places inside a statement at which a reader wants to stop.

Every entry that changes is a step (also inside bulk records, where it is found by number, not by walking),
and so are a VMA that changes, a check, and a TLB flush.  Other writes go along with the step before them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ..kernel.mm.pgtable import TableArena
from ..kernel.mm.vma_set import VmaSet
from ..kernel.trace.bulk import Bulk
from ..kernel.trace.journal import Check, Enter, Event, Journal, Leave, Position, Record


def weight(record: Record) -> int:
    """How many steps a record is."""
    if type(record) is tuple:
        return int(isinstance(record[0], TableArena | VmaSet))
    if type(record) is Bulk:
        return record.n
    if type(record) is Check:
        return 1
    return int(type(record) is Event and record.name == "tlb_flush")


class StepIndex:
    """The steps of the records from ``start`` to ``end`` (positions at statement borders), by number.

    Step ``k`` (1 to ``total``) is done at ``position_at(k)``; ``position_at(0)`` is the start, the last one the end.
    """

    def __init__(self, journal: Journal, start: Position, end: Position) -> None:
        self.journal = journal
        self.start, self.end = start, end
        self._records: list[int] = []
        self._before: list[int] = []
        self._marks: list[int] = []
        self._paths: list[tuple[tuple[str, int], ...]] = []
        path: tuple[tuple[str, int], ...] = ()
        total = 0
        for rec in range(start[0], end[0]):
            record = journal.records[rec]
            if type(record) is Enter:
                path = (*path, (record.func, rec))
            elif type(record) is Leave:
                path = path[:-1]
            if type(record) in (Enter, Leave):
                self._marks.append(rec)
                self._paths.append(path)
            w = weight(record)
            if w:
                self._records.append(rec)
                self._before.append(total)
                total += w
        self.total = total

    def position_at(self, k: int) -> Position:
        """The position when ``k`` steps are done."""
        if k <= 0:
            return self.start
        if k >= self.total:
            return self.end
        i = bisect_left(self._before, k) - 1
        rec, done = self._records[i], k - self._before[i]
        record = self.journal.records[rec]
        if type(record) is Bulk and done < record.n:
            return (rec, done)
        return (rec + 1, 0)

    def path_at(self, rec: int) -> tuple[tuple[str, int], ...]:
        """The calls that are open before record ``rec``: their functions, and the records that entered them."""
        i = bisect_left(self._marks, rec) - 1
        return self._paths[i] if i >= 0 else ()

    def index_of(self, position: Position) -> int:
        """How many steps are done at ``position``."""
        rec, inside = position
        if position >= self.end:
            return self.total
        i = bisect_right(self._records, rec) - 1
        if i < 0:
            return 0
        if self._records[i] == rec:
            return self._before[i] + inside
        return self._before[i] + weight(self.journal.records[self._records[i]])

    def calls(self) -> list[Position]:
        """The borders of calls, in order: where a function begins or ends, those of bulk records included."""
        out: list[Position] = [self.start]
        for rec in range(self.start[0], self.end[0]):
            record = self.journal.records[rec]
            if type(record) in (Enter, Leave):
                out.append((rec + 1, 0))
            elif type(record) is Bulk:
                out.extend((rec, cut) for cut in record.cuts if 0 < cut < record.n)
                out.append((rec + 1, 0))
        out.append(self.end)
        return sorted(set(out))

    def functions(self) -> list[Position]:
        """The ends of functions, the smallest grain above calls."""
        ends = [
            (rec + 1, 0)
            for rec in range(self.start[0], self.end[0])
            if type(self.journal.records[rec]) is Leave
        ]
        return sorted({self.start, *ends, self.end})
