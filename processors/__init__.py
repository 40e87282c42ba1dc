"""The stream processors: prices, run budgets and cost per outcome, concluded while the agents run."""

from typing import TYPE_CHECKING

from agentledger.schemas.lazy_facade import importing

if TYPE_CHECKING:
    from agentledger.processors.packer import PackerConfig, run_packer
    from agentledger.processors.scope_worker import run_scopes
    from agentledger.processors.ticker import TickerConfig, run_ticker
    from agentledger.processors.topics import worker_topics
    from agentledger.processors.worker import WorkerConfig, run_holds, run_worker

__all__ = [
    "PackerConfig",
    "TickerConfig",
    "WorkerConfig",
    "run_holds",
    "run_packer",
    "run_scopes",
    "run_ticker",
    "run_worker",
    "worker_topics",
]

__getattr__ = importing(
    __name__,
    {
        "PackerConfig": "packer",
        "TickerConfig": "ticker",
        "WorkerConfig": "worker",
        "run_holds": "worker",
        "run_packer": "packer",
        "run_scopes": "scope_worker",
        "run_ticker": "ticker",
        "run_worker": "worker",
        "worker_topics": "topics",
    },
)
