"""Which rows the page-table tree has: it walks the tables that are unfolded and notes one small tuple per row.

Entries are looked at only where a table is spelled out; alike neighbours become one row.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray

from ..kernel.arch.x86 import _PAGE_PSE, PTE_PFN_MASK
from . import entries as ent
from .cells import Line
from .scene import Scene
from .tree_counts import TreeCounts, span_text
from .vma_index import Stamp

Key = tuple[int, int, int]
"""A node of the tree: depth (0 is the root, then one per level), first address, end."""

TABLE_NAMES = {"pgd": "PGD", "p4d": "P4D", "pud": "PUD", "pmd": "PMD", "pte": "PT"}
OPEN_TABLES = 16
"""A branch off the cursor's path unfolds by itself when it has no more last-level tables than this."""
_MARGIN = 2


class Row(NamedTuple):
    """One row: ``lo`` to ``hi`` are indexes in the table of ``depth - 1``, ``row`` is an arena row (-1: no table)."""

    kind: str
    depth: int
    prefix: str
    start: int
    end: int
    lo: int
    hi: int
    row: int = -1
    text: str = ""
    open: bool = False


@attrs.define(eq=False, repr=False)
class TreeState:
    """What the user folded, and which of several rows at one address the cursor means; kept from view to view."""

    folds: dict[tuple[int, int], bool] = attrs.field(factory=dict)
    focus: Key | None = None


class Spelled(NamedTuple):
    """Where the entries of an unfolded table stand: its own row, theirs ``[first, end)``, `TreeRows._extra`."""

    table: int
    first: int
    end: int
    before: str
    extra: frozenset[int]

    def moved(self, by: int) -> Spelled:
        """The same, some rows further down."""
        return self._replace(table=self.table + by, first=self.first + by, end=self.end + by)


