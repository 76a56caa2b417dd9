"""Columns out of texts and files: against readings line by line and word by word, on texts of every shape."""

import os
import re
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.live.synthetic import PRESENT, FakeProc, FakeVma
from vmviz.live import LiveError, read_process, smaps
from vmviz.live.frames import PFN_GAP, frame_runs
from vmviz.live.image import VmaRecord, VmaTable, inside_mask, pages_inside
from vmviz.live.maps import parse_maps
from vmviz.live.pour import frames_of
from vmviz.live.pour_vmas import kinds_of_rows
from vmviz.live.records import decimals, line_kinds
from vmviz.live.smaps import parse_smaps, parse_smaps_blocks

NUMBERS = st.sampled_from([0, 4, 12, 99_999_999, 100_000_000, 2**40])
KEYS = ("Size", "Rss", "Pss_Dirty", "THPeligible")
PATHS = st.sampled_from(["", "[heap]", "/a", "/a b (deleted)", "/x\\012VmFlags: y", "/VmFlags:", "/é"])
CODES = st.sampled_from(["rd wr mr mw me ac", "rd mr", "rd ex zz", ""])


@st.composite
def records(draw):
    """A maps line, the values of smaps, and the VmFlags codes."""
    start = draw(st.sampled_from([0x400000, 0x7F0000000000, 0xFF80000000000000]))
    perms = draw(st.sampled_from(["r--p", "rw-s", "---p"]))
    inode = draw(st.sampled_from([0, 7, 2**64 - 1]))
    head = f"{start:08x}-{start + 0x1000:08x} {perms} {draw(NUMBERS):08x} fe:00 {inode} "
    path = draw(PATHS)
    head = f"{head:<73}{path}" if path else head
    keys = draw(st.sampled_from([KEYS, KEYS[:2], KEYS[::-1], ()]))
    return head, {key: draw(NUMBERS) for key in keys}, draw(CODES)


def text_of(parts):
    out = []
    for head, values, codes in parts:
        out.append(head + "\n")
        out += [
            f"{key + ':':<15} {v:8d}{'' if key == 'THPeligible' else ' kB'}\n" for key, v in values.items()
        ]
        out.append(f"VmFlags: {codes} \n")
    return "".join(out).encode()


def fields(vma):
    return (vma.start, vma.end, vma.perms, vma.offset, vma.dev, vma.inode, vma.path)


@given(st.lists(records(), max_size=5), st.integers(1, 40))
def test_smaps_is_what_its_lines_say(parts, times):
    parts = parts * times  # enough of them for the fast paths
    parsed = parse_smaps(text_of(parts))
    assert len(parsed.vmas) == len(parts)
    assert parsed.headers == "".join(head + "\n" for head, _, _ in parts).encode()
    keys = {key for _, values, _ in parts for key in values}
    assert set(parsed.vmas.smaps) == keys
    for key in keys:
        assert parsed.vmas.smaps[key].tolist() == [values.get(key, 0) for _, values, _ in parts]
    assert [parsed.vmas.codes[i] for i in range(len(parts))] == [codes for _, _, codes in parts]
    for (head, _, _), vma in zip(parts, parsed.vmas, strict=True):
        span, perms, offset, dev, inode, *path = head.split(None, 5)
        want = (
            int(span.split("-")[0], 16),
            int(span.split("-")[1], 16),
            perms,
            int(offset, 16),
            dev,
            int(inode),
        )
        assert fields(vma) == (*want, path[0] if path else "")


@given(
    st.lists(records(), max_size=4),
    st.lists(st.integers(0, 1500), max_size=6),
    st.sampled_from([1, 30, 4096]),
)
def test_blocks_may_be_cut_anywhere(parts, cuts, tail):
    text = text_of(parts)
    ends = sorted(min(cut, len(text)) for cut in cuts)
    blocks = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    with mock.patch.object(smaps, "_TAIL", tail):
        pieces, whole = parse_smaps_blocks(blocks), parse_smaps(text)
    assert list(pieces.vmas) == list(whole.vmas)
    assert (pieces.headers, pieces.unknown_codes) == (whole.headers, whole.unknown_codes)


@given(st.lists(records(), min_size=1, max_size=4), st.data())
def test_a_text_that_is_damaged_is_read_or_refused_but_never_breaks(parts, data):
    text = text_of(parts)
    at = data.draw(st.integers(0, len(text) - 1))
    bits = data.draw(st.binary(max_size=12))
    damaged = text[:at] + bits + text[at + data.draw(st.integers(0, 12)) :]
    for parse in (parse_smaps, parse_maps):
        try:
            table = parse(damaged).vmas
        except LiveError:
            continue
        assert all(len(column) == len(table) for column in table.smaps.values())


