"""The parser's tables: kept when that is possible, never needed."""

import os
import pickle

import pytest

from vmviz.script.grammar import load, tables_file

STATEMENT = "a = mmap(NULL, 64K, PROT_READ|PROT_WRITE, MAP_PRIVATE, -1, 0) = 0x7000"


@pytest.fixture(scope="module")
def tree():
    return load(None).parse(STATEMENT, start="statement")


def test_kept_tables_parse_alike(tmp_path, tree):
    file = str(tmp_path / "grammar.tables")
    assert load(file).parse(STATEMENT, start="statement") == tree
    before = os.stat(file).st_mtime_ns
    again = load(file)
    assert (again.parse(STATEMENT, start="statement"), os.stat(file).st_mtime_ns) == (tree, before)
    token = again.parse("munmap(b, 4K)", start="statement").meta
    assert (token.column, token.end_column) == (1, 14)


@pytest.mark.parametrize("cut", [0, 1, 60, 200, 5000])
def test_damaged_tables_are_made_anew(tmp_path, tree, cut, caplog, capfd):
    file = tmp_path / "grammar.tables"
    load(str(file))
    good = file.read_bytes()
    file.write_bytes(good[:cut])
    assert load(str(file)).parse(STATEMENT, start="statement") == tree
    assert file.read_bytes()[:65] == good[:65]
    assert capfd.readouterr() == ("", "")


def test_tables_of_another_grammar_are_not_taken(tmp_path, tree):
    file = tmp_path / "grammar.tables"
    file.write_bytes(b"0" * 64 + b"\n" + pickle.dumps({}) + pickle.dumps({}))
    assert load(str(file)).parse(STATEMENT, start="statement") == tree


@pytest.mark.parametrize("name", ["missing/grammar.tables", "."])
def test_a_place_that_cannot_be_written_is_no_failure(tmp_path, tree, name, capfd):
    assert load(str(tmp_path / name)).parse(STATEMENT, start="statement") == tree
    assert capfd.readouterr() == ("", "")


def test_the_tables_lie_beside_the_bytecode():
    file = tables_file()
    assert file is None or os.path.basename(os.path.dirname(file)) == "__pycache__" or "pycache" in file
