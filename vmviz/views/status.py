"""The status line: which machine this is, and the numbers that change."""

from __future__ import annotations

from ..script.values import format_size
from ..session.session import Session
from .cells import Line, fit
from .cells import width as line_width

_CONTRACTS = {"int": "0 or -1", "void": "void", "special": "7.1"}


def status_line(session: Session, width: int) -> Line:
    """One line: title, process, paging, kernel; at the right rss, VmPTE and where the position stands."""
    m = session.machine
    mm, config = m.mm, m.config
    wide = width >= 100
    title = session.title.removesuffix(".vmv") if not wide else session.title
    position = f"{session.index + (session.inside is not None)}/{len(session.done) + len(session.pending)}"
    mode = ", ".join(m.sys.mode.title.split(", ")[:2])
    left: Line = [(" vmviz ", "title.focus"), (f" {title or 'empty'} ", "title")]
    left.append((f" pid {m.pid} {m.task.comm} ", "label"))
    if width >= 60:
        left.append((f" {mode if wide else mode.replace(', ', ' ').replace(' levels', '-level')} ", "dim"))
    if width >= 76:
        left.append(
            (f" kernel {config.kernel} {'(' + _CONTRACTS[config.zap_contract] + ')' if wide else ''}", "dim")
        )
    rss = format_size(mm.rss << 12)
    right: Line = [("rss ", "label"), (rss, "number")]
    if wide:
        right += [("  VmPTE ", "label"), (format_size(mm.counters.data["pgtables"]), "number")]
    right += [("  ", "text"), (position, "now"), (" ", "text")]
    room = width - line_width(right)
    while len(left) > 2 and line_width(left) >= room:
        left.pop()
    return fit([*fit(left, max(0, room - 1)), (" ", "text"), *right], width)
