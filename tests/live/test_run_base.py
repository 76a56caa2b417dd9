"""Statements on an imported process: this test's own, and a snapshot of it."""

import ctypes
import mmap
import os
import sys

import pytest

from vmviz.kernel.arch.x86 import pte_pfn
from vmviz.kernel.mm.flags import VM_PKEY_MASK
from vmviz.live import LiveError, SnapshotError, load_image, open_base, read_process, write_snapshot
from vmviz.script.runner import Runner

from .test_load import PF, RW, entry, image, vma, wrong

PAGE = 4096
BASE = 0x7F0000000000
linux = pytest.mark.skipif(
    not sys.platform.startswith("linux") or mmap.PAGESIZE != PAGE, reason="needs Linux with 4 KiB pages"
)


@pytest.fixture
def touched():
    """An anonymous mapping of 64 pages of this process, its address, and the pages written to."""
    mapping = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    pages = [0, 1, 7, 40, 63]
    for page in pages:
        mapping[page * PAGE] = 1
    return mapping, ctypes.addressof(ctypes.c_char.from_buffer(mapping)), pages


@pytest.fixture
def card():
    """A runner on a process with a device mapping of 16 pages, [vvar] and a stack."""
    vmas = [
        vma(BASE, 16, PF, "/dev/card", 12),
        vma(BASE + 0x20000, 4, 0x4044411, "[vvar]"),
        vma(BASE + 0x30000, 33, RW | 0x100, "[stack]"),
    ]
    return Runner(load_image(image(vmas)))


@linux
def test_this_process_has_the_pages_it_touched_and_no_others(touched):
    _, start, pages = touched
    machine, picture = open_base("self")
    found = [i for i in range(64) if entry(machine, start + i * PAGE)]
    assert found == pages
    for i in pages:
        value = entry(machine, start + i * PAGE)
        assert value & 0x8000000000000067 == 0x8000000000000067
        row = picture.pages.rows(start + i * PAGE, start + (i + 1) * PAGE, PAGE).start
        if picture.pfns_visible:
            assert pte_pfn(value) == int(picture.pages.pfn[row])
    assert machine.pid == os.getpid()
    assert machine.task.comm == picture.name
    got = [(v.start, v.end, v.vm_flags & ~VM_PKEY_MASK) for v in machine.mm.vmas]
    table = picture.vmas
    assert got == list(zip(table.start.tolist(), table.end.tolist(), table.vm_flags.tolist(), strict=True))
    assert wrong(machine) == []


@linux
def test_statements_on_this_process_and_back(touched):
    _, start, _ = touched
    machine, _ = open_base("self")
    runner, base = Runner(machine), machine.digest()
    stores = runner.run_text(f"store({start:#x}, 256K)")
    assert (stores.ret, stores.min_flt) == (0, 59)
    runner.run_text(f"munmap({start:#x}, 256K)")
    runner.run_text("a = mmap(NULL, 4M, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)")
    assert runner.run_text("store(a, 4M)").ret == 0
    assert wrong(machine) == []
    end, done = machine.journal.end, machine.digest()
    machine.journal.seek((0, 0))
    assert machine.digest() == base
    machine.journal.seek(end)
    assert machine.digest() == done


@linux
def test_zap_of_the_kernels_own_pfnmap_vma_and_of_the_stack():
    machine, _ = open_base("self")
    hidden = next((v for v in machine.mm.vmas if v.is_pfnmap), None)
    if hidden is None:
        pytest.skip("this kernel has no PFNMAP VMA in every process")
    runner = Runner(machine)
    zap = f"zap_vma_ptes(vma({hidden.start:#x}), {hidden.start:#x}, {hidden.size})"
    assert runner.run_text(f"load({hidden.start:#x})").refusal.check == "unknown"
    first, second = runner.run_text(zap + " = 0"), runner.run_text(zap + " = 0")
    assert (first.expected, first.ptes_unknown, first.ptes_cleared) == (True, hidden.nr_pages, 0)
    assert (second.expected, second.ptes_unknown) == (True, 0)
    stack = machine.vma("[stack]")
    refused = runner.run_text(f'zap_vma_ptes(vma("[stack]"), {stack.start:#x}, 4K) = -1')
    assert (refused.expected, refused.refusal.check) == (True, "VM_PFNMAP")


