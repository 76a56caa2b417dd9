"""The status line: which machine this is, and the numbers that change."""

from __future__ import annotations

from ..script.values import format_size
from ..session.session import Session
from .cells import Line, fit
from .cells import width as line_width

_CONTRACTS = {"int": "0 or -1", "void": "void", "special": "7.1"}


def progress(session: Session, width: int = 80) -> str:
    """Where the position stands: done of all of the story's statements, and how many of the user's own.

    >>> progress(Session())
    '0'
    """
    at = session.index + (session.inside is not None)
    shown = session.done[session.setup :]
    before = session.done[session.setup : at]
    told = sum(done.story is not None for done in shown) + len(session.pending)
    own = sum(done.story is None for done in before)
    if not told:
        return f"{own}/{len(shown)}" if shown else "0"
    text = f"{len(before) - own}/{told}{f' +{own}' if own else ''}"
    return f"story {text}" if width >= 60 else text


def status_line(session: Session, width: int) -> Line:
    """One line: title, process, paging, kernel; at the right rss, VmPTE and where the position stands."""
    m = session.machine
    mm, config = m.mm, m.config
    wide = width >= 100
    title = session.title.removesuffix(".vmv") if not wide else session.title
    position = progress(session, width)
    mode = ", ".join(m.sys.mode.title.split(", ")[:2])
    left: Line = [(" vmviz ", "title.focus"), (f" {title or 'empty'} ", "title")]
    if f"pid {m.pid}" not in title:  # the title of a real process names it
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
    right += [("  " if wide or width < 60 else " ", "text"), (position, "now"), (" ", "text")]
    room = width - line_width(right)
    if width >= 60 and line_width(left) > room >= line_width(left[1:]):
        del left[0]  # what is seen says more than who shows it
    while len(left) > 2 and line_width(left) > room:
        left.pop()
    return fit([*fit(left, max(0, room - 1)), (" ", "text"), *right], width)
