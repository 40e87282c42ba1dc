"""`run_scopes`: stage 2 as a program."""

from __future__ import annotations

from agentledger.processors.worker import RunningShell, WorkerConfig, run_program


def run_scopes(config: WorkerConfig) -> None:
    """Run stage 2 until SIGTERM or SIGINT, then end the process. See `worker.run_program`."""

    def build() -> RunningShell:
        from agentledger.processors.rules.loading import rules_or_default  # noqa: PLC0415 - as below
        from agentledger.processors.scope_app import Scopes  # noqa: PLC0415 - Faust takes a second to import
        from agentledger.processors.scope_rules import watches_of  # noqa: PLC0415 - pydantic too

        return Scopes(config, watches_of(rules_or_default(config.rules_file)))

    run_program(build, config.data_dir)
