"""The flag words of memory management: vm_flags, and the arguments of mmap, madvise, open and their kin.

All values are those of Linux 6.1 on x86-64 with 4 KiB pages (include/linux/mm.h, the uapi headers mman.h,
mman-common.h and fcntl.h), as plain ints under the kernel's names.  Constants of later kernels are marked
as such; 6.1 does not know them.  `VM_FLAG_TABLE` describes each vm_flags bit and the two letters that
/proc/PID/smaps prints for it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import attrs

from ..value import Value

# The bits of vm_flags, from include/linux/mm.h.
VM_NONE: Final = 0x0
VM_READ: Final = 0x1
VM_WRITE: Final = 0x2
VM_EXEC: Final = 0x4
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_UFFD_MISSING: Final = 0x200
VM_PFNMAP: Final = 0x400
VM_UFFD_WP: Final = 0x1000
VM_LOCKED: Final = 0x2000
VM_IO: Final = 0x4000
VM_SEQ_READ: Final = 0x8000
VM_RAND_READ: Final = 0x1_0000
VM_DONTCOPY: Final = 0x2_0000
VM_DONTEXPAND: Final = 0x4_0000
VM_LOCKONFAULT: Final = 0x8_0000
VM_ACCOUNT: Final = 0x10_0000
VM_NORESERVE: Final = 0x20_0000
VM_HUGETLB: Final = 0x40_0000
VM_SYNC: Final = 0x80_0000
VM_ARCH_1: Final = 0x100_0000
VM_WIPEONFORK: Final = 0x200_0000
VM_DONTDUMP: Final = 0x400_0000
VM_SOFTDIRTY: Final = 0x800_0000
VM_MIXEDMAP: Final = 0x1000_0000
VM_HUGEPAGE: Final = 0x2000_0000
VM_NOHUGEPAGE: Final = 0x4000_0000
VM_MERGEABLE: Final = 0x8000_0000
VM_PKEY_SHIFT: Final = 32
VM_PKEY_BIT0: Final = 0x1_0000_0000
VM_PKEY_BIT1: Final = 0x2_0000_0000
VM_PKEY_BIT2: Final = 0x4_0000_0000
VM_PKEY_BIT3: Final = 0x8_0000_0000
VM_UFFD_MINOR: Final = 0x20_0000_0000

VM_PAT: Final = VM_ARCH_1
"""x86: the range is in the memtype table (PAT), so that untracking it is due when the mapping goes."""
VM_GROWSUP: Final = VM_NONE
VM_STACK: Final = VM_GROWSDOWN
VM_ACCESS_FLAGS: Final = VM_READ | VM_WRITE | VM_EXEC
VM_SPECIAL: Final = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP
"""A VMA with any of these neither merges nor is locked by mlock."""
VM_NO_KHUGEPAGED: Final = VM_SPECIAL | VM_HUGETLB
VM_LOCKED_MASK: Final = VM_LOCKED | VM_LOCKONFAULT
VM_UFFD_FLAGS: Final = VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR
VM_PKEY_MASK: Final = VM_PKEY_BIT0 | VM_PKEY_BIT1 | VM_PKEY_BIT2 | VM_PKEY_BIT3
VM_DATA_FLAGS_NON_EXEC: Final = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
VM_DATA_FLAGS_EXEC: Final = VM_DATA_FLAGS_NON_EXEC | VM_EXEC
VM_DATA_DEFAULT_FLAGS: Final = VM_DATA_FLAGS_NON_EXEC
"""The task's default; a personality of READ_IMPLIES_EXEC makes it `VM_DATA_FLAGS_EXEC`."""
VM_STACK_FLAGS: Final = VM_STACK | VM_DATA_DEFAULT_FLAGS | VM_ACCOUNT
VM_STACK_INCOMPLETE_SETUP: Final = VM_RAND_READ | VM_SEQ_READ
VM_MERGE_IGNORE: Final = VM_SOFTDIRTY
"""Bits in which two VMAs may differ and still merge."""

