"""A gateway on a real socket, in a thread of this process, with librdkafka's mock cluster behind it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, Producer

from agentledger.infra.stack.ports import free_port
from agentledger.producers.gateway import GatewayConfig, GatewayLimits, run_gateway
from agentledger.schemas.api_keys import new_api_key
from agentledger.schemas.testing.api_keys import FakeApiKeys
from agentledger.schemas.topics import EVENTS

WAIT_S_MAX = 30


class MockBroker:
    """One broker in memory; it ends with this object."""

    def __init__(self) -> None:
        self._host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._host.list_topics(timeout=10).brokers.values()
        self.servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def values(self, count: int) -> list[bytes]:
        """The first so many values on the events topic."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "t", "auto.offset.reset": "earliest"})
        consumer.subscribe([EVENTS.name])
        try:
            found = [message.value() for message in consumer.consume(count, WAIT_S_MAX) if message.error() is None]
        finally:
            consumer.close()
        return [value for value in found if value is not None]


class GatewayServer:
    """`with GatewayServer(servers) as gateway:` it listens at `gateway.url`; `key` may ingest for acme."""

    def __init__(self, servers: str, *, limits: GatewayLimits | None = None, **config: Any) -> None:
        key, self.key = new_api_key("bench", "acme", ["ingest"], now_us=1, events_per_s_max=1_000_000)
        self.port = free_port()
        scheme = "https" if config.get("tls_certificate") else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.headers = {"Authorization": f"Bearer {self.key}"}
        self._config = GatewayConfig(
            kafka={"bootstrap.servers": servers}, host="127.0.0.1", port=self.port, limits=limits or GatewayLimits(),
            **config,
        )  # fmt: skip
        self._keys = FakeApiKeys(key)
        self.stop = threading.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway")

    def _run(self) -> None:
        try:
            run_gateway(self._config, self._keys, self.stop, self._ready.set)
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            self._failure = error
        self._ready.set()

    def ended(self) -> bool:
        """Wait until it has ended; whether it has."""
        self._thread.join(WAIT_S_MAX)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_S_MAX)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop.set()
        assert self.ended()
