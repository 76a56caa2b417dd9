"""The words of the why strip for a statement that was run, or that the position stands inside.

One function for each kind of moment; each gives the lines for the room there is: three at 80 columns, nine and more
at 120.
"""

from __future__ import annotations

import attrs

from ..kernel.trace.bulk import Bulk
from ..kernel.trace.explain import explain
from ..kernel.trace.journal import Check, Event, Record
from ..script.functions import FUNCTIONS
from ..script.outcome import Outcome
from ..script.values import format_addr, format_size
from ..session.session import Done, Session
from .calltree import recent_calls, tree_lines
from .cells import Line
from .cells import width as line_width
from .refusal import refused
from .scene import Scene
from .strip import Strip, call_text, paragraphs, plural


def reasons(session: Session, scene: Scene, done: Done, width: int, height: int, *, playing: bool) -> Strip:
    """The strip for ``done``, inside which or behind which the session stands."""
    if session.inside is not None:
        return _inside(session, scene, done, width, height, playing=playing)
    o = done.outcome
    if o.signal is not None:
        return _signal(o, scene, width, height)
    if o.refusal is not None:
        return refused(o, session, scene, width, height)
    if o.errno is not None:
        lines = paragraphs(width, height, (f"The call failed with {o.errno}: {o.why}.", "text"))
        return Strip(f"FAILED: {o.result}", call_text(o), lines, alert=True)
    if o.func.startswith("zap") and not o.ptes_cleared and not o.ptes_unknown:
        return _nothing(o, scene, width, height)
    if o.func.startswith("zap") or o.func == "munmap":
        return _done(o, session, scene, width, height)
    return _plain(done, width, height)


# -- inside a statement


def _inside(session: Session, scene: Scene, done: Done, width: int, height: int, *, playing: bool) -> Strip:
    machine, at = session.machine, session.position
    steps = session.steps(done)
    k = steps.index_of(at)
    title = call_text(attrs.evolve(done.outcome, ret=None, errno=None, signal=None)).removesuffix(" = ?")
    o = done.outcome
    zapping = o.func.startswith("zap") and o.ptes_cleared > 0
    count = f"{scene.trail.cleared} of {o.ptes_cleared}" if zapping else f"{k} of {steps.total}"
    right = f"{'playing' if playing else 'paused'}  {count}"
    path, record, offset = _where(session, done)
    sentence = _sentence(scene, record, offset, path[-1] if path else "")
    if height >= 7:
        calls = recent_calls(session.steps(done), machine, at)
        text = paragraphs(width, 4, (sentence, "text"))
        return Strip(f"Why: {right}", "", [*tree_lines(calls, width, height - len(text)), *text], alert=True)
    chain = " > ".join(path)
    if len(chain) > width - 2:
        chain = "... > " + " > ".join(path[-2:])
    lines: list[Line] = [[(" " + chain, "call")]]
    return Strip(title, right, lines + paragraphs(width, height - 1, (sentence, "text")), alert=True)


def _where(session: Session, done: Done) -> tuple[list[str], Record | None, int]:
    """The names of the open calls at the position, the record that acts next, and how far inside it."""
    rec, offset = session.position
    records = session.machine.journal.records
    path = [func for func, _ in session.steps(done).path_at(rec)]
    record = records[rec] if offset else records[rec - 1] if rec > done.start[0] else None
    if isinstance(record, Bulk):
        path.append(record.func)
    return path, record, offset


def _sentence(scene: Scene, record: Record | None, offset: int, func: str) -> str:
    machine = scene.machine
    cleared = scene.trail.cleared
    match record:
        case Bulk(func="zap_pte_range"):
            step = min(offset, record.n - 1)
            address = record.address_of(step)
            slot = f"{address >> 12 & 511:03x}"
            special = all(lane.store.name != "frame.mapcount" for lane in record.lanes)
            what = (
                f"Entry {slot} is special: no struct page behind it. It is cleared, and nothing is freed "
                f"or uncounted."
                if special
                else f"Entry {slot} maps a page that the kernel counts: its mapcount and rss go down with it."
            )
            gone = f"{cleared} gone one" if cleared == 1 else f"{cleared} gone ones"
            return f"{what} No TLB flush yet: a CPU may still hold the {gone}."
        case Bulk():
            return f"{explain(record.func).sentence} {offset or record.n} of {record.n}."
        case Check():
            outcome = "passes" if record.passed else "fails"
            if not record.reached:
                outcome = f"is not reached; it would {'pass' if record.passed else 'fail'}"
            return f"The check {record.expression} ({record.compared}) {outcome}."
        case Event(name="tlb_flush"):
            return explain("flush_tlb_mm_range").sentence
        case Event():
            return explain(record.name).sentence
        case tuple() if record[0] is machine.mm.vmas:
            return "The VMA list changes: " + (explain(func).sentence or "a VMA is replaced.")
    return explain(func).sentence or "The kernel's bookkeeping follows."


# -- after a statement


def _nothing(o: Outcome, scene: Scene, width: int, height: int) -> Strip:
    vma = scene.mm.vma_at(scene.range.anchor) if scene.range else None
    where = ""
    if vma is not None:
        slots = (
            f"{scene.range.start >> 21 & 511:03x}.{scene.range.start >> 12 & 511:03x}" if scene.range else ""
        )
        where = f" The range begins at entry {slots}." if slots else ""
    but, flush = f"All three checks passed, but {o.why}.", " No entry cleared, so no TLB flush."
    # The longest that fits; what comes last is what can best be spared.
    for text in (
        f"{but}{where}{flush} Nothing changed in any table.",
        f"{but}{where}{flush}",
        but + flush,
        but,
    ):
        lines = paragraphs(width, 1000, (text, "text"))
        if len(lines) <= height:
            break
    title = "Returned 0, cleared nothing" if o.ret == 0 else "Cleared nothing"
    return Strip(title, call_text(o), lines[:height], alert=True)


