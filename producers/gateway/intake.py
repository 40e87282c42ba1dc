"""Events of one request: each is refused with its reason, or sent, and answered when Kafka has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from agentledger.producers.gateway.admission import ACCEPTED, Admission
from agentledger.producers.gateway.publishing import OutgoingRecord
from agentledger.producers.gateway.refusals import RefusedEventError
from agentledger.schemas.errors import CodecError
from agentledger.schemas.events import Event

ReadEvent = Callable[[Any], Event]  # raises RefusedEventError
RETRY_AFTER_S = 5


@dataclass
class Intake:
    """What became of each item of a request, in order."""

    results: list[dict[str, Any]] = field(default_factory=list)

    def count(self, status: str) -> int:
        """How many items have this status: accepted, duplicate, rejected or unanswered."""
        return sum(result["status"] == status for result in self.results)

    def http_status(self) -> int:
        """200: all are in Kafka. 207: some were rejected. 400: all were. 503: Kafka has not answered for some."""
        if self.count("unanswered"):
            return 503
        rejected = self.count("rejected")
        if not rejected:
            return 200
        return 400 if rejected == len(self.results) else 207

    def headers(self) -> dict[str, str]:
        """When to send the same again, where that helps."""
        return {"Retry-After": str(RETRY_AFTER_S)} if self.http_status() == 503 else {}

    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        counts = {status: self.count(status) for status in ("accepted", "duplicate", "rejected", "unanswered")}
        return {**counts, "results": self.results}


async def take_in(admission: Admission, items: Iterable[Any], read: ReadEvent) -> Intake:
    """Read each item, send what can be read, and wait until Kafka has answered for all of it."""
    intake = Intake()
    sending: list[tuple[dict[str, Any], OutgoingRecord]] = []
    known: dict[str, bytes] = {}
    for index, item in enumerate(items):
        result: dict[str, Any] = {"index": index}
        intake.results.append(result)
        try:
            event = read(item)
            record = _encoded(admission, event)
        except RefusedEventError as error:
            result |= {"status": "rejected", "reason": error.reason, "path": error.path, "message": str(error)}
            continue
        result["event_id"] = event.event_id
        earlier = known.setdefault(event.event_id, record.value)
        if earlier is not record.value and earlier == record.value:
            result["status"] = "duplicate"
            continue
        if earlier is not record.value:
            result |= _other_content(event)
        sending.append((result, record))
    failures = await admission.publish([record for _, record in sending])
    for (result, _), failure in zip(sending, failures, strict=True):
        result["status"] = "accepted" if failure is ACCEPTED else "unanswered"
        if failure is not ACCEPTED:
            result |= {"reason": "no_acknowledgement", "message": failure}
    _settle_duplicates(intake)
    for status in ("duplicate", "rejected"):
        admission.count_events(status, intake.count(status))
    return intake


def _encoded(admission: Admission, event: Event) -> OutgoingRecord:
    try:
        return admission.encode(event)
    except CodecError as error:
        raise RefusedEventError("too_large", "", error.what) from None


def _other_content(event: Event) -> dict[str, Any]:
    """Both are kept, as the ledger keeps every conflict: the first counts."""
    return {
        "reason": "conflicting_id",
        "path": "/event_id",
        "message": f"an earlier event of this request has the id {event.event_id} and other content: that one counts",
    }


def _settle_duplicates(intake: Intake) -> None:
    """A second copy is as safe as the first one, and no safer."""
    unanswered = {item["event_id"] for item in intake.results if item["status"] == "unanswered"}
    for result in intake.results:
        if result["status"] == "duplicate" and result["event_id"] in unanswered:
            result["status"] = "unanswered"
