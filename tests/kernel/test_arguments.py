"""What a caller of the Python API may get wrong: each is one `VmvizError` with a sentence, and nothing happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vmviz.kernel.errors import BadArgumentError, CallerBugError, KernelError, UnsupportedError
from vmviz.kernel.machine import Machine
from vmviz.kernel.mm.flags import O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC
from vmviz.kernel.syscalls import VmaNotFound
from vmviz.kernel.trace.journal import Enter

FB = 0x7FFFF7000000
Call = Callable[[Any], Any]


@pytest.fixture
def m() -> Machine:
    machine = Machine(ram=64 << 20)
    machine.mmap(FB, 8 << 20, "rw", "shared", machine.open("/dev/fb0"))
    return machine


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.mmap(0, 4096, "qq", "private"), "prot 'qq': 'q' is no letter"),
        (
            lambda m: m.mmap(0, 4096, "rw", "bogus"),
            "flags 'bogus' is no kind of mapping; they are private, shared",
        ),
        (lambda m: m.mmap(1.5, 4096, "rw", "private"), "addr must be a number, not a float"),
        (lambda m: m.mmap(0, "4K", "rw", "private"), "length must be a number, not a string"),
        (lambda m: m.mmap(0, 4096, None, "private"), "prot must be a number, not None"),
        (lambda m: m.mmap(0, 1 << 64, 3, 0x22), "length does not fit into 64 bits"),
        (lambda m: m.mmap(0, 4096, 3, 1 << 64), "flags does not fit into 64 bits"),
        (lambda m: m.mmap(0, 4096, 3, 0x22, 1 << 64), "fd does not fit into 64 bits"),
        (lambda m: m.munmap(FB, -1 << 64), "length does not fit into 64 bits"),
        (lambda m: m.mprotect(FB, 4096, "z"), "prot 'z'"),
        (lambda m: m.munmap(None, 4096), "addr must be a number, not None"),
        (lambda m: m.mremap(FB, 4096, 1.0), "new_len must be a number, not a float"),
        (lambda m: m.madvise(FB, 4096, "x"), "advice must be a number, not a string"),
        (lambda m: m.zap_vma_ptes(None, FB, 4096), r"the VMA must be given as vma\(address\).*not as None"),
        (lambda m: m.zap_vma_ptes(FB, FB, 4096), "not as a number"),
        (lambda m: m.zap_vma_ptes(m.vma(FB), 1.0, 4096), "address must be a number, not a float"),
        (
            lambda m: m.zap_vma_ptes(m.vma(FB), 1 << 64, 4096),
            "does not fit into 64 bits: 0x10000000000000000",
        ),
        (lambda m: m.zap_vma_ptes(m.vma(FB), -1 << 64, 4096), "does not fit into 64 bits"),
        (lambda m: m.remap_pfn_range(m.vma(FB), FB, 1 << 40, 4096), "pfn 0x10000000000 is too large"),
        (lambda m: m.vm_insert_page(m.vma(FB), FB, None), "pfn must be a number, not None"),
        (lambda m: m.load(1.0), "addr must be a number, not a float"),
        (lambda m: m.load(True), "addr must be a number, not a bool"),
        (lambda m: m.store(FB, "hello"), "length must be a number, not a string"),
        (lambda m: m.store(FB, b""), "no bytes are given"),
        (lambda m: m.peek("a", 1), "addr must be a number, not a string"),
        (lambda m: m.vma(1.0), "where must be a number, not a float"),
        (lambda m: m.open(7), "path must be a string, not a number"),
        (lambda m: m.close("x"), "fd must be a number, not a string"),
        (lambda m: m.pwrite(3, "text", 0), "data must be bytes, not a string"),
    ],
)
def test_what_is_no_argument_is_refused_and_nothing_happens(m: Machine, call: Call, message: str) -> None:
    before = m.digest()
    with pytest.raises(BadArgumentError, match=message):
        call(m)
    assert m.digest() == before


def test_numbers_are_those_of_c(m: Machine) -> None:
    assert m.zap_vma_ptes(m.vma(FB), np.uint64(FB), np.int64(4096)).ptes_cleared == 1  # type: ignore[arg-type]
    with pytest.raises(BadArgumentError):
        m.load(-(1 << 63) - 1)
    assert m.zap_vma_ptes(m.vma(FB), FB + 4096, -4096).ret == 0, "address + size wraps to vm_start"
    assert m.zap_vma_ptes(m.vma(FB), -8192, 4096).ret == -1
    assert m.mmap(0, 4096, "rw", "private", -1 & (1 << 64) - 1) > 0
    first = m.journal.end[0]
    m.mmap(-4096, 4096, 3, 0x22, (1 << 32) - 1)
    called = m.journal.records[first]
    assert isinstance(called, Enter)
    assert dict(called.fields) == {
        "addr": (1 << 64) - 4096, "length": 4096, "prot": 3, "flags": 0x22, "fd": -1,
    }  # fmt: skip
    with pytest.raises(KernelError, match="EINVAL"):
        m.munmap(-4096, 4096)
    last = m.journal.records[-2]
    assert isinstance(last, Enter)
    assert dict(last.fields) == {"addr": (1 << 64) - 4096, "length": 4096}


def test_bytes_may_be_the_second_argument(m: Machine) -> None:
    at = m.mmap(0, 8192, "rw", "private")
    assert m.store(at + 4094, b"hello").touched == 2
    assert m.peek(at + 4094, 5) == b"hello"
    assert m.store(at, data=b"x").touched == 1


def test_a_missing_vma_carries_its_refusal(m: Machine) -> None:
    with pytest.raises(VmaNotFound) as caught:
        m.vma(0x1000)
    assert (caught.value.refusal.check, caught.value.refusal.message) == ("find_vma", str(caught.value))


def test_a_vma_is_a_pointer(m: Machine) -> None:
    old = m.vma(FB)
    m.munmap(FB + (4 << 20), 4 << 20)
    assert m.zap_vma_ptes(old, FB, 8 << 20).ret == -1, "the VMA of now is judged, which ends earlier"
    m.munmap(FB, 4 << 20)
    for call in (
        lambda: m.zap_vma_ptes(old, FB, 4096),
        lambda: m.remap_pfn_range(old, FB, 0xE0000, 4096),
        lambda: m.vmf_insert_pfn(old, FB, 0xE0000),
        lambda: m.vm_insert_page(old, FB, 5),
        lambda: m.vm_iomap_memory(old, 0xE0000000, 4096),
    ):
        with pytest.raises(CallerBugError, match=r"use after free.*0x7ffff7000000 is gone"):
            call()


def test_files_in_memory_have_no_name(m: Machine) -> None:
    fd = m.memfd_create("x")
    m.mmap(0, 4096, "rw", "shared")
    for path in ("/memfd:x (deleted)", "/dev/zero (deleted)"):
        with pytest.raises(KernelError, match="ENOENT") as caught:
            m.open(path)
        assert "deleted" not in str(caught.value).replace(path, "", 1), "and they are no hint"
    again = m.open(f"/proc/self/fd/{fd}", O_RDONLY)
    m.pwrite(fd, b"abc", 0)
    assert m.peek(m.mmap(0, 4096, "r", "shared", again), 1) == b"\0"
    with pytest.raises(KernelError, match="EBADF"):
        m.pwrite(again, b"x", 0)
    with pytest.raises(KernelError, match="ENOENT"):
        m.open("/proc/self/fd/99")


def test_open_flags(m: Machine) -> None:
    fd = m.open("/tmp/a", O_RDWR | O_CREAT | O_EXCL | O_TRUNC)
    with pytest.raises(KernelError, match="EEXIST"):
        m.open("/tmp/a", O_RDWR | O_CREAT | O_EXCL)
    with pytest.raises(UnsupportedError, match="O_TRUNC"):
        m.open("/tmp/a", O_RDWR | O_TRUNC)
    assert m.open("/tmp/a", O_RDWR | O_EXCL) == fd + 1, "O_EXCL without O_CREAT asks for nothing"
    assert m.open("/dev/fb0", O_RDWR | O_TRUNC) == fd + 2, "a device has nothing to cut off"


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        (lambda m, rw, ro: m.ftruncate(ro, 4096), "EINVAL"),
        (lambda m, rw, ro: m.ftruncate(rw, -1), "EINVAL"),
        (lambda m, rw, ro: m.ftruncate(99, -1), "EBADF"),
        (lambda m, rw, ro: m.pwrite(rw, b"x", -1), "EINVAL"),
        (lambda m, rw, ro: m.pwrite(rw, b"xy", (1 << 63) - 2), "EFBIG"),
    ],
)
def test_limits_of_files(m: Machine, call: Callable[[Machine, int, int], Any], errno: str) -> None:
    rw = m.open("/tmp/a", O_RDWR | O_CREAT)
    ro = m.open("/tmp/a", O_RDONLY)
    with pytest.raises(KernelError) as caught:
        call(m, rw, ro)
    assert caught.value.errno == errno
    assert m.pwrite(rw, b"", 1 << 20) == 0
    assert next(i.size for i in m.sys.inodes.data.values() if i.path == "/tmp/a") == 0, "nothing was written"
