"""The ports: what a stage needs from outside. Each has a shipped fake in `agentledger.schemas.testing`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Clock = Callable[[], int]  # microseconds since 1970, UTC

DeliveryReport = Callable[[str | None], None]  # called once per record with None, or what went wrong


class SchemaRegistry(Protocol):
    """Gives ids to schemas and schemas to ids."""

    def id_of(self, record_name: str) -> int:
        """The id of the record's current schema. Raises SchemaError."""

    def schema_of(self, schema_id: int) -> dict[str, Any]:
        """The schema with this id. Raises UnknownSchemaError."""


class RecordProducer(Protocol):
    """Puts records on topics without ever waiting for the network."""

    def send(self, topic: str, key: bytes, value: bytes, on_delivery: DeliveryReport) -> bool:
        """True when the record was queued; False when the queue is full (then on_delivery is never called)."""

    def flush(self, timeout_s: float) -> int:
        """Wait until all that is queued was delivered or given up; the count still waiting at the time-out."""

    def waiting(self) -> int:
        """How many records are queued and not yet delivered or given up."""


class TokenUsage(NamedTuple):
    """Tokens of one call, disjoint as in ModelCallCompleted: input without cache, output without reasoning."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Charge(NamedTuple):
    """What a call costs, in nano-dollars; input and output share add up to the whole. Names are the price book's."""

    cost_nanousd: int
    input_cost_nanousd: int
    output_cost_nanousd: int
    provider: str
    model: str


class Unpriced(NamedTuple):
    """There is no price: `reason` is unknown_model, no_usage or invalid_usage. Never the same as a price of 0."""

    reason: str


class PriceBook(Protocol):
    """Named, versioned prices. Answers without network, and always the same for the same question."""

    source: str
    version: str

    def rate(
        self, provider: str, model: str, usage: TokenUsage | None, *, at_us: int, service_tier: str = ""
    ) -> Charge | Unpriced:
        """What this usage cost at that time (microseconds since 1970, the call's own clock)."""


class LogId(NamedTuple):
    """One log: a partition of a topic, by the topic's id (16 bytes), which a re-created topic doesn't keep."""

    topic_id: bytes
    partition: int


class LedgerPosition(NamedTuple):
    """Where the ledger stands in one log: its last committed record, and the highest event id up to there."""

    offset: int
    log_index: int
    ledger_time_us: int
    max_event_id: str


class StoredRow(NamedTuple):
    """What is stored of a record whose flush was not committed."""

    offset: int
    schema_sha256: bytes
    leaf_hash: bytes


class KnownEvent(NamedTuple):
    """The first record of an event id: its place, and the SHA-256 of its value."""

    log: LogId
    log_index: int
    value_sha256: bytes


@dataclass(slots=True)
class LedgerRow:
    """One record on its way into the ledger. Hashes are 32 bytes; `event_id` is empty where the value has none."""

    log: LogId
    topic: str
    offset: int
    log_index: int
    ledger_time_us: int
    event_id: str
    schema_id: int
    schema_sha256: bytes
    key: bytes
    key_sha256: bytes
    headers: bytes
    headers_sha256: bytes
    value: bytes
    value_sha256: bytes
    leaf_hash: bytes
    occurrence: str = "first"  # or duplicate, or conflict
    poison_reason: str = ""  # not empty: the record is no event


class LedgerBatch(NamedTuple):
    """The commit record of one flush and one log."""

    log: LogId
    topic: str
    first_offset: int
    first_index: int
    last: LedgerPosition
    rows: int
    skipped_offsets: int  # offsets lost to retention before they were read


class LedgerStore(Protocol):
    """The trail as the writer needs it. All calls raise StoreError while the store can't be reached."""

    def claim(self, logs: Mapping[LogId, str]) -> None:
        """Become the only writer of these logs (id to topic name), and of no others. Earlier claimants are refused."""

    def positions(self) -> dict[LogId, LedgerPosition]:
        """Where the ledger stands in each claimed log that has a committed flush."""

    def rows_after(self, log: LogId, log_index: int) -> dict[int, StoredRow]:
        """The rows of this log beyond the index, by log index: what a flush that did not end has left."""

    def known_events(self, event_ids: Collection[str]) -> dict[str, KnownEvent]:
        """The first record of each id that the ledger has, over all logs."""

    def bodies(self, places: Collection[tuple[LogId, int]]) -> dict[tuple[LogId, int], bytes]:
        """The value bytes of the rows at these places (log, log index)."""

    def insert(self, rows: Sequence[LedgerRow], batch_time_us: int) -> None:
        """Write rows of one schema, or poison rows. Raises RowsRefusedError where their bytes are the reason."""

    def commit(self, batches: Sequence[LedgerBatch], batch_time_us: int) -> None:
        """Write the commit records of one flush, all or none."""
