"""The zap of a range, row by row of the rules: preconditions, odd ranges, entries, TLB, PAT, and the
insert helpers.
"""

from __future__ import annotations

from typing import Any

import pytest

from vmviz.kernel import CallerBugError, KernelError, Machine, SignalRaised
from vmviz.kernel.drivers.base import Driver, add_driver
from vmviz.kernel.mm.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    O_RDONLY,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_IO,
    VM_MIXEDMAP,
    VM_PAT,
    VM_PFNMAP,
)
from vmviz.kernel.mm.memory.fault import FaultContext
from vmviz.kernel.mm.memory.pfn import (
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    follow_pfn,
    remap_pfn_range,
    vmf_insert_pfn,
)
from vmviz.kernel.mm.memory.zap_checks import find_danger, judge, passes
from vmviz.kernel.mm.mm_types import Mm, VmOperations
from vmviz.kernel.mm.page_alloc import DRIVER
from vmviz.kernel.mm.page_flags import PG_DIRTY
from vmviz.kernel.mm.vma import Vma
from vmviz.kernel.verify import leaves, verify

START, END, PAGE = 0x10000, 0x20000, 4096
TOP = 1 << 64
BAR = "/sys/bus/pci/devices/0000:00:02.0/resource0"


def machine(contract: str = "int", **changes: Any) -> Machine:
    m = Machine(ram=16 << 20, zap_contract=contract, **changes)
    m.mmap(START, END - START, 3, MAP_SHARED | MAP_FIXED, m.open("/dev/fb0"))
    return m


def mapped(m: Machine, start: int = START, end: int = END) -> list[int]:
    return [va for va, _ in leaves(m.mm) if start <= va < end]


BOUNDARY = [  # address, size, what the int contract returns, entries cleared
    (0x10000, 0x10000, 0, 16),
    (0x14000, 0x2000, 0, 2),
    (0x14000, 0, 0, 0),
    (0x20000, 0, 0, 0),
    (0x10000, 0, 0, 0),
    (0x0F000, 0x1000, -1, 0),
    (0x0F000, 0x2000, -1, 0),
    (0x1F000, 0x2000, -1, 0),
    (0x20000, 0x1000, -1, 0),
    (0x14000, TOP - 0x10000, 0, 0),
]


@pytest.mark.parametrize("contract", ["int", "void", "special"])
@pytest.mark.parametrize(("address", "size", "ret", "cleared"), BOUNDARY)
def test_boundaries(contract: str, address: int, size: int, ret: int, cleared: int) -> None:
    m = machine(contract)
    before, vma = m.digest(), m.vma(START)
    result = m.zap_vma_ptes(vma, address, size)
    assert result.verdict == ret
    assert result.ret == (ret if contract == "int" else None)
    assert (result.ptes_cleared, result.ptes_unknown, result.frames_freed) == (cleared, 0, 0)
    assert (result.refusal is None) == (ret == 0)
    assert len(mapped(m)) == 16 - cleared
    if ret:
        assert m.digest() == before
    if ret == 0 and not cleared:
        assert result.why_nothing
    assert verify(m) == []


@pytest.mark.parametrize("contract", ["int", "void", "special"])
def test_a_wrapped_end_below_the_address_would_be_a_bug(contract: str) -> None:
    m = machine(contract)
    before = m.digest()
    result = m.zap_vma_ptes(m.vma(START), 0x14000, TOP - 0x1000)
    assert (result.ret, result.verdict, result.danger) == (None, None, "BUG_ON")
    assert result.refusal is not None
    assert result.refusal.check == "caller_bug"
    assert m.digest() == before


@pytest.mark.parametrize(
    ("address", "size", "check", "reached", "legal"),
    [
        (0x0F000, 0x2000, "range_in_vma", [True, False, False], (0x10000, 0x1000)),
        (0x1F000, 0x2000, "range_in_vma", [True, True, False], (0x1F000, 0x1000)),
        (0x20000, 0x1000, "range_in_vma", [True, True, False], (0x1F000, 0x1000)),
        (0x0F000, 0x1000, "range_in_vma", [True, False, False], (0x10000, 0x1000)),
    ],
)
def test_refusals_say_which_check_failed_and_what_is_legal(
    address: int, size: int, check: str, reached: list[bool], legal: tuple[int, int]
) -> None:
    m = machine()
    refusal = m.zap_vma_ptes(m.vma(START), address, size).refusal
    assert refusal is not None
    assert refusal.check == check
    assert [c.reached for c in refusal.checks] == reached
    assert refusal.legal is not None
    assert (refusal.legal.address, refusal.legal.size) == legal
    assert m.zap_vma_ptes(m.vma(START), *legal).ret == 0


