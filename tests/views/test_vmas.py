"""The VMA list: the look of the three moments, ordinals against a walk over all VMAs, what is kept."""

from __future__ import annotations

import random

import pytest

from vmviz.kernel import Machine
from vmviz.kernel.mm.flags import VM_IO, VM_MIXEDMAP
from vmviz.kernel.mm.vma import Vma
from vmviz.kernel.trace.bulk import Bulk
from vmviz.views.cells import ROLES, fit, plain
from vmviz.views.scene import Range, Scene
from vmviz.views.trail import Trail
from vmviz.views.vma_index import VmaIndex, mapped_pfns, present_in
from vmviz.views.vmas import VmaView, short_name

FB, BAR, HEAP, STACK = 0x7FFFF7000000, 0x7FFFF7FB0000, 0x555555758000, 0x7FFFFFFDE000
MIB = 1 << 20
WIDTH = {"narrow": 40, "wide": 43}


def camera() -> Machine:
    m = Machine(ram=64 << 20, vdso=False)
    m.execve("/usr/bin/camera")
    m.load(0x555555554000, 8192)  # both pages of text, whatever the first fetch has brought in
    heap = m.brk(0)
    m.brk(heap + 65536)
    m.store(heap, 65536)
    m.mmap(FB, 8 * MIB, "rw", "shared", m.open("/dev/fb0"))
    m.mmap(BAR, 65536, "rw", "shared", m.open("/sys/bus/pci/devices/0000:00:02.0/resource0"))
    m.load(BAR, 12288)
    return m


def opened() -> Scene:
    return Scene(camera(), cursor=FB, labels={"fb": FB})


def zapping() -> Scene:
    """The second moment: 384 of 512 entries are gone."""
    m = camera()
    start = m.position
    m.zap_vma_ptes(m.vma(FB), FB + MIB, 2 * MIB)
    records = m.journal.records
    at = next(i for i in range(start[0], len(records)) if isinstance(records[i], Bulk))
    m.journal.seek((at, 384))
    return Scene(m, FB + 0x280000, Range(FB + MIB, FB + 3 * MIB, FB), Trail(m, start, m.position))


def refused() -> Scene:
    """The third moment: the range leaves its VMA."""
    m = camera()
    start = m.position
    m.zap_vma_ptes(m.vma(FB), FB + 7 * MIB, 2 * MIB)
    return Scene(m, FB + 8 * MIB, Range(FB + 7 * MIB, FB + 9 * MIB, FB), Trail(m, start, m.position))


def text(view: VmaView, layout: str) -> list[str]:
    width = WIDTH[layout]
    lines = [fit(view.row(i, width), width) for i in range(view.row_count)]
    assert {role for line in lines for _, role in line} <= set(ROLES)
    assert all(len(plain(line)) == width for line in lines)
    return [plain(line).rstrip() for line in lines]


NARROW = [
    "      85.3T free",
    "  555555554000    8K r-xp    camera",
    "      2.0M free",
    "  555555758000   64K rw-p    [heap]",
    "      42.6T free",
    " ►7ffff7000000    8M rw-s PF /dev/fb0",
    "   ends 7ffff7800000  2048 of 2048 PTEs",
    "      7.6M free",
    "  7ffff7fb0000   64K rw-s PF resource0",
    "      128.1M free",
    "  7ffffffde000  132K rw-p    [stack]",
]
WIDE = [
    "                85.3T free",
    "  555555554000    8K r-xp    camera       2",
    "                 2.0M free",
    "  555555758000   64K rw-p    [heap]      16",
    "                42.6T free",
    " ►7ffff7000000    8M rw-s PF /dev/fb0  2048",
    "     vm_end 7ffff7800000",
    "     rd wr sh mr mw me ms pf io de ar dd sd",
    "     pfn e0000..e07ff, no struct pages",
    "     no fault handler: a touch is SIGBUS",
    "                 7.6M free",
    "  7ffff7fb0000   64K rw-s PF resource0    3",
    "               128.1M free",
    "  7ffffffde000  132K rw-p    [stack]      2",
    "  7ffffffff000  end of user space",
    "",
    "  last column: PTEs present",
    "  PF VM_PFNMAP: raw frame numbers,",
    "     the kind that zap_vma_ptes accepts",
]


