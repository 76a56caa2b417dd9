"""vmviz: see virtual memory.

>>> import vmviz
>>> m = vmviz.Machine()
>>> fb = m.mmap(0, 8 << 20, "rw", "shared", m.open("/dev/fb0"))
>>> m.zap_vma_ptes(m.vma(fb), fb, 2 << 20).ret
0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .kernel import Config, KernelError, Machine, SignalRaised, VmvizError
    from .session import Session

__all__ = ["Config", "KernelError", "Machine", "Session", "SignalRaised", "VmvizError", "__version__"]


def __getattr__(name: str) -> Any:
    """The public classes, imported when first used: the command line starts without them."""
    if name == "Session":
        from .session import Session

        return Session
    if name in __all__:
        from . import kernel

        return getattr(kernel, name)
    raise AttributeError(f"module 'vmviz' has no attribute {name!r}")
