"""Reading with a second thread: the same as without, whatever breaks and whoever is first."""

import errno
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.live.synthetic import PRESENT, FakeProc, FakeVma, example
from vmviz.live import Limits, LiveError, frames, process, procfs, read_process
from vmviz.live.helper import DEPTH, Ahead
from vmviz.live.image import VmaTable
from vmviz.live.pagemap import PagemapReader, Scratch
from vmviz.live.process import read_from
from vmviz.live.procfs import ProcFs
from vmviz.live.smaps import parse_smaps
from vmviz.live.stdio import read_fully

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")


@pytest.fixture
def helper():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_an_error_comes_where_its_item_would_have_come(helper):
    def items():
        yield from range(7)
        raise OSError(errno.EIO, "broken")

    ahead = Ahead(helper, items())
    assert [next(ahead) for _ in range(7)] == list(range(7))
    with pytest.raises(OSError, match="broken"):
        next(ahead)
    assert list(ahead) == []


def test_closing_makes_no_more_and_ends_the_generator(helper):
    made, ended = [], threading.Event()

    def items():
        try:
            for i in range(1000):
                made.append(i)
                yield i
        finally:
            ended.set()

    ahead = Ahead(helper, items())
    assert next(ahead) == 0
    ahead.close()
    assert ended.is_set()
    assert len(made) <= DEPTH + 1
    assert list(ahead) == []


@pytest.mark.parametrize("length", [0, 1, 9, 32767, 32768, 65536, 65537, 70000, 5 * 4096 * 9 + 1])
@pytest.mark.parametrize("pid", [77, "self"])  # with a helper, and without
def test_the_pieces_are_the_file(tmp_path, monkeypatch, length, pid):
    monkeypatch.setattr(procfs, "BLOCK_SIZE", 4096)
    (tmp_path / str(pid)).mkdir()
    text = np.random.default_rng(length).bytes(length)
    (tmp_path / str(pid) / "smaps").write_bytes(text)
    proc = ProcFs(str(tmp_path), pid)
    assert (proc.helper is None) == (pid == "self")
    got = b""
    for piece in proc.blocks("smaps", 1 << 30):
        got += piece  # it is good until the next is asked for
    assert got == proc.read("smaps", 1 << 30) == text
    if length:
        with pytest.raises(LiveError, match=f"limit of {length - 1} bytes"):
            list(proc.blocks("smaps", length - 1))
    assert len(proc.read("smaps", length)) == length
    proc.close()
    assert b"".join(map(bytes, proc.blocks("smaps", length))) == text  # nobody helps any more


def test_what_cannot_be_read_says_why(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            read_fully(fd, bytearray(10))
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        read_fully(fd, bytearray(10))


def alone(proc):
    proc.close()
    return proc


def test_a_process_is_the_same_with_and_without_a_helper(tmp_path, monkeypatch):
    monkeypatch.setattr(procfs, "BLOCK_SIZE", 1 << 15)
    fake = many(tmp_path, 600)
    with_helper = read_process(fake.pid, root=str(tmp_path))
    assert with_helper == read_from(alone(ProcFs(str(tmp_path), fake.pid)), limits=Limits())
    assert len(with_helper.vmas) == 600
    assert len(with_helper.pages) == 300


def many(root, n, **fields):
    codes = ["rd wr mr mw me ac", "rd mr mw me", "rd wr zz"]
    vmas = [
        FakeVma(
            (0x10000 + 3 * i) << 12,
            1 + i % 3,
            codes=codes[i % 3],
            path=f"/f{i % 5}",
            pages={0: PRESENT | (2 * i + 1)} if i % 2 else {},
        )
        for i in range(n)
    ]
    numbers = {2 * i + 1: (i + 7, i % 4) for i in range(0, n, 3)}
    return attrs.evolve(FakeProc(root, vmas, frames=numbers), **fields).write()


def test_the_page_size_is_that_of_all_vmas_and_not_of_the_first_part(tmp_path, monkeypatch):
    monkeypatch.setattr(procfs, "BLOCK_SIZE", 1 << 15)
    fake = many(tmp_path, 600)
    pages = read_process(fake.pid, root=str(tmp_path)).pages
    text = (tmp_path / "77/smaps").read_text()
    middle = len(text) // 2
    huge = re.sub(r"(KernelPageSize:) +4 kB", r"\1     2048 kB", text[:middle])
    assert huge != text[:middle]
    (tmp_path / "77/smaps").write_text(huge + text[middle:])
    image = read_process(fake.pid, root=str(tmp_path))
    assert image.page_size == 4096
    assert image.pages == pages


class Failing(ProcFs):
    """Refuses files by name."""

    def __init__(self, fake, number, *names):
        super().__init__(str(fake.root), fake.pid)
        self.number, self.names = number, names
        self.openings = dict.fromkeys(names, 0)

    def open(self, name):
        if name in self.names:
            self.openings[name] += 1
            raise OSError(self.number, os.strerror(self.number))
        return super().open(name)


@pytest.mark.parametrize(
    ("number", "names"),
    [
        (errno.EIO, ("smaps",)),
        (errno.EIO, ("pagemap",)),
        (errno.EACCES, ("smaps", "pagemap")),
        (errno.ESRCH, ("pagemap",)),
        (errno.EACCES, ("maps", "smaps")),
        (errno.EACCES, ("pagemap",)),
        (errno.ENOENT, ("smaps",)),
        (errno.EACCES, ("/kpageflags", "/kpagecount")),
    ],
)
def test_errors_are_told_as_without_a_helper(tmp_path, number, names):
    fake = example(tmp_path)

    def outcome(proc):
        try:
            return read_from(proc, limits=Limits())
        except LiveError as error:
            return str(error)

    before = threading.active_count()
    told = outcome(Failing(fake, number, *names))
    assert told == outcome(alone(Failing(fake, number, *names)))
    assert threading.active_count() == before


def test_what_smaps_says_comes_before_what_pagemap_says(tmp_path):
    fake = example(tmp_path)
    with open(tmp_path / "77/smaps", "ab") as file:
        file.write(b"Size: 4 kB\n")
    with pytest.raises(LiveError, match="ends in lines without VmFlags"):
        read_from(Failing(fake, errno.EIO, "pagemap"), limits=Limits())


def test_frames_are_not_read_of_a_process_that_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_PATIENCE", 60)
    fake = example(tmp_path)

    class Growing(ProcFs):
        maps = flags = 0

        def open(self, name):
            self.maps += name == "maps"
            self.flags += name == "/kpageflags"
            if name == "maps" and self.maps % 2 == 0 and self.maps < 7:
                fake.vmas[1].nr_pages += 1
                fake.write()
            return super().open(name)

    proc = Growing(str(tmp_path), fake.pid)
    image = read_from(proc, limits=Limits())
    assert image.warnings == ()
    assert proc.maps == 8
    assert proc.flags == 1


PAGES = st.sets(st.integers(0, 39), max_size=20)
VMAS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 40), PAGES, st.booleans()), min_size=1, max_size=8
)


