"""What a process may still have: resource limits, locked memory, committed memory (models mm/util.c and parts
of mm/mmap.c).

Limits are fields of the mm: a child of fork inherits them with the others.  ``RLIM_INFINITY`` is no limit.
Capabilities are the machine's (`System`), less what `dropcaps` took from the process.
"""

from __future__ import annotations

from ..errors import KernelError
from .flags import VM_GROWSDOWN, VM_LOCKED, VM_SHARED, VM_WRITE
from .hugetlb_pool import nr_huge_pages, set_nr_huge_pages
from .mm_types import Mm

RLIM_INFINITY = (1 << 64) - 1
RLIMIT_DEFAULTS = {
    "as": RLIM_INFINITY,
    "data": RLIM_INFINITY,
    "memlock": 8 << 20,
    "stack": 8 << 20,
}
"""The limits that the simulator knows, in bytes, with what a process starts with."""

OVERCOMMIT_GUESS, OVERCOMMIT_ALWAYS, OVERCOMMIT_NEVER = 0, 1, 2
SYSCTLS = {
    "vm.overcommit_memory": OVERCOMMIT_GUESS,
    "vm.overcommit_ratio": 50,
    "vm.overcommit_kbytes": 0,
    "vm.admin_reserve_kbytes": 8192,
    "vm.user_reserve_kbytes": 131072,
    "vm.max_map_count": 65530,
    "vm.nr_hugepages": 0,
}
"""The sysctls that the simulator knows, with their defaults."""


_FIELDS = {name: "stack_limit" if name == "stack" else f"rlimit_{name}" for name in RLIMIT_DEFAULTS}


def rlimit(mm: Mm, name: str) -> int:
    """A resource limit in bytes (`rlimit`); the field of RLIMIT_STACK is ``stack_limit``."""
    limit: int = mm.fields.data.get(_FIELDS[name], RLIMIT_DEFAULTS[name])
    return limit


def set_rlimit(mm: Mm, name: str, size: int) -> None:
    """Set a resource limit (setrlimit(2)), bytes; EINVAL for one that is not known."""
    if name not in RLIMIT_DEFAULTS:
        raise KernelError("EINVAL", "setrlimit", f"no limit {name!r}; there are {', '.join(RLIMIT_DEFAULTS)}")
    mm.set_field(_FIELDS[name], size)


def sysctl(mm: Mm, name: str) -> int:
    """The value of a sysctl; max_map_count is the machine's until it is set."""
    if name == "vm.nr_hugepages":
        return nr_huge_pages(mm.sys)
    value = mm.sys.sysctl.get(name)
    if value is None:
        return mm.sys.max_map_count if name == "vm.max_map_count" else SYSCTLS[name]
    return int(value)


def set_sysctl(mm: Mm, name: str, value: int) -> None:
    """Write a file of /proc/sys; ENOENT for one that is not known, EINVAL for a mode that does not exist."""
    if name not in SYSCTLS:
        raise KernelError("ENOENT", "sysctl", f"no sysctl {name!r}; there are {', '.join(SYSCTLS)}")
    if value < 0 or (name == "vm.overcommit_memory" and value > OVERCOMMIT_NEVER):
        raise KernelError("EINVAL", "sysctl", f"{value} is no value of {name}")
    if name == "vm.nr_hugepages":
        set_nr_huge_pages(mm.sys, value)
        return
    mm.sys.journal.write(mm.sys.sysctl, name, value)


def max_map_count(mm: Mm) -> int:
    """How many VMAs a process may have (`sysctl_max_map_count`)."""
    value: int | None = mm.sys.sysctl.data.get("vm.max_map_count")
    return mm.sys.max_map_count if value is None else value


def capable_ipc_lock(mm: Mm) -> bool:
    """Whether the process may lock without limit (CAP_IPC_LOCK)."""
    return mm.sys.cap_ipc_lock and not mm.field("caps_dropped")


def can_do_mlock(mm: Mm) -> bool:
    """Whether the process may lock at all (mm/mlock.c): a limit above 0, or the capability."""
    return rlimit(mm, "memlock") != 0 or capable_ipc_lock(mm)


def mlock_future_ok(mm: Mm, vm_flags: int, size: int) -> bool:
    """Whether ``size`` bytes more of a mapping with these flags keep RLIMIT_MEMLOCK
    (`mlock_future_check`).
    """
    if not vm_flags & VM_LOCKED:
        return True
    locked = (size >> 12) + mm.counters.data["locked_vm"]
    return locked <= rlimit(mm, "memlock") >> 12 or capable_ipc_lock(mm)


_DATA = VM_WRITE | VM_SHARED | VM_GROWSDOWN


def may_expand_vm(mm: Mm, vm_flags: int, pages: int) -> bool:
    """Whether ``pages`` pages more keep RLIMIT_AS and, for private writable ones, RLIMIT_DATA
    (mm/mmap.c).

    Not simulated: the exception for a soft RLIMIT_DATA of 0.
    """
    used = mm.counters.data
    if used["total_vm"] + pages > rlimit(mm, "as") >> 12:
        return False
    if vm_flags & _DATA != VM_WRITE:
        return True
    return used["data_vm"] + pages <= rlimit(mm, "data") >> 12


def vm_commit_limit(mm: Mm) -> int:
    """The pages that may be committed in mode 2 (`vm_commit_limit`): part of RAM, and all of swap."""
    s = mm.sys
    kbytes = sysctl(mm, "vm.overcommit_kbytes")
    ram = (
        kbytes >> 2
        if kbytes
        else (totalram_pages(mm) - nr_huge_pages(mm.sys) * 512) * sysctl(mm, "vm.overcommit_ratio") // 100
    )
    return ram + s.total_swap_pages


def totalram_pages(mm: Mm) -> int:
    """Frames of RAM that the allocator manages (`totalram_pages`)."""
    return mm.sys.totalram_pages or mm.sys.frames.nr_frames


def vm_enough_memory(mm: Mm, pages: int, func: str = "mmap", *, charge: bool = True) -> None:
    """Charge committed memory, or refuse with ENOMEM (`__vm_enough_memory`): see `commit_refusal`.

    Without ``charge`` it is only judged.
    """
    why = commit_refusal(mm, pages)
    if why:
        raise KernelError("ENOMEM", func, why)
    if charge:
        mm.sys.journal.add(mm.sys.commit, "committed", pages)


def commit_refusal(mm: Mm, pages: int) -> str:
    """Why so many pages more are not committed; empty when they are.

    Mode 0 refuses only a single request larger than RAM and swap, mode 1 nothing, mode 2 what exceeds the
    limit less the reserves for root and for the user.
    """
    mode = mm.sys.sysctl.data.get("vm.overcommit_memory", OVERCOMMIT_GUESS)
    if mode == OVERCOMMIT_GUESS:
        total = totalram_pages(mm) + mm.sys.total_swap_pages
        if pages > total:
            return f"{pages} pages are more than the machine's RAM and swap of {total} pages"
    elif mode == OVERCOMMIT_NEVER:
        allowed = vm_commit_limit(mm)
        if not mm.sys.cap_sys_admin:
            allowed -= sysctl(mm, "vm.admin_reserve_kbytes") >> 2
        allowed -= min(mm.counters.data["total_vm"] // 32, sysctl(mm, "vm.user_reserve_kbytes") >> 2)
        committed = mm.sys.commit.data["committed"] + pages
        if committed >= allowed:
            return f"{committed} pages would be committed, {allowed} are allowed (overcommit 2)"
    return ""
