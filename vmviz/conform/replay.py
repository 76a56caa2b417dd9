"""Replaying a scenario on a machine, operation by operation, until one that the simulator does not have.

The machine is made like the one of the traces: 4-level x86-64, no address randomisation, the device of
`oracle`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..kernel.errors import KernelError, Refusal, SignalRaised, UnsupportedError
from ..kernel.exec import PIE_BASE, TEXT_SIZE, VVAR, set_brk
from ..kernel.machine import Machine
from ..kernel.mm import flags as F
from ..kernel.mm.shmem import SEAL_NAMES
from .compare import counters_of
from .entries import leaves_of
from .oracle import PATH, Oracle, add_oracle
from .scn import BASE, Operation, number

RAM = 256 << 20
"""Less than the traced machine's 1 GiB: frames from 0x10000 on are the device's, as there."""

TRACED_RAM = 229_552
"""The pages that the traced kernel manages (MemTotal): of 1 GiB, less the device's part, less itself."""

TRACED_SWAP = 16_383
"""The slots of the 64 MiB device, less its header."""

OWN_BASE = 0x1000_0000
"""Where the rest of the traced program's own memory lies: outside every window."""

_PROT = {"r": F.PROT_READ, "w": F.PROT_WRITE, "x": F.PROT_EXEC, "-": 0}
_MAP = {
    "private": F.MAP_PRIVATE,
    "shared": F.MAP_SHARED,
    "validate": F.MAP_SHARED_VALIDATE,
    "anon": F.MAP_ANONYMOUS,
    "fixed": F.MAP_FIXED,
    "noreplace": F.MAP_FIXED_NOREPLACE,
    "populate": F.MAP_POPULATE,
    "nonblock": F.MAP_NONBLOCK,
    "noreserve": F.MAP_NORESERVE,
    "growsdown": F.MAP_GROWSDOWN,
    "stack": F.MAP_STACK,
    "locked": F.MAP_LOCKED,
    "sync": F.MAP_SYNC,
    "hugetlb": F.MAP_HUGETLB,
}


_MREMAP = {
    "maymove": F.MREMAP_MAYMOVE,
    "fixed": F.MREMAP_FIXED,
    "dontunmap": F.MREMAP_DONTUNMAP,
    "bad": 0x100,
}


_MCL = {"current": F.MCL_CURRENT, "future": F.MCL_FUTURE, "onfault": F.MCL_ONFAULT, "bad": 0x100}
_MS = {"async": F.MS_ASYNC, "sync": F.MS_SYNC, "invalidate": F.MS_INVALIDATE, "bad": 0x100}


def _bits(words: str, values: dict[str, int]) -> int:
    """The flags that a word list or a number stands for."""
    return int(words, 0) if words[0].isdigit() else sum(values[word] for word in words.split(","))


