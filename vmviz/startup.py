"""How the process of the command line is set up before the work begins: its heap, and what it can do without."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE = 32 << 20
"""Bytes from which on an array has a mapping of its own; the C library takes no greater number."""
KEPT = 256 << 20
"""Free bytes at the end of the heap that are not given back to the system."""


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed (mallopt of glibc); returns whether it can be told so.

    Loading a process makes dozens of arrays of megabytes that live for a moment.  Each would be mapped and unmapped
    again, and the first touches of its pages take longer than the work on them.

    >>> keep_freed_memory() or sys.platform != "linux" or "no glibc"
    True
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE) and mallopt(_M_TRIM_THRESHOLD, KEPT))


def import_asyncio_without_tls() -> None:
    """Import asyncio as where Python has no ssl: the app speaks to a terminal, and OpenSSL takes 4 ms of its start.

    Whoever imports ssl afterwards gets it; asyncio goes on without.
    """
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules["ssl"] = None  # an import of it fails
    try:
        import asyncio  # noqa: F401, PLC0415 - for its side effect
    finally:
        del modules["ssl"]