@given(VMAS, st.sets(st.integers(1, 7)), st.integers(0, 60), st.sampled_from([1, 10, 40]))
def test_vmas_in_parts_have_the_same_entries(tmp_path_factory, shapes, cuts, max_pages, dense_pages):
    at, vmas, holes = 0x400, [], {}
    for gap, length, pages, hidden in shapes:
        if gap and hidden:
            holes[at] = PRESENT | 1  # an entry in a hole is no page
        at += gap
        words = {page: PRESENT | (at + page) for page in pages if page < length}
        codes = "rd mr pf" if hidden and not gap else "rd mr"
        vmas.append(FakeVma(at << 12, length, codes=codes, pages=words))
        at += length
    root = tmp_path_factory.mktemp("proc")
    fake = FakeProc(root, vmas).write()
    with open(root / "77/pagemap", "r+b") as file:
        for vpn, word in holes.items():
            file.seek(vpn * 8)
            file.write(word.to_bytes(8, "little"))
    table = parse_smaps("".join(vma.smaps() for vma in vmas).encode()).vmas
    limits = Limits(max_pages=max_pages, dense_pages=dense_pages)

    def found(borders):
        with ExitStack() as files:
            proc = ProcFs(str(root), fake.pid)
            reader = PagemapReader(proc, files, page_size=4096, limits=limits, scratch=Scratch())
            for low, high in zip([0, *borders], [*borders, len(vmas)], strict=True):
                reader.feed(VmaTable.of(table[low:high]))
            reader.finish()
            return reader.result(table)

    whole, parts = found([]), found(sorted(cut for cut in cuts if cut < len(vmas)))
    expected = {
        vma.start // 4096 + page: word
        for vma in vmas
        if "pf" not in vma.codes
        for page, word in vma.pages.items()
    }
    assert parts.vpn.tolist() == whole.vpn.tolist()
    assert parts.entry.tolist() == [expected[vpn] for vpn in parts.vpn.tolist()]
    if len(expected) < max_pages and not holes:
        assert len(parts.vpn) == len(expected)
        assert not parts.unread


@pytest.mark.parametrize("shared", [1, 4, 1 << 40])
def test_frames_read_by_two_are_each_page_s_own(tmp_path, monkeypatch, shared):
    monkeypatch.setattr(frames, "_SHARED", shared)
    monkeypatch.setattr(frames, "PIECE", 8)
    words = np.arange(5000, dtype=np.uint64) + 77
    words.tofile(tmp_path / "kpageflags")
    rng = np.random.default_rng(3)
    starts = rng.integers(1, 5200, 60)
    pfn = np.concatenate(
        [np.arange(at, at + n) for at, n in zip(starts, rng.integers(1, 90, 60), strict=True)]
    )
    pfn = pfn.astype(np.uint64)
    out = np.zeros(len(pfn), dtype=np.uint64)
    proc = ProcFs(str(tmp_path), 77)
    for _ in range(20):
        out[:] = 0
        with proc.open("/kpageflags") as fd:
            frames.read_by_pfn(proc, fd, pfn, np.ones(len(pfn), dtype=bool), 9, out)
        assert out.tolist() == [int(f) + 77 if f < 5000 else 9 for f in pfn]
    proc.close()


def test_an_error_of_either_reader_of_frames_is_the_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "_SHARED", 1)
    monkeypatch.setattr(frames, "PIECE", 1)
    fake = many(tmp_path, 600)
    main = threading.current_thread()

    class Broken(ProcFs):
        of = None
        flags = -1

        @contextmanager
        def open(self, name):
            with super().open(name) as fd:
                self.flags = fd if name == "/kpageflags" else -1
                yield fd

        def pread(self, fd, room, offset):
            if fd == self.flags and self.of is (threading.current_thread() is main):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().pread(fd, room, offset)

    for of in (True, False):
        proc = Broken(str(tmp_path), fake.pid)
        proc.of = of
        image = read_from(proc, limits=Limits())
        assert image.pages.count is not None
        if image.pages.flags is None:  # the other one may have been too quick for the helper to take part
            assert image.missing_right.endswith(
                "kpageflags (mode 0400: root or CAP_DAC_READ_SEARCH): Input/output error"
            )
        else:
            assert not of
