"""What stage 1 tells stage 2, as bytes: the sums of one tenant in one second of one source partition, and watermarks.

    record    = version (1 byte, 1), kind (1 byte), source partition (uint32), bucket (int64), part (uint32), body
    kind      = 0: a watermark; the source has said all of every bucket before `bucket`. No body.
                1: a partial; the body is JSON (UTF-8) of one tenant, in the order in which the log brought things.

A bucket is a second of ledger time: microseconds divided by BUCKET_US. Integers are big-endian. A bucket with much in
it comes in several parts; parts and partitions add up. Records of a source come in the order of buckets, a bucket's
partials before the watermark that is past it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from agentledger.schemas.errors import CodecError

VERSION = 1
WATERMARK, PARTIAL = 0, 1
BUCKET_US = 1_000_000
SEQ_BLOCK_BITS: Final = 6  # producer_seq are noted in blocks of 64, a bit each
_HEAD = struct.Struct(">BBIqI")
HEAD_BYTES = _HEAD.size
PAIRS_KEPT = 4096  # up to 4 kB each where names are as long as they may be, mostly 100 bytes

Usage = list[int]  # in the order of budgets.SUMMED
Calls = list[Any]  # of one model or tool: how many, how many failed, sketch of how long they took in microseconds
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False, ensure_ascii=False).encode


class Head(NamedTuple):
    """Kind and place of a record: readable without its body."""

    kind: int
    source: int
    bucket: int
    part: int


@dataclass(slots=True)
class Partial:
    """What happened to one tenant. All of it is JSON as it stands, so that a state costs little to write."""

    tenant_id: str
    events: int = 0
    usage: dict[str, Usage] = field(default_factory=dict)  # by group, see `group_of`
    models: dict[str, Calls] = field(default_factory=dict)
    tools: dict[str, Calls] = field(default_factory=dict)
    denials: dict[str, int] = field(default_factory=dict)  # pair(agent, tool or action) to how many
    unpriced: dict[str, int] = field(default_factory=dict)  # model to calls
    versions: dict[str, int] = field(default_factory=dict)  # pair(prompt | policy, workflow, version) to how many
    seqs: dict[str, dict[int, int]] = field(default_factory=dict)  # producer to block to bits


@lru_cache(maxsize=PAIRS_KEPT)
def pair(*names: str) -> str:
    """Names in one key; `names_of` takes them apart. A separator within a name becomes a space."""
    return "\x1f".join(name.replace("\x1f", " ") for name in names)


def names_of(key: str) -> list[str]:
    """The names in a key made by `pair`."""
    return key.split("\x1f")


def group_of(agent_id: str, workflow: str, actor: str, labels: dict[str, str], environment: str = "") -> str:
    """The group that a run's usage counts in: JSON of [agent, workflow, user, labels in order, environment]."""
    return _to_json([agent_id, workflow, actor, dict(sorted(labels.items())), environment])


class Group(NamedTuple):
    """What runs have in common whose usage is summed together."""

    agent_id: str
    workflow: str
    actor: str
    labels: dict[str, str]
    environment: str


@lru_cache(maxsize=8192)
def group_fields(group: str) -> Group:
    """What a text made by `group_of` says. Not to be changed."""
    return Group(*json.loads(group))


def read_head(value: bytes) -> Head:
    """Kind and place. Raises CodecError for other bytes."""
    if len(value) < HEAD_BYTES or value[0] != VERSION:
        raise CodecError(
            f"partial version {value[:1].hex() or 'missing'} is unknown",
            where="partials",
            next_step="run both stages of the same release",
        )
    return Head(*_HEAD.unpack_from(value)[1:])


def encode_watermark(source: int, bucket: int) -> bytes:
    """The record that says: this source has said all of every bucket before this one."""
    return _HEAD.pack(VERSION, WATERMARK, source, bucket, 0)


def encode_partial(source: int, bucket: int, part: int, items: list[Any]) -> bytes:
    """The record of one tenant's sums, as `partial_from_list` takes them."""
    body = json_of(items)
    return _HEAD.pack(VERSION, PARTIAL, source, bucket, part) + body


def json_of(items: list[Any]) -> bytes:
    """JSON (UTF-8) of names, sums and sketches."""
    try:
        return orjson.dumps(items, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # lone surrogates, and numbers of more than 64 bits, which are wrong, and yet may come
        return _to_json(items).encode("utf-8", "surrogatepass")


def decode_partial(value: bytes) -> Partial:
    """The sums in a record of kind PARTIAL. Raises CodecError."""
    try:
        return partial_from_list(json.loads(value[HEAD_BYTES:].decode("utf-8", "surrogatepass")))
    except (ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise CodecError(f"a partial can't be read: {error}", where="partials") from error


def partial_from_list(items: list[Any]) -> Partial:
    """The sums whose fields these are, after JSON, which has made texts of the numbers that were keys."""
    tenant_id, events, usage, models, tools, denials, unpriced, versions, seqs = items
    return Partial(
        tenant_id,
        events,
        usage,
        _calls(models),
        _calls(tools),
        denials,
        unpriced,
        versions,
        {producer: {int(block): bits for block, bits in blocks.items()} for producer, blocks in seqs.items()},
    )


def _calls(found: dict[str, Any]) -> dict[str, Calls]:
    return {
        name: [count, errors, {int(slot): number for slot, number in latency.items()}]
        for name, (count, errors, latency) in found.items()
    }