def test_a_device_is_unknown_before_the_zap_and_its_handler_after(card):
    steps = [
        (f"load({BASE:#x})", "unknown", "cannot be observed", 0),
        (f'zap_vma_ptes(vma("card"), {BASE:#x}, 4K)', None, "", 1),
        (f"load({BASE:#x})", "unknown", "fault handler of /dev/card", 0),
        (f"store({BASE + PAGE:#x})", "unknown", "cannot be observed", 0),
        (f'zap_vma_ptes(vma("card"), {BASE:#x}, 128K)', "range_in_vma", "past vm_end", 0),
        (f'zap_vma_ptes(vma("card"), {BASE:#x}, 64K)', None, "", 15),
        (f'zap_vma_ptes(vma("[stack]"), {BASE + 0x30000:#x}, 4K)', "VM_PFNMAP", "not VM_PFNMAP", 0),
        (f"munmap({BASE + 0x20000:#x}, 16K)", None, "", 4),
        (f"store({BASE + 0x30000:#x}, 132K)", None, "", 0),
    ]
    for text, check, why, unknown in steps:
        outcome = card.run_text(text)
        assert (outcome.refusal.check if outcome.refusal else None) == check, text
        assert why in outcome.why
        assert outcome.ptes_unknown == unknown
    assert card.machine.mm.unknown.data == {}
    assert wrong(card.machine) == []


def test_unmapping_forgets_what_is_unknown(card):
    card.run_text(f"munmap({BASE + 4 * PAGE:#x}, 16K)")
    assert card.machine.mm.unknown_pages(0, 1 << 47) == 8 + 4 + 4
    card.machine.journal.seek((0, 0))
    assert card.machine.mm.unknown_pages(0, 1 << 47) == 20


def test_boot_has_no_place_on_a_base(card):
    from vmviz.script.errors import ScriptError

    with pytest.raises(ScriptError, match="no place on a given base"):
        card.run_text("boot(mem=64M)")


@linux
def test_a_snapshot_opens_to_the_same_machine(tmp_path):
    picture = read_process("self")
    path = tmp_path / "me.vmsnap"
    write_snapshot(picture, path)
    machine, again = open_base(str(path))
    assert machine.digest() == load_image(picture).digest()
    assert again.vmas == picture.vmas
    assert set(picture.warnings) <= set(again.warnings)
    assert any("what imported pages hold is unknown" in note for note in again.notes)


def test_the_dials_reach_the_machine():
    from vmviz.kernel.machine import Config

    machine = load_image(image([vma(BASE, 4, PF, "/dev/card", 12)]), Config(zap_contract="void"))
    assert machine.zap_vma_ptes(machine.vma("card"), BASE, PAGE).ret is None


@linux
def test_what_is_no_base_is_said_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shell.vmsnap").write_bytes(b"not one")
    (tmp_path / "999999999").write_bytes(b"not one")
    for target, message in (
        ("shel.vmsnap", "no PID, and there is no such file; the nearest file is shell.vmsnap"),
        ("", "give a PID, 'self', or the path of a snapshot"),
        ("-5", "give a PID, 'self', or the path of a snapshot"),
        ("999999999", r"no such process in /proc; for the file of that name say \./999999999"),
        ("a\0b", "no such file"),
    ):
        with pytest.raises(LiveError, match=message):
            open_base(target)
    for target in ("shell.vmsnap", "./999999999", "."):
        with pytest.raises(SnapshotError):
            open_base(target)