class TreeRows(TreeCounts):
    """The rows of the tree for a scene, from the root down; `TreeView` gives them text and a cursor."""

    def __init__(
        self,
        scene: Scene,
        layout: str = "narrow",
        state: TreeState | None = None,
        old: TreeRows | None = None,
    ) -> None:
        """``old``: the rows of an earlier scene, from which those are taken that are still the same."""
        self.scene = scene
        self.wide = layout == "wide"
        self.state = state if state is not None else TreeState()
        self.arena = scene.machine.arena
        self.mode = scene.mm.sys.mode
        self.levels = self.mode.levels
        self.last = len(self.levels)
        self.span = scene.machine.arena.mode.levels[-1].entries
        cursor, focus = scene.cursor, self.state.focus
        self.scene_cursor = cursor
        self.focus: Key | None = focus if focus is not None and focus[1] == cursor else None
        self.path = ".".join(f"{i:03x}" for i in self.mode.split(cursor)[: self.last - 1])
        r = scene.range
        self._spots = [cursor] if r is None or r.end <= r.start else [cursor, r.start, r.end - 1]
        self._unknown = sorted(scene.mm.unknown.data.items())
        self._lines: dict[tuple[int, int], Line] = {}
        self.rows: list[Row] = []
        self._stamp = Stamp(scene.mm.sys.journal)
        self._moment = (
            scene.machine,
            scene.mm,
            self.wide,
            r,
            (scene.trail.start, scene.trail.end),
            dict(self.state.folds),
        )
        self._user = min(self.levels[0].entries, -(-self.mode.task_size // self.levels[0].span))
        self._runs: dict[int, list[int]] = {}
        self._spelled: dict[int, Spelled] = {}
        self._changed: tuple[TreeRows, int, int, int] | None = None
        """The rows that these were taken from, ``[a, b)`` of them made anew, and by how many rows the rest moved."""
        if old is None or not self._take(old):
            self._build()
            self._starts = [row.start for row in self.rows]

    def _take(self, old: TreeRows) -> bool:
        """Take over the rows of a scene that differs only in the cursor, which is still in the same table.

        Returns whether that goes: whether a table is unfolded depends on the table that the cursor is in.
        """
        journal = self.scene.mm.sys.journal
        block = self.levels[-2].span
        base = self.scene.cursor & -block
        spelled = old._spelled.get(base)
        if (
            spelled is None
            or old.scene_cursor & -block != base
            or old._moment != self._moment
            or not old._stamp.is_now(journal)
            or not journal.enabled
            or any(f is not None and f[0] != self.last for f in (self.focus, old.focus))
            or not (self.wide or base not in (self.scene.cursor, old.scene_cursor))
        ):
            return False
        old._changed = None  # or each view would keep all that were before it
        self._runs, self._spelled = old._runs, dict(old._spelled)
        a, b = spelled.first, spelled.end
        table = old.rows[spelled.table]
        extra = self._extra(table, self._runs_of(table)[0])[1]
        if self.wide and extra == spelled.extra:
            self.rows, self._starts, self._lines = old.rows, old._starts, dict(old._lines)
            self._changed = old, a, a, 0
            return True
        made = self._entries(table, spelled.before)
        moved = len(made) - (b - a)
        self.rows = old.rows[:a] + made + old.rows[b:]
        self._starts = [row.start for row in self.rows]
        self._lines = {
            (i + moved * (i >= b), width): line for (i, width), line in old._lines.items() if not a <= i < b
        }
        for start, other in old._spelled.items():
            self._spelled[start] = other.moved(moved if other.table > spelled.table else 0)
        self._spelled[base] = Spelled(spelled.table, a, b + moved, spelled.before, extra)
        self._changed = old, a, b + moved, moved
        return True

    def _build(self) -> None:
        pgd = self.scene.mm.pgd
        # The root stands for every address, so that one outside user space still has a row.
        self.rows.append(Row("root", 0, "", 0, 1 << 64, 0, 0, pgd, open=True))
        self._children(pgd, 0, 0, "")
        legend = [""]
        if self.wide:
            legend += [
                f"A PT row is one {span_text(self.levels[-2].span)} block, a cell {self.span // 16} PTEs"
            ]
            legend += ["■ RAM page  ◊ device  · empty  s swap", "× cleared  ► here  █ selected  X no exec"]
        else:
            legend += ["■ RAM ◊ device × cleared X no exec"]
        self.rows += [Row("legend", 0, "", 1 << 64, 1 << 64, 0, 0, text=text) for text in legend]

    def _children(self, table: int, depth: int, base: int, before: str) -> None:
        """The rows of one table above the last level; ``depth`` is its own, ``before`` the columns of its branches."""
        level = self.levels[depth]
        nr = self._user if depth == 0 else level.entries
        used = np.flatnonzero(self.arena.rows[table][:nr]).tolist()
        items: list[Row] = []
        at = 0
        for i in [*used, nr]:
            if i > at:
                items += self._gaps(depth + 1, base, at, i)
            if i < nr:
                items.append(self._child(table, depth, base, i))
            at = i + 1
        if not self._shows_gaps(depth, base, len(used)):
            items = [it for i, it in enumerate(items) if it.kind != "gap" or _missing_beside(items, i)]
        if depth == 0 and nr < level.entries and self.mode.canonical == "sign":
            high = (1 << 64) - (level.entries - nr) * level.span
            text = "kernel half, not simulated"
            items.append(Row("kernel", 1, "", high, 1 << 64, nr, level.entries, text=text))
        previous: Row | None = None
        for n, item in enumerate(items):
            if previous is not None:
                self._boundary(previous, item, before)
            final = n == len(items) - 1
            self.rows.append(item._replace(prefix=before + ("└" if final else "├")))
            under = before + (" " if final else "│")
            if item.kind == "table" and item.open:
                self._children(item.row, depth + 1, item.start, under)
            elif item.kind == "pt" and item.open:
                at = len(self.rows)
                self.rows += self._entries(item, under + " ")
                extra = self._extra(item, self._runs_of(item)[0])[1]
                self._spelled[item.start] = Spelled(at - 1, at, len(self.rows), under + " ", extra)
            elif item.kind == "missing":
                self._outside(item, under + " ")
            previous = item

    def _shows_gaps(self, depth: int, base: int, used: int) -> bool:
        """Whether empty slots of a table have rows: beside siblings on the way to the cursor, where there is room.

        An only child is told by its parent's "1 of 512".
        """
        if not self.wide or used < 2:
            return False
        end = base + self.levels[depth].span * self.levels[depth].entries
        return depth == 0 or any(base <= spot < end for spot in self._spots)

    def _child(self, table: int, depth: int, base: int, i: int) -> Row:
        level = self.levels[depth]
        start = base + i * level.span
        end = start + level.span
        entry = int(self.arena.rows[table][i])
        row = -1 if entry & _PAGE_PSE else self.arena.row_of.flat[(entry & PTE_PFN_MASK) >> 12] - 1
        if row < 0:
            return Row("leaf", depth + 1, "", start, end, i, i + 1, text=f"{entry:x}")
        last = depth == self.last - 2
        kind = "pt" if last else "table"
        return Row(
            kind, depth + 1, "", start, end, i, i + 1, row, open=self._is_open(row, depth + 1, start, end)
        )

    def _is_open(self, row: int, depth: int, start: int, end: int) -> bool:
        wish = self.state.folds.get((depth, start))
        here = start <= self.scene.cursor < end
        above = self.focus is not None and self.focus[0] <= depth
        if wish is not None and (wish or not here or above):
            return wish
        if depth == self.last - 1:
            r = self.scene.range
            if r is not None and (start < r.start < end or (r.start < end and start < r.end < end)):
                return True
            if not here or (self.focus is not None and self.focus[0] < depth):
                return False
            return self.wide or self.scene.cursor != start or len(self._starts_in(row, start)) > 1
        if any(start <= spot < end for spot in self._spots):
            return True
        return self.scene.range is None and self.tables_below(row, depth, OPEN_TABLES) <= OPEN_TABLES

    def _gaps(self, depth: int, base: int, lo: int, hi: int) -> list[Row]:
        """Empty slots ``[lo, hi)``: cut where the cursor or the range stands, and where nothing can be known."""
        span = self.levels[depth - 1].span
        start, end = base + lo * span, base + hi * span
        whole = Row("gap", depth, "", start, end, lo, hi)
        cuts: dict[int, int] = {lo: lo, hi: hi}
        wanted: list[tuple[int, int]] = []
        c, r, focus = self.scene.cursor, self.scene.range, self.focus
        if start <= c < end and (focus is None or focus[0] >= depth) and focus != (depth, start, end):
            wanted.append(((c - base) // span, (c - base) // span + 1))
        if r is not None and r.start < r.end and r.start < end and r.end > start:
            wanted.append((max(lo, (r.start - base) // span), min(hi, -((base - r.end) // span))))
        blind = [
            (max(lo, (s - base) // span), min(hi, -((base - e) // span)))
            for s, e in self._unknown
            if s < end and e > start
        ]
        if not wanted and not blind:
            return [whole]
        for a, b in (*wanted, *blind):
            cuts[a], cuts[b] = a, b
        out: list[Row] = []
        borders = sorted(cuts)
        for a, b in pairwise(borders):
            kind = "gap"
            if any(x <= a < y for x, y in blind):
                kind = "unknown"
            elif any(x <= a < y for x, y in wanted):
                kind = "missing"
            out.append(Row(kind, depth, "", base + a * span, base + b * span, a, b))
        return out

    def _outside(self, item: Row, before: str) -> None:
        """Under a missing table: which of its slots the range asks for."""
        r = self.scene.range
        if r is None or r.start >= item.end or r.end <= item.start or item.depth >= self.last:
            return
        span = self.levels[item.depth].span
        low, high = max(r.start, item.start), min(r.end, item.end)
        lo, hi = (low - item.start) // span, -((item.start - high) // span)
        pages = -((low - high) // self.mode.page_size)
        vma = self.scene.meant
        word = "pages outside" if vma is None or low >= vma.end or high <= vma.start else "pages, no table"
        many = item.hi - item.lo > 1
        self.rows.append(
            Row(
                "outside", item.depth + 1, before, low, high, lo, hi,
                text=("*" if many else "") + f"{pages} {word}",
            )
        )  # fmt: skip

    def _boundary(self, above: Row, below: Row, before: str) -> None:
        """A row between two neighbours where the range leaves its VMA, and (wide) where a spelled-out table begins."""
        at = below.start
        if above.end != at or above.kind not in ("pt", "table") or below.kind == "kernel":
            return
        r, vma = self.scene.range, self.scene.meant
        block = f"{span_text(self.levels[below.depth - 1].span)} boundary"
        edge = ""
        if r is not None and vma is not None and at in (vma.start, vma.end) and r.start < at < r.end:
            edge = "vm_end" if at == vma.end else "vm_start"
        if edge:
            text = f"{edge} {at:x}" + (f", {block}" if self.wide else "")
        elif self.wide and below.kind == "pt" and below.open and above.kind == "pt":
            text = f"{block}, {at:x}"
        else:
            return
        self.rows.append(Row("boundary", below.depth, before + "├", at, at, 0, 0, text=text, open=not edge))

    # -- entries of one table

    def _starts_in(self, row: int, base: int, cuts: tuple[int, ...] = ()) -> list[int]:
        """Where runs of alike entries begin in a last-level table."""
        values, was, states = self._look(row, base, 0, self.span)
        hidden = ent.hidden_of(values, was, self.scene.machine.frames, self.mode)
        return ent.run_starts(values, states, was, self.mode, cuts, hidden)

    def _look(
        self, row: int, start: int, lo: int, hi: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int8]]:
        """Entries ``[lo, hi)`` of a last-level table: as they are, what this statement cleared, their states."""
        scene = self.scene
        n, slot = hi - lo, (row << self.arena.bits) + lo
        values = self.arena.entries[slot : slot + n]
        was, fresh = scene.trail.was(slot, n), scene.trail.fresh(slot, n)
        blind: NDArray[np.bool_] | None = None
        if self._unknown:
            shift = self.mode.page_shift
            blind = np.zeros(n, np.bool_)
            first = start >> shift
            for s, e in self._unknown:
                a, b = (s >> shift) - first, (e >> shift) - first
                if a < n and b > 0:
                    blind[max(a, 0) : b] = True
        return (
            values,
            was,
            ent.states_of(values, scene.machine.frames, self.mode, was=was, fresh=fresh, unknown=blind),
        )

    def _runs_of(self, table: Row) -> tuple[list[int], dict[int, str]]:
        """Where runs of alike entries begin in a spelled-out table, and the borders of the VMA meant that lie in it."""
        page, base = self.mode.page_size, table.start
        r, vma = self.scene.range, self.scene.meant
        cuts: set[int] = set()
        edges: dict[int, str] = {}
        if r is not None and r.start < r.end:
            for at in (r.start, r.end):
                cuts.update(((at - base) // page, -((base - at) // page)))
            if vma is not None:
                for at, name in ((vma.start, "vm_start"), (vma.end, "vm_end")):
                    if r.start < at < r.end and base < at < table.end:
                        cuts.add((at - base) // page)
                        edges[(at - base) // page] = f"{name} {at:x}"
        if base not in self._runs:
            self._runs[base] = self._starts_in(table.row, base, tuple(cuts))
        return self._runs[base], edges

    def _extra(self, table: Row, starts: list[int]) -> tuple[range, frozenset[int]]:
        """The entries around the cursor that have rows of their own, and where that makes rows begin besides."""
        page, base, n, focus = self.mode.page_size, table.start, self.span, self.focus
        c = (self.scene.cursor - base) // page
        near: range = range(0)
        if 0 <= c < n and (focus is None or focus[0] > table.depth):
            i = bisect_right(starts, c) - 1
            a, b = starts[i], starts[i + 1] if i + 1 < len(starts) else n
            chosen = focus == (self.last, base + a * page, base + b * page) and b - a > 1
            alone = len(starts) == 1 and c == 0 and focus is None
            if not chosen and not alone:
                near = range(max(0, c - _MARGIN - self.wide), min(n, c + _MARGIN))
        elif c == n:
            near = range(n - 1, n)
        borders = (*near, *(range(near.stop, near.stop + 1) if near and near.stop < n else ()))
        return near, frozenset(k for k in borders if starts[bisect_right(starts, k) - 1] != k)

    def _entries(self, table: Row, before: str) -> list[Row]:
        """The rows of a spelled-out table: runs, single entries around the cursor, borders of the VMA meant."""
        page, base, n = self.mode.page_size, table.start, self.span
        starts, edges = self._runs_of(table)
        near, extra = self._extra(table, starts)
        if extra:
            starts = sorted({*starts, *extra})
        whole = len(starts) == 1
        r = self.scene.range
        asked = table.start <= self.scene.cursor < table.end or (table.depth, base) in self.state.folds
        out: list[Row] = []
        for i, a in enumerate(starts):
            b = starts[i + 1] if i + 1 < len(starts) else n
            low, high = base + a * page, base + b * page
            if a in edges:
                out.append(Row("boundary", self.last, before, low, low, 0, 0, text=edges[a]))
            inside = r is not None and low < r.end and high > r.start
            if self.wide or asked or inside or a in near:
                text = "all alike" if whole else ""
                out.append(Row("run", self.last, before, low, high, a, b, table.row, text))
        return out


def _missing_beside(items: list[Row], i: int) -> bool:
    return any(it.kind == "missing" for it in items[max(0, i - 1) : i + 2])
