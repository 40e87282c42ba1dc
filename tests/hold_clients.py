"""Clients that ask for holds over Kafka, as a process of its own: ten threads that die, repeat themselves and are late.

`python -m tests.hold_clients SERVERS NAME SECONDS SEED` prints one line of JSON when it is done.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.events import Event, HoldDecided, HoldReported, HoldRequested
from agentledger.schemas.topics import BUDGETS, HOLDS

THREADS = 10
TTL_MS = 3000
RETRY_S = 1.0  # unanswered for so long, a request is sent again, the same bytes
ANSWER_S_MAX = 60.0
TENANTS = ("acme", "beta", "corp")
CODEC = Codec(open_registry())


class Clients:
    """The threads of one process."""

    def __init__(self, servers: str, name: str) -> None:
        self.name = name
        self.producer = Producer({"bootstrap.servers": servers, "linger.ms": 1, "enable.idempotence": True})
        self.answers: dict[str, HoldDecided] = {}
        self.asked_at: dict[str, float] = {}
        self.took_ms: list[float] = []
        self.unanswered = 0
        self.repeated = 0
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._listening = threading.Event()
        self._servers = servers

    def run(self, seconds: float, seed: int) -> dict[str, Any]:
        """Call for so long; what was counted."""
        listener = threading.Thread(target=self._listen)
        listener.start()
        self._listening.wait(30)
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._call_until, args=(end, number, random.Random(seed * 100 + number)))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.producer.flush(20)
        self._stop.set()
        listener.join()
        verdicts = [answer.verdict for answer in self.answers.values()]
        return {
            "asked": len(self.asked_at),
            "granted": verdicts.count("granted"),
            "refused": verdicts.count("refused"),
            "unanswered": self.unanswered,
            "repeated": self.repeated,
            "ms": sorted(self.took_ms),
        }

    def _listen(self) -> None:
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": self.name, "fetch.wait.max.ms": 10})
        partitions = consumer.list_topics(BUDGETS.name, 10).topics[BUDGETS.name].partitions
        ends = [(place, consumer.get_watermark_offsets(place, 10)[1]) for place in places(list(partitions))]
        consumer.assign([TopicPartition(BUDGETS.name, place.partition, end) for place, end in ends])
        self._listening.set()
        while not self._stop.is_set():
            for message in consumer.consume(500, 0.05):
                event = CODEC.decode(message.value()) if message.error() is None else None
                if isinstance(event, HoldDecided):
                    with self._arrived:
                        if event.hold_id in self.asked_at and event.hold_id not in self.answers:
                            self.took_ms.append(1000 * (time.monotonic() - self.asked_at[event.hold_id]))
                        self.answers[event.hold_id] = event
                        self._arrived.notify_all()
        consumer.close()

    def _call_until(self, end: float, number: int, rng: random.Random) -> None:
        count = 0
        while time.monotonic() < end:
            count += 1
            self._call(f"{self.name}-{number}-{count}", number, rng)
            time.sleep(rng.uniform(0, 0.3))

    def _call(self, hold_id: str, number: int, rng: random.Random) -> None:
        envelope: dict[str, Any] = {
            "tenant_id": TENANTS[number % len(TENANTS)],
            "producer_id": f"{self.name}-{number}",
            "producer_seq": 0,
            "run_id": f"run-{self.name}-{number % 4}",
            "agent_id": f"agent-{number % 3}",
            "actor": f"user-{number % 5}",
            "labels": {"team": "red" if number % 2 else "blue", "tier": "gold" if number % 4 else "tin"},
        }
        asks = {"ask_cost_nanousd": rng.randint(1, 40), "ask_tokens": rng.randint(0, 9), "ask_tool_calls": 1}
        request = HoldRequested(**_new(), **envelope, hold_id=hold_id, ttl_ms=TTL_MS, **asks)
        answer = self._ask(request)
        if rng.random() < 0.05:
            self._send(request)  # a repetition after the answer
        if answer is None or answer.verdict != "granted":
            return
        fate = rng.random()
        if fate < 0.08:
            return  # dies
        if fate < 0.18:
            self._send(HoldReported(**_new(), **envelope, hold_id=hold_id, action="release", reason="cancelled"))
            return
        # Late ones are over their time when they report, which still counts.
        time.sleep(TTL_MS / 1000 + 1.2 if fate < 0.26 else rng.uniform(0, 0.2))
        beyond = rng.randint(1, 5) if rng.random() < 0.05 else 0
        cost = rng.randint(0, asks["ask_cost_nanousd"]) + beyond
        used = {"actual_cost_nanousd": cost, "actual_tokens": asks["ask_tokens"], "actual_tool_calls": 1}
        for _ in range(2 if rng.random() < 0.1 else 1):
            self._send(HoldReported(**_new(), **envelope, hold_id=hold_id, action="settle", **used))

    def _ask(self, request: HoldRequested) -> HoldDecided | None:
        hold_id = request.hold_id
        self.asked_at[hold_id] = time.monotonic()
        give_up = self.asked_at[hold_id] + ANSWER_S_MAX
        self._send(request)
        with self._arrived:
            while hold_id not in self.answers and time.monotonic() < give_up:
                if not self._arrived.wait_for(lambda: hold_id in self.answers, RETRY_S):
                    self.repeated += 1
                    self._send(request)
            if hold_id not in self.answers:
                self.unanswered += 1
            return self.answers.get(hold_id)

    def _send(self, event: Event) -> None:
        self.producer.produce(HOLDS.name, CODEC.encode(event), event.tenant_id.encode())
        self.producer.poll(0)


def places(partitions: list[int]) -> list[TopicPartition]:
    """The partitions of the budgets topic, to be read from their ends."""
    return [TopicPartition(BUDGETS.name, partition, OFFSET_END) for partition in partitions]


def _new() -> dict[str, Any]:
    now_us = time.time_ns() // 1000
    return {"event_id": uuid7(now_us), "occurred_at": now_us}


if __name__ == "__main__":
    found = Clients(sys.argv[1], sys.argv[2]).run(float(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(json.dumps(found) + "\n")
