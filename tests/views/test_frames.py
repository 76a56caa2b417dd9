"""The frame map: each cell against its frame's state, folding, walking over cells, devices, words below."""

from __future__ import annotations

import numpy as np
import pytest

from vmviz.kernel import Machine
from vmviz.kernel.arch.x86 import pte_pfn
from vmviz.kernel.mm.frames import ZERO_PFN
from vmviz.kernel.mm.page_alloc import ANON, FREE, OTHER
from vmviz.views.cells import ROLES, Line, fit, plain
from vmviz.views.frame_info import mappers
from vmviz.views.frames import FrameView
from vmviz.views.ram import GLYPHS, cell_size
from vmviz.views.scene import Range, Scene
from vmviz.views.trail import Trail

from .test_vmas import BAR, FB, HEAP, MIB, STACK, camera, opened, refused, zapping

WIDTH = {"narrow": 40, "wide": 33}


def text(view: FrameView, layout: str) -> list[str]:
    width = WIDTH[layout]
    lines = [fit(view.row(i, width), width) for i in range(view.row_count)]
    assert {role for line in lines for _, role in line} <= set(ROLES)
    return [plain(line).rstrip() for line in lines]


def glyphs(m: Machine, start: int, end: int) -> str:
    return "".join(GLYPHS[s][0] for s in m.frames.states.array[start:end].tolist())


def role_at(line: Line, column: int) -> str:
    for words, role in line:
        if column < len(words):
            return role
        column -= len(words)
    return ""


def used_end(m: Machine) -> int:
    """One past the last frame in use."""
    return int(np.flatnonzero(m.frames.states.array != FREE)[-1]) + 1


def test_narrow_just_opened() -> None:
    scene = opened()
    m = scene.machine
    rows = text(FrameView(scene, "narrow"), "narrow")
    end = used_end(m)
    assert 0x1020 < end <= 0x1020 + 12
    assert rows == [
        f" 01000 {glyphs(m, 0x1000, 0x1020)}",
        f" 01020 {glyphs(m, 0x1020, end)}· 63.8M free in all",
        " e0000 ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊ fb0, cell = 128",
        " fe000 ◊◊◊○○○○○○○○○○○○○ resource0",
    ]
    assert FrameView(scene, "narrow").title_right == "1 cell = 1 page"


def test_wide_just_opened() -> None:
    scene = opened()
    m = scene.machine
    free = int((m.frames.states.array == FREE).sum())
    assert text(FrameView(scene, "wide"), "wide") == [
        f" RAM 64M     {free} of 16384 free",
        " 00000 rz·············· zone DMA",
        " 00010 · 4080 free",
        f" 01000 {glyphs(m, 0x1000, 0x1010)} DMA32",
        f" 01010 {glyphs(m, 0x1010, 0x1020)}",
        f" 01020 {glyphs(m, 0x1020, 0x1030)}",
        " 01030 · 12240 free",
        "",
        " /dev/fb0 8M    cell = 32 pages",
        *(f" e0{n}00 ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊" for n in (0, 2, 4, 6)),
        "",
        " resource0 64K  cell = 1 page",
        " fe000 ◊◊◊○○○○○○○○○○○○○",
        "",
        " frame e0000: device memory",
        " outside RAM, so no refcount and",
        " no mapcount; never freed",
        " mapped by camera 1b8/000",
        "",
        " T table  a anon  f file  · free",
        " ◊ device, mapped   ○ not mapped",
        " × just unmapped",
    ]
    assert FrameView(scene, "wide").title_right == ""


def test_during_a_zap() -> None:
    scene = zapping()
    assert text(FrameView(scene, "narrow"), "narrow")[2] == " e0000 ◊◊×××◊◊◊◊◊◊◊◊◊◊◊ fb0, cell = 128"
    view = FrameView(scene, "wide")
    rows = text(view, "wide")
    assert rows[9:13] == [
        " e0000 ◊◊◊◊◊◊◊◊××××××××",
        " e0200 ××××◊◊◊◊◊◊◊◊◊◊◊◊",
        " e0400 ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊",
        " e0600 ◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊◊",
    ]
    assert rows[17:21] == [
        " frame e0280: device memory",
        " stays as it is; only the last",
        " PTE that points here goes",
        " mapped by camera 1b9/080",
    ]
    assert [i for i in range(view.row_count) if view.is_cursor(i)] == [10] == [view.index_of(0xE0280)]
    # Column 7 is the first cell: cleared ones, the one under the cursor, the rest of the range, and beyond.
    assert [role_at(view.row(10, 33), 7 + k) for k in (0, 3, 4, 5, 7, 8)] == [
        *("cleared", "cleared", "now", "mark.range", "mark.range", "device")
    ]


