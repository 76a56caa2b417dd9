"""Advice on pages, swap, holes, truncation and clear_refs: their rules by table, and random walks of all."""

from __future__ import annotations

import contextlib
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.arch.x86 import swp_offset, swp_type
from vmviz.kernel.fs.proc import kpageflags, pagemap_entry
from vmviz.kernel.fs.task_mmu import smap_fields
from vmviz.kernel.mm import flags as F
from vmviz.kernel.mm.memory.swap import _window
from vmviz.kernel.mm.page_flags import PG_DIRTY, PG_EXCLUSIVE, PG_MLOCKED, PG_SWAPBACKED, PG_SWAPCACHE
from vmviz.kernel.trace.bulk import Bulk
from vmviz.kernel.trace.explain import explain
from vmviz.kernel.trace.journal import Enter
from vmviz.kernel.verify import leaves, verify, verify_counts

BASE = 0x1000_0000_0000
PAGES = 40


def machine(kind: str = "anon", ram: int = 16 << 20) -> Machine:
    m = Machine(ram=ram, vdso=False)
    fd, flags = -1, F.MAP_FIXED | F.MAP_SHARED
    if kind in ("anon", "shm"):
        flags |= F.MAP_ANONYMOUS
    elif kind.startswith(("memfd", "ramfs")):
        fd = m.memfd_create("f") if kind.startswith("memfd") else m.ramfs_create("f")
        m.ftruncate(fd, PAGES << 12)
    else:
        fd = m.open(f"/dev/{kind.split(maxsplit=1)[0]}")
    if kind == "anon" or kind.endswith("private"):
        flags = flags & ~F.MAP_SHARED | F.MAP_PRIVATE
    m.mmap(BASE, PAGES << 12, 3, flags, fd)
    m.seal()
    return m


def entries(m: Machine) -> dict[int, int]:
    return {(va - BASE) >> 12: e for va, e in leaves(m.mm) if BASE <= va < BASE + (PAGES << 12)}


def page(m: Machine, n: int) -> int:
    return (entries(m)[n] & 0x000F_FFFF_FFFF_F000) >> 12


# (kind of mapping, flags added to the VMA, advice, errno)
REFUSED = [
    ("anon", F.VM_LOCKED, "DONTNEED", "EINVAL"),
    ("anon", F.VM_LOCKED, "DONTNEED_LOCKED", ""),
    ("fb0", 0, "DONTNEED", "EINVAL"),
    ("fb0", 0, "DONTNEED_LOCKED", "EINVAL"),
    ("anon", F.VM_LOCKED, "FREE", "EINVAL"),
    ("memfd private", 0, "FREE", "EINVAL"),
    ("shm", 0, "FREE", "EINVAL"),
    ("fb0", 0, "FREE", "EINVAL"),
    ("anon", 0, "FREE", ""),
    ("anon", 0, "REMOVE", "EINVAL"),
    ("memfd", F.VM_LOCKED, "REMOVE", "EINVAL"),
    ("memfd private", 0, "REMOVE", "EACCES"),
    ("memfd", 0, "REMOVE", ""),
    ("shm", 0, "REMOVE", ""),
    ("page", 0, "REMOVE", "ENODEV"),
    ("ramfs", 0, "REMOVE", "EOPNOTSUPP"),
    ("anon", F.VM_LOCKED, "COLD", "EINVAL"),
    ("fb0", 0, "COLD", "EINVAL"),
    ("anon", F.VM_LOCKED, "PAGEOUT", "EINVAL"),
    ("fb0", 0, "PAGEOUT", "EINVAL"),
    ("mixed", 0, "PAGEOUT", ""),
    ("fb0", 0, "POPULATE_READ", "EINVAL"),
    ("io", 0, "POPULATE_WRITE", "EINVAL"),
    ("mixed", 0, "POPULATE_READ", ""),
    ("page", 0, "POPULATE_WRITE", ""),
]


