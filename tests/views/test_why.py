"""The why strip: one kind of moment after another, at both widths, and nothing that is cut in the middle."""

from __future__ import annotations

import pytest

from vmviz.session.story import story_session
from vmviz.tui.director import Director
from vmviz.views.cells import plain, width
from vmviz.views.refusal import zap_statement
from vmviz.views.strip import Strip, call_text, paragraphs, plural, whole
from vmviz.views.why import why

SMALL, WIDE = (80, 3), (63, 9)


def strip_after(*calls: str, size: tuple[int, int] = SMALL) -> tuple[Strip, str]:
    """The strip after some statements on the story's set-up, and its text in one line."""
    director = Director(story_session())
    director.instant = True
    for call in calls:
        director.run(call)
    strip = why(director.session, director.scene(), *size)
    return strip, " ".join(" ".join(plain(line) for line in strip.lines).split())


CASES = {
    (): ("Why", "A camera maps its frame buffer"),
    ("zap_vma_ptes(vma(fb), fb + 1M, 2M)",): (
        "Done",
        "512 PTEs cleared in 2 tables. Freed: 0 frames, 0 tables.",
    ),
    ("zap_vma_ptes(vma(bar), bar, 4K)",): ("Done", "1 PTE cleared in 1 table."),
    ("zap_vma_ptes(vma(fb), fb, 132K)",): ("Done", "TLB: 33 pages flushed one by one, as 33 at most are."),
    ("zap_vma_ptes(vma(fb), fb, 136K)",): ("Done", "1 full TLB flush, as 34 pages are more than 33."),
    ("zap_vma_ptes(vma(heap), heap, 4K)",): ("REFUSED, nothing changed", "vm_flags & VM_PFNMAP"),
    ("zap_vma_ptes(vma(fb), fb + 7M, 2M)",): ("REFUSED, nothing changed", "FAIL"),
    ("zap_vma_ptes(vma(fb), fb, 4097)",): ("THE CALLER'S BUG, not called", ""),
    ("zap_vma_ptes(vma(fb), fb, 0)",): ("Returned 0, cleared nothing", "size is 0"),
    ("zap_vma_ptes(vma(bar), bar + 16K, 16K)",): ("Returned 0, cleared nothing", "no TLB flush"),
    ("load(bar, 12K)",): ("Done", "3 pages touched, no fault: all were there."),
    ("load(bar + 12K)",): ("Done", "1 page touched, 1 minor and 0 major faults."),
    ("load(0x1000)",): ("SIGSEGV: the access could not be served", "SEGV_MAPERR"),
    ("munmap(heap, 64K)",): ("Done", "16 PTEs cleared"),
    ("munmap(heap + 1, 4K)",): ("FAILED: -1 EINVAL", "The call failed with EINVAL"),
}


@pytest.mark.parametrize("size", [SMALL, WIDE, (40, 3), (98, 11), (20, 1)])
@pytest.mark.parametrize("calls", CASES, ids=lambda calls: calls[-1] if calls else "opening")
def test_each_moment(calls: tuple[str, ...], size: tuple[int, int]) -> None:
    strip, text = strip_after(*calls, size=size)
    title, words = CASES[calls]
    assert strip.title == title
    assert len(strip.lines) <= size[1]
    if size in (SMALL, WIDE):
        assert words in text
        for line in strip.lines:
            assert width(line) <= size[0], plain(line)


def test_the_errno_is_named_once_in_the_title() -> None:
    strip, text = strip_after("munmap(heap + 1, 4K)")
    assert strip.title.count("EINVAL") == 1
    assert "EINVAL" in text
    assert strip.alert


@pytest.mark.parametrize("size", [SMALL, WIDE])
def test_the_checks_stand_in_columns(size: tuple[int, int]) -> None:
    strip, _ = strip_after("zap_vma_ptes(vma(fb), fb + 7M, 2M)", size=size)
    checks = [plain(line) for line in strip.lines if plain(line).lstrip()[:2] in ("1 ", "2 ", "3 ")]
    assert len(checks) == 3
    assert (
        checks[0].index("7ffff7000000 <=")
        == checks[1].index("7ffff7900000 <=")
        == checks[2].index("not reached")
    )
    assert checks[0].index("pass") == checks[1].index("FAIL")


def test_the_note_says_by_how_much_where_there_is_room() -> None:
    assert "FAIL by 1M" in strip_after("zap_vma_ptes(vma(fb), fb + 7M, 2M)")[1]


def test_the_legal_call_runs() -> None:
    strip, _ = strip_after("zap_vma_ptes(vma(fb), fb + 7M, 2M)")
    assert strip.legal == "zap_vma_ptes(vma(fb), fb + 7M, 1M)"
    assert strip.footer is not None
    assert "Nearest legal: fb+7M, 1M" in plain(strip.footer)
    director = Director(story_session())
    assert director.session.run(strip.legal).ret == 0


def test_below_the_vma_the_legal_range_is_its_part() -> None:
    strip, _ = strip_after("zap_vma_ptes(vma(fb), fb - 4K, 8K)")
    assert strip.legal == "zap_vma_ptes(vma(fb), fb, 4K)"