def test_one_entry_gone_shows_in_its_cell_and_is_forgotten_by_the_next_statement() -> None:
    m = camera()
    start = m.position
    m.zap_vma_ptes(m.vma(FB), FB + MIB, 4096)
    trail = Trail(m, start, m.position)
    view = FrameView(Scene(m, FB, Range(FB + MIB, FB + 2 * MIB, FB), trail), "narrow")
    assert text(view, "narrow")[2][7:23] == "◊◊×" + "◊" * 13
    assert [role_at(view.row(2, 40), 7 + k) for k in range(5)] == [
        *("now", "device", "cleared", "mark.range", "device")
    ]
    assert text(FrameView(Scene(m, FB), "narrow"), "narrow")[2][7:23] == "◊" * 16
    m.zap_vma_ptes(m.vma(FB), FB + MIB, MIB)
    assert text(FrameView(Scene(m, FB), "narrow"), "narrow")[2][7:23] == "◊◊○○" + "◊" * 12


def test_a_refused_range() -> None:
    rows = text(FrameView(refused(), "wide"), "wide")
    assert rows[17:20] == [
        " inside the VMA: e0700..e07ff",
        " outside it: 256 pages, no frame",
        " cleared: none",
    ]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (HEAP, [": anon", "refcount 1, mapcount 1", "anon", "mapped by camera 0ab/"]),
        (0x555555554000, [": file", "refcount 2, mapcount 1", "uptodate", "mapped by camera 0aa/154"]),
        (BAR + 4096, [": device memory", "outside RAM", "never freed", "mapped by camera 1bf/1b1"]),
        (BAR + 65536, ["no frame at 7ffff7fc0000", "nothing is mapped here"]),
    ],
)
def test_words_about_the_frame_of_an_address(address: int, words: list[str]) -> None:
    rows = text(FrameView(Scene(camera(), address), "wide"), "wide")[17:21]
    for row, word in zip(rows, words, strict=False):
        assert word in row


@pytest.mark.parametrize(
    ("pfn", "words"),
    [
        (0, ": reserved"),
        (ZERO_PFN, ": zero"),
        (0x1000, "it holds a table of pgd entries"),
        (0x3000, "in the lists of the allocator"),
        (0xE07FF, "mapped by camera 1bb/1ff"),
        (0xFE00F, "mapped by nobody"),
        (0xD0000000, "nothing is known"),
    ],
)
def test_words_about_a_chosen_frame(pfn: int, words: str) -> None:
    rows = text(FrameView(Scene(camera(), FB, pfn=pfn), "wide"), "wide")
    assert any(words in row for row in rows), rows


def test_a_cleared_entry_still_tells_its_frame() -> None:
    m = camera()
    start = m.position
    m.zap_vma_ptes(m.vma(FB), FB, 4096)
    view = FrameView(Scene(m, FB, trail=Trail(m, start, m.position)), "wide")
    assert view.pfn == 0xE0000
    assert "mapped by nobody" in " ".join(text(view, "wide"))


def test_every_cell_is_the_state_of_its_frame() -> None:
    m = camera()
    m.mmap(0x7FFFF0000000, MIB, "rw", "private")
    m.store(0x7FFFF0000000, MIB)
    m.munmap(0x7FFFF0020000, 0x40000)
    for layout in ("narrow", "wide"):
        view = FrameView(Scene(m, FB, pfn=3), layout)
        width, seen = WIDTH[layout], ""
        for i in range(view.row_count):
            span = view.range_of(i)
            if span is None or span[0] >= m.frames.nr_frames:
                continue
            assert span[0] == len(seen)  # rows tile RAM
            row = plain(view.row(i, width))[7:]
            cells = len(view.cell_starts(i))
            drawn = row[:cells]
            seen += drawn + "·" * (span[1] - span[0] - cells)
        assert seen == glyphs(m, 0, m.frames.nr_frames)