@pytest.mark.parametrize(("kind", "flags", "advice", "errno"), REFUSED)
def test_who_is_refused(kind: str, flags: int, advice: str, errno: str) -> None:
    m = machine(kind)
    vma = m.vma(BASE)
    m.mm.set_vma(vma, vma.replace(vm_flags=vma.vm_flags | flags))
    before = m.digest()
    number = getattr(F, f"MADV_{advice}")
    if errno:
        with pytest.raises(KernelError, match=errno):
            m.madvise(BASE, 4096, number)
        assert m.digest() == before
    else:
        assert m.madvise(BASE, 4096, number) == 0
    assert verify(m) == []


def test_populate_needs_the_right_and_a_page() -> None:
    m = machine()
    m.mprotect(BASE, 4096, F.PROT_READ)
    m.mprotect(BASE + 4096, 4096, F.PROT_WRITE)
    for address, advice in ((BASE, F.MADV_POPULATE_WRITE), (BASE + 4096, F.MADV_POPULATE_READ)):
        with pytest.raises(KernelError, match="EINVAL"):
            m.madvise(address, 4096, advice)
    fd = m.memfd_create("short")
    m.ftruncate(fd, 4096)
    m.mmap(BASE + (1 << 30), 2 << 12, 3, F.MAP_SHARED | F.MAP_FIXED, fd)
    with pytest.raises(KernelError, match="EFAULT"):
        m.madvise(BASE + (1 << 30), 2 << 12, F.MADV_POPULATE_READ)


@pytest.mark.parametrize(
    ("kind", "advice", "left", "first"),
    [
        ("anon", "DONTNEED", [], 0),
        ("anon", "FREE", [0, 1, 2, 3], 7),
        ("anon", "PAGEOUT", [0, 1, 2, 3], 7),
        ("anon", "COLD", [0, 1, 2, 3], 7),
        ("memfd", "DONTNEED", [], 7),
        ("memfd", "REMOVE", [], 0),
        ("memfd", "PAGEOUT", [], 7),
        ("memfd private", "DONTNEED", [], 0),
        ("ramfs", "PAGEOUT", [0, 1, 2, 3], 7),
        ("ramfs", "DONTNEED", [], 7),
        ("page", "DONTNEED", [], 7),
        ("page", "PAGEOUT", [0, 1, 2, 3], 7),
    ],
)
def test_what_is_left_and_what_is_read_again(kind: str, advice: str, left: list[int], first: int) -> None:
    m = machine(kind)
    m.store(BASE, 4 << 12, 7)
    m.madvise(BASE, 4 << 12, getattr(F, f"MADV_{advice}"))
    assert sorted(entries(m)) == left
    if kind != "page":  # a driver's pages are on no LRU list
        assert not any(e & 0x21 == 0x21 for e in entries(m).values()), "what is left is old"
    assert verify(m) == []
    m.load(BASE, 4 << 12)
    assert [m.peek(BASE + (i << 12), 1)[0] for i in range(4)] == [first] * 4
    assert verify(m) == []


def test_lazyfree_pages_are_dropped_or_kept_by_the_last_write() -> None:
    m = machine()
    m.store(BASE, 4 << 12, 7)
    m.madvise(BASE, 4 << 12, F.MADV_FREE)
    assert not any(m.frames.flags.flat[page(m, i)] & PG_SWAPBACKED for i in range(4))
    m.store(BASE + 4096, 1, 9)
    m.madvise(BASE, 4 << 12, F.MADV_PAGEOUT)
    assert sorted(entries(m)) == [1]
    assert m.frames.flags.flat[page(m, 1)] & (PG_SWAPBACKED | PG_DIRTY) == PG_SWAPBACKED | PG_DIRTY
    assert m.mm.counters.data["swap"] == 0
    assert (m.peek(BASE, 1), m.peek(BASE + 4096, 1)) == (b"\0", b"\t")


