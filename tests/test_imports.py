"""What loads what: the kernel is a pure library, and the command line starts without the heavy modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("textual", "rich", "click", "lark", "platformdirs", "numpy", "vmviz.tui", "vmviz.script")


def loaded_by(code: str) -> set[str]:
    """The modules of `HEAVY` that a fresh interpreter has loaded after ``code``."""
    show = f"import sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stderr.split())


VERSION = """
import sys
sys.argv = ["vmviz", "--version"]
from vmviz.cli import main
try:
    main()
except SystemExit as done:
    assert done.code == 0
"""


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import vmviz", set()),
        (VERSION, {"click"}),
        ("import vmviz.kernel", {"numpy"}),
        ("import vmviz; vmviz.Machine", {"numpy"}),
        ("import vmviz.script", {"vmviz.script"}),
        ("import vmviz.script; vmviz.script.parse", {"vmviz.script"}),
        ("import vmviz; vmviz.Session", set()),
        ("import vmviz; vmviz.Session(vmviz.Machine())", {"numpy"}),
    ],
)
def test_loads_only(code: str, allowed: set[str]) -> None:
    assert loaded_by(code) <= allowed


EACH_FIRST = """
import os, sys
from pathlib import Path
import attrs, numpy
for path in sorted(Path("vmviz").rglob("*.py")):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    if name.split(".")[1:2] not in (["kernel"], ["script"], ["live"], ["session"], ["views"]):
        continue
    pid = os.fork()
    if not pid:
        try:
            __import__(name)
        except ImportError as error:
            print(name, error)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_each_module_can_be_the_first_that_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EACH_FIRST], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == ""


def test_the_public_names_are_there() -> None:
    import vmviz

    for name in vmviz.__all__:
        assert getattr(vmviz, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vmviz.nothing


def test_import_contracts_hold() -> None:
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
