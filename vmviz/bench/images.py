"""Address spaces of any size for the benches of the app, as snapshots: what `vmviz snapshot` writes of a process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from ..live import write_snapshot
from ..live.image import PM_MMAP_EXCLUSIVE, PM_PRESENT, PageColumns, ProcessImage, TextColumn, VmaTable

BASE, STACK = 0x7F00_0000_0000, 0x7FFF_FFFD_E000
HOLE = 4096
"""VMAs between two holes, which have rows of their own."""
_PERMS = ("r--p", "rw-p")
_CODES = ("rd mr mw me ac", "rd wr mr mw me ac", "rd wr mr mw me gd ac")


def image(vmas: int, top_pfn: int = 0) -> ProcessImage:
    """A process with so many VMAs: single pages, every other one read-only, each touched, and a stack.

    ``top_pfn``: the highest frame number, which says how much RAM the machine has (0: 4 GiB and what is needed).
    """
    n = vmas - 1
    i = np.arange(n, dtype=np.uint64)
    start = np.uint64(BASE) + ((i + i // np.uint64(HOLE)) << np.uint64(12))
    writable = np.append(i & np.uint64(1), 1).astype(np.uint64)
    none = np.zeros(vmas, np.uint64)
    flags = np.where(writable == 1, 0x100073, 0x100071).astype(np.uint64)
    flags[-1] = 0x100173
    named, codes = none.copy(), writable.copy()
    named[-1], codes[-1] = 1, 2
    first = (top_pfn or 0x100000 + n) - n
    pfn = np.arange(first, first + n, dtype=np.uint64)
    return ProcessImage(
        4711,
        "many",
        4096,
        VmaTable(
            np.append(start, np.uint64(STACK)),
            np.append(start + np.uint64(4096), np.uint64(STACK + 0x21000)),
            none,
            none,
            flags,
            TextColumn(writable, _PERMS),
            TextColumn(none, ("00:00",)),
            TextColumn(named, ("", "[stack]")),
            TextColumn(codes, _CODES),
        ),
        PageColumns(
            start >> np.uint64(12),
            pfn | np.uint64(PM_PRESENT | PM_MMAP_EXCLUSIVE),
            pfn,
            np.full(n, 0x5828, np.uint64),
            np.ones(n, np.uint64),
        ),
        kernel_release="6.1.0",
        pfns_visible=True,
    )


class SnapshotFile:
    """A snapshot of `image` in a directory of its own, until it is closed."""

    def __init__(self, vmas: int, top_pfn: int = 0) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.path = str(Path(self._directory.name) / "many.vmvs")
        write_snapshot(image(vmas, top_pfn), self.path)

    def close(self) -> None:
        """Remove it."""
        self._directory.cleanup()
