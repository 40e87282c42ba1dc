"""The ledger that the tests of each integration record into."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.framework_rig import RecordingLedger

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or importing LiteLLM asks the network for prices


@pytest.fixture
def ledger() -> Iterator[RecordingLedger]:
    """A ledger in memory; a test that makes it fail takes the problems out of `problems`."""
    recording = RecordingLedger()
    yield recording
    assert recording.problems == []