def changed(rows: list[str], changes: dict[int, str]) -> list[str]:
    return [changes.get(i, row) for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("make", "layout", "expected"),
    [
        (opened, "narrow", NARROW),
        (opened, "wide", WIDE),
        (
            zapping,
            "narrow",
            changed(
                NARROW,
                {
                    5: "▬►7ffff7000000    8M rw-s PF /dev/fb0",
                    6: "   ends 7ffff7800000  1664 of 2048 PTEs",
                },
            ),
        ),
        (
            zapping,
            "wide",
            changed(
                WIDE,
                {
                    5: "▬►7ffff7000000    8M rw-s PF /dev/fb0  1664",
                    7: "     rd wr sh mr mw me ms pf io de ×× dd sd",
                },
            ),
        ),
        (
            refused,
            "narrow",
            changed(
                NARROW,
                {
                    5: "▄ 7ffff7000000    8M rw-s PF /dev/fb0",
                    6: "█  ends 7ffff7800000  2048 of 2048 PTEs",
                    7: "!►    7.6M free  1M of the range is here",
                },
            ),
        ),
        (
            refused,
            "wide",
            changed(
                WIDE,
                {5: "▄ 7ffff7000000    8M rw-s PF /dev/fb0  2048"}
                | {i: "█" + WIDE[i][1:] for i in range(6, 10)}
                | {10: "!►               7.6M free, 1M is asked for"},
            ),
        ),
    ],
)
def test_the_three_moments(make: object, layout: str, expected: list[str]) -> None:
    scene = make()  # type: ignore[operator]
    view = VmaView(scene, layout)
    assert text(view, layout) == expected
    assert view.title_right == "5"
    cursor = next(i for i, row in enumerate(expected) if row[1:2] == "►")
    assert [i for i in range(view.row_count) if view.is_cursor(i)] == [cursor]
    assert view.cursor_index == view.index_of(scene.cursor) == cursor


def test_roles_carry_what_the_words_say() -> None:
    view = VmaView(zapping(), "wide")
    assert ("××", "flag.gone") in view.row(7, 43)
    assert ("pf", "flag.pf") in view.row(7, 43)
    assert view.row(5, 43)[0] == ("▬", "mark.range")
    gap = VmaView(refused(), "wide").row(10, 43)
    assert gap[0] == ("!", "mark.outside")
    assert "gap.hit" in {role for _, role in gap}
    assert "gap.hit" not in {role for _, role in VmaView(opened(), "wide").row(10, 43)}


@pytest.mark.parametrize(
    ("cursor", "details"),
    [
        (BAR, ["pfn fe000..fe00f, no struct pages", "its fault handler maps a page when it", "is touched"]),
        (HEAP, ["anon_vma 2", "anonymous: a touch finds zeros"]),
        (0x555555554000, ["/usr/bin/camera, page 0x0 on", "the page cache fills a missing page"]),
        (HEAP + 65536, []),
    ],
)
def test_details_of_each_kind(cursor: int, details: list[str]) -> None:
    rows = text(VmaView(Scene(camera(), cursor=cursor), "wide"), "wide")
    for words in details:
        assert any(row.startswith("     " + words) for row in rows), words
    assert any("vm_end" in row for row in rows) == bool(details)


def test_names_of_special_flags() -> None:
    m = Machine(ram=64 << 20)
    m.mmap(0x7FFFF0000000, 8192, "rw", "shared", m.open("/dev/mixed"))
    m.mmap(0x7FFFF1000000, 8192, "rw", "shared", m.open("/dev/io"))
    assert m.vma(0x7FFFF0000000).vm_flags & VM_MIXEDMAP
    assert m.vma(0x7FFFF1000000).vm_flags & VM_IO
    rows = text(VmaView(Scene(m), "narrow"), "narrow")
    assert "  7ffff0000000    8K rw-s MM /dev/mixed" in rows
    assert "  7ffff1000000    8K rw-s IO /dev/io" in rows
    assert any("PF [vvar]" in row for row in rows)


