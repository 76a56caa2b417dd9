"""What can go wrong, as values and exceptions that carry where, why and the nearest valid thing.

A *refusal* (`Refusal`) is a value: the kernel function judged its arguments and did nothing. An *error*
(`KernelError`) is a syscall that returned ``-errno``; a *signal* (`SignalRaised`) is an access that the fault
handler could not serve.  `UnsupportedError` names an operation that the simulator does not have.
"""

from __future__ import annotations

import attrs

from .value import Value


class VmvizError(Exception):
    """The base of every error that vmviz raises on purpose; its text is fit to be shown to a user."""


@attrs.frozen(eq=False, repr=False)
class LegalRange(Value):
    """The nearest range that a refused call would have accepted, in bytes."""

    address: int
    size: int

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.address + self.size


@attrs.frozen(eq=False, repr=False)
class CheckResult(Value):
    """One condition that a kernel function judged: its name, both sides as text, and the outcome.

    ``passed`` is the outcome of the comparison; ``reached`` is false for a check that the kernel did not come
    to, because an earlier one had failed (it is judged all the same: people mend one thing and meet the
    next).
    """

    name: str
    expression: str
    compared: str
    passed: bool
    reached: bool = True
    note: str = ""


@attrs.frozen(eq=False, repr=False)
class Refusal(Value):
    """Why a call was refused: the check that failed, in words, and the nearest legal range (None: there is
    none).
    """

    check: str
    message: str
    legal: LegalRange | None = None
    checks: tuple[CheckResult, ...] = ()


class KernelError(VmvizError):
    """A system call or kernel function that returned a negative errno.

    >>> raise KernelError("EINVAL", "munmap", "length is 0")
    Traceback (most recent call last):
        ...
    vmviz.kernel.errors.KernelError: munmap: EINVAL: length is 0
    """

    def __init__(self, errno: str, func: str, why: str, refusal: Refusal | None = None) -> None:
        super().__init__(f"{func}: {errno}: {why}")
        self.errno = errno
        self.func = func
        self.why = why
        self.refusal = refusal


class SignalRaised(VmvizError):
    """An access that ended in a signal: ``name`` (SIGSEGV, SIGBUS), ``code`` (SEGV_MAPERR, ...), ``addr``.

    ``touched`` is the number of pages that the access had reached before it.
    """

    def __init__(self, name: str, code: str, addr: int, why: str, touched: int = 0) -> None:
        super().__init__(f"{name} {code} at {addr:#x}: {why}")
        self.name = name
        self.code = code
        self.addr = addr
        self.why = why
        self.touched = touched


class UnknownContentsError(VmvizError):
    """A question whose answer an imported process does not tell (a device's fault handler, hidden
    entries).
    """


class BadArgumentError(VmvizError):
    """A value that a call cannot take: of the wrong kind, or none of the known words."""


class UnsupportedError(VmvizError):
    """An operation that the simulator does not have; the text names it."""


class CallerBugError(VmvizError):
    """A call that a real kernel would answer with a BUG or by running away; nothing was harmed.

    ``rule`` names the broken rule and ``refusal`` carries the fields that a refused call has.
    """

    def __init__(self, func: str, rule: str, message: str, refusal: Refusal) -> None:
        super().__init__(f"{func}: caller bug ({rule}): {message}")
        self.func = func
        self.rule = rule
        self.message = message
        self.refusal = refusal