def test_swap_entries_and_pagemap() -> None:
    m = machine()
    m.store(BASE, 2 << 12, 7)
    m.madvise(BASE, 2 << 12, F.MADV_PAGEOUT)
    for i, entry in entries(m).items():
        assert (entry & 0x1FF, swp_type(entry)) == (0xA, 0), "soft-dirty and the sole owner's"
        word = pagemap_entry(m.mm, BASE + (i << 12))
        assert (word >> 55, word & 31, (word >> 5) & ((1 << 50) - 1)) == (0x81, 0, swp_offset(entry))
    a = m.load(BASE)
    assert (a.maj_flt, a.min_flt) == (1, 0)
    assert entries(m)[0] & 0x8000000000000FFF == 0x8000000000000825
    m.store(BASE + 4096, 1, 8)
    assert entries(m)[1] & 0x8000000000000FFF == 0x8000000000000867
    assert m.sys.swap.nr_free() == m.sys.swap.nr_pages - 1
    assert kpageflags(m.sys, page(m, 0)) == 0x5828


def test_slots_shared_by_fork_go_through_the_swap_cache() -> None:
    m = machine()
    m.store(BASE, 2 << 12, 7)
    m.madvise(BASE, 2 << 12, F.MADV_PAGEOUT)
    child = m.fork()
    assert [e & 0x1FF for e in entries(m).values()] == [2, 2], "nobody is the sole owner any more"
    m.switch_to(child)
    assert m.mm.counters.data["swap"] == 2
    assert m.load(BASE).maj_flt == 1
    pfn = page(m, 0)
    assert m.frames.flags.flat[pfn] & (PG_SWAPCACHE | PG_EXCLUSIVE) == PG_SWAPCACHE
    assert (m.frames.refcount.flat[pfn], m.frames.mapcount.flat[pfn]) == (2, 1)
    assert len(m.sys.swap.cache) == 2, "the neighbour was read ahead"
    assert verify(m) == []
    m.exit()
    assert verify(m) == []
    again = m.load(BASE)
    assert (again.maj_flt, again.min_flt, page(m, 0)) == (0, 1, pfn)
    m.store(BASE + 4096, 1, 9)
    assert (
        m.frames.flags.flat[page(m, 1)] & (PG_SWAPCACHE | PG_EXCLUSIVE | PG_DIRTY) == PG_EXCLUSIVE | PG_DIRTY
    )
    assert verify(m) == []
    m.munmap(BASE, PAGES << 12)
    assert m.sys.swap.nr_free() == m.sys.swap.nr_pages - 1
    assert verify(m) == []


def test_willneed_fills_the_swap_cache_and_maps_nothing() -> None:
    m = machine()
    m.store(BASE, 2 << 12, 7)
    m.madvise(BASE, 2 << 12, F.MADV_PAGEOUT)
    before = entries(m)
    assert m.mincore(BASE, 3 << 12) == b"\0\0\0"
    m.madvise(BASE, 2 << 12, F.MADV_WILLNEED)
    assert entries(m) == before
    assert m.mincore(BASE, 3 << 12) == b"\1\1\0"
    assert verify(m) == []
    assert (m.load(BASE).min_flt, m.frames.flags.flat[page(m, 0)] & PG_EXCLUSIVE) == (1, PG_EXCLUSIVE)
    m.madvise(BASE, 2 << 12, F.MADV_PAGEOUT)
    assert m.mm.counters.data["swap"] == 2
    assert verify(m) == []


def test_pages_that_come_back_into_a_locked_mapping_are_locked() -> None:
    m = machine()
    m.store(BASE, 2 << 12, 7)
    m.madvise(BASE, 2 << 12, F.MADV_PAGEOUT)
    m.mlock(BASE, 2 << 12)
    assert m.mm.counters.data["swap"] == 0
    assert all(m.frames.flags.flat[page(m, i)] & PG_MLOCKED for i in range(2))
    assert verify(m) == []


def test_a_hole_in_part_of_a_shmem_page_that_is_in_swap_reads_it_back() -> None:
    m = machine("memfd")
    m.store(BASE, data=b"\7" * 4096)
    m.madvise(BASE, 4096, F.MADV_PAGEOUT)
    assert (len(m.sys.page_cache), len(m.sys.swap.shmem)) == (0, 1)
    m.punch_hole(3, 100, 50)
    assert (len(m.sys.page_cache), len(m.sys.swap.shmem)) == (1, 0)
    assert m.load(BASE).touched == 1
    assert m.peek(BASE + 99, 52) == b"\7" + bytes(50) + b"\7"
    assert verify(m) == []


