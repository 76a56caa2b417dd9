"""The zap form: the three arguments as text, what they mean, and which checks would pass, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..kernel.errors import CheckResult, VmvizError
from ..kernel.mm.memory.zap_checks import find_danger, judge, nearest_legal
from ..kernel.mm.vma import Vma, vma_name
from ..script.errors import ScriptError
from ..script.runner import Runner
from ..script.values import format_addr, format_size
from .cells import Line
from .refusal import check_lines, zap_statement
from .scene import Range, Scene
from .strip import plural

WRAP = (1 << 64) - 1
FIELDS = ("vma", "address", "size")


@attrs.frozen
class FormState:
    """What the three texts come to: ``errors`` by field, or the VMA, address, size, checks and the statement to run."""

    errors: dict[str, str]
    vma: Vma | None = None
    address: int = 0
    size: int = 0
    checks: tuple[CheckResult, ...] = ()
    danger: str = ""
    statement: str = ""
    outwards: tuple[int, int] | None = None
    inwards: tuple[int, int] | None = None
    legal: str = ""

    @property
    def runnable(self) -> bool:
        """Whether Enter may run it: everything is understood, and a real kernel would survive it."""
        return not self.errors and not self.danger

    @property
    def would_pass(self) -> bool:
        """Whether the kernel's checks would all pass."""
        return bool(self.checks) and all(c.passed for c in self.checks)

    @property
    def range(self) -> Range | None:
        """The range to show in the panes."""
        if self.vma is None or self.errors or self.size > 1 << 47:
            return None
        return Range(self.address, self.address + self.size, self.vma.start)


def initial(scene: Scene) -> tuple[str, str, str]:
    """The texts to begin with, from the selection (or the page under the cursor); the VMA is the one it begins in."""
    start, end = (scene.range.start, scene.range.end) if scene.range else (scene.cursor, scene.cursor + 4096)
    vma = scene.mm.vma_at(scene.range.anchor if scene.range else start)
    name = "" if vma is None else (scene.label(vma.start) or format_addr(vma.start))
    return (
        name or format_addr(start),
        scene.label(start) or format_addr(start),
        format_size(end - start, exact=True),
    )


def read(scene: Scene, runner: Runner, vma: str, address: str, size: str) -> FormState:
    """Read the three texts; expressions of the language are allowed in each (``fb + 1M``, ``2M + 4K``,
    ``vma("[heap]")``).
    """
    errors: dict[str, str] = {}
    values: dict[str, int] = {}
    area: Vma | None = None
    for field, text in (("address", address), ("size", size)):
        try:
            values[field] = _number(runner, text)
        except VmvizError as error:
            errors[field] = _first(error)
    try:
        area = _area(scene, runner, vma)
    except VmvizError as error:
        errors["vma"] = _first(error)
    if errors or area is None:
        return FormState(errors, area, values.get("address", 0), values.get("size", 0))
    at, length = values["address"], values["size"]
    contract = scene.machine.sys.zap_contract
    func = "zap_special_vma_range" if contract == "special" else "zap_vma_ptes"
    checks = judge(area, at, length, contract)
    danger = find_danger(scene.mm, area, at, length)[1] if all(c.passed for c in checks) else ""
    legal = nearest_legal(area, at, length, contract) if not all(c.passed for c in checks) else None
    cut = (at | length) & 4095 and at + length <= WRAP
    outwards = (at & -4096, ((at + length + 4095) & -4096) - (at & -4096)) if cut else None
    low, high = (at + 4095) & -4096, (at + length) & -4096
    inwards = (low, high - low) if cut and high > low else None
    return FormState(
        {},
        area,
        at,
        length,
        checks,
        danger,
        zap_statement(scene, func, at, length, area.start),
        outwards,
        inwards,
        f"{format_addr(legal.address)} {format_size(legal.size, exact=True)}" if legal else "",
    )


def _number(runner: Runner, text: str) -> int:
    text = text.strip()
    if not text:
        raise VmvizError("a number is wanted, such as fb + 1M or 0x7ffff7100000")
    value = runner.evaluate(f"value = {text}")
    if not isinstance(value, int):
        raise VmvizError("a number is wanted here")
    return value & WRAP


def _area(scene: Scene, runner: Runner, text: str) -> Vma:
    text = text.strip()
    if text.startswith(("[", "/")):
        return scene.machine.vma(text)
    value = runner.evaluate(f"value = {text}") if text else None
    if isinstance(value, Vma):
        return value
    if isinstance(value, str):
        return scene.machine.vma(value)
    if isinstance(value, int):
        return scene.machine.vma(value & WRAP)
    raise VmvizError("a VMA is wanted: a name or an address in it, such as fb or [heap]")


