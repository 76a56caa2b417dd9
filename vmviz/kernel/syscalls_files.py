"""What a process can ask about files: open, size, write, seal, close, of devices and of files in memory.

A part of `vmviz.kernel.syscalls.Syscalls`.
"""

from __future__ import annotations

import difflib

import attrs

from .arguments import descriptor, kind_of, number, text
from .errors import BadArgumentError, KernelError, UnsupportedError
from .mm.filemap import MEMORY_KINDS, get_inode, put_inode, write_page
from .mm.flags import (
    F_SEAL_SEAL,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_HUGETLB,
    O_ACCMODE,
    O_CREAT,
    O_EXCL,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
)
from .mm.mm_types import File, Inode
from .mm.shmem import add_seals, may_write, punch_hole, resize
from .syscalls_vma import VmaCalls
from .trace.store import Keyed

MAX_OFFSET = (1 << 63) - 1
"""The last offset in a file that loff_t can name, in bytes."""


class FileCalls(VmaCalls):
    """The calls about files; `Machine` provides the state."""

    fds: Keyed

    @property
    def pid(self) -> int:
        """The process that runs."""
        raise NotImplementedError

    def open(self, path: str, flags: int = O_RDWR) -> int:
        """Open a device or file and return its descriptor (open(2)).

        Errors: ENOENT (there is none, and no O_CREAT), EEXIST (there is one, with O_CREAT and O_EXCL).
        O_TRUNC on a regular file raises `UnsupportedError`.  A file in memory has no name: as on Linux, it is
        opened once more as ``/proc/self/fd/N``.
        """
        path, flags = text(path, "path"), number(flags, "flags")
        inode = self._inode(path)
        if inode is not None and flags & O_CREAT and flags & O_EXCL:
            raise KernelError("EEXIST", "open", f"{path} is there already")
        if inode is not None and flags & O_TRUNC and inode.kind in ("reg", "shmem"):
            raise UnsupportedError("open with O_TRUNC shrinks a file, which is not simulated yet")
        if inode is None:
            if not flags & O_CREAT:
                near = difflib.get_close_matches(path, [i.path for i in self._inodes() if _has_name(i)], 1)
                hint = f"; the nearest is {near[0]}" if near else ""
                raise KernelError("ENOENT", "open", f"there is no {path}{hint}")
            inode = self._new_inode(path, "reg", 0)
        return self._new_fd(inode.path, flags, inode)

    def memfd_create(self, name: str, flags: int = MFD_ALLOW_SEALING) -> int:
        """Create an anonymous file in memory and return its descriptor (memfd_create(2), mm/memfd.c).

        Without MFD_ALLOW_SEALING it is sealed against seals.  EINVAL: an unknown flag.  MFD_HUGETLB raises
        `UnsupportedError`; simplified: of the flags of later kernels none is known.
        """
        name, flags = text(name, "name"), number(flags, "flags")
        if flags & MFD_HUGETLB:
            raise UnsupportedError("memfd_create with MFD_HUGETLB is not simulated")
        if flags & ~(MFD_CLOEXEC | MFD_ALLOW_SEALING):
            raise KernelError("EINVAL", "memfd_create", f"{flags:#x} holds an unknown flag")
        path = f"/memfd:{name} (deleted)"
        inode = self._new_inode(path, "shmem", 0)
        if not flags & MFD_ALLOW_SEALING:
            inode = attrs.evolve(inode, seals=F_SEAL_SEAL)
            self.sys.journal.write(self.sys.inodes, inode.id, inode)
        return self._new_fd(path, O_RDWR, inode)

    def ramfs_create(self, name: str) -> int:
        """Create a file on a file system in RAM (ramfs) without a name in it, and return its descriptor.

        Its pages are in the page cache only, and cannot be reclaimed.
        """
        path = f"/r/{name} (deleted)"
        return self._new_fd(path, O_RDWR, self._new_inode(path, "ramfs", 0))

    def ftruncate(self, fd: int, length: int) -> int:
        """Set the size of a file in bytes (ftruncate(2)); see `vmviz.kernel.mm.shmem.resize`."""
        with self._span("ftruncate", ("fd", fd), ("length", length)):
            resize(self.sys, self._file(fd, "ftruncate"), number(length, "length"))
        return 0

    def punch_hole(self, fd: int, offset: int, length: int) -> int:
        """Deallocate bytes of a file (fallocate(2) with FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE); see
        `vmviz.kernel.mm.shmem.punch_hole`.
        """
        with self._span("fallocate", ("fd", fd), ("offset", offset), ("len", length)):
            punch_hole(self.sys, self._file(fd, "fallocate"), offset, length)
        return 0

    def add_seals(self, fd: int, seals: int) -> int:
        """Seal a file in memory (fcntl(2) with F_ADD_SEALS); see `vmviz.kernel.mm.shmem.add_seals`."""
        add_seals(self.sys, self._file(fd, "fcntl"), seals)
        return 0

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write bytes to a file at an offset through the page cache (pwrite(2)); returns how many.

        Errors: EBADF (not open, or not for writing), EINVAL (a device, a negative offset), EFBIG (the last byte
        would lie beyond what an offset can name).
        """
        if not isinstance(data, bytes | bytearray):
            raise BadArgumentError(f"data must be bytes, not {kind_of(data)}")
        offset = number(offset, "offset")
        if offset > MAX_OFFSET:
            raise KernelError("EINVAL", "pwrite64", "the offset is negative")
        file = self._file(fd, "pwrite")
        inode: Inode = self.sys.inodes.get(file.inode)
        if file.flags & O_ACCMODE == O_RDONLY:
            raise KernelError("EBADF", "pwrite", f"{file.path} is open read-only")
        if inode.kind not in ("reg", *MEMORY_KINDS):
            raise KernelError("EINVAL", "pwrite", f"{file.path} is a device")
        end = offset + len(data)
        if not data:
            return 0
        if end > MAX_OFFSET:
            raise KernelError(
                "EFBIG", "pwrite", f"the end {end:#x} is beyond the largest offset {MAX_OFFSET:#x}"
            )
        may_write(inode, file, end)
        if end > inode.size:
            inode = attrs.evolve(inode, size=end)
            self.sys.journal.write(self.sys.inodes, inode.id, inode)
        at = offset
        while at < end:
            stop = min(end, (at | 4095) + 1)
            write_page(self.sys, inode, at >> 12, at & 4095, data[at - offset : stop - offset])
            at = stop
        return len(data)

    def close(self, fd: int) -> int:
        """Close a descriptor; mappings keep their file (close(2))."""
        file = self._file(fd, "close")
        self.sys.journal.write(self.fds, (self.pid, descriptor(fd)), None)
        put_inode(self.sys, file.id)
        return 0

    def _inodes(self) -> list[Inode]:
        return list(self.sys.inodes.data.values())

    def _inode(self, path: str) -> Inode | None:
        folder, _, fd = path.rpartition("/")
        if folder == "/proc/self/fd" and fd.isascii() and fd.isdecimal():  # the way to open a memfd once more
            found = self.fds.get((self.pid, int(fd)))
            inode: Inode | None = (
                self.sys.inodes.get(self.sys.files.get(found).inode) if found is not None else None
            )
            return inode
        return next((i for i in self._inodes() if i.path == path and _has_name(i)), None)

    def _new_inode(self, path: str, kind: str, size: int) -> Inode:
        ino = self.sys.new_id("inode")
        dev = {"shmem": "00:01", "ramfs": "00:2a"}.get(kind, "fe:00")
        inode = Inode(ino, path, kind, size, "", ino, dev)
        self.sys.journal.write(self.sys.inodes, ino, inode)
        if kind in MEMORY_KINDS:
            self.sys.journal.write(self.sys.inode_refs, ino, 0)
        return inode

    def _new_file(self, path: str, flags: int, inode: Inode) -> File:
        file = File(self.sys.new_id("file"), path, flags, inode.id)
        self.sys.journal.write(self.sys.files, file.id, file)
        return file

    def _new_fd(self, path: str, flags: int, inode: Inode) -> int:
        file = self._new_file(path, flags, inode)
        fd = next(n for n in range(3, 1 << 20) if self.fds.get((self.pid, n)) is None)
        self.sys.journal.write(self.fds, (self.pid, fd), file.id)
        get_inode(self.sys, file.id)
        return fd

    def _file(self, fd: int, func: str) -> File:
        fd = descriptor(fd)
        found = self.fds.get((self.pid, fd))
        if found is None:
            raise KernelError("EBADF", func, f"descriptor {fd} is not open")
        file: File = self.sys.files.get(found)
        return file


def _has_name(inode: Inode) -> bool:
    """Whether a path leads to the file: not to one that was made in memory without a name."""
    return inode.kind not in MEMORY_KINDS or inode.path.startswith("/dev/shm/")
