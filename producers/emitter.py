"""One process's stream of events: who emits, in which order, and what became of each. Never raises."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from agentledger.producers.bounds import EVENT_BYTES_SOFT, clean_body, clean_text, clean_texts_of
from agentledger.producers.delivery import DeliveryCounters, EmitProblem, Gap, GapList
from agentledger.producers.envelope import RecordKind, RunEnvelope, record_kind, seq_and_run_of
from agentledger.producers.event_ids import new_event_id
from agentledger.producers.outbox import Outbox
from agentledger.producers.outbox.framing import ANNOUNCEMENT, EVENT, OutboxRecord
from agentledger.producers.outbox.losses import Loss
from agentledger.producers.quiet_log import quiet_logger
from agentledger.schemas.encoding import encode_text
from agentledger.schemas.events import GapDetected
from agentledger.schemas.ports import Clock, RecordProducer, SchemaRegistry
from agentledger.schemas.topics import EVENT_BYTES_MAX

OnProblem = Callable[[EmitProblem], None]
# Every record that an SDK emits: their schema ids are asked for at the start, so that emitting never asks a registry.
SDK_RECORDS = (
    "ApprovalDecided", "ApprovalRequested", "EvidenceRetrieved", "GapDetected", "ModelCallCompleted",
    "OutcomeRecorded", "PolicyDecided", "RunFinished", "RunStarted", "StateChanged", "ToolCallCompleted",
    "ValidationCompleted",
)  # fmt: skip
GAPS_AT_ONCE = 20  # announcements per emit or report: a long outage's worth must not delay one call
SETTLE_SECONDS = 0.002
# What a record's fields need besides their own: the emitter writes the envelope.
BLANK_ENVELOPE: dict[str, Any] = {
    "event_id": "", "tenant_id": "", "producer_id": "", "producer_seq": 0, "run_id": "", "occurred_at": 0,
}  # fmt: skip

_log = quiet_logger("agentledger.producers")


def log_problem(problem: EmitProblem) -> None:
    """Say it in the log, at most one line a minute."""
    _log.warning("%s: %s", problem.reason, problem.what)


class Emitter:
    """Numbers, encodes and queues events of one tenant; counts what became of them and announces what was lost.

    Raises SchemaError at construction where the registry doesn't give the ids. After a fork the child is a producer of
    its own, with its own ids and counts. Events on another topic than those of runs are numbered by an emitter of their
    own, with a `suffix` to its producer id: a hole in one stream says nothing of the other. `clean` is given every
    free text of an event and gives what may leave of it.

    With an `outbox` each event is in it before `emit` returns, and the outbox sends it. Raises ConfigurationError then
    where the outbox can't be made.
    """

    def __init__(
        self,
        producer: RecordProducer,
        registry: SchemaRegistry,
        *,
        tenant_id: str,
        clock: Clock,
        on_problem: OnProblem = log_problem,
        records: Sequence[str] = SDK_RECORDS,
        suffix: str = "",
        outbox: Outbox | None = None,
        clean: Callable[[str], str] | None = None,
    ) -> None:
        self._producer = producer
        self._outbox = outbox
        self._clock = clock
        self.on_problem = on_problem
        self._suffix = suffix
        self._clean = clean
        self.tenant_id = clean_text(tenant_id, 512)
        self._tenant = encode_text(self.tenant_id)
        self.kinds: dict[str, RecordKind] = {name: record_kind(name, registry) for name in records}
        self._report = self._on_delivery  # one object for all records: one of each would wait in memory with it
        self._begin()
        if outbox is not None:
            outbox.attach(self)
        _emitters.add(self)

    def _begin(self) -> None:
        self.producer_id = f"{clean_text(socket.gethostname(), 64)}-{os.getpid()}-{secrets.token_hex(4)}{self._suffix}"
        self._identity = self._tenant + encode_text(self.producer_id)
        # Announcements are numbered by themselves: they travel on another topic, and a hole there means nothing here.
        self._announcer = f"{self.producer_id}:gaps"
        self._lock = threading.Lock()
        self._announcing = threading.Lock()
        self._next_seq = 0
        self._next_gap_seqs: dict[str, int] = {}  # by tenant: an outbox may tell of another one's losses
        self._delivered = 0
        self._failed = 0
        self._dropped: dict[str, int] = {}
        self._gaps = GapList()
        self._gaps_announced = 0

    def emit(  # noqa: PLR0917 - called for each event: keywords would cost more than the lock
        self,
        kind: RecordKind,
        envelope: RunEnvelope,
        body: Any,
        event_id: str,
        parent_event_id: str | None,
        span_id: str | None,
        occurred_at: int,
    ) -> bool:
        """Queue one event of a run; whether it was. What wasn't is counted and announced. Without a `span_id` it is
        the event's own.

        Never raises, and waits only for room in an outbox that blocks.
        """
        taken = False
        with self._lock:
            seq = self._next_seq
            self._next_seq = seq + 1
            step = envelope.next_step
            envelope.next_step = step + 1
        try:
            if self._clean is not None:
                clean_texts_of(kind.name, body, self._clean)
            identity, encode = self._identity, kind.encode
            try:
                value = encode(body, identity, seq, envelope, step, event_id, parent_event_id, span_id, occurred_at)
            except Exception:  # noqa: BLE001 - a field of the wrong type or with a lone surrogate: mended below
                value = b""
            if not value or len(value) > EVENT_BYTES_SOFT:
                clean_body(kind.name, body)
                value = encode(body, identity, seq, envelope, step, event_id, parent_event_id, span_id, occurred_at)
            if len(value) > EVENT_BYTES_MAX:
                self._drop(seq, "too_large", envelope.run_id, f"a {kind.name} of {len(value)} bytes")
            elif self._outbox is not None and self._outbox.is_open():
                taken = self._outbox.append(OutboxRecord(EVENT, seq, kind.topic, envelope.key, value))
                if not taken:
                    self._drop(seq, "outbox_full", envelope.run_id, "the outbox is full, or closed")
                    return False  # so there is no room for an announcement either
            elif not self._producer.send(kind.topic, envelope.key, value, self._report):
                self._drop(seq, "queue_full", envelope.run_id, "the queue to Kafka is full")
                return False
            else:
                taken = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent goes on and the event is accounted for
            self._drop(seq, "rejected", envelope.run_id, f"a {kind.name} was not taken: {error!r}")
        if self._gaps:
            self._announce_gaps()
        return taken

    @property
    def counters(self) -> DeliveryCounters:
        """What became of the events so far."""
        with self._lock:
            dropped = dict(self._dropped)
            waiting = self._next_seq - self._delivered - self._failed - sum(dropped.values())
            return DeliveryCounters(
                self._next_seq, self._delivered, self._failed, dropped, waiting,
                self._gaps_announced, len(self._gaps) + self._gaps.lost_count,
            )  # fmt: skip

    def now_us(self) -> int:
        """Microseconds since 1970, by the ledger's clock."""
        return self._clock()

    def flush(self, timeout_s: float) -> int:
        """Wait until everything was delivered or given up, gaps announced; the count of events still waiting."""
        end = time.monotonic() + timeout_s
        while True:
            self._announce_gaps()
            if self._outbox is not None:
                waiting = not self._outbox.flush(max(0.0, end - time.monotonic()))
            else:
                waiting = self._producer.flush(max(0.0, end - time.monotonic())) > 0
            left = self.counters.waiting
            if (not waiting and not left and not self._gaps) or time.monotonic() >= end:
                return left
            time.sleep(SETTLE_SECONDS)  # reports are being served by another thread

    def tell(self, reason: str, what: str) -> None:
        """Pass a problem on to whoever listens; a listener that raises is ignored."""
        with contextlib.suppress(Exception):  # a broken listener is no reason to stop an agent
            self.on_problem(EmitProblem(reason, what))

    def _on_delivery(self, error: str | None, value: bytes) -> None:
        if error is None:
            with self._lock:
                self._delivered += 1
            if self._gaps:
                self._announce_gaps()
            return
        with self._lock:
            self._failed += 1
        seq, run_id = seq_and_run_of(value, len(self._identity))
        self._gaps.add(seq, _reason_of(error), run_id)
        self.tell("not_delivered", error)

    def _drop(self, seq: int, reason: str, run_id: str, what: str) -> None:
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + 1
        self._gaps.add(seq, reason, run_id)
        self.tell(reason, what)

    def _announce_gaps(self) -> None:
        """Send GapDetected for what was lost, as far as there is room. Never raises."""
        if not self._announcing.acquire(blocking=False):
            return  # another thread is at it, or a report came back while this one sends
        try:
            for _ in range(GAPS_AT_ONCE):
                gap = self._gaps.take()
                if gap is None or not self._announce(gap):
                    return
        except Exception as error:  # noqa: BLE001 - an announcement must not stop an agent either
            self.tell("gap_not_announced", repr(error))
        finally:
            self._announcing.release()

    def announcement_of(self, loss: Loss) -> OutboxRecord:
        """GapDetected for events that will not come, of this producer or of one that is gone."""
        with self._lock:
            seq = self._next_gap_seqs.get(loss.tenant_id, 0)
            self._next_gap_seqs[loss.tenant_id] = seq + 1
        now_us = self._clock()
        body = GapDetected(
            **BLANK_ENVELOPE,
            gap_producer_id=loss.producer_id,
            first_missing_seq=loss.first_seq,
            last_missing_seq=loss.last_seq,
            reason=loss.reason,
            detected_by=self.producer_id,
        )
        kind = self.kinds["GapDetected"]
        identity = encode_text(loss.tenant_id) + encode_text(self._announcer)
        value = kind.encode(body, identity, seq, RunEnvelope(loss.run_id), 0, new_event_id(now_us), None, "", now_us)
        return OutboxRecord(ANNOUNCEMENT, seq, kind.topic, self.producer_id.encode(), value)

    def count_delivered(self, events: int, announcements: int) -> None:
        """The outbox has had so many records acknowledged."""
        with self._lock:
            self._delivered += events
            self._gaps_announced += announcements

    def count_lost(self, events: int, reason: str) -> None:
        """The outbox has given up so many events, and announced them."""
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + events
        self.tell(reason, f"{events} events were lost from the outbox, which the ledger is told")

    def _announce(self, gap: Gap) -> bool:
        record = self.announcement_of(
            Loss(self.tenant_id, self.producer_id, gap.first_seq, gap.last_seq, gap.reason, gap.run_id)
        )
        if self._outbox is not None and self._outbox.is_open():
            taken = self._outbox.append(record)
        else:
            taken = self._producer.send(record.topic, record.key, record.value, partial(self._on_announced, gap))
        if not taken:
            with self._lock:
                if self._next_gap_seqs[self.tenant_id] == record.seq + 1:  # nobody has taken the next number yet
                    self._next_gap_seqs[self.tenant_id] = record.seq
            self._gaps.put_back(gap, failed=False)
        return taken

    def _on_announced(self, gap: Gap, error: str | None, _: bytes) -> None:
        if error is not None:
            self._gaps.put_back(gap, failed=True)
            return
        with self._lock:
            self._gaps_announced += 1


_emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()


def _begin_in_child() -> None:
    for emitter in list(_emitters):
        emitter._begin()
        if emitter._outbox is not None:
            emitter._outbox.forget_parent()


os.register_at_fork(after_in_child=_begin_in_child)


def _reason_of(error: str) -> str:
    """GapDetected's reason for what the broker or librdkafka said."""
    if "TOO_LARGE" in error:
        return "too_large"
    return "expired" if "TIMED_OUT" in error or "PURGE" in error else "rejected"
