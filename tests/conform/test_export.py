"""The exported page tables, read back by MMUs that share nothing with the simulator but the file."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from vmviz.cli import main
from vmviz.conform.export import Mapping, TableImage, describe, mappings, write_tables
from vmviz.kernel import Machine
from vmviz.kernel.mm.mm_types import Mm
from vmviz.script.runner import Runner
from vmviz.script.state import leaf_runs

from .qemu import QEMU, Qemu

SCRIPT = """
boot(mem=64M, mode="x86-64-{levels}l")
fb = mmap(NULL, 4M, PROT_READ|PROT_WRITE, MAP_SHARED, open("/dev/fb0"), 0)
ro = mmap(NULL, 64K, PROT_READ, MAP_SHARED, open("/dev/fb0"), 0)
heap = mmap(NULL, 64K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)
store(heap, 32K)
load(heap + 32K, 16K)
code = mmap(0x10000000, 16K, PROT_READ|PROT_WRITE|PROT_EXEC, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED, -1, 0)
store(code, 12K)
mprotect(code, 4K, PROT_READ|PROT_EXEC)
mprotect(heap, 4K, PROT_NONE)
mprotect(heap + 4K, 4K, PROT_READ)
zap_vma_ptes(vma(fb), fb + 1M, 1M)
{more}
fork()
store(heap + 8K)
"""
HIGH = """
high = mmap(0x80000000000000, 64K, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)
store(high, 8K)
"""
LEVELS = pytest.mark.parametrize("levels", [4, 5])
PMD_LEAF = 0x8000000002800000 | 0xE7  # P RW US A D PSE NX, 2 MiB at 40 MiB
PMD_WC_LEAF = 0xC00000 | 0x1085  # P US PSE and PAT, read-only, executable, clean and old
PUD_LEAF = 0x80000000C0000000 | 0xA7  # P RW US A PSE NX, 1 GiB at 3 GiB
KERNEL_PTE = 0x8000000000123163  # P RW A D G NX, no US


def run(text: str) -> Machine:
    """The machine after a script."""
    runner = Runner()
    for statement in runner.parse(text).statements:
        outcome = runner.run(statement, text)
        assert outcome.errno is None, outcome
        assert outcome.signal is None, outcome
    return runner.machine


def story(levels: int) -> Machine:
    """A machine with mappings of every kind that small pages have, in two processes."""
    return run(SCRIPT.format(levels=levels, more=HIGH if levels == 5 else ""))


def with_huge_leaves(levels: int) -> Machine:
    """The story's machine with leaves of 2 MiB and 1 GiB, a kernel page, and a table that denies writes."""
    m = story(levels)
    arena, j, mm = m.arena, m.journal, m.mm
    for va, entry, level in (
        (0x40000000, PMD_LEAF, "pmd"),
        (0x40200000, PMD_WC_LEAF, "pmd"),
        (0x80000000, PUD_LEAF, "pud"),
        (0xC0000000, KERNEL_PTE, "pte"),
        (0x100000000, PMD_LEAF, "pmd"),
    ):
        slot = arena.ensure_level(mm.pgd, va, mm.counters, m.sys.mode.level_no(level))
        j.write(arena, slot, entry)
    above = arena.walk(mm.pgd, 0x100000000)[-2]
    j.write(arena, above, arena.get(above) & ~2)
    return m


def walk_file(image: bytes, cr3: int, levels: int) -> Iterator[Mapping]:
    """All translations that a processor with this CR3 finds in its memory."""

    def table(at: int, level: int, va: int, rights: int, nx: bool) -> Iterator[Mapping]:
        for i, entry in enumerate(struct.unpack_from("<512Q", image, at)):
            if not entry & 1:
                continue
            here = va + (i << (12 + 9 * level))
            left, no_exec = rights & entry, nx or bool(entry >> 63)
            if level and not (level <= 2 and entry & 0x80):
                yield from table(entry & 0x000F_FFFF_FFFF_F000, level - 1, here, left, no_exec)
                continue
            size = 4096 << (9 * level)
            pa = entry & 0x000F_FFFF_FFFF_F000 & -size
            sign = -(1 << (12 + 9 * levels)) if here >> (11 + 9 * levels) else 0
            flags = (bool(left & 4), bool(left & 2), no_exec, bool(entry & 0x20), bool(entry & 0x40))
            yield Mapping((here + sign) % (1 << 64), size, pa, *flags)

    yield from table(cr3, levels - 1, 0, 6, False)