def test_no_legal_range_no_enter() -> None:
    strip, _ = strip_after("zap_vma_ptes(vma(heap), heap, 4K)")
    assert strip.legal == ""
    assert strip.footer is not None
    assert "Enter" not in plain(strip.footer)
    assert "none in this VMA" in plain(strip.footer)


def test_a_bug_of_the_callers_says_what_to_do() -> None:
    strip, text = strip_after("zap_vma_ptes(vma(fb), fb, 4097)")
    assert strip.alert
    assert "Esc back" in text or (strip.footer is not None and "Esc back" in plain(strip.footer))


def test_inside_a_statement() -> None:
    director = Director(story_session())
    director.run("zap_vma_ptes(vma(fb), fb, 64K)")
    director.player.pause()
    session = director.session
    total = session.steps(session.done[-1]).total
    seen = set()
    for k in range(1, total):
        session.seek(session.steps(session.done[-1]).position_at(k), session.setup)
        for size in (SMALL, WIDE):
            strip = why(session, director.scene(), *size, playing=k % 2 == 0)
            where = strip.title if size == WIDE else strip.right
            gone = director.scene().trail.cleared
            assert f"{'playing' if k % 2 == 0 else 'paused'}  {gone} of 16" in where
            assert len(strip.lines) <= size[1]
            assert all(width(line) <= size[0] for line in strip.lines)
            seen.add(" ".join(" ".join(plain(line) for line in strip.lines).split()))
    text = " ".join(seen)
    for words in (
        "The check address + size <= vm_end",
        "Entry 003 is special: no struct page behind it.",
        "a CPU may still hold the 1 gone one.",
        "a CPU may still hold the 2 gone ones.",
        "zap_vma_ptes > zap_page_range_single",
    ):
        assert words in text


def test_the_contracts_say_who_hears_of_a_refusal() -> None:
    for contract, words in (
        ("int", "► int (to 4.17): returns -1"),
        ("void", "► void (4.18 to 7.0): returns nothing"),
        ("special", "► special (7.1): VM_MIXEDMAP too, returns nothing"),
    ):
        director = Director(story_session())
        director.session.machine.sys.zap_contract = contract
        director.instant = True
        call = "zap_special_vma_range" if contract == "special" else "zap_vma_ptes"
        director.run(f"{call}(vma(fb), fb + 7M, 2M)")
        for size in ((98, 11), WIDE):
            lines = [plain(line).strip() for line in why(director.session, director.scene(), *size).lines]
            assert words in lines
            assert sum(line.lstrip("► ").startswith(("int (", "void (", "special (")) for line in lines) == 3
        small = " ".join(plain(line) for line in why(director.session, director.scene(), *SMALL).lines)
        assert (
            ({"int": "4.18 on: silent no-op", "void": "caller hears nothing", "special": "silent"}[contract])
            in small
        )
        assert call_text(director.session.done[-1].outcome).endswith("= -1" if contract == "int" else "= ?")


def test_a_lost_pat_flag_is_explained_where_there_is_room() -> None:
    call = "zap_vma_ptes(vma(fb), fb + 1M, 2M)"
    assert "but for flag ar (its PAT reservation is gone)." in strip_after(call, size=WIDE)[1]
    small = strip_after(call)[1]
    assert "but for flag ar." in small, small


@pytest.mark.parametrize("text", ["x = 5", 'name = "heap"'])
def test_an_assignment_says_its_value_once(text: str) -> None:
    director = Director(story_session())
    assert call_text(director.run(text)) == text


def test_texts() -> None:
    assert [
        plain(line) for line in paragraphs(12, 9, ("one two three", "text"), ("", "text"), ("four", "dim"))
    ] == [
        " one two",
        " three",
        "",
        " four",
    ]
    assert len(paragraphs(12, 1, ("one two three", "text"))) == 1
    assert [plain(x) for x in whole(12, 2, ("one", "text"), ("two three four", "dim"), ("five", "dim"))] == [
        " one",
        " five",
    ]
    assert plural(2, "page") == "2 pages"


@pytest.mark.parametrize(
    ("address", "size", "vma", "text"),
    [
        (0x7FFFF7000000, 4096, None, "zap_vma_ptes(vma(fb), fb, 4K)"),
        (0x7FFFF7100000, 0x200000, None, "zap_vma_ptes(vma(fb), fb + 1M, 2M)"),
        (0x7FFFFFFDE000, 4096, None, 'zap_vma_ptes(vma("[stack]"), 0x7ffffffde000, 4K)'),
        (0x7FFFF7800000, 4096, 0x7FFFF7000000, "zap_vma_ptes(vma(fb), 0x7ffff7800000, 4K)"),
        (0x7FFFF7000000, (1 << 64) - 4096, None, "zap_vma_ptes(vma(fb), fb, 0xfffffffffffff000)"),
    ],
)
def test_a_zap_as_a_statement_can_be_run(address: int, size: int, vma: int | None, text: str) -> None:
    director = Director(story_session())
    assert zap_statement(director.scene(), "zap_vma_ptes", address, size, vma) == text
    runner = director.session.runner
    arguments = text[len("zap_vma_ptes(") : -1].split(", ")
    assert runner.evaluate(f"value = {arguments[1]}") == address
    assert runner.evaluate(f"value = {arguments[2]}") == size
