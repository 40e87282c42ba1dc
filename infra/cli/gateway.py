"""`agentledger gateway`: events over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from agentledger.infra.cli.programs import start_logging, stop_on_signal
from agentledger.infra.endpoints import kafka_config
from agentledger.infra.settings import Settings, load_settings
from agentledger.schemas.api_key_file import FileApiKeys
from agentledger.schemas.errors import MissingLibraryError
from agentledger.schemas.ready import say_ready

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("gateway")
@click.option("--host", help="Where to listen. Default: AGENTLEDGER_GATEWAY_HOST, or 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: AGENTLEDGER_GATEWAY_PORT, or 8390.")
@click.option("--tls-certificate", type=_FILE, metavar="FILE", help="PEM, with the chain.")
@click.option("--tls-private-key", type=_FILE, metavar="FILE", help="PEM, of the certificate.")
@click.option("--tls-client-ca", type=_FILE, metavar="FILE", help="Take only clients with a certificate of this CA.")
def gateway(
    host: str | None,
    port: int | None,
    tls_certificate: Path | None,
    tls_private_key: Path | None,
    tls_client_ca: Path | None,
) -> None:
    """Take events over HTTP: JSON, CloudEvents, OPA decision logs. Each is answered when Kafka has it."""
    given = {
        "gateway_host": host, "gateway_port": port, "gateway_tls_certificate": tls_certificate,
        "gateway_tls_private_key": tls_private_key, "gateway_tls_client_ca": tls_client_ca,
    }  # fmt: skip
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    start_logging(settings)
    serve(settings)


def serve(settings: Settings) -> None:
    """Run the gateway until it is told to stop. Raises ConfigurationError."""
    try:
        from agentledger.producers.gateway import GatewayConfig, GatewayLimits, run_gateway
    except ModuleNotFoundError as error:
        raise MissingLibraryError(error.name or "a library", "gateway") from None

    config = GatewayConfig(
        kafka=kafka_config(settings),
        host=settings.gateway_host,
        port=settings.gateway_port,
        local_tenant_id=settings.tenant_id if settings.gateway_keys == "not_on_loopback" else "",
        schema_registry_url=settings.schema_registry_url,
        schema_registry_auth=settings.schema_registry_basic_auth.get_secret_value(),
        keep_error_texts=settings.gateway_error_texts == "keep",
        tls_certificate=settings.gateway_tls_certificate,
        tls_private_key=settings.gateway_tls_private_key,
        tls_client_ca=settings.gateway_tls_client_ca,
        limits=GatewayLimits(events_per_s_max=settings.gateway_events_per_s_max),
    )
    run_gateway(config, FileApiKeys(settings.api_keys_path()), stop_on_signal(), say_ready)


COMMANDS: dict[str, click.Command] = {"gateway": gateway}
