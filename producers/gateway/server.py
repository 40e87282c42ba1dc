"""The gateway as a program: a socket, uvicorn on it, Kafka behind it; it ends when all that it took is answered."""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from agentledger.producers.gateway.admission import Gateway
from agentledger.producers.gateway.app import create_app
from agentledger.producers.gateway.broker_watch import BrokerWatch
from agentledger.producers.gateway.callers import LOCAL_NAME, Caller
from agentledger.producers.gateway.connections import patient_protocol
from agentledger.producers.gateway.limits import GatewayLimits
from agentledger.producers.gateway.publishing import AcknowledgedPublisher
from agentledger.producers.publisher import KafkaRecordProducer
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.http_server import LOOPBACK_NAMES, StoppableServer, open_listener
from agentledger.schemas.ports import ApiKeys

LINGER_MS = 2  # somebody waits for the answer: a batch forms from what comes while the one before travels
FLUSH_S_MAX = 5.0  # at the end; what still waits then was answered with 503
BACKLOG = 1024  # connections that the kernel keeps while this process is busy

log = logging.getLogger("agentledger.producers.gateway")


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """Where the gateway listens and what it writes to. `local_tenant_id`: of events without a key; empty: none come."""

    kafka: Mapping[str, Any]
    host: str
    port: int
    local_tenant_id: str = ""
    schema_registry_url: str = ""
    schema_registry_auth: str = ""
    keep_error_texts: bool = False
    tls_certificate: Path | None = None
    tls_private_key: Path | None = None
    tls_client_ca: Path | None = None
    limits: GatewayLimits = field(default_factory=GatewayLimits)


def run_gateway(
    config: GatewayConfig, keys: ApiKeys, stop: threading.Event, on_ready: Callable[[], None] = lambda: None
) -> None:
    """Serve until `stop`; `on_ready` is called when it listens.

    Raises ConfigurationError before anything listens, where it must not or can't be started.
    """
    now_us = _now_us()
    check_exposure(config, any("ingest" in key.scopes and key.valid_at(now_us) for key in keys.listed()))
    codec = Codec(open_registry(config.schema_registry_url, basic_auth=config.schema_registry_auth))
    with contextlib.ExitStack() as resources:
        listener = resources.enter_context(contextlib.closing(open_listener("gateway", config.host, config.port)))
        limits = config.limits
        producer = KafkaRecordProducer(
            {**config.kafka, "linger.ms": LINGER_MS, "message.timeout.ms": int(limits.ack_wait_s_max * 1000)}
        )
        resources.callback(producer.close)
        resources.callback(producer.flush, FLUSH_S_MAX)
        watch = resources.enter_context(BrokerWatch(config.kafka))
        gateway = Gateway(
            publisher=AcknowledgedPublisher(
                producer, queue_records_max=limits.queue_records_max, ack_wait_s_max=limits.ack_wait_s_max
            ),
            codec=codec,
            keys=keys,
            clock=_now_us,
            local=_local_caller(config),
            has_bundled_ids=not config.schema_registry_url,
            keep_error_texts=config.keep_error_texts,
            is_broker_up=watch.is_up,
            limits=limits,
        )
        StoppableServer(_uvicorn_config(config, gateway), stop, on_ready).run([listener])


def check_exposure(config: GatewayConfig, has_ingest_key: bool) -> None:
    """Refuse to listen for other machines without keys, or to ask for keys of which there are none.

    Raises ConfigurationError.
    """
    if config.host in LOOPBACK_NAMES:
        return
    if config.local_tenant_id:
        raise ConfigurationError(
            f"a gateway on {config.host} must ask for API keys",
            next_step="set AGENTLEDGER_GATEWAY_KEYS=required, or listen on 127.0.0.1",
        )
    if not has_ingest_key:
        raise ConfigurationError(
            f"a gateway on {config.host} needs an API key that may ingest, and there is none",
            next_step="make one: agentledger api-keys new NAME --scope ingest",
        )
    if config.tls_certificate is None:
        log.warning("listening on %s without TLS: put it behind something that has it", config.host)


def _local_caller(config: GatewayConfig) -> Caller | None:
    if not config.local_tenant_id:
        return None
    return Caller(config.local_tenant_id, LOCAL_NAME, "", ("ingest", "read"))


def _uvicorn_config(config: GatewayConfig, gateway: Gateway) -> uvicorn.Config:
    """Raises ConfigurationError where the files of TLS are no certificate and key."""
    limits = config.limits
    tls: dict[str, Any] = {}
    if config.tls_certificate is not None:
        tls = {"ssl_certfile": config.tls_certificate, "ssl_keyfile": config.tls_private_key}
    if config.tls_client_ca is not None:
        tls |= {"ssl_ca_certs": str(config.tls_client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    served = uvicorn.Config(
        create_app(gateway),
        http=patient_protocol(limits.head_wait_s_max),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who calls is told by a key, not by an address
        backlog=BACKLOG,
        limit_concurrency=limits.connections_max,
        timeout_keep_alive=75,  # longer than the 60 s that proxies keep a connection to us
        timeout_graceful_shutdown=int(limits.ack_wait_s_max + limits.body_wait_s_max),
        **tls,
    )
    try:
        served.load()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"the TLS certificate or its key can't be used: {error.strerror or error}",
            where=str(config.tls_certificate), next_step="give both as PEM files",
        ) from None  # fmt: skip
    return served


def _now_us() -> int:
    return time.time_ns() // 1000
