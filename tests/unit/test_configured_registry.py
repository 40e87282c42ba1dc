"""The schema registry that the settings name is asked with their password, by whoever opens a codec."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agentledger.infra.endpoints import configured_registry, open_codec
from agentledger.infra.settings import load_settings
from agentledger.schemas.errors import SchemaError
from agentledger.schemas.registry import LockFileRegistry
from tests.run_logs import some_run

LOGIN = "ledger:of a secret"


@pytest.fixture
def registry_url() -> Iterator[str]:
    """A registry that knows the bundled ids and takes nobody without the password."""
    bundled = LockFileRegistry()
    wanted = "Basic " + base64.b64encode(LOGIN.encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            record = self.path.split("/")[2].rpartition(".")[2]
            self._say({"id": bundled.id_of(record)})

        def do_GET(self) -> None:
            self._say({"schema": json.dumps(bundled.schema_of(int(self.path.split("/")[3].split("?")[0])))})

        def _say(self, content: object) -> None:
            is_known = self.headers.get("Authorization") == wanted
            self.send_response(200 if is_known else 401)
            self.end_headers()
            self.wfile.write(json.dumps(content if is_known else {"error_code": 401, "message": "who?"}).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_registry_with_a_password_is_asked_with_it(registry_url: str) -> None:
    settings = load_settings(schema_registry_url=registry_url, schema_registry_basic_auth=LOGIN)
    event = some_run(1, random.Random(1))[0]
    assert open_codec(settings).decode(open_codec(settings).encode(event)) == event


def test_without_the_password_the_registry_is_named_and_no_secret(registry_url: str) -> None:
    settings = load_settings(schema_registry_url=registry_url, schema_registry_basic_auth="ledger:of another")
    with pytest.raises(SchemaError, match=registry_url) as caught:
        configured_registry(settings).id_of("RunStarted")
    assert "another" not in str(caught.value)


def test_without_a_registry_it_is_the_bundled_one() -> None:
    assert isinstance(configured_registry(load_settings()), LockFileRegistry)
