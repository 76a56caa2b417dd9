"""What a process can ask about the mappings it has: protection, place, advice, locks, limits.

A part of `vmviz.kernel.syscalls.Syscalls`; each call is a span of the journal, left with 0 or its errno.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .arguments import number, protection
from .drivers import open_backing
from .errors import KernelError, VmvizError
from .mm.brk import prctl_set_mm
from .mm.filemap import get_inode, put_inode
from .mm.flags import (
    MAP_FIXED,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_POPULATE,
    MAP_SHARED,
    VM_ACCESS_FLAGS,
    VM_LOCKED,
    VM_SHARED,
)
from .mm.gup import mm_populate
from .mm.huge_memory import set_thp_policy
from .mm.mm_types import Mm, System
from .mm.mmap import do_mmap
from .mm.mremap_quick import quick_mremap
from .mm.util import set_rlimit, set_sysctl
from .mm.vma import Vma

if TYPE_CHECKING:
    from .mm.mmu_gather import MmuGather


class VmaCalls:
    """The calls; `Machine` provides the state."""

    sys: System

    @property
    def mm(self) -> Mm:
        """The address space of the process that runs."""
        raise NotImplementedError

    def mprotect(self, addr: int, length: int, prot: int | str) -> MmuGather | None:
        """Change the protection of a range (mprotect(2)); returns what was flushed, None for length 0."""
        from .mm.mprotect import do_mprotect

        addr, length, prot = number(addr, "addr"), number(length, "length"), protection(prot)
        with self._span("mprotect", ("addr", addr), ("length", length), ("prot", prot)):
            return do_mprotect(self.mm, addr, length, prot)

    def mremap(self, addr: int, old_len: int, new_len: int, flags: int = 0, new_addr: int = 0) -> int:
        """Resize or move a mapping and return its address (mremap(2)); lengths in bytes."""
        addr, new_addr, flags = number(addr, "addr"), number(new_addr, "new_addr"), number(flags, "flags")
        old_len, new_len = number(old_len, "old_len"), number(new_len, "new_len")
        if (at := quick_mremap(self.mm, addr, old_len, new_len, flags, new_addr)) >= 0:
            return at
        from .mm import mremap, mremap_later

        fields = (("addr", addr), ("old_len", old_len), ("new_len", new_len), ("flags", flags))
        with self._span("mremap", *fields, ("new_addr", new_addr)):
            call = mremap_later.do_mremap if self.sys.version.mremap_many else mremap.do_mremap
            return call(self.mm, addr, old_len, new_len, flags, new_addr)

    def madvise(self, addr: int, length: int, advice: int) -> int:
        """Take advice on a range (madvise(2)); ``advice`` is an MADV_* value."""
        from .mm.madvise import do_madvise

        addr, length, advice = number(addr, "addr"), number(length, "length"), number(advice, "advice")
        with self._span("madvise", ("addr", addr), ("length", length), ("advice", advice)):
            do_madvise(self.mm, addr, length, advice)
        return 0

    def mlock(self, addr: int, length: int) -> int:
        """Lock a range and fault it in (mlock(2))."""
        from .mm.mlock import do_mlock

        with self._span("mlock", ("addr", addr), ("length", length)):
            do_mlock(self.mm, addr, length)
        return 0

    def mlock2(self, addr: int, length: int, flags: int) -> int:
        """Lock a range; MLOCK_ONFAULT faults nothing in (mlock2(2))."""
        from .mm.mlock import do_mlock

        with self._span("mlock2", ("addr", addr), ("length", length), ("flags", flags)):
            do_mlock(self.mm, addr, length, flags, "mlock2")
        return 0

    def munlock(self, addr: int, length: int) -> int:
        """Unlock a range (munlock(2))."""
        from .mm.mlock import do_munlock

        with self._span("munlock", ("addr", addr), ("length", length)):
            do_munlock(self.mm, addr, length)
        return 0

    def mlockall(self, flags: int) -> int:
        """Lock what is mapped, or what will be (mlockall(2))."""
        from .mm.mlock import do_mlockall

        with self._span("mlockall", ("flags", flags)):
            do_mlockall(self.mm, flags)
        return 0

    def munlockall(self) -> int:
        """Unlock everything (munlockall(2))."""
        from .mm.mlock import do_munlockall

        with self._span("munlockall"):
            do_munlockall(self.mm)
        return 0

    def mincore(self, addr: int, length: int) -> bytes:
        """One byte per page of a range: whether it is in memory (mincore(2))."""
        from .mm.mincore import do_mincore

        with self._span("mincore", ("addr", addr), ("length", length)):
            return do_mincore(self.mm, addr, length)

    def msync(self, addr: int, length: int, flags: int) -> int:
        """Write back what shared mappings of a range have changed (msync(2))."""
        from .mm.msync import do_msync

        with self._span("msync", ("addr", addr), ("length", length), ("flags", flags)):
            do_msync(self.mm, addr, length, flags)
        return 0

    def remap_file_pages(self, addr: int, size: int, prot: int, pgoff: int, flags: int) -> int:
        """Map other pages of a mapping's file in its place (remap_file_pages(2)); ``pgoff`` in pages."""
        with self._span("remap_file_pages", ("addr", addr), ("size", size), ("pgoff", pgoff)):
            return self._remap_file_pages(addr & -4096, size & -4096, prot, pgoff, flags)

    def _remap_file_pages(self, start: int, size: int, prot: int, pgoff: int, flags: int) -> int:
        """The emulation of mm/mmap.c since 3.16: an ordinary mmap over the range.

        EINVAL: ``prot`` is not 0, an empty or wrapping range, or not all of it one run of shared mappings of
        one file with equal flags; then the errors of mmap.
        """
        vma = self.mm.vma_at(start)
        end, top = start + size, 1 << 64
        bad = prot or not size or end >= top or pgoff + (size >> 12) >= top
        if bad or vma is None or not vma.vm_flags & VM_SHARED or not _one_run(self.mm, vma, end):
            raise KernelError("EINVAL", "remap_file_pages", "the range is not one shared mapping of one file")
        flags = (flags & MAP_NONBLOCK) | MAP_SHARED | MAP_FIXED | MAP_POPULATE
        flags |= MAP_LOCKED if vma.vm_flags & VM_LOCKED else 0
        backing = open_backing(self.sys, self.sys.files.get(vma.file))
        get_inode(self.sys, vma.file)  # the file stays, though its last mapping may go
        try:
            do_mmap(self.mm, start, size, vma.vm_flags & VM_ACCESS_FLAGS, flags, backing, pgoff << 12)
        finally:
            put_inode(self.sys, vma.file)
        if not flags & MAP_NONBLOCK or flags & MAP_LOCKED:
            mm_populate(self.mm, start, size)
        return 0

    # -- limits

    def rlimit(self, name: str, size: int) -> int:
        """Set a resource limit of this process in bytes (setrlimit(2), kernel/sys.c): "as", "data", "memlock",
        "stack".  EINVAL: another name.  Simplified: one value, which is the soft limit and the hard one.
        """
        with self._span("setrlimit", ("resource", name), ("bytes", size)):
            set_rlimit(self.mm, name, size)
        return 0

    def thp(self, policy: str) -> int:
        """Write /sys/kernel/mm/transparent_hugepage/enabled: "always", "madvise" or "never" (`enabled_store`,
        mm/huge_memory.c).  EINVAL: another word.
        """
        with self._span("enabled_store", ("policy", policy)):
            set_thp_policy(self.sys, policy)
        return 0

    def sysctl(self, name: str, value: int) -> int:
        """Write a sysctl, such as "vm.overcommit_memory" or "vm.max_map_count" (vm_table, kernel/sysctl.c).

        ENOENT: one that is not simulated; EINVAL: a value out of its range.
        """
        with self._span("sysctl", ("name", name), ("value", value)):
            set_sysctl(self.mm, name, value)
        return 0

    def prctl_set_mm(self, opt: int, addr: int, arg4: int = 0, arg5: int = 0) -> int:
        """Move the break or its start (prctl(2) with PR_SET_MM); see `vmviz.kernel.mm.brk.prctl_set_mm`."""
        with self._span("prctl_set_mm", ("opt", opt), ("addr", addr)):
            prctl_set_mm(self.mm, opt, addr, arg4, arg5)
        return 0

    def dropcaps(self) -> int:
        """Give up the capabilities that lift limits (capset(2), kernel/capability.c: CAP_IPC_LOCK, CAP_SYS_RESOURCE),
        for good.
        """
        with self._span("capset"):
            self.mm.set_field("caps_dropped", 1)
        return 0

    @contextmanager
    def _span(self, func: str, *fields: tuple[str, Any]) -> Iterator[None]:
        """A system call in the journal: entered, and left with 0 or its errno."""
        j = self.sys.journal
        j.enter(func, *fields)
        try:
            yield
        except VmvizError as error:
            j.leave(func, error.errno if isinstance(error, KernelError) else None)
            raise
        j.leave(func, 0)


def _one_run(mm: Mm, vma: Vma, end: int) -> bool:
    """Whether the VMAs from ``vma`` to ``end`` touch each other and have one file and equal flags."""
    last = vma
    for after in mm.vmas.overlapping(vma.end, end):
        if (after.start, after.file, after.vm_flags) != (last.end, vma.file, vma.vm_flags):
            return False
        last = after
    return last.end >= end