def exported(machine: Machine, path: Path) -> tuple[TableImage, bytes]:
    """The description and the bytes of a machine's image."""
    image = write_tables(machine, path)
    return image, path.read_bytes()


@LEVELS
@pytest.mark.parametrize("make", [story, with_huge_leaves])
def test_an_independent_walk_finds_the_simulators_mappings(make: object, levels: int, tmp_path: Path) -> None:
    assert callable(make)
    machine = make(levels)
    image, raw = exported(machine, tmp_path / "ram")
    assert len(image.roots) == 2
    for root in image.roots:
        ours = list(mappings(machine, machine.mms[machine.tasks.get(root.pid).mm]))
        assert len(ours) > 700
        assert list(walk_file(raw, root.cr3, levels)) == ours


@LEVELS
def test_the_mappings_are_those_of_the_state_report(levels: int, tmp_path: Path) -> None:
    machine = story(levels)
    expected = []
    for run_ in leaf_runs(machine, machine.mm):
        bits = run_["bits"].split()
        if "P" not in bits:
            continue
        flags = [name in bits for name in ("US", "RW", "NX", "A", "D")]
        for i in range(run_["n"]):
            va, pa = int(run_["va"], 16) + (i << 12), (int(run_["pfn"], 16) + i) << 12
            expected.append(Mapping(va, 4096, pa, *flags))
    assert list(mappings(machine, machine.mm)) == expected
    image, raw = exported(machine, tmp_path / "ram")
    assert list(walk_file(raw, image.roots[0].cr3, levels)) == expected


@LEVELS
def test_the_story_holds_every_kind_of_mapping(levels: int) -> None:
    machine = with_huge_leaves(levels)
    found = list(mappings(machine, machine.mm))
    assert {m.size for m in found} == {1 << 12, 1 << 21, 1 << 30}
    for name in ("user", "write", "nx", "accessed", "dirty"):
        assert {getattr(m, name) for m in found} == {False, True}, name
    assert any(m.va >> 47 for m in found) == (levels == 5)
    heap = next(v for v in machine.mm.vmas if v.size == 4096 and not v.vm_flags & 7)
    assert not any(heap.start <= m.va < heap.end for m in found)  # PROT_NONE: nothing for the hardware


@LEVELS
def test_the_image_is_as_long_as_ram_and_holds_the_tables_alone(levels: int, tmp_path: Path) -> None:
    machine = story(levels)
    path = tmp_path / "ram"
    path.write_bytes(b"\xff" * (80 << 20))  # what was there before goes
    image, raw = exported(machine, path)
    assert image == describe(machine)
    assert len(raw) == image.size == 64 << 20
    arena = machine.arena
    tables = {pfn: row for row, pfn in enumerate(arena.pfn_of.array.tolist()) if pfn}
    assert len(tables) == image.tables
    for pfn in range(len(raw) >> 12):
        content = arena.rows[tables[pfn]].tobytes() if pfn in tables else bytes(4096)
        assert raw[pfn << 12 : (pfn + 1) << 12] == content, hex(pfn)
    assert path.stat().st_blocks * 512 < 1 << 20


def test_the_running_process_comes_first() -> None:
    machine = run("boot(mem=16M)\nfork()\n[pid 2] brk(0)\nfork()")
    assert [root.pid for root in describe(machine).roots] == [1, 2, 3]
    machine.switch_to(2)
    assert [root.pid for root in describe(machine).roots] == [2, 1, 3]
    machine.exit()
    assert [root.pid for root in describe(machine).roots] == [1, 3]


