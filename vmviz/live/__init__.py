"""Real processes and saved snapshots as plain data: read-only, columnar, the same form for both.

`read_process` reads a running Linux process, `write_snapshot` and `read_snapshot` keep the result in a file
that opens on any system.  `load_image` rebuilds it in the simulator; `open_base` does it all
for a PID or a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import door

if TYPE_CHECKING:
    from vmviz.live.errors import LiveError, SnapshotError
    from vmviz.live.image import PageColumns, ProcessImage, TextColumn, VmaRecord, VmaTable
    from vmviz.live.load import ImportedMachine, load_image, open_base
    from vmviz.live.pagemap import Limits
    from vmviz.live.process import read_process
    from vmviz.live.snapshot import read_snapshot, write_snapshot

__all__ = [
    "ImportedMachine",
    "Limits",
    "LiveError",
    "PageColumns",
    "ProcessImage",
    "SnapshotError",
    "TextColumn",
    "VmaRecord",
    "VmaTable",
    "load_image",
    "open_base",
    "read_process",
    "read_snapshot",
    "write_snapshot",
]

__getattr__ = door(
    __name__,
    {
        "errors": "LiveError SnapshotError",
        "image": "PageColumns ProcessImage TextColumn VmaRecord VmaTable",
        "load": "ImportedMachine load_image open_base",
        "pagemap": "Limits",
        "process": "read_process",
        "snapshot": "read_snapshot write_snapshot",
    },
)
