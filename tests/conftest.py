"""Settings of every test: Hypothesis prints what reproduces a failure, and no example is judged by its time. What
`eval "$(agentledger env)"` has left in the shell doesn't reach the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from agentledger.infra.stack.ports import HIGHEST, LOWEST, RANGE_VARIABLE
from agentledger.producers.calls import enclosing

settings.register_profile("agentledger", deadline=None, print_blob=True, max_examples=60)
settings.load_profile("agentledger")

for name in [name for name in os.environ if name.startswith("AGENTLEDGER_") and name != "AGENTLEDGER_TRACES"]:
    del os.environ[name]
os.environ["AGENTLEDGER_KEEPING_NICE"] = "0"  # a store that steps back behind two other test files comes too late


def keep_ports_apart() -> None:
    """Each test process, with all that it starts, takes ports of its own share of the range."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = (HIGHEST - LOWEST + 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    lowest = LOWEST + number * share
    os.environ[RANGE_VARIABLE] = f"{lowest}-{lowest + share - 1}"


keep_ports_apart()


@pytest.fixture(autouse=True)
def no_run_is_left_open() -> Iterator[None]:
    """A run or call that a test has entered and not left would be the outer one of whatever runs after it."""
    yield
    left = enclosing.get()
    enclosing.set(None)
    assert left is None, f"the test has left {left!r} open"