def test_the_narrow_map_leaves_out_an_idle_zone_unless_the_cursor_is_in_it() -> None:
    m = camera()
    assert text(FrameView(Scene(m, FB), "narrow"), "narrow")[0].startswith(" 01000 ")
    rows = text(FrameView(Scene(m, FB, pfn=5), "narrow"), "narrow")
    assert rows[0] == "►00000 rz· 4094 free, zone DMA"
    assert rows[2].endswith("free")
    assert "in all" not in rows[2]


def test_freed_and_filled_frames_are_seen_until_the_next_statement() -> None:
    m = camera()
    pfn = FrameView(Scene(m, HEAP), "wide").pfn
    start = m.position
    m.munmap(HEAP, 4096)
    after = FrameView(Scene(m, FB, trail=Trail(m, start, m.position)), "wide")
    row = after.row(after.index_of(pfn), 33)
    assert role_at(row, 7 + pfn % 16) == "cleared"
    assert plain(row)[7 + pfn % 16] == "×"
    later = FrameView(Scene(m, FB), "wide")
    assert plain(later.row(later.index_of(pfn), 33))[7 + pfn % 16] == "·"
    start = m.position
    m.mmap(0x10000000, 4096, "rw", "private")
    m.store(0x10000000, 4096)
    fresh = FrameView(Scene(m, FB, trail=Trail(m, start, m.position)), "wide")
    new = FrameView(Scene(m, 0x10000000), "wide").pfn
    assert role_at(fresh.row(fresh.index_of(new), 33), 7 + new % 16) == "fresh"


def test_only_devices_that_matter_are_shown() -> None:
    m = camera()
    names = [r.name for r in FrameView(Scene(m, FB), "wide").regions]
    assert names == ["fb0", "resource0"]
    names = [r.name for r in FrameView(Scene(m, FB, pfn=0xC0000), "wide").regions]
    assert names == ["fb0", "resource0", "resource2"]
    m.munmap(FB, 8 * MIB)
    assert [r.name for r in FrameView(Scene(m, BAR), "wide").regions] == ["resource0"]
    m.zap_vma_ptes(m.vma(BAR), BAR, 65536)
    assert [r.name for r in FrameView(Scene(m, BAR), "wide").regions] == ["resource0"]


@pytest.mark.parametrize("layout", ["narrow", "wide"])
def test_walking_over_the_cells(layout: str) -> None:
    m = camera()
    view = FrameView(Scene(m, FB, pfn=0), layout)
    cells = [start for i in range(view.row_count) for start in view.cell_starts(i)]
    walked = [0]
    while (onward := view.moved(walked[-1], 0, 1)) != walked[-1]:
        walked.append(onward)
    assert walked == cells
    back = [cells[-1]]
    while (onward := view.moved(back[-1], 0, -1)) != back[-1]:
        back.append(onward)
    assert back == cells[::-1]
    for i in range(view.row_count):
        for k, start in enumerate(view.cell_starts(i)):
            assert view.index_of(start) == i
            assert view.pfn_at(i, 7 + k) == start
    rows = [i for i in range(view.row_count) if view.can_stand(i)]
    assert view.index_of(view.moved(0, 2, 0)) == rows[2]
    assert view.index_of(view.moved(0, 1000, 0)) == rows[-1]
    assert view.index_of(view.moved(cells[-1], -1000, 0)) == rows[0]
    assert view.moved(0xE0000, 1, 0) in (0xE0200, 0xFE000)


def test_headings_and_words_stand_for_no_frame() -> None:
    view = FrameView(opened(), "wide")
    silent = [0, 7, 8, 13, 14, *range(16, view.row_count)]
    for i in range(-1, view.row_count + 1):
        assert (view.range_of(i) is None) == (i in silent or not 0 <= i < view.row_count), i
    assert view.pfn_at(0, 10) is None
    assert view.pfn_at(9, 0) == 0xE0000
    assert view.pfn_at(9, 33) == 0xE01E0


def test_mappers_agree_with_a_walk_over_every_page() -> None:
    m = camera()
    m.mmap(0x10000000, 16384, "rw", "private")
    m.load(0x10000000, 16384)  # the zero page, four times
    found: dict[int, list[tuple[int, int]]] = {}
    for vma in m.mm.vmas:
        for va in range(vma.start, vma.end, 4096):
            slot = m.arena.lookup(m.mm.pgd, va)
            if slot >= 0 and m.arena.flat[slot]:
                found.setdefault(pte_pfn(m.arena.flat[slot]), []).append((m.mm.id, va))
    assert len(found[ZERO_PFN]) == 4
    for pfn in (ZERO_PFN, 0xE0000, 0xE0123, 0xFE002, *[p for p in found if p < 0x2000]):
        assert mappers(m, pfn) == found[pfn]
    assert mappers(m, 0x3FFF) == []
    assert mappers(m, ZERO_PFN, 2) == found[ZERO_PFN][:2]
    assert any("3 more" in row for row in text(FrameView(Scene(m, FB, pfn=ZERO_PFN), "wide"), "wide"))


