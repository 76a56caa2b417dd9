"""The functions of the language that change mappings: mprotect, mremap, madvise, mlock and their kin, and the
limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernel.mm.flags import RLIMITS
from .functions import ArgumentError, Result, Value
from .functions import _function as function
from .functions import _number as number
from .functions import _text as text

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


@function("addr length", "keep a range in memory: it is faulted in, and its pages become unevictable")
def mlock(m: Machine, addr: Value, length: Value) -> Result:
    return Result(m.mlock(number(0, addr, "addr"), number(1, length, "length")))


@function("addr length flags", "mlock; with MLOCK_ONFAULT pages are locked only when they are touched")
def mlock2(m: Machine, addr: Value, length: Value, flags: Value) -> Result:
    return Result(m.mlock2(number(0, addr, "addr"), number(1, length, "length"), number(2, flags, "flags")))


@function("addr length", "let the pages of a range be reclaimed again")
def munlock(m: Machine, addr: Value, length: Value) -> Result:
    return Result(m.munlock(number(0, addr, "addr"), number(1, length, "length")))


@function("flags", "lock all that is mapped (MCL_CURRENT) and all that will be (MCL_FUTURE)")
def mlockall(m: Machine, flags: Value) -> Result:
    return Result(m.mlockall(number(0, flags, "flags")))


@function("", "undo mlockall and every mlock")
def munlockall(m: Machine) -> Result:
    return Result(m.munlockall())


@function("addr length vec?", "which pages of a range are in memory; the answer is told, not stored")
def mincore(m: Machine, addr: Value, length: Value, _vec: Value = 0) -> Result:
    vec = m.mincore(number(0, addr, "addr"), number(1, length, "length"))
    return Result(0, fields={"vec": "".join(str(x) for x in vec)})


@function("addr length flags", "write back what shared mappings of a range have changed")
def msync(m: Machine, addr: Value, length: Value, flags: Value) -> Result:
    return Result(m.msync(number(0, addr, "addr"), number(1, length, "length"), number(2, flags, "flags")))


@function("addr size prot pgoff flags", "map other pages of a shared file in its place; prot must be 0")
def remap_file_pages(m: Machine, addr: Value, size: Value, prot: Value, pgoff: Value, flags: Value) -> Result:
    names = ("addr", "size", "prot", "pgoff", "flags")
    values = (addr, size, prot, pgoff, flags)
    numbers = [number(i, v, w) for i, (v, w) in enumerate(zip(values, names, strict=True))]
    return Result(m.remap_file_pages(*numbers))


@function(
    "resource bytes", "set a limit of this process, as setrlimit does: RLIMIT_AS, _DATA, _MEMLOCK or _STACK"
)
def rlimit(m: Machine, resource: Value, size: Value) -> Result:
    if isinstance(resource, int):
        if resource not in RLIMITS:
            raise ArgumentError(
                0, f"the limits here are {', '.join(f'RLIMIT_{name.upper()}' for name in RLIMITS.values())}"
            )
        resource = RLIMITS[resource]
    return Result(m.rlimit(text(0, resource), number(1, size, "bytes")))


@function(
    "policy", 'who gets transparent huge pages: "always", "madvise" (where MADV_HUGEPAGE says so) or "never"'
)
def thp(m: Machine, policy: Value) -> Result:
    return Result(m.thp(text(0, policy)))


@function("name value", 'write a sysctl, such as "vm.overcommit_memory" or "vm.max_map_count"')
def sysctl(m: Machine, name: Value, value: Value) -> Result:
    return Result(m.sysctl(text(0, name), number(1, value, "value")))


@function("", "give up CAP_IPC_LOCK: from now on RLIMIT_MEMLOCK holds")
def dropcaps(m: Machine) -> Result:
    return Result(m.dropcaps())
