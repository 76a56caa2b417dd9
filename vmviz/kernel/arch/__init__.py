"""What the hardware dictates: paging modes, the bits of their entries, TLBs.

>>> from vmviz.kernel.arch import MODES, get_mode
>>> sorted(MODES)[:3], get_mode("x86-64-4l").page_size
(['arm64-16k-36', 'arm64-16k-47', 'arm64-16k-48'], 4096)
"""

from vmviz.kernel.arch.layout import EntryBit, Level, Masks, SwapLayout
from vmviz.kernel.arch.modes import MODES, get_mode
from vmviz.kernel.arch.paging import PagingMode, UnknownNameError

__all__ = ["MODES", "EntryBit", "Level", "Masks", "PagingMode", "SwapLayout", "UnknownNameError", "get_mode"]