# prot of mmap and mprotect
PROT_NONE: Final = 0x0
PROT_READ: Final = 0x1
PROT_WRITE: Final = 0x2
PROT_EXEC: Final = 0x4
PROT_SEM: Final = 0x8
PROT_GROWSDOWN: Final = 0x100_0000
PROT_GROWSUP: Final = 0x200_0000

# flags of mmap
MAP_FILE: Final = 0x0
MAP_SHARED: Final = 0x1
MAP_PRIVATE: Final = 0x2
MAP_SHARED_VALIDATE: Final = 0x3
MAP_DROPPABLE: Final = 0x8  # a type of 6.11 and later
MAP_TYPE: Final = 0xF
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_ANON: Final = MAP_ANONYMOUS
MAP_32BIT: Final = 0x40
MAP_GROWSDOWN: Final = 0x100
MAP_DENYWRITE: Final = 0x800
MAP_EXECUTABLE: Final = 0x1000
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_NONBLOCK: Final = 0x1_0000
MAP_STACK: Final = 0x2_0000
MAP_HUGETLB: Final = 0x4_0000
MAP_SYNC: Final = 0x8_0000
MAP_FIXED_NOREPLACE: Final = 0x10_0000
MAP_UNINITIALIZED: Final = 0x400_0000  # honoured only without an MMU
MAP_HUGE_SHIFT: Final = 26
MAP_HUGE_MASK: Final = 0x3F
MAP_HUGE_2MB: Final = 21 << MAP_HUGE_SHIFT
MAP_HUGE_1GB: Final = 30 << MAP_HUGE_SHIFT
LEGACY_MAP_MASK: Final = (
    (MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_DENYWRITE | MAP_EXECUTABLE)
    | (MAP_UNINITIALIZED | MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK)
    | (MAP_STACK | MAP_HUGETLB | MAP_32BIT | MAP_HUGE_2MB | MAP_HUGE_1GB)
)
"""What MAP_SHARED_VALIDATE accepts without asking the file; MAP_SHARED silently drops the rest."""

# flags of mremap, msync, mlock2 and mlockall
MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4
MS_ASYNC: Final = 1
MS_INVALIDATE: Final = 2
MS_SYNC: Final = 4
MLOCK_ONFAULT: Final = 1
MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4

# prctl and setrlimit
PR_SET_MM: Final = 35
PR_SET_MM_START_BRK: Final = 6
PR_SET_MM_BRK: Final = 7
RLIMIT_DATA: Final = 2
RLIMIT_STACK: Final = 3
RLIMIT_MEMLOCK: Final = 8
RLIMIT_AS: Final = 9
RLIM_INFINITY: Final = (1 << 64) - 1
RLIMITS: Final = {RLIMIT_DATA: "data", RLIMIT_STACK: "stack", RLIMIT_MEMLOCK: "memlock", RLIMIT_AS: "as"}
"""The resource limits that the simulator knows, by their numbers."""

# Files in memory and their seals, from include/uapi/linux/memfd.h and fcntl.h
MFD_CLOEXEC: Final = 0x1
MFD_ALLOW_SEALING: Final = 0x2
MFD_HUGETLB: Final = 0x4
F_SEAL_SEAL: Final = 0x1
F_SEAL_SHRINK: Final = 0x2
F_SEAL_GROW: Final = 0x4
F_SEAL_WRITE: Final = 0x8
F_SEAL_FUTURE_WRITE: Final = 0x10
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034
FALLOC_FL_KEEP_SIZE: Final = 0x1
FALLOC_FL_PUNCH_HOLE: Final = 0x2

# advice of madvise
MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_DONTDUMP: Final = 16
MADV_DODUMP: Final = 17
MADV_WIPEONFORK: Final = 18
MADV_KEEPONFORK: Final = 19
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_DONTNEED_LOCKED: Final = 24
MADV_COLLAPSE: Final = 25
MADV_HWPOISON: Final = 100
MADV_SOFT_OFFLINE: Final = 101
MADV_GUARD_INSTALL: Final = 102  # 6.13 and later
MADV_GUARD_REMOVE: Final = 103  # 6.13 and later

