"""What proves an export: the head of each log under the checkpoint, and the hashes on both sides of each range."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError
from agentledger.schemas.heads import Bundle
from agentledger.schemas.merkle import prove_consistency, prove_inclusion
from agentledger.schemas.notes import encode_base64
from agentledger.sinks.chain import Chain
from agentledger.sinks.export_plan import LogRange, where
from agentledger.sinks.leaves import BLOCK_LEAVES, ClickHouseLeafReader
from agentledger.sinks.proofs import nodes_of
from agentledger.sinks.tables import LEDGER
from agentledger.sinks.verify_export import EVENT_ID, NO_SCHEMA

_BOUNDARY = (
    "log_index, offset, toUnixTimestamp64Micro(ledger_time), base64Encode(substring(raw, 1, 42)), schema_sha256, "
    "toString(event_id), "
    "lower(hex(key_sha256)), lower(hex(headers_sha256)), lower(hex(value_sha256))"
)


class ExportProofs:
    """Proofs up to the checkpoint of one bundle."""

    def __init__(self, reader: ClickHouseLeafReader, chain: Chain, bundle: Bundle) -> None:
        self._reader = reader
        self._bundle = bundle
        self._nodes = nodes_of(chain.leaf_hashes[: bundle.size])

    def of_checkpoint(self) -> dict[str, Any]:
        """The last line under the checkpoint, which says when it was signed, and its inclusion."""
        size = self._bundle.size
        return {
            "last_line": self._bundle.lines[-1],
            "last_line_hashes": _texts(prove_inclusion(size - 1, size, self._nodes)),
        }

    def since(self, size: int) -> dict[str, Any]:
        """That the checkpoint goes on from an earlier one of this size."""
        return {"size": size, "hashes": _texts(prove_consistency(size, self._bundle.size, self._nodes))}

    def of_log(self, one: LogRange) -> dict[str, Any]:
        """A log's entry in the manifest: its range, its head, and the hashes on both sides of the range."""
        before = self._boundary(one, one.first - 1) if one.first else None
        after = self._boundary(one, one.behind) if one.behind < one.head.size else None
        left, right = one.first - (1 if before else 0), one.behind + (1 if after else 0)
        blocks: list[bytes] = []
        if left + one.head.size - right > 2 * BLOCK_LEAVES:
            blocks = self._reader.block_roots(one.head.log, one.head.size)
        return {
            "head": one.head.line(), "head_place": one.place,
            "head_hashes": _texts(prove_inclusion(one.place, self._bundle.size, self._nodes)),
            "first": one.first, "behind": one.behind, "before": before, "after": after,
            "left": _texts(self._range(one, 0, left, blocks).hashes),
            "right": _texts(self._range(one, right, one.head.size, blocks).hashes),
        }  # fmt: skip

    def _range(self, one: LogRange, first: int, behind: int, blocks: Sequence[bytes]) -> CompactRange:
        """The hashes over these leaves: from the roots of whole blocks where they are known, else from the leaves."""
        found = CompactRange(first)
        while found.behind < behind:
            at = found.behind
            block = at // BLOCK_LEAVES
            border = min(behind, (block + 1) * BLOCK_LEAVES)
            if blocks and border - at == BLOCK_LEAVES:
                found.merge(CompactRange(at, border, [blocks[block]]))
            else:
                found.extend(self._reader.leaves(one.head.log, at, border))
        return found

    def _boundary(self, one: LogRange, index: int) -> list[Any]:
        """A record next to the range: what its leaf commits to, without its bytes."""
        rows = self._reader.query(f"SELECT {_BOUNDARY} FROM {LEDGER} WHERE {where(one.head)} AND log_index = {index}")
        if len(rows) != 1:
            raise IntegrityError(
                f"{len(rows)} rows have index {index}", where=f"{one.head.topic}/{one.head.log.partition}",
                next_step="run: agentledger verify --all",
            )  # fmt: skip
        found, offset, time_us, value, schema, column, *digests = rows[0]
        event_id = ""
        if bytes(schema) != NO_SCHEMA:
            match = EVENT_ID.match(base64.b64decode(value), 5)
            event_id = match.group(1).decode() if match else "" if value else column  # a purge may have taken the bytes
        return [found, offset, time_us, event_id, bytes(schema).hex(), *digests]


def _texts(hashes: Sequence[bytes]) -> list[str]:
    return [encode_base64(one) for one in hashes]
