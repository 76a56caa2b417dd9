"""What differs between kernel versions: the kernel dial.

The rules of this package are those of 6.1.  Where a later kernel was seen to behave otherwise, the rule asks
the machine's `KernelVersion`, which has a name for each difference; all are False for 6.1.

Not simulated: the dirty bit that write-protected entries have in bit 58 since 6.6 (SAVEDDIRTY); it stays in bit 6.
"""

from __future__ import annotations

import difflib

import attrs

from .errors import VmvizError
from .value import Value


@attrs.frozen(eq=False, repr=False)
class KernelVersion(Value):
    """The differences of one version to 6.1, each where it is asked for.

    >>> kernel_version("6.18").munlock_merges, kernel_version("6.12").munlock_merges
    (True, False)
    """

    name: str
    joins_previous: bool = False
    """A new mapping between two VMAs whose anon_vmas differ joins the previous one, not the next
    (`vma_expand`)."""
    drops_account: bool = False
    """mprotect takes VM_ACCOUNT, and the charge, from a private anonymous VMA without an anon_vma that it
    makes non-writable (`mprotect_fixup`)."""
    stack_nohugepage: bool = False
    """MAP_STACK sets VM_NOHUGEPAGE, which keeps it apart from plain neighbours (`calc_vm_flag_bits`)."""
    dontunmap_keeps_pgoff: bool = False
    """The VMA that MREMAP_DONTUNMAP leaves behind keeps the vm_pgoff of the one that moved."""
    swapin_writable: bool = False
    """A read fault on a swapped-out page that is the process's own makes a writable entry
    (`do_swap_page`)."""
    split_frees_zeros: bool = False
    """Splitting a huge page gives up its zero-filled small pages for the zero page (`split_huge_page`)."""
    pageout_keeps_accessed: bool = False
    """MADV_PAGEOUT leaves the A bit of what it does not reclaim."""
    populate_stops: bool = False
    """MADV_POPULATE_* goes through a range in its order and stops at the first fault: ENOMEM for a hole,
    which 6.1 passes over."""
    aligns_huge: bool = False
    """A private anonymous mapping without a hint whose length is a multiple of 2 MiB begins at one."""
    lockonfault_code: bool = False
    """smaps prints ``lf`` for VM_LOCKONFAULT, not ``??``."""
    munlock_merges: bool = False
    """A VMA with an anon_vma of its own, whose flags change, joins a neighbour without one
    (`is_mergeable_anon_vma`); munlock shows it."""
    mremap_many: bool = False
    """mremap judges everything before it unmaps anything, and with MREMAP_FIXED moves several mappings at
    once (`vmviz.kernel.mm.mremap_later`)."""
    dontunmap_unlocks_whole: bool = False
    """MREMAP_DONTUNMAP of a part unlocks the whole VMA, which stays one."""
    dontunmap_joins: bool = False
    """What MREMAP_DONTUNMAP moves may join the VMA that it leaves behind, beside which it lands."""
    dontunmap_counts_twice: bool = False
    """MREMAP_DONTUNMAP of locked memory counts it as locked at both places (VmLck)."""


_SINCE_6_12 = {
    "joins_previous": True,
    "drops_account": True,
    "stack_nohugepage": True,
    "dontunmap_keeps_pgoff": True,
    "swapin_writable": True,
    "split_frees_zeros": True,
    "pageout_keeps_accessed": True,
    "populate_stops": True,
    "aligns_huge": True,
    "lockonfault_code": True,
}
_SINCE_6_18 = {
    "munlock_merges": True,
    "mremap_many": True,
    "dontunmap_unlocks_whole": True,
    "dontunmap_joins": True,
    "dontunmap_counts_twice": True,
}

VERSIONS: dict[str, KernelVersion] = {
    version.name: version
    for version in (
        KernelVersion("6.1"),
        KernelVersion("6.12", **_SINCE_6_12),
        KernelVersion("6.18", **_SINCE_6_12, **_SINCE_6_18),
    )
}
"""The versions that the dial can be set to, ascending."""


def kernel_version(name: str) -> KernelVersion:
    """The version of a name; raises `VmvizError` with the nearest names for one that is not known.

    >>> kernel_version("6.17")
    Traceback (most recent call last):
    vmviz.kernel.errors.VmvizError: kernel '6.17' is not known; the nearest is 6.12 or 6.18; known: 6.1, 6.12, 6.18
    """
    found = VERSIONS.get(name)
    if found is None:
        near = _nearest(name)
        hint = f"; the nearest is {' or '.join(near)}" if near else ""
        raise VmvizError(f"kernel {name!r} is not known{hint}; known: {', '.join(VERSIONS)}")
    return found


def _numbers(name: str) -> tuple[int, ...] | None:
    parts = name.split(".")[:2]
    return tuple(map(int, parts)) if all(p.isascii() and p.isdecimal() for p in parts) else None


def _nearest(name: str) -> list[str]:
    """The versions just below and just above a name that is a version; else the names that look alike."""
    wanted = _numbers(name)
    if wanted is None:
        return difflib.get_close_matches(name, VERSIONS, 1)
    below = [v for v in VERSIONS if (_numbers(v) or ()) <= wanted]
    above = [v for v in VERSIONS if (_numbers(v) or ()) > wanted]
    return below[-1:] + above[:1]


def nearest_version(release: str) -> tuple[KernelVersion, bool]:
    """The version for a kernel's release text (uname): the last one at or below it, the first one for
    an older kernel; and whether it is exactly that.

    >>> [(v.name, exact) for v, exact in map(nearest_version, ("6.1.0-56-amd64", "6.17.2", "6.19.0-rc1", "5.15"))]
    [('6.1', True), ('6.12', False), ('6.18', False), ('6.1', False)]
    """
    digits = "".join(c if c.isdecimal() or c == "." else " " for c in release).split()
    wanted = _numbers(digits[0].strip(".")) if digits else None
    if wanted is None:
        return next(iter(VERSIONS.values())), False
    below = [v for v in VERSIONS if (_numbers(v) or ()) <= wanted]
    name = below[-1] if below else next(iter(VERSIONS))
    return VERSIONS[name], _numbers(name) == wanted