class Replayer:
    """One machine on which the operations of a scenario run, in order.

    ``total_vm`` are the pages of address space that the traced program itself has: they count against
    limits, and mlockall locks them.
    """

    def __init__(self, window: tuple[int, int] = (BASE, 0x1100_0000_0000), total_vm: int = 0) -> None:
        self.machine = Machine(ram=RAM, zap_contract="void")
        s = self.machine.sys
        s.cap_sys_rawio = s.cap_ipc_lock = s.cap_sys_admin = True  # every scenario runs as root
        self.machine.sysctl("vm.nr_hugepages", 8)
        s.totalram_pages, s.total_swap_pages = TRACED_RAM, TRACED_SWAP
        self.window = window
        self.machine.execve("/bin/run-oracle")
        self._prefault()
        self._fill(total_vm)
        self.forks: list[int] = []
        self.kept: list[int] = []
        self.oracle: Oracle = add_oracle(self.machine)
        self.files: dict[str, int] = {}
        self.last = 0
        self.cleared = False  # referenced bits were cleared: the TLB may know better
        self.refusal: Refusal | None = None  # why the last zap was refused
        self.start = counters_of(self.machine)
        self.machine.seal()

    def _prefault(self) -> None:
        """The pages of the traced program itself: of no interest, so they are there before the start (all but
        the vDSO's, which it never uses).
        """
        self.machine.load(PIE_BASE, TEXT_SIZE)
        self.machine.load(VVAR)

    def _fill(self, total_vm: int) -> None:
        """Give the program its stack and its size, all of it there before the start."""
        m = self.machine
        stack = next(vma for vma in m.mm.vmas if vma.name == "[stack]")
        m.store(stack.start, stack.size)
        missing = total_vm - m.mm.counters.data["total_vm"]
        if missing > 0:
            m.mmap(OWN_BASE, missing << 12, "rw", F.MAP_PRIVATE | F.MAP_ANONYMOUS | F.MAP_FIXED)
            m.store(OWN_BASE, missing << 12)
        m.sys.commit.data["committed"] += total_vm  # the first process of the traced system is as large

    def run(self, op: Operation) -> dict[str, Any]:
        """Run one operation; returns the result fields of a record.  Raises `UnsupportedError` naming the
        operation.
        """
        handler: Callable[..., dict[str, Any]] | None = getattr(self, f"_op_{op.op.rstrip('!')}", None)
        if handler is None:
            raise UnsupportedError(f"{op.op} is not simulated")
        try:
            return handler(*op.args)
        except KernelError as error:
            return {"ret": -1, "errno": error.errno}

    def _number(self, text: str) -> int:
        return number(text, self.last)

    # -- processes

    def _op_fork(self) -> dict[str, Any]:
        parent = self.machine.pid
        child = self.machine.fork()
        self.forks.append(parent)
        self.machine.switch_to(child)
        self._prefault()
        return {"ret": "child"}

    def _op_endfork(self, keep: str = "") -> dict[str, Any]:
        child = self.machine.pid
        if keep:
            self.kept.append(child)
            self.machine.switch_to(self.forks.pop())
        else:
            self.machine.exit()
            self.machine.switch_to(self.forks.pop())
            self.machine.wait()
        return {"ret": 0, "child_status": 0, "child_alive": int(bool(keep))}

    def _op_reap(self) -> dict[str, Any]:
        if not self.kept:  # the fork that was to be kept failed
            return {"ret": -1, "errno": "ECHILD"}
        parent = self.machine.pid
        self.machine.switch_to(self.kept.pop())
        self.machine.exit()
        self.machine.switch_to(parent)
        self.machine.wait()
        return {"ret": 0}

    @property
    def who(self) -> str:
        """The process that runs, as a trace names it."""
        return ("parent", "child", "grandchild")[len(self.forks)]

    # -- mappings

    def _op_mmap(self, addr: str, length: str, prot: str, words: str, offset: str = "0") -> dict[str, Any]:
        flags, fd = 0, -1
        for word in words.split(","):
            if word.startswith("file:"):
                fd = self._file(word[5:])
            elif word.startswith("dev:"):
                fd = self.oracle.fds[word[4:]]
            elif word == "badfd":
                fd = 1 << 19
            elif word not in _MAP:
                raise UnsupportedError(f"mmap with {word} is not simulated")
            else:
                flags |= _MAP[word]
        bits = sum(_PROT[c] for c in prot)
        at = self.machine.mmap(
            self._number(addr), self._number(length), bits, flags, fd, self._number(offset)
        )
        self.last = at
        return {"ret": hex(at)}

    def _op_munmap(self, addr: str, length: str) -> dict[str, Any]:
        self.machine.munmap(self._number(addr), self._number(length))
        return {"ret": 0}

    def _op_mprotect(self, addr: str, length: str, prot: str, grows: str = "") -> dict[str, Any]:
        bits = sum(_PROT[c] for c in prot) | (F.PROT_GROWSDOWN if grows else 0)
        self.machine.mprotect(self._number(addr), self._number(length), bits)
        return {"ret": 0}

    def _op_mremap(self, old: str, old_len: str, new_len: str, words: str, new: str = "0") -> dict[str, Any]:
        at, length, wanted = (self._number(x) for x in (old, old_len, new_len))
        self.last = self.machine.mremap(at, length, wanted, _bits(words, _MREMAP), self._number(new))
        return {"ret": hex(self.last)}

    def _op_madvise(self, addr: str, length: str, advice: str) -> dict[str, Any]:
        value = getattr(F, f"MADV_{advice.upper()}", None) if advice.isidentifier() else self._number(advice)
        if value is None:
            raise UnsupportedError(f"madvise with {advice} is not simulated")
        return {"ret": self.machine.madvise(self._number(addr), self._number(length), value)}

    def _op_mlock(self, addr: str, length: str) -> dict[str, Any]:
        return {"ret": self.machine.mlock(self._number(addr), self._number(length))}

    def _op_mlock2(self, addr: str, length: str, words: str) -> dict[str, Any]:
        flags = _bits(words, {"onfault": F.MLOCK_ONFAULT, "bad": 0x100})
        return {"ret": self.machine.mlock2(self._number(addr), self._number(length), flags)}

    def _op_munlock(self, addr: str, length: str) -> dict[str, Any]:
        return {"ret": self.machine.munlock(self._number(addr), self._number(length))}

    def _op_mlockall(self, words: str) -> dict[str, Any]:
        return {"ret": self.machine.mlockall(_bits(words, _MCL))}

    def _op_munlockall(self) -> dict[str, Any]:
        return {"ret": self.machine.munlockall()}

    def _op_mincore(self, addr: str, length: str) -> dict[str, Any]:
        vec = self.machine.mincore(self._number(addr), self._number(length))
        return {"ret": 0, "vec": "".join(str(x) for x in vec)}

    def _op_msync(self, addr: str, length: str, words: str) -> dict[str, Any]:
        return {"ret": self.machine.msync(self._number(addr), self._number(length), _bits(words, _MS))}

    def _op_remap_file_pages(self, addr: str, size: str, prot: str, pgoff: str, words: str) -> dict[str, Any]:
        bits = self._number(prot) if prot[0].isdigit() else sum(_PROT[c] for c in prot)
        flags = _bits(words, {**_MAP, "bad": 0x100})
        at, length = self._number(addr), self._number(size)
        return {"ret": self.machine.remap_file_pages(at, length, bits, self._number(pgoff), flags)}

    # -- limits

    def _op_rlimit(self, name: str, size: str, rel: str = "") -> dict[str, Any]:
        use = {"as": "total_vm", "data": "data_vm", "memlock": "locked_vm", "stack": "stack_vm"}[name]
        used = self.machine.mm.counters.data[use] << 12 if rel else 0
        return {"ret": self.machine.rlimit(name, used + self._number(size))}

    def _op_dropcaps(self) -> dict[str, Any]:
        return {"ret": self.machine.dropcaps()}

    def _op_overcommit(self, mode: str) -> dict[str, Any]:
        return {"ret": self.machine.sysctl("vm.overcommit_memory", self._number(mode))}

    def _op_thp(self, policy: str) -> dict[str, Any]:
        return {"ret": self.machine.thp(policy)}

    def _op_maxmaps(self, room: str) -> dict[str, Any]:
        limit = len(self.machine.mm.vmas) + self._number(room)
        return {"ret": self.machine.sysctl("vm.max_map_count", limit)}

    def _op_brkbase(self, addr: str) -> dict[str, Any]:
        if self.machine.mm.field("caps_dropped"):
            return {"ret": -1, "errno": "EPERM"}  # prctl(PR_SET_MM) needs CAP_SYS_RESOURCE
        set_brk(self.machine.mm, self._number(addr))
        return {"ret": 0}

    def _op_brk(self, addr: str) -> dict[str, Any]:
        return {"ret": hex(self.machine.brk(self._number(addr)))}

    # -- accesses

    def _touch(self, addr: str, length: str, touch: Callable[[int, int], object]) -> dict[str, Any]:
        """One byte of each page, always at the place in the page that ``addr`` has."""
        at, pages = self._number(addr), (self._number(length) + 4095) >> 12
        steps = [(at + (i << 12), 1) for i in range(pages)] if at & 4095 else [(at, pages)] if pages else []
        done = 0
        try:
            for start, n in steps:
                touch(start, ((n - 1) << 12) + 1)
                done += n
        except SignalRaised as signal:
            sig = {"name": signal.name, "code": signal.code, "addr": hex(signal.addr)}
            return {"ret": -1, "sig": sig, "touched": done + signal.touched}
        return {"ret": 0, "touched": done}

    def _op_read(self, addr: str, length: str) -> dict[str, Any]:
        out = self._touch(addr, length, self.machine.load)
        pages = [self.machine.peek(self._number(addr) + (i << 12), 1) for i in range(min(16, out["touched"]))]
        out["data"] = b"".join(pages).hex()
        return out

    def _op_write(self, addr: str, length: str, byte: str = "0x5a") -> dict[str, Any]:
        value = self._number(byte)
        return self._touch(addr, length, lambda at, n: self.machine.store(at, n, value))

    def _op_exec(self, addr: str) -> dict[str, Any]:
        return self._touch(addr, "1", lambda at, _: self.machine.exec(at))

    def _op_kread(self, addr: str, length: str) -> dict[str, Any]:
        return {"ret": self.machine.copy_from_user(self._number(addr), self._number(length))}

    def _op_kwrite(self, addr: str, length: str) -> dict[str, Any]:
        return {"ret": self.machine.clear_user(self._number(addr), self._number(length))}

    def _op_pvread(self, addr: str, length: str) -> dict[str, Any]:
        return {"ret": self.machine.process_vm_readv(self._number(addr), self._number(length))}

    def _op_clear_refs(self, kind: str) -> dict[str, Any]:
        value = self._number(kind)
        self.cleared = self.cleared or value in (1, 2, 3)
        return {"ret": self.machine.clear_refs(value)}

    # -- the driver side

    def _op_zap(self, vma_addr: str, address: str, size: str) -> dict[str, Any]:
        mm = self.machine.mm
        vma = mm.vma_at(self._number(vma_addr))
        if vma is None:
            return {"ret": 0, "zap": {"vma_found": 0}}
        before = len(leaves_of(self.machine, vma.start, vma.end))
        result = self.machine.zap_vma_ptes(vma, self._number(address), self._number(size))
        self.refusal = result.refusal
        after = mm.vma_at(vma.start)
        assert after is not None
        bug = result.refusal is not None and result.refusal.check == "caller_bug"
        passed = [c.passed for c in result.checks]
        record = {
            "vma_found": 1,
            "vm_start": hex(vma.start),
            "vm_end": hex(vma.end),
            "vm_flags": hex(vma.vm_flags),
            "vm_flags_after": hex(after.vm_flags),
            "in_range": int(passed[0] and passed[1]),
            "pfnmap": int(passed[2]),
            "rejected": int(result.verdict == -1),
            "called": int(not bug),
            "danger": result.danger,
            "leaves_before": before,
            "leaves_after": len(leaves_of(self.machine, vma.start, vma.end)),
        }
        return {"ret": 0, "zap": record}

    # -- files

    def _file(self, name: str) -> int:
        return self.files[name]

    def _op_memfd(self, name: str, size: str) -> dict[str, Any]:
        self.files[name] = self.machine.memfd_create(name)
        return self._op_ftruncate(name, size)

    def _op_ramfile(self, name: str, size: str) -> dict[str, Any]:
        self.files[name] = self.machine.ramfs_create(name)
        return self._op_ftruncate(name, size)

    def _op_punch(self, name: str, offset: str, length: str) -> dict[str, Any]:
        return {"ret": self.machine.punch_hole(self._file(name), self._number(offset), self._number(length))}

    def _op_fseal(self, name: str, words: str) -> dict[str, Any]:
        seals = sum(SEAL_NAMES[word] for word in words.split(","))
        return {"ret": self.machine.add_seals(self._file(name), seals)}

    def _op_unmap_range(self, offset: str, length: str, even_cows: str) -> dict[str, Any]:
        start, size = self._number(offset), self._number(length)
        for fd in self.oracle.fds.values():  # one device file, whose modes are inodes of their own here
            self.machine.unmap_mapping_range(fd, start, size, self._number(even_cows) != 0)
        return {"ret": 0}

    def _op_rofile(self, name: str, new: str) -> dict[str, Any]:
        self.files[new] = self.machine.open(f"/proc/self/fd/{self._file(name)}", F.O_RDONLY)
        return {"ret": 0}

    def _op_fwrite(self, name: str, offset: str, length: str, byte: str) -> dict[str, Any]:
        data = bytes([self._number(byte) & 0xFF]) * self._number(length)
        self.machine.pwrite(self._file(name), data, self._number(offset))
        return {"ret": 0}

    def _op_ftruncate(self, name: str, size: str) -> dict[str, Any]:
        return {"ret": self.machine.ftruncate(self._file(name), self._number(size))}

    # -- the replay itself

    def _op_window(self, low: str, high: str) -> dict[str, Any]:
        self.window = (self._number(low), self._number(high))
        return {"ret": 0}

    def _op_dump(self) -> dict[str, Any]:
        return {"ret": 0}


__all__ = ["PATH", "Replayer"]