class TestCommand:
    @LEVELS
    def test_writes_and_tells(self, levels: int, tmp_path: Path) -> None:
        script, image = tmp_path / "s.vmv", tmp_path / "ram"
        script.write_text(SCRIPT.format(levels=levels, more=""))
        result = CliRunner().invoke(main, ["export", "--tables", str(image), str(script)])
        assert result.exit_code == 0, result.output
        machine = run(script.read_text())
        assert result.output.splitlines() == describe(machine).lines()
        assert image.read_bytes() == exported(machine, tmp_path / "again")[1]

    @pytest.mark.parametrize(
        ("script", "said"), [("laod(1)", "did you mean load"), ('load("x")', "addr must be a number")]
    )
    def test_a_wrong_script_writes_nothing(self, script: str, said: str, tmp_path: Path) -> None:
        image = tmp_path / "ram"
        result = CliRunner().invoke(main, ["export", "--tables", str(image), "-"], input=script)
        assert result.exit_code == 2
        assert said in result.stderr
        assert not image.exists()

    def test_a_file_that_cannot_be_written(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(main, ["export", "--tables", str(tmp_path), "-"], input="brk(0)")
        assert (result.exit_code, result.stdout) == (74, "")
        assert "Is a directory" in result.stderr

    def test_says_what_is_missing(self) -> None:
        result = CliRunner().invoke(main, ["export", "framebuffer"])
        assert result.exit_code == 2
        assert "Missing option '--tables'" in result.stderr


@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")
class TestQemu:
    """What qemu's own MMU code makes of the image: every leaf, the rights over all levels, translations."""

    @LEVELS
    @pytest.mark.parametrize("make", [story, with_huge_leaves])
    def test_qemu_finds_the_simulators_mappings(self, make: object, levels: int, tmp_path: Path) -> None:
        assert callable(make)
        machine = make(levels)
        image = write_tables(machine, tmp_path / "ram")
        r = image.registers
        with Qemu(tmp_path / "ram", image.size) as qemu:
            for root in image.roots:
                qemu.set_registers(cr4=r.cr4, efer=r.efer, cr3=root.cr3, cr0=r.cr0)
                mm = machine.mms[machine.tasks.get(root.pid).mm]
                ours = list(mappings(machine, mm))
                self.compare_leaves(qemu, machine, mm, ours)
                if levels == 4:  # with 5, qemu's `info mem` descends into what is not present
                    self.compare_rights(qemu, ours)
                for m in ours[:: max(1, len(ours) // 40)]:
                    assert qemu.gva2gpa(m.va + 0x123) == m.pa + 0x123
                assert qemu.gva2gpa(0x1000) is None

    def compare_leaves(self, qemu: Qemu, machine: Machine, mm: Mm, ours: list[Mapping]) -> None:
        """Each leaf: where it lies, where it leads, and its own bits."""
        theirs = qemu.translations()
        assert sorted(theirs) == [m.va for m in ours]
        for m in ours:
            pa, flags = theirs[m.va]
            leaf = machine.arena.get(machine.arena.walk(mm.pgd, m.va)[-1])
            bits = [letter in flags for letter in "XPADUW"]
            own = [m.nx, m.size > 4096, m.accessed, m.dirty, bool(leaf & 4), bool(leaf & 2)]
            assert (pa, bits) == (m.pa, own), hex(m.va)

    def compare_rights(self, qemu: Qemu, ours: list[Mapping]) -> None:
        """The rights that all levels together leave."""
        expected: list[tuple[int, int, str]] = []
        for m in ours:
            rights = ("u" if m.user else "-") + "r" + ("w" if m.write else "-")
            if expected and expected[-1][1:] == (m.va, rights):
                expected[-1] = (expected[-1][0], m.va + m.size, rights)
            else:
                expected.append((m.va, m.va + m.size, rights))
        assert qemu.rights() == expected
