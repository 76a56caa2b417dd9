"""`read_process`: a running process's address space as a `ProcessImage`, without touching the process."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from concurrent.futures import wait
from contextlib import ExitStack, closing

import attrs
import numpy as np

from vmviz.live.errors import LiveError
from vmviz.live.frames import with_frames
from vmviz.live.image import VM_PFNMAP, PageColumns, ProcessImage, VmaTable
from vmviz.live.maps import ParsedMaps, parse_maps
from vmviz.live.pagemap import Limits, PagemapReader, PagemapResult, Scratch
from vmviz.live.procfs import GoneError, ProcFs
from vmviz.live.smaps import Parts, smaps_parts

_PF_KTHREAD = 0x00200000
_PATIENCE = 0.0005  # seconds: so soon is maps read of a process with a thousand VMAs
# Field numbers of proc(5), /proc/PID/stat, counted from 1.
_LAYOUT = {
    "start_code": 26,
    "end_code": 27,
    "start_stack": 28,
    "start_data": 45,
    "end_data": 46,
    "start_brk": 47,
    "arg_start": 48,
    "arg_end": 49,
    "env_start": 50,
    "env_end": 51,
}


@attrs.frozen
class _Attempt:
    parsed: ParsedMaps
    has_smaps: bool
    pages: PagemapResult | None
    frames: tuple[PageColumns, bool, str] | None  # None when they are to be read yet
    after: bytes
    before: bytes

    @property
    def at_rest(self) -> bool:
        """Whether the VMAs were the same all the time."""
        return self.before == self.after and (not self.has_smaps or self.parsed.headers == self.before)

    @property
    def in_order(self) -> bool:
        """Whether nothing was seen twice; a VMA that grows while smaps is read may be, and its pages with it."""
        vmas = self.parsed.vmas
        vpn = self.pages.vpn if self.pages is not None else vmas.start
        return bool((vmas.start[1:] >= vmas.end[:-1]).all() and (vpn[1:] > vpn[:-1]).all())


def read_process(
    pid: int | str, *, root: str = "/proc", taken: str | None = None, limits: Limits | None = None
) -> ProcessImage:
    """Read the address space of process ``pid`` (a number, or "self") from the /proc tree at ``root``.

    Strictly read-only (see `vmviz.live.procfs`).  maps is compared before and after, and smaps with it; a
    process that changes is read again, ``limits.attempts`` times in all.  A pass that finds the three alike is
    taken without a warning, whatever earlier passes met: its VMAs were there when it began and when it ended
    (what came and went in between, entries included, no comparison can find).  When no pass is so, the last
    one is taken and says so in ``warnings``; where a VMA was seen twice in it, up to as many passes again are
    made.  Page flags and counts are read after the entries: a frame that changes hands in between shows its later
    owner's flags.  ``taken`` is kept in the image as it is.

    A second thread begins with smaps while maps is read, and the entries of VMAs follow as soon as their part of
    smaps is there.  All that is told of a VMA is still read after it was seen first and before it was seen last.

    Raises `LiveError` when there is no /proc, no such process, no right to read it, no address space (a
    kernel thread, a zombie), when it exits meanwhile, or when a VMA is seen twice in every pass.

    >>> read_process(-1)
    Traceback (most recent call last):
        ...
    vmviz.live.errors.LiveError: PID -1: a PID is a positive number; give a PID, or 'self'
    """
    return read_from(_locate(pid, root), taken=taken, limits=limits or Limits())


def read_from(proc: ProcFs, *, taken: str | None = None, limits: Limits) -> ProcessImage:
    """Read the process whose files ``proc`` opens; as `read_process`."""
    try:
        return _read_at_rest(proc, taken, limits)
    finally:
        proc.close()


def _read_at_rest(proc: ProcFs, taken: str | None, limits: Limits) -> ProcessImage:
    scratch = Scratch()
    identity = _stat_fields(proc.read_optional("stat"))
    attempt: _Attempt | None = None
    tries = max(1, limits.attempts)
    for n in range(1, 2 * tries + 1):  # the second half only for want of a pass that is in order
        attempt = None  # frees its buffers first, so that reading oneself comes to rest
        try:
            attempt = _read_once(proc, limits, scratch)
        except GoneError:
            _check_alive(proc, identity)
            continue
        except OSError as error:
            raise _explain(proc, error) from error
        if attempt.in_order and (attempt.at_rest or n >= tries):
            break
    _check_alive(proc, identity)
    if attempt is None or not attempt.in_order:
        how = "replaced" if attempt is None else "changed"
        raise LiveError(_title(proc), f"its address space was {how} each time it was read", "try again")
    return _build(proc, attempt, taken)


def _locate(pid: int | str, root: str) -> ProcFs:
    if pid != "self" and (isinstance(pid, bool) or not str(pid).isdecimal() or int(pid) <= 0):
        raise LiveError(f"PID {pid}", "a PID is a positive number", "give a PID, or 'self'")
    if not os.path.isdir(root) or not hasattr(os, "preadv"):
        why = f"there is no /proc of Linux at {root} (this system is {sys.platform})"
        raise LiveError(f"PID {pid}", why, "open a saved snapshot instead: these open on any system")
    proc = ProcFs(root, pid if pid == "self" else int(pid))
    if not proc.exists():
        raise LiveError(f"PID {pid}", f"there is no such process in {root}", _nearest(root, pid))
    if not os.path.exists(proc.path("maps")):
        raise LiveError(f"PID {pid}", f"{root} has no maps file for it: it is no procfs of Linux")
    return proc


def _nearest(root: str, pid: int | str) -> str:
    try:
        pids = [int(name) for name in os.listdir(root) if name.isdecimal()]
    except OSError:
        return ""
    if not pids or pid == "self":
        return ""
    best = min(pids, key=lambda other: (abs(other - int(pid)), other))
    name = ProcFs(root, best).read_optional("comm").decode("utf-8", "replace").strip()
    return f"the nearest is PID {best}" + (f" ({name})" if name else "")


def _title(proc: ProcFs) -> str:
    name = proc.read_optional("comm").decode("utf-8", "replace").strip()
    return f"PID {proc.pid}" + (f" ({name})" if name else "")


def _stat_fields(text: bytes) -> list[bytes]:
    """Split stat so that field n of proc(5) is element n - 1; the name may hold blanks and brackets."""
    head, _, tail = text.rpartition(b")")
    number, _, name = head.partition(b" (")
    return [number, name, *tail.split()] if tail else []


def _check_alive(proc: ProcFs, identity: list[bytes]) -> None:
    now = _stat_fields(proc.read_optional("stat"))
    # Field 22 is the start time: another value means that the number was given to another process.
    if not proc.exists() or (identity and (not now or now[21:22] != identity[21:22])):
        raise LiveError(
            f"PID {proc.pid}", "the process exited while it was read", "choose one that is running"
        )
    if now and now[2] in (b"Z", b"X"):
        raise LiveError(_title(proc), "the process has exited (a zombie): its address space is gone")


def _explain(proc: ProcFs, error: OSError) -> LiveError:
    title = _title(proc)
    if error.errno in (errno.EACCES, errno.EPERM):
        try:
            owner = f", uid {os.stat(os.path.join(proc.root, proc.pid)).st_uid}"
        except OSError:
            owner = ""
        return LiveError(
            title,
            f"no permission to read its memory maps ({error.strerror}): ptrace_may_access refuses",
            f"run as its owner{owner} (dumpable, with no capability you lack), or with CAP_SYS_PTRACE",
        )
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return LiveError(title, "the process exited while it was read", "choose one that is running")
    return LiveError(title, f"{error.filename or proc.root}: {error.strerror}")


def _read_once(proc: ProcFs, limits: Limits, scratch: Scratch) -> _Attempt:
    readable = True
    with closing(proc.blocks("smaps", limits.max_text)) as blocks, ExitStack() as files:
        before = proc.read("maps", limits.max_text)
        if not before:
            raise _no_address_space(proc)

        def reader_of(page_size: int) -> PagemapReader:
            return PagemapReader(proc, files, page_size=page_size, limits=limits, scratch=scratch)

        parts = Parts(before.count(b"\n"))
        reader: PagemapReader | None = None
        has_smaps = False
        try:
            for part in map(_user_part, smaps_parts(blocks)):
                has_smaps = True
                reader = reader or reader_of(_page_size(part.vmas))
                reader.feed(part.vmas)
                parts.add(part)
        except FileNotFoundError:
            pass
        if not has_smaps:
            parts.add(_user_part(parse_maps(before)))
        parsed = parts.whole()
        if reader is None or reader.page_size != _page_size(parsed.vmas):  # the first part was not like all
            reader = reader_of(_page_size(parsed.vmas))
            reader.feed(parsed.vmas)
        try:
            reader.finish()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT) or not proc.exists():
                raise
            readable = False
    # From here on no entry is read any more.
    ending = None if proc.helper is None else proc.helper.submit(proc.read, "maps", limits.max_text)
    pages = reader.result(parsed.vmas) if readable else None
    attempt = _Attempt(parsed, has_smaps, pages, None, before, before)
    if ending is None:
        return attrs.evolve(attempt, after=proc.read("maps", limits.max_text))
    wait((ending,), _PATIENCE)
    frames = None
    if pages is not None and (not ending.done() or attrs.evolve(attempt, after=ending.result()).at_rest):
        frames = with_frames(proc, pages.vpn, pages.entry)
    return attrs.evolve(attempt, frames=frames, after=ending.result())


def _user_part(part: ParsedMaps) -> ParsedMaps:
    """Leave the gate VMA out: it lies in the kernel half and has no page table entries of the process."""
    if "[vsyscall]" not in part.vmas.path.values:
        return part
    gate = np.uint64(part.vmas.path.values.index("[vsyscall]"))
    return attrs.evolve(part, vmas=part.vmas.take(part.vmas.path.ids != gate))


def _no_address_space(proc: ProcFs) -> Exception:
    fields = _stat_fields(proc.read_optional("stat"))
    if len(fields) > 8 and fields[8].isdigit() and int(fields[8]) & _PF_KTHREAD:
        return LiveError(
            _title(proc), "it is a kernel thread: it has no address space of its own", "choose a user process"
        )
    return (
        GoneError()
        if not fields or fields[2] in (b"Z", b"X")
        else LiveError(_title(proc), "its maps is empty")
    )


def _page_size(vmas: VmaTable) -> int:
    sizes = vmas.smaps.get("KernelPageSize")
    if sizes is not None and len(sizes) and sizes.all():
        return int(sizes.min()) * 1024
    return os.sysconf("SC_PAGE_SIZE")


def _build(proc: ProcFs, attempt: _Attempt, taken: str | None) -> ProcessImage:
    vmas, result = attempt.parsed.vmas, attempt.pages
    page_size = _page_size(vmas)
    warnings, notes = _remarks(attempt)
    unknown = [
        (int(vmas.start[i]), int(vmas.end[i])) for i in np.flatnonzero(vmas.vm_flags & np.uint64(VM_PFNMAP))
    ]
    pages, visible, missing = (
        PageColumns(),
        False,
        "reading /proc/PID/pagemap (CAP_SYS_ADMIN before Linux 4.2)",
    )
    if result is None:
        warnings.append("pagemap could not be read: every page is unknown")
        unknown = list(zip(vmas.start.tolist(), vmas.end.tolist(), strict=True))
    else:
        pages, visible, missing = attempt.frames or with_frames(proc, result.vpn, result.entry)
        warnings.extend(result.warnings)
        unknown.extend(result.unread)
        if not attempt.has_smaps:
            warnings.append(
                "smaps could not be read: a VMA without a visible page may be VM_PFNMAP, and is unknown"
            )
            empty = np.searchsorted(pages.vpn, vmas.start // np.uint64(page_size)) == np.searchsorted(
                pages.vpn, vmas.end // np.uint64(page_size)
            )
            unknown.extend((int(vmas.start[i]), int(vmas.end[i])) for i in np.flatnonzero(empty))
    fields = _stat_fields(proc.read_optional("stat"))
    status = proc.read_optional("status").decode("utf-8", "surrogateescape")
    cmdline = proc.read_optional("cmdline").decode("utf-8", "surrogateescape")
    return ProcessImage(
        pid=int(fields[0])
        if fields and fields[0].isdigit()
        else int(proc.pid)
        if proc.pid.isdecimal()
        else 0,
        name=proc.read_optional("comm").decode("utf-8", "surrogateescape").rstrip("\n"),
        page_size=page_size,
        vmas=vmas,
        pages=pages,
        cmdline=tuple(cmdline.removesuffix("\0").split("\0")) if cmdline else (),
        kernel_release=proc.read_optional("/sys/kernel/osrelease").decode("utf-8", "replace").strip(),
        taken=taken,
        pfns_visible=visible,
        missing_right=missing,
        warnings=tuple(warnings),
        notes=tuple(notes),
        counters=_counters(status),
        layout={
            key: int(fields[n - 1])
            for key, n in _LAYOUT.items()
            if len(fields) >= n and fields[n - 1].isdigit()
        },
        unknown_ranges=merge_ranges(unknown),
    )


def _remarks(attempt: _Attempt) -> tuple[list[str], list[str]]:
    warnings: list[str] = []
    notes: list[str] = []
    if not attempt.at_rest:
        old, new = set(attempt.parsed.headers.splitlines()), set(attempt.after.splitlines())
        changed = sorted((old ^ new) or (old ^ set(attempt.before.splitlines())))
        first = changed[0].split(b" ")[0].decode("ascii", "replace") if changed else "the order"
        warnings.append(
            f"changed while read: {len(old - new)} VMA{'s' * (len(old - new) != 1)} went or changed, "
            f"{len(new - old)} came "
            f"(first: {first}); the entries of these may be from another moment than the VMAs"
        )
    if b"[vsyscall]" in attempt.before:
        notes.append("[vsyscall] is left out: it lies in the kernel half and is no VMA of the process")
    if attempt.parsed.unknown_codes:
        notes.append("VmFlags codes without a bit in Linux 6.1: " + " ".join(attempt.parsed.unknown_codes))
    return warnings, notes


def _counters(status: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for line in status.splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdecimal():
            out[key] = int(words[0])
    return out


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return half-open ranges in order, with those that touch or overlap joined.

    >>> merge_ranges([(5, 9), (1, 2), (2, 4), (8, 10)])
    ((1, 4), (5, 10))
    """
    out: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return tuple(out)
