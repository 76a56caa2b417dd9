"""Random operations for a live comparison, chosen near what is mapped, so that they meet.

All stay inside the window, but for what the kernel places itself.  With the same seed and the same answers the
same operations come.
"""

from __future__ import annotations

import random

import attrs

from ..kernel.machine import Machine
from ..kernel.mm import flags as F
from .live_ops import FILE_SIZES, Operation

P = 4096
WRAPPING = (1 << 64) - P
MAX_DEPTH = 2
_RW = F.PROT_READ | F.PROT_WRITE
_PROTS = (_RW,) * 8 + (
    F.PROT_READ, F.PROT_READ, F.PROT_NONE, F.PROT_WRITE, F.PROT_READ | F.PROT_EXEC, _RW | F.PROT_EXEC,
)  # fmt: skip
_EXTRA = (
    (0,) * 14
    + (F.MAP_NORESERVE, F.MAP_POPULATE, F.MAP_POPULATE, F.MAP_LOCKED, F.MAP_STACK, F.MAP_POPULATE | F.MAP_NONBLOCK)
)  # fmt: skip
ADVICE = (
    F.MADV_DONTNEED, F.MADV_DONTNEED, F.MADV_FREE, F.MADV_NORMAL, F.MADV_RANDOM, F.MADV_SEQUENTIAL,
    F.MADV_WILLNEED, F.MADV_DONTFORK, F.MADV_DOFORK, F.MADV_DONTDUMP, F.MADV_DODUMP, F.MADV_WIPEONFORK,
    F.MADV_KEEPONFORK, F.MADV_HUGEPAGE, F.MADV_NOHUGEPAGE, F.MADV_COLD, F.MADV_POPULATE_READ,
    F.MADV_POPULATE_WRITE, F.MADV_DONTNEED_LOCKED, F.MADV_REMOVE, F.MADV_MERGEABLE, F.MADV_UNMERGEABLE,
)  # fmt: skip
_WEIGHTS = {
    "mmap": 17, "munmap": 6, "mprotect": 12, "mremap": 12, "madvise": 15, "mlock": 3, "munlock": 3, "mlock2": 2,
    "load": 12, "store": 18, "fork": 2, "exit": 4, "msync": 1, "mincore": 2, "ftruncate": 0.7, "pwrite64": 0.7,
    "fallocate": 0.7, "mlockall": 0.3, "munlockall": 0.6, "remap_file_pages": 0.5,
    "copy_from_user": 2, "clear_user": 2, "get_user_pages": 2, "rlimit": 0.5,
}  # fmt: skip


