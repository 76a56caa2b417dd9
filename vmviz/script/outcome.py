"""What a statement did, as one value: the same for the log, for text output and for JSON."""

from __future__ import annotations

from typing import Any

import attrs

from ..kernel.arch.tlb import TlbFlush
from ..kernel.errors import CheckResult, Refusal
from ..kernel.trace.journal import Position
from ..kernel.value import Value
from .values import format_addr


@attrs.frozen(eq=False, repr=False)
class Signal(Value):
    """The signal that an access ended in."""

    name: str
    code: str
    addr: int


@attrs.frozen(eq=False, repr=False)
class Outcome(Value):
    """The result of one statement.

    ``ret`` is an int, or None where nothing is returned; ``address`` says that it is an address or a frame
    number.  ``verdict``
    is 0 or -1 for a zap under every contract.  ``why`` explains an error, a refusal, a signal, or a zap that
    did nothing.  ``data`` is what a load has read; of a long one it is ``page_bytes``, the first byte of each
    page; both are None when what the pages hold is not known.  ``vec`` is mincore's answer, a digit per page;
    ``output`` the text that cat shows.
    ``expected`` is None where no value was expected, else whether it came.
    """

    i: int
    line: int
    text: str
    func: str = ""
    ret: int | None = None
    address: bool = False
    errno: str | None = None
    signal: Signal | None = None
    refusal: Refusal | None = None
    verdict: int | None = None
    ptes_cleared: int = 0
    ptes_unknown: int = 0
    tlb: tuple[TlbFlush, ...] = ()
    frames_freed: int = 0
    tables_freed: int = 0
    touched: int | None = None
    data: bytes | None = None
    page_bytes: bytes | None = None
    vec: str | None = None
    output: str | None = None
    min_flt: int = 0
    maj_flt: int = 0
    why: str = ""
    checks: tuple[CheckResult, ...] = ()
    expected: bool | None = None
    mismatch: str = ""
    target: str | None = None
    start: Position = (0, 0)
    end: Position = (0, 0)

    @property
    def result(self) -> str:
        """The result as the language writes it after ``=``.

        >>> Outcome(0, 1, "", ret=-1, errno="EINVAL").result
        '-1 EINVAL'
        >>> Outcome(0, 1, "", ret=0x7000, address=True).result
        '0x7000'
        """
        if self.signal is not None:
            return f"{self.signal.name} {self.signal.code}"
        if self.errno is not None:
            return f"-1 {self.errno}"
        if self.ret is None:
            return "?"
        return format_addr(self.ret) if self.address else str(self.ret)

    def to_json(self) -> dict[str, Any]:
        """The fields of ``vmviz run --json``: addresses and frame numbers are hex strings, sizes and counts
        numbers.
        """
        ret: Any = format_addr(self.ret) if self.address and self.ret is not None else self.ret
        out: dict[str, Any] = {
            "i": self.i,
            "line": self.line,
            "text": self.text,
            "ret": ret,
            "errno": self.errno,
            "signal": _signal_json(self.signal),
            "refusal": refusal_json(self.refusal),
            "ptes_cleared": self.ptes_cleared,
            "ptes_unknown": self.ptes_unknown,
            "tlb": [flush_json(f) for f in self.tlb],
            "frames_freed": self.frames_freed,
            "tables_freed": self.tables_freed,
            "why": self.why or None,
        }
        if self.verdict is not None:
            out["verdict"] = self.verdict
        if self.touched is not None:
            out.update(touched=self.touched, min_flt=self.min_flt, maj_flt=self.maj_flt)
        if self.data is not None:
            out["data"] = self.data.hex()
        if self.page_bytes is not None:
            out["page_bytes"] = self.page_bytes.hex()
        if self.vec is not None:
            out["vec"] = self.vec
        if self.output is not None:
            out["output"] = self.output
        if self.func == "load" and self.ret == 0 and self.data is None and self.page_bytes is None:
            out["data"] = None
        if self.expected is not None:
            out["expected"] = {"ok": self.expected, "mismatch": self.mismatch or None}
        return out


def _signal_json(signal: Signal | None) -> dict[str, str] | None:
    if signal is None:
        return None
    return {"name": signal.name, "code": signal.code, "addr": format_addr(signal.addr)}


def refusal_json(refusal: Refusal | None) -> dict[str, Any] | None:
    """A refusal as JSON; ``legal`` is the nearest legal range, or null."""
    if refusal is None:
        return None
    legal = refusal.legal
    return {
        "check": refusal.check,
        "message": refusal.message,
        "legal": None
        if legal is None
        else {"address": format_addr(legal.address), "end": format_addr(legal.end), "size": legal.size},
        "checks": [
            {
                "check": c.name,
                "test": c.expression,
                "compared": c.compared,
                "passed": c.passed,
                "reached": c.reached,
            }
            for c in refusal.checks
        ],
    }


def flush_json(flush: TlbFlush) -> dict[str, Any]:
    """A TLB flush as JSON: its kind ("pages" or "full") and the hull of the cleared pages."""
    return {
        "kind": flush.kind,
        "start": format_addr(flush.start),
        "end": format_addr(flush.end),
        "pages": flush.nr_pages,
    }
