"""Sends what the desk asks for, each channel by itself, and keeps what became of it before anybody is told more."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from agentledger.schemas import Codec
from agentledger.schemas.events import Event
from agentledger.sinks.notify.channels import Send
from agentledger.sinks.notify.delivered import delivered_event
from agentledger.sinks.notify.desk import Desk
from agentledger.sinks.notify.incidents import Delivery, Outcome
from agentledger.sinks.notify.metrics import NotifyMetrics
from agentledger.sinks.notify.payloads import Told
from agentledger.sinks.notify.state import NotifyState

log = logging.getLogger(__name__)


class Dispatcher:
    """The desk with its state and its channels. Belongs to one thread; the sending is done in others."""

    def __init__(
        self, desk: Desk, state: NotifyState, channels: Mapping[str, Send], codec: Codec, *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000, metrics: NotifyMetrics | None = None,
    ) -> None:  # fmt: skip
        self.metrics = metrics or NotifyMetrics()
        self.metrics.watch(lambda: len(desk.alerts), lambda: len(desk.incidents))
        self.desk = desk
        self.state = state
        self._channels = channels
        self._codec = codec
        self._clock = clock
        self._at_once_max = {name: desk.rules[name].at_once_max for name in channels}
        self._pools = {name: ThreadPoolExecutor(self._at_once_max[name], f"notify-{name}") for name in channels}
        self._under_way: dict[Future[Outcome], Delivery] = {}
        state.load(desk)
        desk.leave_out_unknown_channels()
        self._settle(desk.interrupted())

    @property
    def is_sending(self) -> bool:
        """Whether anything is under way."""
        return bool(self._under_way)

    def take(self, events: list[tuple[Event, int]], log_id: str, positions: Mapping[int, int]) -> None:
        """Fold events with their ledger times, and keep that they were read."""
        for event, ledger_us in events:
            self.desk.take(event, ledger_us)
        self.state.keep(self.desk, log_id, positions)

    def step(self) -> None:
        """Take in what was sent, then send what is due. What is begun is on disk first: after a crash it is known."""
        done = [future for future in self._under_way if future.done()]
        self._settle([(self._under_way.pop(future), future.result()) for future in done])
        busy = Counter(delivery.channel for delivery in self._under_way.values())
        now_us = self._clock()
        due = self.desk.due(now_us, {name: most - busy[name] for name, most in self._at_once_max.items()})
        if due or self.desk.changes.any():
            self.state.keep(self.desk)
        for delivery in due:
            told = self.desk.told(delivery, now_us)
            sending = self._pools[delivery.channel].submit(self._send, delivery.channel, told)
            self._under_way[sending] = delivery

    def close(self, wait_s_max: float = 12.0) -> None:
        """Wait for what is under way, take it in, and let go of the state."""
        deadline = time.monotonic() + wait_s_max
        while self._under_way and time.monotonic() < deadline:
            done = [future for future in self._under_way if future.done()]
            self._settle([(self._under_way.pop(future), future.result()) for future in done])
            time.sleep(0.02)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self.state.close()

    def _settle(self, results: list[tuple[Delivery, Outcome]]) -> None:
        """Keep outcomes, and their events, as one."""
        said: list[bytes] = []
        given_up: list[dict[str, Any]] = []
        now_us = self._clock()
        for delivery, outcome in results:
            incident, attempt = self.desk.incidents[delivery.incident], delivery.attempt
            status = self.desk.settle(delivery, outcome, now_us, random.random())  # noqa: S311 - spreads retries
            self.metrics.count_delivery(delivery.channel, delivery.action, status)
            if delivery.action == "refresh" and status == "sent":
                continue  # told nothing new
            event = delivered_event(
                incident, delivery, attempt, outcome, status, kind=self.desk.file.channels[delivery.channel].kind,
                producer_id=self.state.producer_id, producer_seq=self.state.next_seq + len(said), now_us=now_us,
            )  # fmt: skip
            said.append(self._codec.encode(event))
            if status == "sent":
                log.info("%s %s: %s", delivery.channel, delivery.action, incident.dedup_key)
                continue
            log.warning(
                "%s %s %s (attempt %d: %s, HTTP %s): %s", delivery.channel, delivery.action, status, attempt,
                outcome.fault, outcome.http_status, incident.dedup_key,
            )  # fmt: skip
            if status == "given_up":
                given_up.append({
                    "at_us": now_us, "channel": delivery.channel, "action": delivery.action, "fault": outcome.fault,
                    "http_status": outcome.http_status, "dedup_key": incident.dedup_key, "alerts": incident.alerts,
                    "rule": incident.shown.rule, "tenant_id": incident.shown.tenant_id,
                })  # fmt: skip
        if results:
            self.state.keep(self.desk, said=said, given_up=given_up)

    def _send(self, channel: str, told: Told) -> Outcome:
        """What a channel's library raises becomes an outcome: a page that can't be sent stops no other."""
        began = time.monotonic()
        try:
            return self._channels[channel](told)
        except Exception as error:  # noqa: BLE001 - of others' libraries; its words may hold an address with a secret
            log.warning("a channel failed with %s", type(error).__name__)
            return Outcome("unsure")
        finally:
            self.metrics.note_seconds(channel, time.monotonic() - began)
