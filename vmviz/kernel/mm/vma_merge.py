"""Joining and splitting VMAs (models vma_merge, vma_expand, __vma_adjust and split_vma of mm/mmap.c, 6.1).

The eight cases of `vma_merge`, P the VMA before, N the one after, M the VMA that is changed:

| case | before | after |
|---|---|---|
| 1, 6 | P, new or M, N | one VMA, P |
| 2 | P, new | P grows |
| 3 | new, N | N grows downwards |
| 4 | P whose tail changes, N | P shrinks, N grows downwards |
| 5 | P, M whose head changes | P grows, M shrinks |
| 7 | P, M | P swallows M |
| 8 | M, N | N swallows M |
"""

from __future__ import annotations

from ..errors import KernelError
from .filemap import get_inode, put_inode
from .flags import VM_SOFTDIRTY, VM_SPECIAL
from .huge_memory import split_huge_pmd_if_needed
from .mm_types import Mm
from .rmap import is_mergeable_anon_vma, may_join_anon_vma, relinked
from .util import max_map_count
from .vma import Vma


def is_mergeable_vma(mm: Mm, vma: Vma, file: int, vm_flags: int) -> bool:
    """Whether a VMA may join what has ``file`` and ``vm_flags`` (mm/mmap.c): flags but VM_SOFTDIRTY, file, no
    close.

    Not simulated, because there is none: userfaultfd contexts, anonymous names, memory policies.
    """
    if (vma.vm_flags ^ vm_flags) & ~VM_SOFTDIRTY or vma.file != file:
        return False
    return not vma.ops or not mm.sys.vm_ops[vma.ops].close


def can_vma_merge_before(mm: Mm, vma: Vma, vm_flags: int, anon_vma: int, file: int, pgoff: int) -> bool:
    """Whether ``vma`` may grow downwards over a range; ``pgoff`` is the page behind the range (mm/mmap.c)."""
    return (
        vma.pgoff == pgoff
        and is_mergeable_vma(mm, vma, file, vm_flags)
        and may_join_anon_vma(mm, anon_vma, vma)
    )


def can_vma_merge_after(mm: Mm, vma: Vma, vm_flags: int, anon_vma: int, file: int, pgoff: int) -> bool:
    """Whether ``vma`` may grow upwards over a range that begins at page ``pgoff`` (mm/mmap.c)."""
    return (
        vma.pgoff + ((vma.end - vma.start) >> 12) == pgoff
        and is_mergeable_vma(mm, vma, file, vm_flags)
        and may_join_anon_vma(mm, anon_vma, vma)
    )


def vma_merge(
    mm: Mm, prev: Vma | None, addr: int, end: int, vm_flags: int, anon_vma: int, file: int, pgoff: int
) -> Vma | None:
    """Join the range ``[addr, end)`` (bytes) with its neighbours, if it can (mm/mmap.c); returns the VMA that
    has it.

    ``prev`` is the VMA before, or the one whose tail the range is; the flags, file and page offset are those
    that the range is to have.  The survivor keeps its own flags: it may differ in VM_SOFTDIRTY.
    """
    if vm_flags & VM_SPECIAL:
        return None
    pages = (end - addr) >> 12
    mid = mm.find_vma(prev.end if prev else 0)
    after = mid
    if mid is not None and mid.end == end:  # cases 6, 7, 8
        after = mm.find_vma(end)
    before = prev if prev is not None and prev.end == addr else None
    if before and not can_vma_merge_after(mm, before, vm_flags, anon_vma, file, pgoff):
        before = None
    above = after if after is not None and after.start == end else None
    if above and not can_vma_merge_before(mm, above, vm_flags, anon_vma, file, pgoff + pages):
        above = None
    inner = mid if mid is not None and mid.start < end else None  # M; None for a range that is new
    if before and above and is_mergeable_anon_vma(before.anon_vma, above.anon_vma, None):  # 1, 6
        anon = before.anon_vma or (inner.anon_vma if inner else 0) or above.anon_vma
        gone = [v for v in (inner, above) if v is not None]
        return _adjust(mm, before.replace(end=above.end, anon_vma=anon), before, gone, None)
    if before:  # 2, 5, 7
        anon = before.anon_vma or (inner.anon_vma if inner else 0)
        new = before.replace(end=end, anon_vma=anon)
        if inner and inner.end > end:
            rest = inner.replace(start=end, pgoff=inner.pgoff + ((end - inner.start) >> 12))
            return _adjust(mm, new, before, [], (inner, rest))
        return _adjust(mm, new, before, [inner] if inner else [], None)
    if above:
        new = above.replace(start=addr, pgoff=above.pgoff - pages)
        if prev is not None and addr < prev.end:  # 4
            new = new.replace(anon_vma=above.anon_vma or prev.anon_vma)
            return _adjust(mm, new, above, [], (prev, prev.replace(end=addr)))
        anon = above.anon_vma or (inner.anon_vma if inner else 0)  # 3, 8
        return _adjust(mm, new.replace(anon_vma=anon), above, [inner] if inner else [], None)
    return None


