"""The maps and smaps parsers: tables of lines, both paths, and an independent reading as oracle."""

import os
import re

import pytest

from tests.live.synthetic import FakeVma
from vmviz.live import LiveError
from vmviz.live.maps import parse_maps
from vmviz.live.smaps import parse_smaps

LINES = [
    (
        "7f0000000000-7f0000002000 r--p 0001f000 fe:00 339380                     /usr/lib/libc.so.6",
        (0x7F0000000000, 0x7F0000002000, "r--p", 0x1F000, "fe:00", 339380, "/usr/lib/libc.so.6", 0x1),
    ),
    (
        "7f0000002000-7f0000003000 rw-p 00000000 00:00 0 ",
        (0x7F0000002000, 0x7F0000003000, "rw-p", 0, "00:00", 0, "", 0x3),
    ),
    (
        "00400000-00401000 r-xp 00000000 08:02 7                                  /opt/a b (deleted)",
        (0x400000, 0x401000, "r-xp", 0, "08:02", 7, "/opt/a b (deleted)", 0x5),
    ),
    (
        "7f0000004000-7f0000005000 rw-s 123456789000 103:05 18446744073709551615     /dev/shm/\\012x ",
        (
            0x7F0000004000,
            0x7F0000005000,
            "rw-s",
            0x123456789000,
            "103:05",
            2**64 - 1,
            "/dev/shm/\\012x ",
            0x8B,
        ),
    ),
    (
        "ff8000000000000-ff8000000001000 ---p 00000000 00:00 0                    [anon:a: b]",
        (0xFF8000000000000, 0xFF8000000001000, "---p", 0, "00:00", 0, "[anon:a: b]", 0),
    ),
]


def fields(vma):
    return (vma.start, vma.end, vma.perms, vma.offset, vma.dev, vma.inode, vma.path, vma.vm_flags)


@pytest.mark.parametrize(("line", "want"), LINES)
def test_one_line(line, want):
    assert fields(parse_maps((line + "\n").encode()).vmas[0]) == want


def test_lines_of_both_shapes_keep_their_order():
    vmas = parse_maps("".join(line + "\n" for line, _ in LINES).encode()).vmas
    assert [fields(vma) for vma in vmas] == [want for _, want in LINES]


def test_a_path_that_is_no_utf8_keeps_its_bytes():
    vma = parse_maps(b"00400000-00401000 r-xp 00000000 08:02 7    /\xff\xfe\n").vmas[0]
    assert os.fsencode(vma.path) == b"/\xff\xfe"


def test_an_empty_text_is_an_empty_table():
    assert len(parse_maps(b"").vmas) == 0
    assert len(parse_smaps(b"").vmas) == 0


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\n",
        b"7f0000000000-7f0000002000 r--p 0001f000 fe:00 339380",
        b"7f00zz000000-7f0000002000 r--p 0001f000 fe:00 339380 /x\n",
        b"7f00  000000-7f0000002000 r--p 0001f000 fe:00 339380 /x\n",
        b"7f0000000000-7f0000002000 rq-p 0001f000 fe:00 339380 /x\n",
        b"7f0000000000-7f0000002000 r--p 0001f000 fe:00 x /x\n",
        b"00400000-1ffffffffffffffff r--p 0001f000 fe:00 1 /x\n",
        b"\n\n",
    ],
)
def test_malformed_maps(text):
    with pytest.raises(LiveError):
        parse_maps(text)


def test_smaps_without_vmflags_is_refused():
    with pytest.raises(LiveError, match="VmFlags"):
        parse_smaps(FakeVma(0x400000, 1).header().encode() + b"Size:  4 kB\n")


def test_smaps_columns_and_flags():
    vmas = [
        FakeVma(0x400000, 1, "r-xp", "rd ex mr mw me", "/bin/VmFlags: x"),
        FakeVma(0x500000, 700, rss=2800),
        FakeVma(0x700000000000, 1 << 36, "---p", "mr mw me nr zz"),  # Size has nine digits and more
        FakeVma(0x7FF000000000, 2, rss=8),
    ]
    parsed = parse_smaps("".join(vma.smaps() for vma in vmas).encode())
    assert parsed.headers == "".join(vma.header() for vma in vmas).encode()
    assert parsed.unknown_codes == ("zz",)
    assert [(v.smaps_kb["Size"], v.smaps_kb["Rss"], v.path) for v in parsed.vmas] == [
        (4, 0, "/bin/VmFlags: x"),
        (2800, 2800, ""),
        (1 << 38, 0, ""),
        (8, 8, ""),
    ]
    assert [hex(v.vm_flags) for v in parsed.vmas] == ["0x75", "0x100073", "0x200070", "0x100073"]
    assert parsed.vmas[0].vm_flags_codes == "rd ex mr mw me"
    assert "THPeligible" not in parsed.vmas[0].smaps_kb


def test_numbers_of_more_than_8_digits_that_differ_in_the_last_ones():
    vmas = [FakeVma(0x1000_0000_0000 + (i << 40), (100_000_000 + i) >> 2) for i in (4, 8, 16)]
    parsed = parse_smaps("".join(vma.smaps() for vma in vmas).encode())
    assert parsed.vmas.smaps["Size"].tolist() == [100_000_004, 100_000_008, 100_000_016]


def test_blocks_of_equal_length_with_other_lines():
    a, b = FakeVma(0x400000, 3).smaps(), FakeVma(0x500000, 5).smaps().replace("Rss:", "Xyz:")
    parsed = parse_smaps((a + b).encode())
    assert [v.smaps_kb["Size"] for v in parsed.vmas] == [12, 20]
    assert parsed.vmas.smaps["Xyz"].tolist() == [0, 0]


def naive_smaps(text):
    rows = []
    for line in text.splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            rows.append({})
        elif match := re.match(r"(\w+): +(\d+)(?: kB)?$", line):
            rows[-1][match[1]] = int(match[2])
    return rows


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs /proc")
def test_the_fast_path_agrees_with_a_naive_reading_of_a_real_smaps():
    with open("/proc/self/smaps", "rb") as file:
        text = file.read()
    table = parse_smaps(text).vmas
    rows = naive_smaps(text.decode("utf-8", "surrogateescape"))
    assert len(table) == len(rows)
    assert all({key: int(col[i]) for key, col in table.smaps.items()} == row for i, row in enumerate(rows))
    assert len({tuple(row.items()) for row in rows}) > 5
