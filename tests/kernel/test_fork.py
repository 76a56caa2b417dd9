"""fork, exit and wait: what a child gets, what a write then costs, and that nothing is left behind."""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from vmviz.kernel import KernelError, Machine, Vma, VmvizError
from vmviz.kernel.mm import flags as F
from vmviz.kernel.mm.page_flags import PG_EXCLUSIVE
from vmviz.kernel.mm.rmap import anon_vma_record, is_mergeable_anon_vma
from vmviz.kernel.trace.bulk import Bulk
from vmviz.kernel.trace.explain import explain
from vmviz.kernel.trace.journal import Enter
from vmviz.kernel.verify import leaves, verify, verify_counts

BASE = 0x1000_0000_0000


def machine(ram: int = 32 << 20) -> Machine:
    m = Machine(ram=ram, vdso=False)
    m.seal()
    return m


def set_flags(m: Machine, address: int, flags: int) -> None:
    vma = m.vma(address)
    m.mm.set_vma(vma, vma.replace(vm_flags=vma.vm_flags | flags))


def here(m: Machine, low: int = BASE, high: int = BASE + (1 << 40)) -> dict[int, int]:
    return {va: entry for va, entry in leaves(m.mm) if low <= va < high}


def test_the_example_of_the_fact_sheet() -> None:
    """Ten pages; the child writes three, the parent those three and then the others: 3 / 3 / 7 faults."""
    m = machine()
    heap = m.mmap(BASE, 10 << 12, "rw", "private")
    m.store(heap, 10 << 12, 1)
    free = m.frames.states.buddy.nr_free()
    child = m.fork()
    m.switch_to(child)
    assert m.mm.counters.data["anon"] == 10
    tables = m.mm.counters.data["pgtables"] // 4096 + 1
    assert m.frames.states.buddy.nr_free() == free - tables
    assert m.store(heap, 3 << 12, 2).min_flt == 3
    m.switch_to(1)
    before = m.frames.states.buddy.nr_free()
    assert m.store(heap, 3 << 12, 3).min_flt == 3
    assert m.frames.states.buddy.nr_free() == before  # reused, not copied
    assert m.store(heap + (3 << 12), 7 << 12, 4).min_flt == 7
    assert m.frames.states.buddy.nr_free() == before - 7
    assert [m.peek(heap + (i << 12), 1)[0] for i in range(10)] == [3] * 3 + [4] * 7
    m.switch_to(child)
    assert [m.peek(heap + (i << 12), 1)[0] for i in range(10)] == [2] * 3 + [1] * 7
    assert verify(m) == []


# property of the VMA: is it in the child, does it have the entries, what of its flags is gone
VMA_RULES = [
    ("plain anonymous", 0, True, True, 0),
    ("VM_DONTCOPY", F.VM_DONTCOPY, False, False, 0),
    ("VM_WIPEONFORK", F.VM_WIPEONFORK, True, False, 0),
    ("VM_LOCKED", F.VM_LOCKED, True, True, F.VM_LOCKED),
    ("VM_LOCKED on fault", F.VM_LOCKED | F.VM_LOCKONFAULT, True, True, F.VM_LOCKED | F.VM_LOCKONFAULT),
]


@pytest.mark.parametrize(("name", "flags", "there", "entries", "gone"), VMA_RULES, ids=str)
def test_properties_of_a_vma(name: str, flags: int, there: bool, entries: bool, gone: int) -> None:
    m = machine()
    m.mmap(BASE, 4 << 12, "rw", "private")
    m.store(BASE, 4 << 12)
    set_flags(m, BASE, flags)
    if flags & F.VM_LOCKED:
        m.journal.add(m.mm.counters, "locked_vm", 4)
    parent = m.vma(BASE)
    m.switch_to(m.fork())
    child = m.mm.vma_at(BASE)
    assert (child is not None) == there
    assert (len(here(m)) == 4) == entries
    assert m.mm.counters.data["locked_vm"] == 0
    if child is not None:
        assert child.vm_flags == parent.vm_flags & ~gone
        assert bool(child.anon_vma) == entries
        assert child.anon_vma != parent.anon_vma
    assert m.mm.counters.data["total_vm"] == m.mms[1].counters.data["total_vm"] - (0 if there else 4)
    assert verify(m) == []


KINDS = [  # (device or kind, private, touched for writing, entries in the child)
    ("/dev/fb0", False, False, 4),
    ("/dev/fb0", True, True, 4),
    ("/dev/mixed", False, True, 4),
    ("/dev/page", False, True, 0),
    ("/dev/page", True, True, 4),
    ("/dev/page", True, False, 0),
    ("shm", False, True, 0),
]


