"""Reading real processes: this test's own, and children made for it."""

import contextlib
import ctypes
import errno
import mmap
import os
import subprocess
import sys

import pytest

from vmviz.live import Limits, LiveError, procfs, read_process, read_snapshot, write_snapshot
from vmviz.live.check import problems

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

PAGE = mmap.PAGESIZE
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2


def address_of(mapping):
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


@contextlib.contextmanager
def raw_mapping(size, prot, flags):
    """A mapping by the C library itself, for what Python's mmap does not allow."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    address = libc.mmap(None, size, prot, flags, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        if number != errno.ENOMEM:
            raise OSError(number, os.strerror(number))
        pytest.skip(f"a limit of this system's leaves no {size} bytes of address space")
    try:
        yield libc, address
    finally:
        libc.munmap(address, size)


@pytest.mark.parametrize(
    ("flags", "perms", "shared"), [(mmap.MAP_SHARED, "rw-s", True), (mmap.MAP_PRIVATE, "rw-p", False)]
)
def test_a_mapping_of_this_process_is_found_with_its_flags_and_pages(flags, perms, shared):
    mapping = mmap.mmap(-1, 64 * PAGE, flags=flags | mmap.MAP_ANONYMOUS)
    start = address_of(mapping)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    touched = [0, 1, 7, 40, 63]
    for page in touched:
        mapping[page * PAGE] = 1
    image = read_process("self")
    vma = image.vmas[image.vmas.find(start)]
    assert image.pid == os.getpid()
    assert vma.perms == perms
    codes = vma.vm_flags_codes.split()
    assert {"rd", "wr", "mr", "mw", "me", "nh"} <= set(codes)
    assert ("sh" in codes, "ms" in codes) == (shared, shared)
    assert vma.vm_flags & 0xB == (0xB if shared else 0x3)
    rows = image.pages.rows(start, start + 64 * PAGE, PAGE)
    assert [int(vpn) - start // PAGE for vpn in image.pages.vpn[rows]] == touched
    assert image.pages.present[rows].all()
    if image.pfns_visible and image.pages.flags is not None:
        assert all(int(word) >> 11 & 1 for word in image.pages.flags[rows])  # MMAP
        assert image.pages.count[rows].tolist() == [1] * 5
    # Other threads of the test runner may map memory at any moment; nothing else may be said.
    assert all(text.startswith("changed while read") for text in image.warnings)


def test_the_vvar_is_unknown_and_the_snapshot_is_the_same(tmp_path):
    image = read_process("self", taken="now")
    hidden = [vma for vma in image.vmas if vma.is_pfnmap]
    if not hidden:
        pytest.skip("this kernel has no PFNMAP VMA in every process")
    for vma in hidden:
        assert image.pages_of(vma) == slice(image.pages_of(vma).start, image.pages_of(vma).start)
        assert any(low <= vma.start and vma.end <= high for low, high in image.unknown_ranges)
    write_snapshot(image, tmp_path / "self.vmsnap")
    assert read_snapshot(tmp_path / "self.vmsnap") == image


def test_two_thousand_vmas_of_alternate_protection():
    n = 2000
    with raw_mapping(n * PAGE, PROT_READ | PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as (
        libc,
        start,
    ):
        for i in range(0, n, 2):
            assert libc.mprotect(start + i * PAGE, PAGE, PROT_READ) == 0
        for i in range(1, n, 6):
            ctypes.memset(start + i * PAGE, 1, 1)
        image = read_process(os.getpid())
        row = image.vmas.find(start)
        mine = [image.vmas[i] for i in range(row, row + n)]
        # The outermost two may be merged with a neighbour of the same kind.
        assert [vma.start for vma in mine[1:]] == [start + i * PAGE for i in range(1, n)]
        assert [vma.perms for vma in mine[:4]] == ["r--p", "rw-p", "r--p", "rw-p"]
        rows = image.pages.rows(start, start + n * PAGE, PAGE)
        assert [int(vpn) - start // PAGE for vpn in image.pages.vpn[rows]] == list(range(1, n, 6))
        assert mine[1].smaps_kb["Rss"] == 4
        assert mine[2].smaps_kb["Rss"] == 0


def test_a_reservation_of_many_terabytes_with_a_few_pages():
    size = 16 << 40
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    with raw_mapping(size, PROT_NONE, flags) as (libc, start):
        # Both ends of the reservation become a VMA of their own and stay empty, or hold one page.
        middle = (start + size // 2) & -PAGE
        assert libc.mprotect(middle, PAGE, PROT_READ | PROT_WRITE) == 0
        ctypes.memset(middle, 1, 1)
        image = read_process("self")
        rows = image.pages.rows(start, start + size, PAGE)
        assert image.pages.vpn[rows].tolist() == [middle // PAGE]
        assert not any(low < start + size and start < high for low, high in image.unknown_ranges)


@pytest.mark.parametrize(("step", "regions"), [(5, 2048), (7, 600), (8, 1024), (20, 1536), (20, 64)])
def test_ranges_that_the_kernel_tells_twice_are_read_once(step, regions, monkeypatch):
    """In all but the last case Linux 6.18 says that it came less far than the ranges that it has told."""
    monkeypatch.setattr(procfs, "SCAN_REGIONS", regions)
    size = 64 << 20
    with raw_mapping(size, PROT_READ | PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as (libc, start):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_NOHUGEPAGE)
        touched = range(0, size // PAGE, step)
        for page in touched:
            ctypes.memset(start + page * PAGE, 1, 1)
        image = read_process("self", limits=Limits(dense_pages=64))
        assert list(problems(image)) == []
        found = image.pages.vpn[image.pages.rows(start, start + size, PAGE)]
        assert (found - start // PAGE).tolist() == list(touched)


def test_every_file_is_opened_for_reading_only(monkeypatch):
    seen = []
    real = os.open

    def spy(path, flags, *more, **named):
        seen.append((path, flags & os.O_ACCMODE, flags & (os.O_CREAT | os.O_TRUNC | os.O_APPEND)))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", spy)
    read_process("self")
    monkeypatch.undo()
    assert {os.path.basename(path) for path, _, _ in seen} >= {"maps", "smaps", "pagemap"}
    assert all((mode, more) == (os.O_RDONLY, 0) for _, mode, more in seen)


def test_a_real_kernel_thread():
    try:
        with open("/proc/2/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except OSError:
        flags = 0
    if not flags & 0x200000 or os.geteuid() != 0:
        pytest.skip("PID 2 is no kernel thread here, or may not be read")
    with pytest.raises(LiveError, match="kernel thread"):
        read_process(2)


def test_a_child_that_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert len(read_process(child.pid).vmas) > 5
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(LiveError, match="zombie"):
        read_process(child.pid)
    child.communicate()
    with pytest.raises(LiveError, match="no such process"):
        read_process(child.pid)


def test_without_cap_sys_admin_the_frames_are_hidden():
    code = (
        "from vmviz.live import read_process; i = read_process('self');"
        "print(i.pfns_visible, 'CAP_SYS_ADMIN' in i.missing_right, i.pages.flags is None, len(i.pages) > 100)"
    )
    # Root loses it by an exec without it in the bounding set (PR_CAPBSET_DROP); anybody else has not got it.
    drop = (
        "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 21, 0, 0, 0);"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    )
    out = subprocess.run([sys.executable, "-c", drop, code], capture_output=True, text=True, check=False)
    assert out.stdout.split() == ["False", "True", "True", "True"], out.stderr
