"""The console as a program: a socket, and uvicorn on it, until it is told to stop."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.http_server import LOOPBACK_NAMES, StoppableServer, open_listener
from agentledger.sinks.console.app import create_app
from agentledger.sinks.console.oidc import Oidc, OidcConfig
from agentledger.sinks.console.ports import ConsolePorts

CONNECTIONS_MAX = 500  # each open page holds one for live updates
STOP_S_MAX = 2  # for answers under way; live streams are cut
SECRET_CHARS_MIN = 32


def _now_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, kw_only=True)
class ConsoleConfig:
    """Where the console listens. `local_tenant_id`: whose ledger is shown without a key; empty: a key is asked for.

    `session_secret` signs the sessions; empty: a new one, so that they end with the program. `public_host`: the name
    under which others reach it; its cookies then travel over HTTPS alone. `oidc`: the issuer with which people sign in.
    """

    host: str
    port: int
    local_tenant_id: str = ""
    session_secret: str = ""
    public_host: str = ""
    oidc: OidcConfig | None = None


def run_console(
    config: ConsoleConfig,
    ports: ConsolePorts,
    stop: threading.Event,
    on_ready: Callable[[], None] = lambda: None,
    *,
    clock: Callable[[], int] = _now_us,
) -> None:
    """Serve until `stop`; `on_ready` is called when it listens. Raises ConfigurationError before anything listens."""
    check_exposure(config)
    is_local = config.host in LOOPBACK_NAMES
    hosts = frozenset({config.public_host} if config.public_host else ()) | (
        LOOPBACK_NAMES if is_local else frozenset()
    )
    app = create_app(
        ports,
        clock=clock,
        secret=config.session_secret.encode() or secrets.token_bytes(32),
        local_tenant_id=config.local_tenant_id,
        hosts=hosts,
        is_https=not is_local or bool(config.public_host),
        oidc=Oidc(config.oidc) if config.oidc else None,
    )
    served = uvicorn.Config(
        app, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX, timeout_graceful_shutdown=STOP_S_MAX,
    )  # fmt: skip
    with contextlib.closing(open_listener("console", config.host, config.port)) as listener:
        StoppableServer(served, stop, on_ready).run([listener])


def check_exposure(config: ConsoleConfig) -> None:
    """Refuse to show a ledger to other machines without keys, or to sign with a short secret.

    Raises ConfigurationError.
    """
    if config.local_tenant_id and (config.host not in LOOPBACK_NAMES or config.public_host):
        raise ConfigurationError(
            f"a console on {config.public_host or config.host} must ask for API keys",
            next_step="set AGENTLEDGER_CONSOLE_KEYS=required, or listen on 127.0.0.1 without a public URL",
        )
    if config.session_secret and len(config.session_secret) < SECRET_CHARS_MIN:
        raise ConfigurationError(
            f"AGENTLEDGER_CONSOLE_SESSION_SECRET has under {SECRET_CHARS_MIN} characters",
            next_step="make one: openssl rand -base64 32",
        )