def test_large_ram_is_shown_by_the_block() -> None:
    m = Machine(ram=64 << 30, vdso=False)
    m.mmap(0x10000000, 4 * MIB, "rw", "private")
    m.store(0x10000000, 4 * MIB)
    view = FrameView(Scene(m, STACK), "wide")
    assert view.title_right == "1 cell = 256 pages"
    assert view.row_count < 40
    rows = text(view, "wide")
    used = next(row for row in rows if row.startswith(" 100000 "))
    # 1,024 pages and a few tables: four cells full of anonymous pages, and the rest.
    assert used[8:12] == "aaaa"
    assert any(row.endswith("free") and "15724544" in row for row in rows)
    spans = [s for i in range(view.row_count) if (s := view.range_of(i))]
    assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
    assert spans[-1][1] == 1 << 24


@pytest.mark.parametrize("frames", [1 << 8, 1 << 14, 1 << 18, (1 << 18) + 1, 1 << 20, 1 << 24, 1 << 28])
@pytest.mark.parametrize("per_row", [16, 32])
def test_cells_keep_the_rows_few(frames: int, per_row: int) -> None:
    cell = cell_size(frames, per_row)
    assert cell & (cell - 1) == 0
    assert -(-frames // (cell * per_row)) <= (16384 if cell == 1 else 4096)
    assert cell == 1 or cell * per_row % 512 == 0


@pytest.mark.parametrize("frames", [1 << 14, 1 << 20])
def test_frames_of_others_are_folded_too(frames: int) -> None:
    m = Machine(ram=frames << 12, vdso=False)
    for zone in m.frames.zones:
        m.frames.states.put_many(slice(zone.start_pfn, zone.end_pfn), OTHER)
    m.frames.states.put(0x2345, ANON)
    m.frames.states.put_many(slice(0x3000, 0x4000), FREE)
    view = FrameView(Scene(m, STACK), "wide")
    rows = text(view, "wide")
    assert rows[0].endswith(f"{frames} frames")
    assert rows[1] == " 00000 ? 4096 not known, zone DMA"
    assert sum("not known" in row for row in rows) >= 2
    assert any(row.endswith("free") or "4096 free" in row for row in rows)
    row = plain(view.row(view.index_of(0x2345), 33))
    assert "a" in row
    assert "?" in row
    spans = [s for i in range(view.row_count) if (s := view.range_of(i))]
    assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]


@pytest.mark.parametrize("end", [FB + (1 << 40), 1 << 63, (1 << 64) - 4096])
def test_a_range_far_beyond_user_space(end: int) -> None:
    m = camera()
    scene = Scene(m, FB, Range(FB + MIB, end, FB))
    for layout in ("narrow", "wide"):
        text(FrameView(scene, layout), layout)
    rows = text(FrameView(scene, "wide"), "wide")
    assert " inside the VMA: e0100..e07ff" in rows
    scene.cursor = end
    assert FrameView(scene, "wide").pfn == -1


def test_ram_that_ends_inside_a_row() -> None:
    m = Machine(ram=(1 << 20) + 5 * 4096, vdso=False)
    view = FrameView(Scene(m), "wide")
    spans = [s for i in range(view.row_count) if (s := view.range_of(i))]
    assert spans[0][0] == 0
    assert spans[-1][1] == 261
    assert FrameView(Scene(m), "narrow").row_count >= 1


def test_the_range_lights_frames_of_ram_too() -> None:
    m = camera()
    view = FrameView(Scene(m, FB, Range(HEAP, HEAP + 8192, HEAP)), "wide")
    for va, role in ((HEAP, "mark.range"), (HEAP + 4096, "mark.range"), (HEAP + 8192, "anon")):
        pfn = FrameView(Scene(m, va), "wide").pfn
        assert role_at(view.row(view.index_of(pfn), 33), 7 + pfn % 16) == role
