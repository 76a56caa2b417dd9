"""Merging, splitting, protections, moves, advice and locks, by the tables of the fact sheets."""

from __future__ import annotations

import pytest

from vmviz.kernel import KernelError, Machine, SignalRaised
from vmviz.kernel.mm import flags as F
from vmviz.kernel.verify import leaves, verify

B = 0x1000_0000_0000
P = 4096
ANON = F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED
SHARED = F.MAP_SHARED | F.MAP_ANONYMOUS | F.MAP_FIXED
MOVE = F.MREMAP_MAYMOVE | F.MREMAP_FIXED


@pytest.fixture
def m() -> Machine:
    return Machine(ram=64 << 20, vdso=False)


def ranges(m: Machine) -> list[tuple[int, int, str]]:
    """The VMAs from B on: first page, pages, permissions."""
    return [((v.start - B) >> 12, v.nr_pages, v.perms) for v in m.mm.vmas.overlapping(B, B + (1 << 40))]


def undone(m: Machine) -> None:
    """Undo and redo are byte-identical, and nothing is wrong now."""
    assert verify(m) == []
    end = m.digest()
    m.journal.seek((0, 0))
    m.journal.seek(m.journal.end)
    assert m.digest() == end


def fails(errno: str, call: object, *args: object) -> None:
    with pytest.raises(KernelError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.errno == errno


# ---- merging (vma.md, section 4)

CASES = [
    # the protections of neighbouring pages, what is changed to rw, and the VMAs after it
    ("1, 6", ["rw", "r", "rw"], 1, [(0, 3, "rw-p")]),
    ("7", ["rw", "r"], 1, [(0, 2, "rw-p")]),
    ("8", ["r", "rw"], 0, [(0, 2, "rw-p")]),
    ("none", ["r", "r-x", "r"], 1, [(0, 1, "r--p"), (1, 1, "rw-p"), (2, 1, "r--p")]),
]


def mapped(m: Machine, prots: list[str]) -> None:
    bits = {"rw": 3, "r": 1, "r-x": 5}
    for i, prot in enumerate(prots):
        m.mmap(B + i * P, P, bits[prot], ANON)


@pytest.mark.parametrize(("case", "prots", "page", "after"), CASES, ids=[c[0] for c in CASES])
def test_whole_vmas_merge(m: Machine, case: str, prots: list[str], page: int, after: object) -> None:
    mapped(m, ["rw"] * len(prots))  # accounted, as a mapping once writable stays
    for i, prot in enumerate(prots):
        m.mprotect(B + i * P, P, prot)
    m.mprotect(B + page * P, P, "rw")
    assert ranges(m) == after, case
    undone(m)


def test_boundaries_move(m: Machine) -> None:
    m.mmap(B, 8 * P, 3, ANON)
    m.mprotect(B + 4 * P, 4 * P, "r")
    m.mprotect(B + 4 * P, 2 * P, "rw")  # case 5: the one before grows, the changed one shrinks
    assert ranges(m) == [(0, 6, "rw-p"), (6, 2, "r--p")]
    m.mprotect(B + 4 * P, 2 * P, "r")  # case 4: the other way
    assert ranges(m) == [(0, 4, "rw-p"), (4, 4, "r--p")]
    assert m.vma(B + 4 * P).pgoff == (B >> 12) + 4
    undone(m)


def test_no_merge_of_faulted_neighbours_nor_into_an_untouched_one(m: Machine) -> None:
    m.mmap(B, 2 * P, 3, ANON)
    m.mmap(B + 4 * P, 2 * P, 3, ANON)
    m.store(B, 2 * P)
    m.store(B + 4 * P, 2 * P)
    m.mmap(B + 2 * P, 2 * P, 3, ANON)
    assert ranges(m) == [(0, 2, "rw-p"), (2, 4, "rw-p")]  # the new range joins the next VMA
    m.mmap(B + 16 * P, 2 * P, 3, ANON)
    m.mmap(B + 18 * P, 2 * P, 1, ANON)
    m.store(B + 16 * P)
    m.mprotect(B + 16 * P, 2 * P, "r")  # VM_ACCOUNT stays, so the flags differ
    assert ranges(m)[2:] == [(16, 2, "r--p"), (18, 2, "r--p")]
    undone(m)


def test_a_faulted_range_does_not_join_an_untouched_neighbour(m: Machine) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.mlock(B + 2 * P, 2 * P)  # faulted, with an anon_vma of its own
    m.munlock(B, 4 * P)
    assert [r[:2] for r in ranges(m)] == [(0, 2), (2, 2)]
    undone(m)


@pytest.mark.parametrize("why", ["special", "offset", "file", "flags"])
def test_what_keeps_mappings_apart(m: Machine, why: str) -> None:
    if why == "special":
        fd = m.open("/dev/fb0")
        m.mmap(B, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED, fd)
        m.mmap(B + 2 * P, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED, fd, 2 * P)
    elif why == "flags":
        m.mmap(B, 2 * P, 3, ANON)
        m.mmap(B + 2 * P, 2 * P, 3, ANON | F.MAP_NORESERVE)
    else:
        fd = m.open("/dev/page")
        other = m.open("/dev/page") if why == "file" else fd
        m.mmap(B, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED, fd)
        m.mmap(B + 2 * P, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED, other, (2 if why == "file" else 3) * P)
    assert [r[:2] for r in ranges(m)] == [(0, 2), (2, 2)]
    undone(m)


def test_an_mprotect_of_the_middle_makes_three(m: Machine) -> None:
    """The live-checked sequence of vma.md, section 16."""
    m.mmap(B, 16 * P, 0, ANON)
    m.mmap(B + 2 * P, 4 * P, 3, ANON)
    assert len(ranges(m)) == 3
    m.mprotect(B + 3 * P, P, "r")
    assert len(ranges(m)) == 5
    m.mprotect(B + 3 * P, P, "rw")
    assert len(ranges(m)) == 3
    undone(m)


# ---- limits of the number of VMAs (section 5)


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        (lambda m: m.mprotect(B + P, P, "r"), "ENOMEM"),
        (lambda m: m.madvise(B + P, P, F.MADV_RANDOM), "EAGAIN"),
        (lambda m: m.mlock(B + P, P), "ENOMEM"),
        (lambda m: m.munmap(B + P, P), "ENOMEM"),
        (lambda m: m.mremap(B, 4 * P, 4 * P, MOVE, B + (1 << 30)), "ENOMEM"),
    ],
)
def test_splits_at_max_map_count(m: Machine, call: object, errno: str) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.sysctl("vm.max_map_count", len(m.mm.vmas))
    fails(errno, call, m)
    assert ranges(m) == [(0, 4, "rw-p")]
    undone(m)


