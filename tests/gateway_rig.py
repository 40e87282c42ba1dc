"""A gateway for tests: on a fake broker, with a client that speaks to it without a network."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from agentledger.producers.gateway import AcknowledgedPublisher, Gateway, GatewayLimits, create_app
from agentledger.schemas import Codec, Event, open_registry
from agentledger.schemas.api_keys import new_api_key
from agentledger.schemas.testing.api_keys import FakeApiKeys
from agentledger.schemas.testing.record_producer import FakeRecordProducer

NOW_US = 1_800_000_000_000_000


class GatewayRig:
    """A gateway whose clock stands still at `now_us`. `key` may ingest for acme; `events` is what arrived."""

    def __init__(self, *, up: bool = True, records_max: int = 100_000, **limits: Any) -> None:
        self.now_us = NOW_US
        self.codec = Codec(open_registry())
        self.producer = FakeRecordProducer(up=up, records_max=records_max)
        key, self.key = new_api_key("billing-bot", "acme", ["ingest"], now_us=NOW_US)
        self.keys = FakeApiKeys(key)
        bounds = GatewayLimits(**limits)
        publisher = AcknowledgedPublisher(
            self.producer, queue_records_max=bounds.queue_records_max, ack_wait_s_max=bounds.ack_wait_s_max
        )
        self.gateway = Gateway(publisher, self.codec, self.keys, clock=lambda: self.now_us, limits=bounds)
        self.app = create_app(self.gateway)
        self.client = TestClient(self.app, headers={"Authorization": f"Bearer {self.key}"})

    @property
    def events(self) -> list[Event]:
        """What arrived, in order."""
        return [self.codec.decode(record.value) for record in self.producer.records]