def _flush_text(o: Outcome) -> str:
    if not o.tlb:
        return "No TLB flush: no present entry was cleared."
    f = o.tlb[0]
    n = len(o.tlb)
    if n > 1:
        return f"{n} TLB flushes, {sum(x.kind == 'full' for x in o.tlb)} of them full."
    if f.kind == "full":
        return f"1 full TLB flush, as {f.nr_pages} pages are more than 33."
    if f.nr_pages == 1:
        return "TLB: this 1 page is flushed, no more."
    return f"TLB: {f.nr_pages} pages flushed one by one, as 33 at most are."


def _done(o: Outcome, session: Session, scene: Scene, width: int, height: int) -> Strip:
    tables = len({a >> 21 for a in _touched_blocks(session, o)})
    where = f" in {plural(tables, 'table')}" if tables else ""
    rss = scene.mm.rss
    unknown = f" Unknown before, now empty: {o.ptes_unknown}." if o.ptes_unknown else ""
    gone, note = "VMA unchanged", ""
    if any(old and new and old.vm_flags & ~new.vm_flags for old, new in scene.trail.vmas.values()):
        gone, note = "VMA unchanged but for flag ar", " (its PAT reservation is gone)"
    if o.func == "munmap":
        gone, note = f"{len(scene.mm.vmas)} VMAs are left", ""
    numbers = (
        f"{plural(o.ptes_cleared, 'PTE')} cleared{where}.{unknown} Freed: {plural(o.frames_freed, 'frame')}, "
        f"{plural(o.tables_freed, 'table')}. "
        f"rss {format_size(rss << 12)}{' as before' if not o.frames_freed else ''}."
    )
    keys: Line = []
    if o.func.startswith("zap"):
        vma = scene.meant
        ops = scene.machine.sys.ops_of(vma) if vma is not None else None
        after = "the driver maps it again" if ops is not None and ops.fault else "SIGBUS: no fault handler"
        if ops is not None and ops.name.startswith("imported"):
            after = "unknown: imported"
        at = scene.label(scene.range.start) if scene.range else ""
        keys = [(" t", "key"), (f" touch {at or 'it'} ({after})", "key.text")]
    behind: list[Line] = [[("   u", "key"), (" back", "key.text")]]
    if session.pending:
        behind.append([("   n", "key"), (" next", "key.text")])
    behind.insert(0, [("    ,", "key"), (" back one entry", "key.text")])
    if line_width(keys) + sum(map(line_width, behind)) > width:
        del behind[0]
    for piece in behind:
        keys += piece
    if height < 5:
        # These lines may use the last column: they are measured to fit at 80.
        lines = paragraphs(width + 1, 9, (numbers, "text"), (f"{_flush_text(o)} {gone}{note}.", "text"))
        if len(lines) > height - 1:
            lines = paragraphs(
                width + 1, height - 1, (numbers, "text"), (f"{_flush_text(o)} {gone}.", "text")
            )
        return Strip("Done", call_text(o), [*lines, keys])
    current = session.current
    assert current is not None
    calls = recent_calls(session.steps(current), session.machine, o.end)
    text = paragraphs(width, 6, (numbers, "text"), (f"{_flush_text(o)} {gone}{note}.", "text"))
    tree = tree_lines(calls, width, max(1, height - len(text) - 2))
    return Strip("Done", call_text(o) if width > 60 else "", [*tree, *text, keys][:height])


def _touched_blocks(session: Session, o: Outcome) -> set[int]:
    out: set[int] = set()
    for record, _, _ in session.machine.journal.between(o.start, o.end):
        if isinstance(record, Bulk) and record.func == "zap_pte_range":
            out |= {record.address_of(cut) for cut in record.cuts}
    return out


def _signal(o: Outcome, scene: Scene, width: int, height: int) -> Strip:
    assert o.signal is not None
    s = o.signal
    name = scene.label(s.addr) or format_addr(s.addr)
    text = f"{s.name} ({s.code}) at {name}: {o.why}. A process without a handler for it dies here."
    keys: Line = [
        (" u", "key"),
        (" take the touch back", "key.text"),
        ("    Enter", "key"),
        (" what this means", "key.text"),
    ]
    lines = paragraphs(width, height - 1, (text, "text"))
    return Strip(f"{s.name}: the access could not be served", call_text(o), [*lines, keys], alert=True)


def about_call(func: str) -> str:
    """A call of the language in a sentence, from its line of help; empty for what is none.

    >>> about_call("close")
    'Close a descriptor; mappings of it stay.'
    """
    function = FUNCTIONS.get(func)
    return f"{function.about[0].upper()}{function.about[1:]}." if function else ""


def _plain(done: Done, width: int, height: int) -> Strip:
    o = done.outcome
    parts = []
    if done.story is not None and done.story.told:
        parts.append((done.story.told, "text"))
    if o.touched is not None:
        pages = f"{o.touched} page{'s' if o.touched != 1 else ''} touched"
        faults = (
            f"{o.min_flt} minor and {o.maj_flt} major faults"
            if o.min_flt or o.maj_flt
            else "no fault: all were there"
        )
        parts.append((f"{pages}, {faults}.", "text"))
    if o.why:
        parts.append((o.why[0].upper() + o.why[1:] + ".", "text"))
    if not parts:
        parts.append((explain(o.func).sentence or about_call(o.func) or o.text, "text"))
    return Strip("Done", call_text(o), paragraphs(width, height, *parts))