# flags of open
O_RDONLY: Final = 0o0
O_WRONLY: Final = 0o1
O_RDWR: Final = 0o2
O_ACCMODE: Final = 0o3
O_CREAT: Final = 0o100
O_EXCL: Final = 0o200
O_NOCTTY: Final = 0o400
O_TRUNC: Final = 0o1000
O_APPEND: Final = 0o2000
O_NONBLOCK: Final = 0o4000
O_DSYNC: Final = 0o1_0000
O_ASYNC: Final = 0o2_0000
O_DIRECT: Final = 0o4_0000
O_LARGEFILE: Final = 0o10_0000
O_DIRECTORY: Final = 0o20_0000
O_NOFOLLOW: Final = 0o40_0000
O_NOATIME: Final = 0o100_0000
O_CLOEXEC: Final = 0o200_0000
O_SYNC: Final = 0o400_0000 | O_DSYNC
O_PATH: Final = 0o1000_0000
O_TMPFILE: Final = 0o2000_0000 | O_DIRECTORY


@attrs.frozen(eq=False, repr=False)
class VmFlag(Value):
    """One bit of vm_flags: number, code in smaps ("": smaps is silent), name and meaning."""

    bit: int
    code: str
    name: str
    meaning: str

    @property
    def mask(self) -> int:
        """The bit as a value."""
        return 1 << self.bit


_FLAGS: Final = (
    VmFlag(0, "rd", "VM_READ", "The CPU may read here now."),
    VmFlag(1, "wr", "VM_WRITE", "The CPU may write here now."),
    VmFlag(2, "ex", "VM_EXEC", "The CPU may execute here now."),
    VmFlag(3, "sh", "VM_SHARED", "Writes go to the shared object, so everybody who maps it sees them."),
    VmFlag(4, "mr", "VM_MAYREAD", "mprotect may grant reading."),
    VmFlag(5, "mw", "VM_MAYWRITE", "mprotect may grant writing."),
    VmFlag(6, "me", "VM_MAYEXEC", "mprotect may grant execution."),
    VmFlag(7, "ms", "VM_MAYSHARE", "Asked for with MAP_SHARED; maps shows its s for this bit."),
    VmFlag(8, "gd", "VM_GROWSDOWN", "A stack: a fault below the start moves the start down."),
    VmFlag(9, "um", "VM_UFFD_MISSING", "Faults on missing pages go to a userfaultfd."),
    VmFlag(10, "pf", "VM_PFNMAP", "Bare frame numbers: the entries point at frames that mm does not count."),
    VmFlag(12, "uw", "VM_UFFD_WP", "Writes to protected pages go to a userfaultfd."),
    VmFlag(13, "lo", "VM_LOCKED", "Pages stay in RAM (mlock)."),
    VmFlag(14, "io", "VM_IO", "Device memory: no core dump, no look through get_user_pages."),
    VmFlag(15, "sr", "VM_SEQ_READ", "Read in order: read far ahead, drop soon behind."),
    VmFlag(16, "rr", "VM_RAND_READ", "Read here and there: reading ahead is of no use."),
    VmFlag(17, "dc", "VM_DONTCOPY", "A fork leaves this VMA out of the child."),
    VmFlag(18, "de", "VM_DONTEXPAND", "mremap must not make it longer; it merges with nothing."),
    VmFlag(
        19, "??", "VM_LOCKONFAULT", "Each page is locked when it is first touched; 6.1 has no code for it."
    ),
    VmFlag(20, "ac", "VM_ACCOUNT", "Its size is charged to Committed_AS."),
    VmFlag(21, "nr", "VM_NORESERVE", "Nothing is charged in advance (MAP_NORESERVE)."),
    VmFlag(22, "ht", "VM_HUGETLB", "Mapped by huge pages of the hugetlb pool."),
    VmFlag(23, "sf", "VM_SYNC", "File metadata is made durable inside the write fault (MAP_SYNC on DAX)."),
    VmFlag(
        24,
        "ar",
        "VM_ARCH_1",
        "The architecture's own; on x86 VM_PAT: a memory type is reserved for the range.",
    ),
    VmFlag(25, "wf", "VM_WIPEONFORK", "A child of fork finds zeros here."),
    VmFlag(26, "dd", "VM_DONTDUMP", "Left out of core dumps."),
    VmFlag(27, "sd", "VM_SOFTDIRTY", "New or changed since the soft-dirty marks were last cleared."),
    VmFlag(28, "mm", "VM_MIXEDMAP", "A driver's mix: counted pages and bare frame numbers side by side."),
    VmFlag(29, "hg", "VM_HUGEPAGE", "madvise asked for transparent huge pages."),
    VmFlag(30, "nh", "VM_NOHUGEPAGE", "madvise forbade transparent huge pages."),
    VmFlag(31, "mg", "VM_MERGEABLE", "KSM may join pages of equal content."),
    VmFlag(32, "", "VM_PKEY_BIT0", "Protection key, bit 0; smaps prints the key as ProtectionKey."),
    VmFlag(33, "", "VM_PKEY_BIT1", "Protection key, bit 1; smaps prints the key as ProtectionKey."),
    VmFlag(34, "", "VM_PKEY_BIT2", "Protection key, bit 2; smaps prints the key as ProtectionKey."),
    VmFlag(35, "", "VM_PKEY_BIT3", "Protection key, bit 3; smaps prints the key as ProtectionKey."),
    VmFlag(37, "ui", "VM_UFFD_MINOR", "Faults on pages that the file already has go to a userfaultfd."),
)

