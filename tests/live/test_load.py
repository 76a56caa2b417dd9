"""Rebuilding images in the simulator: what is known comes back bit for bit, the rest is consistent."""

import re

import numpy as np
import pytest

from vmviz.kernel.arch.x86 import pte_pfn, swp_entry
from vmviz.kernel.errors import UnknownContentsError, VmvizError
from vmviz.kernel.machine import Config
from vmviz.kernel.mm.frames import ZERO_PFN
from vmviz.kernel.mm.page_alloc import FREE, Buddy
from vmviz.kernel.mm.page_flags import PG_ANON, PG_HIDDEN, PG_SWAPBACKED
from vmviz.live import LiveError, PageColumns, ProcessImage, VmaRecord, VmaTable, load_image
from vmviz.live import pour as pour_module

PRESENT, SWAPPED, EXCLUSIVE, FILE, SOFT, UFFD = 1 << 63, 1 << 62, 1 << 56, 1 << 61, 1 << 55, 1 << 57
KPF_DIRTY_SHMEM, KPF_ANON, KPF_FILE, KPF_ZERO = 0x4838, 0x5828, 0x82C, 1 << 24
KPF_NOPAGE, KPF_KSM, KPF_THP = 1 << 20, 1 << 21, 1 << 22
NX = 1 << 63
PAGE = 4096
RW, RO, RX, SH, PF = 0x100073, 0x71, 0x75, 0xFB, 0x40444FB
BASE = 0x7F0000000000


def vma(start, pages, flags=RW, path="", inode=0, *, offset=0, dev="00:00", rss=None, key=None):
    perms = "".join(c if flags & b else "-" for c, b in zip("rwx", (1, 2, 4), strict=True))
    perms += "s" if flags & 0x80 else "p"
    smaps = {} if rss is None else {"Rss": rss}
    end = start + pages * PAGE
    return VmaRecord(start, end, perms, offset, dev, inode, path, flags, "rd", smaps, key)


