"""``python -m vmviz``."""

from .cli import main

main()