VM_FLAG_TABLE: Final[dict[int, VmFlag]] = {flag.bit: flag for flag in _FLAGS}
"""Every bit that 6.1 defines, by its number, in the order in which smaps prints the codes."""

UNKNOWN_CODE: Final = "??"
_BIT_OF_CODE: Final = {f.code: f.bit for f in _FLAGS if f.code not in {"", UNKNOWN_CODE}} | {"lf": 19}
_LOCKONFAULT_BIT: Final = 19


@lru_cache(maxsize=1024)
def vmflags_codes(vm_flags: int, lockonfault: str = "??") -> str:
    """The codes that the VmFlags line of smaps prints, without a space at the end.

    Models show_smap_vma_flags, fs/proc/task_mmu.c.  A set bit that 6.1 has no letters for prints ``??``;
    protection key bits print nothing.  ``lockonfault`` is what the kernel prints for VM_LOCKONFAULT.

    >>> vmflags_codes(0xD0444FB)
    'rd wr sh mr mw me ms pf io de ar dd sd'
    >>> vmflags_codes(VM_READ | VM_LOCKED | VM_LOCKONFAULT)
    'rd lo ??'
    """
    if lockonfault != UNKNOWN_CODE and vm_flags & VM_LOCKONFAULT:
        high, low = vm_flags & -VM_LOCKONFAULT & ~VM_LOCKONFAULT, vm_flags & (VM_LOCKONFAULT - 1)
        return " ".join(filter(None, (vmflags_codes(low), lockonfault, vmflags_codes(high))))
    codes: list[str] = []
    for bit in range(vm_flags.bit_length()):
        if vm_flags >> bit & 1:
            flag = VM_FLAG_TABLE.get(bit)
            code = UNKNOWN_CODE if flag is None else flag.code
            if code:
                codes.append(code)
    return " ".join(codes)


def parse_vmflags(text: str) -> tuple[int, tuple[str, ...]]:
    """The vm_flags that a VmFlags line tells, and the codes that 6.1 does not know, in their order.

    A label ``VmFlags:`` is skipped.  ``??`` is VM_LOCKONFAULT, if it stands where that bit is printed
    (before ``ac``, after ``de``); ``lf`` is what later kernels print for it.  Later or foreign codes
    (``sl``, ``gu``, ``ss``, ``dp``, ``mt``, ``bt``) are handed back: no bit of 6.1 on x86-64 means the
    same.

    >>> flags, unknown = parse_vmflags("VmFlags: rd wr mr mw me lo ?? ac sl")
    >>> hex(flags), unknown
    ('0x182073', ('sl',))
    """
    flags = 0
    highest = -1
    unknown: list[str] = []
    words = text.split()
    if words and words[0] == "VmFlags:":
        del words[0]
    for i, code in enumerate(words):
        bit = _BIT_OF_CODE.get(code)
        if bit is None and code == UNKNOWN_CODE and highest < _LOCKONFAULT_BIT:
            above = next((_BIT_OF_CODE[c] for c in words[i + 1 :] if c in _BIT_OF_CODE), 64)
            if above > _LOCKONFAULT_BIT:
                bit = _LOCKONFAULT_BIT
        if bit is None:
            unknown.append(code)
        else:
            flags |= 1 << bit
            highest = max(highest, bit)
    return flags, tuple(unknown)