def image(vmas, rows=(), *, visible=True, told=False, **more):
    """``rows`` are (address, word, PFN, kpageflags, kpagecount); the word gets the PFN if it is visible."""
    rows = sorted(rows)
    words = [w | (p if visible and w & PRESENT else 0) for _, w, p, _, _ in rows]
    pages = PageColumns(
        vpn=[a // PAGE for a, *_ in rows],
        entry=np.array(words, np.uint64),
        pfn=[p if visible and w & PRESENT else 0 for _, w, p, _, _ in rows],
        flags=[f for *_, f, _ in rows] if told else None,
        count=[c for *_, c in rows] if told else None,
    )
    unknown = tuple((v.start, v.end) for v in vmas if v.vm_flags & 0x400)
    fields = {"pid": 4711, "name": "victim", "unknown_ranges": unknown} | more
    table = VmaTable.of(vmas)
    return ProcessImage(page_size=PAGE, vmas=table, pages=pages, pfns_visible=visible, **fields)


def entry(machine, address):
    slot = machine.arena.lookup(machine.mm.pgd, address)
    return machine.arena.get(slot) if slot >= 0 else 0


def wrong(machine):
    """What contradicts itself in a machine; counts of frames may be higher than this process shows."""
    mm, frames, arena = machine.mm, machine.frames, machine.arena
    out = list(mm.vmas.check())
    frames.states.buddy._settle()  # a block that single frames are taken from is set apart until then
    fresh = Buddy(frames.states.array, frames.zones)
    out += [] if np.array_equal(fresh._view, frames.states.buddy._view) else ["free blocks"]
    out += frames.states.buddy.check()
    blocks = np.arange(machine.frames.nr_frames) >> 9
    counts = np.bincount(blocks * 8 + frames.states.array, minlength=len(frames.states.pyramid) * 8)
    out += [] if (counts.reshape(-1, 8) == frames.states.pyramid).all() else ["pyramid"]
    seen = np.zeros(frames.nr_frames, np.int64)
    rss = dict.fromkeys(("anon", "file", "shmem"), 0)
    swapped = 0
    used = np.flatnonzero(arena.pfn_of.array)
    for row in used[arena.level_of.array[used] == len(machine.sys.mode.levels) - 1].tolist():
        for value in arena.rows[row][arena.rows[row] != 0].tolist():
            if not value & 0x101:
                swapped += 1
            elif not value & 0x200:
                pfn = pte_pfn(value)
                seen[pfn] += 1
                flags = frames.flags.flat[pfn]
                rss["anon" if flags & PG_ANON else "shmem" if flags & PG_SWAPBACKED else "file"] += 1
    out += [f"{k}: {mm.counters.data[k]}, found {n}" for k, n in rss.items() if mm.counters.data[k] != n]
    out += [] if mm.counters.data["swap"] == swapped else ["swap"]
    out += ["mapcount"] if (frames.mapcount.array < seen).any() else []
    out += ["refcount"] if (frames.refcount.array < frames.mapcount.array).any() else []
    out += ["mapped but free"] if (frames.states.array[seen > 0] == FREE).any() else []
    out += ["pgtables"] if mm.counters.data["pgtables"] != (arena.tables_in_use() - 1) * PAGE else []
    out += ["total_vm"] if mm.counters.data["total_vm"] != sum(v.nr_pages for v in mm.vmas) else []
    out += ["map_count"] if mm.counters.data["map_count"] != len(mm.vmas) else []
    return out


# what, VMA flags, pagemap word, kpageflags, expected bits beside the frame
ENTRIES = [
    ("own anon page", RW, PRESENT | EXCLUSIVE | SOFT, KPF_ANON, NX | 0x867),
    ("own anon page, not soft-dirty", RW, PRESENT | EXCLUSIVE, KPF_ANON, NX | 0x67),
    ("anon page shared after fork", RW, PRESENT, KPF_ANON, NX | 0x65),
    ("anon page in a VMA made read-only", RO, PRESENT | EXCLUSIVE, KPF_ANON, NX | 0x65),
    ("KSM page", RW, PRESENT, KPF_ANON | KPF_KSM, NX | 0x25),
    ("uffd-wp page", RW, PRESENT | EXCLUSIVE | UFFD, KPF_ANON, NX | 0x465),
    ("zero page", RW, PRESENT, KPF_ZERO, NX | 0x225),
    ("zero page, VM_SOFTDIRTY", RW | 0x8000000, PRESENT | SOFT, KPF_ZERO, NX | 0x225),
    ("own anon page, VM_SOFTDIRTY", RW | 0x8000000, PRESENT | EXCLUSIVE | SOFT, KPF_ANON, NX | 0x867),
    ("text", RX, PRESENT | FILE, KPF_FILE, 0x25),
    ("private file page, never written", RW, PRESENT | FILE | EXCLUSIVE, KPF_FILE, NX | 0x25),
    ("written shmem page", SH, PRESENT | FILE | EXCLUSIVE, KPF_DIRTY_SHMEM, NX | 0x67),
    ("clean page of a shared file", SH, PRESENT | FILE, KPF_FILE, NX | 0x27),
    ("frame without struct page", SH, PRESENT, KPF_NOPAGE, NX | 0x227),
]


@pytest.mark.parametrize(
    ("flags", "word", "kpf", "bits"), [e[1:] for e in ENTRIES], ids=[e[0] for e in ENTRIES]
)
def test_the_bits_of_an_entry(flags, word, kpf, bits):
    m = load_image(image([vma(BASE, 4, flags)], [(BASE + PAGE, word, 0x1234, kpf, 1)], told=True))
    assert hex(entry(m, BASE + PAGE)) == hex(0x1234000 | bits)
    assert entry(m, BASE) == 0
    assert wrong(m) == []


def test_a_page_without_any_right_keeps_its_frame_inverted():
    m = load_image(image([vma(BASE, 1, 0x70)], [(BASE, PRESENT | EXCLUSIVE, 0x1234, KPF_ANON, 1)], told=True))
    assert not entry(m, BASE) & 1
    assert pte_pfn(entry(m, BASE)) == 0x1234
    assert wrong(m) == []


def test_a_protection_key_is_in_flags_and_entry():
    m = load_image(image([vma(BASE, 1, key=5)], [(BASE, PRESENT | EXCLUSIVE, 0x1234, 0, 0)]))
    assert m.vma(BASE).vm_flags == RW | 5 << 32
    assert entry(m, BASE) >> 59 & 15 == 5


@pytest.mark.parametrize(
    ("kind", "offset", "more", "bits"),
    [(0, 0x10, 0, 0), (1, 0x10, SOFT, 2), (3, 0xABCDEF, UFFD, 4), (5, (1 << 50) - 1, SOFT | UFFD, 6)],
)
def test_swap_entries(kind, offset, more, bits):
    m = load_image(image([vma(BASE, 2)], [(BASE, SWAPPED | offset << 5 | kind | more, 0, 0, 0)]))
    assert entry(m, BASE) == swp_entry(kind, offset) | bits
    assert (m.mm.counters.data["swap"], m.mm.rss, m.vma(BASE).anon_vma) == (1, 0, 1)
    before = m.digest()
    for touch in (m.load, m.store):
        with pytest.raises(UnknownContentsError, match=f"swap type {kind}, offset {offset:#x}"):
            touch(BASE, 2 * PAGE)
    assert m.digest() == before
    assert m.store(BASE + PAGE).touched == 1


def test_a_migration_entry_is_not_counted_as_swap():
    m = load_image(image([vma(BASE, 1)], [(BASE, SWAPPED | 0x1234 << 5 | 30, 0, 0, 0)]))
    assert entry(m, BASE) == swp_entry(30, 0x1234)
    assert m.mm.counters.data["swap"] == 0


def test_frames_know_their_kind_and_counts():
    rows = [
        (BASE, PRESENT | EXCLUSIVE, 100, KPF_ANON, 1),
        (BASE + PAGE, PRESENT, 101, KPF_ANON | KPF_KSM, 3),
        (BASE + 0x10000, PRESENT | FILE, 102, KPF_FILE, 9),
        (BASE + 0x11000, PRESENT | FILE, 102, KPF_FILE, 9),
        (BASE + 0x12000, PRESENT | FILE, 103, KPF_FILE, 0),
        (BASE + 0x20000, PRESENT | FILE, 104, KPF_DIRTY_SHMEM, 2),
    ]
    vmas = [
        vma(BASE, 2),
        vma(BASE + 0x10000, 3, RX, "/lib/a.so", 7, offset=0x5000),
        vma(BASE + 0x20000, 1, SH, "/memfd:x (deleted)", 8),
    ]
    m = load_image(image(vmas, rows, told=True))
    text = m.sys.files.get(m.vma(BASE + 0x10000).file)
    assert (m.frames.page(100).state, m.frames.page(100).refcount, m.frames.page(100).mapcount) == (
        "anon",
        1,
        1,
    )
    assert "exclusive" in m.frames.page(100).flags
    assert (m.frames.page(101).refcount, m.frames.page(101).mapcount) == (3, 3)
    assert "exclusive" not in m.frames.page(101).flags
    page = m.frames.page(102)
    assert (page.state, page.refcount, page.mapcount, page.mapping, page.index) == (
        "file",
        10,
        9,
        text.inode,
        5,
    )
    assert m.frames.page(103).mapcount == 1  # kpagecount was read later: this process maps it for certain
    assert (m.mm.counters.data["anon"], m.mm.counters.data["file"], m.mm.counters.data["shmem"]) == (2, 3, 1)
    assert wrong(m) == []
    m.munmap(BASE + 0x10000, 3 * PAGE)
    page = m.frames.page(102)
    assert (page.refcount, page.mapcount, m.mm.counters.data["file"]) == (8, 7, 0)
    assert m.frames.page(103).state == "file"  # the page cache still holds it
    assert wrong(m) == []


def test_without_counts_a_page_that_is_not_exclusive_has_another_user():
    rows = [(BASE, PRESENT, 100, 0, 0), (BASE + PAGE, PRESENT | EXCLUSIVE, 101, 0, 0)]
    m = load_image(image([vma(BASE, 2)], rows))
    assert [m.frames.page(p).mapcount for p in (100, 101)] == [2, 1]
    m.store(BASE, 2 * PAGE)
    assert pte_pfn(entry(m, BASE)) != 100  # copied, as another process maps it
    assert pte_pfn(entry(m, BASE + PAGE)) == 101
    assert m.frames.page(100).mapcount == 1
    assert wrong(m) == []


def test_hidden_frames_have_distinct_numbers_and_are_marked():
    vmas = [vma(BASE, 600, rss=600 * 4), vma(BASE + (4 << 20), 8, RX, "/bin/x", 3, rss=8)]
    rows = [(BASE + i * PAGE, PRESENT | EXCLUSIVE, 0, 0, 0) for i in range(600)]
    rows += [(BASE + (4 << 20) + i * PAGE, PRESENT | FILE, 0, 0, 0) for i in range(2)]
    m = load_image(image(vmas, rows, visible=False, missing_right="CAP_SYS_ADMIN"))
    pfns = [pte_pfn(entry(m, a)) for a, *_ in sorted(rows)]
    assert len(set(pfns)) == 602
    assert all(m.frames.flags.get(p) & PG_HIDDEN for p in pfns)
    assert m.image.missing_right == "CAP_SYS_ADMIN"
    assert (m.mm.counters.data["anon"], m.mm.counters.data["file"]) == (600, 2)
    new = m.mmap(0, PAGE, "rw", "private")
    m.store(new)
    assert not m.frames.flags.get(pte_pfn(entry(m, new))) & PG_HIDDEN
    assert wrong(m) == []


@pytest.mark.parametrize(
    ("rss", "kinds", "zeros", "warned"),
    [
        (4, "EZZ", 2, False),
        (12, "EZZ", 0, False),
        (8, "EZZ", 0, True),
        (0, "ZZZ", 3, False),
        (None, "ZZZ", 0, False),
    ],
)
def test_without_kpageflags_rss_tells_the_zero_page(rss, kinds, zeros, warned):
    rows = [(BASE + i * PAGE, PRESENT | (EXCLUSIVE if k == "E" else 0), 0, 0, 0) for i, k in enumerate(kinds)]
    m = load_image(image([vma(BASE, 4, rss=rss)], rows, visible=False))
    found = [entry(m, a) for a, *_ in rows]
    assert sum(pte_pfn(e) == ZERO_PFN and bool(e & 0x200) for e in found) == zeros
    assert m.mm.rss == 3 - zeros
    assert any("zero page" in w for w in m.image.warnings) == warned
    assert wrong(m) == []


def test_pfns_beyond_the_columns_get_numbers_that_keep_the_sharing():
    high = 1 << 40
    rows = [(BASE + i * PAGE, PRESENT | FILE, high + p, KPF_FILE, 2) for i, p in enumerate((5, 9, 5))]
    m = load_image(image([vma(BASE, 3, RX, "/bin/x", 3)], rows, told=True))
    pfns = [pte_pfn(entry(m, a)) for a, *_ in rows]
    assert pfns[0] == pfns[2] != pfns[1]
    assert m.frames.flags.get(pfns[0]) & PG_HIDDEN
    assert m.frames.nr_frames < 1 << 22
    assert any(f"{high + 9:#x}" in w for w in m.image.warnings)
    assert wrong(m) == []


def test_new_memory_comes_from_the_spare_zone_above_all_known_frames():
    top = (1 << 20) + 77_777
    m = load_image(image([vma(BASE, 1)], [(BASE, PRESENT | EXCLUSIVE, top, 0, 0)]))
    spare = m.frames.zones[-1]
    assert (spare.name, spare.spanned_pages << 12 >= 64 << 20, spare.start_pfn > top) == ("Spare", True, True)
    assert np.flatnonzero(m.frames.states.array == FREE).min() >= spare.start_pfn
    a = m.mmap(0, 1 << 20, "rw", "private")
    m.store(a, 1 << 20)
    assert all(spare.start_pfn <= pte_pfn(entry(m, a + i * PAGE)) < spare.end_pfn for i in range(256))
    assert (m.arena.pfn_of.array[m.arena.pfn_of.array > 0] >= spare.start_pfn).all()
    m.munmap(BASE, PAGE)  # a freed real frame is free like any other
    assert m.frames.page(top).state == "free"
    assert wrong(m) == []


def test_the_vmas_and_fields_are_those_of_the_process():
    vmas = [
        vma(0x400000, 2, RX, "/bin/x", 3, offset=0x1000, dev="fe:00"),
        vma(0x402000, 1, RW, "/bin/x", 3, offset=0x3000, dev="fe:00"),
        vma(0x500000, 4, RW, "[heap]"),
        vma(BASE, 16),
        vma(BASE + 0x10000, 4, SH, "/dev/zero (deleted)", 99, dev="00:01"),
        vma(BASE + 0x14000, 1, PF, "/dev/card", 12, offset=0x10000, dev="00:05"),
        vma(BASE + 0x20000, 2, 0x4044411, "[vvar]"),
        vma(0x7FFFF0000000, 33, 0x100173, "[stack]"),
    ]
    m = load_image(image(vmas, layout={"start_brk": 0x4FF000, "start_stack": 0x7FFFF0010000}))
    got = list(m.mm.vmas)
    assert [(v.start, v.end, v.vm_flags, v.name) for v in got] == [
        (v.start, v.end, v.vm_flags, v.path) for v in vmas
    ]
    assert [v.pgoff for v in got[:3]] == [1, 3, 0x500]
    assert got[5].pgoff == 16
    assert [bool(v.ops) for v in got] == [True, True, False, False, True, True, True, False]
    assert got[0].file == got[1].file != 0
    assert got[7].page_prot == NX | 0x25
    inode = m.sys.inodes.get(m.sys.files.get(got[0].file).inode)
    assert (inode.path, inode.number, inode.dev, inode.size) == ("/bin/x", 3, "fe:00", 0x4000)
    field = m.mm.field
    assert (field("start_brk"), field("brk"), field("start_stack")) == (0x4FF000, 0x504000, 0x7FFFF0010000)
    assert (field("mmap_base"), field("stack_limit")) == (BASE + 0x22000, 8 << 20)
    assert (m.pid, m.task.comm, m.task.mm) == (4711, "victim", m.mm.id)
    c = m.mm.counters.data
    assert (c["total_vm"], c["exec_vm"], c["stack_vm"], c["data_vm"], c["map_count"]) == (63, 2, 33, 21, 8)
    assert m.brk(0x505000) == 0x505000
    assert m.mmap(0, 1 << 20, "rw", "private") == BASE - (1 << 20)
    m.store(0x7FFFF0000000 - PAGE)
    assert m.vma("[stack]").nr_pages == 34
    assert wrong(m) == []


def test_the_entries_of_devices_are_unknown_until_zapped():
    m = load_image(image([vma(BASE, 8, PF, "/dev/card", 12), vma(BASE + 0x8000, 4, 0x4044411, "[vvar]")]))
    card = m.vma("card")
    with pytest.raises(UnknownContentsError, match="cannot be observed"):
        m.load(BASE)
    first = m.zap_vma_ptes(card, BASE + PAGE, 2 * PAGE)
    assert (first.ret, first.ptes_cleared, first.ptes_unknown) == (0, 0, 2)
    assert m.zap_vma_ptes(card, BASE, 8 * PAGE).ptes_unknown == 6
    assert m.zap_vma_ptes(card, BASE, 8 * PAGE).ptes_unknown == 0
    with pytest.raises(UnknownContentsError, match="fault handler of /dev/card"):
        m.load(BASE)
    assert m.mm.unknown_pages(0, 1 << 47) == 4


@pytest.mark.parametrize(
    ("path", "flags"), [("/bin/x", RX), ("/bin/x", RW), ("/memfd:a (deleted)", SH), ("", SH)]
)
def test_a_missing_page_of_a_file_is_unknown(path, flags):
    m = load_image(image([vma(BASE, 8, flags, path, 3)]))
    with pytest.raises(UnknownContentsError, match=re.escape(path or "the mapping at 0x7f0000000000")):
        m.load(BASE)


def test_unknown_ranges_are_kept_inside_vmas():
    vmas = [vma(BASE, 4), vma(BASE + 0x4000, 4), vma(BASE + 0x10000, 4)]
    m = load_image(image(vmas, unknown_ranges=((BASE + 0x1000, BASE + 0x11000),)))
    assert m.mm.unknown.data == {BASE + 0x1000: BASE + 0x8000, BASE + 0x10000: BASE + 0x11000}
    with pytest.raises(UnknownContentsError):
        m.store(BASE + 0x1000)
    m.store(BASE + 0x12000)


def test_without_smaps_the_usual_flags_are_filled_in():
    records = [vma(BASE, 1, 0x3), vma(BASE + 0x10000, 2, 0x3, "[stack]")]
    records = [VmaRecord(r.start, r.end, r.perms, 0, "00:00", 0, r.path, r.vm_flags, "") for r in records]
    m = load_image(image(records))
    assert [v.vm_flags for v in m.mm.vmas] == [0x73, 0x173]


def test_a_path_that_is_no_utf8_can_be_digested():
    m = load_image(image([vma(BASE, 1, RX, "/tmp/\udcff.so", 4)], name="x\udc80"))
    assert m.vma(BASE).name == "/tmp/\\xff.so"
    assert len(m.digest()) == 64


def test_huge_pages_are_told():
    rows = [(BASE + i * PAGE, PRESENT | EXCLUSIVE, 512 + i, KPF_ANON | KPF_THP, 1) for i in range(512)]
    m = load_image(image([vma(BASE, 512)], rows, told=True))
    assert m.mm.rss == 512
    assert "2048 kB in huge pages are shown as 4 KiB entries" in m.image.notes
    assert m.munmap(BASE, 2 << 20).freed_pages == 512


def test_an_empty_image_makes_a_machine():
    m = load_image(image([], pid=0))
    assert (len(m.mm.vmas), m.mm.rss, m.pid) == (0, 0, 1)
    m.store(m.mmap(0, PAGE, "rw", "private"))
    assert wrong(m) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vmas": VmaTable.of([vma(1 << 48, 1)])}, "above the user space of this paging mode .*x86-64-5l"),
        ({"page_size": 16384}, "its pages have 16384 bytes"),
        ({"pages": PageColumns([5], [PRESENT | 7], [7])}, "not sound: page.vpn: page 0x5 lies in no VMA"),
        ({"vmas": VmaTable.of([vma(BASE, 2), vma(BASE + PAGE, 2)])}, "not sound: vma.start"),
    ],
)
def test_what_cannot_be_loaded_is_said(change, message):
    import attrs

    with pytest.raises(LiveError, match=message):
        load_image(attrs.evolve(image([vma(BASE, 1)]), **change))


