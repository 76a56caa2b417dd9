"""Running statements: evaluates the expressions, calls the machine, makes outcomes, compares expectations."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NoReturn

import attrs

from ..kernel.errors import (
    CallerBugError,
    KernelError,
    Refusal,
    SignalRaised,
    UnknownContentsError,
    UnsupportedError,
    VmvizError,
)
from ..kernel.machine import Config, Machine
from ..kernel.mm.memory.zap_checks import CONTRACTS
from ..kernel.mm.page_alloc import OutOfMemory
from ..kernel.mm.vma import Vma
from ..kernel.syscalls import VmaNotFound
from ..kernel.versions import VERSIONS
from .errors import ScriptError
from .functions import FUNCTIONS, ArgumentError, Result, Value
from .names import CONSTANTS, NOT_YET
from .node import Node
from .nodes import (
    Array,
    BinOp,
    Call,
    Dots,
    Expectation,
    Keyword,
    Name,
    Number,
    Script,
    Statement,
    String,
    Struct,
    Unary,
    walk,
)
from .outcome import Outcome, Signal
from .parser import parse, parse_statement
from .values import format_addr, nearest

KNOWN: frozenset[str] = frozenset(FUNCTIONS) | NOT_YET | {"boot"}
"""Every function name that the parser lets through; those of `NOT_YET` are then refused by name."""

WRAP = (1 << 64) - 1
BOOT_KEYS = {
    "mem": "ram",
    "mode": "mode",
    "kernel": "kernel",
    "zap_contract": "zap_contract",
    "vdso": "vdso",
    "cpus": "cpus",
    "comm": "comm",
    "swap": "swap",
}
BOOT_HELP = (
    f"boot([{', '.join(f'{key}=' for key in BOOT_KEYS)}])",
    "the machine of a script, as its first statement: RAM and swap in bytes, paging mode, versions",
)
"""How a `boot` is written, and a line about it."""
MAX_CPUS = 64
BOOT_WORDS = {"kernel": tuple(VERSIONS), "zap_contract": CONTRACTS, "mode": ("x86-64-4l", "x86-64-5l")}


class Runner:
    """Runs statements on a machine, one after another; ``names`` are the script's variables.

    ``pinned`` names the options of ``config`` that the command line gave: a `boot` must not contradict them.

    >>> r = Runner()
    >>> r.run_text("a = mmap(NULL, 8K, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)").result
    '0x7ffff7ffd000'
    >>> r.run_text("store(a)").result
    'SIGSEGV SEGV_ACCERR'
    """

    def __init__(
        self,
        machine: Machine | None = None,
        config: Config | None = None,
        *,
        fixed: bool = False,
        pinned: Collection[str] = (),
    ) -> None:
        self.machine = machine or Machine(config)
        self._pinned = frozenset(pinned)
        self._config = self.machine.config
        self.fixed = fixed or machine is not None
        self.names: dict[str, Value] = {}
        self.count = 0
        self._rebooted = False
        self._source, self._filename = "", "<console>"

    # -- running

    def unboot(self) -> None:
        """Forget what `boot` statements asked for: a fresh machine, as before the first statement."""
        self.count = 0
        if self._rebooted:
            self.machine, self._rebooted = Machine(self._config), False

    def reboot(self, machine: Machine) -> None:
        """Go back to a machine that `unboot` forgot."""
        self.machine, self._rebooted = machine, True

    def parse(self, text: str, filename: str = "<script>") -> Script:
        """Parse a whole script and check its names before anything runs; raises `ScriptError`."""
        script = parse(text, filename=filename, known=KNOWN)
        check_statements(script.statements, script.source or text, filename, self.names)
        return script

    def run_text(self, text: str) -> Outcome:
        """Run one line; raises `ScriptError` when it is not a statement."""
        statement = parse_statement(text, known=KNOWN)
        check_statements([statement], text, "<console>", self.names)
        return self.run(statement, text, "<console>")

    def evaluate(self, text: str) -> Value:
        """The value of an assignment's right side, which may only look VMAs up; raises `VmvizError`."""
        statement = parse_statement(text, known={"vma"})
        check_statements([statement], text, "<console>", self.names)
        self._source, self._filename = text, "<console>"
        return self._value(statement.value)

    def run(self, statement: Statement, source: str = "", filename: str = "<script>") -> Outcome:
        """Run one statement; raises `ScriptError` when its values make no sense: then nothing has changed."""
        self._source, self._filename = source, filename
        start = self.machine.journal.end
        self._switch(statement)
        base = Outcome(self.count, statement.line, statement.text, start=start, target=statement.target)
        call = statement.call
        if call is not None:
            base = attrs.evolve(base, func=call.func)
        try:
            result = self._call(call) if call is not None else self._plain(self._value(statement.value))
            outcome = self._succeeded(base, result)
        except VmvizError as error:
            try:
                outcome = self._failed(base, error)
            except VmvizError:
                self.machine.journal.seek(start)
                self.machine.journal.truncate()
                if isinstance(error, ScriptError):
                    raise
                self._fail(statement, str(error))
            result = Result(-1)
        if statement.target is not None:
            self.names[statement.target] = result.value
        self.count += 1
        outcome = attrs.evolve(outcome, end=self.machine.journal.end)
        return compare(outcome, statement.expect)

    def _switch(self, statement: Statement) -> None:
        """Let the process of ``[pid N]`` run, without one the first that lives."""
        machine = self.machine
        pid = statement.pid if statement.pid is not None else machine.first_pid
        living = machine.living()
        if pid not in living:
            which = "the only one is" if len(living) == 1 else "there are"
            self._fail(statement, f"there is no process {pid}; {which} {', '.join(map(str, living))}")
        machine.switch_to(pid)

    def _succeeded(self, base: Outcome, result: Result) -> Outcome:
        value = result.value
        ret = value.start if isinstance(value, Vma) else value if isinstance(value, int) else None
        return attrs.evolve(base, ret=ret, address=result.address or isinstance(value, Vma), **result.fields)

    def _failed(self, base: Outcome, error: VmvizError) -> Outcome:
        """The outcome of an error of the kernel; any other error is raised again."""
        match error:
            case KernelError():
                return attrs.evolve(base, ret=-1, errno=error.errno, refusal=error.refusal, why=error.why)
            case SignalRaised():
                signal = Signal(error.name, error.code, error.addr)
                return attrs.evolve(base, ret=-1, signal=signal, why=error.why, touched=error.touched)
            case CallerBugError():
                return attrs.evolve(base, refusal=error.refusal, why=str(error))
            case VmaNotFound():
                return attrs.evolve(base, refusal=error.refusal, why=str(error))
            case UnknownContentsError():
                return attrs.evolve(base, refusal=Refusal("unknown", str(error)), why=str(error))
            case OutOfMemory():
                return attrs.evolve(base, ret=-1, errno="ENOMEM", why=str(error))
        raise error

    # -- evaluating

    def _fail(self, node: Any, message: str, suggestions: Iterable[str] = ()) -> NoReturn:
        raise ScriptError.at(
            node, message, source=self._source, filename=self._filename, suggestions=tuple(suggestions)
        )

    def _value(self, node: Any) -> Value:
        match node:
            case Number():
                if node.abbreviated:
                    self._fail(node, "this number was cut by strace; its value is not known")
                return node.value * 4096 if node.unit_pages else node.value
            case String():
                return node.value
            case Name():
                if node.id in self.names:
                    return self.names[node.id]
                return CONSTANTS[node.id]
            case Unary():
                value = self._number(node.operand)
                return -value if node.op == "-" else ~value & WRAP
            case BinOp():
                left, right = self._number(node.left), self._number(node.right)
                if node.op == "<<" and right < 0:
                    self._fail(
                        node.right, f"a shift by a negative number of bits ({right}) means nothing in C"
                    )
                return _apply(node.op, left, right)
            case Call():
                return self._call(node).value
            case Array() | Struct() | Dots():
                return ""
        return self._fail(node, "a value is wanted here")

    def _number(self, node: Any) -> int:
        value = self._value(node)
        if isinstance(value, Vma):
            return value.start
        if not isinstance(value, int):
            self._fail(node, "a number is wanted here")
        return value

    def _call(self, call: Call) -> Result:
        if call.func == "boot":
            return self._boot(call)
        if call.func in NOT_YET:
            self._fail(call, f"{call.func} is a call of Linux that vmviz does not simulate yet")
        values = [self._value(a) for a in call.args]
        try:
            return FUNCTIONS[call.func].call(self.machine, *values)
        except ArgumentError as error:
            self._fail(call if error.index < 0 else call.args[error.index], str(error), error.suggestions)
        except UnsupportedError as error:
            self._fail(call, str(error))

    def _boot(self, call: Call) -> Result:
        if self.fixed:
            self._fail(call, "boot has no place on a given base: the machine is there already")
        if self.count or self.machine.journal.end[0]:
            self._fail(call, "boot must be the first statement of a script")
        config = self._config
        seen: set[str] = set()
        for argument in call.args:
            if not isinstance(argument, Keyword) or argument.name not in BOOT_KEYS:
                word = argument.name if isinstance(argument, Keyword) else ""
                keys = ", ".join(f"{k}=" for k in BOOT_KEYS)
                self._fail(argument, f"boot takes {keys}", nearest(word, BOOT_KEYS))
            if argument.name in seen:
                self._fail(argument, f"{argument.name} is given twice")
            seen.add(argument.name)
            config = self._boot_option(config, argument)
        try:
            self.machine = Machine(config)
        except VmvizError as error:
            self._fail(call, str(error))
        self._rebooted = True
        return Result(0)

    def _boot_option(self, config: Config, argument: Keyword) -> Config:
        value: Any = self._value(argument.value)
        is_text = argument.name in ("mode", "kernel", "zap_contract", "comm")
        if not isinstance(value, str if is_text else int):
            self._fail(argument, f"{argument.name} wants {'a string' if is_text else 'a number'}")
        if argument.name == "vdso" and value not in (0, 1):
            self._fail(argument, "vdso is 0 or 1")
        if argument.name == "cpus" and value not in range(1, MAX_CPUS + 1):
            self._fail(argument, f"cpus is 1 to {MAX_CPUS}")
        if argument.name == "comm":
            value = str(value)[:15]  # TASK_COMM_LEN is 16, with the NUL
        if argument.name == "vdso":
            value = bool(value)
        given = getattr(self._config, BOOT_KEYS[argument.name])
        if BOOT_KEYS[argument.name] in self._pinned and value != given:
            option = argument.name.replace("_", "-")
            self._fail(
                argument, f"{argument.name} {value!r} contradicts --{option} {given} on the command line"
            )
        changed = attrs.evolve(config, **{BOOT_KEYS[argument.name]: value})
        try:
            changed.validate()
        except VmvizError as error:
            self._fail(argument, str(error), nearest(str(value), BOOT_WORDS.get(argument.name, ())))
        return changed

    def _plain(self, value: Value) -> Result:
        """The result of an assignment without a call; an address is in a mapping, or above 4G."""
        is_address = isinstance(value, int) and (
            (value >> 32 != 0 and value >= 0) or self.machine.mm.vma_at(value) is not None
        )
        return Result(value, address=is_address)


