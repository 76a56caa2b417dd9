"""[vvar] and [vdso], which the kernel maps into every process (models arch/x86/entry/vdso/vma.c)."""

from __future__ import annotations

from ..mm.memory.fault import FaultContext
from ..mm.memory.pfn import VM_FAULT_SIGBUS, vmf_insert_pfn
from ..mm.mm_types import System, VmOperations
from .base import DriverPages

VVAR_OPS, VDSO_OPS = "[vvar] vm_ops", "[vdso] vm_ops"


def add_special_mappings(system: System) -> None:
    """Register the operations of [vvar] (raw frames, filled on touch) and [vdso] (the kernel's own pages).

    Simplified: of [vvar] only the first page, the clock data, is there; the pages for paravirtual clocks are
    SIGBUS.
    """
    data, code = DriverPages(system, "[vvar]", 1), DriverPages(system, "[vdso]", 2)

    def vvar_fault(ctx: FaultContext) -> int:
        pfn = data.pfn(ctx.pgoff)
        return vmf_insert_pfn(ctx.mm, ctx.vma, ctx.address, pfn) if pfn >= 0 else VM_FAULT_SIGBUS

    explain = "its fault handler maps the kernel's clock data again"
    system.vm_ops[VVAR_OPS] = VmOperations(VVAR_OPS, vvar_fault, explain=explain)
    system.vm_ops[VDSO_OPS] = VmOperations(
        VDSO_OPS, code.fault, explain="its fault handler maps the kernel's vDSO code"
    )