@pytest.mark.parametrize(
    ("path", "special"),
    [("/dev/mixed", 0), ("/dev/io", -1), ("/dev/page", -1), ("", -1)],
)
def test_only_pfnmap_is_accepted_and_mixedmap_by_the_special_contract(path: str, special: int) -> None:
    for contract, want in (("int", -1), ("void", -1), ("special", special)):
        m = Machine(ram=16 << 20, zap_contract=contract)
        fd = m.open(path) if path else -1
        at = m.mmap(0, 4 * PAGE, "rw", "shared" if path else "private", fd)
        m.store(at, 4 * PAGE)
        result = m.zap_vma_ptes(m.vma(at), at, 2 * PAGE)
        assert result.verdict == want
        assert len(mapped(m, at, at + 4 * PAGE)) == (2 if want == 0 else 4)
        if want:
            assert result.refusal is not None
            assert (result.refusal.check, result.refusal.legal) == ("VM_PFNMAP", None)
        elif path:
            assert m.mm.counters.data["file"] == 2
        assert verify(m) == []


def test_an_empty_range_is_zapped_without_a_flush() -> None:
    m = machine()
    assert m.zap_vma_ptes(m.vma(START), START, 4 * PAGE).ptes_cleared == 4
    again = m.zap_vma_ptes(m.vma(START), START, 4 * PAGE)
    assert (again.ret, again.ptes_cleared, again.tlb) == (0, 0, ())
    assert again.why_nothing


# -- unaligned ranges

AT = 0x40000000 - 8 * PAGE  # eight pages below a border of page tables


@pytest.mark.parametrize(
    ("offset", "size", "cleared", "danger"),
    [
        (0x0, 0x800, [], "runaway"),
        (0x0, 0x1001, [], "runaway"),
        (0x1, 0x1, [], "runaway"),
        (0x800, 0x800, [], "runaway"),
        (0x800, 0x1000, [0], ""),
        (0x2800, 0x2000, [2, 3], ""),
        (0x1FFF, 0x1000, [1], ""),
        (0x7800, 0x2000, [], "runaway"),  # over the border of two tables
    ],
)
def test_unaligned(offset: int, size: int, cleared: list[int], danger: str) -> None:
    m = Machine(ram=16 << 20)
    m.mmap(AT, 16 * PAGE, 3, MAP_SHARED | MAP_FIXED, m.open("/dev/fb0"))
    before, there = m.digest(), mapped(m, AT, AT + 16 * PAGE)
    result = m.zap_vma_ptes(m.vma(AT), AT + offset, size)
    assert result.danger == danger
    gone = sorted(set(there) - set(mapped(m, AT, AT + 16 * PAGE)))
    assert gone == [AT + i * PAGE for i in cleared]
    if danger:
        assert result.ret is None
        assert m.digest() == before
    else:
        assert (result.ret, result.ptes_cleared) == (0, len(cleared))


def test_an_odd_range_without_a_table_is_harmless() -> None:
    m = Machine(ram=16 << 20)
    at = m.mmap(0, 16 * PAGE, "rw", "shared", m.open(BAR))
    assert find_danger(m.mm, m.vma(at), at + 2 * PAGE, 0x800) == ("", "")
    assert m.zap_vma_ptes(m.vma(at), at + 2 * PAGE, 0x800).ret == 0
    m.load(at)
    assert m.zap_vma_ptes(m.vma(at), at + 2 * PAGE, 0x800).danger == "runaway"


# -- what a zap does to each kind of entry, and what it leaves alone


