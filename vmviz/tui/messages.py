"""Messages of the panes: what the user chose, as addresses and frames, never as row numbers."""

from __future__ import annotations

from textual.message import Message


class AddressChosen(Message):
    """The user moved the cursor to a virtual address, bytes; ``extend`` makes or moves the end of a range.

    ``end`` is where the row under the cursor ends, ``origin_end`` where the row ends that the cursor has left (0:
    one page).
    """

    def __init__(self, address: int, extend: bool = False, end: int = 0, origin_end: int = 0) -> None:
        super().__init__()
        self.address = address
        self.extend = extend
        self.end = end
        self.origin_end = origin_end


class FrameChosen(Message):
    """The user moved the cursor to a physical frame."""

    def __init__(self, pfn: int) -> None:
        super().__init__()
        self.pfn = pfn
