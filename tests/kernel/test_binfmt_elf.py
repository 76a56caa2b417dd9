"""Program headers, and what execve maps of them."""

from __future__ import annotations

import struct

import pytest

from vmviz.kernel import Machine
from vmviz.kernel.binfmt_elf import ET_DYN, ElfImage, Segment, elf_load
from vmviz.kernel.errors import KernelError
from vmviz.kernel.exec import begin_new_exec, set_stack
from vmviz.kernel.mm.mm_types import Mm
from vmviz.kernel.mm.munmap import do_munmap
from vmviz.kernel.mm.vma import vma_name
from vmviz.kernel.verify import verify

BASE = 0x555555554000
HEAD = b"\x7fELF\x02\x01".ljust(16, b"\0") + struct.pack(
    "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
)


def program(mm: Mm) -> list[tuple[int, int, str, int, str]]:
    return [
        (v.start - BASE, v.end - BASE, v.perms, v.pgoff if v.file else 0, vma_name(mm, v))
        for v in mm.vmas
        if v.end <= BASE + (1 << 20)
    ]


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([(0, 0, 100, 100, 4)], [(0, 0x1000, "r--p", 0, "/bin/x")]),
        ([(0x1010, 0x3010, 0x1FF0, 0x1FF0, 5)], [(0x3000, 0x5000, "r-xp", 1, "/bin/x")]),
        ([(0x2DD0, 0x3DD0, 0x248, 0x250, 6)], [(0x3000, 0x5000, "rw-p", 2, "/bin/x")]),
        (
            [(0x2DD0, 0x3DD0, 0x248, 0x3000, 6)],
            [(0x3000, 0x5000, "rw-p", 2, "/bin/x"), (0x5000, 0x7000, "rw-p", 0, "")],
        ),
        ([(0, 0x2000, 0, 0x1001, 6)], [(0x2000, 0x4000, "rw-p", 0, "")]),
        (
            [(0, 0, 0x1000, 0x1000, 4), (0x1000, 0x1000, 0x1000, 0x1000, 5)],
            [(0, 0x1000, "r--p", 0, "/bin/x"), (0x1000, 0x2000, "r-xp", 1, "/bin/x")],
        ),
    ],
    ids=["text", "unaligned", "data", "bss in pages of its own", "only bss", "two segments"],
)
def test_segments(segments: list[tuple[int, int, int, int, int]], expected: list[tuple[object, ...]]) -> None:
    m = Machine(vdso=False)
    file = m._new_file("/bin/x", 0, m._new_inode("/bin/x", "reg", 1 << 20))
    elf_load(m.mm, ElfImage(ET_DYN, tuple(Segment(*s) for s in segments)), BASE, file)
    assert program(m.mm) == expected
    assert verify(m) == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not an ELF64 program"),
        (b"#!/bin/sh\n".ljust(100), "not an ELF64 program"),
        (HEAD, "behind the end of the file"),
        (HEAD + b"\0" * 56, "no program"),
    ],
)
def test_what_is_no_program(data: bytes, why: str) -> None:
    with pytest.raises(KernelError, match=why) as caught:
        ElfImage.parse(data)
    assert caught.value.errno == "ENOEXEC"


def test_the_linker_protects_whole_pages() -> None:
    assert ElfImage(ET_DYN, (Segment(0, 0, 1, 1, 4),), "", (0x3DD0, 0x230)).protected == (0x3000, 0x1000)
    assert ElfImage(ET_DYN, (Segment(0, 0, 1, 1, 4),), "", (0x3DD0, 0x100)).protected is None


def test_a_new_program_finds_a_fresh_address_space() -> None:
    m = Machine()
    mm = m.mm
    fresh = [(v.start, v.end, v.perms, vma_name(mm, v)) for v in mm.vmas], dict(mm.counters.data)
    digest = m.digest()
    heap = m.mmap(0, 64 << 10, "rw", "private")
    m.store(heap, 64 << 10)
    m.mlockall(2)
    begin_new_exec(mm)
    peaks = {"min_flt", "hiwater_rss", "hiwater_vm", "anon"}
    counters = {k: v for k, v in mm.counters.data.items() if k not in peaks}
    assert [(v.start, v.end, v.perms, vma_name(mm, v)) for v in mm.vmas] == fresh[0]
    assert counters == {k: v for k, v in fresh[1].items() if k not in peaks}
    assert mm.rss == 0
    assert verify(m) == []
    m.journal.seek((0, 0))
    assert m.digest() == digest


def test_a_stack_can_be_put_elsewhere() -> None:
    m = Machine(vdso=False)
    stack = m.vma("[stack]")
    do_munmap(m.mm, stack.start, stack.size)
    set_stack(m.mm, 0x7FFF34C5E000, 0x7FFF34C7F000)
    assert (m.vma("[stack]").start, m.vma("[stack]").end) == (0x7FFF34C5E000, 0x7FFF34C7F000)
    assert verify(m) == []
