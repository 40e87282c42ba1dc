"""The real ClickHouse: the server inside the chdb wheel, in a process of its own."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from agentledger.infra.stack.access import write_secret
from agentledger.infra.stack.files import write_atomically
from agentledger.infra.stack.ports import HOST
from agentledger.infra.stack.service import Service, python_module
from agentledger.schemas.errors import StackError

PROBE_SECONDS = 2.0
USERS_FILE = "users.xml"
LOGIN_VARIABLES = ("AGENTLEDGER_CLICKHOUSE_USER", "AGENTLEDGER_CLICKHOUSE_PASSWORD")  # as our other programs have them


class ClickHouseService(Service):
    """A ClickHouse server on the loopback address, with its data under DIR/clickhouse."""

    stop_seconds = 30.0

    def __init__(
        self, data_dir: Path, http_port: int, native_port: int, users_xml: str = "",
        login: tuple[str, str] = ("default", ""), *, nice: int = 0,
    ) -> None:  # fmt: skip
        super().__init__("clickhouse", data_dir)
        self.http_port = http_port
        self.native_port = native_port
        self.users_xml = users_xml
        self._login = login
        self.nice = nice
        if find_spec("chdb") is None:
            raise StackError(
                "no ClickHouse found: it comes inside the chdb wheel", next_step="pip install 'agentledger[local]'"
            )

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def env(self) -> Mapping[str, str]:
        return dict(zip(LOGIN_VARIABLES, self._login, strict=True))

    @property
    def working_folder(self) -> Path:
        return self.run_dir

    def prepare(self) -> None:
        """Write config.xml and the users file, which the server reads from its working folder."""
        template = resources.files(__package__).joinpath("clickhouse-config.xml").read_text(encoding="utf-8")
        text = template.replace("@HTTP_PORT@", str(self.http_port)).replace("@NATIVE_PORT@", str(self.native_port))
        users = f"<users_config>{USERS_FILE}</users_config>" if self.users_xml else ""
        write_atomically(self.run_dir / "config.xml", text.replace("@USERS@", users))
        if self.users_xml:
            write_secret(self.run_dir / USERS_FILE, self.users_xml)

    def command(self) -> list[str]:
        data = str(self.data_dir / "clickhouse")
        return python_module("agentledger.infra.stack.clickhouse_server", data, str(self.http_port))

    def is_ready(self) -> bool:
        return ask(self.http_port, "SELECT 1") == "1\n"


def ask(
    http_port: int, query: str, timeout: float = PROBE_SECONDS, login: tuple[str, str] = ("default", "")
) -> str | None:
    """The server's answer to a query; None if it gives none or an error."""
    headers = dict(zip(("X-ClickHouse-User", "X-ClickHouse-Key"), login, strict=True))
    connection = http.client.HTTPConnection(HOST, http_port, timeout=timeout)
    try:
        connection.request("POST", "/", query.encode(), headers)
        response = connection.getresponse()
        text = response.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return text if response.status == http.HTTPStatus.OK else None