def test_a_raw_entry_goes_and_nothing_else_changes() -> None:
    m = machine()
    m.store(START, 16 * PAGE)
    vma, counters = m.vma(START), dict(m.mm.counters.data)
    tables, free = m.sys.arena.tables_in_use(), m.sys.frames.states.buddy.nr_free()
    result = m.zap_vma_ptes(vma, START + PAGE, 3 * PAGE)
    assert (result.ptes_cleared, result.frames_freed) == (3, 0)
    after = m.vma(START)
    assert after == vma.replace(vm_flags=vma.vm_flags & ~VM_PAT)
    changed = {k for k, v in m.mm.counters.data.items() if counters[k] != v}
    assert changed == set()
    assert (m.sys.arena.tables_in_use(), m.sys.frames.states.buddy.nr_free()) == (tables, free)


def test_private_copies_in_a_pfnmap_vma_go_too_and_are_freed() -> None:
    m = Machine(ram=16 << 20)
    at = m.mmap(0, 8 * PAGE, "rw", "private", m.open("/dev/fb0"))
    assert m.vma(at).pgoff == 0xE0000
    free = m.sys.frames.states.buddy.nr_free()
    m.store(at + PAGE, 2 * PAGE)
    assert m.mm.counters.data["anon"] == 2
    result = m.zap_vma_ptes(m.vma(at), at, 8 * PAGE)
    assert (result.ptes_cleared, result.frames_freed) == (8, 2)
    assert m.mm.counters.data["anon"] == 0
    assert m.sys.frames.states.buddy.nr_free() == free
    assert m.mm.counters.data["hiwater_rss"] >= 2
    assert verify(m) == []


def test_a_dirty_entry_of_a_page_makes_the_page_dirty() -> None:
    m = Machine(ram=16 << 20, zap_contract="special")
    at = m.mmap(0, 2 * PAGE, "rw", "shared", m.open("/dev/mixed"))
    m.store(at)
    first, second = (m.sys.driver_pages.get(("/dev/mixed", i)) for i in (0, 1))
    assert not m.sys.frames.flags.flat[first] & PG_DIRTY
    m.zap_vma_ptes(m.vma(at), at, 2 * PAGE)
    assert m.sys.frames.flags.flat[first] & PG_DIRTY
    assert not m.sys.frames.flags.flat[second] & PG_DIRTY
    assert (m.sys.frames.refcount.flat[first], m.sys.frames.mapcount.flat[first]) == (1, 0)


# -- the TLB


@pytest.mark.parametrize(("pages", "kind"), [(1, "pages"), (33, "pages"), (34, "full")])
def test_flush_granularity(pages: int, kind: str) -> None:
    m = Machine(ram=16 << 20)
    at = m.mmap(0, 64 * PAGE, "rw", "shared", m.open("/dev/fb0"))
    m.load(at, 64 * PAGE)
    flush = m.zap_vma_ptes(m.vma(at), at, pages * PAGE).tlb
    assert [(f.kind, f.nr_pages) for f in flush] == [(kind, pages)]
    assert m.sys.tlbs[0].stale(m.mm.id, at, at + pages * PAGE) == 0
    left = m.sys.tlbs[0].stale(m.mm.id, at, at + 64 * PAGE)
    assert left == (64 - pages if kind == "pages" else 0)


def test_the_hull_counts_not_the_entries() -> None:
    m = Machine(ram=16 << 20)
    at = m.mmap(0, 100 * PAGE, "rw", "shared", m.open("/sys/bus/pci/devices/0000:00:02.0/resource2"))
    m.load(at)
    m.load(at + 99 * PAGE)
    result = m.zap_vma_ptes(m.vma(at), at, 100 * PAGE)
    assert result.ptes_cleared == 2
    assert [(f.kind, f.nr_pages) for f in result.tlb] == [("full", 100)]


# -- PAT


@pytest.mark.parametrize(("skip", "size"), [(0, 16 * PAGE), (3 * PAGE, PAGE), (3 * PAGE, 0), (0, 0), (5, 0)])
def test_any_zap_inside_drops_the_pat_reservation(skip: int, size: int) -> None:
    m = machine()
    assert m.vma(START).vm_flags & VM_PAT
    m.zap_vma_ptes(m.vma(START), START + skip, size)
    dropped = not m.vma(START).vm_flags & VM_PAT
    # A size of 0 at the very start has an empty intersection with the VMA: end <= vm_start.
    assert dropped == (skip > 0 or size > 0)


