"""The program `holds`: decides on holds, one writer per tenant, in the shell.

Nothing here waits for more: a request is decided as soon as it is read, and its decision is out before its state is.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentledger.processors.holds import HoldFold
from agentledger.processors.run_table import RunTable
from agentledger.processors.shell import Shell, ShellPlan
from agentledger.processors.topics import HOLDS_CHANGELOG, HOLDS_GROUP
from agentledger.processors.transport import FetchWait
from agentledger.processors.worker import WorkerConfig
from agentledger.schemas.codec import Codec
from agentledger.schemas.registry import open_registry

# Some 100 requests: a batch holds back the decisions of those that come behind it, some 10 ms.
BATCH_BYTES_MAX = 64 * 1024
# One fetch is under way at a time: one that waits for idle partitions may hold back a request in another.
FETCH_WAIT = FetchWait(ms_max=20)


class HoldsProgram(Shell):
    """The hold fold in its shell."""

    def __init__(self, config: WorkerConfig) -> None:
        codec = Codec(open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth))

        def build(table: RunTable) -> HoldFold:
            def stored() -> Iterable[tuple[bytes, bytes]]:
                return list(table.data.items())

            return HoldFold(codec, config.partitions, stored)

        plan = ShellPlan(HOLDS_GROUP, "holds", HOLDS_CHANGELOG, BATCH_BYTES_MAX, fetch_wait=FETCH_WAIT)
        super().__init__(plan, config, build)
