"""What several tests here need: each test file has services of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evidence_rig import EvidenceRig
from tests.kafka_broker import kafka_broker
from tests.running_stack import RunningStack


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """The address of a fresh Kafka with the ledger's topics."""
    with kafka_broker(tmp_path / "stack") as kafka:
        yield kafka.endpoint


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EvidenceRig]:
    """One ClickHouse for all tests of a file."""
    with EvidenceRig(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A local stack with every program, for all tests of a file."""
    with RunningStack(tmp_path_factory.mktemp("stack")) as running:
        yield running
