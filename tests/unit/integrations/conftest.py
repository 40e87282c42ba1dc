"""The ledger that the tests of each integration record into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.framework_rig import RecordingLedger


@pytest.fixture
def ledger() -> Iterator[RecordingLedger]:
    """A ledger in memory; a test that makes it fail takes the problems out of `problems`."""
    recording = RecordingLedger()
    yield recording
    assert recording.problems == []
