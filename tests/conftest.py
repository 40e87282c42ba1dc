"""Settings of every test: Hypothesis prints what reproduces a failure, and no example is judged by its time. What
`eval "$(agentledger env)"` has left in the shell doesn't reach the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from agentledger.producers.calls import enclosing

settings.register_profile("agentledger", deadline=None, print_blob=True, max_examples=60)
settings.load_profile("agentledger")

for name in [name for name in os.environ if name.startswith("AGENTLEDGER_") and name != "AGENTLEDGER_TRACES"]:
    del os.environ[name]


@pytest.fixture(autouse=True)
def no_run_is_left_open() -> Iterator[None]:
    """A run or call that a test has entered and not left would be the outer one of whatever runs after it."""
    yield
    left = enclosing.get()
    enclosing.set(None)
    assert left is None, f"the test has left {left!r} open"
