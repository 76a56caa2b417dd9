"""How the process of the command line is set up, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest


def told_by(text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_asyncio_comes_without_tls_and_ssl_can_still_be_had() -> None:
    text = """
import sys
from vmviz.startup import import_asyncio_without_tls
import_asyncio_without_tls()
import asyncio.sslproto
print("ssl" in sys.modules, "asyncio" in sys.modules, asyncio.sslproto.ssl)
async def seven(): return 7
print(asyncio.run(seven()))
import ssl
print(ssl.__name__)
"""
    assert told_by(text).splitlines() == ["False True None", "7", "ssl"]


@pytest.mark.parametrize("first", ["asyncio", "ssl"])
def test_who_has_asyncio_or_ssl_keeps_them(first: str) -> None:
    text = f"""
import {first}
from vmviz.startup import import_asyncio_without_tls
import_asyncio_without_tls()
import asyncio.sslproto
print(asyncio.sslproto.ssl.__name__)
"""
    assert told_by(text) == "ssl"


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is asked for on Linux alone")
def test_freed_memory_stays_with_the_process() -> None:
    """Arrays of some ten megabytes, made and dropped again and again, touch their pages once."""
    text = """
import resource
import numpy as np
from vmviz.startup import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(1 << 18) for _ in range(5)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
if keep_freed_memory():
    print(faults() < 2 * 5 * 512)
else:
    print(True)
"""
    assert told_by(text) == "True"
