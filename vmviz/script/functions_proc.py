"""The functions of the language that read and write what /proc shows of memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..kernel.errors import KernelError
from ..kernel.fs import proc, task_mmu
from ..kernel.mm.mm_types import Mm
from .functions import ArgumentError, Result, Value
from .functions import _function as function
from .functions import _number as number
from .functions import _text as text
from .values import nearest

if TYPE_CHECKING:
    from ..kernel.machine import Machine

_PATH = re.compile(r"/proc/(self|[0-9]{1,9})/(\w+)")
_TEXTS: dict[str, Callable[[Mm], str]] = {"maps": task_mmu.maps, "smaps": task_mmu.smaps}


@function("path", 'show /proc/self/maps or smaps, or those of a process: cat("/proc/2/smaps")')
def cat(m: Machine, path: Value) -> Result:
    name = text(0, path)
    match = _PATH.fullmatch(name)
    if match is None or match[2] not in _TEXTS:
        known = [f"/proc/{match[1] if match else 'self'}/{one}" for one in _TEXTS]
        raise ArgumentError(0, f"cat shows {' and '.join(known)}, not {name}", nearest(name, known))
    pid = m.pid if match[1] == "self" else int(match[1])
    if pid not in m.living():
        raise KernelError("ENOENT", "open", f"there is no process {pid}")
    shown = _TEXTS[match[2]](m.mms[m.tasks.get(pid).mm])
    return Result(len(shown.encode("utf-8", "surrogateescape")), fields={"output": shown})


@function("kind", "write to /proc/self/clear_refs: 1 to 3 make pages old, 4 clears soft-dirty bits")
def clear_refs(m: Machine, kind: Value) -> Result:
    return Result(m.clear_refs(number(0, kind, "kind")))


@function("addr", "the word of /proc/self/pagemap for the page of an address")
def pagemap(m: Machine, addr: Value) -> Result:
    return Result(proc.pagemap_entry(m.mm, number(0, addr, "addr")), address=True)


@function("addr line", 'a line of /proc/self/smaps of the mapping at an address, in kB: smaps(a, "Rss")')
def smaps(m: Machine, addr: Value, line: Value) -> Result:
    found = task_mmu.smap_fields(m.mm, m.vma(number(0, addr, "addr")))
    if not isinstance(line, str) or line not in found:
        near = nearest(line, found) if isinstance(line, str) else ()
        raise ArgumentError(1, f"smaps has the lines {', '.join(found)}", near)
    return Result(found[line])


def _frame(m: Machine, pfn: Value) -> int:
    frame = number(0, pfn, "pfn")
    if frame >> 40:
        raise KernelError("EINVAL", "kpageflags", f"there is no frame {frame:#x}")
    return frame


@function("pfn", "the word of /proc/kpageflags for a frame")
def kpageflags(m: Machine, pfn: Value) -> Result:
    return Result(proc.kpageflags(m.sys, _frame(m, pfn)), address=True)


@function("pfn", "how often a frame is mapped, as /proc/kpagecount tells")
def kpagecount(m: Machine, pfn: Value) -> Result:
    return Result(proc.kpagecount(m.sys, _frame(m, pfn)))
