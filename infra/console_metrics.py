"""What the console counts, for Prometheus: looks at the ledger, and commands that people gave."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry, Counter, Histogram

from agentledger.sinks.console.ports import Command, ConsolePorts, Look

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class ConsoleMetrics:
    """Counters of one console, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._looks = Counter(
            "agentledger_console_looks", "Looks at the ledger, by how they ended.", ["result"], registry=self.registry
        )
        self._seconds = Histogram(
            "agentledger_console_look_seconds",
            "Time that a look took to read.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._commands = Counter(
            "agentledger_console_commands", "Halts and resumes that were sent.", registry=self.registry
        )
        self._looks.labels("shown")
        self._looks.labels("failed")

    def note_look(self, look: Look) -> None:
        """Somebody looked."""
        self._looks.labels("failed" if look.error else "shown").inc()
        self._seconds.observe(look.duration_ms / 1000)

    def count_command(self) -> None:
        """A halt or resume is with the broker."""
        self._commands.inc()


def counted(ports: ConsolePorts, metrics: ConsoleMetrics) -> ConsolePorts:
    """The same ports, which count what goes through them."""

    def record(look: Look) -> None:
        metrics.note_look(look)
        ports.record(look)

    def issue(command: Command) -> None:
        ports.issue(command)
        metrics.count_command()

    return replace(ports, record=record, issue=issue)
