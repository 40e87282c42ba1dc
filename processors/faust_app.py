"""The Faust app that a shell runs: no web server, no topics of its own making, at least once, states in memory."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

import faust

from agentledger.processors.run_table import RunTable
from agentledger.processors.transport import FetchWait, PromptApp, PromptTransport
from agentledger.processors.worker import WorkerConfig

STREAM_BUFFER_MESSAGES = 64  # within Faust
# Kafka answers a fetch at its first record; without one nothing else can be fetched, assigned or sought to before the
# wait is over, and the memory broker answers only then. Shorter waits cost an idle broker its time.
FETCH_WAIT = FetchWait(ms_max=50)
FETCH_BYTES_MAX = 1_048_588  # of one partition


@dataclass(frozen=True)
class ShellPlan:
    """The names that one program goes by, and the sizes that suit what it reads.

    A batch takes what waits: the more load, the more records share its two round trips. `pause_s` is how long a batch
    that would be small waits for more after the one before it. `gather_s` is how long records that nobody waits for
    (the fold's `can_wait`) wait for one that somebody does. `state_wait_s` is how long states may be behind what they
    follow from: those of many batches are written once, and a crash folds that much again, to the same bytes.
    """

    group: str
    table: str
    changelog: str
    batch_bytes_max: int = 1024 * 1024
    pause_s: float = 0.0
    gather_s: float = 0.0
    state_wait_s: float = 0.0
    fetch_wait: FetchWait = FETCH_WAIT
    fetch_bytes_max: int = FETCH_BYTES_MAX


def build_app(plan: ShellPlan, config: WorkerConfig) -> faust.App:
    """The Faust app, without a web server and without any topic of its own making."""
    servers = str(config.kafka["bootstrap.servers"]).split(",")
    app = PromptApp(
        plan.group,
        broker=[f"kafka://{server.strip()}" for server in servers],
        broker_credentials=credentials(config.kafka),
        broker_session_timeout=config.session_timeout_s,
        broker_heartbeat_interval=config.session_timeout_s / 4,
        broker_rebalance_timeout=60.0,
        broker_commit_interval=config.commit_interval_s,
        datadir=config.data_dir,
        store="memory://",
        Table=RunTable,
        table_standby_replicas=0,
        topic_partitions=config.partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        processing_guarantee="at_least_once",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=plan.fetch_bytes_max,
        stream_buffer_maxsize=STREAM_BUFFER_MESSAGES,
        web_enabled=False,
        loghandlers=[],
    )
    app.transport = PromptTransport(app.conf.broker_consumer, app)
    app.transport.fetch_wait = plan.fetch_wait
    app.finalize()
    return app


def credentials(kafka: dict[str, Any]) -> Any:
    """librdkafka's security settings as Faust takes them; None for plain text."""
    protocol = str(kafka.get("security.protocol", "PLAINTEXT")).upper()
    context = ssl.create_default_context(cafile=kafka.get("ssl.ca.location")) if protocol.endswith("SSL") else None
    if context is not None and "ssl.certificate.location" in kafka:
        context.load_cert_chain(kafka["ssl.certificate.location"], kafka.get("ssl.key.location"))
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.get("sasl.username"),
            password=kafka.get("sasl.password"),
            mechanism=kafka.get("sasl.mechanism", "PLAIN"),
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None
