"""The vm_operations of imported mappings: which of them a mapping has, and that nobody knows what they do."""

from __future__ import annotations

from vmviz.kernel.errors import UnknownContentsError
from vmviz.kernel.mm.flags import VM_IO, VM_MAYSHARE, VM_MIXEDMAP, VM_PFNMAP, VM_SHARED
from vmviz.kernel.mm.memory.fault import FaultContext
from vmviz.kernel.mm.mm_types import VmOperations

FILE_OPS, SHMEM_OPS = "imported file vm_ops", "imported shmem vm_ops"
DEVICE_OPS, SPECIAL_OPS = "imported device vm_ops", "imported special vm_ops"
_UNKNOWN = {
    FILE_OPS: "what the page of {name} would hold is unknown",
    SHMEM_OPS: "what the page of {name} would hold is unknown",
    DEVICE_OPS: "what the fault handler of {name} would do is unknown",
    SPECIAL_OPS: "what the kernel's fault handler of {name} would map is unknown",
}
IMPORTED_OPS = tuple(_UNKNOWN)


def operations_of(path: str, inode: int, vm_flags: int) -> str:
    """The name of the vm_ops that stand for a mapping's unknown ones; "" for anonymous memory.

    >>> operations_of("[heap]", 0, 0x100073), operations_of("/bin/sh", 7, 0x75)
    ('', 'imported file vm_ops')
    >>> operations_of("[vvar]", 0, 0x4044411)
    'imported special vm_ops'
    """
    special = path.startswith("[") and not path.startswith(("[heap]", "[stack", "[anon"))
    if special:
        return SPECIAL_OPS
    if vm_flags & (VM_PFNMAP | VM_MIXEDMAP | VM_IO):
        return DEVICE_OPS
    shared = vm_flags & (VM_SHARED | VM_MAYSHARE)
    if shmem_path(path):
        return SHMEM_OPS
    if not shared and (path == "/dev/zero" or (not inode and path[:1] in ("", "["))):
        return ""
    return DEVICE_OPS if path.startswith(("/dev/", "anon_inode:")) or not path else FILE_OPS


def unknown_operations(name: str) -> VmOperations:
    """The table ``name``: its fault handler raises `UnknownContentsError`, naming the file or device."""
    text = _UNKNOWN[name]

    def fault(ctx: FaultContext) -> int:
        vma = ctx.vma
        what = text.format(name=vma.name or f"the mapping at {vma.start:#x}")
        raise UnknownContentsError(f"{what}: the process is imported, and {ctx.address:#x} was not present")

    return VmOperations(
        name, fault, explain="imported: what its fault handler does is unknown", imported=True
    )


def shmem_path(path: str) -> bool:
    """Whether maps' path is that of a file in memory.

    >>> shmem_path("/memfd:x (deleted)"), shmem_path("/dev/zero (deleted)"), shmem_path("/usr/bin/x")
    (True, True, False)
    """
    return path == "/dev/zero (deleted)" or path.startswith(("/memfd:", "/SYSV", "/dev/shm/", "[anon_shmem:"))
