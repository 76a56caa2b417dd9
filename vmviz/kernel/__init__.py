"""Ring 0: a small Linux memory manager as a pure library (stdlib, attrs, numpy).

Its files mirror Linux's own tree: whoever knows mm/memory.c finds `vmviz.kernel.mm.memory` without asking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import door

if TYPE_CHECKING:
    from .errors import (
        CallerBugError,
        CheckResult,
        KernelError,
        LegalRange,
        Refusal,
        SignalRaised,
        UnknownContentsError,
        UnsupportedError,
        VmvizError,
    )
    from .machine import Config, Machine
    from .mm.memory.zap import ZapResult
    from .mm.vma import Vma
    from .processes import Task
    from .syscalls import VmaNotFound

__all__ = [
    "CallerBugError",
    "CheckResult",
    "Config",
    "KernelError",
    "LegalRange",
    "Machine",
    "Refusal",
    "SignalRaised",
    "Task",
    "UnknownContentsError",
    "UnsupportedError",
    "Vma",
    "VmaNotFound",
    "VmvizError",
    "ZapResult",
]

__getattr__ = door(
    __name__,
    {
        "errors": "CallerBugError CheckResult KernelError LegalRange Refusal SignalRaised UnknownContentsError "
        "UnsupportedError VmvizError",
        "machine": "Config Machine",
        "mm.memory.zap": "ZapResult",
        "mm.vma": "Vma",
        "processes": "Task",
        "syscalls": "VmaNotFound",
    },
)
