"""Finds an event in the ledger and proves that it is under a signed head. What is written has been verified first."""

from __future__ import annotations

import base64
import bisect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError, ProofError, UsageError
from agentledger.schemas.event_proof import ProvenRecord, verify_event_proof, write_event_proof
from agentledger.schemas.heads import LogId
from agentledger.schemas.merkle import HASH_BYTES, prove_inclusion
from agentledger.schemas.notes import VerifierKey
from agentledger.sinks.chain import Chain
from agentledger.sinks.clickhouse_store import QUERY_SETTINGS
from agentledger.sinks.leaves import BLOCK_LEAVES, ClickHouseLeafReader
from agentledger.sinks.tables import LEDGER

_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
NO_SCHEMA = bytes(32)


def prove_event(
    reader: ClickHouseLeafReader,
    chain: Chain,
    keys: Sequence[VerifierKey],
    event_id: str,
    *,
    with_value: bool = True,
    kept_in: Path | None = None,
) -> str:
    """The proof of the event that counts under this id. Raises UsageError where it isn't there or not signed yet,
    IntegrityError where the ledger isn't what was signed.

    `kept_in` is a folder for the roots of blocks, which never change: the next proof finds them there. It needs no
    guarding: with a wrong root there the proof does not verify, and is made again without.
    """
    record = find_record(reader, event_id, with_value=with_value)
    kept = kept_in / f"{record.log.topic_id}-{record.log.partition}.roots" if kept_in is not None else None
    try:
        return _proof_of(record, reader, chain, keys, kept=kept)
    except IntegrityError:
        if kept is None:
            raise
        kept.unlink(missing_ok=True)
        return _proof_of(record, reader, chain, keys, kept=kept)


def _proof_of(
    record: ProvenRecord, reader: ClickHouseLeafReader, chain: Chain, keys: Sequence[VerifierKey], *, kept: Path | None
) -> str:
    heads = chain.heads.get(record.log, [])
    number = bisect.bisect_right([head.size for head in heads], record.log_index)
    if number == len(heads):
        raise UsageError(
            f"event {record.event_id} is not signed yet", next_step="try again when the signer has made its next step"
        )
    head, place = heads[number], chain.places[record.log][number]
    bundle = chain.bundle_of(place)
    hashes = inclusion_hashes(reader, record.log, record.log_index, head.size, kept)
    head_hashes = prove_inclusion(place, bundle.size, nodes_of(chain.leaf_hashes))
    text = write_event_proof(record, hashes, head, place=place, head_hashes=head_hashes, note=bundle.note)
    try:
        verify_event_proof(text, [*keys, *chain.state.keys])
    except ProofError as error:
        raise IntegrityError(
            f"the ledger isn't what was signed: {error}",
            where=f"{head.topic}, partition {record.log.partition}, index {record.log_index}",
            next_step="run: agentledger verify --all",
        ) from None
    return text


def find_record(reader: ClickHouseLeafReader, event_id: str, *, with_value: bool) -> ProvenRecord:
    """The record that counts under this id. Raises UsageError where there is none."""
    if _UUID.fullmatch(event_id) is None:
        raise UsageError(f"{event_id!r} is no event id", next_step="give it as the events view shows it")
    rows = reader.query(
        "SELECT toString(topic_id), partition, offset, log_index, toUnixTimestamp64Micro(ledger_time), schema_sha256, "
        f"key_sha256, headers_sha256, value_sha256, base64Encode(raw) FROM {LEDGER} "
        "WHERE UUIDToNum(event_id) = UUIDToNum({event_id:UUID}) AND occurrence = 'first' AND event_type != ''",
        {"event_id": event_id.lower()},
        QUERY_SETTINGS,
    )
    if not rows:
        raise UsageError(f"no event has the id {event_id}")
    topic_id, partition, offset, index, time_us, schema, key, headers, value_sha, value = rows[0]
    raw = base64.b64decode(value)
    return ProvenRecord(
        LogId(topic_id, partition), offset, index, time_us,
        raw[6:42].decode("utf-8", "replace") if bytes(schema) != NO_SCHEMA else "",
        bytes(schema), bytes(key), bytes(headers), bytes(value_sha), raw if with_value else None,
    )  # fmt: skip


def inclusion_hashes(
    reader: ClickHouseLeafReader, log: LogId, index: int, size: int, kept: Path | None = None
) -> list[bytes]:
    """The inclusion proof of leaf `index` in the tree of the first `size`: inside its block from the leaves, above that
    from the roots of all blocks, which ClickHouse works out."""
    block = index // BLOCK_LEAVES
    first = block * BLOCK_LEAVES
    leaves = reader.leaves(log, first, min(size, first + BLOCK_LEAVES))
    roots = _block_roots(reader, log, size, kept)
    inside = prove_inclusion(index - first, len(leaves), nodes_of(leaves))
    return inside + prove_inclusion(block, len(roots), nodes_of(roots))


def _block_roots(reader: ClickHouseLeafReader, log: LogId, size: int, kept: Path | None) -> list[bytes]:
    """The roots of all blocks up to `size`; those of whole blocks are kept in the file for the next time."""
    known: list[bytes] = []
    if kept is not None and kept.exists():
        raw = kept.read_bytes()
        known = [raw[start : start + HASH_BYTES] for start in range(0, len(raw) // HASH_BYTES * HASH_BYTES, HASH_BYTES)]
    whole = size // BLOCK_LEAVES
    roots = reader.block_roots(log, size, known[:whole])
    if kept is not None and whole > len(known):
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
        temporary.write_bytes(b"".join(roots[:whole]))
        temporary.replace(kept)
    return roots


def nodes_of(leaves: Sequence[bytes]) -> Callable[[int, int], bytes]:
    """Gives the roots of subtrees over these leaves."""

    def node(first: int, behind: int) -> bytes:
        part = CompactRange()
        part.extend(leaves[first:behind])
        return part.root()

    return node
