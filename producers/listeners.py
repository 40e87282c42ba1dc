"""What a ledger has beside its events, made from what its caller gave: control, holds, payloads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from agentledger.producers.control import Control, ControlSettings, control_from_env, to_control
from agentledger.producers.emitter import Emitter
from agentledger.producers.hold_client import HOLD_RECORDS, SUFFIX, DecisionFeed, HoldClient
from agentledger.producers.holds import HoldSettings, to_holds
from agentledger.producers.payloads import PAYLOAD_RECORDS, Payloads
from agentledger.producers.payloads import SUFFIX as SUFFIX_OF_PAYLOADS
from agentledger.producers.publisher import KafkaRecordProducer
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import UsageError
from agentledger.schemas.ports import Clock, PriceBook, RecordProducer, SchemaRegistry

# Holds have a client of their own: a call waits for the answer, so a request neither lingers to be batched nor queues
# behind the events of an outage. A single small record gains nothing by compression, and who decides can't read lz4.
PROMPT = {"linger.ms": 0, "compression.type": "none"}


def open_control(
    given: ControlSettings | Mapping[str, Any] | str | None, producer: RecordProducer, *, tenant_id: str, codec: Codec,
    clock: Clock, tell: Callable[[str, str], None],
) -> Control | None:  # fmt: skip
    """Control of a ledger with this producer; None where it is off, as it is by default without a broker.

    Raises UsageError for settings that make no sense.
    """
    kafka = reach(producer)
    if given is None:
        given = "off" if kafka is None else control_from_env()
    settings = to_control(given)
    if settings is None:
        return None
    return Control(settings, tenant_id=tenant_id, codec=codec, clock=clock, kafka=kafka, tell=tell)


def open_holds(
    given: HoldSettings | Mapping[str, Any] | None, producer: RecordProducer, registry: SchemaRegistry, *,
    events: Emitter, codec: Codec, prices: Callable[[], PriceBook], control: Control | None,
) -> HoldClient | None:  # fmt: skip
    """The hold client beside this emitter of events; None without settings. Raises UsageError; also without broker.

    What budgets were declared with comes over the control topic: where `control` is off, the client reads it itself.
    """
    settings = to_holds(given)
    if settings is None:
        return None
    kafka, feed = reach(producer), producer if isinstance(producer, DecisionFeed) else None
    if kafka is None and feed is None:
        raise UsageError(
            "holds need somebody who decides on them",
            next_step="leave producer= out, or give schemas.testing.hold_decider.FakeHoldDecider()",
        )
    own = None if kafka is None else KafkaRecordProducer({**kafka, **PROMPT})
    emitter = Emitter(
        producer if own is None else own, registry, tenant_id=events.tenant_id, clock=events.now_us,
        on_problem=events.on_problem, records=HOLD_RECORDS, suffix=SUFFIX,
    )  # fmt: skip

    def warm_up() -> None:
        with contextlib.suppress(Exception):  # who can't be priced is told so by the call
            prices()

    declared = control
    if declared is None and kafka is not None:
        declared = Control(
            ControlSettings(),
            tenant_id=events.tenant_id,
            codec=codec,
            clock=events.now_us,
            kafka=kafka,
            tell=events.tell,
        )
    return HoldClient(
        settings, emitter=emitter, codec=codec, kafka=kafka, feed=feed, declared=declared, warm_up=warm_up,
        on_close=(lambda: None) if own is None else own.close,
    )  # fmt: skip


def open_payloads(producer: RecordProducer, registry: SchemaRegistry, *, events: Emitter) -> Payloads:
    """What sends payloads beside this emitter of events, over the same connection, in numbers of their own."""
    emitter = Emitter(
        producer, registry, tenant_id=events.tenant_id, clock=events.now_us, on_problem=events.on_problem,
        records=PAYLOAD_RECORDS, suffix=SUFFIX_OF_PAYLOADS,
    )  # fmt: skip
    return Payloads(emitter)


def reach(producer: RecordProducer) -> Mapping[str, Any] | None:
    """librdkafka's settings of a producer with a broker; None for one without."""
    return producer.config if isinstance(producer, KafkaRecordProducer) else None
