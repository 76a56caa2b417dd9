"""What zap_vma_ptes judges before it acts (mm/memory.c), the nearest legal call, and what kills a kernel."""

from __future__ import annotations

from ...errors import CheckResult, LegalRange
from ..flags import VM_MIXEDMAP, VM_PFNMAP
from ..mm_types import Mm
from ..vma import Vma

WRAP = (1 << 64) - 1
CONTRACTS = ("int", "void", "special")


def judge(vma: Vma, address: int, size: int, contract: str = "int") -> tuple[CheckResult, ...]:
    """The checks of zap_vma_ptes in the kernel's order, those after the first failure judged too (``reached``
    False).

    The sum ``address + size`` is taken modulo 2**64, without a test for overflow, as in the kernel.

    >>> vma = Vma(0x10000, 0x20000, VM_PFNMAP)
    >>> [c.passed for c in judge(vma, 0x1f000, 0x2000)]
    [True, False, True]
    """
    end = (address + size) & WRAP
    wanted = VM_PFNMAP | VM_MIXEDMAP if contract == "special" else VM_PFNMAP
    word = "VM_PFNMAP | VM_MIXEDMAP" if contract == "special" else "VM_PFNMAP"
    low = vma.start <= address
    high = end <= vma.end
    over = f"by {_amount(end - vma.end)}" if not high else ""
    wrapped = "address + size wraps around 2^64" if address + size > WRAP else ""
    return (
        CheckResult(
            "range_in_vma",
            "vm_start <= address",
            f"{vma.start:x} <= {address:x}",
            low,
            note="" if low else f"by {_amount(vma.start - address)}",
        ),
        CheckResult(
            "range_in_vma", "address + size <= vm_end", f"{end:x} <= {vma.end:x}", high, low, over or wrapped
        ),
        CheckResult(
            "VM_PFNMAP",
            f"vm_flags & ({word})" if "|" in word else f"vm_flags & {word}",
            "set" if vma.vm_flags & wanted else "not set",
            bool(vma.vm_flags & wanted),
            low and high,
        ),
    )


def passes(vma: Vma, address: int, size: int, contract: str = "int") -> bool:
    """Whether all checks of `judge` pass: their outcome without their words."""
    wanted = VM_PFNMAP | VM_MIXEDMAP if contract == "special" else VM_PFNMAP
    return vma.start <= address and (address + size) & WRAP <= vma.end and vma.vm_flags & wanted != 0


def _amount(n: int) -> str:
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if n and not n & ((1 << shift) - 1):
            return f"{n >> shift}{unit}"
    return f"{n:#x}"


def nearest_legal(vma: Vma, address: int, size: int, contract: str = "int") -> LegalRange | None:
    """The nearest range that the call would accept: the part inside the VMA, else as much at the nearer end.

    None when the VMA is of the wrong kind, as no range of it is legal.

    >>> nearest_legal(Vma(0x10000, 0x20000, VM_PFNMAP), 0x1f000, 0x2000)
    LegalRange(address=126976, size=4096)
    """
    wanted = VM_PFNMAP | VM_MIXEDMAP if contract == "special" else VM_PFNMAP
    if not vma.vm_flags & wanted:
        return None
    if address + size > WRAP:
        size = vma.end - address if address < vma.end else 4096
    start, end = address & -4096, (address + size + 4095) & -4096
    low, high = max(start, vma.start), min(end, vma.end)
    if low < high:
        return LegalRange(low, high - low)
    if low == high and size == 0 and vma.start <= low <= vma.end:
        return LegalRange(low, 0)
    length = min(max(4096, end - start), vma.end - vma.start)
    return LegalRange(vma.start, length) if address < vma.start else LegalRange(vma.end - length, length)


def find_danger(mm: Mm, vma: Vma, address: int, size: int) -> tuple[str, str]:
    """Whether the call would kill a real kernel: ``(rule, message)``, both empty when it is harmless.

    "BUG_ON": the wrapped end lies below the start but inside the VMA (``addr >= end`` in unmap_page_range).
    "runaway": a piece of the range inside a populated PTE table is no multiple of the page size, so that the
    loop ``addr += PAGE_SIZE; addr != end`` never meets its end.
    """
    start, end = max(vma.start, address), min(vma.end, (address + size) & WRAP)
    if start >= vma.end or end <= vma.start or start == end:
        return "", ""
    if start > end:
        return (
            "BUG_ON",
            f"address + size wraps to {end:#x}, below address: unmap_page_range() has BUG_ON(addr >= end)",
        )
    if not (start | end) & 4095:
        return "", ""
    arena, span = mm.sys.arena, 1 << 21
    va = start
    while va < end:
        stop = min(end, (va & -span) + span)
        if (stop - va) & 4095 and arena.lookup(mm.pgd, va) >= 0:
            what = "address and end differ in their offset within a page"
            if stop != end or va != start:
                what = "an unaligned range crosses a 2 MiB border"
            return (
                "runaway",
                f"{what}: the loop of zap_pte_range() would step over its end and run off the table",
            )
        va = stop
    return "", ""