# ---- mprotect (section 7)


@pytest.mark.parametrize(
    ("errno", "start", "length", "prot"),
    [
        ("EINVAL", B, P, F.PROT_GROWSDOWN | F.PROT_GROWSUP),
        ("EINVAL", B + 1, 0, 1),
        ("ENOMEM", B, (1 << 64) - P, 1),
        ("ENOMEM", B, (1 << 64) - 1, 1),
        ("EINVAL", B, P, 0x10),
        ("ENOMEM", B + 100 * P, P, 1),
        ("EINVAL", B, P, 1 | F.PROT_GROWSDOWN),
        ("ENOMEM", B, 6 * P, 1),
    ],
)
def test_mprotect_errors(m: Machine, errno: str, start: int, length: int, prot: int) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    fails(errno, m.mprotect, start, length, prot)
    if length == 6 * P:
        assert ranges(m) == [(0, 4, "r--p")]  # what lies before the hole stays changed
    undone(m)


def test_entries_follow_the_protection_and_come_back(m: Machine) -> None:
    m.mmap(B, 8 * P, 3, ANON)
    m.store(B, 8 * P)
    before = dict(leaves(m.mm))
    flushed = m.mprotect(B + P, 4 * P, 0)
    assert flushed is not None
    assert [(f.start, f.nr_pages) for f in flushed.flushes] == [(B + P, 4)]
    assert [e & 0xFFF for e in dict(leaves(m.mm)).values()][
        1
    ] == 0x960  # PROTNONE, A, D, soft-dirty; inverted
    again = m.mprotect(B, 8 * P, 3)
    assert again is not None
    assert again.flushes == []
    assert dict(leaves(m.mm)) == before  # dirty, and the process's own: writable at once
    undone(m)


def test_a_page_shared_by_fork_stays_read_only(m: Machine) -> None:
    m.mmap(B, 2 * P, 3, ANON)
    m.store(B, 2 * P)
    m.fork()
    m.mprotect(B, 2 * P, "r")
    m.mprotect(B, 2 * P, "rw")
    assert {e & 2 for _, e in leaves(m.mm)} == {0}