def test_readable_addresses() -> None:
    scene = opened()
    scene.readable = True
    rows = text(VmaView(scene, "narrow"), "narrow")
    assert rows[5] == " ►fb              8M rw-s PF /dev/fb0"


def test_unknown_ranges_are_not_zero() -> None:
    m = camera()
    m.journal.write(m.mm.unknown, BAR, BAR + 65536)
    scene = Scene(m, cursor=BAR)
    wide, narrow = (text(VmaView(scene, layout), layout) for layout in ("wide", "narrow"))
    assert wide[7] == " ►7ffff7fb0000   64K rw-s PF resource0   ??"
    assert "     present: ?? (cannot be observed)" in wide
    assert narrow[8:10] == ["   ends 7ffff7fc0000  ?? of 16 PTEs", "   present: ?? (cannot be observed)"]


def test_the_legend_needs_room() -> None:
    scene = opened()
    full = VmaView(scene, "wide").row_count
    assert VmaView(scene, "wide", full).row_count == full
    assert VmaView(scene, "wide", full - 1).row_count == full - 4
    assert text(VmaView(scene, "wide", full - 1), "wide")[-1] == "  7ffffffff000  end of user space"


def test_names_fall_back_to_their_last_part() -> None:
    row = plain(VmaView(opened(), "wide").row(1, 70))
    assert row == "  555555554000    8K r-xp    /usr/bin/camera" + " " * 25 + "2"
    assert short_name("/usr/bin/camera", 0) == ""
    assert plain(VmaView(opened(), "wide").row(1, 8))[:8] == "  555555"


def test_an_empty_address_space_is_one_gap() -> None:
    m = camera()
    m.munmap(0x10000, m.mm.task_size - 0x10000)
    view = VmaView(Scene(m, cursor=0x1234), "narrow")
    assert text(view, "narrow") == [" ►    127.9T free"]
    assert view.range_of(0) == (0, m.mm.task_size)


def crowd(n: int, seed: int = 1) -> Machine:
    """A machine with ``n`` VMAs of its own, with and without gaps between them."""
    rng = random.Random(seed)
    m = Machine(ram=64 << 20, vdso=False)
    at = 0x100000000
    for _ in range(n):
        at += rng.choice((0, 0x1000, 0x5000))
        end = at + rng.choice((0x1000, 0x3000))
        m.journal.write(m.mm.vmas, at, Vma(at, end, 0x8100073, at >> 12, 0x8000000000000025))
        at = end
    return m


@pytest.mark.parametrize("layout", ["narrow", "wide"])
@pytest.mark.parametrize("cursor", [0, 0x100000000, 0x100400123, 0x7FFFFFFFE000])
def test_rows_tile_the_address_space(layout: str, cursor: int) -> None:
    m = crowd(700)
    view = VmaView(Scene(m, cursor=cursor), layout)
    expected: list[tuple[int, int]] = []
    end = 0
    for vma in m.mm.vmas:
        expected += [(end, vma.start)] if vma.start > end else []
        expected.append((vma.start, vma.end))
        end = vma.end
    rows = [i for i in range(view.row_count) if view.can_stand(i)]
    assert [view.range_of(i) for i in rows] == expected
    for i, (low, high) in zip(rows, expected, strict=True):
        assert view.index_of(low) == view.index_of(high - 1) == i
        assert view.address_of(i) == low
    assert view.is_cursor(next(i for i, r in zip(rows, expected, strict=True) if r[0] <= cursor < r[1]))


