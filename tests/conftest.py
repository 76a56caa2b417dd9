"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure: Hypothesis would else give each example 200 ms of wall-clock time.
settings.register_profile("vmviz", deadline=None)
settings.load_profile("vmviz")
