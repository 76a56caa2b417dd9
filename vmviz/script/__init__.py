"""The command language of vmviz: C calls as strace prints them, in the console, in scripts, lessons and logs.

This is its syntax: text to nodes and back.

>>> statement = parse_statement('fb = mmap(NULL, 8M, PROT_READ, MAP_SHARED, open("/dev/fb0"), 0)')
>>> statement.target, statement.call.func, statement.call.args[1].value
('fb', 'mmap', 8388608)
>>> unparse(statement)
'fb = mmap(NULL, 8M, PROT_READ, MAP_SHARED, open("/dev/fb0"), 0)'
"""

from vmviz.script.errors import ScriptError
from vmviz.script.nodes import Script, Statement, unparse, walk
from vmviz.script.parser import looks_like_strace, parse, parse_statement, parse_strace
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