def _apply(op: str, a: int, b: int) -> int:
    """C's operators on 64 bits: results that are not negative are unsigned, negative ones signed.

    >>> _apply("-", 0, 4096), _apply("+", WRAP, 2), _apply("<<", 1, 70)
    (-4096, 1, 0)
    """
    if op == "<<":
        return (a << min(b, 64)) & WRAP
    value = {"+": a + b, "-": a - b, "*": a * b, "|": a | b}[op]
    if value >= 0 or op == "|":
        return value & WRAP
    return ((value + (1 << 63)) & WRAP) - (1 << 63)


def compare(outcome: Outcome, expect: Expectation | None) -> Outcome:
    """The outcome with its expectation judged.  Contracts that return nothing are compared by the verdict."""
    if expect is None or expect.kind == "unknown":
        return outcome
    if expect.kind == "signal":
        s = outcome.signal
        ok = s is not None and s.name == expect.signal and expect.code in (None, s.code)
        wanted = f"{expect.signal} {expect.code or ''}".strip()
    elif expect.kind == "error":
        ok = outcome.errno == expect.errno
        wanted = f"-1 {expect.errno}"
    else:
        assert expect.value is not None
        number = expect.value.value * (4096 if expect.value.unit_pages else 1)
        got = outcome.ret if outcome.ret is not None else outcome.verdict
        if got is None and outcome.refusal is not None and outcome.refusal.check == "find_vma":
            got = -1  # the call was never made: that it fails is what `= -1` says
        ok = outcome.signal is None and got is not None and (got - number) & WRAP == 0
        wanted = format_addr(number) if outcome.address and number >= 0 else str(number)
    if ok:
        return attrs.evolve(outcome, expected=True)
    got_text = outcome.result
    if outcome.ret is None and outcome.verdict is not None:
        got_text = f"nothing (void; the verdict is {outcome.verdict})"
    elif outcome.ret is None and outcome.refusal is not None:
        got_text = f"nothing ({outcome.refusal.check}: {outcome.refusal.message})"
    return attrs.evolve(outcome, expected=False, mismatch=f"expected {wanted}, got {got_text}")


