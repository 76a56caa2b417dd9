"""Help as lines: what a pane shows, what the words under the cursor mean, what a signal means."""

from __future__ import annotations

import textwrap

from ..kernel.mm.flags import VM_FLAG_TABLE
from ..kernel.mm.vma import vma_name
from ..script.functions import FUNCTIONS
from ..script.outcome import Outcome
from ..script.report import printable
from ..script.runner import BOOT_HELP
from ..script.values import format_addr
from .cells import Line
from .cells import width as line_width
from .entries import entry_words
from .scene import Scene

PANES = {
    "vmas": (
        "VMAs: the ranges that the process has mapped",
        (
            "A VMA is a range of addresses with one set of rules. Between two of them is a gap: an access "
            "there is SIGSEGV. "
            "rwx say what the process may do, p is private (a write makes a copy), s is shared. PF marks "
            "VM_PFNMAP: its "
            "entries hold raw frame numbers, the kernel counts nothing for them, and only there may a driver "
            "call "
            "zap_vma_ptes. The number at the right counts the PTEs that are present."
        ),
    ),
    "tree": (
        "Page tables: the tree that the CPU walks",
        (
            "Nine bits of the address choose an entry in each table: PGD, PUD, PMD, PT. A PT row is one "
            "table of 512 "
            "entries, 2 MiB, drawn as 16 cells of 32 entries. Alike entries fold into one row with a count. "
            "After a zap a "
            "cleared entry stays as 'was' until the next action. Right unfolds, left folds."
        ),
    ),
    "frames": (
        "Frames: physical memory",
        (
            "Each cell is a frame, or as many as the title says. RAM has a struct page for each frame, "
            "with a reference "
            "count and a mapcount. Device memory lies outside RAM: it has neither, is never freed, and shows "
            "only whether "
            "an entry points to it. T table, a anonymous page, f page of a file, · free, ◊ mapped, ○ not "
            "mapped, × just "
            "unmapped."
        ),
    ),
    "log": (
        "Log: the statements, as C calls",
        (
            "What was run, with its result, and what is to come. Everything that you do is such a "
            "statement; y copies it. "
            "Click one to go back to it. The same text in a file is a script: vmviz run FILE."
        ),
    ),
}
_MARKS = (
    ("█", "the row lies wholly in the range"),
    ("▄ ▀", "the range begins or ends in the row"),
    ("▬", "the range lies within the row"),
    ("!", "the row is outside the VMA that is meant"),
    ("►", "the cursor"),
)


def wrap(text: str, width: int, role: str = "text") -> list[Line]:
    """A paragraph as lines."""
    return [[(" " + row, role)] for row in textwrap.wrap(text, max(10, width - 2))]


def hanging(head: Line, text: str, width: int) -> list[Line]:
    """A text behind some words, its further lines below its first.

    >>> ["".join(text for text, _ in line) for line in hanging([("  pf ", "flag")], "raw frame numbers", 17)]
    ['  pf raw frame', '     numbers']
    """
    indent = line_width(head)
    rows = textwrap.wrap(text, max(10, width - indent)) or [""]
    return [[*head, (rows[0], "text")], *([(" " * indent, "text"), (row, "text")] for row in rows[1:])]


def pane_help(scene: Scene, pane: str, width: int = 76) -> tuple[str, list[Line]]:
    """The title and lines that explain a pane and what is under its cursor."""
    title, about = PANES.get(pane, PANES["tree"])
    lines: list[Line] = [*wrap(about, width), []]
    lines += under_cursor(scene, width)
    lines += [[], [(" At the left of each row", "label")]]
    lines += [[(f"   {glyph:<6}", "mark.range"), (text, "text")] for glyph, text in _MARKS]
    return title, lines


