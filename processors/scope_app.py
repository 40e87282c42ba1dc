"""The program `scopes`: stage 2 in its shell. What it decides stands in `scopes`, in which order in `scope_fold`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentledger.processors.faust_app import ShellPlan
from agentledger.processors.run_table import RunTable
from agentledger.processors.scope_fold import ScopeFold
from agentledger.processors.scopes import Watch
from agentledger.processors.shell import Shell
from agentledger.processors.topics import SCOPES_CHANGELOG, SCOPES_GROUP, SCOPES_STATE_BYTES_MAX
from agentledger.processors.transport import FetchWait
from agentledger.processors.worker import WorkerConfig
from agentledger.schemas.codec import Codec
from agentledger.schemas.registry import open_registry

# As for the worker. What is decided here goes by seconds, not by calls: reads wait for as long, too.
PAUSE_S = 0.04
FETCH_WAIT = FetchWait(ms_max=40, bytes_min=64 * 1024)


class Scopes(Shell):
    """Watched budgets and anomaly rules over all runs of a tenant."""

    def __init__(self, config: WorkerConfig, rules: Sequence[Watch]) -> None:
        config = replace(config, kafka={"message.max.bytes": SCOPES_STATE_BYTES_MAX, **config.kafka})
        codec = Codec(open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth))

        def build(table: RunTable) -> ScopeFold:
            return ScopeFold(codec, config.partitions, rules, table.stored, lambda: list(table.data))

        super().__init__(
            ShellPlan(SCOPES_GROUP, "scopes", SCOPES_CHANGELOG, pause_s=PAUSE_S, fetch_wait=FETCH_WAIT), config, build
        )