def test_the_index_is_kept_until_the_vmas_change() -> None:
    m = crowd(300)
    first = VmaIndex.of(m.mm)
    start = m.position
    assert VmaIndex.of(m.mm) is first
    VmaView(Scene(m, cursor=0x100000000), "wide")
    m.store(0x100000000, 4096)  # tables, frames and an anon_vma, but no VMA came or went
    assert VmaIndex.of(m.mm) is first
    m.munmap(0x100000000, 4096)
    gone = VmaIndex.of(m.mm)
    assert gone is not first
    m.journal.seek(start)
    assert VmaIndex.of(m.mm).rows == first.rows != gone.rows


def test_another_future_of_the_same_length_is_noticed() -> None:
    m = Machine(ram=64 << 20, vdso=False)
    m.mmap(0x10000000, 4096, "rw", "private")
    start = m.position
    m.mmap(0x20000000, 4096, "r", "private")
    end, before = m.position, text(VmaView(Scene(m, STACK), "narrow"), "narrow")
    m.journal.seek(start)
    m.journal.truncate()
    m.mmap(0x10001000, 4096, "r", "private")
    assert m.position == end
    after = text(VmaView(Scene(m, STACK), "narrow"), "narrow")
    assert before[1:4] == [
        "      10000000    4K rw-p    anon",
        "      255.9M free",
        "      20000000    4K r--p    anon",
    ]
    assert after[1:3] == ["      10000000    4K rw-p    anon", "      10001000    4K r--p    anon"]
    assert len(after) == len(before) - 1


def test_a_vma_that_shrinks_in_place_makes_a_gap() -> None:
    m = Machine(ram=64 << 20, vdso=False)
    m.mmap(0x10000000, 8192, "rw", "private")
    m.mmap(0x10002000, 8192, "r", "private")
    start = m.position
    assert VmaView(Scene(m, STACK), "narrow").row_count == 6
    m.munmap(0x10001000, 4096)
    assert VmaView(Scene(m, STACK), "narrow").row_count == 7
    assert text(VmaView(Scene(m, STACK), "narrow"), "narrow")[2] == "      4K free"
    m.journal.seek(start)
    assert VmaView(Scene(m, STACK), "narrow").row_count == 6
    vma = m.vma(0x10000000)
    m.journal.truncate()
    m.journal.write(m.mm.vmas, vma.start, vma.replace(end=0x10001000))
    assert VmaView(Scene(m, STACK), "narrow").row_count == 7


def test_present_in_counts_what_the_tables_hold() -> None:
    m = camera()
    mode = m.arena.mode
    for vma in m.mm.vmas:
        slots = [m.arena.lookup(m.mm.pgd, va) for va in range(vma.start, vma.end, 4096)]
        entries = [m.arena.flat[slot] for slot in slots if slot >= 0]
        there = [e for e in entries if e & (mode.masks.present | mode.masks.protnone)]
        assert present_in(m, vma) == len(there)
        assert len(mapped_pfns(m, vma.start, vma.end)) == len(there)
    m.zap_vma_ptes(m.vma(FB), FB, MIB)
    assert present_in(m, m.vma(FB)) == 2048 - 256
    m.journal.seek((len(m.journal.records) - 1, 0))
    m.journal.seek((0, 0))
    assert present_in(m, Vma(FB, FB + 8 * MIB, 0)) == 0


def test_a_view_behind_its_machine_does_not_break() -> None:
    m = crowd(50)
    view = VmaView(Scene(m, cursor=0x100000000), "wide")
    m.munmap(0x10000, 1 << 46)
    for i in range(view.row_count + 2):
        view.row(i, 43)
        view.range_of(i)


def test_65530_vmas_cost_nothing_per_key() -> None:
    m = crowd(65_529)
    view = VmaView(Scene(m, cursor=0x100000000), "wide")
    kept = view.index
    for ordinal in (0, 40_000, 65_529):
        vma = m.mm.vmas.at(ordinal)
        view = VmaView(Scene(m, cursor=vma.start), "wide")
        assert view.index is kept
        assert f"►{vma.start:>12x} " in plain(view.row(view.cursor_index, 43))