def test_a_refused_zap_keeps_the_reservation() -> None:
    m = machine()
    m.zap_vma_ptes(m.vma(START), START, 17 * PAGE)
    assert m.vma(START).vm_flags & VM_PAT


# -- the next access


def test_refault() -> None:
    m = machine()
    lazy = m.mmap(0, 4 * PAGE, "rw", "shared", m.open(BAR))
    m.store(lazy + PAGE, 1, 0x41)
    before = dict(leaves(m.mm))
    m.zap_vma_ptes(m.vma(lazy), lazy, 4 * PAGE)
    m.zap_vma_ptes(m.vma(START), START, PAGE)
    again = m.load(lazy + PAGE)
    assert (again.data, again.min_flt) == (b"A", 1)
    back = dict(leaves(m.mm))[lazy + PAGE]
    assert back & ~0x60 == before[lazy + PAGE] & ~0x60  # the same but for accessed and dirty
    with pytest.raises(SignalRaised) as info:
        m.load(START)
    assert (info.value.name, info.value.code, info.value.addr) == ("SIGBUS", "BUS_ADRERR", START)
    assert m.mm.counters.data["anon"] == 0


def test_vvar_can_be_zapped_and_the_stack_cannot() -> None:
    m = Machine(ram=16 << 20)
    vvar = m.vma("[vvar]")
    m.load(vvar.start)
    assert m.zap_vma_ptes(vvar, vvar.start, vvar.size).ptes_cleared == 1
    assert m.load(vvar.start).min_flt == 1
    stack = m.vma("[stack]")
    assert m.zap_vma_ptes(stack, stack.start, PAGE).ret == -1


# -- the helpers of drivers


def driver(
    m: Machine, size: int = 64 * PAGE, private: bool = False, prot: str = "rw", readonly: bool = False
) -> Vma:
    """A VMA of a driver that maps nothing by itself."""

    def mmap(mm: Mm, vma: Vma) -> Vma:
        new = vma.replace(ops="bare")
        mm.set_vma(vma, new)
        return new

    if "/dev/bare" not in m.sys.drivers:
        add_driver(m.sys, Driver("/dev/bare", 1 << 40, mmap, "nothing"), VmOperations("bare"))
    fd = m.open("/dev/bare", O_RDONLY) if readonly else m.open("/dev/bare")
    return m.vma(m.mmap(0, size, prot, "private" if private else "shared", fd))


def test_a_driver_with_a_bug_harms_nothing() -> None:
    """Its mmap maps twice, its fault handler inserts a raw frame into a private mapping: both are BUGs."""
    m = Machine(ram=16 << 20)

    def twice(mm: Mm, vma: Vma) -> Vma:
        new = remap_pfn_range(mm, vma.replace(ops="bad"), vma.start, 0xE0000, vma.size)
        return remap_pfn_range(mm, new, vma.start, 0xE0000, vma.size)

    def lazy(mm: Mm, vma: Vma) -> Vma:
        new = vma.replace(ops="bad", vm_flags=vma.vm_flags | VM_PFNMAP)
        mm.set_vma(vma, new)
        return new

    def fault(ctx: FaultContext) -> int:
        return vmf_insert_pfn(ctx.mm, ctx.vma, ctx.address, 0xE0000)

    add_driver(m.sys, Driver("/dev/twice", 1 << 20, twice, ""), VmOperations("bad", fault))
    add_driver(m.sys, Driver("/dev/lazy", 1 << 20, lazy, ""))
    fds = [m.open("/dev/twice"), m.open("/dev/lazy")]
    before = list(m.mm.vmas), list(leaves(m.mm)), m.sys.commit.data["committed"]
    with pytest.raises(CallerBugError, match="not empty"):
        m.mmap(0, 4 * PAGE, "rw", "shared", fds[0])
    assert before == (list(m.mm.vmas), list(leaves(m.mm)), m.sys.commit.data["committed"])
    assert verify(m) == []
    at = m.mmap(0, 4 * PAGE, "rw", "private", fds[1])
    with pytest.raises(CallerBugError, match="is_cow_mapping"):
        m.load(at)
    depth = [{"Enter": 1, "Leave": -1}.get(type(r).__name__, 0) for r in m.journal.records]
    assert sum(depth) == 0
    assert verify(m) == []


