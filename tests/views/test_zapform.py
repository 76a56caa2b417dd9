"""The zap form: what the three texts come to, for each kind of range."""

from __future__ import annotations

import pytest

from vmviz.session.story import story_session
from vmviz.tui.director import Director, Selection
from vmviz.views.cells import plain, width
from vmviz.views.zapform import FormState, initial, lines, read

FB, HEAP, BAR = 0x7FFFF7000000, 0x555555758000, 0x7FFFF7FB0000
K, M = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def director() -> Director:
    """The story's set-up."""
    return Director(story_session())


def state(director: Director, vma: str, address: str, size: str) -> FormState:
    """What three texts come to."""
    return read(director.scene(), director.session.runner, vma, address, size)


@pytest.mark.parametrize(
    ("vma", "address", "size", "verdict"),
    [
        ("fb", "fb", "4K", "ppp"),
        ("fb", "fb + 1M", "2M", "ppp"),
        ("/dev/fb0", "0x7ffff7000000", "0x1000", "ppp"),
        ("[heap]", "heap", "4K", "ppF"),
        ("fb", "fb + 7M", "2M", "pF-"),
        ("fb", "fb - 4K", "8K", "F.-"),
        ("[heap]", "heap", "1M", "pFf"),
        ("0x7ffff7123000", "fb", "8M", "ppp"),
        ("vma(bar)", "bar", "64K", "ppp"),
        ('"resource0"', "bar", "64K + 4K", "pF-"),
        ("fb", "fb", "0", "ppp"),
        ("fb", "fb", "8M", "ppp"),
    ],
)
def test_the_checks_in_the_kernels_order(
    director: Director, vma: str, address: str, size: str, verdict: str
) -> None:
    s = state(director, vma, address, size)
    assert not s.errors
    for check, mark in zip(s.checks, verdict, strict=True):
        if mark == ".":
            continue
        assert check.passed == (mark in "p-"), check
        assert check.reached == (mark in "pF"), check
    assert s.would_pass == (verdict == "ppp")
    assert s.runnable, "a refusal may be asked for; only the caller's bug may not"
    assert s.range is not None


@pytest.mark.parametrize(
    ("vma", "address", "size", "field", "words"),
    [
        ("fb", "nobody", "4K", "address", "'nobody' is not defined"),
        ("fb", "heaq", "4K", "address", "did you mean heap?"),
        ("fb", "", "4K", "address", "a number is wanted"),
        ("fb", "fb", "  ", "size", "a number is wanted"),
        ("fb", "fb", "4Q", "size", ""),
        ("fb", "fb +", "4K", "address", ""),
        ("fb", '"fb"', "4K", "address", "a number is wanted here"),
        ("", "fb", "4K", "vma", "a VMA is wanted"),
        ("[nobody]", "fb", "4K", "vma", "nobody"),
        ("0x1000", "fb", "4K", "vma", ""),
        ("munmap(fb, 4K)", "fb", "4K", "vma", ""),
    ],
)
def test_a_text_that_is_none(
    director: Director, vma: str, address: str, size: str, *, field: str, words: str
) -> None:
    digest = director.session.machine.digest()
    s = state(director, vma, address, size)
    assert list(s.errors) == [field]
    assert words in s.errors[field]
    assert not s.runnable
    assert s.statement == ""
    assert plain(lines(director.scene(), s, 80)[0]).startswith(f" {field}: ")
    assert director.session.machine.digest() == digest


def test_all_three_can_be_wrong(director: Director) -> None:
    assert set(state(director, "?", "?", "?").errors) == {"vma", "address", "size"}


@pytest.mark.parametrize(
    ("address", "size", "outwards", "inwards"),
    [
        ("fb + 4608", "11K", (FB + 4 * K, 12 * K), (FB + 8 * K, 4 * K)),
        ("fb + 1", "4K", (FB, 8 * K), None),
        ("fb", "4097", (FB, 8 * K), (FB, 4 * K)),
        ("fb + 100", "100", (FB, 4 * K), None),
        ("fb", "8K", None, None),
    ],
)
def test_cut_pages(
    director: Director,
    address: str,
    size: str,
    outwards: tuple[int, int] | None,
    inwards: tuple[int, int] | None,
) -> None:
    s = state(director, "fb", address, size)
    assert (s.outwards, s.inwards) == (outwards, inwards)
    text = " ".join(plain(line) for line in lines(director.scene(), s, 80))
    assert ("of this page" in text) == (outwards is not None)
    assert ("outwards" in text) == (outwards is not None)
    assert ("inwards" in text) == (inwards is not None)


def test_what_a_real_kernel_would_not_survive_is_not_run(director: Director) -> None:
    s = state(director, "fb", "fb", "4097")
    assert s.would_pass
    assert s.danger
    assert not s.runnable


def test_a_cut_range_that_is_refused_may_be_run(director: Director) -> None:
    s = state(director, "[heap]", "heap", "4097")
    assert not s.would_pass
    assert not s.danger
    assert s.runnable
    assert "The kernel refuses it before it looks at pages." in " ".join(
        plain(line) for line in lines(director.scene(), s, 80)
    )


def test_both_ends_cut_alike_clear_the_pages_from_the_first_on(director: Director) -> None:
    s = state(director, "fb", "fb + 512", "8K")
    assert s.runnable
    assert "the kernel clears 2 entries from the first on" in " ".join(
        plain(x) for x in lines(director.scene(), s, 80)
    )
    other = Director(story_session())
    assert other.session.run("zap_vma_ptes(vma(fb), fb + 512, 8K)").ptes_cleared == 2


def test_a_size_that_wraps(director: Director) -> None:
    s = state(director, "fb", "fb + 4K", "0xfffffffffffff000")
    assert s.range is None
    assert "wraps around 2^64" in " ".join(plain(line) for line in lines(director.scene(), s, 80))


@pytest.mark.parametrize("columns", [20, 40, 80, 120])
def test_the_lines_fit_in_the_form(director: Director, columns: int) -> None:
    for vma, address, size in (
        ("fb", "fb + 7M + 1", "2M + 3"),
        ("fb", "fb + 1", "4K"),
        ("[heap]", "heap", "2M"),
        ("", "", ""),
    ):
        shown = lines(director.scene(), state(director, vma, address, size), columns)
        assert len(shown) <= 8
        if columns >= 80:
            assert all(width(line) <= columns for line in shown), [plain(line) for line in shown]


@pytest.mark.parametrize(
    ("selection", "cursor", "wanted"),
    [
        (None, FB, ("fb", "fb", "4K")),
        (None, FB + 0x5123, ("fb", "fb+20771", "4K")),
        (None, 0x1000, ("0x1000", "0x1000", "4K")),
        (Selection(FB + M, FB + 2 * M, FB + M, FB + 3 * M), FB, ("fb", "fb+1M", "2M")),
        (Selection(FB, FB + 4 * K, BAR, BAR + 4 * K), FB, ("fb", "fb", "16068K")),
        (Selection(FB, FB + 4 * K, HEAP, HEAP + 4 * K), FB, ("fb", "heap", None)),
    ],
)
def test_it_begins_with_the_selection(
    selection: Selection | None, cursor: int, wanted: tuple[str, str, str | None]
) -> None:
    director = Director(story_session())
    director.selection, director.cursor = selection, cursor
    values = initial(director.scene())
    assert [v for v, w in zip(values, wanted, strict=True) if w is not None] == [
        w for w in wanted if w is not None
    ]
