"""Whether a ledger has an outbox: as its caller says, else as the environment does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentledger.producers.outbox.outbox import Outbox
from agentledger.producers.outbox.settings import ENV_DIR, OutboxSettings, outbox_from_env, to_outbox
from agentledger.producers.publisher import KafkaRecordProducer
from agentledger.schemas.ports import RecordProducer


def open_outbox(
    given: OutboxSettings | Mapping[str, Any] | Path | str | None, producer: RecordProducer, *, environment: str
) -> Outbox | None:
    """The outbox in front of this producer, or None. A producer without a broker has one only if the caller says so.

    Raises UsageError and ConfigurationError for settings that make no sense.
    """
    if given is not None:
        settings = to_outbox(given)
    elif isinstance(producer, KafkaRecordProducer):
        settings = outbox_from_env(environment)
    else:
        settings = None
    is_named = given is not None or bool(os.environ.get(ENV_DIR))  # else nobody asked for it: it must stop nobody
    return None if settings is None else Outbox(settings, producer, is_required=is_named)
