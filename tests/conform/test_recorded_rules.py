"""Rules by what Linux 6.1.192 was seen to do, in the language of the scenarios."""

from __future__ import annotations

import pytest

from vmviz.conform.entries import leaves_of
from vmviz.conform.replay import Replayer
from vmviz.conform.scn import BASE, parse_scn
from vmviz.kernel.arch.x86 import _PAGE_DIRTY, _PAGE_PCD, pte_pfn
from vmviz.kernel.mm.page_flags import PG_ACTIVE, PG_DIRTY, PG_REFERENCED


def replayed(text: str) -> tuple[Replayer, list[dict[str, object]]]:
    player = Replayer()
    return player, [player.run(op) for op in parse_scn(text.replace("; ", "\n"))]


def vmas(player: Replayer) -> list[tuple[int, int]]:
    """First and last page from BASE on of every VMA of the window."""
    return [
        ((v.start - BASE) >> 12, (v.end - BASE) >> 12)
        for v in player.machine.mm.vmas.overlapping(*player.window)
    ]


@pytest.mark.parametrize(
    ("touch", "entry", "page"),
    [("madvise B 1p populate_write", False, True), ("write B 1p", True, False), ("kwrite B 1p", True, False)],
)
def test_who_marks_what_a_driver_inserted_clean(touch: str, entry: bool, page: bool) -> None:
    player, _ = replayed(f"mmap B 1p rw- shared,dev:lazymixed; {touch}")
    (value,) = leaves_of(player.machine, *player.window).values()
    frames = player.machine.sys.frames
    assert bool(value & _PAGE_DIRTY) == entry  # the processor does; get_user_pages marks the page
    assert bool(frames.flags.flat[pte_pfn(value)] & PG_DIRTY) == page


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        ("mmap B+12p 4p rw- private,anon; brkbase B+16p; brk B+20p", [(12, 16), (16, 20)]),
        ("brkbase B+16p; brk B+18p; brk B+20p", [(16, 20)]),
    ],
)
def test_the_heap_grows_only_a_vma_that_reaches_above_its_start(
    ops: str, expected: list[tuple[int, int]]
) -> None:
    assert vmas(replayed(ops)[0]) == expected


def test_moving_the_heap_needs_a_capability() -> None:
    _, results = replayed("dropcaps; brkbase B")
    assert results[1] == {"ret": -1, "errno": "EPERM"}


@pytest.mark.parametrize(
    ("ops", "uncached"),
    [
        ("mmap B 4p r-- shared,dev:lazymmio 2p; read B 4p", [1, 1, 1, 1]),
        (
            "mmap B+8p 2p r-- shared,dev:pfnmmio 3p; mmap B 4p r-- shared,dev:lazymmio 2p; read B 4p",
            [1, 0, 0, 1],
        ),
        (
            "mmap B+8p 2p r-- shared,dev:pfnmmio 3p; zap B+8p B+8p 1p; mmap B 4p r-- shared,dev:lazymmio 2p; read B 4p",
            [1, 1, 1, 1],
        ),
    ],
)
def test_memory_type_of_frames_that_are_reserved_write_back(ops: str, uncached: list[int]) -> None:
    player, _ = replayed(ops)
    values = leaves_of(player.machine, BASE, BASE + (4 << 12)).values()
    assert [int(bool(value & _PAGE_PCD)) for value in values] == uncached


