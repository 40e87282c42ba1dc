"""The ledger of a whole local stack folded again: equal; a changed row is named; other prices; again; lost states."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from agentledger.infra.ledger_setup import prepare_kafka
from agentledger.infra.stack import Stack, StackConfig
from agentledger.processors.topics import CHANGELOG, HOLDS_CHANGELOG, SCOPES_CHANGELOG
from agentledger.schemas.events import Event, ModelCallCompleted, OutcomeRecorded
from agentledger.schemas.topics import EVENTS, SPEND
from tests.run_logs import CODEC, Author, interleaved, some_run
from tests.running_stack import RunningStack
from tests.traces import EXPECTED, traces_folder

pytestmark = [pytest.mark.integration, pytest.mark.traces, pytest.mark.timeout(900)]

SOURCE = "tau2-events"
RUNS = 8
WEEKS_US = 20 * 86_400_000_000
DERIVED = (
    "SELECT countIf(startsWith(producer_id, 'processor:') OR startsWith(producer_id, 'scopes:') "
    "OR startsWith(producer_id, 'holds:')) AS derived FROM ledger WHERE occurrence = 'first'"
)
SETTLED = """SELECT (SELECT count() FROM charges WHERE kind = 'model') AS charges,
    (SELECT count() FROM model_calls) AS model_calls,
    (SELECT count() FROM events WHERE event_type NOT IN ('Ticked', 'CheckpointSigned', 'EvidenceRetrieved')) AS rows"""
PRICES = """
version: test
models:
  - {model: gpt-4.1-mini, aliases: [gpt-4.1-mini-2025-04-14], prices: [{input: 1, cache_read: 1, output: 1}]}