def test_mprotect_charges_once_and_never_gives_back(m: Machine) -> None:
    base = m.sys.commit.data["committed"]
    m.mmap(B, 4 * P, 1, ANON)
    charged = []
    for prot in ("rw", "r", "rw"):
        m.mprotect(B, 4 * P, prot)
        charged.append(m.sys.commit.data["committed"] - base)
    assert charged == [4, 4, 4]
    assert m.mm.counters.data["data_vm"] == 4
    undone(m)


# ---- mremap (section 8)


@pytest.mark.parametrize(
    ("errno", "args"),
    [
        ("EINVAL", (B, P, P, 8)),
        ("EINVAL", (B, P, P, F.MREMAP_FIXED, B + 64 * P)),
        ("EINVAL", (B, P, 2 * P, F.MREMAP_MAYMOVE | F.MREMAP_DONTUNMAP)),
        ("EINVAL", (B + 1, P, P, 0)),
        ("EINVAL", (B, P, 0, 0)),
        ("EFAULT", (B + 100 * P, P, P, 0)),
        ("EINVAL", (B, 4 * P, 4 * P, MOVE, B + 64 * P + 1)),
        ("EINVAL", (B, 4 * P, 4 * P, MOVE, 0x7FFFFFFFF000)),
        ("EINVAL", (B, 4 * P, 4 * P, MOVE, B + 3 * P)),
        ("EINVAL", (B, 0, P, F.MREMAP_MAYMOVE)),
        ("EFAULT", (B, 5 * P, 6 * P, F.MREMAP_MAYMOVE)),
        ("ENOMEM", (B, 2 * P, 4 * P, 0)),
        ("EFAULT", (B + 32 * P, 2 * P, 4 * P, F.MREMAP_MAYMOVE)),
        ("EINVAL", (B + 32 * P, 2 * P, 2 * P, F.MREMAP_MAYMOVE | F.MREMAP_DONTUNMAP)),
    ],
)
def test_mremap_errors(m: Machine, errno: str, args: tuple[int, ...]) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.mmap(B + 32 * P, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED, m.open("/dev/fb0"))
    fails(errno, m.mremap, *args)
    undone(m)


def test_a_failed_move_leaves_the_destination_unmapped(m: Machine) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.mmap(B + 64 * P, 8 * P, 3, ANON)
    fails("EFAULT", m.mremap, B, 5 * P, 6 * P, MOVE, B + 64 * P)
    assert ranges(m) == [(0, 4, "rw-p"), (70, 2, "rw-p")]
    undone(m)


@pytest.mark.parametrize("shift", [0, P])
def test_a_move_keeps_pages_and_moves_whole_tables_where_it_can(m: Machine, shift: int) -> None:
    size = 4 << 20
    m.mmap(B, size, 3, ANON)
    m.store(B, size, 7)
    before = {va - B: e for va, e in leaves(m.mm) if va >= B}
    tables = m.mm.counters.data["pgtables"]
    m.journal.records.clear()
    to = B + (1 << 40) + shift
    assert m.mremap(B, size, size, MOVE, to) == to
    after = {va - to: e for va, e in leaves(m.mm) if va >= to}
    assert after == before
    assert m.peek(to + size - P, 1) == b"\7"
    assert m.vma(to).pgoff == B >> 12
    assert m.mm.counters.data["pgtables"] == tables + (P if shift else 0)
    names = {getattr(r, "func", "") for r in m.journal.records}
    assert ("move_normal_pmd" in names, "move_ptes" in names) == (not shift, bool(shift))
    undone(m)


def test_a_table_of_tables_moves_with_one_write(m: Machine) -> None:
    m.mmap(B, 1 << 30, 3, ANON | F.MAP_NORESERVE)
    for page in (0, 5 << 21, (1 << 30) - P):
        m.store(B + page)
    before = [e for _, e in leaves(m.mm)]
    m.journal.records.clear()
    m.mremap(B, 1 << 30, 1 << 30, MOVE, B + (2 << 30))
    assert [e for _, e in leaves(m.mm)] == before
    assert "move_normal_pud" in {getattr(r, "func", "") for r in m.journal.records}
    undone(m)


