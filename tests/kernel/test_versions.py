"""The kernel dial: each rule that differs between versions, on both sides of the difference."""

from __future__ import annotations

import pytest

from vmviz.kernel import Machine
from vmviz.kernel.arch.x86 import _PAGE_ACCESSED, _PAGE_RW
from vmviz.kernel.errors import KernelError, VmvizError
from vmviz.kernel.fs.task_mmu import vmflags_text
from vmviz.kernel.mm import flags as F
from vmviz.kernel.mm.frames import ZERO_PFN
from vmviz.kernel.mm.huge_split import split_huge_page
from vmviz.kernel.verify import verify
from vmviz.kernel.versions import VERSIONS, kernel_version, nearest_version
from vmviz.script.errors import ScriptError
from vmviz.script.runner import Runner

P = 4096
B = 0x1000_0000_0000
ANON = F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED
LATER = [("6.1", False), ("6.12", True), ("6.18", True)]


def machine(kernel: str) -> Machine:
    return Machine(ram=64 << 20, kernel=kernel, vdso=False)


def spans(m: Machine) -> list[tuple[int, int]]:
    """The VMAs from B on, in pages from it."""
    return [((v.start - B) // P, (v.end - B) // P) for v in m.mm.vmas.overlapping(B, B + (64 << 20))]


def entry(m: Machine, address: int) -> int:
    return int(m.sys.arena.flat[m.sys.arena.lookup(m.mm.pgd, address)])


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_a_mapping_between_two_anon_vmas(kernel: str, later: bool) -> None:
    m = machine(kernel)
    for at in (B, B + 2 * P):
        m.mmap(at, P, "rw", ANON)
        m.store(at)
    m.mmap(B + P, P, "rw", ANON)
    assert spans(m) == ([(0, 2), (2, 3)] if later else [(0, 1), (1, 3)])
    assert not verify(m)


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_the_charge_of_what_becomes_read_only(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, 4 * P, "rw", ANON)
    committed = m.sys.commit.data["committed"]
    m.mprotect(B, 2 * P, "r")
    assert bool(m.vma(B).vm_flags & F.VM_ACCOUNT) is not later
    assert m.sys.commit.data["committed"] == committed - 2 * later
    m.store(B + 2 * P)
    m.mprotect(B + 2 * P, 2 * P, "r")
    assert m.vma(B + 2 * P).vm_flags & F.VM_ACCOUNT, "what has an anon_vma keeps its charge"
    m.munmap(B, 4 * P)
    assert m.sys.commit.data["committed"] == committed - 4


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_map_stack(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, P, "rw", ANON)
    m.mmap(B + P, P, "rw", ANON | F.MAP_STACK)
    assert spans(m) == ([(0, 1), (1, 2)] if later else [(0, 2)])
    assert bool(m.vma(B + P).vm_flags & F.VM_NOHUGEPAGE) is later


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_the_offset_of_what_dontunmap_leaves(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, P, "rw", ANON)
    m.store(B)
    both = F.MREMAP_MAYMOVE | F.MREMAP_FIXED
    m.mremap(B, P, P, both, B + 8 * P)
    m.mremap(B + 8 * P, P, P, both | F.MREMAP_DONTUNMAP, B + 16 * P)
    assert m.vma(B + 8 * P).pgoff == ((B if later else B + 8 * P) >> 12)


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_a_read_of_a_page_in_swap(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, P, "rw", ANON)
    m.store(B)
    m.madvise(B, P, F.MADV_PAGEOUT)
    m.load(B)
    assert bool(entry(m, B) & _PAGE_RW) is later


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_the_zeros_of_a_huge_page_that_is_split(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.thp("always")
    m.mmap(B, 2 << 20, "rw", ANON)
    m.store(B + 5 * P)
    slot, _ = next(iter(m.sys.arena.huge_leaves(m.mm.pgd, B, B + (2 << 20))))
    head = int(m.sys.arena.flat[slot]) >> 12 & ((1 << 40) - 1)
    split_huge_page(m.sys, head & -512)
    assert (entry(m, B) >> 12 & ((1 << 40) - 1) == ZERO_PFN) is later
    assert m.mm.counters.data["anon"] == (1 if later else 512)
    assert m.peek(B + 5 * P, 1) == b"\x5a"
    assert not verify(m)


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_the_accessed_bit_of_what_pageout_keeps(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, P, "rw", ANON)
    m.store(B)
    m.madvise(B, P, F.MADV_FREE)
    m.store(B)
    m.madvise(B, P, F.MADV_PAGEOUT)
    assert bool(entry(m, B) & _PAGE_ACCESSED) is later


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_populate_and_a_hole(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, P, "rw", ANON)
    m.mmap(B + 2 * P, P, 0, ANON)
    with pytest.raises(KernelError) as caught:
        m.madvise(B, 3 * P, F.MADV_POPULATE_READ)
    assert caught.value.errno == ("ENOMEM" if later else "EINVAL")


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_two_mebibytes_without_a_hint(kernel: str, later: bool) -> None:
    m = machine(kernel)
    flags = F.MAP_PRIVATE | F.MAP_ANONYMOUS
    assert (m.mmap(0, 2 << 20, "rw", flags) % (2 << 20) == 0) is later
    assert m.mmap(0, P, "rw", flags) % (2 << 20), "a small one is not aligned"
    assert machine(kernel).mmap(0, 2 << 20, "rw", F.MAP_SHARED | F.MAP_ANONYMOUS) % (2 << 20)


@pytest.mark.parametrize(("kernel", "later"), LATER)
def test_the_code_of_lockonfault(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, P, "rw", ANON)
    m.mlock2(B, P, F.MLOCK_ONFAULT)
    codes = "rd wr mr mw me lo lf ac sd " if later else "rd wr mr mw me lo ?? ac sd "
    assert vmflags_text(m.mm, m.vma(B)) == codes


@pytest.mark.parametrize(("kernel", "joined"), [("6.1", False), ("6.12", False), ("6.18", True)])
def test_munlock_of_a_touched_vma_beside_an_untouched_one(kernel: str, joined: bool) -> None:
    m = machine(kernel)
    m.mmap(B, 2 * P, "rw", ANON)
    m.mlock(B + P, P)
    assert (m.vma(B).anon_vma, bool(m.vma(B + P).anon_vma)) == (0, True)
    m.munlock(B + P, P)
    assert spans(m) == ([(0, 2)] if joined else [(0, 1), (1, 2)])
    assert not verify(m)


def test_an_unknown_version_is_refused_with_the_nearest() -> None:
    with pytest.raises(VmvizError, match=r"the nearest is 6\.12 or 6\.18"):
        Machine(kernel="6.17")
    with pytest.raises(VmvizError, match=r"known: 6\.1, 6\.12, 6\.18"):
        kernel_version("linux")
    with pytest.raises(ScriptError, match=r"nearest is 6\.18"):
        Runner().run_text('boot(kernel="6.20")')


def test_the_language_sets_the_dial() -> None:
    runner = Runner()
    runner.run_text('boot(kernel="6.18")')
    assert runner.machine.sys.version is VERSIONS["6.18"]


def test_a_release_has_the_version_at_or_below() -> None:
    assert nearest_version("6.18.44-fc-v669") == (VERSIONS["6.18"], True)
    assert nearest_version("7.0.1") == (VERSIONS["6.18"], False)
    assert nearest_version("") == (VERSIONS["6.1"], False)


MOVE = F.MREMAP_MAYMOVE | F.MREMAP_FIXED
ONLY_6_18 = [("6.1", False), ("6.12", False), ("6.18", True)]


def fails(errno: str, call: object, *args: object) -> None:
    with pytest.raises(KernelError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.errno == errno


@pytest.mark.parametrize(("kernel", "later"), ONLY_6_18)
def test_a_refused_move_and_its_target(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, 2 * P, "rw", ANON)
    m.mmap(B + 16 * P, P, "rw", ANON)
    fails("EFAULT", m.mremap, B, 3 * P, 4 * P, MOVE, B + 16 * P)
    assert spans(m) == ([(0, 2), (16, 17)] if later else [(0, 2)])


@pytest.mark.parametrize(("kernel", "later"), ONLY_6_18)
def test_a_move_of_several_mappings_with_a_gap(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, 2 * P, "rw", ANON)
    m.mmap(B + 3 * P, P, "r", ANON)
    m.store(B, 2 * P, 7)
    if not later:
        fails("EFAULT", m.mremap, B, 4 * P, 4 * P, MOVE, B + 16 * P)
        return
    assert m.mremap(B, 4 * P, 4 * P, MOVE, B + 16 * P) == B + 16 * P
    assert spans(m) == [(16, 18), (19, 20)]
    assert m.peek(B + 17 * P, 1) == b"\7"
    assert not verify(m)
    fails("EFAULT", m.mremap, B + 15 * P, 5 * P, 5 * P, MOVE, B)


@pytest.mark.parametrize(("kernel", "later"), ONLY_6_18)
def test_dontunmap_of_a_part_of_a_locked_vma(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, 3 * P, "rw", ANON)
    m.mlock(B, 3 * P)
    m.mremap(B, P, P, MOVE | F.MREMAP_DONTUNMAP, B + 16 * P)
    assert spans(m) == ([(0, 3), (16, 17)] if later else [(0, 1), (1, 3), (16, 17)])
    assert bool(m.vma(B + P).vm_flags & F.VM_LOCKED) is not later
    assert m.vma(B + 16 * P).vm_flags & F.VM_LOCKED


@pytest.mark.parametrize(("kernel", "later"), ONLY_6_18)
def test_dontunmap_beside_itself(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, P, "rw", ANON)
    m.mremap(B, P, P, MOVE | F.MREMAP_DONTUNMAP, B + P)
    assert spans(m) == ([(0, 2)] if later else [(0, 1), (1, 2)])
    assert not verify(m)


@pytest.mark.parametrize(("kernel", "later"), ONLY_6_18)
def test_dontunmap_and_what_counts_as_locked(kernel: str, later: bool) -> None:
    m = machine(kernel)
    m.mmap(B, 4 * P, "rw", ANON)
    m.mlock(B, 4 * P)
    m.mremap(B, P, P, MOVE | F.MREMAP_DONTUNMAP, B + 16 * P)
    assert m.mm.counters.data["locked_vm"] == 4 + later
