"""Advice on ranges of memory: checks and walk (models do_madvise and madvise_walk_vmas of mm/madvise.c).

What an advice does is in a table: `madvise_flags` has those that change a VMA's flags, `madvise_pages` those
about pages.  `VMA_ADVICE` is called for each VMA of the range, `RANGE_ADVICE` once.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import KernelError, UnsupportedError
from . import flags as _flags
from .madvise_flags import FLAG_ADVICE
from .madvise_pages import PAGE_ADVICE
from .mm_types import Mm
from .vma import Vma

VmaAdvice = Callable[[Mm, Vma, int, int, int], None]
"""Advice on a part of one VMA: (mm, vma, start, end, advice), bytes; raises `KernelError`."""

RangeAdvice = Callable[[Mm, int, int, int], None]
"""Advice on a whole range, holes included: (mm, start, end, advice), bytes; raises `KernelError`."""

VMA_ADVICE: dict[int, VmaAdvice] = {**FLAG_ADVICE, **PAGE_ADVICE}
RANGE_ADVICE: dict[int, RangeAdvice] = {}

_LATER = {_flags.MADV_GUARD_INSTALL, _flags.MADV_GUARD_REMOVE}
ADVICE_NAMES: dict[int, str] = {
    value: name
    for name, value in vars(_flags).items()
    if name.startswith("MADV_") and isinstance(value, int) and value not in _LATER
}
"""The advices that 6.1 knows, by number."""
_POPULATE = {_flags.MADV_POPULATE_READ, _flags.MADV_POPULATE_WRITE}
TOP = 1 << 64


def _error(errno: str, why: str) -> KernelError:
    return KernelError(errno, "madvise", why)


def do_madvise(mm: Mm, start: int, length: int, advice: int) -> None:
    """Take advice on ``[start, start + length)`` (bytes; madvise(2), do_madvise).

    Errors in the kernel's order: EINVAL (unknown advice, even with length 0; unaligned; the range wraps),
    then those of the advice; ENOMEM at the end when part of the range was not mapped (the rest is done).
    MADV_HWPOISON and MADV_SOFT_OFFLINE are EPERM.
    """
    if advice not in ADVICE_NAMES:
        raise _error("EINVAL", f"there is no advice {advice}")
    if start & 4095:
        raise _error("EINVAL", f"address {start:#x} is not page aligned")
    size = (length + 4095) & -4096 & (TOP - 1)
    if length and not size:
        raise _error("EINVAL", "the length wraps when rounded up to pages")
    end = start + size
    if end >= TOP:
        raise _error("EINVAL", "the range wraps")
    if end == start:
        return
    if advice in (_flags.MADV_HWPOISON, _flags.MADV_SOFT_OFFLINE):
        raise _error("EPERM", "injecting memory errors needs CAP_SYS_ADMIN")
    j = mm.sys.journal
    j.enter("do_madvise", ("start", start), ("end", end), ("behavior", ADVICE_NAMES[advice]))
    try:
        if advice in RANGE_ADVICE:
            RANGE_ADVICE[advice](mm, start, end, advice)
        elif advice in VMA_ADVICE:
            _walk_vmas(mm, start, end, advice, VMA_ADVICE[advice])
        else:
            raise UnsupportedError(f"madvise with {ADVICE_NAMES[advice]} is not simulated yet")
    except (KernelError, UnsupportedError) as error:
        j.leave("do_madvise", error.errno if isinstance(error, KernelError) else None)
        raise
    j.leave("do_madvise", 0)


def _walk_vmas(mm: Mm, start: int, end: int, advice: int, visit: VmaAdvice) -> None:
    """Visit each VMA of a range (`madvise_walk_vmas`); holes are passed over, then reported as ENOMEM.

    Later kernels stop at the first hole where pages are faulted in (`KernelVersion.populate_stops`).
    """
    hole = False
    ordered = mm.sys.version.populate_stops and advice in _POPULATE
    while start < end:
        vma = mm.find_vma(start)
        if ordered and (vma is None or vma.start > start):
            raise _error("ENOMEM", f"nothing is mapped at {start:#x}; what lies behind it is left alone")
        if vma is None or vma.start >= end:
            hole = True
            break
        if vma.start > start:
            hole, start = True, vma.start
        stop = min(vma.end, end)
        visit(mm, vma, start, stop, advice)
        start = stop
    if hole:
        raise _error("ENOMEM", "part of the range is not mapped; the rest has been advised")