@attrs.define
class Chooser:
    """Chooses the next operation; ``advice`` are the advices that may be given, ``lock_all`` whether
    mlockall may be called.
    """

    rng: random.Random
    window: tuple[int, int]
    advice: tuple[int, ...] = ADVICE
    lock_all: bool = False

    def next(self, machine: Machine, depth: int) -> Operation:
        """An operation for a machine in the state that it has."""
        names = list(_WEIGHTS)
        weights = [_WEIGHTS[n] for n in names]
        while True:
            name = self.rng.choices(names, weights)[0]
            if (name == "fork" and depth >= MAX_DEPTH) or (name == "exit" and not depth):
                continue
            if (name in ("mlockall", "munlockall") and not self.lock_all) or (
                name == "rlimit" and self.lock_all
            ):
                continue
            args = getattr(self, f"_{name}")(machine) if hasattr(self, f"_{name}") else self._range(machine)
            return Operation(name, tuple(args))

    # -- ranges

    def _pages(self) -> int:
        return min(1 + int(self.rng.expovariate(0.4)), 14)

    def _range(self, machine: Machine, *, spoil: bool = True) -> tuple[int, int]:
        """An address and a length in bytes: at random, a VMA, a part of one, or over the end of one."""
        low, high = self.window
        vmas = machine.mm.vmas.overlapping(low, high)
        kind = self.rng.random()
        start = low + self.rng.randrange((high - low) // P) * P
        length = self._pages() * P
        if vmas and kind < 0.8:
            vma = self.rng.choice(vmas)
            if kind < 0.25:
                start, length = vma.start, vma.size
            elif kind < 0.55:
                start = vma.start + self.rng.randrange(vma.nr_pages) * P
                length = min(length, vma.end - start)
            elif kind < 0.7:
                start = max(low, vma.end - self._pages() * P)
            else:
                start = vma.start
        start = max(start, low)
        length = min(length, high - start)
        if length <= 0:
            start, length = low, P
        if spoil and self.rng.random() < 0.03:
            return self.rng.choice(((start + 5, length), (start, 0), (start, length - 7), (start, WRAPPING)))
        return start, length

    def _free(self, length: int) -> int:
        low, high = self.window
        return low + self.rng.randrange((high - low - length) // P + 1) * P

    # -- the operations that have more than a range

    def _mmap(self, machine: Machine) -> tuple[int, ...]:
        rng = self.rng
        start, length = self._range(machine)
        prot, flags, file, offset = rng.choice(_PROTS), rng.choice(_EXTRA), -1, 0
        kind = rng.random()
        if kind < 0.5:
            flags |= F.MAP_PRIVATE | F.MAP_ANONYMOUS
            if rng.random() < 0.12:
                flags |= F.MAP_GROWSDOWN
        elif kind < 0.62:
            flags |= F.MAP_SHARED | F.MAP_ANONYMOUS
        else:
            flags |= F.MAP_PRIVATE if kind < 0.82 else F.MAP_SHARED
            file = rng.randrange(2 * len(FILE_SIZES))
            offset = rng.randrange(12) * P
        how = rng.random()
        if how < 0.75:
            flags |= F.MAP_FIXED
        elif how < 0.87:
            flags |= F.MAP_FIXED_NOREPLACE
        return start, length, prot, flags, file, offset

    def _mprotect(self, machine: Machine) -> tuple[int, ...]:
        grows = F.PROT_GROWSDOWN if self.rng.random() < 0.03 else 0
        return *self._range(machine), self.rng.choice(_PROTS) | grows

    def _mremap(self, machine: Machine) -> tuple[int, ...]:
        rng = self.rng
        start, old = self._range(machine)
        kind = rng.random()
        if kind < 0.2:
            return start, old, min(self._pages() * P, self.window[1] - (start & -P)), 0, 0
        if kind < 0.35:
            new = min(old + self._pages() * P, self.window[1] - (start & -P))
            return start, old, new, rng.choice((0, F.MREMAP_MAYMOVE)), 0
        if kind < 0.45:
            return start, old if old > P else P, old, F.MREMAP_MAYMOVE | F.MREMAP_DONTUNMAP, self._free(P)
        new = old if rng.random() < 0.6 else self._pages() * P
        if rng.random() < 0.06:
            old = 0
        target = self._free(min(new, 1 << 16))
        if target + new > self.window[1] and new < WRAPPING:
            new = P
        flags = F.MREMAP_MAYMOVE | F.MREMAP_FIXED
        if new == old and rng.random() < 0.3:
            flags |= F.MREMAP_DONTUNMAP
        return start, old, new, flags, target

    def _madvise(self, machine: Machine) -> tuple[int, ...]:
        advice = self.rng.choice(self.advice) if self.rng.random() > 0.01 else 77
        return *self._range(machine), advice

    def _mlock2(self, machine: Machine) -> tuple[int, ...]:
        return *self._range(machine), self.rng.choice((F.MLOCK_ONFAULT, F.MLOCK_ONFAULT, 0, 8))

    def _msync(self, machine: Machine) -> tuple[int, ...]:
        return *self._range(machine), self.rng.choice((F.MS_SYNC, F.MS_ASYNC, F.MS_INVALIDATE, 0, 5, 64))

    def _mincore(self, machine: Machine) -> tuple[int, ...]:
        start, length = self._range(machine, spoil=False)
        return start, length

    def _copied(self, machine: Machine) -> tuple[int, ...]:
        start, length = self._range(machine, spoil=False)
        return start, min(length, 8 * P)

    _copy_from_user = _clear_user = _get_user_pages = _copied

    def _rlimit(self, _: Machine) -> tuple[int, ...]:
        return (self.rng.choice((0, 1, 8, 20, 40, 2048)) * P,)

    def _load(self, machine: Machine) -> tuple[int, ...]:
        start, length = self._range(machine, spoil=False)
        return start, length // P

    def _store(self, machine: Machine) -> tuple[int, ...]:
        start, length = self._range(machine, spoil=False)
        return start, length // P, self.rng.randrange(1, 256)

    def _fork(self, _: Machine) -> tuple[int, ...]:
        return ()

    _exit = _fork
    _munlockall = _fork

    def _mlockall(self, _: Machine) -> tuple[int, ...]:
        return (self.rng.choice((1, 2, 3, 4, 5, 6, 7, 0)),)

    def _ftruncate(self, _: Machine) -> tuple[int, ...]:
        return self.rng.randrange(2 * len(FILE_SIZES)), self.rng.randrange(28) * P // 2

    def _pwrite64(self, _: Machine) -> tuple[int, ...]:
        file = self.rng.randrange(2 * len(FILE_SIZES))
        return file, self.rng.randrange(1, 256), self.rng.randrange(1, 20), self.rng.randrange(20) * P + 4090

    def _fallocate(self, _: Machine) -> tuple[int, ...]:
        mode = F.FALLOC_FL_PUNCH_HOLE | F.FALLOC_FL_KEEP_SIZE
        file = self.rng.randrange(2 * len(FILE_SIZES))
        return file, mode, self.rng.randrange(24) * P // 2, self.rng.randrange(1, 12) * P // 2

    def _remap_file_pages(self, machine: Machine) -> tuple[int, ...]:
        return *self._range(machine), 0, self.rng.randrange(8), 0


__all__ = ["ADVICE", "Chooser"]
