"""The stream processors: prices, run budgets and cost per outcome, concluded while the agents run."""

from agentledger.processors.app import WorkerConfig, run_worker
from agentledger.processors.packer import PackerConfig, run_packer
from agentledger.processors.topics import worker_topics

__all__ = ["PackerConfig", "WorkerConfig", "run_packer", "run_worker", "worker_topics"]
