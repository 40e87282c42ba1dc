"""The signer: reads the logs back from ClickHouse and signs their heads, but only what extends what it signed before.

One step looks at what is published, then at the ledger, signs the heads that have grown, and publishes them. Nothing is
signed twice over: the place outside takes one bundle per name, so of two signers one is first, and the other checks
that bundle against the ledger and goes on behind it. A crash between publishing and saving is the same case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentledger.schemas.checkpoints import Checkpoint
from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError, ProofError
from agentledger.schemas.heads import Bundle, Head, HeadsLog, KeyLine, Leaf, LogId, TopicLine
from agentledger.schemas.merkle import hash_leaf
from agentledger.schemas.notes import SignerKey, encode_base64, sign_note
from agentledger.schemas.ports import Clock
from agentledger.sinks.checkpoint_places import CheckpointPlace
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.leaves import READ_LEAVES_MAX, LeafReader, StoredLog
from agentledger.sinks.signer_state import SignedLog, SignerState

HEARTBEAT_US = 60_000_000  # an idle ledger is signed once a minute: ticks and checkpoints alone are no reason to sign
UNCHANGED_LOOK_EVERY = 20  # steps between two looks at the last signed row of a log that doesn't grow

NEXT_STEP = "nothing is signed until it is as it was: keep the database as it is, and run agentledger verify --all"


class Signer:
    """One signer on one ledger. `save` is called with each new state; it returns when that is durable."""

    def __init__(
        self,
        reader: LeafReader,
        place: CheckpointPlace,
        keys: KeyFolder,
        *,
        state: SignerState,
        save: Callable[[SignerState], None],
        clock: Clock,
        accepted_topic_ids: Sequence[str] = (),
    ) -> None:
        self._reader = reader
        self._place = place
        self._keys = keys
        self.state = state
        self._save = save
        self._clock = clock
        self._accepted = frozenset(accepted_topic_ids)
        self._steps = 0

    def step(self) -> Bundle | None:
        """Sign what has grown; the bundle that was published, or None. Raises IntegrityError where the ledger isn't
        what was signed, StoreError where something can't be reached: then nothing was signed."""
        self._check_place()
        self._adopt()
        leaves, logs = self._grown()
        if not leaves:
            return None
        bundle, heads = self._sign(leaves)
        if not self._place.publish(bundle.first, bundle.text()):
            return None  # another signer was first: the next step goes on behind its bundle
        self._go_on(bundle, heads, logs)
        return bundle

    def _check_place(self) -> None:
        """The last bundle must still be where it was published."""
        if self.state.last_text and self._place.read(self.state.last_first) != self.state.last_text:
            raise IntegrityError(
                f"the published checkpoint from leaf {self.state.last_first} on was changed or removed",
                next_step="restore it from a copy, and find out who can write there",
            )

    def _adopt(self) -> None:
        """Go on behind what is published and not yet in the state: of another signer, or of this one before a crash."""
        while (text := self._place.read(self.state.heads.tree.behind)) is not None:
            heads = self.state.heads.copy()
            where = f"published checkpoint from leaf {heads.tree.behind} on"
            try:
                bundle = Bundle.parse(text)
                leaves = heads.follow(bundle)
            except ProofError as error:
                raise IntegrityError(str(error), where=where, next_step=NEXT_STEP) from None
            strangers = [key for key in heads.keys if key not in self._keys.public()]
            if strangers:
                raise IntegrityError(
                    f"key {strangers[0].key_id.hex()}, which signed it, is none of ours",
                    where=where,
                    next_step=NEXT_STEP,
                )
            logs = dict(self.state.logs)
            for leaf in leaves:
                if isinstance(leaf, Head):
                    logs[leaf.log] = self._read_up_to(leaf, logs.get(leaf.log))
            self._go_on(bundle, heads, logs)

    def _read_up_to(self, head: Head, signed: SignedLog | None) -> SignedLog:
        stored = self._reader.logs().get(head.log)
        if stored is None or stored.size < head.size:
            raise _rolled_back(head, 0 if stored is None else stored.size)
        grown = self._extended(head.log, signed, head.size, stored)
        if grown.tree.root() != head.root:
            raise IntegrityError(
                f"rows below index {head.size} are not those that were signed: root {encode_base64(head.root)} was, "
                f"{encode_base64(grown.tree.root())} is there",
                where=_where(head), next_step=NEXT_STEP,
            )  # fmt: skip
        return grown

    def _grown(self) -> tuple[list[Leaf], dict[LogId, SignedLog]]:
        """The leaves to sign now, and the logs as they are then."""
        stored = self._reader.logs()
        for head in self.state.heads.heads.values():
            _check_stored(head, stored.get(head.log))
        at_us = max(self._clock(), self.state.heads.at_us)
        look_at_all = self._steps % UNCHANGED_LOOK_EVERY == 0
        self._steps += 1
        leaves = self._key_lines(at_us)
        logs = dict(self.state.logs)
        is_news = bool(leaves) or at_us - self.state.heads.at_us >= HEARTBEAT_US
        for log, found in sorted(stored.items(), key=lambda item: (item[1].topic, item[0])):
            signed = self.state.logs.get(log)
            if signed is not None and found.size == signed.tree.behind:
                if look_at_all:
                    self._extended(log, signed, found.size, found)
                continue
            if log not in self.state.heads.heads and not self._is_announced(found.topic, log.topic_id, leaves):
                leaves.append(TopicLine(found.topic, log.topic_id, at_us))
            logs[log] = self._extended(log, signed, found.size, found)
            leaves.append(Head(found.topic, log, found.size, logs[log].tree.root(), at_us))
            signed_size, signed_us = (signed.tree.behind, signed.ledger_time_us) if signed is not None else (0, 0)
            is_news = is_news or self._reader.has_news(log, signed_size, found.size, signed_us)
        return (leaves, logs) if is_news and leaves else ([], logs)

    def _is_announced(self, topic: str, topic_id: str, leaves: Sequence[Leaf]) -> bool:
        """Whether the topic id is part of the ledger. Raises IntegrityError where the topic has another one."""
        known = self.state.heads.topics.get(topic)
        if any(isinstance(leaf, TopicLine) and (leaf.topic, leaf.topic_id) == (topic, topic_id) for leaf in leaves):
            return True
        if known is not None and known != topic_id and topic_id not in self._accepted:
            raise IntegrityError(
                f"topic {topic} has the id {topic_id}, but {known} was signed: it was deleted and made again",
                next_step=f"if that was meant, start the signer once with --accept-topic-id {topic_id}",
            )
        return known == topic_id

    def _key_lines(self, at_us: int) -> list[Leaf]:
        key = self._keys.active().verifier
        signed_by = self.state.heads.keys
        return [] if signed_by and signed_by[-1] == key else [KeyLine(key, at_us)]

    def _extended(self, log: LogId, signed: SignedLog | None, size: int, stored: StoredLog) -> SignedLog:
        """The log up to `size`, read behind what is signed. Its last signed row must be as it was."""
        tree = signed.tree.copy() if signed is not None else CompactRange()
        last_leaf, from_us = (signed.last_leaf, signed.ledger_time_us) if signed is not None else (b"", 0)
        start = max(0, tree.behind - 1) if signed is not None else 0
        while start < size:
            behind = min(size, start + READ_LEAVES_MAX)
            try:
                found = self._reader.leaves(log, start, behind, from_us)
            except IntegrityError as error:
                raise IntegrityError(error.what, where=f"{stored.topic}, {error.where}", next_step=NEXT_STEP) from None
            if start < tree.behind and found[0] != last_leaf:
                raise IntegrityError(
                    f"the row of index {start} is not the one that was signed: leaf {last_leaf.hex()} was, "
                    f"{found[0].hex()} is there",
                    where=f"{stored.topic}, partition {log.partition}", next_step=NEXT_STEP,
                )  # fmt: skip
            tree.extend(found[tree.behind - start :])
            last_leaf, start = found[-1], behind
        return SignedLog(tree, last_leaf, stored.ledger_time_us if size == stored.size else from_us)

    def _sign(self, leaves: Sequence[Leaf]) -> tuple[Bundle, HeadsLog]:
        """The bundle of these leaves, checked as everybody will check it."""
        heads = self.state.heads.copy()
        active = self._keys.active()
        signers: list[SignerKey] = [active]
        if heads.keys and heads.keys[-1] != active.verifier:
            signers.insert(0, self._keys.retired(heads.keys[-1]))
        lines = tuple(leaf.line() for leaf in leaves)
        tree = heads.tree.copy()
        tree.extend(hash_leaf(line.encode()) for line in lines)
        note = sign_note(Checkpoint(active.name, tree.behind, tree.root()).text(), signers)
        bundle = Bundle(heads.tree.behind, lines, note)
        heads.follow(bundle)
        return bundle, heads

    def _go_on(self, bundle: Bundle, heads: HeadsLog, logs: dict[LogId, SignedLog]) -> None:
        state = SignerState(heads, logs, bundle.first, bundle.text(), [*self.state.unannounced, bundle.first])
        self._save(state)
        self.state = state


def _where(head: Head) -> str:
    return f"{head.topic}, partition {head.log.partition}, topic id {head.log.topic_id}"


def _rolled_back(head: Head, size: int) -> IntegrityError:
    what = f"{head.size} rows were signed, and {size} are there: the ledger was rolled back"
    if size == 0:
        what = f"{head.size} rows were signed, and none is there: the log has vanished"
    return IntegrityError(what, where=_where(head), next_step=NEXT_STEP)


def _check_stored(head: Head, stored: StoredLog | None) -> None:
    """Raise IntegrityError where a signed log isn't there in full, by what its flushes say."""
    if stored is None or stored.size < head.size:
        raise _rolled_back(head, 0 if stored is None else stored.size)
    if stored.rows != stored.size or stored.first_index != 0:
        raise IntegrityError(
            f"ledger_batches has {stored.rows} of {stored.size} rows: flushes were deleted or doubled",
            where=_where(head), next_step=NEXT_STEP,
        )  # fmt: skip
