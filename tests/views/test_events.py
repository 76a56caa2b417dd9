"""What happens inside an operation is an event to watch: it has a line of its own in the call tree, in words."""

from __future__ import annotations

import pytest

from vmviz.kernel.trace.explain import explain
from vmviz.kernel.trace.journal import Enter
from vmviz.session import Session

SETUP = [
    "a = mmap(0x100000000000, 4M, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)",
    "store(a, 64K, 1)",
]
EVENTS = [
    ([], "munmap(a + 16K, 4K)", "__split_vma"),
    ([], "mprotect(a + 16K, 4K, PROT_READ)", "__split_vma"),
    (["mprotect(a + 16K, 4K, PROT_READ)"], "mprotect(a + 16K, 4K, PROT_READ|PROT_WRITE)", "vma_merge"),
    (["fork()"], "store(a, 4K, 2)", "wp_page_copy"),
    ([], "madvise(a, 64K, MADV_PAGEOUT)", "reclaim_pages"),
    (["madvise(a, 64K, MADV_PAGEOUT)"], "load(a, 4K)", "do_swap_page"),
    (['thp("always")'], "store(a + 2M, 4K, 1)", "do_huge_pmd_anonymous_page"),
    (['thp("always")', "store(a + 2M, 4K, 1)"], "munmap(a + 3M, 4K)", "__split_huge_pmd"),
]


@pytest.mark.parametrize(("before", "statement", "event"), EVENTS, ids=[f"{e}: {s}" for _, s, e in EVENTS])
def test_an_event_is_a_call_with_a_sentence(before: list[str], statement: str, event: str) -> None:
    session = Session()
    for text in (*SETUP, *before):
        session.run(text)
    outcome = session.run(statement)
    records = session.machine.journal.records[outcome.start[0] : outcome.end[0]]
    assert event in [r.func for r in records if isinstance(r, Enter)]
    told = explain(event)
    assert told.file
    assert told.sentence.endswith(".")
    after = session.machine.digest()
    session.undo()
    session.redo()
    assert session.machine.digest() == after
