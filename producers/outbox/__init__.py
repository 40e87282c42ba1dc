"""The outbox: events are in a file before `emit` returns, and stay there until Kafka has them.

What happens to a record, module by module: `outbox` takes it, `writer` puts it into one of the `segments` as `framing`
lays it out on the `disk`; `backlog` sends it and moves the `position`. `instances` gives each process a folder of its
own; what a process left when it died is sent by the next one (`orphans`), and `losses` are announced.
"""

from typing import TYPE_CHECKING

from agentledger.schemas.lazy_facade import importing

if TYPE_CHECKING:
    from agentledger.producers.outbox.opening import open_outbox
    from agentledger.producers.outbox.outbox import Outbox
    from agentledger.producers.outbox.settings import OutboxSettings

__all__ = ["Outbox", "OutboxSettings", "open_outbox"]

__getattr__ = importing(
    __name__,
    {
        "Outbox": "outbox",
        "OutboxSettings": "settings",
        "open_outbox": "opening",
    },
)
