"""A refused call as lines: the checks with the values compared, the nearest legal call, what each contract does."""

from __future__ import annotations

from ..kernel.errors import CheckResult
from ..script.outcome import Outcome
from ..script.values import format_addr, format_size
from ..session.session import Session
from .cells import Line
from .cells import width as line_width
from .scene import Scene
from .strip import Strip, call_text, paragraphs


def check_lines(checks: tuple[CheckResult, ...], width: int) -> list[Line]:
    """The checks in the kernel's order, with the values compared; one not reached says what it would give."""
    lines: list[Line] = []
    shown = [c.compared if c.reached or c.name == "range_in_vma" else "" for c in checks]
    first = max((len(c.expression) for c in checks), default=0)
    second = max(map(len, shown), default=0)
    gap = max(1, min(2, (width - first - second - 7) // 2))
    for i, (c, compared) in enumerate(zip(checks, shown, strict=True), 1):
        word = "pass" if c.passed else "FAIL"
        role = "pass" if c.passed else "fail"
        if not c.reached:
            word, role = f"not reached, would {'pass' if c.passed else 'fail'}", "skip"
        line: Line = [(f" {i} {c.expression:<{first + gap}}", "label")]
        if compared:
            line.append((f"{compared:<{second + gap}}", "number"))
        if c.note and not c.passed and line_width(line) + len(word) + 1 + len(c.note) <= width:
            word = f"{word} {c.note}"
        lines.append([*line, (word, role)])
    return lines


_CONTRACTS = {
    "int": "int (to 4.17): returns -1",
    "void": "void (4.18 to 7.0): returns nothing",
    "special": "special (7.1): VM_MIXEDMAP too, returns nothing",
}
"""What a refused call gives its caller under each contract."""


def contract_lines(contract: str, room: int) -> list[Line]:
    """What each contract does, the machine's own marked; only that one where there is no room for all."""
    lines: list[Line] = []
    for name, text in _CONTRACTS.items():
        own = name == contract
        if own or room >= len(_CONTRACTS):
            lines.append([(" ► " if own else "   ", "mark.cursor"), (text, "text" if own else "dim")])
    return lines[: max(0, room)]


def _with_contract(checks: list[Line], contract: str, width: int) -> list[Line]:
    """The checks with a word on the contract at the right of the third, where it fits."""
    notes = ("(4.18 on: silent no-op)",) if contract == "int" else ("(caller hears nothing)", "(silent)")
    for note in notes:
        pad = width - 1 - line_width(checks[2]) - len(note) if len(checks) > 2 else 0
        if pad >= 2:
            role = "dim" if contract == "int" else "warn"
            checks[2] = [*checks[2], (" " * pad, "text"), (note, role)]
            break
    return checks


_REFUSED_TITLES = {
    "caller_bug": "THE CALLER'S BUG, not called",
    "unknown": "NOT KNOWN, nothing changed",
    "find_vma": "NO SUCH VMA, nothing changed",
}


def refused(o: Outcome, session: Session, scene: Scene, width: int, height: int) -> Strip:
    assert o.refusal is not None
    r = o.refusal
    title = _REFUSED_TITLES.get(r.check, "REFUSED, nothing changed")
    if not r.checks:
        keys: Line = [(" Esc", "key"), (" back", "key.text")]
        if o.func.startswith("zap"):
            keys += [("   e", "key"), (" edit", "key.text")]
        told = r.message[0].upper() + r.message[1:] + ("" if r.message.endswith(".") else ".")
        if height < 5:
            lines = paragraphs(width, height, (told, "text"))
            return Strip(title, call_text(o), lines, alert=True, footer=keys)
        lines = paragraphs(width, height - 1, (told, "text"))
        return Strip(title, call_text(o), [*lines, keys], alert=True)
    legal = legal_statement(o, session, scene)
    last: Line = [(" Nearest legal: ", "label"), (legal_text(o, scene) or "none in this VMA", "number")]
    if legal:
        last += [("    Enter", "key"), (" run it", "key.text"), ("   e", "key"), (" edit", "key.text")]
    last += [("   Esc", "key"), (" back", "key.text")]
    checks = check_lines(r.checks, width)
    contract = session.machine.sys.zap_contract
    if height < 5:
        return Strip(title, call_text(o), _with_contract(checks, contract, width)[:height], True, legal, last)
    message = f"{r.message[0].upper()}{r.message[1:]}."
    clamps = " The call never clamps: all or nothing." if r.legal is not None else ""
    # What goes first where there is no room for all: the call, which the title names too, then the last sentence.
    call: list[Line] = [[(" " + call_text(o), "call")]]
    for head, told in (
        (call if height >= 9 else [], message + clamps),
        ([], message + clamps),
        ([], message),
    ):
        room = height - len(head) - len(checks) - 1
        text = paragraphs(width, room, (told, "text"))
        if len(paragraphs(width, 99, (told, "text"))) + len(_CONTRACTS) <= room:
            break
    text += contract_lines(contract, room - len(text))
    blank: list[Line] = [[]] if len(text) < room else []
    return Strip(
        title, "" if head else call_text(o), [*head, *checks, *blank, *text, last][:height], True, legal
    )


def legal_text(o: Outcome, scene: Scene) -> str:
    """The nearest legal range in words: where, and how much."""
    legal = o.refusal.legal if o.refusal else None
    if legal is None:
        return ""
    where = scene.label(legal.address) or format_addr(legal.address)
    return f"{where}, {format_size(legal.size, exact=True)}"


def legal_statement(o: Outcome, session: Session, scene: Scene) -> str:
    """The statement that would be accepted instead of a refused one, as the user would type it."""
    legal = o.refusal.legal if o.refusal else None
    if legal is None or not o.func.startswith("zap"):
        return ""
    vma = session.machine.mm.vma_at(legal.address)
    if vma is None:
        return ""
    return zap_statement(scene, o.func, legal.address, legal.size)


SPECIAL_NAMES = ("[heap]", "[stack]", "[vvar]", "[vdso]")
"""Names that a process has once, so that they say which VMA is meant."""


def zap_statement(scene: Scene, func: str, address: int, size: int, vma_address: int | None = None) -> str:
    """A call of the zap as a statement, with labels where there are any."""

    def text(va: int) -> str:
        return scene.label(va).replace("+", " + ") or format_addr(va)

    vma = scene.mm.vma_at(address if vma_address is None else vma_address)
    start = vma.start if vma is not None else address
    which = text(start)
    if vma is not None and which.startswith("0x") and vma.name in SPECIAL_NAMES:
        which = f'"{vma.name}"'
    amount = format_size(size, exact=True) if size < 1 << 63 else format_addr(size)
    return f"{func}(vma({which}), {text(address)}, {amount})"