_PERMS: Final = tuple(
    ("r" if i & 1 else "-") + ("w" if i & 2 else "-") + ("x" if i & 4 else "-") + ("s" if i & 8 else "p")
    for i in range(16)
)


def perms(vm_flags: int) -> str:
    """The permissions as /proc/PID/maps prints them; the ``s`` comes from VM_MAYSHARE, not from VM_SHARED.

    >>> perms(VM_READ | VM_WRITE | VM_MAYSHARE), perms(VM_READ | VM_EXEC | VM_SHARED)
    ('rw-s', 'r-xp')
    """
    # VM_MAYSHARE >> 4 is bit 3, so that four bits index a table of all sixteen texts.
    return _PERMS[vm_flags & VM_ACCESS_FLAGS | vm_flags >> 4 & 8]


def is_cow_mapping(vm_flags: int) -> bool:
    """Whether a write makes a private copy (is_cow_mapping, include/linux/mm.h).

    It does where the mapping is not shared, and is writable now or may become so by mprotect.

    >>> is_cow_mapping(VM_MAYWRITE), is_cow_mapping(VM_SHARED | VM_MAYWRITE), is_cow_mapping(VM_READ)
    (True, False, False)
    """
    return vm_flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE


def accountable_mapping(vm_flags: int) -> bool:
    """Whether a mapping is charged to Committed_AS by mmap (accountable_mapping, mm/mmap.c).

    Shared anonymous memory is charged by shmem, hugetlb by its own pool.

    >>> accountable_mapping(VM_WRITE), accountable_mapping(VM_READ), accountable_mapping(VM_WRITE | VM_SHARED)
    (True, False, False)
    """
    return vm_flags & (VM_HUGETLB | VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE


def calc_vm_prot_bits(prot: int, pkey: int = 0) -> int:
    """The vm_flags of a ``prot`` and a protection key 0..15 (calc_vm_prot_bits, include/linux/mman.h).

    >>> hex(calc_vm_prot_bits(PROT_READ | PROT_EXEC | PROT_SEM)), hex(calc_vm_prot_bits(PROT_READ, pkey=3))
    ('0x5', '0x300000001')
    """
    # The access bits of prot and of vm_flags have the same values; PROT_SEM and PROT_GROWS* have no bit.
    return prot & VM_ACCESS_FLAGS | (pkey & 0xF) << VM_PKEY_SHIFT


def calc_vm_flag_bits(flags: int, *, stack_nohugepage: bool = False) -> int:
    """The vm_flags that follow from mmap's ``flags`` alone (calc_vm_flag_bits, include/linux/mman.h).

    ``stack_nohugepage`` is the behaviour of later kernels (seen in 6.12), where MAP_STACK sets VM_NOHUGEPAGE.

    >>> hex(calc_vm_flag_bits(MAP_PRIVATE | MAP_GROWSDOWN | MAP_LOCKED | MAP_SYNC | MAP_STACK))
    '0x802100'
    """
    # MAP_GROWSDOWN and MAP_LOCKED have the values of their vm_flags; MAP_SYNC lies four bits below VM_SYNC.
    bits = flags & (VM_GROWSDOWN | VM_LOCKED) | (flags & MAP_SYNC) << 4
    if stack_nohugepage and flags & MAP_STACK:
        bits |= VM_NOHUGEPAGE
    return bits