@pytest.mark.parametrize(("kind", "private", "write", "copied"), KINDS)
def test_which_entries_are_copied(kind: str, private: bool, write: bool, copied: int) -> None:
    m = machine()
    fd = -1 if kind == "shm" else m.open(kind)
    flags = (F.MAP_PRIVATE if private else F.MAP_SHARED) | (F.MAP_ANONYMOUS if fd < 0 else 0)
    m.mmap(BASE, 4 << 12, "rw", flags, fd)
    if write and private and kind == "/dev/fb0":
        m.store(BASE + 4096, 3 << 12)  # all but the first, which keeps its memory type
    elif write:
        m.store(BASE, 4 << 12)
    else:
        m.load(BASE, 4 << 12)
    parent = here(m)
    m.switch_to(m.fork())
    assert len(here(m)) == copied
    for va, entry in here(m).items():
        assert not entry & 0x20, "always old in the child"
        if private:
            assert not entry & 2, "a write has to copy"
        else:
            assert not entry & 0x40, "clean where shared"
            assert entry & 2 == parent[va] & 2
    assert verify(m) == []


def test_a_pat_mapping_whose_first_page_is_private_makes_fork_fail() -> None:
    m = machine()
    m.mmap(BASE, 4 << 12, "rw", F.MAP_PRIVATE, m.open("/dev/fb0"))
    m.store(BASE)
    m.mmap(BASE - (8 << 12), 4 << 12, "rw", F.MAP_PRIVATE | F.MAP_ANONYMOUS)
    vmas, tasks, free = list(m.mm.vmas), dict(m.tasks.data), m.frames.states.buddy.nr_free()
    with pytest.raises(KernelError, match="ENOMEM"):
        m.fork()
    assert (list(m.mm.vmas), m.tasks.data, m.frames.states.buddy.nr_free()) == (vmas, tasks, free)
    assert verify(m) == []


def test_fork_without_memory_for_tables_leaves_nothing() -> None:
    m = machine(2 << 20)
    heap = m.mmap(0, 100 << 12, "rw", "private")
    m.store(heap, 100 << 12)
    hog = m.mmap(0, 500 << 12, "rw", "private")
    while m.frames.states.buddy.nr_free() > 3:
        m.store(hog)
        hog += 4096
    with pytest.raises(KernelError, match="ENOMEM"):
        m.fork()
    assert m.frames.states.buddy.nr_free() == 3
    assert verify(m) == []


def test_anon_vma_chains_grow_with_generations_and_forbid_merges() -> None:
    m = machine()
    m.mmap(BASE, 4096, "rw", "private")
    m.store(BASE)
    chains = [m.vma(BASE).chain]
    for _ in range(3):
        m.switch_to(m.fork())
        chains.append(m.vma(BASE).chain)
        assert len(anon_vma_record(m.sys, m.vma(BASE).anon_vma).chain) == chains[-1]
    assert chains == [1, 2, 3, 4]
    assert verify(m) == []
    m.mmap(BASE + 4096, 4096, "rw", F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED)
    assert m.vma(BASE).nr_pages == 1, "a VMA with ancestors does not take a fresh neighbour in"


def test_an_ancestor_that_nobody_uses_is_taken_over() -> None:
    m = machine()
    m.mmap(BASE, 4096, "rw", "private")
    m.store(BASE)
    child = m.fork()
    m.switch_to(child)
    grandchild = m.fork()
    mine = m.vma(BASE).anon_vma
    m.exit()
    m.switch_to(grandchild)
    assert len(anon_vma_record(m.sys, m.vma(BASE).anon_vma).chain) == 3
    m.switch_to(m.fork())
    assert (m.vma(BASE).anon_vma, m.vma(BASE).chain) == (mine, 3)


MERGEABLE = [
    (0, 0, 0, True),
    (1, 1, 5, True),
    (0, 1, 1, True),
    (0, 1, 2, False),
    (1, 0, 0, False),
    (1, 2, 1, False),
]


@pytest.mark.parametrize(("first", "second", "chain", "wanted"), MERGEABLE)
def test_is_mergeable_anon_vma(first: int, second: int, chain: int, wanted: bool) -> None:
    vma = Vma(0, 4096, 0, anon_vma=second, chain=chain)
    assert is_mergeable_anon_vma(first, second, vma) == wanted


def test_exit_gives_everything_back() -> None:
    m = machine()
    fd = m.memfd_create("f")
    m.ftruncate(fd, 8 << 12)
    m.mmap(BASE, 4 << 12, "rw", "private")
    m.mmap(BASE + (8 << 12), 8 << 12, "rw", F.MAP_SHARED, fd)
    m.store(BASE, 4 << 12)
    m.store(BASE + (8 << 12), 8 << 12)
    free, committed = m.frames.states.buddy.nr_free(), m.sys.commit.data["committed"]
    child = m.fork()
    m.switch_to(child)
    m.store(BASE, 4 << 12, 7)
    m.load(BASE + (8 << 12), 8 << 12)
    m.exit(3)
    assert (m.pid, m.tasks.get(child).exit, sorted(m.mms)) == (1, "3", [1])
    assert (m.frames.states.buddy.nr_free(), m.sys.commit.data["committed"]) == (free, committed)
    assert verify(m) == []
    assert m.wait() == child
    with pytest.raises(KernelError, match="ECHILD"):
        m.wait()