def under_cursor(scene: Scene, width: int) -> list[Line]:
    """The VMA's flags and the entry's bits at the cursor, a line each."""
    lines: list[Line] = []
    vma = scene.mm.vma_at(scene.cursor)
    if vma is None:
        return wrap(
            f"{scene.cursor:x} is not mapped by anybody: an access there is SIGSEGV, SEGV_MAPERR.", width
        )
    lines.append([(" Flags of ", "label"), (vma_name(scene.mm, vma) or "this anonymous VMA", "name")])
    for flag in VM_FLAG_TABLE.values():
        if vma.vm_flags & flag.mask and flag.code != "??":
            head: Line = [(f"   {flag.code}  ", "flag"), (f"{flag.name:<15} ", "label")]
            lines += hanging(head, flag.meaning, width)
    ops = scene.machine.sys.ops_of(vma)
    if ops is not None and ops.explain:
        lines += hanging([("   ", "text")], ops.explain, width)
    arena, level = scene.machine.arena, "pte"
    slot = arena.lookup(scene.mm.pgd, scene.cursor)
    if slot < 0:
        slot, level = arena.huge_slot(scene.mm.pgd, scene.cursor), "pmd"
    entry = arena.flat[slot] if slot >= 0 else 0
    if entry:
        lines += [
            [],
            [(" Entry ", "label"), (format_addr(entry), "number"), (f" at {scene.cursor:x}", "addr")],
        ]
        for name, text in entry_words(entry, level):
            lines += hanging([(f"   {name:<10} ", "bits")], text, width)
    return lines


def key_help(keys: list[tuple[str, str]]) -> list[Line]:
    """The keys with what they do."""
    return [[(f"   {key:<8} ", "key"), (about, "key.text")] for key, about in keys]


def call_help(width: int = 76) -> list[Line]:
    """The calls of the language, a line or two each."""
    lines: list[Line] = []
    for signature, about in [*((f.signature, f.about) for f in FUNCTIONS.values()), BOOT_HELP]:
        lines.append([(f"   {signature}", "call")])
        lines += [[("     " + row, "text")] for row in textwrap.wrap(about, width - 6)]
    return lines


def output_lines(text: str) -> list[Line]:
    r"""A text that a call shows, such as /proc/self/maps: the lines as they are, but for what a terminal obeys.

    >>> output_lines("a\x1bb\nc\n")
    [[(' a\\x1bb', 'text')], [(' c', 'text')]]
    """
    return [[(f" {printable(line)}", "text")] for line in text.splitlines()]


_SIGNALS = {
    "BUS_ADRERR": "The mapping exists, but nothing can be put behind the address: a driver without a "
    "fault handler, or "
    "a file that ends before it.",
    "SEGV_MAPERR": "No mapping holds the address.",
    "SEGV_ACCERR": "The mapping exists, but does not allow this kind of access.",
    "SI_KERNEL": "The address is not canonical: the CPU raises a general protection fault, without an "
    "address.",
}


def signal_screen(scene: Scene, outcome: Outcome, comm: str, width: int = 74) -> tuple[str, list[Line]]:
    """The screen for a process that dies by a signal: what happened, why, and the way back."""
    s = outcome.signal
    assert s is not None
    name = scene.label(s.addr)
    vma = scene.mm.vma_at(s.addr)
    lines: list[Line] = [
        [],
        [("   ", "text"), (f"{comm} dies by {s.name}", "warn")],
        [],
        [("   code     ", "label"), (s.code, "fail")],
        [("   address  ", "label"), (format_addr(s.addr), "addr"), (f"   {name}" if name else "", "name")],
    ]
    if vma is not None:
        lines.append(
            [
                ("   VMA      ", "label"),
                (f"{vma.start:x}-{vma.end:x} {vma.perms} {vma_name(scene.mm, vma)}", "text"),
            ]
        )
    lines += [[], *[[("  " + line[0][0], "text")] for line in wrap(f"Why: {outcome.why}.", width - 4)]]
    lines += [[("  " + line[0][0], "dim")] for line in wrap(_SIGNALS.get(s.code, ""), width - 4)]
    lines += [
        [],
        [("   u  ", "key"), ("take the access back: the process lives on before it", "key.text")],
        [("   c  ", "key"), ("go on as if the process had a handler for the signal", "key.text")],
        [],
    ]
    return f"{s.name} {s.code}", lines