def _adjust(mm: Mm, new: Vma, old: Vma, gone: list[Vma], shrunk: tuple[Vma, Vma] | None) -> Vma:
    """Write a merge: ``old`` becomes ``new``, ``gone`` go, of ``shrunk`` the first becomes the second
    (`__vma_adjust`).
    """
    j = mm.sys.journal
    new = relinked(mm.sys, new)
    j.enter("vma_merge", ("start", new.start), ("end", new.end))
    for vma in gone:
        j.write(mm.vmas, vma.start, None)
        j.add(mm.counters, "map_count", -1)
    if shrunk is not None:
        border = shrunk[1].start if shrunk[0].start != shrunk[1].start else shrunk[1].end
        split_huge_pmd_if_needed(mm, shrunk[0], border)
        if shrunk[0].start != shrunk[1].start:
            j.write(mm.vmas, shrunk[0].start, None)
        j.write(mm.vmas, shrunk[1].start, shrunk[1])
    if old.start != new.start:
        j.write(mm.vmas, old.start, None)
    j.write(mm.vmas, new.start, new)
    for vma in gone:
        if vma.file:
            put_inode(mm.sys, vma.file)
    j.leave("vma_merge", new.start)
    return new


def vma_expand(
    mm: Mm,
    start: int,
    end: int,
    vm_flags: int,
    file: int,
    pgoff: int,
    below: Vma | None,
    above: Vma | None,
) -> Vma | None:
    """Grow a neighbour over a new mapping instead of inserting a VMA (the expanding part of mmap_region);
    returns what it has grown to, None where it does not: see `expansion`.
    """
    grown = expansion(mm, start, end, vm_flags, file, pgoff, below, above)
    if grown is None:
        return None
    j = mm.sys.journal
    new, below, above = grown
    j.enter("vma_expand", ("start", new.start), ("end", new.end))
    if above is not None:
        j.change(mm.vmas, above.start, above, None)
        if below is not None:
            j.add(mm.counters, "map_count", -1)
            if above.file:
                put_inode(mm.sys, above.file)
    j.change(mm.vmas, new.start, below, new)
    j.leave("vma_expand", 0)
    return new


