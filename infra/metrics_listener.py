"""Where a program's metrics are read: an HTTP listener of its own, if AGENTLEDGER_METRICS_PORT gives it a port."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, start_http_server

from agentledger.infra.settings import Settings
from agentledger.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)


def serve_metrics(settings: Settings, registry: CollectorRegistry) -> None:
    """Answer GET /metrics in a thread until the process ends; with port 0 nothing listens.

    Raises ConfigurationError where the port can't be had.
    """
    if settings.metrics_port == 0:
        return
    try:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        raise ConfigurationError(
            f"no listener for the metrics: {error.strerror or error}",
            where=f"{settings.metrics_host}:{settings.metrics_port}",
            next_step="give each program an AGENTLEDGER_METRICS_PORT of its own; 0 turns it off",
        ) from None
    log.info("metrics on http://%s:%d/metrics", settings.metrics_host, settings.metrics_port)
