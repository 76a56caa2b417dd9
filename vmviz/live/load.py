"""Rebuilding a real address space in the simulator: `load_image`, `open_base`.

**Known** (read from /proc): the VMAs with their flags, offsets, names and files; which pages are present or
swapped, with PFN, soft-dirty and uffd-wp bits; per frame the flags and the mapcount, where kpageflags and
kpagecount are readable; which entries nobody can see (``mm.unknown``).

**Inferred**, because no file tells it: the rights, A and D bits of an entry (see
`vmviz.live.pour.entry_bits`); the refcount (the least that follows); pgoff of anonymous VMAs (start /
4096); which VMAs have an anon_vma (those with anonymous pages, each its own); mmap_base (the highest end of
a mapping below the stack); brk (the end of [heap]); RLIMIT_STACK (8 MiB, or the stack's size); a file's
size (as far as it is mapped).  The zero page without kpageflags is what Rss leaves out.  The fault handlers
of files, devices and the kernel's own mappings are unknown: touching a missing page there raises
`UnknownContentsError`.  Anonymous memory works as ever.

**Different**: the page tables are the simulator's own, in frames of a spare zone above the highest known
PFN, and only those that hold a visible entry; so ``pgtables`` is not VmPTE.  Huge pages are mapped by 4 KiB
entries.  hugetlb pages count as file pages.  Page contents are not imported: a load of an imported page gives no
data (`vmviz.kernel.mm.contents.UNKNOWN_CONTENT`), only the bytes that are stored afterwards are known.  Hidden PFNs,
and PFNs of 2**26 and above, are replaced by numbers of vmviz's own (page flag PG_HIDDEN), distinct for each page, which
the views and ``--state`` do not show.
"""

from __future__ import annotations

import difflib
import os

import attrs
import numpy as np

from vmviz.kernel.arch.x86 import (
    _PAGE_KNL_ERRATUM_MASK,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    swp_offset,
    swp_type,
)
from vmviz.kernel.errors import UnknownContentsError
from vmviz.kernel.exec import PIE_BASE, STACK_LIMIT, mmap_base
from vmviz.kernel.machine import Config, Machine
from vmviz.kernel.mm.access import Access
from vmviz.kernel.mm.flags import (
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
)
from vmviz.kernel.mm.mm_types import Mm, stat_class
from vmviz.kernel.mm.page_alloc import FREE, OTHER
from vmviz.kernel.mm.vma_columns import VmaColumns
from vmviz.kernel.processes import Task
from vmviz.kernel.trace.journal import Journal
from vmviz.kernel.trace.store import index_of
from vmviz.live.check import problems
from vmviz.live.errors import LiveError
from vmviz.live.image import U64, ProcessImage
from vmviz.live.pour import (
    KPF_HUGE,
    KPF_THP,
    SortedPages,
    entry_bits,
    has,
    pour_entries,
    sort_pages,
    visible_unknown,
)
from vmviz.live.pour_frames import count_rss, pour_frames
from vmviz.live.pour_vmas import plain_text, pour_vmas
from vmviz.live.snapshot import read_snapshot
from vmviz.live.vm_ops import IMPORTED_OPS, unknown_operations


