"""Entries of page tables as text: the state of each, the named bits in fixed places, and runs of alike ones.

Everything about many entries at once is vectorised; single entries go through the paging mode, which knows the bits.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ..kernel.arch import get_mode
from ..kernel.arch.paging import PagingMode
from ..kernel.mm.frames import ZERO_PFN, Frames
from ..kernel.mm.page_alloc import ANON, FILE
from ..kernel.mm.page_flags import PG_ANON
from .cells import Cell, Line

EMPTY, SWAP, ZERO, RAM, FILE_PAGE, ANON_PAGE, DEVICE, UNKNOWN = range(8)
FRESH, CLEARED = 8, 16
"""Added to a state: this statement filled the entry, or cleared it.  What matters more is greater."""

STATE_NAMES = ("empty", "swap", "zero", "ram", "file", "anon", "device", "unknown")
_GLYPHS = ("·", "s", "■", "■", "■", "■", "◊", "?")
_ROLES = ("empty", "swap", "zero", "other", "file", "anon", "device", "unknown")
_BLANK = " "
HIDDEN = "hidden"
"""Stands for a frame number that the real machine does not tell: see `vmviz.kernel.mm.page_flags.PG_HIDDEN`."""

_LETTERS = (
    ("P", "P"),
    ("RW", "W"),
    ("US", "U"),
    ("PCD", "C"),
    ("A", "A"),
    ("D", "D"),
    ("SPECIAL", "S"),
    ("NX", "X"),
)
_MORE = {"PWT": "wt", "PAT": "pat", "G": "g", "SOFTDIRTY": "sd", "UFFDWP": "wp", "DEVMAP": "dev", "PSE": "ps"}
_SENTENCES = {
    "P": "Present: the processor may use this entry.",
    "RW": "Writable; without it a store faults, and the kernel decides between copying and SIGSEGV.",
    "US": "User mode may use it; without it the page is the kernel's alone.",
    "PWT": "Cache attribute bit 0: with PCD and PAT it chooses the memory type.",
    "PCD": "Cache attribute bit 1: alone it means UC-, not cached, as device memory wants it.",
    "A": "Accessed: the processor sets it at the first use, only software clears it.",
    "D": "Dirty: the processor sets it at the first store, so the page differs from its backing.",
    "PAT": "Cache attribute bit 2: selects the upper half of the PAT slots.",
    "PSE": "Page size: this entry maps memory itself instead of pointing to a table.",
    "G": "Global: the translation survives a switch of the address space.",
    "PROTNONE": "PROT_NONE: the frame is kept, but nobody may touch it.",
    "SPECIAL": "Special: no counted struct page behind it, so a zap frees and uncounts nothing.",
    "UFFDWP": "Write-protected by userfaultfd.",
    "SOFTDIRTY": "Soft-dirty: written since clear_refs was last reset.",
    "DEVMAP": "Device memory that does have struct pages.",
    "NX": "No instruction may be fetched from here.",
}


def pfns_of(values: NDArray[np.uint64], mode: PagingMode) -> NDArray[np.int64]:
    """The frame numbers in many entries; those of PROT_NONE entries are turned over where the mode stores them so.

    >>> values = np.array([0x8000000010007227, 0xFFFFFEFFF8320], np.uint64)
    >>> [hex(n) for n in pfns_of(values, get_mode("x86-64-4l"))]
    ['0x10007', '0x10007']
    """
    raw = values & np.uint64(mode.pfn_mask)
    if mode.invert_not_present:
        hidden = (values != 0) & ((values & np.uint64(mode.masks.present)) == 0)
        raw = np.where(hidden, raw ^ np.uint64(mode.pfn_mask), raw)
    return (raw >> np.uint64(mode.pfn_shift)).astype(np.int64)


def present_of(values: NDArray[np.uint64], mode: PagingMode) -> NDArray[np.bool_]:
    """Which of many last-level entries keep a frame (`pte_present`)."""
    wanted = np.uint64(mode.masks.present | mode.masks.protnone)
    present: NDArray[np.bool_] = (values & wanted) != 0
    return present


def states_of(
    values: NDArray[np.uint64],
    frames: Frames,
    mode: PagingMode,
    *,
    was: NDArray[np.uint64] | None = None,
    fresh: NDArray[np.bool_] | None = None,
    unknown: NDArray[np.bool_] | None = None,
) -> NDArray[np.int8]:
    """The state of each entry, `EMPTY` to `UNKNOWN`, with `FRESH` or `CLEARED` added.

    ``was`` (what this statement cleared) and ``fresh`` come from `Trail`; ``unknown`` marks entries that
    cannot be observed.  The greatest state of a group is the one that matters most.

    >>> from vmviz.kernel.machine import Machine
    >>> m = Machine(ram=4 << 20)
    >>> values = np.array([0, 0x80000000E0280237, 0], np.uint64)
    >>> was = np.array([0, 0, 0x80000000E0281237], np.uint64)
    >>> states_of(values, m.frames, m.arena.mode, was=was).tolist()
    [0, 6, 16]
    """
    out = np.zeros(len(values), np.int8)
    if values.any():
        none = (values & ~np.uint64(mode.masks.none_ignores)) == 0
        present = present_of(values, mode)
        out[~none & ~present] = SWAP
        where = np.flatnonzero(present)
        if len(where):
            pfns = pfns_of(values[where], mode)
            inside = pfns < frames.nr_frames
            kinds = np.full(len(where), DEVICE, np.int8)
            if inside.any():
                known = pfns[inside]
                state = frames.states.array[known]
                ram = np.full(len(known), RAM, np.int8)
                ram[state == FILE] = FILE_PAGE
                ram[(state == ANON) | ((frames.flags.array[known] & PG_ANON) != 0)] = ANON_PAGE
                ram[known == ZERO_PFN] = ZERO
                kinds[inside] = ram
            out[where] = kinds
    empty = out == EMPTY
    if unknown is not None:
        out[empty & unknown] = UNKNOWN
    if fresh is not None:
        out[fresh & ~empty] += FRESH
    if was is not None:
        out[empty & (was != 0)] = CLEARED
    return out


def hidden_of(
    values: NDArray[np.uint64], was: NDArray[np.uint64], frames: Frames, mode: PagingMode
) -> NDArray[np.bool_] | None:
    """Which entries keep, or kept before this statement (``was``), a frame whose real number nobody may see; None
    where no numbers are hidden.

    >>> from vmviz.kernel.machine import Machine
    >>> m = Machine(ram=4 << 20); m.frames.own_pfns = range(0x100, 0x200)
    >>> hidden_of(np.array([0, 0], np.uint64), np.array([0x150067, 0], np.uint64), m.frames, m.arena.mode).tolist()
    [True, False]
    """
    own = frames.own_pfns
    if not own:
        return None
    pfns, old = pfns_of(values, mode), pfns_of(was, mode)
    hidden = present_of(values, mode) & frames.hidden_of(pfns)
    # A page that was freed has no flags any more; its number is known by where it lies.
    gone = present_of(was, mode) & (values == 0) & (old >= own.start) & (old < own.stop)
    out: NDArray[np.bool_] = hidden | gone
    return out


def entry_state(entry: int, frames: Frames, mode: PagingMode) -> str:
    """The state of one last-level entry in a word: empty, swap, zero, ram, file, anon or device.

    >>> from vmviz.kernel.machine import Machine
    >>> m = Machine(ram=4 << 20)
    >>> entry_state(0x80000000E0280237, m.frames, m.arena.mode), entry_state(0, m.frames, m.arena.mode)
    ('device', 'empty')
    """
    return STATE_NAMES[int(states_of(np.array([entry], np.uint64), frames, mode)[0])]


def state_cell(state: int) -> Cell:
    """The glyph of a state and its role.

    >>> state_cell(DEVICE), state_cell(CLEARED), state_cell(ANON_PAGE + FRESH)
    (('◊', 'device'), ('×', 'cleared'), ('■', 'fresh'))
    """
    if state & CLEARED:
        return "×", "cleared"
    kind = state & 7
    return _GLYPHS[kind], "fresh" if state & FRESH else _ROLES[kind]


def block_cells(states: NDArray[np.int8], count: int = 16) -> Line:
    """``count`` cells for one table, each the state that matters most among its entries; neighbours joined.

    >>> block_cells(np.array([0, 6, 6, 6, 6, 16, 0, 0], np.int8), 4)
    [('◊◊', 'device'), ('×', 'cleared'), ('·', 'empty')]
    """
    count = min(count, len(states))
    out: Line = []
    for state in states.reshape(count, -1).max(axis=1).tolist():
        glyph, role = state_cell(state)
        if out and out[-1][1] == role:
            out[-1] = (out[-1][0] + glyph, role)
        else:
            out.append((glyph, role))
    return out


def run_starts(
    values: NDArray[np.uint64],
    states: NDArray[np.int8],
    was: NDArray[np.uint64],
    mode: PagingMode,
    cuts: Collection[int] = (),
    hidden: NDArray[np.bool_] | None = None,
) -> list[int]:
    """Where runs of alike entries begin: the same state and the same bits, whatever their frames; at ``cuts``; and
    where entries with hidden frame numbers (`hidden_of`) have others beside them.

    >>> m = get_mode("x86-64-4l")
    >>> v = np.array([0, 0, 0x1067, 0x2067, 0x9067, 0x9065], np.uint64)
    >>> run_starts(v, np.array([0, 0, 4, 4, 4, 4], np.int8), np.zeros(6, np.uint64), m, [1])
    [0, 1, 2, 5]
    """
    bits = np.where(states == CLEARED, was, values)
    flags = bits & ~np.uint64(mode.pfn_mask)
    swap = mode.swap
    if swap is not None and (states & 7 == SWAP).any():
        flags = np.where(states & 7 == SWAP, bits & ~np.uint64(swap.offset_mask), flags)
    breaks = (states[1:] != states[:-1]) | (flags[1:] != flags[:-1])
    if hidden is not None:
        breaks |= hidden[1:] != hidden[:-1]
    found = {0, *(np.flatnonzero(breaks) + 1).tolist()}
    found.update(c for c in cuts if 0 < c < len(values))
    return sorted(found)


def entry_bits(entry: int, mode: PagingMode, wide: bool = False) -> Line:
    """The named bits in fixed places, ``·`` where one is off; ``wide`` adds the names of the rarer ones that are set.

    Letters: Present, Writable, User, Cache off (PCD), Accessed, Dirty, Special, no eXecute.  A PROT_NONE
    entry says ``none`` instead of its rights.

    >>> mode = get_mode("x86-64-4l")
    >>> "".join(text for text, _ in entry_bits(0x80000000E0280237, mode))
    'P W U C A · S X'
    >>> "".join(text for text, _ in entry_bits(0xFFFFFEFFF8320, mode))
    'none  · A · S ·'
    >>> "".join(text for text, _ in entry_bits(0x8000000001234867, mode, wide=True))
    'P W U · A D · X sd'
    """
    names = mode.decode(entry)
    letters: tuple[tuple[str, str], ...] = _LETTERS
    out: Line = []
    if mode.pte_protnone(entry):
        out = [("none ", "warn"), (_BLANK, "text")]
        letters = _LETTERS[3:]
    for i, (name, letter) in enumerate(letters):
        on = name in names
        gap = _BLANK if i else ""
        out.append((gap + (letter if on else "·"), "bits" if on else "bits.off"))
    if wide:
        fixed = {name for name, _ in _LETTERS} | {"PROTNONE"}
        more = [_MORE.get(name, name.lower()) for name in names if name not in fixed]
        if more:
            out.append((_BLANK + _BLANK.join(more), "bits"))
    return out


def entry_cells(
    entry: int, state: int, was: int, mode: PagingMode, wide: bool = False, hidden: bool = False
) -> Line:
    """One entry: glyph, frame and bits; what it was when this statement cleared it; `swap`, `zero`, `??` in words.

    ``hidden``: the frame's number is not the real one, and is not shown.

    >>> def show(*args): return "".join(text for text, _ in entry_cells(*args, get_mode("x86-64-4l"), True))
    >>> show(0x80000000E0280237, DEVICE, 0), show(0, EMPTY, 0), show(0, UNKNOWN, 0)
    ('◊ e0280 P W U C A · S X', '· --', '? ??')
    >>> show(0, CLEARED, 0x80000000E027D237), show(0x07FFFFFFFFDB9600, SWAP, 0)
    ('× --  was e027d P W U C A · S X', 's swap 0:1234')
    """
    glyph, role = state_cell(state)
    kind = state & 7
    lead: Line = [(glyph + _BLANK, role)]
    if state & CLEARED:
        old = HIDDEN if hidden else _frame_or_swap(was, mode)
        bits = [(_BLANK, "text"), *entry_bits(was, mode)] if wide and mode.pte_present(was) else []
        return [*lead, ("--  " if wide else "--    ", "empty"), (f"was {old}", "was"), *bits]
    if kind == EMPTY:
        return [*lead, ("--", "empty")]
    if kind == UNKNOWN:
        return [*lead, ("??", "unknown")]
    if kind == SWAP:
        return [*lead, (_frame_or_swap(entry, mode), role)]
    frame = "zero " if kind == ZERO else HIDDEN if hidden else f"{mode.pte_pfn(entry):05x}"
    return [*lead, (frame + _BLANK, role), *entry_bits(entry, mode, wide)]


def _frame_or_swap(entry: int, mode: PagingMode) -> str:
    if mode.swap is not None and mode.is_swap(entry):
        return f"swap {mode.swp_type(entry)}:{mode.swp_offset(entry):x}"
    return f"{mode.pte_pfn(entry):05x}"


def run_cells(
    values: NDArray[np.uint64],
    was: NDArray[np.uint64],
    state: int,
    mode: PagingMode,
    wide: bool = False,
    hidden: bool = False,
) -> Line:
    """A run of alike entries without its count: the glyph, and the frames if they are neighbours.

    >>> v = np.arange(0xE0300, 0xE0400, dtype=np.uint64) * 4096 + 0x237
    >>> run_cells(v, v * 0, DEVICE, get_mode("x86-64-4l"))
    [('◊ ', 'device'), ('e0300..e03ff', 'device')]
    """
    glyph, role = state_cell(state)
    kind = state & 7
    lead: Line = [(glyph + _BLANK, role)]
    if state & CLEARED:
        if wide and mode.pte_present(int(was[0])):
            return [
                *lead,
                ("--  ", "empty"),
                (f"was {HIDDEN if hidden else _span(pfns_of(was, mode))}", "was"),
            ]
        return [*lead, ("--", "empty")]
    if kind in (EMPTY, UNKNOWN):
        return [*lead, ("--" if kind == EMPTY else "??", _ROLES[kind])]
    if kind == SWAP:
        first = int(values[0])
        return [*lead, (f"{_frame_or_swap(first, mode)} ..", role)]
    words: Line = [("none ", "warn")] if mode.pte_protnone(int(values[0])) else []
    text = "zero" if kind == ZERO else HIDDEN if hidden else _span(pfns_of(values, mode))
    return [*lead, *words, (text, role)]


def _span(pfns: NDArray[np.int64]) -> str:
    """``e0300..e03ff`` for neighbours, else the lowest and the highest with a ``~`` for the disorder between."""
    low, high = int(pfns.min()), int(pfns.max())
    if low == high:
        return f"{low:05x}"
    dots = (
        ".."
        if int(pfns[0]) == low and high - low == len(pfns) - 1 and bool((np.diff(pfns) == 1).all())
        else "~"
    )
    return f"{low:05x}{dots}{high:05x}"


def entry_words(entry: int, level: str = "pte", mode: PagingMode | None = None) -> list[tuple[str, str]]:
    """Each bit that is set, by name, with a sentence of what it means, for the help; level as Linux names it.

    >>> [name for name, _ in entry_words(0x80000000E0280237)]
    ['P', 'RW', 'US', 'PCD', 'A', 'SPECIAL', 'NX']
    >>> entry_words(0)
    []
    """
    mode = mode or get_mode("x86-64-4l")
    out: list[tuple[str, str]] = []
    for bit in mode.entry_bits(entry, level) if entry else ():
        if not entry & bit.mask:
            continue
        meaning = bit.meaning[:1].upper() + bit.meaning[1:] + "."
        out.append((bit.show(entry), _SENTENCES.get(bit.name, meaning)))
    return out
