"""Starting a program (models fs/exec.c and fs/binfmt_elf.c), as far as its address space shows it.

Simplified: the program is a file with one text segment of 8 KiB, not a real ELF image; there is no
interpreter.  Its arguments fill the two highest pages of the stack, the processor runs its first page, and
the program break starts 2 MiB above the text.  Addresses are those of a kernel without address randomisation.
"""

from __future__ import annotations

from .arch.x86 import vm_get_page_prot
from .drivers import open_backing
from .mm.access import EXEC, WRITE, access
from .mm.flags import (
    MAP_FIXED,
    MAP_PRIVATE,
    PROT_EXEC,
    PROT_READ,
    VM_ACCOUNT,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_READ,
    VM_SOFTDIRTY,
    VM_WRITE,
)
from .mm.mm_types import File, Mm
from .mm.mmap import do_mmap
from .mm.munmap import do_munmap
from .mm.vma import Vma

PIE_BASE = 0x555555554000
TEXT_SIZE = 8192
STACK_SIZE = 132 << 10
STACK_LIMIT = 8 << 20
VVAR, VDSO = 0x7FFFF7FC1000, 0x7FFFF7FC5000
VDSO_END = 0x7FFFF7FC7000


def mmap_base(task_size: int, stack_limit: int = STACK_LIMIT) -> int:
    """Where top-down placement starts (arch/x86/mm/mmap.c), without randomisation.

    >>> hex(mmap_base(0x7ffffffff000))
    '0x7ffff7fff000'
    """
    gap = min(max(stack_limit + (1 << 20), 128 << 20), task_size // 6 * 5)
    return (task_size - gap + 4095) & ~4095


def setup_mm(mm: Mm, *, vdso: bool = True) -> None:
    """The fields of a fresh address space, its stack, and the pages that the kernel gives to every
    process.
    """
    mm.set_field("mmap_base", mmap_base(min(mm.task_size, 0x7FFFFFFFF000)))
    mm.set_field("stack_limit", STACK_LIMIT)
    top = min(mm.task_size, 0x7FFFFFFFF000)
    set_stack(mm, top - STACK_SIZE, top)
    if vdso:
        add_special_mapping(mm, VVAR, VDSO, "[vvar]")
        add_special_mapping(mm, VDSO, VDSO_END, "[vdso]")
    set_brk(mm, PIE_BASE + 0x204000)


def set_stack(mm: Mm, start: int, top: int) -> None:
    """Put the stack at ``[start, top)`` (`setup_arg_pages`); nothing may be mapped there."""
    j = mm.sys.journal
    mm.set_field("start_stack", top - 8192)
    flags = (
        VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_GROWSDOWN | VM_ACCOUNT | VM_SOFTDIRTY
    )
    prot = vm_get_page_prot(flags)
    j.write(mm.vmas, start, Vma(start, top, flags, start >> 12, prot, 0, 0, "", "[stack]"))
    j.add(mm.counters, "map_count", 1)
    mm.account(flags, (top - start) >> 12)
    j.add(mm.sys.commit, "committed", (top - start) >> 12)


def begin_new_exec(mm: Mm, *, vdso: bool = True) -> None:
    """Leave nothing of the program that ran before (fs/exec.c): a fresh address space in the old one's place.

    Simplified: the kernel makes another mm_struct and drops the old one; here the old one is emptied.
    """
    j = mm.sys.journal
    j.enter("begin_new_exec", ("mm", mm.id))
    do_munmap(mm, 0, mm.task_size)
    mm.set_field("def_flags", 0)
    setup_mm(mm, vdso=vdso)
    j.leave("begin_new_exec", 0)


def set_brk(mm: Mm, start: int) -> None:
    """Where the heap begins, in bytes: the break and its start (end of `load_elf_binary`, fs/binfmt_elf.c)."""
    mm.set_field("start_brk", start)
    mm.set_field("brk", start)


def add_special_mapping(mm: Mm, start: int, end: int, name: str) -> None:
    """[vvar] or [vdso] (arch/x86/entry/vdso/vma.c): data of the kernel as raw frames, or its code.

    Any other name ([vvar_vclock] of later kernels) is data.
    """
    if name == "[vdso]":
        flags = VM_READ | VM_EXEC | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_DONTEXPAND | VM_SOFTDIRTY
    else:
        flags = VM_READ | VM_MAYREAD | VM_IO | VM_DONTDUMP | VM_PFNMAP | VM_DONTEXPAND | VM_SOFTDIRTY
    ops = "[vdso] vm_ops" if name == "[vdso]" else "[vvar] vm_ops"
    vma = Vma(start, end, flags, 0, vm_get_page_prot(flags), 0, 0, ops, name)
    mm.sys.journal.write(mm.vmas, start, vma)
    mm.sys.journal.add(mm.counters, "map_count", 1)
    mm.account(flags, vma.nr_pages)


def execve(mm: Mm, file: File) -> None:
    """Run a program: write its arguments to the stack, map its text, fetch its first page (`load_elf_binary`,
    fs/binfmt_elf.c).  Simplified: one text segment of a made-up size, no interpreter; see `vmviz.kernel.binfmt_elf`
    for real ones.
    """
    j = mm.sys.journal
    j.enter("load_elf_binary", ("file", file.path))
    stack = mm.vmas.find_exact(min(mm.task_size, 0x7FFFFFFFF000) - 1)
    assert stack is not None
    access(mm, stack.end - 8192, 8192, WRITE, b"")
    backing = open_backing(mm.sys, file)
    do_mmap(mm, PIE_BASE, TEXT_SIZE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, backing)
    mm.sys.journal.event("sched_process_exec", ("filename", file.path))
    access(mm, PIE_BASE, 1, EXEC)
    j.leave("load_elf_binary", 0)
