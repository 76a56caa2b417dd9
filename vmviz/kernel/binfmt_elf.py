"""ELF programs (models fs/binfmt_elf.c), as far as the address space shows them: program headers and elf_map."""

from __future__ import annotations

import struct

import attrs

from .drivers import open_backing
from .errors import KernelError
from .mm.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from .mm.mm_types import File, Mm
from .mm.mmap import do_mmap

PT_LOAD, PT_INTERP, PT_GNU_RELRO = 1, 3, 0x6474E552
ET_EXEC, ET_DYN = 2, 3
PF_X, PF_W, PF_R = 1, 2, 4
_PAGE = 4095


@attrs.frozen
class Segment:
    """A PT_LOAD header: offset and sizes in bytes, ``flags`` are PF_R, PF_W and PF_X."""

    offset: int
    vaddr: int
    filesz: int
    memsz: int
    flags: int

    @property
    def prot(self) -> int:
        """The PROT_ bits that `make_prot` makes of the flags.

        >>> Segment(0, 0, 1, 1, PF_R | PF_X).prot
        5
        """
        pairs = ((PF_R, PROT_READ), (PF_W, PROT_WRITE), (PF_X, PROT_EXEC))
        return sum(prot for flag, prot in pairs if self.flags & flag)


@attrs.frozen
class ElfImage:
    """The headers of a program: ``interp`` is its interpreter's path ("": none), ``relro`` the range
    (address, size) that the dynamic linker makes read-only after relocation (None: none).
    """

    type: int
    segments: tuple[Segment, ...]
    interp: str = ""
    relro: tuple[int, int] | None = None

    @classmethod
    def parse(cls, data: bytes) -> ElfImage:
        """Read the program headers of an ELF64 file of the x86 kind; KernelError ENOEXEC for anything else.

        >>> ElfImage.parse(b"#!/bin/sh")
        Traceback (most recent call last):
        ...
        vmviz.kernel.errors.KernelError: execve: ENOEXEC: not an ELF64 program
        """
        if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
            raise KernelError("ENOEXEC", "execve", "not an ELF64 program")
        (kind,) = struct.unpack_from("<H", data, 16)
        (phoff,) = struct.unpack_from("<Q", data, 32)
        phentsize, phnum = struct.unpack_from("<HH", data, 54)
        segments: list[Segment] = []
        interp, relro = "", None
        try:
            for i in range(phnum):
                type_, flags, offset, vaddr, _, filesz, memsz, _ = struct.unpack_from(
                    "<IIQQQQQQ", data, phoff + i * phentsize
                )
                if type_ == PT_LOAD and memsz:
                    segments.append(Segment(offset, vaddr, filesz, memsz, flags))
                elif type_ == PT_INTERP:
                    interp = data[offset : offset + filesz].split(b"\0")[0].decode("utf-8", "surrogateescape")
                elif type_ == PT_GNU_RELRO:
                    relro = vaddr, memsz
        except struct.error:
            raise KernelError(
                "ENOEXEC", "execve", "the program headers lie behind the end of the file"
            ) from None
        if kind not in (ET_EXEC, ET_DYN) or not segments:
            raise KernelError("ENOEXEC", "execve", "an ELF file, but no program")
        return cls(kind, tuple(segments), interp, relro)

    @property
    def start(self) -> int:
        """The lowest address, without the load bias."""
        return self.segments[0].vaddr & ~_PAGE

    @property
    def end(self) -> int:
        """The end of the last page, bss included, without the load bias."""
        return max((s.vaddr + s.memsz + _PAGE) & ~_PAGE for s in self.segments)

    @property
    def protected(self) -> tuple[int, int] | None:
        """The address and length, without the load bias, of the mprotect that makes ``relro`` read-only."""
        if self.relro is None:
            return None
        start = self.relro[0] & ~_PAGE
        size = ((self.relro[0] + self.relro[1]) & ~_PAGE) - start
        return (start, size) if size else None


def elf_load(mm: Mm, image: ElfImage, bias: int, file: File) -> None:
    """Map the segments of a program or an interpreter at ``bias`` bytes above their addresses (`elf_map`).

    Each is a private file mapping; pages of bss behind the last page of the file are anonymous
    (`vm_brk_flags`).  Raises what `vmviz.kernel.mm.mmap.do_mmap` does.  Simplified: the part of bss in the
    last page of the file is not cleared, so no page is touched.
    """
    for segment in image.segments:
        start = (segment.vaddr + bias) & ~_PAGE
        lead = segment.vaddr & _PAGE
        middle = end = start
        if segment.filesz:
            size = segment.filesz + lead
            flags = MAP_PRIVATE | MAP_FIXED
            do_mmap(mm, start, size, segment.prot, flags, open_backing(mm.sys, file), segment.offset - lead)
            middle = (start + size + _PAGE) & ~_PAGE
        end = (start + lead + segment.memsz + _PAGE) & ~_PAGE
        if end > middle:
            flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
            do_mmap(mm, middle, end - middle, segment.prot, flags)
