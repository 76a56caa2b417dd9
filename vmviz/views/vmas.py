"""The VMA list as rows: the VMAs by address, the gaps between them, the details of the one under the cursor.

Rows are computed by ordinal, when they are seen; see `vma_index` for what is kept from one scene to the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..kernel.machine import Machine
from ..kernel.mm.flags import UNKNOWN_CODE, VM_FLAG_TABLE, VM_IO, VM_MIXEDMAP, VM_PFNMAP
from ..kernel.mm.vma import Vma, vma_name
from ..script.values import format_size
from .cells import Cell, Line, wrapped
from .rows import RowView
from .scene import Scene
from .vma_index import Stamp, VmaIndex, device_of, mapped_pfns, present_in

DETAIL_COLUMNS = 38
"""The columns that the details are wrapped to in the wide layout."""
_LEGEND: tuple[Line, ...] = (
    [],
    [("  last column: PTEs present", "dim")],
    [("  ", "text"), ("PF", "flag.pf"), (" VM_PFNMAP: raw frame numbers,", "dim")],
    [("     the kind that zap_vma_ptes accepts", "dim")],
)


def short_size(size: int) -> str:
    """A size in at most five columns, as far as there are any.

    >>> short_size(132 << 10), short_size((1 << 20) - 4096 + 512), short_size(8 << 20), short_size(0x202000)
    ('132K', '1020K', '8M', '2.0M')
    """
    text = format_size(size)
    return text if len(text) <= 5 else text.partition(".")[0] + text[-1]


def short_name(name: str, room: int) -> str:
    """A name of a mapping in ``room`` columns: whole, or its last part, or that cut.

    >>> short_name("/usr/bin/camera", 20), short_name("/usr/bin/camera", 9), short_name("/usr/bin/camera", 4)
    ('/usr/bin/camera', 'camera', 'cam…')
    """
    if len(name) > room:
        name = name.rsplit("/", 1)[-1]
    return name if len(name) <= room else f"{name[: room - 1]}…" if room > 0 else ""


class VmaView:
    """The rows of the VMA list for one scene; ``layout`` is "narrow" or "wide".

    ``page_rows`` is how many rows the screen has: the legend is left out when it would make the list scroll
    (0: it is never left out).

    >>> from vmviz.views.cells import plain
    >>> view = VmaView(Scene(Machine(ram=64 << 20, vdso=False)), "narrow")
    >>> [plain(view.row(i, 40)).rstrip() for i in range(view.row_count)]
    [' ►    127.9T free', '  7ffffffde000  132K rw-p    [stack]']
    """

    def __init__(self, scene: Scene, layout: str, page_rows: int = 0) -> None:
        self.scene = scene
        self.wide = layout == "wide"
        mm = scene.mm
        self.index = VmaIndex.of(mm)
        self._stamp = Stamp(mm.sys.journal)
        self._trailed = scene.trail.start, scene.trail.end
        self.vma = mm.vma_at(scene.cursor)
        self.shown = self.vma
        r = scene.range
        if self.shown is None and r is not None and r.start <= scene.cursor <= r.end:
            # The cursor stands where the range has left its VMA: that VMA is what the reader looks at.
            self.shown = scene.meant
        self._details = self._make_details(self.shown) if self.shown else []
        self._parent = self._vma_row(self.shown) if self.shown else -1
        self._cursor = self._base_row(scene.cursor)
        if self._cursor > self._parent >= 0:
            self._cursor += len(self._details)
        self._rows = self.index.rows + len(self._details)
        self._tail: list[Line] = []
        if self.wide:
            words: Line = [
                ("  ", "text"),
                (self._address(mm.task_size), "addr"),
                ("  end of user space", "dim"),
            ]
            self._tail = [words]
            if not page_rows or self._rows + 1 + len(_LEGEND) <= page_rows:
                self._tail += _LEGEND

    @property
    def title_right(self) -> str:
        """The number of VMAs, for the title."""
        return str(self.index.count)

    @property
    def cursor_index(self) -> int:
        """The row that the scene's cursor lies in."""
        return self._cursor

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return self._rows + len(self._tail)

    def row(self, index: int, width: int) -> Line:
        """A row as cells; the marks are in its first two columns."""
        if index >= self._rows:
            tail = index - self._rows
            return self._tail[tail] if tail < len(self._tail) else []
        detail = index - self._parent - 1
        if self._parent >= 0 and 0 <= detail < len(self._details):
            return self._detail_row(detail)
        gap, i = self.index.what(self._base(index))
        return self._gap_row(index, i, width) if gap else self._entry_row(index, i, width)

    def address_of(self, index: int) -> int | None:
        """The first address that a row stands for; None for legends and for the end of user space."""
        span = self.range_of(index)
        return span[0] if span else None

    def range_of(self, index: int) -> tuple[int, int] | None:
        """The addresses ``[start, end)`` that a row stands for; a row of details stands for its VMA."""
        if not 0 <= index < self._rows:
            return None
        if self.shown and self._parent < index <= self._parent + len(self._details):
            return self.shown.start, self.shown.end
        gap, i = self.index.what(self._base(index))
        vmas = self.scene.mm.vmas
        if gap:
            return self._gap(i)
        vma = vmas.at(i) if i < len(vmas) else None
        return (vma.start, vma.end) if vma else None

    def index_of(self, address: int) -> int:
        """The row that an address lies in."""
        row = self._base_row(address)
        return row + len(self._details) if row > self._parent >= 0 else row

    def is_cursor(self, index: int) -> bool:
        """Whether the scene's cursor lies in this row."""
        return index == self._cursor

    def can_stand(self, index: int) -> bool:
        """Whether a row is a VMA or a gap, so that the cursor may stand on it."""
        return 0 <= index < self._rows and not self._parent < index <= self._parent + len(self._details)

    def differing(self, old: RowView) -> Sequence[range] | None:
        """Rows outside of which this view reads as an older one; None where nothing is known of them."""
        journal, scene = self.scene.mm.sys.journal, self.scene
        if not (
            isinstance(old, VmaView)
            and old.scene.mm is scene.mm
            and journal.enabled
            and old._stamp.is_now(journal)
            and (old._trailed, old.scene.range, old.scene.labels, old.scene.readable, old.wide)
            == (self._trailed, scene.range, scene.labels, scene.readable, self.wide)
        ):
            return None
        rows = [range(row, row + 1) for row in (old._cursor, self._cursor)]
        if old.shown is not self.shown:
            parents = [view._parent for view in (old, self) if view._parent >= 0]
            ends = [view._parent + len(view._details) + 1 for view in (old, self)]
            rows.append(range(min(parents, default=0), max(ends)))
        return rows

    # -- which row is what

    def _base(self, index: int) -> int:
        """The row in the list without details."""
        return index - len(self._details) if index > self._parent >= 0 else index

    def _vma_row(self, vma: Vma) -> int:
        i = self.scene.mm.vmas.rank(vma.start)
        return int(self.index.row_of[i]) if i < self.index.count else -1

    def _base_row(self, address: int) -> int:
        vma = self.scene.mm.find_vma(address)
        if vma is None:
            return max(0, self.index.rows - 1)
        return max(0, self._vma_row(vma) - (address < vma.start))

    def _gap(self, i: int) -> tuple[int, int]:
        vmas, n = self.scene.mm.vmas, len(self.scene.mm.vmas)
        start = vmas.at(min(i, n) - 1).end if i and n else 0
        return start, vmas.at(i).start if i < n else max(self.scene.mm.task_size, start)

    # -- the rows themselves

    def _address(self, va: int) -> str:
        """An address in at least twelve columns; hexadecimal where the readable form is longer than that."""
        text, number = self.scene.address(va), f"{va:x}"
        return f"{text:<12}" if text != number and len(text) <= 12 else f"{number:>12}"

    def _marks(self, index: int, mark: str) -> Line:
        role = "mark.outside" if mark == "!" else "mark.range"
        return [(mark, role), ("►" if self.is_cursor(index) else " ", "mark.cursor")]

    def _entry_row(self, index: int, i: int, width: int) -> Line:
        scene = self.scene
        if i >= len(scene.mm.vmas):
            return []
        vma = scene.mm.vmas.at(i)
        line = self._marks(index, scene.mark(vma.start, vma.end))
        line += [
            (self._address(vma.start), "addr"),
            (f"{short_size(vma.size):>6}", "size"),
            (f" {vma.perms} ", "perms"),
        ]
        line += [_kind(vma.vm_flags), (" ", "text")]
        count = self._count(vma) if self.wide else ("", "count")
        room = width - sum(len(text) for text, _ in line) - (len(count[0]) + 1 if self.wide else 0)
        given = vma_name(self.scene.mm, vma)
        name = short_name(given, room) or short_name("anon" if vma.is_anonymous else "", room)
        line.append((name, "name" if given else "dim"))
        if self.wide:
            line += [(" " * (room + 1 - len(name)), "text"), count]
        return line

    def _count(self, vma: Vma) -> Cell:
        if self.scene.mm.unknown_pages(vma.start, vma.end):
            return "??", "unknown"
        n = present_in(self.scene.machine, vma)
        return str(n), "count" if n else "dim"

    def _gap_row(self, index: int, i: int, width: int) -> Line:
        start, end = self._gap(i)
        r = self.scene.range
        hit = min(r.end, end) - max(r.start, start) if r else 0
        line = self._marks(index, self.scene.mark(start, end))
        role = "gap.hit" if hit > 0 else "gap"
        kernel = end > self.scene.mm.task_size
        size = "kernel half" if kernel else format_size(end - start)
        line.append((f"{size:>19}" if self.wide else f"    {size}", role))
        line.append(("" if kernel else " free", role))
        if hit > 0:
            size = format_size(hit)
            texts = [f"  {size} of the range is here", f"  {size} of it here", f"  {size}"]
            if self.wide:
                texts[0] = f", {size} is asked for"
            used = sum(len(text) for text, _ in line)
            line.append((next((t for t in texts if used + len(t) <= width), texts[-1]), role))
        return line

    # -- the details

    def _detail_row(self, detail: int) -> Line:
        # A range that goes on behind the row of its VMA goes past the details too.
        vma = self.shown
        mark = self.scene.mark(vma.start, vma.end) if vma else " "
        mark = "█" if mark in "▄█" else " "
        return [(mark, "mark.range"), ("    " if self.wide else "  ", "text"), *self._details[detail]]

    def _make_details(self, vma: Vma) -> list[Line]:
        scene = self.scene
        unknown = scene.mm.unknown_pages(vma.start, vma.end)
        note: Line = [("present: ", "label"), ("?? (cannot be observed)", "unknown")]
        end: Line = [(scene.address(vma.end), "addr")]
        if not self.wide:
            n: Cell = ("??", "unknown") if unknown else (str(present_in(scene.machine, vma)), "count")
            first: Line = [("ends ", "label"), *end, ("  ", "text"), n, (f" of {vma.nr_pages} PTEs", "count")]
            return [first, note] if unknown else [first]
        lines: list[Line] = [
            [("vm_end ", "label"), *end],
            *_flag_lines(vma, scene.trail.gone_flags(vma.start)),
        ]
        for text in (_backing(scene.machine, vma, bool(unknown)), _handler(scene.machine, vma)):
            lines += [[(part, "text")] for part in wrapped(text, DETAIL_COLUMNS)]
        return [*lines, note] if unknown else lines