@pytest.mark.parametrize(
    ("ops", "result"),
    [
        # What lies between the new break and the old one goes, whether the heap still reaches up to it or not.
        ("brkbase B; brk B+8p; munmap B+4p 4p; brk B+2p", {"ret": hex(BASE + (2 << 12))}),
        ("brkbase B; brk B+8p; munmap B+2p 6p; brk B+1p", {"ret": hex(BASE + (1 << 12))}),
        # The place is judged before the type of the mapping.
        ("mmap B 1p rw- private,anon; mmap B 1p rw- validate,anon,noreplace", {"ret": -1, "errno": "EEXIST"}),
        ("mmap B 1p rw- validate,anon", {"ret": -1, "errno": "EINVAL"}),
        # A fixed address is judged only after get_unmapped_area() has returned it, and then it may read as an error.
        ("mmap 0xffffffffffffffff 1p rw- private,anon,fixed", {"ret": -1, "errno": "EPERM"}),
        ("mmap 0xfffffffffffff000 1p rw- private,anon,fixed", {"ret": -1, "errno": "ENOMEM"}),
        ("mmap B 1p rw- private,badfd 1", {"ret": -1, "errno": "EINVAL"}),
        ("mmap B 1p rw- private,anon,hugetlb 1", {"ret": -1, "errno": "EINVAL"}),
        # Touches are at the same place of each page, and so is the byte that each leaves.
        (
            "mmap B 4p rw- private,anon; write B+16 3p 7; read B 3p",
            {"ret": 0, "touched": 3, "data": "000000"},
        ),
        (
            "mmap B 4p rw- private,anon; write B+16 3p 7; read B+16 3p",
            {"ret": 0, "touched": 3, "data": "070707"},
        ),
        (
            "mmap B 1p rw- private,anon; read B+16 2p",
            {
                "ret": -1,
                "touched": 1,
                "data": "00",
                "sig": {"name": "SIGSEGV", "code": "SEGV_MAPERR", "addr": hex(BASE + 4096 + 16)},
            },
        ),
    ],
)
def test_what_the_last_call_returns(ops: str, result: dict[str, object]) -> None:
    assert replayed(ops)[1][-1] == result


@pytest.mark.parametrize(
    ("ops", "flags"),
    [
        # mlock uses each page once; a locked page is still unevictable when its unmapping uses it again.
        ("mmap B 4p r-- private,file:f,locked; munmap B 4p", PG_REFERENCED),
        ("mmap B 4p r-- private,file:f,populate; munmap B 4p", PG_ACTIVE),
    ],
)
def test_use_that_an_unmapped_page_is_known_for(ops: str, flags: int) -> None:
    player, _ = replayed(f"memfd f 4p; {ops}; mmap B 4p r-- private,file:f; read B 4p")
    frames = player.machine.sys.frames
    for value in leaves_of(player.machine, *player.window).values():
        assert frames.flags.flat[pte_pfn(value)] & (PG_REFERENCED | PG_ACTIVE) == flags


@pytest.mark.parametrize(
    ("ops", "uncached"),
    [
        # What is cut out of the middle or the beginning is no reservation of its own: only the end is given back.
        ("mmap B+8p 6p r-- shared,dev:pfnmmio 2p; munmap B+10p 2p; munmap B+8p 6p", [0, 0, 0, 0]),
        # The end can be cut off, and what is left goes as a whole.
        ("mmap B+8p 6p r-- shared,dev:pfnmmio 2p; munmap B+10p 4p", [0, 0, 1, 1]),
        ("mmap B+8p 6p r-- shared,dev:pfnmmio 2p; munmap B+10p 4p; munmap B+8p 2p", [1, 1, 1, 1]),
        # A moved mapping takes its reservation along.
        ("mmap B+8p 6p r-- shared,dev:pfnmmio; mremap B+8p 6p 6p maymove,fixed B+16p", [0, 0, 0, 0]),
        ("mmap B+8p 6p r-- shared,dev:pfnmmio; mremap B+8p 6p 6p maymove,fixed B+16p; munmap B+16p 6p", [1, 1, 1, 1]),
        # A child has its own.
        ("mmap B+8p 6p r-- shared,dev:pfnmmio; fork; read B 0; endfork keep; munmap B+8p 6p", [0, 0, 0, 0]),
        ("mmap B+8p 6p r-- shared,dev:pfnmmio; fork; read B 0; endfork keep; munmap B+8p 6p; reap", [1, 1, 1, 1]),
        # The first entry tells a shared mapping's frames; a private one knows them by vm_pgoff when it is a copy.
        ("mmap B+8p 4p rw- private,dev:pfnmmio 2p; write B+8p 1p; munmap B+8p 4p", [1, 1, 1, 1]),
    ],
)  # fmt: skip
def test_reservations_that_are_cut_leak_move_and_are_copied(ops: str, uncached: list[int]) -> None:
    player, _ = replayed(f"{ops}; mmap B 4p r-- shared,dev:lazymmio 2p; read B 4p")
    values = leaves_of(player.machine, BASE, BASE + (4 << 12)).values()
    assert [int(bool(value & _PAGE_PCD)) for value in values] == uncached
