"""Who belongs to whom: anon_vmas (models mm/rmap.c).

Simplified for now: an anon_vma is a number; two VMAs with the same number share it.  A VMA gets one at its
first private page, if it can from a neighbour, so that the two can merge later.
"""

from __future__ import annotations

from .flags import VM_EXEC, VM_READ, VM_SOFTDIRTY, VM_WRITE
from .mm_types import Mm
from .vma import Vma


def anon_vma_prepare(mm: Mm, vma: Vma) -> Vma:
    """Give the VMA an anon_vma if it has none (`__anon_vma_prepare`); returns the VMA as it is then."""
    if vma.anon_vma:
        return vma
    j = mm.sys.journal
    j.enter("__anon_vma_prepare", ("vma", vma.start))
    number = find_mergeable_anon_vma(mm, vma) or mm.sys.new_id("anon_vma")
    new = vma.replace(anon_vma=number)
    mm.set_vma(vma, new)
    j.leave("__anon_vma_prepare", 0)
    return new


def find_mergeable_anon_vma(mm: Mm, vma: Vma) -> int:
    """A neighbour's anon_vma that the VMA can share, the next one's first; 0 when there is none."""
    after = mm.vmas.find(vma.end)
    if after is not None and (number := _reusable(after, vma, after)):
        return number
    before = mm.vmas.find_prev(vma.start)
    if before is not None and (number := _reusable(before, before, vma)):
        return number
    return 0


def is_mergeable_anon_vma(anon_vma1: int, anon_vma2: int, vma: Vma | None) -> bool:
    """Whether anon_vmas allow a merge (mm/mmap.c): they are the same, or one is missing and ``vma``'s chain
    is single.

    A VMA without an anon_vma has an empty chain, which is not a single one: a faulted range does not join
    an untouched neighbour, while an untouched range joins a faulted one.  ``vma`` None: no chain is asked.

    >>> touched, fresh = Vma(0, 0x1000, 0x73, anon_vma=7), Vma(0, 0x1000, 0x73)
    >>> is_mergeable_anon_vma(0, 7, touched), is_mergeable_anon_vma(7, 0, fresh)
    (True, False)
    """
    if (not anon_vma1 or not anon_vma2) and (vma is None or _is_singular(vma)):
        return True
    return anon_vma1 == anon_vma2


def _is_singular(vma: Vma) -> bool:
    """Whether exactly one anon_vma_chain hangs on the VMA (`list_is_singular`)."""
    return bool(vma.anon_vma)


def _reusable(old: Vma, a: Vma, b: Vma) -> int:
    """``old``'s anon_vma if ``a`` and ``b`` might become one VMA after an mprotect
    (`anon_vma_compatible`).
    """
    ignored = VM_READ | VM_WRITE | VM_EXEC | VM_SOFTDIRTY
    alike = (
        a.end == b.start
        and a.file == b.file
        and not (a.vm_flags ^ b.vm_flags) & ~ignored
        and b.pgoff == a.pgoff + a.nr_pages
    )
    return old.anon_vma if alike else 0
