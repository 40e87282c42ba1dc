"""The gateway on real sockets: other programs' clients, slow ones, TLS, a broker that is away, and an orderly end."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx2
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentledger.infra.stack.ports import free_port
from agentledger.producers.gateway import GatewayConfig, GatewayLimits, check_exposure
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.topics import EVENTS
from tests.gateway_server import GatewayServer, MockBroker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]
DECIDED = {"type": "PolicyDecided", "run_id": "r-1", "occurred_at": "2026-11-21T10:00:00Z", "verdict": "allow"}
BODY = json.dumps(DECIDED).encode()
SHORT = GatewayLimits(head_wait_s_max=0.2, body_wait_s_max=0.2)


@pytest.fixture(scope="module")
def broker() -> MockBroker:
    return MockBroker()


@pytest.fixture(scope="module")
def gateway(broker: MockBroker) -> Iterator[GatewayServer]:
    with GatewayServer(broker.servers) as running:
        yield running


def request_head(gateway: GatewayServer, length: int) -> bytes:
    """The head of a request that brings an event."""
    lines = ["POST /v1/events HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {gateway.key}", f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode()


def connected(gateway: GatewayServer) -> socket.socket:
    """A connection to it."""
    return socket.create_connection(("127.0.0.1", gateway.port))


def read_answer(connection: socket.socket) -> bytes:
    """What the gateway sends until it has no more to say."""
    connection.settimeout(20)
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
        chunk = connection.recv(65_536)
        if not chunk:
            break
        answer += chunk
    return answer


def test_what_is_acknowledged_is_on_the_topic_and_other_clients_decode_it(
    broker: MockBroker, gateway: GatewayServer
) -> None:
    answer = httpx2.post(f"{gateway.url}/v1/events", json=DECIDED, headers=gateway.headers)
    assert answer.json()["accepted"] == 1
    [value] = broker.values(1)
    with SchemaRegistryClient({"url": gateway.url}) as registry:
        decode = AvroDeserializer(registry)
        found = decode(value, SerializationContext(EVENTS.name, MessageField.VALUE))
    assert isinstance(found, dict)
    assert (found["run_id"], found["verdict"]) == ("r-1", "allow")
    assert str(found["event_id"]) == answer.json()["results"][0]["event_id"]


def test_confluents_client_can_look_around(gateway: GatewayServer) -> None:
    subject = "agentledger.v1.PolicyDecided"
    with SchemaRegistryClient({"url": gateway.url}) as registry:
        assert subject in registry.get_subjects()
        latest = registry.get_latest_version(subject)
        assert registry.get_versions(subject)[-1] == latest.version
        assert registry.get_version(subject, 1).schema_id <= latest.schema_id
        assert registry.get_schema(latest.schema_id).schema_str == latest.schema.schema_str
        assert registry.get_compatibility() == "FULL_TRANSITIVE"


def test_a_head_that_does_not_come_costs_the_connection(broker: MockBroker) -> None:
    with GatewayServer(broker.servers, limits=SHORT) as gateway:
        for sent in (b"", b"POST /v1/events HT", request_head(gateway, 3)[:-2]):
            with connected(gateway) as connection:
                connection.sendall(sent)
                with pytest.raises((ConnectionResetError, AssertionError)):  # reset, or an end without an answer
                    assert read_answer(connection)


def test_a_second_head_that_does_not_come_costs_it_too(broker: MockBroker) -> None:
    with GatewayServer(broker.servers, limits=SHORT) as gateway, connected(gateway) as connection:
        connection.sendall(request_head(gateway, len(BODY)) + BODY)
        assert b" 200 " in read_answer(connection)
        connection.sendall(b"POST /v1")
        with pytest.raises((ConnectionResetError, AssertionError)):
            assert read_answer(connection)


def test_a_body_that_does_not_come_is_a_408(broker: MockBroker) -> None:
    with GatewayServer(broker.servers, limits=SHORT) as gateway, connected(gateway) as connection:
        connection.sendall(request_head(gateway, 100) + b"{")
        answer = read_answer(connection)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"body_too_slow" in answer


def test_what_is_under_way_is_answered_before_the_end(broker: MockBroker) -> None:
    with GatewayServer(broker.servers) as gateway:
        with connected(gateway) as connection:
            connection.sendall(request_head(gateway, len(BODY)) + BODY[:10])
            while httpx2.get(f"{gateway.url}/metrics").text.count("requests_under_way 2.0") == 0:
                pass  # this one, and the one that asks
            gateway.stop.set()
            while is_listening(gateway.port):
                pass
            connection.sendall(BODY[10:])
            assert b" 200 " in read_answer(connection)
        assert gateway.ended()


def is_listening(port: int) -> bool:
    """Whether the port takes connections."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_without_kafka_it_is_not_ready_and_refuses_at_once() -> None:
    with GatewayServer(f"127.0.0.1:{free_port()}", limits=GatewayLimits(ack_wait_s_max=0.5)) as gateway:
        first = httpx2.post(f"{gateway.url}/v1/events", json=DECIDED, headers=gateway.headers)
        assert (first.status_code, first.json()["unanswered"]) == (503, 1)
        while httpx2.get(f"{gateway.url}/readyz").status_code == 200:
            pass
        answer = httpx2.post(f"{gateway.url}/v1/events", json=DECIDED, headers=gateway.headers)
        assert (answer.status_code, answer.json()["error"]["message"][:24]) == (503, "Kafka can't be reached: ")
        assert answer.headers["Retry-After"] == "5"
        assert httpx2.get(f"{gateway.url}/healthz").status_code == 200


