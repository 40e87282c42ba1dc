"""The console: pages on the ledger for whoever operates agents, analyses them, or audits them."""

from agentledger.sinks.console.app import create_app
from agentledger.sinks.console.ports import ConsolePorts
from agentledger.sinks.console.server import ConsoleConfig, run_console

__all__ = ["ConsoleConfig", "ConsolePorts", "create_app", "run_console"]