# (page before, page, hits, window before): the pages to read
WINDOWS = [
    ((0, 9, 4, 0), 8), ((8, 9, 0, 0), 2), ((20, 9, 0, 0), 1), ((20, 9, 0, 8), 4), ((8, 9, 1, 2), 4),
    ((8, 9, 3, 4), 8), ((8, 9, 60, 8), 8),
]  # fmt: skip


@pytest.mark.parametrize(("given_", "wanted"), WINDOWS)
def test_how_far_swap_is_read_ahead(given_: tuple[int, int, int, int], wanted: int) -> None:
    assert _window(*given_) == wanted


def test_a_full_swap_device_leaves_pages_where_they_are() -> None:
    m = machine()
    m.store(BASE, 4 << 12)
    m.sys.swap.map.array[3:] = 1
    m.madvise(BASE, 4 << 12, F.MADV_PAGEOUT)
    assert (m.mm.counters.data["swap"], m.mm.counters.data["anon"]) == (2, 2)


TRUNCATE = [  # new size in bytes, pages left, byte 10 of the last page that is left
    (4 << 12, 4, 7), ((3 << 12) + 5, 4, 0), ((3 << 12) + 50, 4, 7), (4096, 1, 7), (1, 1, 0), (0, 0, None),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["memfd", "ramfs"])
@pytest.mark.parametrize(("size", "left", "byte"), TRUNCATE)
def test_truncation(kind: str, size: int, left: int, byte: int | None) -> None:
    m = machine(kind)
    fd = 3
    m.ftruncate(fd, 4 << 12)
    m.pwrite(fd, b"\7" * (4 << 12), 0)
    m.mmap(BASE + (1 << 30), 4 << 12, 3, F.MAP_PRIVATE | F.MAP_FIXED, fd)
    m.load(BASE, 4 << 12)
    m.store(BASE + (1 << 30), 4 << 12, 9)
    m.ftruncate(fd, size)
    assert len(entries(m)) == left
    assert m.mm.counters.data["anon"] == left, "private copies behind the end go too"
    assert len(m.sys.page_cache) == left
    if byte is not None:
        assert m.peek(BASE + ((left - 1) << 12) + 10, 1)[0] == byte
    with pytest.raises(SignalRaised, match="BUS_ADRERR"):
        m.load(BASE + (left << 12))
    m.ftruncate(fd, 4 << 12)
    m.load(BASE, 4 << 12)
    assert m.peek(BASE + (3 << 12) + 60, 1)[0] == (7 if size == 4 << 12 else 0)
    assert verify(m) == []


def test_a_hole_leaves_private_copies_and_parts_of_pages() -> None:
    m = machine("memfd")
    m.pwrite(3, b"\7" * (4 << 12), 0)
    m.mmap(BASE + (1 << 30), 4 << 12, 3, F.MAP_PRIVATE | F.MAP_FIXED, 3)
    m.load(BASE, 4 << 12)
    m.store(BASE + (1 << 30), 4 << 12, 9)
    m.punch_hole(3, 100, (2 << 12) + 100)
    assert sorted(entries(m)) == [0, 2, 3]
    assert m.mm.counters.data["anon"] == 4
    m.load(BASE, 4 << 12)
    read = [m.peek(BASE + at, 1)[0] for at in (99, 100, 4096, 8192 + 199, 8192 + 200, 12288)]
    assert read == [7, 0, 0, 0, 7, 7]
    assert verify(m) == []


