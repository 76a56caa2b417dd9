"""Messages of the panes: what the user chose, as addresses and frames, never as row numbers."""

from __future__ import annotations

from textual.message import Message


class AddressChosen(Message):
    """The user moved the cursor to a virtual address, bytes; ``extend`` makes or moves the end of a range."""

    def __init__(self, address: int, extend: bool = False) -> None:
        super().__init__()
        self.address = address
        self.extend = extend


class FrameChosen(Message):
    """The user moved the cursor to a physical frame."""

    def __init__(self, pfn: int) -> None:
        super().__init__()
        self.pfn = pfn
