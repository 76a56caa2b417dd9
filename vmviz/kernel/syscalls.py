"""What a process, and a driver on its behalf, can ask of the machine: the calls of the language as plain
methods.

Results are values; a call that fails raises `KernelError` (with ``errno``), an access that ends in a signal
raises `SignalRaised`, and a refused zap is a `ZapResult` with a ``refusal``.  A call that fails has taken
back nothing: what it did up to then is in the journal, as in the kernel.
"""

from __future__ import annotations

import difflib
from typing import NoReturn

import attrs

from .arguments import PFN_BITS, descriptor, frame_number, kind_of, mapping_flags, number, protection, text
from .drivers import open_backing
from .errors import BadArgumentError, CallerBugError, KernelError, Refusal, UnsupportedError, VmvizError
from .exec import execve as load_binary
from .fs.proc import clear_refs
from .mm.access import EXEC, READ, WRITE, WRITTEN, Access, access, is_known, load_one, peek
from .mm.access_one import touch_one
from .mm.brk import do_brk
from .mm.filemap import get_inode, put_inode
from .mm.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_HUGE_MASK,
    MAP_HUGE_SHIFT,
    MAP_HUGETLB,
    MAP_NONBLOCK,
    MAP_POPULATE,
    O_RDONLY,
    O_RDWR,
    VM_HUGETLB,
    VM_LOCKED,
)
from .mm.gup import mm_populate
from .mm.hugetlb import HUGETLB_ANON_PATH, KIND
from .mm.hugetlb_pool import HPAGE_SIZE, check_size
from .mm.memory import pfn as pfn_calls
from .mm.memory.zap import ZapResult, zap_vma_ptes
from .mm.mm_types import Mm
from .mm.mmap import Backing, do_mmap
from .mm.mmu_gather import MmuGather
from .mm.munmap import do_munmap
from .mm.page_alloc import RESERVED, ZERO
from .mm.truncate import unmap_mapping_range
from .mm.uaccess import process_vm_readv, read_from_zero, write_to_pipe
from .mm.vma import Vma, vma_name
from .mm.vma_packed import quick_mmap, quick_munmap
from .syscalls_files import FileCalls
from .trace.store import Keyed