def test_parts_move_and_charges_stay(m: Machine) -> None:
    m.mmap(B, 8 * P, 3, ANON)
    m.store(B, 8 * P)
    m.mremap(B + 2 * P, 2 * P, 4 * P, MOVE, B + 64 * P)
    assert ranges(m) == [(0, 2, "rw-p"), (4, 4, "rw-p"), (64, 4, "rw-p")]
    assert {v.vm_flags & F.VM_ACCOUNT for v in m.mm.vmas.overlapping(B, B + 100 * P)} == {F.VM_ACCOUNT}
    undone(m)


def test_an_untouched_mapping_takes_the_offset_of_its_new_place(m: Machine) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.mmap(B + 60 * P, 4 * P, 3, ANON)
    m.mremap(B, 4 * P, 4 * P, MOVE, B + 64 * P)
    assert ranges(m) == [(60, 8, "rw-p")]
    undone(m)


def test_growing_in_place_joins_what_it_then_touches(m: Machine) -> None:
    m.mmap(B, 2 * P, 3, ANON)
    m.mmap(B + 4 * P, 2 * P, 3, ANON)
    assert m.mremap(B, 2 * P, 4 * P) == B
    assert ranges(m) == [(0, 6, "rw-p")]
    undone(m)


def test_old_length_0_duplicates_a_shared_mapping(m: Machine) -> None:
    m.mmap(B, 4 * P, 3, SHARED)
    m.store(B, 4 * P, 9)
    fails("ENOMEM", m.mremap, B, 0, 4 * P)
    m.mremap(B, 0, 4 * P, MOVE, B + 64 * P)
    assert m.load(B + 64 * P).data == b"\11"
    assert m.mm.counters.data["shmem"] == 8  # fault-around
    undone(m)


def test_dontunmap_leaves_an_empty_unlocked_vma(m: Machine) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.mlock(B, 4 * P)
    m.mremap(B, 4 * P, 4 * P, MOVE | F.MREMAP_DONTUNMAP, B + 64 * P)
    old, new = m.vma(B), m.vma(B + 64 * P)
    assert (old.vm_flags & F.VM_LOCKED, old.anon_vma, old.pgoff) == (0, 0, B >> 12)
    assert new.vm_flags & F.VM_LOCKED
    assert m.load(B).data == b"\0"
    assert m.mm.counters.data["locked_vm"] == 4
    undone(m)


# (flags of mmap, pages written, what moves where, VMAs after: first page, pages, locked, whether it has an
# anon_vma); recorded on Linux 6.1.192
DONTUNMAP_PARTS = [
    (F.MAP_LOCKED, 6, (1, 1, 16), [(0, 1, 1, 1), (1, 1, 0, 0), (2, 4, 1, 1), (16, 1, 1, 1)]),
    (F.MAP_LOCKED, 6, (0, 6, 16), [(0, 6, 0, 0), (16, 6, 1, 1)]),
    (0, 6, (1, 1, 16), [(0, 6, 0, 1), (16, 1, 0, 1)]),
    (0, 0, (1, 1, 16), [(0, 6, 0, 0), (16, 1, 0, 0)]),
    (0, 0, (3, 1, 2), [(0, 2, 0, 0), (2, 1, 0, 0), (3, 3, 0, 0)]),  # not with itself, nor then with the other
    (0, 0, (0, 6, 6), [(0, 6, 0, 0), (6, 6, 0, 0)]),
    (0, 0, (4, 2, 6), [(0, 6, 0, 0), (6, 2, 0, 0)]),
]


