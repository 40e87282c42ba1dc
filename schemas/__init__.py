"""What every stage shares: the event catalogue, its codec and registry, identity, money, hashing, topics and ports."""

from typing import TYPE_CHECKING

from agentledger.schemas.lazy_facade import importing

if TYPE_CHECKING:
    from agentledger.schemas import errors, events, topics
    from agentledger.schemas.codec import Codec
    from agentledger.schemas.events import EVENT_TYPES, Event
    from agentledger.schemas.hashing import canonical_json, digest_bytes
    from agentledger.schemas.identity import content_id, derived_id, uuid7
    from agentledger.schemas.money import format_usd, usd_to_nanousd
    from agentledger.schemas.registry import open_registry

__all__ = [
    "EVENT_TYPES",
    "Codec",
    "Event",
    "canonical_json",
    "content_id",
    "derived_id",
    "digest_bytes",
    "errors",
    "events",
    "format_usd",
    "open_registry",
    "topics",
    "usd_to_nanousd",
    "uuid7",
]

__getattr__ = importing(
    __name__,
    {
        "Codec": "codec",
        "EVENT_TYPES": "events",
        "Event": "events",
        "canonical_json": "hashing",
        "content_id": "identity",
        "derived_id": "identity",
        "digest_bytes": "hashing",
        "errors": "errors",
        "events": "events",
        "format_usd": "money",
        "open_registry": "registry",
        "topics": "topics",
        "usd_to_nanousd": "money",
        "uuid7": "identity",
    },
)
