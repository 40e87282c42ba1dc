"""What an importer yields, and how the events of one run are made so that the same content gives the same bytes.

Identity. A run's id is its natural id where that is unique (a UUID, a trace id), else its name and a digest of its
content; never its file's name. An event's id is made of the family of formats, tenant, run id, kind and place among
that kind; that of a span's event is made of trace and span (`producers.otel`), however the span came. So the same run,
read again from whatever file, gives the same ids, and changed content under an old id shows up as a conflict instead of
being counted twice. That is also what happens when a run is imported again under another `source`: the first label
stays. Another tenant is another ledger: there the run id begins with the tenant's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from agentledger.producers.json_values import short_text
from agentledger.schemas import content_id
from agentledger.schemas.events import Event

DEFAULT_TENANT = "default"
ENVIRONMENT = "imported"
TIMELESS_START_US = 946_684_800_000_000  # 2000-01-01: plainly not a real time, and the same on every import
LABEL_CHARS_MAX = 200  # labels are stored with every event of the run
FIELD_CHARS_MAX = 1000  # names and digests are far shorter; content never goes into an event
RUN_ID_CHARS_MAX = 200
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the person who imports decides. Empty text leaves a choice to the format.

    The last six name fields of `chat` records, as paths with dots (`info.reward`).
    """

    tenant_id: str = DEFAULT_TENANT
    source: str = ""
    agent_id: str = ""
    workflow: str = ""
    environment: str = ENVIRONMENT
    messages: str = "messages"
    outcome: str = ""
    run_id: tuple[str, ...] = ()
    task: str = ""
    model: str = ""
    cost: str = ""


@dataclass(frozen=True)
class ImportedRun:
    """The events of one run, in order. `natural_id` is what the source calls it."""

    run_id: str
    natural_id: str
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Unmapped:
    """Something that no event stands for, counted; `amount_nanousd` where it cost money."""

    kind: str
    count: int = 1
    example: str = ""
    amount_nanousd: int = 0


@dataclass(frozen=True)
class Rejected:
    """A file, line or record that could not be read; the rest goes on."""

    where: str
    reason: str


Item = ImportedRun | Unmapped | Rejected
Read = Callable[[Path, ImportOptions], Iterator[Item]]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What all events of a run share."""

    family: str
    natural_id: str
    agent_id: str = ""
    agent_version: str = ""
    workflow: str = ""
    trace_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class RunBuilder:
    """Makes the events of one run, numbering them as it goes."""

    def __init__(self, facts: RunFacts, options: ImportOptions, *, id_shift_us: int = 0) -> None:
        """`id_shift_us` is taken off the times in the ids, where two formats give one run times that differ by it."""
        run_id = _bounded_id(facts.natural_id)
        self.run_id = run_id if options.tenant_id == DEFAULT_TENANT else f"{options.tenant_id}/{run_id}"
        self.natural_id = facts.natural_id
        self.source = options.source
        self._facts = facts
        self._options = options
        self._id_shift_us = id_shift_us
        self._identity = hashlib.sha256(f"{options.tenant_id}\x1f{self.run_id}".encode()).hexdigest()[:32]
        self._labels = {name: short_text(value, LABEL_CHARS_MAX) for name, value in sorted(facts.labels.items())}
        self._next_seq: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._events: list[Event] = []

    def add(
        self,
        kind: type[E],
        occurred_at_us: int,
        *,
        producer: str = "",
        seq: int | None = None,
        labels: Mapping[str, str] | None = None,
        event_id: str = "",
        agent_id: str = "",
        **fields: Any,
    ) -> E:
        """The next event of the run. `producer` is given for events that only one format of a family makes.

        `seq` is given where the source numbers its records itself; it is then also the event's place. `event_id` is
        given where what it tells of has an id of its own, `agent_id` where it isn't the run's agent that acted.
        """
        producer = producer or self._facts.family
        place_key = f"{producer}\x1f{kind.__name__}"
        place = self._places.get(place_key, 0) if seq is None else seq
        self._places[place_key] = place + 1
        number = self._next_seq.get(producer, 0) if seq is None else seq
        self._next_seq[producer] = number + 1
        options, facts = self._options, self._facts
        event = kind(
            event_id=event_id
            or content_id(
                occurred_at_us - self._id_shift_us,
                "import",
                producer,
                options.tenant_id,
                self.run_id,
                kind.__name__,
                str(place),
            ),
            tenant_id=options.tenant_id,
            producer_id=f"import:{producer}:{self._identity}",
            producer_seq=number,
            run_id=self.run_id,
            step=len(self._events) if seq is None else seq,
            trace_id=facts.trace_id,
            agent_id=options.agent_id or agent_id or facts.agent_id,
            agent_version=facts.agent_version,
            workflow=options.workflow or facts.workflow,
            environment=options.environment,
            occurred_at=occurred_at_us,
            labels=self._labels | {name: short_text(value) for name, value in (labels or {}).items()},
            **{name: _bounded(value) for name, value in fields.items()},
        )
        self._events.append(event)
        return event

    def finish(self) -> ImportedRun:
        """The run with all that was added."""
        return ImportedRun(self.run_id, self.natural_id, tuple(self._events))


def _bounded(value: Any) -> Any:
    return short_text(value, FIELD_CHARS_MAX) if isinstance(value, str) and len(value) > FIELD_CHARS_MAX else value


def _bounded_id(natural_id: str) -> str:
    """The id itself, or, where it is too long for a key, its beginning and a digest."""
    if len(natural_id) <= RUN_ID_CHARS_MAX:
        return natural_id
    return f"{natural_id[:RUN_ID_CHARS_MAX]}-{hashlib.sha256(natural_id.encode()).hexdigest()[:16]}"


def iso_to_us(text: Any) -> int | None:
    """Microseconds since 1970 of an ISO time; one without a zone is taken as UTC. None where it isn't a time."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