class Syscalls(FileCalls):
    """The calls; `Machine` provides the state."""

    tasks: Keyed
    imported = False
    """Whether the process is a copy of a real one, of which not everything is known."""

    @property
    def pfns_visible(self) -> bool:
        """Whether frame numbers are what they seem to be; not where those of a real process are hidden."""
        return True

    @property
    def mm(self) -> Mm:
        """The address space of the process that runs."""
        raise NotImplementedError

    # -- mappings

    def mmap(
        self, addr: int, length: int, prot: int | str, flags: int | str, fd: int = -1, offset: int = 0
    ) -> int:
        """Create a mapping and return its address (mmap(2)); sizes in bytes.

        ``prot`` and ``flags`` are the C constants or, for short, "rw" and "private" or "shared"; without a
        descriptor the mapping is anonymous.
        """
        if (
            type(prot) is not int
            or type(flags) is not int
            or not type(addr) is type(length) is type(fd) is type(offset) is int
            or (addr | length | prot | flags | offset) >> 64
            or (fd + 1) >> 31
        ):  # else nothing has to be judged one by one
            addr, length, offset = number(addr, "addr"), number(length, "length"), number(offset, "offset")
            prot, fd = protection(prot), descriptor(fd)
            flags = mapping_flags(flags, fd)
        if (address := quick_mmap(self.mm, addr, length, prot, flags, fd, offset)) >= 0:
            return address
        j = self.sys.journal
        j.enter("mmap", ("addr", addr), ("length", length), ("prot", prot), ("flags", flags), ("fd", fd))
        backing = None
        held: list[int] = []
        try:
            if offset & 4095:  # before the descriptor is looked at
                raise KernelError("EINVAL", "mmap", f"offset {offset:#x} is not page aligned")
            if not flags & MAP_ANONYMOUS:
                backing = open_backing(self.sys, self._file(fd, "mmap"))
                if flags & MAP_HUGETLB:
                    raise KernelError("EINVAL", "mmap", f"{backing.file.path} has no huge pages of the pool")
            elif flags & MAP_HUGETLB:
                check_size(flags, MAP_HUGE_SHIFT, MAP_HUGE_MASK)
                length = -(-length // HPAGE_SIZE) * HPAGE_SIZE & ((1 << 64) - 1)
                backing = self._hugetlb_file_setup(length)
                held = self._hold_huge_files(addr, length) if flags & MAP_FIXED else []
            address = do_mmap(self.mm, addr, length, prot, flags, backing, offset, self._shared_anonymous)
            locked = (flags | self.mm.field("def_flags")) & VM_LOCKED  # MAP_LOCKED has its value
            if locked or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE:
                mm_populate(self.mm, address, length)
        except VmvizError as error:
            if backing is not None and backing.inode.kind == KIND:
                self._drop_file(backing)
            j.leave("mmap", error.errno if isinstance(error, KernelError) else None)
            raise
        finally:
            for file in held:
                put_inode(self.sys, file)
        j.leave("mmap", address)
        return address

    def _hold_huge_files(self, addr: int, length: int) -> list[int]:
        """Keep the files that a fixed mapping replaces: their pages go back to the pool only when the call is over,
        too late for the new mapping (`fput` is a task work).
        """
        files = [v.file for v in self.mm.vmas.overlapping(addr, addr + length) if v.vm_flags & VM_HUGETLB]
        for file in files:
            get_inode(self.sys, file)
        return files

    def _hugetlb_file_setup(self, length: int) -> Backing:
        """The file behind an anonymous mapping of huge pages (fs/hugetlbfs/inode.c)."""
        inode = self._new_inode(HUGETLB_ANON_PATH, KIND, length)
        return open_backing(self.sys, self._new_file(inode.path, O_RDWR, inode))

    def _drop_file(self, backing: Backing) -> None:
        """A mapping has failed: the file that was made for it has never been (`fput`)."""
        j, s = self.sys.journal, self.sys
        j.write(s.files, backing.file.id, None)
        j.write(s.inodes, backing.inode.id, None)
        j.write(s.inode_refs, backing.inode.id, None)
        for kind in ("file", "inode"):
            j.add(s.ids, kind, -1)

    def _shared_anonymous(self, length: int) -> Backing:
        """The shmem file behind a shared anonymous mapping (`shmem_zero_setup`)."""
        inode = self._new_inode("/dev/zero (deleted)", "shmem", (length + 4095) & ~4095)
        return open_backing(self.sys, self._new_file(inode.path, O_RDWR, inode))

    def munmap(self, addr: int, length: int) -> MmuGather | None:
        """Remove all mappings of a range (munmap(2)); returns what was flushed and freed, None for an empty
        range.
        """
        if not type(addr) is type(length) is int or (addr | length) >> 64:
            addr, length = number(addr, "addr"), number(length, "length")
        if (gather := quick_munmap(self.mm, addr, length)) is not None:
            return gather
        j = self.sys.journal
        j.enter("munmap", ("addr", addr), ("length", length))
        try:
            gather = do_munmap(self.mm, addr, length)
        except KernelError as error:
            j.leave("munmap", error.errno)
            raise
        j.leave("munmap", 0)
        return gather

    def brk(self, addr: int) -> int:
        """Move the program break; returns the resulting one, the old one on failure (brk(2))."""
        old = self.mm.field("brk")
        new = do_brk(self.mm, number(addr, "addr"))
        start = (old + 4095) & -4096
        if new > start and self.mm.field("def_flags") & VM_LOCKED:
            mm_populate(self.mm, start, new - start)
        return new

    def execve(self, path: str) -> int:
        """Run a program in this process (execve(2)); a path that does not exist is made a small program.

        Simplified: the address space must be fresh, as a machine has it after boot.
        """
        path = text(path, "path")
        if any(v.file for v in self.mm.vmas):
            raise KernelError(
                "EBUSY", "execve", "this process runs a program already; a second execve is not simulated"
            )
        inode = self._inode(path) or self._new_inode(path, "reg", 8192)
        comm = path.rsplit("/", 1)[-1][:15]
        self.sys.journal.write(self.tasks, self.pid, attrs.evolve(self.tasks.get(self.pid), comm=comm))
        load_binary(self.mm, self._new_file(path, O_RDONLY, inode))
        return 0

    # -- accesses

    def load(self, addr: int, length: int = 1) -> Access:
        """Read ``length`` bytes, touching each page once."""
        if type(addr) is type(length) is int and 0 < length <= 4096 - (addr & 4095):
            done = load_one(self.mm, addr, length)
            if done is not None:
                return done
        return self._access(number(addr, "addr"), number(length, "length"), READ)

    def store(self, addr: int, length: int | bytes = 1, data: bytes | int = 0x5A) -> Access:
        """Write: one byte into each page of the range, or bytes from ``addr`` on: ``store(addr, b"text")``."""
        if type(addr) is int and type(data) is int and length == 1 and 0 <= data < 256:
            touched = touch_one(self.mm, addr, True, data)
            if touched is not None:
                return WRITTEN[touched[1]]
        if isinstance(length, bytes | bytearray):
            length, data = len(length), bytes(length)
        elif isinstance(data, bytes | bytearray):
            length, data = len(data), bytes(data)
        else:
            length, data = number(length, "length"), number(data, "data") & 0xFF
        if data == b"":
            raise BadArgumentError("no bytes are given: an empty write touches nothing")
        return self._access(number(addr, "addr"), length, WRITE, data)

    def exec(self, addr: int) -> Access:
        """Fetch an instruction at ``addr`` (bytes; `handle_mm_fault` with FAULT_FLAG_INSTRUCTION, mm/memory.c).

        Raises `SignalRaised` as `load` does.
        """
        return self._access(number(addr, "addr"), 1, EXEC)

    def _access(self, addr: int, length: int, kind: str, data: bytes | int = 0x5A) -> Access:
        return access(self.mm, addr, length, kind, data)

    def copy_from_user(self, addr: int, length: int) -> int:
        """The kernel reads memory of the process; see `vmviz.kernel.mm.uaccess.write_to_pipe`."""
        with self._span("copy_from_user", ("from", addr), ("n", length)):
            return write_to_pipe(self.mm, addr, length)

    def clear_user(self, addr: int, length: int) -> int:
        """The kernel writes zeros to the process; see `vmviz.kernel.mm.uaccess.read_from_zero`."""
        with self._span("clear_user", ("to", addr), ("n", length)):
            return read_from_zero(self.mm, addr, length)

    def process_vm_readv(self, addr: int, length: int) -> int:
        """Pages are taken and read; see `vmviz.kernel.mm.uaccess.process_vm_readv`."""
        with self._span("process_vm_readv", ("addr", addr), ("len", length)):
            return process_vm_readv(self.mm, addr, length)

    def clear_refs(self, kind: int) -> int:
        """Write to /proc/self/clear_refs; see `vmviz.kernel.fs.proc.clear_refs`."""
        clear_refs(self.mm, kind)
        return 0

    def peek(self, addr: int, length: int) -> bytes:
        """The bytes at an address as far as pages are present, without touching them; unknown ones (of an
        imported process) as zeros: see `is_known`.
        """
        return peek(self.mm, number(addr, "addr"), number(length, "length"))

    def is_known(self, addr: int, length: int) -> bool:
        """Whether what `peek` returns is true: the contents of imported pages are not known."""
        return is_known(self.mm, number(addr, "addr"), number(length, "length"))

    # -- the driver side

    def vma(self, where: int | str) -> Vma:
        """The VMA that contains an address, or that has a name ("[stack]", "/dev/fb0", "fb0").

        Raises `VmaNotFound` naming the nearest VMA when there is none.
        """
        if isinstance(where, str):
            names = {name: v for v in self.mm.vmas if (name := vma_name(self.mm, v))}
            for name, vma in names.items():
                if where in (name, name.rsplit("/", 1)[-1]):
                    return vma
            near = difflib.get_close_matches(where, list(names), 1)
            raise VmaNotFound(
                f"no VMA is named {where!r}" + (f"; the nearest name is {near[0]!r}" if near else "")
            )
        address = number(where, "where")
        found = self.mm.vma_at(address)
        if found is None:
            self._no_vma(address)
        return found

    def live_vma(self, vma: Vma) -> Vma:
        """The VMA as it is now: in C a caller has a pointer, so it sees what has become of the VMA since.

        Raises `CallerBugError` when it is gone, `BadArgumentError` for what is no VMA.
        """
        if not isinstance(vma, Vma):
            raise BadArgumentError(
                f"the VMA must be given as vma(address) or vma(name), not as {kind_of(vma)}"
            )
        now = self.mm.vma_at(vma.start)
        if now is None:
            message = f"the VMA at {vma.start:#x} is gone: the variable points to freed memory"
            raise CallerBugError("vma", "use after free", message, Refusal("caller_bug", message))
        return now

    def _drivers_vma(self, vma: Vma) -> Vma:
        """The VMA that a driver maps something into, as it is now.

        Raises `CallerBugError` too where it is of huge pages: mm/hugetlb.c would take a table of small pages, which
        a driver puts there, for one of its pages when the mapping goes.
        """
        vma = self.live_vma(vma)
        if vma.vm_flags & VM_HUGETLB:
            message = f"the VMA at {vma.start:#x} is of huge pages: it has no tables for single ones"
            raise CallerBugError("vma", "is_vm_hugetlb_page(vma)", message, Refusal("caller_bug", message))
        return vma

    def _run_of_frames(self, vma: Vma, addr: int, pfn: int, size: int) -> tuple[Vma, int, int, int]:
        """The arguments of the calls that map a run of frames, without what would overwrite the kernel's tables."""
        vma, addr, pfn, size = (
            self._drivers_vma(vma),
            number(addr, "addr"),
            frame_number(pfn),
            number(size, "size"),
        )
        if size >> 52 or pfn + (size >> 12) >> PFN_BITS:
            raise BadArgumentError(f"size {size:#x} is too large: the frames would end above {PFN_BITS} bits")
        if addr + size > self.mm.task_size:
            message = f"{addr:#x} + {size:#x} leaves the user half: the kernel's own page tables would be overwritten"
            raise CallerBugError("remap_pfn_range", "range", message, Refusal("caller_bug", message))
        return vma, addr, pfn, size

    def _no_vma(self, address: int) -> NoReturn:
        before, after = self.mm.vmas.find_prev(address), self.mm.find_vma(address)
        sides = [
            f"{v.start:#x}-{v.end:#x} {vma_name(self.mm, v) or 'anonymous'} {word}"
            for v, word in ((before, "below"), (after, "above"))
            if v is not None
        ]
        raise VmaNotFound(f"no VMA contains {address:#x}; nearest: {', '.join(sides) or 'none'}")

    def zap_vma_ptes(self, vma: Vma, address: int, size: int) -> ZapResult:
        """Remove the PTEs of a range of a VM_PFNMAP VMA; see `vmviz.kernel.mm.memory.zap.zap_vma_ptes`."""
        func = "zap_special_vma_range" if self.sys.zap_contract == "special" else "zap_vma_ptes"
        address, size = number(address, "address"), number(size, "size")
        return zap_vma_ptes(self.mm, self.live_vma(vma), address, size, func)

    def unmap_mapping_range(self, fd: int, start: int, length: int, even_cows: bool) -> int:
        """Clear what maps bytes of a file; see `vmviz.kernel.mm.truncate.unmap_mapping_range`."""
        file = self._file(fd, "unmap_mapping_range")
        return unmap_mapping_range(self.sys, file.inode, start, length, even_cows)

    def remap_pfn_range(self, vma: Vma, addr: int, pfn: int, size: int) -> Vma:
        """Map consecutive frames; see `vmviz.kernel.mm.memory.pfn.remap_pfn_range`."""
        return pfn_calls.remap_pfn_range(self.mm, *self._run_of_frames(vma, addr, pfn, size))

    def io_remap_pfn_range(self, vma: Vma, addr: int, pfn: int, size: int) -> Vma:
        """Map frames of a device; see `vmviz.kernel.mm.memory.pfn.io_remap_pfn_range`."""
        return pfn_calls.io_remap_pfn_range(self.mm, *self._run_of_frames(vma, addr, pfn, size))

    def vm_iomap_memory(self, vma: Vma, start: int, length: int) -> Vma:
        """Map physical memory over a whole VMA; see `vmviz.kernel.mm.memory.pfn.vm_iomap_memory`."""
        start, length = number(start, "start"), number(length, "length")
        return pfn_calls.vm_iomap_memory(self.mm, self._drivers_vma(vma), start, length)

    def vm_insert_page(self, vma: Vma, addr: int, pfn: int) -> Vma:
        """Map one page with a struct page; see `vmviz.kernel.mm.memory.pfn.vm_insert_page`.

        Simplified: the shared zero page and frames that the kernel keeps for itself, which Linux takes as any other,
        raise `UnsupportedError`.
        """
        vma, addr, pfn = self._drivers_vma(vma), number(addr, "addr"), frame_number(pfn)
        if self.sys.frames.pfn_valid(pfn) and self.sys.frames.states.flat[pfn] in (RESERVED, ZERO):
            raise UnsupportedError(
                f"vm_insert_page of {pfn:#x}, a page of the kernel's own, is not simulated"
            )
        return pfn_calls.vm_insert_page(self.mm, vma, addr, pfn)

    def vmf_insert_pfn(self, vma: Vma, addr: int, pfn: int) -> int:
        """Map one raw frame; see `vmviz.kernel.mm.memory.pfn.vmf_insert_pfn`."""
        vma, addr, pfn = self._drivers_vma(vma), number(addr, "addr"), frame_number(pfn)
        return pfn_calls.vmf_insert_pfn(self.mm, vma, addr, pfn)


class VmaNotFound(VmvizError):
    """No VMA has the wanted address or name; the text names the nearest.  ``refusal`` has the check "find_vma"."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal("find_vma", message)