def test_tls(broker: MockBroker, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with GatewayServer(broker.servers, tls_certificate=certificate, tls_private_key=key) as gateway:
        trusting = ssl.create_default_context(cafile=certificate)
        answer = httpx2.post(f"{gateway.url}/v1/events", json=DECIDED, headers=gateway.headers, verify=trusting)
        assert answer.status_code == 200
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{gateway.url}/healthz", verify=ssl.create_default_context())
    with GatewayServer(
        broker.servers, tls_certificate=certificate, tls_private_key=key, tls_client_ca=certificate
    ) as gateway:
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{gateway.url}/healthz", verify=trusting)
        trusting.load_cert_chain(certificate, key)
        assert httpx2.get(f"{gateway.url}/healthz", verify=trusting).text == "ok\n"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 for a day, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = builder.add_extension(address, False).sign(private, hashes.SHA256())
    (folder / "c.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "c.pem", folder / "k.pem"


def test_a_certificate_that_is_none_is_one_line(broker: MockBroker, tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("nonsense")
    gateway = GatewayServer(broker.servers, tls_certificate=tmp_path / "c.pem", tls_private_key=tmp_path / "c.pem")
    with pytest.raises(ConfigurationError, match="TLS certificate"):
        gateway.__enter__()


def test_a_port_that_is_used_is_one_line(gateway: GatewayServer, broker: MockBroker) -> None:
    second = GatewayServer(broker.servers)
    object.__setattr__(second._config, "port", gateway.port)
    with pytest.raises(ConfigurationError, match=f"port {gateway.port}: Address already in use"):
        second.__enter__()


def test_other_machines_are_not_let_in_without_keys() -> None:
    config = GatewayConfig(kafka={}, host="0.0.0.0", port=1)
    check_exposure(config, has_ingest_key=True)
    with pytest.raises(ConfigurationError, match="there is none: make one: agentledger api-keys new"):
        check_exposure(config, has_ingest_key=False)
    open_to_all = GatewayConfig(kafka={}, host="0.0.0.0", port=1, local_tenant_id="acme")
    with pytest.raises(ConfigurationError, match="must ask for API keys"):
        check_exposure(open_to_all, has_ingest_key=True)


def test_without_keys_only_this_machine_writes_as_the_local_tenant(broker: MockBroker) -> None:
    with GatewayServer(broker.servers, local_tenant_id="default") as gateway:
        url = f"{gateway.url}/v1/events"
        assert httpx2.post(url, json=DECIDED).status_code == 200
        assert httpx2.post(url, json=DECIDED, headers={"Host": "evil.example"}).status_code == 401
        assert httpx2.post(url, json=DECIDED, headers={"Authorization": "Bearer x"}).status_code == 401
