"""The page-table tree as rows: from the root down to the entries, folded wherever entries are alike.

A `TreeView` is made for one scene and thrown away with it; a row's text is made when it is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from . import entries as ent
from .cells import Line, fit
from .scene import Scene
from .tree_counts import span_text
from .tree_rows import TABLE_NAMES, Key, Row, TreeRows, TreeState


class TreeView(TreeRows):
    """The rows of the page-table tree of a scene's process.

    ``layout`` is "narrow" or "wide".  ``cursor_index`` is the row of the cursor, ``path`` the indexes down to it.

    >>> from vmviz.kernel.machine import Machine
    >>> m = Machine(ram=64 << 20)
    >>> fb = m.mmap(0x7FFFF7000000, 8 << 20, "rw", "shared", m.open("/dev/fb0"))
    >>> view = TreeView(Scene(m, cursor=fb), "narrow")
    >>> view.path, "".join(text for text, _ in view.row(view.cursor_index, 39))[:8]
    ('0ff.1ff.1b8', ' ►│ ├1b8')
    """

    def __init__(
        self,
        scene: Scene,
        layout: str = "narrow",
        state: TreeState | None = None,
        old: TreeView | None = None,
    ) -> None:
        super().__init__(scene, layout, state, old)
        self.cursor_index = self.index_of(scene.cursor)
        if old is not None and self._changed is not None:
            _, _, end, moved = self._changed
            for (i, width), line in list(self._lines.items()):
                was, now = i - moved * (i >= end) == old.cursor_index, i == self.cursor_index
                if was != now and line[1][1] == "mark.cursor":
                    self._lines[i, width] = [line[0], (self._arrow(i), "mark.cursor"), *line[2:]]

    def differing(self, old: TreeView) -> Sequence[range] | None:
        """Rows outside of which this view reads as an older one of as many rows; None where nothing is known."""
        if self._changed is None or self._changed[0] is not old or self._changed[3]:
            return None
        _, first, end, _ = self._changed
        return [*(range(row, row + 1) for row in (old.cursor_index, self.cursor_index)), range(first, end)]

    @property
    def row_count(self) -> int:
        """The number of rows, legend included."""
        return len(self.rows)

    def row(self, index: int, width: int) -> Line:
        """The row as cells, exactly ``width`` columns."""
        line = self._lines.get((index, width))
        if line is None:
            line = self._lines[index, width] = fit(self._line(index, width), width)
        return line

    def known_row(self, index: int, width: int) -> Line | None:
        """The row if its text was made before, for comparing."""
        return self._lines.get((index, width))

    def address_of(self, index: int) -> int | None:
        """The first address of a row; None for rows without one (borders, the legend)."""
        return self.rows[index].start if self.can_stand(index) else None

    def range_of(self, index: int) -> tuple[int, int] | None:
        """The addresses ``[start, end)`` that a row stands for."""
        row = self.rows[index]
        return (row.start, row.end) if self.can_stand(index) else None

    def address_at(self, index: int, column: int, width: int) -> int | None:
        """The address under a column: in a PT row each of the 16 cells is a place of its own."""
        row = self.rows[index]
        if row.kind == "pt":
            cell = column - 2 - len(row.prefix) - len(self._pt_label(row))
            count = min(16, self.span)
            if 0 <= cell < count:
                return row.start + cell * ((row.end - row.start) // count)
        return self.address_of(index)

    def can_stand(self, index: int) -> bool:
        """Whether the cursor may stand on a row."""
        return self.rows[index].kind not in ("boundary", "legend", "kernel", "outside")

    def key_of(self, index: int) -> Key:
        """The node that a row shows."""
        row = self.rows[index]
        return row.depth, row.start, row.end

    def is_cursor(self, index: int) -> bool:
        """Whether the cursor stands on this row."""
        return index == self.cursor_index

    def index_of(self, address: int) -> int:
        """The row that stands for an address: the one the user chose, else the deepest that holds it."""
        first = bisect_right(self._starts, address) - 1
        focus = self.focus if address == self.scene.cursor else None
        best = -1
        for i in range(first, -1, -1):
            row = self.rows[i]
            if not row.start <= address < row.end or not self.can_stand(i):
                continue
            if focus is not None:
                if (row.depth, row.start, row.end) == focus:
                    return i
            elif row.text == "all alike" and address == row.start:
                continue  # a table that is alike throughout is one thing: its own row stands for it
            if best < 0:
                best = i
                if focus is None:
                    return i
        return max(best, 0)

    # -- folding

    def unfold(self, index: int) -> Key | None:
        """Unfold a row, or go to its first row; returns the node to stand on, None where there is nothing below."""
        row = self.rows[index]
        if row.kind in ("table", "pt", "root"):
            if not row.open:
                self.state.folds[row.depth, row.start] = True
                return self.key_of(index)
            below = next((i for i in range(index + 1, len(self.rows)) if self.can_stand(i)), None)
            if below is not None and self.rows[below].depth > row.depth:
                return self.key_of(below)
            return None
        if row.kind in ("run", "gap", "missing") and row.hi - row.lo > 1:
            return row.depth, row.start, row.start + self.levels[row.depth - 1].span
        return None

    def fold(self, index: int) -> Key | None:
        """Fold a row, or go to the table that it lies in; returns the node to stand on, None at the root."""
        row = self.rows[index]
        if row.kind in ("table", "pt") and row.open:
            self.state.folds[row.depth, row.start] = False
            return self.key_of(index)
        above = next((i for i in range(index - 1, -1, -1) if self.rows[i].depth < row.depth), None)
        return self.key_of(above) if above is not None else None

    # -- making the rows

    def _line(self, index: int, width: int) -> Line:
        row = self.rows[index]
        if row.kind == "legend":
            return [("  " + row.text, "dim")]
        mark = self._mark(row)
        marks: Line = [
            (mark, "mark.outside" if mark == "!" else "mark.range"),
            (self._arrow(index), "mark.cursor"),
        ]
        left: Line = [*marks, (row.prefix, "tree")]
        right: Line = []
        trail = 0
        slots = f"{row.lo:03x}" if row.hi - row.lo <= 1 else f"{row.lo:03x}..{row.hi - 1:03x}"
        n = row.hi - row.lo
        match row.kind:
            case "root" | "table":
                name = TABLE_NAMES[self.levels[row.depth].name]
                left += [(slots + " " if row.depth else "", "table")]
                left += [(f"{name} {self.arena.pfn_of.flat[row.row]:05x}", "table")]
                right = [(self._counted(row), "count")]
            case "pt":
                values, _, states = self._look(row.row, row.start, 0, self.span)
                left += [(self._pt_label(row), "table"), *ent.block_cells(states)]
                present = int(np.count_nonzero(ent.present_of(values, self.mode)))
                right, trail = [(f"{present:3d}", "count")], 1
            case "run":
                values, was, states = self._look(row.row, row.start, row.lo, row.hi)
                left += [(slots + " ", "addr")]
                own = ent.hidden_of(values[:1], was[:1], self.scene.machine.frames, self.mode)
                hidden = own is not None and bool(own[0])
                if n == 1:
                    left += ent.entry_cells(
                        int(values[0]), int(states[0]), int(was[0]), self.mode, self.wide, hidden
                    )
                else:
                    left += ent.run_cells(values, was, int(states[0]), self.mode, self.wide, hidden)
                    words = f"{n} cleared" if states[0] == ent.CLEARED and not self.wide else str(n)
                    if row.text and sum(len(text) for text, _ in left) + len(row.text) < width:
                        words = row.text
                    right = [(words, "count")]
            case "leaf":
                entry = int(row.text, 16)
                level = self.levels[row.depth - 1].name
                left += [(f"{slots} {span_text(row.end - row.start)} ", "table")]
                left += [
                    (f"■ {self.mode.pte_pfn(entry, level):05x} ", "anon"),
                    *ent.entry_bits(entry, self.mode),
                ]
            case "gap":
                left += [(f"{slots}  {n} empty", "empty")]
            case "unknown":
                left += [(f"{slots} ??  cannot be observed", "unknown")]
            case "missing":
                left += [(f"{slots} --  ", "addr"), (self._why_missing(row), "mark.outside")]
            case "outside":
                words = row.text.lstrip("*")
                left += [("" if row.text[0] == "*" else slots, "addr")]
                right = [(words, "mark.outside" if words.endswith("outside") else "dim")]
            case "kernel":
                left += [(f"{slots}  {row.text}", "dim")]
            case _:
                dashes = "────" if self.wide else "─────"
                taken = 2 + len(row.prefix) + len(dashes) + len(row.text) + 2
                left += [(f"{dashes} {row.text} " + "─" * max(0, width - taken), "boundary")]
        return _both(left, right, width, trail)

    def _arrow(self, index: int) -> str:
        return "►" if self.is_cursor(index) else " "

    def _mark(self, row: Row) -> str:
        r = self.scene.range
        if r is None or row.kind in ("root", "kernel") or (row.kind == "table" and row.open):
            return " "
        if row.kind == "boundary":
            return "█" if row.open and r.start < row.start < r.end else " "
        return self.scene.mark(row.start, row.end)

    def _pt_label(self, row: Row) -> str:
        return f"{row.lo:03x} PT {self.arena.pfn_of.flat[row.row]:05x} "

    def _counted(self, row: Row) -> str:
        if not row.open:
            return self.below(row.row, row.depth)
        used = int(np.count_nonzero(self.arena.rows[row.row]))
        if row.depth:
            return f"{used} of {self.levels[row.depth].entries}"
        word = " user" if self._user < self.levels[0].entries else ""
        return f"{used} of {self._user}{word}"

    def _why_missing(self, row: Row) -> str:
        table = "no tables" if row.hi - row.lo > 1 else "no table"
        if self.scene.mm.vmas.first_overlap(row.start, row.end) is not None:
            return f"{table} yet"
        return f"{table}, no VMA" + (" here" if self.wide else "")


def _both(left: Line, right: Line, width: int, trail: int) -> Line:
    """Left and right words with blanks between; the blank after the right one goes first when there is no room."""
    if not right:
        return left
    used = sum(len(text) for text, _ in left) + sum(len(text) for text, _ in right)
    gap = max(1, width - used - trail)
    return [*left, (" " * gap, "text"), *right]
