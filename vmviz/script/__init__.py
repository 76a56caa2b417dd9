"""The command language of vmviz: C calls as strace prints them, in the console, in scripts, lessons and logs.

This is its syntax: text to nodes and back.

>>> from vmviz.script import parse_statement, unparse
>>> statement = parse_statement('fb = mmap(NULL, 8M, PROT_READ, MAP_SHARED, open("/dev/fb0"), 0)')
>>> statement.target, statement.call.func, statement.call.args[1].value
('fb', 'mmap', 8388608)
>>> unparse(statement)
'fb = mmap(NULL, 8M, PROT_READ, MAP_SHARED, open("/dev/fb0"), 0)'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import door

if TYPE_CHECKING:
    from vmviz.script.errors import ScriptError
    from vmviz.script.looks import looks_like_strace
    from vmviz.script.nodes import Script, Statement, unparse, walk
    from vmviz.script.parser import parse, parse_statement, parse_strace
    from vmviz.script.values import format_addr, format_size, nearest, parse_size

__all__ = [
    "Script",
    "ScriptError",
    "Statement",
    "format_addr",
    "format_size",
    "looks_like_strace",
    "nearest",
    "parse",
    "parse_size",
    "parse_statement",
    "parse_strace",
    "unparse",
    "walk",
]

__getattr__ = door(
    __name__,
    {
        "errors": "ScriptError",
        "nodes": "Script Statement unparse walk",
        "looks": "looks_like_strace",
        "parser": "parse parse_statement parse_strace",
        "values": "format_addr format_size nearest parse_size",
    },
)