def test_five_levels_on_request():
    m = load_image(
        image([vma(1 << 50, 1)], [(1 << 50, PRESENT | EXCLUSIVE, 0x1234, 0, 0)]), Config(mode="x86-64-5l")
    )
    assert pte_pfn(entry(m, 1 << 50)) == 0x1234
    assert wrong(m) == []


def test_more_page_tables_than_any_process_has_are_refused(monkeypatch):
    rows = [(BASE + (i << 21), PRESENT | EXCLUSIVE, 100 + i, 0, 0) for i in range(20)]
    monkeypatch.setattr(pour_module, "MAX_TABLES", 20)
    with pytest.raises(LiveError, match="need 23 page tables"):
        load_image(image([vma(BASE, 20 << 9)], rows))


def test_bad_dials_are_refused():
    with pytest.raises(VmvizError, match="zap_contract"):
        load_image(image([vma(BASE, 1)]), Config(zap_contract="long"))


def test_the_digest_is_the_same_each_time_and_undo_returns_to_it():
    rows = [
        (BASE + i * PAGE, PRESENT | (EXCLUSIVE if i % 3 else 0), 5000 + i, KPF_ANON, 1 + (i % 3 == 0))
        for i in range(900)
    ]
    rows.append((BASE + (2 << 30), SWAPPED | 0x40, 0, 0, 0))
    vmas = [vma(BASE, 1000), vma(BASE + 1000 * PAGE, 4, 0x4044411, "[vvar]"), vma(BASE + (2 << 30), 1)]
    picture = image(vmas, rows, told=True)
    m = load_image(picture)
    base = m.digest()
    assert load_image(picture).digest() == base
    assert m.position == (0, 0)
    m.zap_vma_ptes(m.vma("[vvar]"), BASE + 1000 * PAGE, PAGE)
    m.store(BASE, 900 * PAGE)
    m.munmap(BASE + 100 * PAGE, 800 * PAGE)
    m.mmap(0, 3 << 20, "rw", "private")
    m.munmap(BASE, 1 << 30)
    end, done = m.journal.end, m.digest()
    assert wrong(m) == []
    m.journal.seek((0, 0))
    assert m.digest() == base
    assert wrong(m) == []
    m.journal.seek(end)
    assert m.digest() == done != base


def columns(vmas, vpn, entry, pfn):
    return ProcessImage(1, "big", PAGE, VmaTable.of(vmas), PageColumns(vpn, entry, pfn), pfns_visible=True)


def test_sixty_thousand_vmas_and_a_million_pages():
    n = 60_000
    vmas = [vma(BASE + i * 2 * PAGE, 1 + i % 2, RW if i % 2 else RO) for i in range(n)]
    big = BASE - (4 << 30)
    vmas.insert(0, vma(big, 1 << 20))
    vpn = np.concatenate(
        (
            np.arange(1 << 20, dtype=np.uint64) + np.uint64(big >> 12),
            np.array([v.start >> 12 for v in vmas[1:]], np.uint64),
        )
    )
    pfn = np.arange(len(vpn), dtype=np.uint64) * np.uint64(3) + np.uint64(4096)
    picture = columns(vmas, vpn, pfn | np.uint64(PRESENT | EXCLUSIVE), pfn)
    m = load_image(picture)
    assert m.mm.rss == len(vpn)
    assert m.mm.counters.data["map_count"] == n + 1
    assert [pte_pfn(entry(m, int(v) << 12)) for v in vpn[::50_021]] == pfn[::50_021].tolist()
    assert not m.journal.records