SEALS = [  # (seals, call, errno)
    (F.F_SEAL_SHRINK, lambda m: m.ftruncate(3, 4096), "EPERM"),
    (F.F_SEAL_SHRINK, lambda m: m.ftruncate(3, 50 << 12), ""),
    (F.F_SEAL_GROW, lambda m: m.ftruncate(3, 50 << 12), "EPERM"),
    (F.F_SEAL_GROW, lambda m: m.pwrite(3, b"x", 50 << 12), "EPERM"),
    (F.F_SEAL_GROW, lambda m: m.pwrite(3, b"x", 0), ""),
    (F.F_SEAL_WRITE, lambda m: m.pwrite(3, b"x", 0), "EPERM"),
    (F.F_SEAL_WRITE, lambda m: m.punch_hole(3, 0, 4096), "EPERM"),
    (F.F_SEAL_WRITE, lambda m: m.mmap(0, 4096, 3, F.MAP_SHARED, 3), "EPERM"),
    (F.F_SEAL_WRITE, lambda m: m.mmap(0, 4096, 1, F.MAP_SHARED, 3), ""),
    (F.F_SEAL_WRITE, lambda m: m.mmap(0, 4096, 3, F.MAP_PRIVATE, 3), ""),
    (F.F_SEAL_FUTURE_WRITE, lambda m: m.pwrite(3, b"x", 0), "EPERM"),
    (F.F_SEAL_FUTURE_WRITE, lambda m: m.punch_hole(3, 0, 4096), "EPERM"),
    (F.F_SEAL_FUTURE_WRITE, lambda m: m.mmap(0, 4096, 3, F.MAP_SHARED, 3), "EPERM"),
    (F.F_SEAL_FUTURE_WRITE, lambda m: m.mmap(0, 4096, 1, F.MAP_SHARED, 3), ""),
    (F.F_SEAL_SEAL, lambda m: m.add_seals(3, F.F_SEAL_GROW), "EPERM"),
    (0, lambda m: m.add_seals(3, 64), "EINVAL"),
    (0, lambda m: m.add_seals(m.ramfs_create("r"), 1), "EINVAL"),
    (0, lambda m: m.add_seals(m.open("/proc/self/fd/3", F.O_RDONLY), 1), "EPERM"),
]


@pytest.mark.parametrize(("seals", "call", "errno"), SEALS)
def test_seals(seals: int, call, errno: str) -> None:  # type: ignore[no-untyped-def]
    m = machine("memfd")
    m.munmap(BASE, PAGES << 12)
    m.add_seals(3, seals)
    if errno:
        with pytest.raises(KernelError, match=errno):
            call(m)
    else:
        call(m)
    assert verify(m) == []


# (seal, protection, errno, MAYWRITE left, what was there is unmapped); recorded on Linux 6.1.192
SEALED_MMAP = [
    ("WRITE", "rw", "EPERM", False, False),
    ("WRITE", "r", "", False, True),
    ("FUTURE_WRITE", "rw", "EPERM", False, True),
    ("FUTURE_WRITE", "rx", "", False, True),
    ("GROW", "rw", "", True, True),
]


@pytest.mark.parametrize(("seal", "prot", "errno", "may_write", "unmapped"), SEALED_MMAP)
def test_shared_mappings_of_sealed_files(
    seal: str, prot: str, errno: str, may_write: bool, unmapped: bool
) -> None:
    m = machine()
    fd = m.memfd_create("f")
    m.ftruncate(fd, PAGES << 12)
    m.add_seals(fd, getattr(F, f"F_SEAL_{seal}"))
    got = ""
    try:
        m.mmap(BASE, 4096, prot, F.MAP_SHARED | F.MAP_FIXED, fd)
    except KernelError as error:
        got = error.errno
    assert got == errno
    there = m.mm.vma_at(BASE)
    if errno:
        assert (there is None) == unmapped
        return
    assert there is not None
    assert bool(there.vm_flags & F.VM_MAYWRITE) == may_write
    if not may_write:  # nobody can write through it: the file may be sealed, and it cannot be made writable
        m.add_seals(fd, F.F_SEAL_WRITE)
        with pytest.raises(KernelError, match="EACCES"):
            m.mprotect(BASE, 4096, "rw")


@pytest.mark.parametrize(
    ("offset", "length", "left"),
    [(0, 4096, 5), (100, 4095, 6), (4096 + 100, 200, 6), (100, 200, 1), (0, 100, 0), (4096, 100, 6)],
)
def test_which_entries_a_hole_takes(offset: int, length: int, left: int) -> None:
    m = machine("memfd")  # a hole that ends in the first page: the end wraps, recorded on Linux 6.1.192
    m.load(BASE, 6 << 12)
    m.punch_hole(3, offset, length)
    assert len(entries(m)) == left
    assert verify(m) == []


