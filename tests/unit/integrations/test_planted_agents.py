"""A secret in everything that nobody asks to keep leaves with no integration. On disk: tests/integration."""

from __future__ import annotations

import gc
import pkgutil

import pytest

from agentledger.producers import integrations
from agentledger.schemas.events import RunFinished, RunStarted
from tests.framework_rig import SECRET, RecordingLedger
from tests.planted_agents import PLANTED

SHARED = {
    "answers",
    "approvals",
    "clients",
    "recording",
    "streams",
}  # modules of integrations/ that are none themselves


def test_each_integration_has_an_agent() -> None:
    found = {module.name for module in pkgutil.iter_modules(integrations.__path__)}
    assert set(PLANTED) >= {name for name in found if not name.startswith("_")} - SHARED


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # LiteLLM leaves an event loop open
@pytest.mark.parametrize("name", PLANTED)
def test_no_agent_lets_the_secret_out(name: str) -> None:
    ledger = RecordingLedger()
    PLANTED[name](ledger, SECRET)
    assert len(ledger.events) >= 3
    assert ledger.every(RunStarted)
    assert ledger.every(RunFinished)
    assert SECRET.encode() not in ledger.emitted
    ledger.close()
    gc.collect()  # what a framework left open is thrown away here, and not in somebody else's test
