"""From the rows of /proc/PID/maps and smaps to VMAs and the files behind them, for a machine that is not sealed yet.

What a VMA is depends on few things: rows of the same file with the same flags are of one kind, which is judged
once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmviz.kernel.arch.x86 import vm_get_page_prot
from vmviz.kernel.mm.flags import O_RDONLY, O_RDWR, VM_MAYWRITE, VM_SHARED
from vmviz.kernel.mm.mm_types import File, Inode, System
from vmviz.kernel.mm.vma import Vma
from vmviz.kernel.mm.vma_columns import VmaColumns
from vmviz.live.image import U64, ProcessImage
from vmviz.live.pour import Ints, SortedPages, starts_of_runs
from vmviz.live.vm_ops import FILE_OPS, SHMEM_OPS, operations_of

_FEW = 64
"""Among so many distinct values each row's is searched for sooner than all rows are sorted with their places."""


def pour_vmas(
    image: ProcessImage, pages: SortedPages, vm_flags: U64, system: System
) -> tuple[VmaColumns, U64]:
    """The VMAs, and of each the inode behind it (0: none); makes the files: one per device, inode and path."""
    rows = image.vmas
    first, which = kinds_of_rows(rows.dev.ids, rows.inode, rows.path.ids, vm_flags)
    columns = (rows.dev.ids, rows.inode, rows.path.ids, vm_flags)
    keys = list(zip(*(column[first].tolist() for column in columns), strict=True))
    kinds, inodes, private = _kinds(image, keys, which, system)
    anonymous = np.zeros(len(rows), bool)
    anonymous[pages.vma[pages.first[pages.anon]]] = True
    anonymous[pages.vma[image.pages.swapped]] = True
    anon_vma = np.cumsum(anonymous, dtype=np.uint64)
    anon_vma *= anonymous
    system.ids.put("anon_vma", int(anonymous.sum()))
    pgoff = np.where(np.array(private, bool)[which], rows.start, rows.offset)
    pgoff >>= np.uint64(12)
    chain = anonymous.view(np.int8)
    vmas = VmaColumns(rows.start, rows.end, pgoff, anon_vma, chain, which, kinds)
    return vmas, np.array(inodes, np.uint64)[which]


def kinds_of_rows(*columns: U64) -> tuple[Ints, Ints]:
    """Rows alike in all columns are of one kind: the first row of each kind, in their order, and each row's kind.

    >>> first, which = kinds_of_rows(np.array([7, 5, 7, 7], np.uint64), np.array([1, 1, 1, 2], np.uint64))
    >>> first.tolist(), which.tolist()
    ([0, 1, 3], [0, 1, 0, 2])
    """
    n = len(columns[0])
    which, bound = np.zeros(n, np.int64), 1
    if not n:
        return which, which
    for column in columns:
        top = int(column.max()) + 1
        if top <= n:  # ordinals of texts, or all 0
            codes = column.view(np.int64)
        else:
            top, codes = _ordinals(column)
        if bound * top >= 1 << 62:
            bound, which = _ordinals(which)
        which *= top
        which += codes
        bound *= top
    count, which = _ordinals(which)
    first = np.empty(count, np.int64)
    first[which[::-1]] = np.arange(n - 1, -1, -1)  # of several rows of a kind the last one written stays
    order = np.argsort(first)
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    return first[order], rank[which]


def _ordinals(column: NDArray[Any]) -> tuple[int, Ints]:
    """How many distinct values there are, and the ordinal of each row's among them."""
    ascending = np.sort(column)
    distinct = ascending[starts_of_runs(ascending)]
    if len(distinct) > _FEW:
        distinct, ordinals = np.unique(column, return_inverse=True)
        return len(distinct), ordinals.reshape(-1)
    return len(distinct), np.searchsorted(distinct, column)


def _kinds(
    image: ProcessImage, keys: list[tuple[int, int, int, int]], which: Ints, system: System
) -> tuple[list[Vma], list[int], list[bool]]:
    """What the keys (device, inode, path, flags) stand for: VMAs without a place, the inodes behind them, and whether
    it is anonymous memory, whose pgoff follows from the address; makes the files.
    """
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
    kinds, inodes, private = [], [], []
    for dev, inode, path, flags in keys:
        ops = operations_of(names[path], inode, flags)
        file_of = files.get((dev, inode, path))
        number, behind = (file_of.id, file_of.inode) if file_of is not None else (0, 0)
        kinds.append(Vma(0, 0, flags, 0, vm_get_page_prot(flags), number, 0, ops, names[path]))
        inodes.append(behind)
        private.append(not ops and not inode)
    return kinds, inodes, private


def _import_file(system: System, path: str, dev: str, number: int, size: int, flags: int) -> File:
    ops = operations_of(path, number, flags)
    kind = "shmem" if ops == SHMEM_OPS else "reg" if ops == FILE_OPS else "chr"
    inode = Inode(system.new_id("inode"), path, kind, size, "", number, dev)
    system.inodes.put(inode.id, inode)
    mode = O_RDWR if flags & VM_SHARED and flags & VM_MAYWRITE else O_RDONLY
    file = File(system.new_id("file"), path, mode, inode.id)
    system.files.put(file.id, file)
    return file


def plain_text(text: str) -> str:
    r"""A name without the lone surrogates that stand for bytes that are no UTF-8.

    >>> plain_text("/tmp/\udcff.so")
    '/tmp/\\xff.so'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
