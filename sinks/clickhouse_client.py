"""How the writer, the signer and who verifies connect to ClickHouse."""

from __future__ import annotations

from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client


def open_client(url: str, user: str, password: str, *, answer_s_max: int, **options: Any) -> Client:
    """A client without a session, so that several threads may ask. Raises what the driver raises.

    `answer_s_max` is the longest wait for an answer; `options` are the driver's own.
    """
    client: Client = clickhouse_connect.get_client(
        dsn=url, username=user, password=password, autogenerate_session_id=False, send_receive_timeout=answer_s_max,
        **options,
    )  # fmt: skip
    return client
