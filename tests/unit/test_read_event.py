"""That records were looked at: what the event says, and what happens where it can't be published."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from agentledger.infra import recorded_reads
from agentledger.infra.recorded_reads import recorded_read
from agentledger.infra.settings import Settings
from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.errors import BrokerError, ConfigurationError, UsageError
from agentledger.schemas.events import EvidenceRetrieved
from agentledger.schemas.hashing import canonical_json, digest_bytes
from agentledger.sinks.announcing import Announcer
from agentledger.sinks.queries import query
from agentledger.sinks.read_event import TEXT_CHARS_MAX, CountedReads, ReadFacts, read_event

ASKED = {"command": "query", "sql": "SELECT * FROM runs WHERE actor = 'ann'", "parameters": {}}
CODEC = Codec(open_registry())
NOWHERE = {"bootstrap.servers": "127.0.0.1:9"}


def facts(**changes: Any) -> ReadFacts:
    reads = CountedReads(SimpleNamespace(query=None))  # type: ignore[arg-type]
    reads.rows_returned, reads.rows_read, reads.bytes_read = 3, 50, 4000
    return ReadFacts(ASKED, "acme", "ann@host", "auditor", 1_790_000_000_000_000, 12.5, reads)._replace(**changes)


def told(**changes: Any) -> EvidenceRetrieved:
    return read_event(facts(**changes), uuid7(1_790_000_000_000_000), with_text=True)


def test_it_says_who_asked_what_and_how_much_was_read() -> None:
    event = told()
    assert CODEC.decode(CODEC.encode(event)) == event
    assert (event.actor, event.tenant_id, event.run_id, event.latency_ms) == ("ann@host", "acme", "", 12.5)
    assert json.loads(event.labels["query"]) == ASKED
    assert event.query_digest == digest_bytes(canonical_json(ASKED))
    expected = {"rows_returned": "3", "rows_read": "50", "bytes_read": "4000", "result": "ok", "error": ""}
    assert expected.items() <= event.labels.items()
    assert told(error="gone").labels["result"] == "error"


def test_without_text_only_command_and_digest_are_told() -> None:
    event = read_event(facts(error="no column ann"), uuid7(1), with_text=False)
    assert event.query_digest == told().query_digest
    assert "ann" not in "".join(event.labels.values())


def test_a_long_statement_is_cut_and_its_digest_is_of_all_of_it() -> None:
    first, second = (told(asked={"command": "query", "sql": "x" * 10_000 + end}) for end in "ab")
    assert first.labels["query"] == second.labels["query"]
    assert len(first.labels["query"]) == TEXT_CHARS_MAX
    assert first.query_digest != second.query_digest


def test_answers_are_counted() -> None:
    answer = SimpleNamespace(
        summary={"read_rows": "7", "read_bytes": "90"}, column_names=("a",), column_types=(), result_rows=[(1,), (2,)]
    )
    reads = CountedReads(SimpleNamespace(query=lambda *_args, **_kwargs: answer))  # type: ignore[arg-type]
    for _ in range(2):
        query(reads, "SELECT 1")
    assert (reads.rows_returned, reads.rows_read, reads.bytes_read) == (4, 14, 180)


def test_a_broker_that_is_away_is_no_reason_to_wait() -> None:
    with pytest.raises(BrokerError, match="no broker can be reached"):
        Announcer(NOWHERE, CODEC, 20).announce(told(), "t")


def test_after_an_outage_the_next_event_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    is_away = True

    class Broker:
        """A producer that says only once that its broker is away, as librdkafka does."""

        def __init__(self, config: dict[str, Any]) -> None:
            self._tell = config["error_cb"]
            self._delivered: Any = None

        def produce(self, _topic: str, _value: bytes, _key: bytes, on_delivery: Any) -> None:
            self._delivered = on_delivery

        def poll(self, _timeout_s: float) -> None:
            if is_away:
                self._tell(KafkaError(KafkaError._ALL_BROKERS_DOWN))
            else:
                self._delivered(None, None)

    monkeypatch.setattr("agentledger.sinks.announcing.Producer", Broker)
    announcer = Announcer({}, CODEC)
    for _ in range(2):
        with pytest.raises(BrokerError, match="no broker can be reached"):
            announcer.announce(told(), "t")
    is_away = False
    announcer.announce(told(), "t")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An announcer that takes nothing; what it was told."""
    asked: list[Any] = []

    class Deaf:
        def announce(self, event: Any, topic: str) -> None:
            asked.append((event, topic))
            raise BrokerError("no answer")

    monkeypatch.setattr(recorded_reads, "_open", lambda _settings: Deaf())
    return asked


def test_without_a_broker_there_is_a_warning(failing: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with recorded_read(Settings(), ASKED, "auditor"):
        pass
    assert [(event.labels["result"], topic) for event, topic in failing] == [("ok", "agentledger.integrity.v1")]
    assert "this look at the ledger is not recorded: no answer" in capsys.readouterr().err


def test_where_the_record_is_required_there_is_no_answer_without_it(failing: list[Any]) -> None:
    with (
        pytest.raises(BrokerError, match="no answer"),
        recorded_read(Settings(reads_must_be_recorded=True), ASKED, "auditor"),
    ):
        pass
    assert len(failing) == 1


def test_a_question_that_fails_is_told_too(failing: list[Any]) -> None:
    with pytest.raises(UsageError, match="no such run"), recorded_read(Settings(), ASKED, "auditor"):
        raise UsageError("no such run")
    assert failing[0][0].labels["error"] == "no such run"


@pytest.mark.parametrize("is_required", [False, True])
def test_where_no_broker_is_known(
    is_required: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(_settings: Settings) -> dict[str, Any]:
        raise ConfigurationError("no Kafka is known")

    monkeypatch.setattr(recorded_reads, "kafka_config", unknown)
    looked = recorded_read(Settings(reads_must_be_recorded=is_required), ASKED, "auditor")
    if is_required:
        with pytest.raises(ConfigurationError, match="no Kafka is known"):
            looked.__enter__()
        return
    with looked:
        pass
    assert "not recorded: no Kafka is known" in capsys.readouterr().err
