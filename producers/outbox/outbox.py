"""The outbox of one process: what is appended is kept on disk until Kafka has it, also for those that are gone."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

from agentledger.producers.outbox.backlog import Backlog
from agentledger.producers.outbox.disk import OutboxDisk, RealDisk
from agentledger.producers.outbox.framing import OutboxRecord
from agentledger.producers.outbox.instances import Instance, Owner, make_instance, remove_instance, take_over
from agentledger.producers.outbox.losses import Loss, OutboxOwner
from agentledger.producers.outbox.orphans import Orphan
from agentledger.producers.outbox.segments import SegmentFolder
from agentledger.producers.outbox.settings import OutboxSettings
from agentledger.producers.outbox.writer import DISK_RETRY_S, OutboxWriter
from agentledger.schemas.errors import AgentledgerError, ConfigurationError
from agentledger.schemas.ports import RecordProducer

IDLE_S = 1.0  # between two looks of a thread that nobody wakes
GATHER_S = 0.005  # what is appended meanwhile is sent in one go; the client waits longer than that for a batch
LOOK_S = 60.0  # between two looks for outboxes whose processes are gone
ORPHANS_MAX = 16  # taken over at a time: each has files open
JOIN_S = 5.0
SETTLE_S = 0.002
# What is wrong with a disk today and may not be tomorrow: no reason for an agent not to start.
_MAY_PASS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE})


class Outbox:
    """Keeps records of its owner until the broker has acknowledged them, and sends them in order by its own thread.

    `append` is safe for threads. After a fork the child's outbox is another one, made with its first record. Without
    `is_threaded` whoever uses it calls `turn`, as tests do. Where it is not `is_required`, an owner does without it as
    long as its folder can't be used.
    """

    def __init__(
        self, settings: OutboxSettings, producer: RecordProducer, *, disk: OutboxDisk | None = None,
        seconds: Callable[[], float] = time.monotonic, is_threaded: bool = True, is_required: bool = True,
    ) -> None:  # fmt: skip
        self.settings = settings
        self._is_required = is_required
        self.recovered = 0  # events of others that were sent from here
        self._producer = producer
        self._disk = disk or RealDisk()
        self._seconds = seconds
        self._is_threaded = is_threaded
        self._owner: OutboxOwner | None = None
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._own: _OwnOutbox | None = None
        self.orphans: list[Orphan] = []
        self._opening = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._all_taken = False
        self._look_at = self._open_at = float("-inf")

    def attach(self, owner: OutboxOwner) -> None:
        """Keep this owner's records from now on. Raises ConfigurationError where the folder can't be used."""
        self._owner = owner
        try:
            self._open(owner)
        except OSError as error:
            if self._is_required and error.errno not in _MAY_PASS:
                raise ConfigurationError(
                    f"the outbox can't be made: {error}",
                    where=str(self.settings.folder),
                    next_step="name another folder, or say off, in AGENTLEDGER_OUTBOX_DIR or Ledger(outbox=…)",
                ) from None
            self._try_later(error)

    def is_open(self) -> bool:
        """Whether records can be kept; makes the folder where that failed before, or after a fork. Never raises."""
        if self._own is None and self._owner is not None and self._seconds() >= self._open_at:
            try:
                self._open(self._owner)
            except OSError as error:
                self._try_later(error)
        return self._own is not None

    def append(self, record: OutboxRecord) -> bool:
        """Keep a record; whether it was. Waits only as the policy `block` says."""
        own = self._own
        if own is None:
            return False
        taken = own.writer.append(record)
        if not self._wake.is_set():
            self._wake.set()
        return taken

    def _open(self, owner: OutboxOwner) -> None:
        with self._opening:
            if self._own is None and not self._is_closed:
                self._own = _OwnOutbox(
                    self._disk, self.settings, owner, self._producer, wake=self._wake.set, seconds=self._seconds
                )
                self._wake.set()  # others may have left something
                self._start()

    def _try_later(self, error: OSError) -> None:
        self._open_at = self._seconds() + DISK_RETRY_S
        self._tell("outbox_disk", f"the outbox can't be made, events wait in memory alone: {error}")

    def turn(self) -> None:
        """Send what can be sent, take note of what arrived, and look after outboxes whose processes are gone."""
        own, owner = self._own, self._owner
        if own is None or owner is None:
            return
        delivered = own.backlog.turn()
        if any(delivered):
            owner.count_delivered(delivered.events, delivered.announcements)
        own.writer.sync_if_due()
        if self._seconds() >= self._look_at:
            self._look_at = self._seconds() + LOOK_S
            self._take_over(own)
        for orphan in list(self.orphans):
            self.recovered += orphan.turn().events
            if orphan.finish():
                self.orphans.remove(orphan)
                self._look_at = self._look_at if self.orphans else float("-inf")
        self._hold_bound(own)

    def flush(self, timeout_s: float, *, with_orphans: bool = False) -> bool:
        """Wait until the broker has everything of this process, or of all that are gone, too; whether it has."""
        end = time.monotonic() + timeout_s
        while True:
            if not self._is_threaded:
                self.turn()
            self._wake.set()
            self._producer.flush(0 if self._own is None else min(0.1, max(0.0, end - time.monotonic())))
            own = self._own
            is_done = own is None or own.is_sent()
            if is_done and (not with_orphans or (self._all_taken and not self.orphans)):
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(SETTLE_S)

    def close(self) -> None:
        """Stop sending. What the broker doesn't have yet stays, for the next process of this host."""
        self._is_closed = True
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        for orphan in self.orphans:
            orphan.close()
        own, self._own, self.orphans = self._own, None, []
        if own is not None:
            own.close()

    def forget_parent(self) -> None:
        """In a forked child: give the parent's handles back, which releases no lock of its, and begin anew."""
        own, orphans = self._own, self.orphans
        self._begin()
        if own is not None:
            own.forget()
        for orphan in orphans:
            orphan.forget()

    def _start(self) -> None:
        if self._is_threaded:
            self._thread = threading.Thread(target=self._run, name="agentledger-outbox", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(IDLE_S)
            self._stop.wait(GATHER_S)
            self._wake.clear()
            try:
                self.turn()
            except Exception as error:  # noqa: BLE001 - whatever it is: nobody else sends what is kept here
                self._tell("outbox_disk", f"the outbox could not be read: {type(error).__name__}: {error}")
                self._stop.wait(IDLE_S)

    def _take_over(self, own: _OwnOutbox) -> None:
        self._all_taken = False
        paths = {own.instance.path, *(orphan.instance.path for orphan in self.orphans)}
        taken = take_over(self._disk, self.settings.folder, except_for=paths, count_max=ORPHANS_MAX)
        for instance in taken:
            try:
                self.orphans.append(
                    Orphan(
                        self._disk, instance, self._producer, announce=own.announce_surely,
                        keep=own.writer.append_surely,
                        wake=self._wake.set, seconds=self._seconds,
                    )
                )  # fmt: skip
            except (OSError, AgentledgerError) as error:
                self._tell("outbox_disk", f"an outbox could not be taken over: {error}")
                instance.close()
        self._all_taken = len(taken) < ORPHANS_MAX

    def _hold_bound(self, own: _OwnOutbox) -> None:
        """What was taken over counts for the bound, too; its oldest segments go first."""
        if self.settings.when_full != "drop_oldest":
            return
        for orphan in self.orphans:
            waiting = own.segments.bytes_waiting + sum(each.segments.bytes_waiting for each in self.orphans)
            while waiting > self.settings.bytes_max:
                before = orphan.segments.bytes_waiting
                if not orphan.drop_oldest():
                    break
                waiting -= before - orphan.segments.bytes_waiting

    def _tell(self, reason: str, what: str) -> None:
        if self._owner is not None:
            self._owner.tell(reason, what)


class _OwnOutbox:
    """This process's own folder: its writer, and the backlog that follows it."""

    def __init__(
        self, disk: OutboxDisk, settings: OutboxSettings, owner: OutboxOwner, producer: RecordProducer, *,
        wake: Callable[[], None], seconds: Callable[[], float],
    ) -> None:  # fmt: skip
        self._disk = disk
        self._owner = owner
        names = Owner(
            tenant_id=owner.tenant_id, producer_id=owner.producer_id, pid=os.getpid(), boot_id=disk.boot_id(),
            fsync=settings.fsync,
        )  # fmt: skip
        self.instance: Instance = make_instance(disk, settings.folder, names)
        self.segments = SegmentFolder(disk, self.instance.path)
        self.writer = OutboxWriter(settings, self.segments, self.instance.position_file, owner, seconds)
        self.backlog = Backlog(
            self.writer, self.writer.position, producer, lose=self._lose, wake=wake, seconds=seconds, is_growing=True
        )  # fmt: skip

    def announce(self, loss: Loss) -> bool:
        """Keep the record that tells of a loss; whether that was possible."""
        return self.writer.append(self._owner.announcement_of(loss))

    def announce_surely(self, loss: Loss) -> bool:
        """The same of another outbox, which may be removed then."""
        if self.segments.bytes_in_memory:
            return False  # before it takes a number
        return self.writer.append_surely(self._owner.announcement_of(loss))

    def is_sent(self) -> bool:
        """Whether the broker has everything."""
        return self.writer.is_sent(self.backlog.acked)

    def close(self) -> None:
        """Remove the folder where nothing is left, else leave it synced."""
        self.backlog.turn()
        self.backlog.close()
        if self.is_sent():
            self.segments.close()
            try:
                remove_instance(self._disk, self.instance)
            except OSError as error:
                self._owner.tell("outbox_disk", f"an empty outbox was not removed: {error}")
                self.instance.close()
            return
        self.writer.end(self.backlog.acked)
        self.instance.close()

    def forget(self) -> None:
        """Give the handles back and write nothing, as in a forked child."""
        self.backlog.close()
        self.segments.close()
        self.instance.close()

    def _lose(self, first_seq: int, last_seq: int, reason: str, run_id: str) -> bool:
        owner = self._owner
        if not self.announce(Loss(owner.tenant_id, owner.producer_id, first_seq, last_seq, reason, run_id)):
            return False
        owner.count_lost(last_seq - first_seq + 1, reason)
        return True
