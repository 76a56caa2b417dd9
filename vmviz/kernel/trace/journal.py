"""The journal: the only writer of the stores, and the memory of everything that was written.

Records lie in one list, in the order in which things happened: *writes* (plain tuples ``(store, key, old,
new)``), `Bulk` writes, and marks that change nothing: `Enter` and `Leave` of kernel functions, `Check`s,
`Event`s (tracepoints).  What a small statement writes is `Packed` until somebody looks.  A *position* is a
pair ``(record, step)``: all records before ``record`` are applied, and ``step`` steps of that one, if it is a
bulk.  Moving the position applies or takes back writes on the very stores that the panes read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from .bulk import Bulk
from .packed import Packed
from .store import Store, digest

Position = tuple[int, int]
"""``(record, step)``: records before ``record`` are applied, and ``step`` steps of that one."""

Fields = tuple[tuple[str, Any], ...]


class Enter:
    """A kernel function is entered; ``fields`` are its arguments (addresses as ints)."""

    __slots__ = ("fields", "func")

    def __init__(self, func: str, fields: Fields) -> None:
        self.func = func
        self.fields = fields

    def __repr__(self) -> str:
        return f"Enter({self.func})"


class Leave:
    """The kernel function entered last returns ``ret`` (None: void)."""

    __slots__ = ("func", "ret")

    def __init__(self, func: str, ret: Any) -> None:
        self.func = func
        self.ret = ret

    def __repr__(self) -> str:
        return f"Leave({self.func}, {self.ret})"


class Check:
    """A condition that the running function judged, with the values compared and the outcome."""

    __slots__ = ("compared", "expression", "name", "note", "passed", "reached")

    def __init__(
        self, name: str, expression: str, compared: str, passed: bool, reached: bool = True, note: str = ""
    ) -> None:
        self.name = name
        self.expression = expression
        self.compared = compared
        self.passed = passed
        self.reached = reached
        self.note = note

    def __repr__(self) -> str:
        return f"Check({self.name}, {'pass' if self.passed else 'FAIL'})"


class Event:
    """A tracepoint, by the kernel's own name."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: Fields) -> None:
        self.name = name
        self.fields = fields

    def __repr__(self) -> str:
        return f"Event({self.name})"


Write = tuple[Store, Any, Any, Any]
Record = Write | Bulk | Enter | Leave | Check | Event
_MARKS = frozenset((Enter, Leave, Check, Event))


