"""From the rows of /proc/PID/maps and smaps to VMAs and the files behind them, for a machine that is not sealed yet.

What a VMA is depends on few things: rows of the same file with the same flags are of one kind, which is judged
once.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

import attrs
import numpy as np
from numpy.typing import NDArray

from vmviz.kernel.arch.x86 import vm_get_page_prot
from vmviz.kernel.mm.flags import O_RDONLY, O_RDWR, VM_MAYWRITE, VM_SHARED
from vmviz.kernel.mm.mm_types import File, Inode, System
from vmviz.kernel.mm.vma import Vma
from vmviz.live.image import U64, ProcessImage
from vmviz.live.pour import SortedPages
from vmviz.live.vm_ops import FILE_OPS, SHMEM_OPS, operations_of


@attrs.frozen
class PouredVmas:
    """The VMAs in address order, and as columns what pages want to know: anon_vma, inode, offset in pages.

    ``files`` are the ids of all files behind them (0: none).
    """

    vmas: list[Vma]
    anon_vma: U64
    inode: U64
    pgoff: U64
    files: frozenset[int]


@attrs.frozen
class _Kind:
    """What rows of the same device, inode, path and flags have in common."""

    ops: str
    name: str
    vm_flags: int
    file: int
    inode: int
    private: bool  # anonymous memory, whose pgoff follows from the address


def pour_vmas(image: ProcessImage, pages: SortedPages, vm_flags: U64, system: System) -> PouredVmas:
    """Make the VMAs, and the files behind them: one per device, inode and path."""
    rows = image.vmas
    index: dict[tuple[int, int, int, int], int] = {}
    keys = zip(
        rows.dev.ids.tolist(), rows.inode.tolist(), rows.path.ids.tolist(), vm_flags.tolist(), strict=True
    )
    kind_of = [index.setdefault(key, len(index)) for key in keys]
    which = np.array(kind_of, np.int64)
    kinds = _kinds(image, list(index), which, system)
    anonymous = np.zeros(len(rows), bool)
    anonymous[pages.vma[pages.first[pages.anon]]] = True
    anonymous[pages.vma[image.pages.swapped]] = True
    anon_vma = np.where(anonymous, np.cumsum(anonymous), 0).astype(np.uint64)
    system.ids.put("anon_vma", int(anonymous.sum()))
    private = np.array([kind.private for kind in kinds], bool)[which]
    pgoff = np.where(private, rows.start, rows.offset) >> np.uint64(12)
    starts, ends = rows.start.tolist(), rows.end.tolist()
    flags, files = [kind.vm_flags for kind in kinds], [kind.file for kind in kinds]
    prots = [vm_get_page_prot(bits) for bits in flags]
    names, ops = [kind.name for kind in kinds], [kind.ops for kind in kinds]
    of_row = (map(values.__getitem__, kind_of) for values in (flags, prots, files, ops, names))
    flag, prot, file, op, name = of_row
    chains = anonymous.astype(np.int64).tolist()
    columns = (starts, ends, flag, pgoff.tolist(), prot, file, anon_vma.tolist(), op, name, repeat(0), chains)
    vmas = list(map(Vma, *columns))
    inode = np.array([kind.inode for kind in kinds], np.uint64)[which]
    return PouredVmas(vmas, anon_vma, inode, pgoff, frozenset(files))


def _kinds(
    image: ProcessImage, keys: list[tuple[int, int, int, int]], which: NDArray[np.int64], system: System
) -> list[_Kind]:
    """What the keys (device, inode, path, flags) stand for; makes the files."""
    rows = image.vmas
    names = [plain_text(path) for path in rows.path.values]
    top = np.zeros(len(keys), np.uint64)  # how far into its file a kind reaches, in bytes
    reach = rows.offset + (rows.end - rows.start)
    np.maximum.at(top, which, np.where(reach < rows.offset, np.uint64((1 << 64) - 1), reach))
    known: dict[tuple[int, int, int], list[int]] = {}
    for (dev, inode, path, flags), end in zip(keys, top.tolist(), strict=True):
        if inode or names[path][:1] not in ("", "["):
            file = known.setdefault((dev, inode, path), [0, 0])
            file[0] = max(file[0], end)
            file[1] |= flags
    files = {
        key: _import_file(system, names[key[2]], rows.dev.values[key[0]], key[1], size, flags)
        for key, (size, flags) in known.items()
    }
    kinds = []
    for dev, inode, path, flags in keys:
        ops = operations_of(names[path], inode, flags)
        file_of = files.get((dev, inode, path))
        number, behind = (file_of.id, file_of.inode) if file_of is not None else (0, 0)
        kinds.append(_Kind(ops, names[path], flags, number, behind, not ops and not inode))
    return kinds


def _import_file(system: System, path: str, dev: str, number: int, size: int, flags: int) -> File:
    ops = operations_of(path, number, flags)
    kind = "shmem" if ops == SHMEM_OPS else "reg" if ops == FILE_OPS else "chr"
    inode = Inode(system.new_id("inode"), path, kind, size, "", number, dev)
    system.inodes.put(inode.id, inode)
    mode = O_RDWR if flags & VM_SHARED and flags & VM_MAYWRITE else O_RDONLY
    file = File(system.new_id("file"), path, mode, inode.id)
    system.files.put(file.id, file)
    return file


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking, again and again, at many objects that are all to stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def plain_text(text: str) -> str:
    r"""A name without the lone surrogates that stand for bytes that are no UTF-8.

    >>> plain_text("/tmp/\udcff.so")
    '/tmp/\\xff.so'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