def expansion(
    mm: Mm,
    start: int,
    end: int,
    vm_flags: int,
    file: int,
    pgoff: int,
    below: Vma | None,
    above: Vma | None,
) -> tuple[Vma, Vma | None, Vma | None] | None:
    """What takes the place of which neighbours when one grows over a new mapping, None where none may.

    ``below`` and ``above`` are the VMAs before and after the range (bytes), wherever they end and begin.
    The next VMA is tried first, so a mapping between two that cannot become one joins the next; later
    kernels try the previous one first (`KernelVersion.joins_previous`).
    """
    if vm_flags & VM_SPECIAL:
        return None
    if above is not None and (
        above.start != end
        or not can_vma_merge_before(mm, above, vm_flags, 0, file, pgoff + ((end - start) >> 12))
    ):
        above = None
    if below is not None and below.end != start:
        below = None
    anon = above.anon_vma if above is not None else 0
    if above is not None and below is not None and mm.sys.version.joins_previous:
        if not can_vma_merge_after(mm, below, vm_flags, 0, file, pgoff):
            below = None
        elif not is_mergeable_anon_vma(below.anon_vma, above.anon_vma, None):
            above, anon = None, 0
    elif below is not None and not can_vma_merge_after(mm, below, vm_flags, anon, file, pgoff):
        below = None
    grown = above if below is None else below
    if grown is None:
        return None
    new = grown.replace(
        start=start if below is None else below.start,
        end=end if above is None else above.end,
        pgoff=below.pgoff if below is not None else grown.pgoff - ((end - start) >> 12),
        anon_vma=grown.anon_vma or anon,
        vm_flags=grown.vm_flags | VM_SOFTDIRTY,
    )
    return relinked(mm.sys, new), below, above


def split_vma(mm: Mm, vma: Vma, addr: int, func: str = "split_vma") -> tuple[Vma, Vma]:
    """Split a VMA at ``addr`` (bytes; mm/mmap.c); returns the low and the high part.

    Errors: ENOMEM (max_map_count is reached), and what the mapping's may_split says.
    """
    limit = max_map_count(mm)
    if len(mm.vmas) >= limit:
        raise KernelError("ENOMEM", func, f"a split would exceed max_map_count ({limit})")
    return do_split_vma(mm, vma, addr, func)


def do_split_vma(mm: Mm, vma: Vma, addr: int, func: str = "munmap") -> tuple[Vma, Vma]:
    """`split_vma` without the limit (`__split_vma`): munmap may exceed it by one for a moment.

    The low part keeps the page offset, the high part's follows; no entry changes.  Error: what the mapping's
    may_split says.
    """
    may_split(mm, vma, addr, func)
    j = mm.sys.journal
    j.enter("__split_vma", ("vma", vma.start), ("addr", addr))
    split_huge_pmd_if_needed(mm, vma, addr)
    low = vma.replace(end=addr)
    high = vma.replace(start=addr, pgoff=vma.pgoff + ((addr - vma.start) >> 12))
    j.change(mm.vmas, vma.start, vma, low)
    j.change(mm.vmas, addr, None, high)
    j.add(mm.counters, "map_count", 1)
    if vma.file:
        get_inode(mm.sys, vma.file)
    j.leave("__split_vma", 0)
    return low, high


def may_split(mm: Mm, vma: Vma, addr: int, func: str) -> None:
    """Ask the mapping whether it may be cut at ``addr`` (vm_ops->may_split); raises its errno."""
    ops = mm.sys.ops_of(vma)
    errno = ops.may_split(vma, addr) if ops is not None and ops.may_split is not None else ""
    if errno:
        raise KernelError(errno, func, f"{vma.name or 'the driver'} refuses a split at {addr:#x}")


def vma_modify(mm: Mm, vma: Vma, start: int, end: int, vm_flags: int, func: str) -> Vma:
    """Make ``[start, end)`` of a VMA a VMA that may have ``vm_flags``: join its neighbours, else split at the
    ends.

    What mprotect_fixup, mlock_fixup and madvise_update_vma have in common.  The flags are not written: that
    is the caller's last step, on the VMA that is returned.  Errors: those of `split_vma`; a first split
    stays.
    """
    prev = vma if start > vma.start else mm.vmas.find_prev(vma.start)
    pgoff = vma.pgoff + ((start - vma.start) >> 12)
    merged = vma_merge(mm, prev, start, end, vm_flags, vma.anon_vma, vma.file, pgoff)
    if merged is not None:
        return merged
    if start > vma.start:
        vma = split_vma(mm, vma, start, func)[1]
    if end < vma.end:
        vma = split_vma(mm, vma, end, func)[0]
    return vma