"""


def own_events() -> list[Event]:
    """Runs that are cut in two: half of them before the states are lost, half after."""
    rng = random.Random(7)
    return interleaved([some_run(number, rng) for number in range(RUNS)], rng)


def late_run() -> list[Event]:
    """A run that ends long before its outcome is known."""
    author = Author("late", seed=99)
    run = [author.start(), author.model_call(1000, "gpt-4.1-mini", provider="openai", output_tokens=0), author.finish()]
    outcome = author.outcome(success=False)
    return [*run, replace(outcome, occurred_at=outcome.occurred_at + WEEKS_US)]


def publish(stack: RunningStack, events: list[Event]) -> None:
    producer = Producer({"bootstrap.servers": stack.endpoints()["kafka_bootstrap_servers"]})
    for event in events:
        producer.produce(EVENTS.name, CODEC.encode(event), event.run_id.encode())
    assert producer.flush(30) == 0


def settled(stack: RunningStack, published: list[Event]) -> None:
    """The imported set and these events are in the ledger, with a charge for each model call.

    What comes by itself (ticks, checkpoints) or by asking (that somebody looked at the trail) isn't waited for: that
    never ends.
    """
    own = {event.event_id for event in published if isinstance(event, ModelCallCompleted)}
    wanted = EXPECTED[SOURCE].model_calls + len(own)
    row = stack.settle(SETTLED, lambda found: found["charges"] == found["model_calls"] == wanted)
    assert (row["charges"], row["model_calls"]) == (wanted, wanted)


def replayed(stack: RunningStack, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = stack.cli("replay", "--json", *arguments, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def replayed_whole(stack: RunningStack, wait_s_max: float = 120) -> dict[str, Any]:
    """The report of a replay for which everything that follows was there: the programs go on concluding meanwhile."""
    deadline = time.monotonic() + wait_s_max
    while True:
        report = replayed(stack)
        if sum(report["equal"].values()) == report["conclusions"] or time.monotonic() > deadline:
            return report


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack with one imported set, and the first halves of runs."""
    folder = traces_folder()
    with RunningStack(tmp_path_factory.mktemp("replay")) as running:
        expected = EXPECTED[SOURCE]
        running.cli("import", expected.format, str(folder / expected.path), "--source", SOURCE)
        events = own_events()
        before = events[: len(events) // 2] + late_run()[:-1]
        publish(running, before)
        settled(running, before)
        yield running


def test_what_was_concluded_live_follows_again_byte_for_byte(stack: RunningStack) -> None:
    report = replayed_whole(stack)
    assert report["different"] == 0
    assert sum(report["equal"].values()) == report["conclusions"] >= EXPECTED[SOURCE].model_calls
    assert sum(report["equal"].values()) <= stack.one(DERIVED)["derived"]
    run = stack.one("SELECT any(run_id) AS run_id FROM charges")["run_id"]
    of_this_run = DERIVED + f" AND run_id = '{run}'"
    before = stack.one(of_this_run)["derived"]
    of_run = replayed(stack, "--run", run)  # the programs go on concluding meanwhile
    assert 0 < before <= sum(of_run["equal"].values()) <= stack.one(of_this_run)["derived"]
    shown = stack.cli("replay").stdout
    assert "byte for byte" in shown
    assert "different" not in shown


def test_a_row_that_somebody_changed_is_named(stack: RunningStack) -> None:
    client = clickhouse_connect.get_client(**stack.login("admin"))
    [[partition, index, event_id, cost]] = client.query(
        "SELECT partition, log_index, toString(event_id), cost_nanousd FROM agentledger.ledger "
        f"WHERE topic = '{SPEND.name}' AND event_type = 'CostRated' AND occurrence = 'first' AND cost_nanousd > 0 "
        "AND position(raw, 'openai') > 0 ORDER BY ledger_time DESC LIMIT 1"
    ).result_rows
    place = f"topic = '{SPEND.name}' AND partition = {partition} AND log_index = {index}"

    def change(what: str) -> None:
        client.command(f"ALTER TABLE agentledger.ledger UPDATE {what} WHERE {place}", settings={"mutations_sync": 2})

    change("raw = replaceOne(raw, 'openai', 'opanai')")
    try:
        report = replayed(stack, code=3)
        assert report["different"] == 1
        [found] = report["differences"]
        assert (found["kind"], found["topic"], found["partition"]) == ("changed", SPEND.name, partition)
        assert (found["log_index"], found["event_id"]) == (index, event_id)
        assert found["fields"] == [{"name": "provider", "in_ledger": "opanai", "replayed": "openai"}]
        done = stack.cli("replay", check=False)
        assert f"{SPEND.name}, partition {partition}, index {index}" in done.stdout
        assert "provider: expected 'openai', found 'opanai'" in done.stdout
    finally:
        change("raw = replaceOne(raw, 'opanai', 'openai')")
    change("cost_nanousd = 1")
    try:
        [found] = replayed(stack, code=3)["differences"]
        assert (found["kind"], found["log_index"]) == ("misread", index)
        assert f"expected {cost}" in found["text"]
    finally:
        change(f"cost_nanousd = {cost}")
    assert replayed(stack)["different"] == 0


def test_other_prices_cost_what_the_tokens_say(stack: RunningStack, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES, "utf-8")
    report = replayed(stack, "--prices", str(path))
    rows = stack.query("""SELECT workflow, sum(charges.cost_nanousd) AS was,
        sumIf(c.input_tokens + ifNull(c.cache_read_tokens, 0) + ifNull(c.cache_write_tokens, 0) + c.output_tokens
              + ifNull(c.reasoning_tokens, 0), charges.model = 'gpt-4.1-mini') AS tokens,
        sumIf(charges.cost_nanousd, charges.model != 'gpt-4.1-mini') AS others
        FROM charges JOIN model_calls AS c ON c.event_id = charges.rated_event_id GROUP BY workflow""")
    assert any(row["tokens"] for row in rows)
    found = {one["workflow"]: one for one in report["spend"]}
    for row in rows:
        spend = found[row["workflow"]]
        # A dollar per million tokens is a thousand nano-dollars a token. Tools' own costs stay.
        assert spend["ledger"]["cost_nanousd"] >= int(row["was"] or 0)
        difference = spend["replay"]["cost_nanousd"] - spend["ledger"]["cost_nanousd"]
        assert difference == int(row["tokens"] or 0) * 1000 + int(row["others"] or 0) - int(row["was"] or 0)


def test_the_range_is_published_again_with_the_same_bytes(stack: RunningStack) -> None:
    done = stack.cli("replay", "--to-topic", "copy.v1", "--run", "run-1")
    wanted = stack.query(
        "SELECT hex(key) AS key, hex(raw) AS raw, partition, offset, log_index FROM ledger "
        f"WHERE topic = '{EVENTS.name}' AND run_id = 'run-1' ORDER BY partition, log_index"
    )
    assert wanted
    assert f"published {len(wanted)} records" in done.stdout
    consumer = Consumer(
        {"bootstrap.servers": stack.endpoints()["kafka_bootstrap_servers"], "group.id": "again",
         "auto.offset.reset": "earliest"}
    )  # fmt: skip
    consumer.assign([TopicPartition("copy.v1", partition, 0) for partition in range(4)])
    found = []
    deadline = time.monotonic() + 60
    while len(found) < len(wanted) and time.monotonic() < deadline:
        found += consumer.consume(100, 1.0)
    consumer.close()
    for message, row in zip(found, wanted, strict=True):
        assert message.error() is None
        assert (message.key().hex(), message.value().hex()) == (row["key"].lower(), row["raw"].lower())
        headers = dict(message.headers())
        assert headers["agentledger.offset"] == str(row["offset"]).encode()
        assert headers["agentledger.log_index"] == str(row["log_index"]).encode()
        assert message.partition() == row["partition"]
        assert message.timestamp()[1] == int(headers["agentledger.ledger_time_us"]) // 1000
    refused = stack.cli("replay", "--to-topic", EVENTS.name, check=False)
    assert (refused.returncode, "ledger" in refused.stderr) == (2, True)
    refused = stack.cli("replay", "--to-topic", "other.v1", "--run", "nobody's", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    done = stack.cli("replay", "--to-topic", "other.v1", "--to", "2001-01-01")
    assert f"nothing to publish on other.v1: no record of {EVENTS.name} lies in this range" in done.stdout
    topics = AdminClient({"bootstrap.servers": stack.endpoints()["kafka_bootstrap_servers"]}).list_topics(timeout=30)
    assert "copy.v1" in topics.topics
    assert "other.v1" not in topics.topics


def test_lost_states_are_rebuilt_and_the_programs_go_on_from_them(stack: RunningStack) -> None:
    refused = stack.cli("rebuild-state", check=False)
    assert refused.returncode == 2
    assert "running" in refused.stderr
    stack.down()
    lose_states_and_rebuild(stack)
    stack.up()
    events = own_events()
    outcome = late_run()[-1]
    publish(stack, [*events[len(events) // 2 :], Author("run-after").start(), outcome])
    settled(stack, events + late_run())
    ended = len({event.run_id for event in events if isinstance(event, OutcomeRecorded)})
    runs = stack.settle(
        "SELECT uniqExact(run_id) AS n FROM ledger WHERE event_type = 'OutcomeCosted' AND run_id LIKE 'run-%'",
        lambda found: found["n"] == ended,
    )
    assert runs["n"] == ended
    costed = stack.settle(
        "SELECT count() AS n, any(cost_nanousd) AS cost, any(success) AS success, "
        "(SELECT sum(cost_nanousd) FROM charges WHERE run_id = 'late') AS charged FROM ledger "
        f"WHERE event_type = 'OutcomeCosted' AND outcome_event_id = '{outcome.event_id}' AND occurrence = 'first'",
        lambda found: found["n"] == 1,
    )
    assert (costed["cost"], costed["success"]) == (costed["charged"], False)
    assert int(costed["cost"]) > 0
    report = replayed(stack)
    assert report["different"] == 0, report["differences"]
    assert sum(report["equal"].values()) > 0
    conflicts = stack.one("SELECT countIf(occurrence = 'conflict') AS n FROM ledger")
    assert conflicts["n"] == 0


def lose_states_and_rebuild(stack: RunningStack) -> None:
    """Broker and ClickHouse alone: all changelogs are gone, and come again."""
    alone = Stack(StackConfig(data_dir=stack.data_dir))
    endpoints = alone.up()
    before = dict(stack.env)
    stack.env.update(endpoints.env() | {"AGENTLEDGER_CLICKHOUSE_USER": "default"})  # it is there without our users
    try:
        kafka = {"bootstrap.servers": endpoints.kafka_bootstrap_servers}
        kept = stack.cli("rebuild-state", check=False)
        assert (kept.returncode, "--replace" in kept.stderr) == (2, True)
        admin = AdminClient(kafka)
        lost = admin.delete_topics([CHANGELOG, HOLDS_CHANGELOG, SCOPES_CHANGELOG])
        for done in lost.values():
            done.result(30)
        deadline = time.monotonic() + 60
        made: list[str] = []
        while len(made) < len(lost):
            made += prepare_kafka(kafka, partitions=4, replication_factor=1)
            assert time.monotonic() < deadline
            time.sleep(0.5)
        shown = stack.cli("rebuild-state").stdout
        assert "runs: 0 states" not in shown
        again = stack.cli("rebuild-state", "--replace").stdout
        assert again.splitlines()[0] == shown.splitlines()[0]
    finally:
        stack.env.clear()
        stack.env.update(before)
        alone.down()
