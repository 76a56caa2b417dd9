"""The functions of the language: each C call, what it takes, what it does to the machine, one line of help.

A function gets the call's values and returns a `Result`; errors of the kernel come as its exceptions, which
the runner turns into outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from ..kernel.arguments import PFN_BITS, kind_of
from ..kernel.errors import VmvizError
from ..kernel.mm.access import NOT_READ, Access
from ..kernel.mm.flags import MFD_ALLOW_SEALING, O_RDWR
from ..kernel.mm.memory.pfn import follow_pfn as kernel_follow_pfn
from ..kernel.mm.memory.zap import ZapResult
from ..kernel.mm.page_alloc import DRIVER, OutOfMemory
from ..kernel.mm.vma import Vma

if TYPE_CHECKING:
    from ..kernel.machine import Machine

Value = Any
"""An int, a str, or a `Vma`."""

READ_BACK = 256
"""The longest load, in bytes, that gives back all that it read."""


class ArgumentError(VmvizError):
    """A value that a function cannot take; ``index`` is the argument's number, -1 for the call itself, and
    ``suggestions`` are what may have been meant.
    """

    def __init__(self, index: int, message: str, suggestions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.index = index
        self.suggestions = suggestions


@attrs.frozen
class Result:
    """What a function gives back: the value for the script, whether it is an address or a frame number (and so
    shown in hex), and what the outcome tells besides.
    """

    value: Value = 0
    address: bool = False
    fields: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Function:
    """A function of the language.  ``params`` names the parameters, ``?`` behind one marks it optional."""

    name: str
    params: tuple[str, ...]
    about: str
    call: Callable[..., Result]

    @property
    def signature(self) -> str:
        """As a user would write it.

        >>> FUNCTIONS["munmap"].signature
        'munmap(addr, length)'
        """
        required = [p for p in self.params if not p.endswith("?")]
        optional = [p[:-1] for p in self.params if p.endswith("?")]
        text = ", ".join(required) + (f"[, {', '.join(optional)}]" if optional and required else "")
        return f"{self.name}({text or '[' + ', '.join(optional) + ']' if optional else text})"

    @property
    def arity(self) -> tuple[int, int]:
        """The fewest and the most arguments."""
        return sum(not p.endswith("?") for p in self.params), len(self.params)


FUNCTIONS: dict[str, Function] = {}


def _function(
    params: str, about: str, name: str = ""
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    def register(call: Callable[..., Result]) -> Callable[..., Result]:
        key = name or call.__name__.strip("_")
        FUNCTIONS[key] = Function(key, tuple(params.split()), about, call)
        return call

    return register


def _number(index: int, value: Value, what: str) -> int:
    if isinstance(value, int):
        return value & ((1 << 64) - 1)
    if isinstance(value, Vma):
        return value.start
    raise ArgumentError(index, f"{what} must be a number, not {kind_of(value)}")


def _pfn(index: int, value: Value) -> int:
    number = _number(index, value, "pfn")
    if number >> PFN_BITS:
        raise ArgumentError(
            index, f"pfn {number:#x} is too large: a frame number has at most {PFN_BITS} bits"
        )
    return number


def _vma(m: Machine, index: int, value: Value) -> Vma:
    """The VMA as it is now: see `Machine.live_vma`."""
    if not isinstance(value, Vma):
        kind = kind_of(value)
        raise ArgumentError(index, f"the VMA must be given as vma(address) or vma(name), not as {kind}")
    return m.live_vma(value)


@_function("path argv? envp?", "run a program: its text and stack appear (the address space must be fresh)")
def execve(m: Machine, path: Value, *_: Value) -> Result:
    return Result(m.execve(_text(0, path)))


def _text(index: int, value: Value) -> str:
    if isinstance(value, str):
        return value
    raise ArgumentError(index, f'a path in quotes is wanted here, such as "/dev/fb0", not {kind_of(value)}')


@_function("path flags? mode?", "open a device or file; O_CREAT makes a file; the default is O_RDWR", "open")
def _open(m: Machine, path: Value, flags: Value = O_RDWR, *_: Value) -> Result:
    return Result(m.open(_text(0, path), _number(1, flags, "flags")))


@_function("dirfd path flags? mode?", "open, as strace prints it")
def openat(m: Machine, _dirfd: Value, path: Value, flags: Value = O_RDWR, *_: Value) -> Result:
    return Result(m.open(_text(1, path), _number(2, flags, "flags")))


@_function("fd", "close a descriptor; mappings of it stay")
def close(m: Machine, fd: Value) -> Result:
    return Result(m.close(_number(0, fd, "fd")))


@_function("name flags?", "make a file in memory; with flags it takes seals only if MFD_ALLOW_SEALING is one")
def memfd_create(m: Machine, name: Value, flags: Value = MFD_ALLOW_SEALING) -> Result:
    return Result(m.memfd_create(_text(0, name), _number(1, flags, "flags")))


@_function("fd length", "set the size of a file, in bytes")
def ftruncate(m: Machine, fd: Value, length: Value) -> Result:
    return Result(m.ftruncate(_number(0, fd, "fd"), _number(1, length, "length")))


@_function("addr length prot flags fd? offset?", "map memory; the address is returned")
def mmap(
    m: Machine, addr: Value, length: Value, prot: Value, flags: Value, fd: Value = -1, offset: Value = 0
) -> Result:
    numbers = [
        _number(i, v, w)
        for i, (v, w) in enumerate(
            (
                (addr, "addr"),
                (length, "length"),
                (prot, "prot"),
                (flags, "flags"),
                (fd, "fd"),
                (offset, "offset"),
            )
        )
    ]
    return Result(m.mmap(*numbers), address=True)


@_function("addr length", "unmap a range: VMAs are split, entries cleared, tables freed")
def munmap(m: Machine, addr: Value, length: Value) -> Result:
    gather = m.munmap(_number(0, addr, "addr"), _number(1, length, "length"))
    if gather is None:
        return Result(0, fields={"why": "nothing was mapped there, which is no error"})
    return Result(
        0,
        fields={
            "ptes_cleared": gather.cleared,
            "ptes_unknown": gather.unknown,
            "tlb": tuple(gather.flushes),
            "frames_freed": gather.freed_pages,
            "tables_freed": gather.freed_table_pages,
        },
    )


@_function("addr", "move the program break; brk(NULL) tells where it is")
def brk(m: Machine, addr: Value) -> Result:
    return Result(m.brk(_number(0, addr, "addr")), address=True)


def _access(a: Access, **fields: Any) -> Result:
    return Result(0, fields={"touched": a.touched, "min_flt": a.min_flt, "maj_flt": a.maj_flt, **fields})


@_function(
    "addr length?", "read: touch every page of the range (1 byte without a length) and show what it holds"
)
def load(m: Machine, addr: Value, length: Value = 1) -> Result:
    at, n = _number(0, addr, "addr"), _number(1, length, "length")
    a = m.load(at, n)
    if a.data is None or (n <= READ_BACK and not m.is_known(at, max(n, 1))):
        return _access(a, why=a.why or NOT_READ)
    if n <= READ_BACK:
        return _access(a, data=m.peek(at, max(n, 1)))
    return _access(a, page_bytes=a.data)


@_function(
    "addr length? byte?",
    'write: touch every page of the range, or store the bytes of a string: store(a, "text")',
)
def store(m: Machine, addr: Value, length: Value = 1, byte: Value = 0x5A) -> Result:
    at = _number(0, addr, "addr")
    if isinstance(length, str):
        if not length:
            raise ArgumentError(1, "an empty string writes nothing")
        return _access(m.store(at, data=_bytes(length)))
    return _access(m.store(at, _number(1, length, "length"), _number(2, byte, "byte") & 0xFF))


def _bytes(text: str) -> bytes:
    r"""The bytes of a string literal.

    >>> _bytes("\udcff\xfc")
    b'\xff\xc3\xbc'
    """
    return text.encode("utf-8", "surrogateescape")


@_function("fd buf count offset", "write to a file at an offset, through the page cache")
def pwrite64(m: Machine, fd: Value, buf: Value, count: Value, offset: Value) -> Result:
    at = _number(3, offset, "offset")
    if not isinstance(buf, str):
        raise ArgumentError(1, f"buf must be a string, not {kind_of(buf)}")
    data = _bytes(buf)[: _number(2, count, "count")]
    return Result(m.pwrite(_number(0, fd, "fd"), data, at))


@_function("addr", "fetch an instruction", "exec")
def _exec(m: Machine, addr: Value) -> Result:
    return _access(m.exec(_number(0, addr, "addr")))


@_function(
    "where",
    'the VMA that holds an address or has a name, vma(fb) or vma("[stack]"); as a number it is its vm_start',
)
def vma(m: Machine, where: Value) -> Result:
    if isinstance(where, Vma):
        return Result(where)
    return Result(m.vma(where if isinstance(where, str) else _number(0, where, "where")))


def _zap(m: Machine, area: Value, address: Value, size: Value) -> Result:
    r: ZapResult = m.zap_vma_ptes(_vma(m, 0, area), _number(1, address, "address"), _number(2, size, "size"))
    fields = {
        "refusal": r.refusal,
        "verdict": r.verdict,
        "checks": r.checks,
        "ptes_cleared": r.ptes_cleared,
        "ptes_unknown": r.ptes_unknown,
        "tlb": r.tlb,
        "frames_freed": r.frames_freed,
        "why": r.refusal.message if r.refusal else r.why_nothing,
    }
    return Result(r.ret, fields=fields)


@_function(
    "vma address size", "remove the PTEs of a range of a VM_PFNMAP VMA, and nothing else; 0 if successful"
)
def zap_vma_ptes(m: Machine, area: Value, address: Value, size: Value) -> Result:
    return _zap(m, area, address, size)


@_function("vma address size", "zap_vma_ptes as Linux 7.1 has it: VM_MIXEDMAP too, nothing is returned")
def zap_special_vma_range(m: Machine, area: Value, address: Value, size: Value) -> Result:
    if m.sys.zap_contract != "special":
        raise ArgumentError(
            -1,
            'zap_special_vma_range is there from 7.1 on: boot(zap_contract="special"), or call zap_vma_ptes',
        )
    return _zap(m, area, address, size)


def _remap(m: Machine, call: Callable[..., Vma], *values: Value) -> Result:
    """The two calls that map a run of frames."""
    area, addr, pfn, size = values
    vma, at, first, n = _vma(m, 0, area), _number(1, addr, "addr"), _pfn(2, pfn), _number(3, size, "size")
    if n >> 52 or first + (n >> 12) >> PFN_BITS:
        raise ArgumentError(3, f"size {n:#x} is too large: the frames would end above {PFN_BITS} bits")
    call(vma, at, first, n)
    return Result(0)


@_function("vma addr pfn size", "a driver maps consecutive frames; the VMA becomes VM_PFNMAP")
def remap_pfn_range(m: Machine, area: Value, addr: Value, pfn: Value, size: Value) -> Result:
    return _remap(m, m.remap_pfn_range, area, addr, pfn, size)


@_function("vma addr pfn size", "remap_pfn_range for device memory")
def io_remap_pfn_range(m: Machine, area: Value, addr: Value, pfn: Value, size: Value) -> Result:
    return _remap(m, m.io_remap_pfn_range, area, addr, pfn, size)


@_function("vma start len", "a driver maps physical memory over a whole VMA")
def vm_iomap_memory(m: Machine, area: Value, start: Value, length: Value) -> Result:
    m.vm_iomap_memory(_vma(m, 0, area), _number(1, start, "start"), _number(2, length, "len"))
    return Result(0)


@_function("vma addr pfn", "a driver maps one page that has a struct page; the VMA becomes VM_MIXEDMAP")
def vm_insert_page(m: Machine, area: Value, addr: Value, pfn: Value) -> Result:
    m.vm_insert_page(_vma(m, 0, area), _number(1, addr, "addr"), _pfn(2, pfn))
    return Result(0)


@_function("", "a driver takes a page of RAM; its frame number is returned, for vm_insert_page")
def alloc_page(m: Machine) -> Result:
    j = m.sys.journal
    j.enter("alloc_page")
    try:
        pfn = m.sys.frames.alloc_page(DRIVER)
    except OutOfMemory:
        j.leave("alloc_page", 0)
        raise
    j.leave("alloc_page", pfn)
    return Result(pfn, address=True)


@_function("vma addr", "the frame number behind an address of a VM_IO or VM_PFNMAP mapping")
def follow_pfn(m: Machine, area: Value, addr: Value) -> Result:
    return Result(kernel_follow_pfn(m.mm, _vma(m, 0, area), _number(1, addr, "addr")), address=True)


_VM_FAULT = {0x100: "VM_FAULT_NOPAGE", 0x2: "VM_FAULT_SIGBUS", 0x1: "VM_FAULT_OOM"}


@_function("vma addr pfn", "a fault handler maps one raw frame; returns VM_FAULT_NOPAGE (0x100)")
def vmf_insert_pfn(m: Machine, area: Value, addr: Value, pfn: Value) -> Result:
    ret = m.vmf_insert_pfn(_vma(m, 0, area), _number(1, addr, "addr"), _pfn(2, pfn))
    return Result(ret, fields={"why": _VM_FAULT.get(ret, "")})


# Calls of other subjects have modules of their own, which register themselves here.
from . import functions_page as _functions_page  # noqa: E402, F401
from . import functions_proc as _functions_proc  # noqa: E402, F401
from . import functions_vma as _functions_vma  # noqa: E402, F401
