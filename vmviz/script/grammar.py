"""The grammar of the language as a parser, its tables kept beside the bytecode.

Making the tables takes longer than anything else that a short script needs, so lark writes them to a file in
``__pycache__``: what could change them there could change the code as well.  Without the right to write there they are
made anew each time; so they are when the file is damaged, or from another grammar or lark.  As with bytecode,
PYTHONDONTWRITEBYTECODE means that no such file is made, and one that is there is used.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lark import Lark


@cache
def grammar() -> Lark:
    """The parser of statements and of lines of an strace log."""
    file = tables_file()
    return load(None if sys.dont_write_bytecode and not (file and os.path.exists(file)) else file)


def load(file: str | None) -> Lark:
    """Make the parser, with the help of the tables in ``file``, which is written if it is not right."""
    from lark import Lark  # noqa: PLC0415 - a machine is opened in the app without it

    text = pkgutil.get_data("vmviz.script", "grammar.lark")
    assert text is not None, "the grammar belongs to the package"
    return Lark(
        text.decode("utf-8"),
        parser="lalr",
        lexer="contextual",
        start=["statement", "trace_line"],
        propagate_positions=True,
        maybe_placeholders=True,
        cache=file or False,
    )


def tables_file() -> str | None:
    """Where the tables are kept: named like this module's bytecode; None where there is no place for that."""
    bytecode = __spec__.cached if __spec__ is not None else None
    return bytecode.removesuffix(".pyc") + ".tables" if bytecode else None
