"""The functions of the language that change mappings: mprotect, mremap, madvise, mlock and their kin, and the
limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .functions import Result, Value
from .functions import _function as function
from .functions import _number as number

if TYPE_CHECKING:
    from ..kernel.machine import Machine
    from ..kernel.mm.mmu_gather import MmuGather


def _flushed(gather: MmuGather | None) -> Result:
    """What a call that changes entries tells besides: the flushes."""
    return Result(0, fields={"tlb": tuple(gather.flushes)} if gather else {})


@function("addr length prot", "change the protection of a range: VMAs are split or joined, entries follow")
def mprotect(m: Machine, addr: Value, length: Value, prot: Value) -> Result:
    return _flushed(m.mprotect(number(0, addr, "addr"), number(1, length, "length"), number(2, prot, "prot")))


@function(
    "addr old_len new_len flags? new_addr?",
    "resize or move a mapping: entries move, pages do not; its address is returned",
)
def mremap(
    m: Machine, addr: Value, old_len: Value, new_len: Value, flags: Value = 0, new_addr: Value = 0
) -> Result:
    names = ("addr", "old_len", "new_len", "flags", "new_addr")
    values = (addr, old_len, new_len, flags, new_addr)
    numbers = [number(i, v, w) for i, (v, w) in enumerate(zip(values, names, strict=True))]
    return Result(m.mremap(*numbers), address=True)


@function("addr length advice", "take advice on a range: an MADV_ word tells how it will be used")
def madvise(m: Machine, addr: Value, length: Value, advice: Value) -> Result:
    return Result(
        m.madvise(number(0, addr, "addr"), number(1, length, "length"), number(2, advice, "advice"))
    )
