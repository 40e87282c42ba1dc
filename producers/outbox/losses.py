"""What an outbox had to give up, as it is told to the ledger."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from agentledger.producers.outbox.framing import OutboxRecord

OUTBOX_FULL = "outbox_full"
DAMAGED = "damaged"
NOT_ON_DISK = "not_on_disk"


class Loss(NamedTuple):
    """Events of one producer that will not come, first and last number included.

    `reason` is what the broker said, or outbox_full, damaged, or not_on_disk. The last where it may have been lost with
    the process or the machine, from `first_seq` on: where nothing came after it, nobody knows how many, and `last_seq`
    is the same number. `run_id` is empty where it was more than one.
    """

    tenant_id: str
    producer_id: str
    first_seq: int
    last_seq: int
    reason: str
    run_id: str = ""


class OutboxOwner(Protocol):
    """Whose events an outbox keeps. Nothing here raises."""

    tenant_id: str
    producer_id: str

    def announcement_of(self, loss: Loss) -> OutboxRecord:
        """The record that tells the ledger of a loss."""

    def count_delivered(self, events: int, announcements: int) -> None:
        """So many of the owner's records were acknowledged by the broker."""

    def count_lost(self, events: int, reason: str) -> None:
        """So many of the owner's events were given up, and announced."""

    def tell(self, reason: str, what: str) -> None:
        """Pass on a problem that does not stop the agent."""