def test_remap_pfn_range() -> None:
    m = Machine(ram=16 << 20)
    vma = driver(m, 8 * PAGE)
    rss = m.mm.rss
    part = m.remap_pfn_range(vma, vma.start + PAGE, 0xE0000, PAGE + 1)  # the size is rounded up
    assert part.vm_flags == vma.vm_flags | VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP
    assert [(va - vma.start) // PAGE for va, _ in leaves(m.mm) if va in vma] == [1, 2]
    assert part.pgoff == vma.pgoff
    assert m.mm.rss == rss
    assert follow_pfn(m.mm, part, vma.start + 2 * PAGE) == 0xE0001
    whole = driver(m, 4 * PAGE)
    assert m.remap_pfn_range(whole, whole.start, 0xE0000, whole.size).vm_flags & VM_PAT


def test_remap_pfn_range_errors() -> None:
    m = Machine(ram=16 << 20)
    vma, cow = driver(m), driver(m, private=True, prot="r")
    for v, addr, size in (
        (vma, vma.start + 1, PAGE),
        (cow, cow.start, PAGE),
        (cow, cow.start + PAGE, cow.size - PAGE),
    ):
        with pytest.raises(KernelError) as info:
            m.remap_pfn_range(v, addr, 0xE0000, size)
        assert info.value.errno == "EINVAL"
    before = m.digest()
    with pytest.raises(CallerBugError):
        m.remap_pfn_range(vma, vma.start, 0xE0000, 0)
    assert m.digest() == before
    vma = m.remap_pfn_range(vma, vma.start, 0xE0000, PAGE)
    with pytest.raises(CallerBugError):
        m.remap_pfn_range(vma, vma.start, 0xE0010, 2 * PAGE)
    assert m.remap_pfn_range(cow, cow.start, 0xE0100, cow.size).pgoff == 0xE0100
    assert verify(m) == []
    plain = driver(m, readonly=True, prot="r")  # shared, of a descriptor open for reading: no COW mapping
    assert m.remap_pfn_range(plain, plain.start, 0xE0000, PAGE).pgoff == plain.pgoff


@pytest.mark.parametrize(
    ("pgoff", "pages", "start", "length", "errno"),
    [
        (0, 2, 0xFE000100, 0x1000, ""),
        (1, 2, 0xFE000100, 0x1000, "EINVAL"),
        (0, 1, TOP - 0x1000, 0x2000, "EINVAL"),
        (3, 1, 0xFE000000, 0x2000, "EINVAL"),
        (1, 1, 0xFE000000, 0x2000, ""),
    ],
)
def test_vm_iomap_memory(pgoff: int, pages: int, start: int, length: int, errno: str) -> None:
    m = Machine(ram=16 << 20)
    base = driver(m)
    fd = m.open("/dev/bare")
    vma = m.vma(m.mmap(base.start - 64 * PAGE, pages * PAGE, "rw", "shared", fd, pgoff * PAGE))
    if errno:
        with pytest.raises(KernelError, match=errno):
            m.vm_iomap_memory(vma, start, length)
        assert not mapped(m, vma.start, vma.end)
    else:
        m.vm_iomap_memory(vma, start, length)
        assert follow_pfn(m.mm, m.vma(vma.start), vma.start) == (start >> 12) + pgoff
        assert len(mapped(m, vma.start, vma.end)) == pages


def test_vm_insert_page() -> None:
    m = Machine(ram=16 << 20)
    vma, frames = driver(m), m.sys.frames
    pfn = frames.alloc_page(DRIVER)
    new = m.vm_insert_page(vma, vma.start, pfn)
    assert new.vm_flags == vma.vm_flags | VM_MIXEDMAP
    assert (frames.refcount.flat[pfn], frames.mapcount.flat[pfn], m.mm.counters.data["file"]) == (2, 1, 1)
    heap = m.mmap(0, PAGE, "rw", "private")
    m.store(heap)
    anon = follow_page(m, heap)
    free = frames.states.buddy.take(0)
    for v, addr, frame, errno in (
        (new, new.end, pfn, "EFAULT"),
        (new, new.start + PAGE, free, "EINVAL"),
        (new, new.start + PAGE, anon, "EINVAL"),
        (new, new.start, pfn, "EBUSY"),
    ):
        with pytest.raises(KernelError) as info:
            m.vm_insert_page(v, addr, frame)
        assert info.value.errno == errno
    raw = m.vma(START) if m.mm.vma_at(START) else m.remap_pfn_range(driver(m), driver(m).start, 0xE0000, PAGE)
    with pytest.raises(CallerBugError):
        m.vm_insert_page(raw, raw.start + PAGE, pfn)


def follow_page(m: Machine, addr: int) -> int:
    return (dict(leaves(m.mm))[addr] >> 12) & 0xFF_FFFF_FFFF


def test_vmf_insert_pfn() -> None:
    m = Machine(ram=16 << 20)
    lazy = m.vma(m.mmap(0, 4 * PAGE, "rw", "shared", m.open(BAR)))
    assert m.vmf_insert_pfn(lazy, lazy.start, 0xFE000) == VM_FAULT_NOPAGE
    assert m.vmf_insert_pfn(lazy, lazy.start, 0xFE003) == VM_FAULT_NOPAGE  # what is there stays
    assert follow_pfn(m.mm, lazy, lazy.start) == 0xFE000
    assert m.vmf_insert_pfn(lazy, lazy.end, 0xFE000) == VM_FAULT_SIGBUS
    mixed = m.vma(m.mmap(0, 4 * PAGE, "rw", "shared", m.open("/dev/mixed")))
    cow = m.vma(m.mmap(0, 4 * PAGE, "rw", "private", m.open("/dev/fb0")))
    for vma, pfn in ((driver(m), 0xFE000), (mixed, 5), (cow, 0xE0000)):
        with pytest.raises(CallerBugError):
            m.vmf_insert_pfn(vma, vma.start, pfn)


# -- a VM_PFNMAP VMA and the rest of the system


def test_pfnmap_vmas_never_merge_and_split_like_any_other() -> None:
    m = Machine(ram=16 << 20)
    fd = m.open("/dev/fb0")
    a = m.mmap(0x40000000, 4 * PAGE, 3, MAP_SHARED | MAP_FIXED, fd)
    b = m.mmap(0x40004000, 4 * PAGE, 3, MAP_SHARED | MAP_FIXED, fd, 4 * PAGE)
    assert m.vma(a) != m.vma(b)
    m.mmap(0x40002000, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)  # over a part of the device
    assert [(v.start, v.end, v.pgoff) for v in m.mm.vmas.overlapping(a, a + 8 * PAGE)] == [
        (a, a + 2 * PAGE, 0), (a + 2 * PAGE, a + 3 * PAGE, 0x40002), (a + 3 * PAGE, a + 4 * PAGE, 3),
        (b, b + 4 * PAGE, 4),
    ]  # fmt: skip
    assert verify(m) == []


@pytest.mark.parametrize("contract", ["int", "void", "special"])
def test_checks_pass_in_short_as_they_do_in_words(contract: str) -> None:
    kinds = (VM_PFNMAP, VM_MIXEDMAP, 0)
    spots = (0, 0xF000, 0x10000, 0x10001, 0x1F000, 0x20000, 0x21000, (1 << 64) - 4096)
    sizes = (0, 1, 0x1000, 0x10000, 0x10001, (1 << 64) - 0x8000)
    for kind in kinds:
        vma = Vma(0x10000, 0x20000, kind)
        for address in spots:
            for size in sizes:
                words = all(c.passed for c in judge(vma, address, size, contract))
                assert passes(vma, address, size, contract) == words


def test_a_zap_that_is_not_recorded_tells_its_checks_all_the_same() -> None:
    told = []
    for enabled in (True, False):
        m = Machine(ram=64 << 20)
        fb = m.mmap(0, 8 << 20, "rw", "shared", m.open("/dev/fb0"))
        m.journal.enabled = enabled
        told.append([m.zap_vma_ptes(m.vma(fb), fb, size).checks for size in (4 << 20, 4096, 9 << 20)])
    assert told[0] == told[1]
    assert [len(checks) for checks in told[1]] == [3, 3, 3]
