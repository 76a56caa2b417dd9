"""Numbers, sizes, addresses and near words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmviz.kernel.errors import VmvizError
from vmviz.script import ScriptError, format_addr, format_size, nearest, parse_size
from vmviz.script.values import ERRNO_NAMES, MAX_VALUE, LiteralError, read_number, read_string


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("0x1000", 0x1000),
        ("0X10", 16),
        ("4K", 4096),
        ("4k", 4096),
        ("8M", 8 << 20),
        ("8m", 8 << 20),
        ("3G", 3 << 30),
        ("2t", 2 << 40),
        ("0x10k", 16384),
        ("3p", 3 * 4096),
        (" 64K ", 65536),
        ("0644", 0o644),
        ("0xffffffffffffffff", MAX_VALUE),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_pages_take_the_page_size() -> None:
    assert parse_size("2p", page_size=16384) == 32768


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 1, "a size such as 4096, 0x1000, 8M or 3p"),
        ("  ", 1, "a size such as 4096, 0x1000, 8M or 3p"),
        ("eight", 1, "a size such as 4096, 0x1000, 8M or 3p"),
        ("-4K", 1, "a size such as 4096, 0x1000, 8M or 3p"),
        ("1.5M", 1, "a size such as 4096, 0x1000, 8M or 3p"),
        ("4Q", 2, "K"),
        (" 4KB", 3, "K"),
        ("0x", 3, "a hexadecimal digit"),
        ("0xg", 3, "a hexadecimal digit"),
        ("089", 2, "a digit from 0 to 7"),
        ("010K", 1, "a decimal number"),
        ("0x10000000000000000", 1, "a number up to 0xffffffffffffffff"),
        ("16777216T", 1, "a number up to 0xffffffffffffffff"),
        ("0xfffffffffffffffp", 1, "a size up to 0xffffffffffffffff"),
        ("9" * 5000, 1, "a number up to 0xffffffffffffffff"),
    ],
)
def test_parse_size_refuses(text: str, column: int, expected: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_size(text)
    assert (caught.value.column, caught.value.expected[0]) == (column, expected)
    assert isinstance(caught.value, VmvizError)


@pytest.mark.parametrize(
    ("size", "human", "exact"),
    [
        (0, "0", "0"),
        (1, "1", "1"),
        (1023, "1023", "1023"),
        (1024, "1K", "1K"),
        (1536, "1.5K", "1536"),
        (132 << 10, "132K", "132K"),
        (8 << 20, "8M", "8M"),
        ((64 << 20) - 4096, "63.9M", "65532K"),
        ((1 << 20) - 1, "1023.9K", "1048575"),
        ((2 << 20) + 4096, "2.0M", "2052K"),
        (1 << 40, "1T", "1T"),
        (5000 << 40, "5000T", "5000T"),
        (-(8 << 20), "-8M", "-8M"),
    ],
)
def test_format_size(size: int, human: str, exact: str) -> None:
    assert (format_size(size), format_size(size, exact=True)) == (human, exact)


@given(st.integers(0, MAX_VALUE))
def test_the_exact_form_reads_back(size: int) -> None:
    assert parse_size(format_size(size, exact=True)) == size


@given(st.integers(0, MAX_VALUE))
def test_the_human_form_reads_back_when_it_is_round(size: int) -> None:
    text = format_size(size)
    assert "." in text or parse_size(text) == size


def test_format_addr() -> None:
    assert [format_addr(n) for n in (0, 0x7FFFF7000000)] == ["0x0", "0x7ffff7000000"]
    with pytest.raises(ValueError, match="not negative"):
        format_addr(-1)


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ('""', ""),
        ('"/dev/fb0"', "/dev/fb0"),
        (r'"a\n\t\r\"\\"', 'a\n\t\r"\\'),
        (r'"\0\1017\x417"', "\0A7A7"),
        (r'"\303\274"', "ü"),
        ('"ü\\303"', "ü\udcc3"),
    ],
)
def test_read_string(literal: str, value: str) -> None:
    assert read_string(literal) == value


@pytest.mark.parametrize(
    ("literal", "offset"), [(r'"\q"', 1), (r'"ab\777"', 3), (r'"\x"', 1), ('"a\ud800"', 2)]
)
def test_read_string_refuses(literal: str, offset: int) -> None:
    with pytest.raises(LiteralError) as caught:
        read_string(literal)
    assert caught.value.offset == offset


@given(st.text(max_size=20))
def test_read_number_knows_one_error(text: str) -> None:
    where = 0
    try:
        value, _ = read_number(text)
    except LiteralError as error:
        value, where = 0, error.offset
    assert 0 <= where <= len(text)
    assert 0 <= value <= MAX_VALUE


@pytest.mark.parametrize(
    ("word", "candidates", "expected"),
    [
        ("zap_vma_pte", ["mmap", "zap_vma_ptes"], ("zap_vma_ptes",)),
        ("MUNMAP", ["mmap", "munmap"], ("munmap", "mmap")),
        ("EINVALL", ERRNO_NAMES, ("EINVAL", "ENAVAIL", "EISNAM")),
        ("qqqq", ["mmap"], ()),
        ("", ["mmap"], ()),
        ("m" * 100_000, ["mmap"], ()),
    ],
)
def test_nearest(word: str, candidates: list[str], expected: tuple[str, ...]) -> None:
    assert nearest(word, candidates) == expected
    assert nearest(word, candidates, n=1) == expected[:1]
