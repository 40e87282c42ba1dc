"""The program `holds`: decides on holds, one writer per tenant, in the shell.

No request waits for more: it is decided as soon as it is read, and its decision is out before its state is.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentledger.processors.faust_app import ShellPlan
from agentledger.processors.holds import HoldFold
from agentledger.processors.run_table import RunTable
from agentledger.processors.shell import Shell
from agentledger.processors.topics import HOLDS_CHANGELOG, HOLDS_GROUP
from agentledger.processors.transport import FetchWait
from agentledger.processors.worker import WorkerConfig
from agentledger.schemas.codec import Codec
from agentledger.schemas.registry import open_registry

# Some 100 requests: a batch holds back the decisions of those that come behind it, some 10 ms.
BATCH_BYTES_MAX = 64 * 1024
# One fetch is under way at a time: one that waits for idle partitions may hold back a request in another.
FETCH_WAIT = FetchWait(ms_max=20)
# A report settles what its call has used: the next request comes behind it in the log, so it is decided on with that
# however long the report has waited for it. Each batch costs the broker a request, and those who read its events.
GATHER_S = 0.02
# Every record changes the accounts of the whole tenant: written for each they cost as much as deciding does.
STATE_WAIT_S = 0.1


class HoldsProgram(Shell):
    """The hold fold in its shell."""

    def __init__(self, config: WorkerConfig) -> None:
        codec = Codec(open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth))

        def build(table: RunTable) -> HoldFold:
            def stored() -> Iterable[tuple[bytes, bytes]]:
                return list(table.data.items())

            return HoldFold(codec, config.partitions, stored)

        plan = ShellPlan(
            HOLDS_GROUP,
            "holds",
            HOLDS_CHANGELOG,
            BATCH_BYTES_MAX,
            gather_s=GATHER_S,
            state_wait_s=STATE_WAIT_S,
            fetch_wait=FETCH_WAIT,
        )
        super().__init__(plan, config, build)
