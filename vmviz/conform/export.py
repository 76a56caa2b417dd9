"""The page tables of a machine as a raw image of its physical memory, for a foreign MMU to walk.

Each table lies at the address of its frame; everything else is a hole and reads as zeros.  With CR3 and the
bits of `Registers` a processor, or an emulator whose RAM the image is, translates as the simulated one does.
`mappings` tells what it should find there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

import attrs
import numpy as np

from ..kernel.arch import PagingMode
from ..kernel.arch.x86 import _PAGE_NX, _PAGE_PRESENT, _PAGE_PSE, _PAGE_RW, _PAGE_USER
from ..kernel.machine import Machine
from ..kernel.mm.mm_types import Mm

X86_CR0_PE, X86_CR0_WP, X86_CR0_PG = 1 << 0, 1 << 16, 1 << 31
X86_CR4_PAE, X86_CR4_LA57 = 1 << 5, 1 << 12
EFER_LME, EFER_LMA, EFER_NX = 1 << 8, 1 << 10, 1 << 11

_RIGHTS = _PAGE_RW | _PAGE_USER


@attrs.frozen
class Registers:
    """What turns a paging mode on: long mode with paging, write protection in ring 0 too, and NX.

    >>> from vmviz.kernel.arch import get_mode
    >>> Registers.of(get_mode("x86-64-5l")).cr4 == X86_CR4_PAE | X86_CR4_LA57
    True
    """

    cr0: int
    cr4: int
    efer: int

    @classmethod
    def of(cls, mode: PagingMode) -> Registers:
        """The registers of an x86-64 mode of 4 or 5 levels."""
        la57 = X86_CR4_LA57 if len(mode.levels) == 5 else 0
        return cls(X86_CR0_PE | X86_CR0_WP | X86_CR0_PG, X86_CR4_PAE | la57, EFER_LME | EFER_LMA | EFER_NX)


@attrs.frozen
class Root:
    """The top of a process's tables: ``cr3`` is the physical address of its pgd, in bytes."""

    pid: int
    comm: str
    cr3: int


@attrs.frozen
class TableImage:
    """What `write_tables` wrote: ``size`` in bytes, the number of tables, and how to switch them on.

    The process that runs comes first in ``roots``, then the other living ones by pid.
    """

    mode: PagingMode
    size: int
    tables: int
    registers: Registers
    roots: tuple[Root, ...]

    def lines(self) -> list[str]:
        """The description as text, a line for each root.

        >>> from vmviz.kernel import Machine
        >>> for line in describe(Machine(ram=16 << 20)).lines(): print(line)
        paging mode x86-64-4l: x86-64, 4 levels, 48-bit addresses
        tables: 1 in 16777216 bytes of physical memory
        CR0=0x80010001 CR4=0x20 EFER=0xd00
        CR3=0x2000 pid 1 (init)
        """
        r = self.registers
        return [
            f"paging mode {self.mode.name}: {self.mode.title}",
            f"tables: {self.tables} in {self.size} bytes of physical memory",
            f"CR0={r.cr0:#x} CR4={r.cr4:#x} EFER={r.efer:#x}",
            *(f"CR3={root.cr3:#x} pid {root.pid} ({root.comm})" for root in self.roots),
        ]


def describe(machine: Machine) -> TableImage:
    """What the image of a machine's tables is, without writing it."""
    pfn_of = machine.arena.pfn_of.flat
    living = [(pid, machine.tasks.get(pid)) for pid in machine.living()]
    living.sort(key=lambda task: (task[0] != machine.pid, task[0]))
    mode = machine.sys.mode
    roots = (Root(pid, t.comm, pfn_of[machine.mms[t.mm].pgd] << mode.page_shift) for pid, t in living)
    size = machine.frames.nr_frames << mode.page_shift
    return TableImage(mode, size, machine.arena.tables_in_use(), Registers.of(mode), tuple(roots))


def write_tables(machine: Machine, path: str | os.PathLike[str]) -> TableImage:
    """Write all page tables to the file ``path``, each at its frame's address, and describe the image.

    The file is as long as the machine's RAM and sparse.  Page contents are not in it.  OSError: the file
    cannot be written.

    >>> import tempfile; from vmviz.kernel import Machine
    >>> m = Machine(ram=16 << 20); _ = m.store(m.mmap(0, 4096, "rw", "private"))
    >>> f = tempfile.NamedTemporaryFile()
    >>> image = write_tables(m, f.name); cr3 = image.roots[0].cr3
    >>> with open(f.name, "rb") as raw: pgd = raw.read()[cr3 : cr3 + 4096]
    >>> pgd == m.arena.rows[m.mm.pgd].tobytes(), pgd[255 * 8]  # a table's bits: 0x67
    (True, 103)
    """
    image = describe(machine)
    with open(path, "wb") as file:
        file.truncate(image.size)
        _write_rows(machine, file)
    return image


def _write_rows(machine: Machine, file: BinaryIO) -> None:
    arena, shift = machine.arena, machine.sys.mode.page_shift
    rows = np.flatnonzero(arena.pfn_of.array)
    rows = rows[np.argsort(arena.pfn_of.array[rows])]
    for row, pfn in zip(rows.tolist(), arena.pfn_of.array[rows].tolist(), strict=True):
        file.seek(pfn << shift)
        file.write(arena.rows[row].astype("<u8", copy=False).tobytes())


@attrs.frozen
class Mapping:
    """A translation that the hardware finds: ``size`` bytes at the virtual address ``va`` lie at ``pa``.

    ``user`` and ``write`` hold at every level on the way, ``nx`` at any; ``accessed`` and ``dirty`` are the
    leaf's.
    """

    va: int
    size: int
    pa: int
    user: bool
    write: bool
    nx: bool
    accessed: bool
    dirty: bool


def mappings(machine: Machine, mm: Mm) -> Iterator[Mapping]:
    """The present translations of an address space in address order, huge leaves included.

    PROT_NONE and swap entries have no present bit: the hardware sees nothing in them.

    >>> from vmviz.kernel import Machine
    >>> m = Machine(ram=16 << 20, vdso=False); a = m.mmap(0, 8192, "rw", "private"); _ = m.store(a)
    >>> [(x.va == a, x.size, x.user, x.write, x.nx, x.dirty) for x in mappings(m, m.mm)][:1]
    [(True, 4096, True, True, True, True)]
    """
    yield from _walk(machine, mm.pgd, 0, 0, _RIGHTS, 0)


def _walk(machine: Machine, row: int, level_no: int, va: int, rights: int, nx: int) -> Iterator[Mapping]:
    """The translations under one table; ``rights`` and ``nx`` are what the levels above have left."""
    arena, mode = machine.arena, machine.sys.mode
    level = mode.levels[level_no]
    last = level_no == len(mode.levels) - 1
    entries = arena.rows[row]
    for i in np.flatnonzero(entries & np.uint64(_PAGE_PRESENT)).tolist():
        entry = int(entries[i])
        here = va | (i << level.shift)
        both, no_exec = rights & entry, nx | (entry & _PAGE_NX)
        if not last and not entry & _PAGE_PSE:
            child = arena.child_row((row << arena.bits) | i)
            yield from _walk(machine, child, level_no + 1, here, both, no_exec)
            continue
        yield Mapping(
            mode.join(mode.split(here)[:-1]),
            level.span,
            mode.pte_pfn(entry, level.name) << mode.page_shift,
            both & _PAGE_USER != 0,
            both & _PAGE_RW != 0,
            no_exec != 0,
            mode.pte_young(entry),
            mode.pte_dirty(entry),
        )
