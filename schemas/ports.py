"""The ports: what a stage needs from outside. Each has a shipped fake in `agentledger.schemas.testing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from agentledger.schemas.api_keys import ApiKey

Clock = Callable[[], int]  # microseconds since 1970, UTC

# Called once per record, with None or what went wrong, and the value: so that one function serves for all records.
DeliveryReport = Callable[[str | None, bytes], None]


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


class Charge:
    """What a call costs, in nano-dollars; input and output share add up to the whole. Names are the price book's.

    The shares of cache reads and writes are parts of the input share, that of reasoning is a part of the output share.
    """

    __slots__ = (
        "cache_read_cost_nanousd", "cache_write_cost_nanousd", "cost_nanousd", "input_cost_nanousd", "model",
        "output_cost_nanousd", "provider", "reasoning_cost_nanousd",
    )  # fmt: skip

    def __init__(
        self,
        provider: str,
        model: str,
        *,
        cost_nanousd: int,
        input_cost_nanousd: int,
        output_cost_nanousd: int,
        cache_read_cost_nanousd: int = 0,
        cache_write_cost_nanousd: int = 0,
        reasoning_cost_nanousd: int = 0,
    ) -> None:
        self.provider = provider
        self.model = model
        self.cost_nanousd = cost_nanousd
        self.input_cost_nanousd = input_cost_nanousd
        self.output_cost_nanousd = output_cost_nanousd
        self.cache_read_cost_nanousd = cache_read_cost_nanousd
        self.cache_write_cost_nanousd = cache_write_cost_nanousd
        self.reasoning_cost_nanousd = reasoning_cost_nanousd

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Charge) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())

    def _facts(self) -> tuple[str | int, ...]:
        return (
            self.provider, self.model, self.cost_nanousd, self.input_cost_nanousd, self.output_cost_nanousd,
            self.cache_read_cost_nanousd, self.cache_write_cost_nanousd, self.reasoning_cost_nanousd,
        )  # fmt: skip


class Tariff(NamedTuple):
    """What one token of each kind costs, and one request; in billionths of a nano-dollar."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    request: int


class ListedPrice(NamedTuple):
    """A price as a book lists it: for a service tier (empty: standard) and prompts of more tokens than `above`."""

    provider: str
    model: str
    tier: str
    above: int
    tariff: Tariff
    source: str
    version: str


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
        """What this usage cost at that time (microseconds since 1970).

        The time is that of the call: the agent's clock, but never later than the broker's.
        """

    def tool_cost(self, tool: str, *, at_us: int) -> int | None:
        """What one call of this tool cost at that time, nano-dollars; None where the book has no price for it."""

    def human_cost(self, human_ms: int, *, at_us: int) -> int | None:
        """What that much of a person's time cost then, nano-dollars, rounded; None where the book has no rate."""

    def listed(self, provider: str, model: str, *, at_us: int) -> list[ListedPrice]:
        """Every price of the model at that time, by tier and size of the prompt; empty where it has none."""


class SubjectKey(NamedTuple):
    """The key of one data subject of a tenant. `key_id` is 32 random hex digits."""

    key_id: str
    key: bytes


class SubjectKeys(Protocol):
    """Keeps the keys of data subjects, and destroys them. Raises StoreError where it can't be reached."""

    def key_for(self, tenant_id: str, subject: str) -> SubjectKey:
        """The subject's key; made where it has none, or none any more. Two who ask at once get the same."""

    def key_of(self, key_id: str) -> bytes | None:
        """The key of this id; None where it was destroyed or never was."""

    def key_id_of(self, tenant_id: str, subject: str) -> str | None:
        """The id of the subject's key; None where it has none. Makes none."""

    def erase(self, tenant_id: str, subject: str) -> str | None:
        """Destroy the subject's key for good; its id, or None where there was none. Returns when it is gone."""


class ApiKeys(Protocol):
    """Keeps API keys, without their secrets. Raises StoreError where it can't be read or written."""

    def find(self, key_id: str) -> ApiKey | None:
        """The key of this id."""

    def listed(self) -> list[ApiKey]:
        """Every key, oldest first."""

    def change(self, edit: Callable[[dict[str, ApiKey]], None]) -> None:
        """Let `edit` change the keys by id, and keep the result; nothing is kept where it raises."""