def check_statements(
    statements: Iterable[Statement], source: str, filename: str, known: Collection[str]
) -> None:
    """Find what is wrong before anything runs; ``known`` are the variables that there are already.

    Raises `ScriptError` for the first name that nobody has defined (with the nearest that somebody has), a
    call that the simulator does not have, or a wrong number of arguments.
    """
    defined = set(known) | set(CONSTANTS)

    def fail(node: Node, message: str, suggestions: tuple[str, ...] = ()) -> NoReturn:
        raise ScriptError.at(node, message, source=source, filename=filename, suggestions=suggestions)

    for statement in statements:
        for node, _ in walk(statement.value):
            if isinstance(node, Name) and node.id not in defined:
                fail(node, f"{node.id!r} is not defined", nearest(node.id, defined))
            elif isinstance(node, Call):
                problem = _call_problem(node)
                if problem is not None:
                    fail(*problem)
        if statement.target is not None:
            if statement.target in CONSTANTS:
                fail(statement, f"{statement.target!r} is a constant")
            defined.add(statement.target)


def _call_problem(call: Call) -> tuple[Node, str] | None:
    """What is wrong with a call whatever its values are, and where."""
    if call.func == "boot":
        return None
    if call.func in NOT_YET:
        return call, f"{call.func} is a call of Linux that vmviz does not simulate yet"
    function = FUNCTIONS[call.func]
    keyword = next((a for a in call.args if isinstance(a, Keyword)), None)
    if keyword is not None:
        return keyword, f"{call.func} takes no named arguments: {function.signature}"
    low, high = function.arity
    if not low <= len(call.args) <= high:
        wants = "no" if high == 0 else f"{low}" if low == high else f"{low} to {high}"
        noun = "argument" if wants == "1" else "arguments"
        return call, f"{call.func} takes {wants} {noun}, not {len(call.args)}: {function.signature}"
    return None
