"""The names of the language that are not functions: the C constants, with the kernel's values."""

from __future__ import annotations

from ..kernel.mm import flags

_PREFIXES = (
    "PROT_", "MAP_", "O_", "VM_", "MADV_", "MREMAP_", "MS_", "MCL_", "MLOCK_", "F_", "FALLOC_",
    "MFD_", "PR_SET_MM", "RLIMIT_", "RLIM_",
)  # fmt: skip

CONSTANTS: dict[str, int] = {
    "NULL": 0,
    "AT_FDCWD": -100,
    **{
        name: value
        for name, value in vars(flags).items()
        if name.startswith(_PREFIXES) and isinstance(value, int)
    },
}
"""NULL, PROT_*, MAP_*, O_*, VM_* and the others that statements use."""

_NOT_YET = """
    clone pkey_mprotect process_madvise swapon userfaultfd vfork
"""
NOT_YET = frozenset(_NOT_YET.split())
"""Calls of Linux that the simulator does not have; a statement that uses one is told so by name."""