class ImportedMachine(Machine):
    """A machine whose process is a copy of a real one.

    ``image`` is what it was made from, with the warnings and notes of the loading added.
    """

    imported = True

    @property
    def pfns_visible(self) -> bool:
        """Whether the frame numbers are those of the real machine."""
        return self.image.pfns_visible and not self.frames.own_pfns

    def __init__(self, image: ProcessImage, config: Config | None = None, *, sound: bool = False) -> None:
        """``sound``: the columns are known to fit each other, as those of a snapshot are that was read."""
        what = f"PID {image.pid} ({image.name})"
        _check(image, what, sound=sound)
        pages = sort_pages(image)
        self.image = image
        comm = plain_text(image.name)
        dials = config or Config()
        dials.validate()  # the RAM is not among them: the real machine may have more than one can ask for
        self.config = attrs.evolve(dials, ram=pages.nr_frames << 12, vdso=False, comm=comm)
        self.journal = Journal()
        self.journal.enabled = False  # what is loaded is the base: there is nothing to take back
        self._build(pages.nr_frames, pages.zones, OTHER)
        _check_addresses(image, self.mm.task_size, what)
        self._load(pages)
        remarks = _remarks(image, pages, self.mm)
        self.image = attrs.evolve(
            image, warnings=image.warnings + pages.warnings, notes=image.notes + tuple(remarks)
        )
        self.journal.enabled = True
        self.seal()

    def _new_task(self, comm: str) -> int:
        """The process keeps its real pid, and its first table lies in the spare zone like all others."""
        spare = self.frames.zones[-1]
        self.frames.states.put_many(slice(spare.start_pfn, spare.end_pfn), FREE)
        mm = Mm(self.sys, self.sys.new_id("mm"))
        self._mms[mm.id] = mm
        pid = max(1, self.image.pid)
        self.journal.write(self.sys.ids, "pid", pid)
        self.journal.write(self.tasks, pid, Task(pid, comm, mm.id))
        return pid

    # -- accesses: what is in swap cannot be read back

    def _access(self, addr: int, length: int, kind: str, data: bytes | int = 0x5A) -> Access:
        """As every machine's; raises `UnknownContentsError` where a page is in swap."""
        self._check_swap(addr, length)
        return super()._access(addr, length, kind, data)

    def _check_swap(self, addr: int, length: int) -> None:
        end = min(addr + max(length, 1), self.mm.task_size)
        for slot, n, va in self.arena.segments(self.mm.pgd, addr, end):
            values = self.arena.entries[slot : slot + n]
            there = np.flatnonzero(values & np.uint64(~_PAGE_KNL_ERRATUM_MASK & (1 << 64) - 1))
            away = there[(values[there] & np.uint64(_PAGE_PRESENT | _PAGE_PROTNONE)) == 0]
            if len(away):
                entry, at = int(values[away[0]]), va + (int(away[0]) << 12)
                raise UnknownContentsError(
                    f"the page at {at:#x} is not in RAM (swap type {swp_type(entry)}, offset "
                    f"{swp_offset(entry):#x}): what it holds is unknown, the process is imported"
                )

    # -- loading

    def _load(self, pages: SortedPages) -> None:
        image, mm = self.image, self.mm
        for name in IMPORTED_OPS:
            self.sys.vm_ops[name] = unknown_operations(name)
        vm_flags = complete_flags(image)
        vmas, inode = pour_vmas(image, pages, vm_flags, self.sys)
        mm.vmas.fill(vmas)
        first = index_of(pages.first)
        owner = pages.vma[first]
        mapping = (
            np.where(pages.anon, vmas.anon_vma[owner], inode[owner])
            if len(pages.first)
            else np.empty(0, np.uint64)
        )
        index = image.pages.vpn[first] - (image.vmas.start[owner] >> np.uint64(12)) + vmas.pgoff[owner]
        pour_frames(image, pages, self.frames, mapping, index)
        pour_entries(image, entry_bits(image, pages, vmas), mm)
        self._counters(pages, vmas)
        self._fields(vmas)
        for start, end in visible_unknown(image):
            mm.unknown.put(start, end)

    def _counters(self, pages: SortedPages, vmas: VmaColumns) -> None:
        image, counters = self.image, self.mm.counters
        sums = np.zeros(len(vmas.kinds), np.int64)
        np.add.at(sums, vmas.kind, ((vmas.end - vmas.start) >> np.uint64(12)).astype(np.int64))
        for kind, total in zip(vmas.kinds, sums.tolist(), strict=True):
            flags = kind.vm_flags
            counters.add("total_vm", total)
            if name := stat_class(flags):
                counters.add(name, total)
            if flags & VM_LOCKED:
                counters.add("locked_vm", total)
            if flags & VM_ACCOUNT:
                self.sys.commit.add("committed", total)
        counters.put("map_count", len(image.vmas))
        for name, value in count_rss(image, pages, self.frames).items():
            counters.put(name, value)
        counters.put("hiwater_rss", max(self.mm.rss, image.counters.get("VmHWM", 0) // 4))

    def _fields(self, vmas: VmaColumns) -> None:
        """The fields of mm_struct: those of /proc/PID/stat, the others from where things lie."""
        fields, layout = self.mm.fields, self.image.layout
        task_size = min(self.mm.task_size, 0x7FFFFFFFF000)
        heap, stacks = vmas.named("[heap]"), vmas.named("[stack]")
        stack = vmas.rows(stacks[-1], stacks[-1] + 1)[0] if stacks else None
        start_brk = layout.get("start_brk", 0)
        if heap:
            begin = int(vmas.start[heap[0]])
            start_brk = start_brk if 0 < start_brk <= begin else begin
        elif not start_brk:
            start_brk = _end_of_program(vmas)
        fields.put("start_brk", start_brk)
        fields.put("brk", int(vmas.end[heap[-1]]) if heap else start_brk)
        top = stack.start if stack is not None else task_size
        under = vmas.end[(vmas.end <= np.uint64(top)) & ~has(vmas.vm_flags, VM_GROWSDOWN)]
        limit = max(STACK_LIMIT, stack.size if stack is not None else 0)
        fields.put("mmap_base", int(under[-1]) if len(under) else mmap_base(task_size))
        fields.put("stack_limit", limit)
        if start_stack := layout.get("start_stack", 0):
            fields.put("start_stack", start_stack)


def load_image(image: ProcessImage, config: Config | None = None) -> ImportedMachine:
    """Rebuild the address space of ``image`` on a machine of its own: the base that undo returns to.

    ``config`` gives the dials (kernel, zap_contract, mode, cpus); its RAM follows from the image.  Raises
    `LiveError` for an image that is not sound, that has no 4 KiB pages, or whose addresses the paging mode
    does not have.

    >>> from vmviz.live import PageColumns, VmaRecord, VmaTable
    >>> heap = VmaRecord(0x600000, 0x602000, "rw-p", 0, "00:00", 0, "[heap]", 0x100073, "rd wr mr mw me ac")
    >>> pages = PageColumns(vpn=[0x601], entry=[0x8100000000001234], pfn=[0x1234])
    >>> m = load_image(ProcessImage(7, "demo", 4096, VmaTable.of([heap]), pages, pfns_visible=True))
    >>> m.pid, m.mm.rss, hex(m.arena.get(m.arena.lookup(m.mm.pgd, 0x601000)))
    (7, 1, '0x8000000001234067')
    >>> m.store(0x600000).touched
    1
    """
    return ImportedMachine(image, config)


def open_base(target: str, config: Config | None = None) -> tuple[ImportedMachine, ProcessImage]:
    """The machine and the image of a process or a snapshot.

    The image carries the warnings and notes of reading and of loading.  ``target`` is a PID in digits,
    "self", or the path of a snapshot.  Digits and "self" always mean a process: a file of such a name is
    opened as ``./123``.  Raises `LiveError` (no such process or file, with the nearest), `SnapshotError`.

    >>> open_base("no-such-thing.vmsnap")
    Traceback (most recent call last):
        ...
    vmviz.live.errors.LiveError: no-such-thing.vmsnap: it is no PID, and there is no such file; give a PID, \
'self', or the path of a snapshot
    """
    if target == "self" or (target.isascii() and target.isdigit()):
        from vmviz.live.process import read_process

        try:
            image = read_process(target)
        except LiveError as error:
            if os.path.isfile(target):
                raise LiveError(error.what, error.why, f"for the file of that name say ./{target}") from error
            raise
        machine = load_image(image, config)
    elif os.path.exists(target):
        machine = ImportedMachine(read_snapshot(target), config, sound=True)
    else:
        raise LiveError(target, "it is no PID, and there is no such file", _nearest_file(target))
    return machine, machine.image


def _nearest_file(target: str) -> str:
    folder, name = os.path.split(target)
    try:
        names = sorted(entry.name for entry in os.scandir(folder or ".") if entry.is_file())
    except (OSError, ValueError):
        names = []
    near = difflib.get_close_matches(name, names, 1, 0.75)
    if near:
        return f"the nearest file is {os.path.join(folder, near[0])}"
    return "give a PID, 'self', or the path of a snapshot"


def _check(image: ProcessImage, what: str, *, sound: bool) -> None:
    if image.page_size != 4096:
        why = f"its pages have {image.page_size} bytes, and the machines of vmviz have pages of 4096"
        raise LiveError(what, why, "open a process of an x86-64 system")
    for problem in () if sound else problems(image):
        raise LiveError(what, f"what was read is not sound: {problem.where}: {problem.why}", "read it again")


def _check_addresses(image: ProcessImage, task_size: int, what: str) -> None:
    top = int(image.vmas.end[-1]) if len(image.vmas) else 0
    if top > task_size:
        why = f"its VMAs reach up to {top:#x}, above the user space of this paging mode ({task_size:#x})"
        raise LiveError(what, why, 'if it is an x86-64 process with 5 levels, use the mode "x86-64-5l"')


def complete_flags(image: ProcessImage) -> U64:
    """vm_flags with the protection keys in bits 32 to 35; without smaps, with the usual VM_MAY bits."""
    vmas = image.vmas
    flags = vmas.vm_flags.copy()
    keys = vmas.smaps.get("ProtectionKey")
    if keys is not None:
        flags |= (keys & np.uint64(15)) << np.uint64(32)
    if len(vmas) and not any(vmas.codes.values):
        flags |= np.uint64(VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC)
        if "[stack]" in vmas.path.values:
            stack = vmas.path.ids == np.uint64(vmas.path.values.index("[stack]"))
            flags[stack] |= np.uint64(VM_GROWSDOWN)
    return flags


def _end_of_program(vmas: VmaColumns) -> int:
    """The end of the lowest file's mappings, behind which the program break begins."""
    if not len(vmas):
        return PIE_BASE
    file = np.array([kind.file for kind in vmas.kinds])[vmas.kind]
    parted = np.flatnonzero((vmas.start[1:] != vmas.end[:-1]) | (file[1:] != file[0]))
    return int(vmas.end[parted[0] if len(parted) else -1])


def _remarks(image: ProcessImage, pages: SortedPages, mm: Mm) -> list[str]:
    out = ["page contents are not read: what imported pages hold is unknown"]
    if pages.hidden:
        out.append("frame numbers are vmviz's own: equal pages of files are not recognised as shared frames")
    if image.pages.flags is not None:
        huge = int((image.pages.present & has(image.pages.flags, KPF_THP | KPF_HUGE)).sum())
        if huge:
            out.append(f"{huge * 4} kB in huge pages are shown as 4 KiB entries")
    tables = mm.counters.data["pgtables"] >> 10
    real = image.counters.get("VmPTE", 0)
    if real and real != tables:
        out.append(
            f"the simulated page tables have {tables} kB, the real ones {real} kB: see vmviz.live.load"
        )
    return out