def _first(error: VmvizError) -> str:
    if isinstance(error, ScriptError):
        near = f"; did you mean {error.nearest}?" if error.nearest else ""
        return f"{error.message}{near}"
    return str(error).split("\n", 1)[0]


def lines(scene: Scene, state: FormState, width: int) -> list[Line]:
    """What stands below the fields: the checks in the kernel's order, cut pages, what Enter would do."""
    out: list[Line] = []
    if state.errors:
        for field in FIELDS:
            if field in state.errors:
                out.append([(f" {field}: ", "label"), (state.errors[field], "fail")])
        return out
    assert state.vma is not None
    out += check_lines(state.checks, width)
    if state.address + state.size > WRAP:
        out.append([(f" {_pages(state)}", "warn")])
    if state.outwards:
        out += _cut_lines(scene, state)
        if state.danger:
            role, text = (
                "fail",
                "Whole pages only: a real kernel would run off the table, so this is not run.",
            )
        else:
            role, text = "dim", _harmless(state)
        out.append([(" " + text, role)])
        choice: Line = [(" ^o", "key"), (f" outwards: {_range(scene, state.outwards)}", "key.text")]
        if state.inwards:
            choice += [("   ^n", "key"), (f" inwards: {_range(scene, state.inwards)}", "key.text")]
        out.append(choice)
    elif state.danger:
        out.append([(" " + state.danger, "fail")])
    if state.legal:
        out.append([(" ^l", "key"), (f" nearest legal: {state.legal}", "key.text")])
    return out


def missing(state: FormState, texts: Mapping[str, str]) -> str:
    """Why Enter does nothing, in a few words; "" when it does something.

    >>> missing(FormState({"size": "a number is wanted"}), {"size": " "})
    'size is missing'
    """
    for field in FIELDS:
        if field in state.errors:
            return f"{field} is {'not understood' if texts.get(field, '').strip() else 'missing'}"
    return "a real kernel would not survive it" if state.danger else ""


def field_info(scene: Scene, state: FormState, field: str, text: str = "") -> Line:
    """What the text of a field comes to, beside it; a label that is the text itself is not said again."""
    if field in state.errors:
        return [(missing(state, {field: text}).removeprefix(f"{field} is ") if text else "missing", "fail")]
    if field == "vma":
        if state.vma is None:
            return []
        v = state.vma
        kind = (" PF", "flag.pf") if v.is_pfnmap else ("", "text")
        return [(f"{v.start:x}..{v.end:x} {v.perms}", "addr"), kind, (f" {vma_name(scene.mm, v)}", "name")]
    if state.errors:
        return []
    if field == "address":
        label = scene.label(state.address)
        same = "".join(label.split()) == "".join(text.split())
        return [(f"{state.address:x}", "addr"), ("" if same else f"  {label}", "name")]
    end = (state.address + state.size) & WRAP
    return [(f"{state.size:x}", "number"), (f"  {_pages(state)}, ends at {end:x}", "dim")]


def _cut_lines(scene: Scene, state: FormState) -> list[Line]:
    """The pages that the range cuts, with what of each it holds; drawn as the panes draw it."""
    end = (state.address + state.size) & WRAP
    out: list[Line] = []
    for mark, at, word in (("▄", state.address, "from"), ("▀", end, "up to")):
        if at & 4095:
            page = at & -4096
            slot = f"{page >> 21 & 511:03x}.{page >> 12 & 511:03x}"
            there = scene.machine.arena.entry_at(scene.mm.pgd, page)
            out.append(
                [
                    (f" {mark} ", "mark.range"),
                    (slot, "table"),
                    ("  " if there else "  empty  ", "dim"),
                    (f"{word} +{at & 4095:x}", "number"),
                    (" of this page", "dim"),
                ]
            )
    return out


def _harmless(state: FormState) -> str:
    """What a cut range comes to that a real kernel survives."""
    if not state.would_pass:
        return "The kernel refuses it before it looks at pages."
    if not state.size & 4095 and state.size:
        n = state.size >> 12
        entries = "1 entry" if n == 1 else f"{n} entries"
        return f"Both ends are cut alike: the kernel clears {entries} from the first on."
    return "The kernel finds nothing to clear there."


def _pages(state: FormState) -> str:
    n = (state.size + 4095) >> 12
    if state.size >= 1 << 47:
        return "address + size wraps around 2^64"
    return f"{n} page{'s' if n != 1 else ''}"


def _range(scene: Scene, r: tuple[int, int]) -> str:
    where = scene.label(r[0]) or format_addr(r[0])
    return f"{where}, {format_size(r[1], exact=True)} ({plural(r[1] >> 12, 'PTE')})"