def test_what_is_no_process_and_what_cannot_end() -> None:
    m = machine()
    with pytest.raises(KernelError, match="EPERM"):
        m.exit()
    child = m.fork()
    with pytest.raises(KernelError, match="EAGAIN"):
        m.wait()
    m.switch_to(child)
    m.exit()
    for pid, text in ((child, "has ended"), (77, "is not there")):
        with pytest.raises(VmvizError, match=text):
            m.switch_to(pid)


STEPS = st.lists(
    st.tuples(
        st.sampled_from("wrfx"), st.integers(0, 3), st.integers(0, 59), st.integers(1, 60),
        st.integers(0, 255),
    ),
    max_size=9,
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(steps=STEPS, private=st.booleans())
def test_random_families_keep_the_invariants_and_their_own_bytes(
    steps: list[tuple[str, int, int, int, int]], private: bool
) -> None:
    """Beside a model that copies a dictionary at fork: what each process reads is its own, undo is exact."""
    m = machine(8 << 20)
    m.mmap(BASE, 60 << 12, "rw", F.MAP_ANONYMOUS | (F.MAP_PRIVATE if private else F.MAP_SHARED))
    m.seal()
    base = m.digest()
    memory: dict[int, dict[int, int]] = {1: {}}
    for what, who, first, n, byte in steps:
        pids = sorted(memory)
        pid = pids[who % len(pids)]
        m.switch_to(pid)
        span = min(n, 60 - first)
        if what == "w":
            m.store(BASE + (first << 12), span << 12, byte)
            memory[pid].update(dict.fromkeys(range(first, first + span), byte))
        elif what == "r":
            m.load(BASE + (first << 12), span << 12)
        elif what == "f" and len(pids) < 4:
            child = m.fork()
            memory[child] = dict(memory[pid]) if private else memory[pid]
        elif what == "x" and pid != 1:
            m.exit()
            del memory[pid]
    assert verify(m) == []
    for pid, pages in memory.items():
        m.switch_to(pid)
        if not private:
            m.load(BASE, 60 << 12)
        for page in range(60):
            assert m.peek(BASE + (page << 12), 1)[0] == pages.get(page, 0)
    end = m.digest()
    inside = [
        (i, r.n // 2)
        for i, r in enumerate(m.journal.records)
        if isinstance(r, Bulk) and r.n > 1 and r.func.startswith(("copy_", "wp_", "page_move"))
    ]
    for position in inside[-4:]:
        m.journal.seek(position)
        assert verify_counts(m) == []
    m.journal.seek((0, 0))
    assert m.digest() == base
    m.journal.seek(m.journal.end)
    assert m.digest() == end


def test_the_range_form_of_a_copying_write_is_the_loop_over_pages() -> None:
    machines = []
    for single in (False, True):
        m = machine()
        m.mmap(BASE, 40 << 12, "rw", "private")
        m.store(BASE, 40 << 12, 5)
        m.switch_to(m.fork())
        with contextlib.suppress(VmvizError):
            for start, n in [(i, 1) for i in range(10, 30)] if single else [(10, 20)]:
                m.store(BASE + (start << 12), n << 12, 9)
        machines.append(m)
    assert machines[0].digest() == machines[1].digest()


def test_a_fork_is_a_record_per_table_not_per_page() -> None:
    m = machine()
    m.mmap(BASE, 2048 << 12, "rw", "private")
    m.store(BASE, 2048 << 12)
    start = len(m.journal.records)
    m.fork()
    assert len(m.journal.records) - start < 200
    copies = [r for r in m.journal.records[start:] if isinstance(r, Bulk) and r.func == "copy_present_pte"]
    assert sum(r.n for r in copies) == 2048
    exclusive = m.frames.flags.array[[e >> 12 & 0xFFFFF for e in here(m).values()]] & PG_EXCLUSIVE
    assert not exclusive.any()


def test_every_function_of_fork_and_exit_is_explained() -> None:
    m = machine()
    m.mmap(BASE, 4096, "rw", "private")
    m.store(BASE)
    m.switch_to(m.fork())
    m.store(BASE)
    m.exit()
    m.wait()
    names = {r.func for r in m.journal.records if isinstance(r, Enter | Bulk)}
    assert [name for name in sorted(names) if not explain(name).sentence] == []
