"""What `agentledger doctor` looks at of notify: its file, its secrets, whether it runs, what it gave up."""

from __future__ import annotations

import time
from typing import Any

from agentledger.infra.doctor import NotifyFacts
from agentledger.infra.group_positions import GroupPositions
from agentledger.infra.settings import Settings
from agentledger.schemas.errors import ConfigurationError, MissingLibraryError
from agentledger.schemas.topics import ALERTS
from agentledger.sinks.notify.settings import NotifyFile, NotifyFileError, read_notify_file
from agentledger.sinks.notify.state import is_in_use, read_positions, read_status
from agentledger.sinks.topic_ids import topic_id

DAY_US = 86_400_000_000


def notify_facts(settings: Settings) -> NotifyFacts:
    """What is known of notify on this machine."""
    if settings.notify_file is None:
        return NotifyFacts(has_file=False)
    try:
        file = read_notify_file(settings.notify_file.expanduser())
    except NotifyFileError as error:
        return NotifyFacts(has_file=True, problem=str(error))
    missing = _missing(file)
    path = settings.notify_state_path()
    if not path.exists():
        return NotifyFacts(has_file=True, missing=missing)
    _, given_up, waiting = read_status(path)
    since_us = time.time_ns() // 1000 - DAY_US
    lately = sum(lost["at_us"] > since_us for lost in given_up)
    return NotifyFacts(True, missing=missing, runs=is_in_use(path), given_up_lately=lately, waiting_events=waiting)


def _missing(file: NotifyFile) -> str:
    """The first secret or library that isn't here; empty where all are."""
    try:
        from agentledger.sinks.notify.channels import open_channels  # noqa: PLC0415 - doctor runs without its libraries

        open_channels(file.channels)
    except ModuleNotFoundError as error:
        return str(MissingLibraryError(error.name or "a library", "notify"))
    except (ConfigurationError, MissingLibraryError) as error:
        return str(error)
    return ""


def notify_lag_s(settings: Settings, kafka: dict[str, Any]) -> float:
    """The age of the oldest alert that notify hasn't read, seconds. Raises BrokerError, ConfigurationError."""
    read = read_positions(settings.notify_state_path(), topic_id(kafka, ALERTS.name, settings.kafka_instance))
    positions = GroupPositions(kafka)
    ages = [
        positions.age_s(ALERTS.name, partition, read.get(partition, first), end)
        for partition, (first, end) in positions.ends(ALERTS.name).items()
    ]
    return max(ages, default=0.0)