@pytest.mark.parametrize("word", [b"Size:  18446744073709551616 kB\n", b"Size: 99999999999999999999999 kB\n"])
def test_a_number_above_64_bits_is_refused(word):
    text = FakeVma(0x400000, 1).header().encode() + word + b"VmFlags: rd \n"
    with pytest.raises(LiveError, match="64 bits"):
        parse_smaps(text)
    with pytest.raises(LiveError, match="64 bits"):
        parse_maps(b"00400000-00401000 r-xp 00001000 fe:00 18446744073709551616 /x\n")


def test_an_endless_text_without_vmflags_is_refused_early():
    def blocks():
        for _ in range(40):
            yield b"Size:          4 kB\n" * 6000
        raise AssertionError("it was read to the end")

    with pytest.raises(LiveError, match="no VmFlags"):
        parse_smaps_blocks(blocks())


@given(st.lists(st.text("0123456789 :-", min_size=8, max_size=8), min_size=1, max_size=3))
def test_decimals_are_right_or_refused(texts):
    data = "".join(texts).encode()
    found = decimals(data, np.arange(8, len(data) + 1, 8))
    if all(re.fullmatch(r" *[0-9]+", text) for text in texts):
        assert found.tolist() == [int(text) for text in texts]
    else:
        assert found is None


def test_line_kinds_of_many_rows():
    lines = [f"{i % 3} {'x' * (i % 5)}\n".encode() for i in range(1000)] + [b"once\n"]
    begins = np.cumsum([0, *map(len, lines)])[:-1]
    ends, kinds, texts = line_kinds(b"".join(lines), begins)
    assert [texts[k] + b"\n" for k in kinds] == lines
    assert texts[:3] == [b"0 ", b"1 x", b"2 xx"]
    assert (ends - begins + 1).tolist() == list(map(len, lines))


PFNS = st.one_of(st.integers(1, 400), st.integers(1, 1 << 50), st.sampled_from([1 << 20, (1 << 20) + 1]))


@given(st.lists(st.tuples(PFNS, st.integers(1, 5)), max_size=30))
def test_runs_cover_every_frame_once(stretches):
    pfns = [first + i for first, length in stretches for i in range(length)]
    runs = frame_runs(np.array(pfns, dtype=np.uint64))
    read = [
        first + i
        for first, n in zip(runs.first.tolist(), runs.length.tolist(), strict=True)
        for i in range(n)
    ]
    assert read == sorted(set(read))
    assert [read[place] for place in runs.place] == pfns
    assert len(read) <= 2 * len(pfns) + PFN_GAP * PFN_GAP


EXCLUSIVE = 1 << 56


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")
def test_counts_of_exclusive_pages_are_not_looked_up(tmp_path):
    pages = {0: PRESENT | EXCLUSIVE | 5, 1: PRESENT | 6, 2: PRESENT | EXCLUSIVE | 900, 3: EXCLUSIVE | 1 << 62}
    fake = FakeProc(tmp_path, [FakeVma(0x400000, 4, pages=pages)], frames={5: (1, 9), 6: (2, 3), 900: (3, 9)})
    pages = read_process(fake.write().pid, root=str(tmp_path)).pages
    assert pages.count.tolist() == [1, 3, 1, 0]
    assert pages.flags.tolist() == [1, 2, 3, 0]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans()), max_size=12),
    st.sets(st.integers(0, 40)),
)
def test_pages_inside_vmas_are_those_that_a_search_for_each_finds(
    shape: list[tuple[int, int, bool]], pages: set[int]
) -> None:
    vmas, at = [], 3
    for hole, size, device in shape:
        at += hole
        flags = 0x400 if device else 0
        vmas.append(VmaRecord(at << 12, (at + size) << 12, "---p", 0, "00:00", 0, "", flags, ""))
        at += size
    vpn = np.array(sorted(pages), np.uint64)
    wanted = [any(v.start <= page << 12 < v.end and not v.is_pfnmap for v in vmas) for page in sorted(pages)]
    assert inside_mask(vpn, VmaTable.of(vmas), 4096).tolist() == wanted
    assert pages_inside(vpn, VmaTable.of(vmas), 4096) == sum(wanted)


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 200), st.sampled_from([0, 7, 2**63 - 1])),
        max_size=150,
    )
)
def test_rows_alike_are_of_one_kind(rows: list[tuple[int, int, int]]) -> None:
    kinds: dict[tuple[int, int, int], int] = {}
    which = [kinds.setdefault(row, len(kinds)) for row in rows]
    columns = (np.array([row[i] for row in rows], np.uint64) for i in range(3))
    first, found = kinds_of_rows(*columns)
    assert found.tolist() == which
    assert first.tolist() == [rows.index(kind) for kind in kinds]


@given(st.one_of(st.lists(st.integers(0, 9)), st.permutations(range(40)), st.lists(st.integers(0, 2**40))))
def test_frames_of_rows_are_what_unique_finds(numbers: list[int]) -> None:
    number = np.array(numbers, np.int64)
    names = ("return_index", "return_inverse", "return_counts")
    wanted = np.unique(number, **dict.fromkeys(names, True))
    assert [column.tolist() for column in frames_of(number)] == [column.tolist() for column in wanted]
