"""Who belongs to whom: anon_vmas (models mm/rmap.c).

An anon_vma is a number; VMAs with the same number share it.  A VMA gets one at its first private page, if it
can from a neighbour, so that the two can merge later.  A forked VMA gets one of its own, and a chain that
names all those of its ancestors: pages of any of them may be mapped there.

Simplified: only anon_vmas made by fork have a record (`AnonVma`); one without is the root of its own tree and
its chain is itself.  How many VMAs and children an anon_vma has is counted when a fork asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from ..value import Value
from .flags import VM_EXEC, VM_READ, VM_SOFTDIRTY, VM_WRITE
from .mm_types import Mm, System
from .vma import Vma


@attrs.frozen(eq=False, repr=False)
class AnonVma(Value):
    """An anon_vma that a fork has made or taken over (struct anon_vma).

    ``chain`` holds the anon_vmas that a VMA with this one is linked to (struct anon_vma_chain), the oldest
    first.
    """

    id: int
    root: int
    parent: int
    chain: tuple[int, ...]


def anon_vma_record(system: System, number: int) -> AnonVma:
    """The record of an anon_vma; one that no fork has touched is its own root, parent and chain."""
    record: AnonVma | None = system.anon_vmas.get(number)
    return record or AnonVma(number, number, number, (number,))


def anon_vma_prepare(mm: Mm, vma: Vma) -> Vma:
    """Give the VMA an anon_vma if it has none (`__anon_vma_prepare`); returns the VMA as it is then."""
    if vma.anon_vma:
        return vma
    j = mm.sys.journal
    j.enter("__anon_vma_prepare", ("vma", vma.start))
    number = find_mergeable_anon_vma(mm, vma) or mm.sys.new_id("anon_vma")
    new = vma.replace(anon_vma=number, chain=1)
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


def _reusable(old: Vma, a: Vma, b: Vma) -> int:
    """``old``'s anon_vma if ``a`` and ``b`` might become one VMA after an mprotect
    (`anon_vma_compatible`), and no fork has left ``old`` a chain of several.
    """
    ignored = VM_READ | VM_WRITE | VM_EXEC | VM_SOFTDIRTY
    alike = (
        a.end == b.start
        and a.file == b.file
        and not (a.vm_flags ^ b.vm_flags) & ~ignored
        and b.pgoff == a.pgoff + a.nr_pages
    )
    return old.anon_vma if alike and old.chain <= 1 else 0


def is_mergeable_anon_vma(anon_vma1: int, anon_vma2: int, vma: Vma | None) -> bool:
    """Whether two anon_vmas (0: none) let ranges become one VMA (mm/mmap.c).

    They are the same; or one is missing, and the neighbour ``vma`` has a chain of exactly one: what a VMA
    has inherited by fork it does not share with pages of a range without such ancestors.

    >>> is_mergeable_anon_vma(0, 7, Vma(0, 4096, 0, anon_vma=7, chain=1))
    True
    >>> is_mergeable_anon_vma(0, 7, Vma(0, 4096, 0, anon_vma=7, chain=2))
    False
    """
    if (not anon_vma1 or not anon_vma2) and (vma is None or vma.chain == 1):
        return True
    return anon_vma1 == anon_vma2


def may_join_anon_vma(mm: Mm, anon_vma: int, vma: Vma) -> bool:
    """Whether a range with ``anon_vma`` may join ``vma``, as far as that goes (`is_mergeable_anon_vma`).

    Later kernels (`KernelVersion.munlock_merges`) let a range whose anon_vma is its own join a VMA without.
    """
    if mm.sys.version.munlock_merges and anon_vma and not vma.anon_vma:
        return len(anon_vma_record(mm.sys, anon_vma).chain) == 1
    return is_mergeable_anon_vma(anon_vma, vma.anon_vma, vma)


def relinked(system: System, vma: Vma) -> Vma:
    """The VMA with the chain of the anon_vma that it has come by in a merge (`anon_vma_clone`)."""
    chain = len(anon_vma_record(system, vma.anon_vma).chain) if vma.anon_vma else 0
    return vma if chain == vma.chain else vma.replace(chain=chain)


@attrs.define(eq=False, repr=False)
class Census:
    """How many VMAs use each anon_vma, and how many anon_vmas descend from it: what a fork wants to know.

    ``active`` is num_active_vmas, ``children`` num_children; a root counts itself as a child.
    """

    active: Counter[int]
    children: Counter[int]

    @classmethod
    def take(cls, system: System, mms: Iterable[Mm]) -> Census:
        """Count all VMAs of the given address spaces, and drop records that no VMA is linked to any more."""
        active = Counter(v.anon_vma for mm in mms for v in mm.vmas if v.anon_vma)
        alive = {link for number in active for link in anon_vma_record(system, number).chain}
        children = Counter(anon_vma_record(system, number).parent for number in alive)
        for number in sorted(set(system.anon_vmas.data) - alive):
            system.journal.write(system.anon_vmas, number, None)
        return cls(active, children)


def anon_vma_fork(system: System, vma: Vma, census: Census) -> tuple[int, int]:
    """The anon_vma of a forked copy of ``vma``, and the length of its chain (mm/rmap.c).

    The chain is the parent's with one more at its end; an ancestor that no VMA uses as its own and that has
    at most one child is taken over instead of making a new one.
    """
    if not vma.anon_vma:
        return 0, 0
    j = system.journal
    parent = anon_vma_record(system, vma.anon_vma)
    for link in parent.chain:
        if census.children[link] < 2 and not census.active[link]:
            old = anon_vma_record(system, link)
            j.write(system.anon_vmas, link, attrs.evolve(old, chain=parent.chain))
            census.active[link] += 1
            return link, len(parent.chain)
    j.enter("anon_vma_fork", ("vma", vma.start))
    number = system.new_id("anon_vma")
    record = AnonVma(number, parent.root, parent.id, (*parent.chain, number))
    j.write(system.anon_vmas, number, record)
    census.active[number] += 1
    census.children[parent.id] += 1
    j.leave("anon_vma_fork", 0)
    return number, len(record.chain)
