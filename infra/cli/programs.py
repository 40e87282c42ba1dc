"""`agentledger writer`, `packer`, `worker`: the programs that run all the time, each alone or under the local stack."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentledger.infra.endpoints import clickhouse_url, kafka_config, login_as
from agentledger.infra.metrics_listener import serve_metrics
from agentledger.infra.settings import Settings, load_settings

if TYPE_CHECKING:  # a command imports what it needs when it runs
    from agentledger.processors import WorkerConfig


def start_logging(settings: Settings) -> None:
    """One line per message on standard error, with the time in UTC."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("aiokafka", "apprise", "faust", "mode", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))


def stop_on_signal() -> threading.Event:
    """An event that SIGTERM or SIGINT sets."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


@click.command()
def writer() -> None:
    """Write every record of the ledger's topics to ClickHouse, once and in order."""
    from agentledger.sinks import WriterConfig, run_writer
    from agentledger.sinks.writer_metrics import WriterMetrics

    settings = load_settings()
    start_logging(settings)
    user, password = login_as(settings, "writer")
    config = WriterConfig(
        kafka=kafka_config(settings),
        clickhouse_url=clickhouse_url(settings),
        clickhouse_user=user,
        clickhouse_password=password,
        schema_registry_url=settings.schema_registry_url,
        schema_registry_auth=settings.schema_registry_basic_auth.get_secret_value(),
        kafka_instance=settings.kafka_instance,
        batch_rows_max=settings.writer_batch_rows_max,
        linger_ms_max=settings.writer_linger_ms_max,
    )
    metrics = WriterMetrics()
    serve_metrics(settings, metrics.registry)
    run_writer(config, stop_on_signal(), metrics)


@click.command()
def packer() -> None:
    """Join events into packed messages for the workers."""
    from agentledger.processors import PackerConfig, run_packer

    settings = load_settings()
    start_logging(settings)
    config = PackerConfig(kafka=kafka_config(settings))
    serve_metrics(settings, config.metrics.registry)
    run_packer(config, stop_on_signal())


def worker_config(settings: Settings, program: str) -> WorkerConfig:
    """What worker, scopes and holds are started with; each has a folder of its own for what Faust keeps.

    Its metrics are shown from now on.
    """
    from agentledger.processors import WorkerConfig
    from agentledger.processors.fold_metrics import FoldMetrics

    metrics = FoldMetrics(program)
    serve_metrics(settings, metrics.registry)

    return WorkerConfig(
        kafka=kafka_config(settings),
        data_dir=Path(settings.data_dir) / program,
        schema_registry_url=settings.schema_registry_url,
        schema_registry_auth=settings.schema_registry_basic_auth.get_secret_value(),
        partitions=settings.kafka_partitions,
        prices_file=settings.prices_file,
        rules_file=settings.rules_file,
        metrics=metrics,
    )


@click.command()
def worker() -> None:
    """Work out charges, run budgets and cost per outcome (Faust)."""
    from agentledger.processors import run_worker

    settings = load_settings()
    start_logging(settings)
    run_worker(worker_config(settings, "worker"))


@click.command()
def scopes() -> None:
    """Watch budgets and look for anomalies over all runs of a tenant (Faust)."""
    from agentledger.processors import run_scopes

    settings = load_settings()
    start_logging(settings)
    run_scopes(worker_config(settings, "scopes"))


@click.command()
def holds() -> None:
    """Decide on holds: what calls may still use of the budgets that they fall under (Faust)."""
    from agentledger.processors import run_holds

    settings = load_settings()
    start_logging(settings)
    run_holds(worker_config(settings, "holds"))


@click.command()
def ticker() -> None:
    """Say every second on each partition that time has passed."""
    from agentledger.processors import TickerConfig, run_ticker

    settings = load_settings()
    start_logging(settings)
    config = TickerConfig(
        kafka=kafka_config(settings),
        schema_registry_url=settings.schema_registry_url,
        schema_registry_auth=settings.schema_registry_basic_auth.get_secret_value(),
        rules_file=settings.rules_file,
    )
    serve_metrics(settings, config.metrics.registry)
    run_ticker(config, stop_on_signal())


COMMANDS = {"writer": writer, "packer": packer, "worker": worker, "holds": holds, "scopes": scopes, "ticker": ticker}