def test_a_write_seal_needs_that_nobody_maps_the_file_shared() -> None:
    m = machine("memfd")
    with pytest.raises(KernelError, match="EBUSY"):
        m.add_seals(3, F.F_SEAL_WRITE)
    m.add_seals(3, F.F_SEAL_FUTURE_WRITE)
    m.store(BASE)  # what is mapped may still be written


def test_unmap_mapping_range_reaches_every_process() -> None:
    m = machine("page")
    m.load(BASE, 8 << 12)
    child = m.fork()
    m.switch_to(child)
    m.load(BASE, 8 << 12)
    assert m.unmap_mapping_range(3, 2 << 12, 3 << 12, True) == 6
    assert sorted(entries(m)) == [0, 1, 5, 6, 7]
    m.switch_to(1)
    assert sorted(entries(m)) == [0, 1, 5, 6, 7]
    assert m.unmap_mapping_range(3, 0, 0, False) == 10
    assert verify(m) == []


def test_even_cows() -> None:
    m = machine("mixed private")
    m.store(BASE, 2 << 12, 5)
    assert m.unmap_mapping_range(3, 0, 4 << 12, False) == 2
    assert sorted(entries(m))[:2] == [0, 1]
    assert m.unmap_mapping_range(3, 0, 4 << 12, True) == 2
    assert verify(m) == []


def test_soft_dirty_bits_are_cleared_and_come_back_with_a_write() -> None:
    m = machine()
    m.store(BASE, 4 << 12, 7)
    m.madvise(BASE + (3 << 12), 4096, F.MADV_PAGEOUT)
    m.clear_refs(4)
    assert [pagemap_entry(m.mm, BASE + (i << 12)) >> 55 for i in range(5)] == [0x102] * 3 + [0x80, 0]
    m.store(BASE + 4096)
    assert [pagemap_entry(m.mm, BASE + (i << 12)) >> 55 for i in range(3)] == [0x102, 0x103, 0x102]
    assert not m.vma(BASE).vm_flags & F.VM_SOFTDIRTY
    assert verify(m) == []


@pytest.mark.parametrize(("kind", "number", "old"), [
    ("anon", 1, True), ("anon", 2, True), ("anon", 3, False), ("memfd", 1, True), ("memfd", 2, False),
    ("memfd", 3, True), ("fb0", 1, False),
])  # fmt: skip
def test_clear_refs_by_kind(kind: str, number: int, old: bool) -> None:
    m = machine(kind)
    m.load(BASE, 4 << 12)
    m.store(BASE, 4 << 12)
    m.clear_refs(number)
    assert all(bool(e & 0x20) != old for page_no, e in entries(m).items() if page_no < 4)
    m.clear_refs(5)
    assert m.mm.counters.data["hiwater_rss"] == m.mm.rss


def test_kernel_copies_and_taken_pages() -> None:
    m = machine("fb0")
    assert m.copy_from_user(BASE, 8192) == 8192
    with pytest.raises(KernelError, match="EFAULT"):
        m.process_vm_readv(BASE, 4096)
    end = BASE + (PAGES << 12)
    assert m.copy_from_user(end - 6000, 9000) == 4096
    assert m.clear_user(end - 6000, 9000) == 6000
    m = machine()
    m.store(BASE, 4 << 12, 7)
    m.switch_to(m.fork())
    free = m.frames.states.buddy.nr_free()
    assert m.process_vm_readv(BASE + 10, 2 << 12) == 2 << 12
    assert m.frames.states.buddy.nr_free() == free - 3, "shared private pages are unshared to be held"
    assert [e & 2 for e in entries(m).values()] == [0] * 4
    assert m.process_vm_readv(end - 4096, 8192) == 4096
    m.clear_user(BASE, 100)
    assert m.peek(BASE, 101) == bytes(100) + b"\0"
    assert verify(m) == []


