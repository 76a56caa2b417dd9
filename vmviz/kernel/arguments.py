"""What the calls of a machine take: numbers, words for flags, VMAs, each judged before anything happens.

A number is an int of 64 bits as C has it: a negative one means its complement, a VMA stands for its vm_start.
What is no argument at all raises `BadArgumentError` with a sentence.
"""

from __future__ import annotations

from typing import Any

from .errors import BadArgumentError
from .mm.flags import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE
from .mm.vma import Vma

WRAP = (1 << 64) - 1
PFN_BITS = 40
"""Frame numbers of x86-64 have at most so many bits (52 of a physical address, less 12)."""

_PROT = {"r": PROT_READ, "w": PROT_WRITE, "x": PROT_EXEC, "-": 0}
_FLAGS = {"private": MAP_PRIVATE, "shared": MAP_SHARED}


def kind_of(value: Any) -> str:
    """What a value is, in words for a message.

    >>> kind_of(3), kind_of("a"), kind_of(1.5), kind_of(None)
    ('a number', 'a string', 'a float', 'None')
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Vma | None):
        return f"a {type(value).__name__}"
    return (
        "None" if value is None else "a number" if isinstance(value, int)
        else "a string" if isinstance(value, str) else "a VMA"
    )  # fmt: skip


def number(value: Any, what: str) -> int:
    """A number of 64 bits, unsigned.

    >>> number(-1, "addr") == WRAP, number(Vma(0x1000, 0x2000, 0), "addr")
    (True, 4096)
    >>> number(1.5, "addr")
    Traceback (most recent call last):
        ...
    vmviz.kernel.errors.BadArgumentError: addr must be a number, not a float
    """
    if type(value) is int and not value >> 64:
        return value
    if isinstance(value, Vma):
        return value.start
    if hasattr(value, "__index__") and not isinstance(value, bool):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadArgumentError(f"{what} must be a number, not {kind_of(value)}")
    if not -(1 << 63) <= value <= WRAP:
        raise BadArgumentError(f"{what} does not fit into 64 bits: {value:#x}")
    return value & WRAP


def descriptor(value: Any) -> int:
    """A descriptor or -1, as C has it: an int of 32 bits.

    >>> descriptor(0xffffffffffffffff), descriptor(3)
    (-1, 3)
    """
    if type(value) is int and -1 <= value < 1 << 31:
        return value
    low = number(value, "fd") & 0xFFFF_FFFF
    return low - (1 << 32) if low >> 31 else low


def frame_number(value: Any) -> int:
    """A frame number.

    >>> frame_number(1 << 40)
    Traceback (most recent call last):
        ...
    vmviz.kernel.errors.BadArgumentError: pfn 0x10000000000 is too large: a frame number has at most 40 bits
    """
    pfn = number(value, "pfn")
    if pfn >> PFN_BITS:
        raise BadArgumentError(f"pfn {pfn:#x} is too large: a frame number has at most {PFN_BITS} bits")
    return pfn


def text(value: Any, what: str) -> str:
    """A string.

    >>> text(7, "path")
    Traceback (most recent call last):
        ...
    vmviz.kernel.errors.BadArgumentError: path must be a string, not a number
    """
    if not isinstance(value, str):
        raise BadArgumentError(f"{what} must be a string, not {kind_of(value)}")
    return value


def protection(prot: Any) -> int:
    """PROT_* bits from a number or from letters.

    >>> protection("rw"), protection("r-x"), protection(4)
    (3, 5, 4)
    """
    if not isinstance(prot, str):
        return number(prot, "prot")
    if wrong := [c for c in prot if c not in _PROT]:
        raise BadArgumentError(
            f"prot {prot!r}: {wrong[0]!r} is no letter of a protection; they are r, w and x"
        )
    bits = 0
    for letter in prot:
        bits |= _PROT[letter]
    return bits


def mapping_flags(flags: Any, fd: int) -> int:
    """MAP_* bits from a number or a word; a word without a descriptor means anonymous memory.

    >>> mapping_flags("private", -1) == MAP_PRIVATE | MAP_ANONYMOUS
    True
    """
    if not isinstance(flags, str):
        return number(flags, "flags")
    if flags not in _FLAGS:
        raise BadArgumentError(
            f"flags {flags!r} is no kind of mapping; they are {', '.join(_FLAGS)}, or MAP_* bits"
        )
    return _FLAGS[flags] | (MAP_ANONYMOUS if fd < 0 else 0)