def _kind(vm_flags: int) -> Cell:
    """The one flag that decides what a VMA's entries are."""
    if vm_flags & VM_PFNMAP:
        return "PF", "flag.pf"
    return "MM" if vm_flags & VM_MIXEDMAP else "IO" if vm_flags & VM_IO else "  ", "flag"


def _flag_lines(vma: Vma, gone: int) -> list[Line]:
    """The codes of VmFlags, thirteen to a line; ``××`` stands for a flag that the statement took."""
    cells: list[Cell] = []
    both = vma.vm_flags | gone
    for bit in range(both.bit_length()):
        flag = VM_FLAG_TABLE.get(bit)
        code = flag.code if flag else UNKNOWN_CODE
        if both >> bit & 1 and code:
            role = "flag.gone" if gone >> bit & 1 else "flag.pf" if 1 << bit == VM_PFNMAP else "flag"
            cells += [("××" if role == "flag.gone" else code, role), (" ", "text")]
    return [cells[i : i + 25] for i in range(0, len(cells), 26)]


def _backing(machine: Machine, vma: Vma, unknown: bool) -> str:
    """What is behind the pages of a VMA, in words."""
    if vma.is_pfnmap:
        region = device_of(machine, vma)
        if region is not None:
            # remap_pfn_range puts the frame number into vm_pgoff of a private mapping; else it is an offset.
            first = vma.pgoff if vma.is_cow and vma.pgoff in region else region.start_pfn + vma.pgoff
            return f"pfn {first:05x}..{first + vma.nr_pages - 1:05x}, no struct pages"
        pfns = mapped_pfns(machine, vma.start, vma.end)
        if not len(pfns) or unknown:
            return "raw frame numbers, no struct pages"
        if bool(machine.frames.hidden_of(pfns).any()):
            return "raw frame numbers, hidden"
        low, high = int(pfns.min()), int(pfns.max())
        span = f"{low:05x}" if low == high else f"{low:05x}..{high:05x}"
        return f"pfn {span}, no struct pages"
    if vma.file:
        return f"{vma.name}, page {vma.pgoff:#x} on"
    return f"anon_vma {vma.anon_vma}" if vma.anon_vma else "no anon_vma yet" if vma.is_anonymous else ""


def _handler(machine: Machine, vma: Vma) -> str:
    """What a touch of an empty entry leads to, in words."""
    ops = machine.sys.vm_ops.get(vma.ops)
    if ops is None:
        if vma.is_anonymous and machine.imported:
            return "anonymous: a touch of an empty entry finds zeros; what present pages hold is not known"
        return "anonymous: a touch finds zeros" if vma.is_anonymous else "fault handler not known"
    if ops.fault is None and len(ops.explain) > DETAIL_COLUMNS:
        return "no fault handler: a touch is SIGBUS"
    return ops.explain
