"""What a text looks like before it is read: whether it is an strace log."""

from __future__ import annotations

import re

STRACE_LINE = re.compile(
    r"""
      \s* (?: \[pid\ +\d+\]\s+ | \d+\s+ )?
      (?: (?: \d+:\d+:\d+(?:\.\d+)? | \d+\.\d+ ) \s+ [A-Za-z_<+-]
        | <\.\.\.\ \w+\ resumed> | \+\+\+\ .*\ \+\+\+\s*$ | ---\ .*\ ---\s*$ | .*<unfinished\ \.\.\.>\s*$ )
    | \s* \d+\s+ \w+\(
    """,
    re.VERBOSE,
)
_STRACE_EXECVE = re.compile(r"execve\(.* /\* \d+ vars \*/\) += ")


def looks_like_strace(text: str) -> bool:
    """Whether one of the first lines could only come from strace (a plain call could come from a script too).

    >>> looks_like_strace("12:00:01 brk(NULL) = 0x5000"), looks_like_strace("brk(NULL) = 0x5000")
    (True, False)
    """
    lines = text.split("\n", 200)[:200]
    return any(STRACE_LINE.match(line) or _STRACE_EXECVE.match(line) for line in lines)
