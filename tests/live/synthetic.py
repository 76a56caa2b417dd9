"""A /proc tree made of ordinary files, for `read_process(root=...)` on any system that has preadv."""

from __future__ import annotations

from pathlib import Path

import attrs

PAGE = 4096
KB_KEYS = ("Size", "KernelPageSize", "MMUPageSize", "Rss", "Pss", "Private_Dirty", "Anonymous", "Swap")
PRESENT = 1 << 63
SWAPPED = 1 << 62


@attrs.define
class FakeVma:
    """One VMA of the tree; ``pages`` maps page numbers inside the VMA to raw pagemap words."""

    start: int
    nr_pages: int
    perms: str = "rw-p"
    codes: str = "rd wr mr mw me ac"
    path: str = ""
    pages: dict[int, int] = attrs.field(factory=dict)
    rss: int | None = None

    @property
    def end(self) -> int:
        return self.start + self.nr_pages * PAGE

    def header(self) -> str:
        text = f"{self.start:08x}-{self.end:08x} {self.perms} 00000000 00:00 0 "
        return (f"{text:<73}{self.path}" if self.path else text) + "\n"

    def smaps(self) -> str:
        rss = len(self.pages) * 4 if self.rss is None else self.rss
        values = dict.fromkeys(KB_KEYS, 0) | {"Size": self.nr_pages * 4, "Rss": rss}
        values |= {"KernelPageSize": 4, "MMUPageSize": 4}
        lines = [f"{key + ':':<15} {value:8d} kB\n" for key, value in values.items()]
        return self.header() + "".join(lines) + f"THPeligible:    {0:8d}\nVmFlags: {self.codes} \n"


@attrs.define
class FakeProc:
    """The tree itself; `write` puts it on disk."""

    root: Path
    vmas: list[FakeVma]
    pid: int = 77
    comm: str = "fake (x) y"
    state: str = "S"
    stat_flags: int = 0x400000
    starttime: int = 12345
    frames: dict[int, tuple[int, int]] = attrs.field(factory=dict)

    def stat(self) -> str:
        fields = ["0"] * 52
        fields[2 - 1] = f"({self.comm})"
        fields[0], fields[2], fields[8], fields[21] = (
            str(self.pid),
            self.state,
            str(self.stat_flags),
            str(self.starttime),
        )
        fields[27], fields[46] = str(0x7000000), str(0x600000)
        return " ".join(fields) + "\n"

    def write(self) -> FakeProc:
        here = self.root / str(self.pid)
        here.mkdir(parents=True, exist_ok=True)
        (here / "maps").write_text("".join(vma.header() for vma in self.vmas))
        (here / "smaps").write_text("".join(vma.smaps() for vma in self.vmas))
        (here / "stat").write_text(self.stat())
        (here / "comm").write_text(self.comm + "\n")
        (here / "cmdline").write_bytes(b"fake\0--flag\0")
        (here / "status").write_text("Name:\tfake\nVmRSS:\t     128 kB\nVmPTE:\t      40 kB\nThreads:\t1\n")
        (self.root / "sys/kernel").mkdir(parents=True, exist_ok=True)
        (self.root / "sys/kernel/osrelease").write_text("6.1.0-fake\n")
        with open(here / "pagemap", "wb") as file:
            for vma in self.vmas:
                if vma.start >= 1 << 47:
                    continue
                for page, word in vma.pages.items():
                    file.seek((vma.start // PAGE + page) * 8)
                    file.write(word.to_bytes(8, "little"))
                file.truncate((vma.end // PAGE) * 8)
        for name, which in (("kpageflags", 0), ("kpagecount", 1)):
            with open(self.root / name, "wb") as file:
                for pfn, words in self.frames.items():
                    file.seek(pfn * 8)
                    file.write(words[which].to_bytes(8, "little"))
        return self


def example(root: Path) -> FakeProc:
    """Two adjacent VMAs, a hole, a PFNMAP VMA, and the gate page."""
    return FakeProc(
        root,
        [
            FakeVma(0x400000, 4, "r-xp", "rd ex mr mw me", "/bin/a file", {0: PRESENT | 5, 3: PRESENT | 900}),
            FakeVma(
                0x404000, 2, "rw-p", "rd wr mr mw me ac", "", {0: SWAPPED | (0x10 << 5) | 1, 1: PRESENT | 6}
            ),
            FakeVma(0x500000, 3, "rw-s", "rd wr sh mr mw me ms pf io de dd", "/dev/fb0", rss=0),
            FakeVma(0xFFFFFFFFFF600000, 1, "--xp", "ex", "[vsyscall]"),
        ],
        frames={5: (0x828, 3), 6: (0x5828, 1), 900: (0x82C, 2)},
    ).write()