@pytest.mark.parametrize(("flags", "written", "move", "expected"), DONTUNMAP_PARTS)
def test_dontunmap_of_a_part(
    m: Machine, flags: int, written: int, move: tuple[int, int, int], expected: list[tuple[int, ...]]
) -> None:
    m.mmap(B, 6 * P, 3, ANON | flags)
    m.store(B, written * P) if written else None
    at, n, to = move
    m.mremap(B + at * P, n * P, n * P, MOVE | F.MREMAP_DONTUNMAP, B + to * P)
    got = [
        ((v.start - B) // P, v.nr_pages, int(bool(v.vm_flags & F.VM_LOCKED)), int(bool(v.anon_vma)))
        for v in m.mm.vmas.overlapping(B, B + 64 * P)
    ]
    assert got == expected
    undone(m)


def test_no_frame_for_a_table_moves_everything_back(m: Machine) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.store(B, 4 * P, 3)
    hog = m.mmap(0, 64 << 20, "rw", "private")
    while m.sys.frames.states.buddy.nr_free() > 1:
        m.store(hog)
        hog += P
    before = m.sys.commit.data["committed"]
    fails("ENOMEM", m.mremap, B, 4 * P, 8 * P, MOVE, B + (1 << 40))
    assert m.peek(B + 3 * P, 1) == b"\3"
    assert m.sys.commit.data["committed"] == before
    undone(m)


# ---- madvise (section 11)


@pytest.mark.parametrize(
    ("advice", "flags"),
    [
        (F.MADV_RANDOM, F.VM_RAND_READ),
        (F.MADV_SEQUENTIAL, F.VM_SEQ_READ),
        (F.MADV_DONTFORK, F.VM_DONTCOPY),
        (F.MADV_DONTDUMP, F.VM_DONTDUMP),
        (F.MADV_WIPEONFORK, F.VM_WIPEONFORK),
        (F.MADV_MERGEABLE, F.VM_MERGEABLE),
        (F.MADV_HUGEPAGE, F.VM_HUGEPAGE),
        (F.MADV_NOHUGEPAGE, F.VM_NOHUGEPAGE),
    ],
)
def test_flag_advice_splits_and_its_opposite_joins(m: Machine, advice: int, flags: int) -> None:
    m.mmap(B, 8 * P, 3, ANON)
    base = m.vma(B).vm_flags
    m.madvise(B + 2 * P, 2 * P, advice)
    assert [v.vm_flags ^ base for v in m.mm.vmas.overlapping(B, B + 8 * P)] == [0, flags, 0]
    m.madvise(B, 8 * P, advice)
    assert ranges(m) == [(0, 8, "rw-p")]
    undone(m)


@pytest.mark.parametrize(
    ("errno", "start", "length", "advice"),
    [
        ("EINVAL", B, 0, 7),
        ("EINVAL", B + 1, P, F.MADV_RANDOM),
        ("EINVAL", B, (1 << 64) - 1, F.MADV_RANDOM),
        ("EINVAL", B, (1 << 64) - B, F.MADV_RANDOM),
        ("ENOMEM", B - P, 2 * P, F.MADV_RANDOM),
        ("ENOMEM", B, 6 * P, F.MADV_RANDOM),
        ("ENOMEM", B + 100 * P, P, F.MADV_RANDOM),
        ("EINVAL", B + 32 * P, P, F.MADV_DOFORK),
        ("EINVAL", B + 32 * P, P, F.MADV_DODUMP),
        ("EINVAL", B + 32 * P, P, F.MADV_WIPEONFORK),
        ("EPERM", B, P, F.MADV_HWPOISON),
    ],
)
def test_madvise_errors(m: Machine, errno: str, start: int, length: int, advice: int) -> None:
    m.mmap(B, 4 * P, 3, ANON)
    m.mmap(B + 32 * P, 2 * P, 3, F.MAP_SHARED | F.MAP_FIXED, m.open("/dev/fb0"))
    fails(errno, m.madvise, start, length, advice)
    done = errno == "ENOMEM" and start <= B
    assert bool(m.vma(B).vm_flags & F.VM_RAND_READ) == done  # what is mapped has been advised
    undone(m)


def test_willneed_reads_a_file_ahead(m: Machine) -> None:
    fd = m.open("/tmp/f", F.O_RDWR | F.O_CREAT)
    m.ftruncate(fd, 64 * P)
    m.mmap(B, 64 * P, 1, F.MAP_PRIVATE | F.MAP_FIXED, fd)
    m.madvise(B + 40 * P, 8 * P, F.MADV_WILLNEED)
    assert m.mincore(B, 64 * P) == bytes(40) + bytes([1] * 8) + bytes(16)
    assert m.load(B + 41 * P).maj_flt == 0
    undone(m)


@pytest.mark.parametrize(("gap", "anon_vma"), [(300, True), (256, True), (255, False)])
def test_a_stack_that_hits_a_limit_has_its_anon_vma(m: Machine, gap: int, anon_vma: bool) -> None:
    m.mmap(B + 1023 * P, P, 3, ANON)
    m.mmap(B + (1025 + gap) * P, P, 3, ANON | F.MAP_GROWSDOWN)
    m.rlimit("stack", P)
    with pytest.raises(SignalRaised):
        m.store(B + (1024 + gap) * P)
    assert bool(m.vma(B + (1025 + gap) * P).anon_vma) == anon_vma  # the guard gap is looked at before
    undone(m)
