"""The scenario language of the kernel traces: one operation per line, ``#`` starts a comment.

Numbers are decimal or hex with a suffix k, m, g or p (pages); ``B`` is `BASE` and ``$`` the last address that
mmap or mremap returned; both are joined by + and -.
"""

from __future__ import annotations

import re

import attrs

from ..kernel.errors import VmvizError

BASE = 0x1000_0000_0000
"""What ``B`` stands for."""

_SUFFIX = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "p": 4096}
_TERM = re.compile(r"([+-]?)(?:(B)|(\$)|(0[xX][0-9a-fA-F]+|\d+)([kmgp]?))")
WRAP = (1 << 64) - 1


class ScenarioError(VmvizError):
    """A scenario that cannot be read; the text names the line."""


@attrs.frozen
class Operation:
    """One line of a scenario: its number (from 1), the operation's name and its words."""

    line: int
    op: str
    args: tuple[str, ...] = ()


def parse_scn(text: str) -> tuple[Operation, ...]:
    """The operations of a scenario, in order.

    >>> parse_scn("# about\\nmmap B 4p rw- private,anon  # heap\\n")
    (Operation(line=2, op='mmap', args=('B', '4p', 'rw-', 'private,anon')),)
    """
    out = []
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.partition("#")[0].split()
        if words:
            out.append(Operation(number, words[0], tuple(words[1:])))
    return tuple(out)


def number(text: str, last: int = 0) -> int:
    """The value of a number, modulo 2**64; ``last`` is what ``$`` stands for.

    Raises `ScenarioError` for what is no number.

    >>> hex(number("B+3p-0x10")), number("16k"), hex(number("0xfffffffffffff000+1p"))
    ('0x100000002ff0', 16384, '0x0')
    """
    at = total = 0
    while at < len(text) or not text:
        match = _TERM.match(text, at)
        if match is None or (at and not match[1]):
            raise ScenarioError(f"{text!r} is no number: stuck at {text[at:]!r}")
        sign, base, dollar, digits, suffix = match.groups()
        value = BASE if base else last if dollar else int(digits, 0) * _SUFFIX[suffix]
        total += -value if sign == "-" else value
        at = match.end()
    return total & WRAP