def test_the_range_form_of_swap_is_the_loop_over_pages() -> None:
    digests = []
    for single in (False, True):
        m = machine()
        m.store(BASE, PAGES << 12, 7)
        for i, n in [(i, 1) for i in range(PAGES)] if single else [(0, PAGES)]:
            m.madvise(BASE + (i << 12), n << 12, F.MADV_PAGEOUT)
        middle = [e & 0xFFF for e in entries(m).values()], dict(m.mm.counters.data)
        for i, n in [(i, 1) for i in range(5, 25)] if single else [(5, 20)]:
            m.store(BASE + (i << 12), n << 12, 8)
        digests.append((middle, m.mm.counters.data, [m.peek(BASE + (i << 12), 1) for i in range(PAGES)]))
        assert sum(r.n for r in m.journal.records if isinstance(r, Bulk) and r.func == "swap_readpage") == 20
    assert digests[0] == digests[1]


ADVICES = [
    F.MADV_DONTNEED, F.MADV_FREE, F.MADV_REMOVE, F.MADV_COLD, F.MADV_PAGEOUT, F.MADV_PAGEOUT,
    F.MADV_POPULATE_READ, F.MADV_POPULATE_WRITE, F.MADV_WILLNEED, F.MADV_DONTNEED_LOCKED,
]  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.sampled_from("wwrmmmfxctgplu"), st.integers(0, 3), st.integers(0, PAGES - 1),
        st.integers(1, PAGES), st.integers(0, 9),
    ),
    max_size=12,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["anon", "memfd", "memfd private", "ramfs", "mixed private"])
@settings(max_examples=12, deadline=None)
@given(steps=STEPS)
def test_random_walks_keep_every_invariant_and_undo_exactly(
    kind: str, steps: list[tuple[str, int, int, int, int]]
) -> None:
    m = machine(kind)
    base = m.digest()
    for what, who, first, n, x in steps:
        pids = m.living()
        m.switch_to(pids[who % len(pids)])
        at, size = BASE + (first << 12), min(n, PAGES - first) << 12
        with contextlib.suppress(KernelError, SignalRaised):
            match what:
                case "w":
                    m.store(at, size, x)
                case "r":
                    m.load(at, size)
                case "m":
                    m.madvise(at, size, ADVICES[x])
                case "f" if len(pids) < 3:
                    m.fork()
                case "x" if m.pid != 1:
                    m.exit()
                case "c":
                    m.clear_refs(x)
                case "t" if kind != "anon":
                    m.ftruncate(3, n << 12)
                case "g":
                    m.process_vm_readv(at, size)
                case "l":
                    m.mlock(at, size)
                case "u":
                    m.munlock(at, size)
                case "p":
                    m.mprotect(at, size, x & 3)
        assert verify(m) == []
    end = m.digest()
    inside = [(i, r.n // 2) for i, r in enumerate(m.journal.records) if isinstance(r, Bulk) and r.n > 1]
    for position in random.Random(len(inside)).sample(inside, min(4, len(inside))):
        m.journal.seek(position)
        assert verify_counts(m) == []
    m.journal.seek((0, 0))
    assert m.digest() == base
    m.journal.seek(m.journal.end)
    assert m.digest() == end
    names = {r.func for r in m.journal.records if isinstance(r, Enter | Bulk)}
    assert [name for name in sorted(names) if not explain(name).sentence] == []


@pytest.mark.parametrize("n", range(4))
def test_a_swap_entry_alone_is_known_by_any_offset(n: int) -> None:
    # The offset is kept inverted from bit 9 on: every other entry has the bit that marks raw frames.
    m = machine()
    m.store(BASE, PAGES << 12, 1)
    m.madvise(BASE, 4 << 12, F.MADV_PAGEOUT)
    assert {swp_offset(e) & 1 for k, e in entries(m).items() if k < 4} == {0, 1}
    m.mprotect(BASE + (n << 12), 1 << 12, F.PROT_READ)
    vma = m.vma(BASE + (n << 12))
    assert smap_fields(m.mm, vma)["Swap"] == 4
    m.munmap(vma.start, vma.size)
    assert m.mm.counters.data["swap"] == 3
    assert verify(m) == []
