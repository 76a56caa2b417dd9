"""The devices of the stories, each a driver as a course would write it: a frame buffer, PCI BARs, and three
to refuse.

| path | frames | how it is filled | VMA |
|---|---|---|---|
| /dev/fb0 | 8M of device memory from pfn e0000 | remap_pfn_range at mmap, no fault handler | VM_PFNMAP |
| resource0 | 64K BAR of 0000:00:02.0 from pfn fe000 | vmf_insert_pfn, by page, on first touch | VM_PFNMAP |
| resource2 | 256M BAR from pfn c0000 | the same | VM_PFNMAP |
| /dev/mixed | pages of the driver | vm_insert_page at mmap | VM_MIXEDMAP |
| /dev/io | pages of the driver | an ordinary fault handler | VM_IO only |
| /dev/page | pages of the driver | an ordinary fault handler | no special flag |
"""

from .base import Driver, add_driver, open_backing
from .devices import add_default_devices

__all__ = ["Driver", "add_default_devices", "add_driver", "open_backing"]