class Journal:
    """The records, the position in them, and the stores that they are about.

    >>> from vmviz.kernel.trace.store import Keyed
    >>> j = Journal(); k = Keyed("k"); j.register(k)
    >>> j.write(k, "a", 1); j.write(k, "a", 2); k.get("a")
    2
    >>> j.seek((1, 0)); k.get("a")
    1
    >>> j.seek(j.end); k.get("a")
    2
    """

    __slots__ = ("_packed", "_records", "at", "enabled", "stores")

    def __init__(self) -> None:
        self._records: list[Any] = []  # a Packed fills the places of all records that it stands for
        self._packed: list[Packed] = []
        self.stores: dict[str, Store] = {}
        self.enabled = True
        self.at: Position | None = (
            None  # where the stores stand; None: at the end, the only place for writing
        )

    @property
    def records(self) -> list[Record]:
        """All records, taken apart where they were packed."""
        if self._packed:
            self._unpack()
        return self._records

    def _unpack(self) -> None:
        records = self._records
        for packed in self._packed:
            apart = packed.unpack()
            assert len(apart) == packed.nr_records
            records[packed.at : packed.at + packed.nr_records] = apart
        self._packed.clear()

    def clear(self) -> None:
        """Forget all records: what happened up to now is the base, and cannot be taken back."""
        self._records.clear()
        self._packed.clear()
        self.at = None

    # -- stores

    def register(self, store: Store) -> None:
        """Make ``store`` part of the digest."""
        self.stores[store.name] = store

    def digest(self) -> str:
        """SHA-256 of the canonical content of all stores."""
        return digest(self.stores.values())

    # -- writing, by the kernel

    def _refuse(self) -> NoReturn:
        raise ValueError(
            "the position is in the past: seek to the end, or truncate, before anything is written"
        )

    def write(self, store: Store, key: Any, new: Any) -> None:
        """Set one cell of a store."""
        if self.at is not None:
            self._refuse()
        if self.enabled:
            self._records.append((store, key, store.get(key), new))
        store.put(key, new)

    def change(self, store: Store, key: Any, old: Any, new: Any) -> None:
        """`write` by a caller who knows what is there, which saves looking it up: ``old``."""
        if self.at is not None:
            self._refuse()
        if self.enabled:
            self._records.append((store, key, old, new))
        store.put(key, new)

    def add(self, store: Any, key: Any, delta: int) -> None:
        """Add to one counter or cell."""
        if self.at is not None:
            self._refuse()
        old = store.get(key)
        if self.enabled:
            self._records.append((store, key, old, old + delta))
        store.put(key, old + delta)

    def bulk(self, record: Bulk) -> None:
        """Apply and keep a bulk record."""
        if self.at is not None:
            self._refuse()
        for lane in record.lanes:
            lane.forward(0, record.n)
        if self.enabled:
            self._records.append(record)

    def enter(self, func: str, *fields: tuple[str, Any]) -> None:
        """A kernel function is entered."""
        if self.at is not None:
            self._refuse()
        if self.enabled:
            self._records.append(Enter(func, fields))

    def leave(self, func: str, ret: Any = None) -> None:
        """The function entered last returns."""
        if self.enabled:
            self._records.append(Leave(func, ret))

    def check(
        self, name: str, expression: str, compared: str, passed: bool, reached: bool = True, note: str = ""
    ) -> bool:
        """A condition is judged; returns ``passed``."""
        if self.enabled:
            self._records.append(Check(name, expression, compared, passed, reached, note))
        return passed

    def event(self, name: str, *fields: tuple[str, Any]) -> None:
        """A tracepoint is passed."""
        if self.enabled:
            self._records.append(Event(name, fields))

    def pack(self, packed: Packed) -> None:
        """Keep a packed record, the writes of which are done; only where the journal is `enabled` and at its end."""
        records = self._records
        packed.at = len(records)
        records += (packed,) * packed.nr_records
        self._packed.append(packed)

    def perform(self, packed: Packed) -> None:
        """Do the writes of a packed record and keep it."""
        if self.at is not None:
            self._refuse()
        packed.redo()
        if self.enabled:
            self.pack(packed)

    # -- time travel, by the session

    @property
    def end(self) -> Position:
        """The position after the last record."""
        return (len(self._records), 0)

    @property
    def position(self) -> Position:
        """Where the stores stand now."""
        return self.at or self.end

    def seek(self, to: Position) -> None:
        """Apply or take back writes until the stores stand at ``to``."""
        rec, step = to
        records = self._records
        if not (0 <= rec <= len(records)) or (step and not self._inside(rec, step)):
            raise IndexError(f"position {to} is not in the journal, which ends at {self.end}")
        if self._packed and rec < len(records) and isinstance(r := records[rec], Packed) and r.at != rec:
            self._unpack()
        here = self.position
        if to > here:
            self._forward(here, to)
        elif to < here:
            self._backward(here, to)
        self.at = None if to == self.end else to

    def _inside(self, rec: int, step: int) -> bool:
        record = self.records[rec] if rec < len(self.records) else None
        return isinstance(record, Bulk) and 0 < step < record.n

    def _forward(self, here: Position, to: Position) -> None:
        (rec, step), (last, last_step) = here, to
        records = self._records
        while rec < last:
            r = records[rec]
            kind = type(r)
            if kind is tuple:
                r[0].put(r[1], r[3])
            elif kind is Bulk:
                r.forward(step, r.n)
            elif kind not in _MARKS:
                r.redo()
                rec += r.nr_records - 1
            step = 0
            rec += 1
        if last_step > step:
            bulk = records[last]
            assert isinstance(bulk, Bulk)
            bulk.forward(step, last_step)

    def _backward(self, here: Position, to: Position) -> None:
        (rec, step), (first, first_step) = here, to
        records = self._records
        if step:
            bulk = records[rec]
            assert isinstance(bulk, Bulk)
            bulk.backward(first_step if rec == first else 0, step)
        while rec > first:
            rec -= 1
            r = records[rec]
            kind = type(r)
            if kind is tuple:
                r[0].put(r[1], r[2])
            elif kind is Bulk:
                r.backward(first_step if rec == first else 0, r.n)
            elif kind not in _MARKS:
                r.undo()
                rec = r.at

    def truncate(self) -> None:
        """Drop the future: records after the position, which must not stand inside a bulk."""
        rec, step = self.position
        if step:
            raise ValueError("the position stands inside a bulk record; move it to a border first")
        del self._records[rec:]
        while self._packed and self._packed[-1].at >= rec:
            self._packed.pop()
        self.at = None

    def resume(self, records: list[Record]) -> None:
        """Take dropped records back as the future; the position, which must be the end, stays where it is."""
        if records:
            here = self.end
            self._records.extend(records)
            self.at = here

    # -- looking

    def between(self, a: Position, b: Position) -> Iterator[tuple[Record, int, int]]:
        """The records from position ``a`` to ``b`` (``a <= b``), each with the steps ``(from, to)``
        concerned.

        A write counts as one step, a mark as none.
        """
        (rec, step), (last, last_step) = a, b
        while rec < last:
            r = self.records[rec]
            yield r, step, r.n if type(r) is Bulk else int(type(r) is tuple)
            step = 0
            rec += 1
        if last_step > step:
            yield self.records[last], step, last_step
