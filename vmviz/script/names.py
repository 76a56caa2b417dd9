"""The names of the language that are not functions: the C constants, by the value that the kernel gives them."""

from __future__ import annotations

from ..kernel.mm import flags

CONSTANTS: dict[str, int] = {
    "NULL": 0,
    "AT_FDCWD": -100,
    **{
        name: value
        for name, value in vars(flags).items()
        if name.startswith(("PROT_", "MAP_", "O_", "VM_", "MADV_", "MREMAP_", "MS_", "MCL_")) and isinstance(value, int)
    },
}
"""NULL, PROT_*, MAP_*, O_*, VM_* and the others that statements use."""

NOT_YET = frozenset(
    "mprotect mremap madvise mlock mlock2 munlock mlockall munlockall mincore msync remap_file_pages fork vfork clone "
    "pkey_mprotect process_madvise userfaultfd swapon".split()
)
"""Calls of Linux that the simulator does not have; a statement that uses one is told so by name."""
