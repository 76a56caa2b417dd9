"""Errors of reading real processes and saved snapshots: what, where, why, and what to try instead."""

from __future__ import annotations

from vmviz.kernel.errors import VmvizError


class LiveError(VmvizError):
    """A process that cannot be read: ``what`` was asked, ``why`` it failed, and the nearest valid thing.

    >>> raise LiveError("PID 2 (kthreadd)", "it is a kernel thread", "choose a user process")
    Traceback (most recent call last):
        ...
    vmviz.live.errors.LiveError: PID 2 (kthreadd): it is a kernel thread; choose a user process
    """

    def __init__(self, what: str, why: str, hint: str = "") -> None:
        super().__init__(f"{what}: {why}" + (f"; {hint}" if hint else ""))
        self.what = what
        self.why = why
        self.hint = hint


class SnapshotError(VmvizError):
    """A snapshot that cannot be written or read; ``offset`` is the byte at fault (None: the whole file).

    >>> raise SnapshotError("a.vmsnap", 17, "the header is cut off")
    Traceback (most recent call last):
        ...
    vmviz.live.errors.SnapshotError: a.vmsnap: byte 17: the header is cut off
    """

    def __init__(self, path: str, offset: int | None, why: str) -> None:
        super().__init__(f"{path}: " + (f"byte {offset}: " if offset is not None else "") + why)
        self.path = path
        self.offset = offset
        self.why = why
