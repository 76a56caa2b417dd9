"""The doors of rooms: names that a package offers, each imported from its module when it is first asked for.

Many modules lie behind a package: who wants one name of `vmviz.script` need not wait for the grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def door(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package; ``modules`` tells of each of its modules which names come from there.

    What was found stays in the package, so it is looked up once.

    >>> door("vmviz.script", {"values": "nearest parse_size", "nodes": "walk"})("nearest").__module__
    'vmviz.script.values'
    """
    where = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f"{package}.{where[name]}"), name)
        setattr(import_module(package), name, found)
        return found

    return find
