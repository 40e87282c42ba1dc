"""The stream processors: prices, run budgets and cost per outcome, concluded while the agents run."""

from agentledger.processors.packer import PackerConfig, run_packer
from agentledger.processors.topics import worker_topics
from agentledger.processors.worker import WorkerConfig, run_worker

__all__ = ["PackerConfig", "WorkerConfig", "run_packer", "run_worker", "worker_topics"]
