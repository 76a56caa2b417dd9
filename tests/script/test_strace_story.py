"""An strace log as a story: replayed once, then gone through step by step."""

from __future__ import annotations

from pathlib import Path

from vmviz.kernel.machine import Config
from vmviz.kernel.verify import verify
from vmviz.script.strace import Replay
from vmviz.session.story import strace_session

LOG = Path(__file__).parent.parent / "data" / "strace" / "cat.strace"


def test_the_position_stands_before_the_first_call_and_every_call_is_a_step() -> None:
    session = strace_session(Replay(LOG.read_text(), LOG.name, Config()), LOG.name)
    assert session.index == 0
    assert len(session.done) > 10
    assert session.remarks
    begun = session.machine.digest()
    seen = []
    while session.future:
        session.run_next()
        seen.append(session.machine.digest())
        assert verify(session.machine) == []
    assert len(seen) == len(session.done)
    assert len(set(seen)) > 10
    while session.index:
        session.undo()
    assert session.machine.digest() == begun
