"""Every paging mode by name."""

from __future__ import annotations

from vmviz.kernel.arch.arm64 import ARM64_MODES
from vmviz.kernel.arch.paging import PagingMode, UnknownNameError
from vmviz.kernel.arch.riscv import RISCV_MODES
from vmviz.kernel.arch.x86_modes import X86_MODES

MODES: dict[str, PagingMode] = {mode.name: mode for mode in (*X86_MODES, *ARM64_MODES, *RISCV_MODES)}
"""All modes; the first one, ``x86-64-4l``, is the default of a machine."""


def get_mode(name: str) -> PagingMode:
    """The mode called ``name``; UnknownNameError names the nearest ones.

    >>> get_mode("sv39").title
    'RISC-V Sv39, 3 levels, 39-bit addresses'
    >>> get_mode("x86_64-4")
    Traceback (most recent call last):
        ...
    vmviz.kernel.arch.geometry.UnknownNameError: unknown paging mode 'x86_64-4'; nearest: x86-64-4l, x86-64-5l
    """
    try:
        return MODES[name]
    except KeyError:
        raise UnknownNameError("paging mode", name, MODES) from None
