"""A virtual memory area: one mapped range with one set of rules, immutable (struct vm_area_struct).

A `Vma` is never changed: an operation puts another one in its place, and the journal keeps both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from . import flags as _flags

if TYPE_CHECKING:
    from .mm_types import Mm

PAGE_SHIFT = 12


@attrs.frozen(slots=True, eq=True, init=False, weakref_slot=False)
class Vma:
    """The range ``[start, end)`` in bytes with its flags, backing and names (include/linux/mm_types.h).

    ``pgoff`` is the offset of ``start`` in the backing, in pages (private anonymous: start >> 12 at first);
    ``page_prot`` the attribute bits of a new entry; ``file`` and ``anon_vma`` are ids (0: none); ``ops``
    names the vm_operations table ("": vm_ops is NULL, which makes the VMA anonymous); ``name`` is what
    /proc/PID/maps prints at the end of the line; ``private`` is the driver's own (vm_private_data);
    ``chain`` is the length of the anon_vma chain (0: no anon_vma, 1: a singleton, more: inherited by fork).
    No field is judged here.

    >>> v = Vma(0x1000, 0x5000, 0x8100073, pgoff=1)
    >>> v.nr_pages, v.perms, 0x4FFF in v, 0x5000 in v
    (4, 'rw-p', True, False)
    """

    start: int
    end: int
    vm_flags: int
    pgoff: int = 0
    page_prot: int = 0
    file: int = 0
    anon_vma: int = 0
    ops: str = ""
    name: str = ""
    private: int = 0
    chain: int = 0

    def __new__(
        cls,
        start: int,
        end: int,
        vm_flags: int,
        pgoff: int = 0,
        page_prot: int = 0,
        file: int = 0,
        anon_vma: int = 0,
        ops: str = "",
        name: str = "",
        private: int = 0,
        chain: int = 0,
    ) -> Vma:
        """Fill an object of the same layout that is not frozen yet, then freeze it by giving it its class.

        The __init__ of a frozen attrs class goes through object.__setattr__ for each field, which takes
        more than twice as long; splits and merges make VMAs by the thousand.
        """
        draft = _new(_Draft)
        draft.start = start
        draft.end = end
        draft.vm_flags = vm_flags
        draft.pgoff = pgoff
        draft.page_prot = page_prot
        draft.file = file
        draft.anon_vma = anon_vma
        draft.ops = ops
        draft.name = name
        draft.private = private
        draft.chain = chain
        draft.__class__ = Vma  # type: ignore[assignment]
        return draft  # type: ignore[return-value]

    def __reduce__(self) -> tuple[type[Vma], tuple[Any, ...]]:
        """For copy and pickle, which know nothing of a __new__ with arguments."""
        return Vma, attrs.astuple(self, recurse=False)

    @property
    def size(self) -> int:
        """The length in bytes."""
        return self.end - self.start

    @property
    def nr_pages(self) -> int:
        """The length in pages of 4 KiB (vma_pages)."""
        return (self.end - self.start) >> PAGE_SHIFT

    @property
    def perms(self) -> str:
        """The permissions as /proc/PID/maps prints them.

        >>> Vma(0, 0x1000, 0xC0444FB).perms
        'rw-s'
        """
        return _flags.perms(self.vm_flags)

    @property
    def is_pfnmap(self) -> bool:
        """Whether VM_PFNMAP is set: the entries are bare frame numbers, and zap_vma_ptes accepts the VMA."""
        return self.vm_flags & _flags.VM_PFNMAP != 0

    @property
    def is_cow(self) -> bool:
        """Whether writing makes private copies (is_cow_mapping)."""
        return _flags.is_cow_mapping(self.vm_flags)

    @property
    def is_anonymous(self) -> bool:
        """Whether vm_ops is NULL (vma_is_anonymous); a private file mapping never is."""
        return not self.ops

    def __contains__(self, addr: int) -> bool:
        """Whether ``addr`` lies in the range; ``end`` does not."""
        return self.start <= addr < self.end

    def replace(
        self,
        *,
        start: int | None = None,
        end: int | None = None,
        vm_flags: int | None = None,
        pgoff: int | None = None,
        page_prot: int | None = None,
        file: int | None = None,
        anon_vma: int | None = None,
        ops: str | None = None,
        name: str | None = None,
        private: int | None = None,
        chain: int | None = None,
    ) -> Vma:
        """A copy in which the given fields differ (attrs.evolve, without its look-up of the fields).

        >>> v = Vma(0x1000, 0x3000, 0x73, 1)
        >>> v.replace(start=0x2000, pgoff=2)
        Vma(start=0x2000, end=0x3000, vm_flags=0x73, pgoff=0x2)
        """
        return Vma(
            self.start if start is None else start,
            self.end if end is None else end,
            self.vm_flags if vm_flags is None else vm_flags,
            self.pgoff if pgoff is None else pgoff,
            self.page_prot if page_prot is None else page_prot,
            self.file if file is None else file,
            self.anon_vma if anon_vma is None else anon_vma,
            self.ops if ops is None else ops,
            self.name if name is None else name,
            self.private if private is None else private,
            self.chain if chain is None else chain,
        )

    def __repr__(self) -> str:
        """The fields that are not at their default, numbers in hex: addresses and flags are read that way."""
        parts = [f"start={self.start:#x}", f"end={self.end:#x}", f"vm_flags={self.vm_flags:#x}"]
        for field in attrs.fields(Vma)[3:]:
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(
                    f"{field.name}={value!r}" if isinstance(value, str) else f"{field.name}={value:#x}"
                )
        return f"Vma({', '.join(parts)})"


def vma_name(mm: Mm, vma: Vma) -> str:
    """What /proc/PID/maps prints for a VMA (show_map_vma, fs/proc/task_mmu.c): file, special mapping, heap or
    stack.

    [heap] and [stack] are no property of the VMA: they follow from the break and the stack's start when
    asked.  For an imported address space, whose mm fields are not known, the name that was read is told.
    """
    if vma.file or vma.name not in ("", "[heap]", "[stack]"):
        return vma.name
    start_brk, start_stack = mm.field("start_brk"), mm.field("start_stack")
    if start_brk and vma.start <= mm.field("brk") and vma.end >= start_brk:
        return "[heap]"
    if start_stack and vma.start <= start_stack <= vma.end:
        return "[stack]"
    return "" if start_brk and start_stack else vma.name


class _Draft:
    """A Vma in the making: the same slots, so that it can become one by a change of class."""

    __slots__ = tuple(field.name for field in attrs.fields(Vma))

    start: int
    end: int
    vm_flags: int
    pgoff: int
    page_prot: int
    file: int
    anon_vma: int
    ops: str
    name: str
    private: int
    chain: int


_new = object.__new__
