"""`python -m agentledger.infra.stack.clickhouse_server DATA_FOLDER HTTP_PORT`: ClickHouse until SIGTERM.

The server inside chdb listens for as long as one query runs, so the query never ends: a number every fifth of a second,
to nowhere. SIGTERM kills that query, and chdb then shuts its server down in order. Without that, a signal ends the
process on the spot. Ports and limits come from config.xml in the working folder.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from agentledger.infra.stack.clickhouse import LOGIN_VARIABLES, ask

SERVE = "SELECT sleepEachRow(0.2) AS agentledger_serves FROM system.numbers"
QUERY = f"SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; {SERVE} SETTINGS max_block_size=1, max_threads=1, \
max_execution_time=0, max_rows_to_read=0, log_queries=0 FORMAT Null"
STOPS = {signal.SIGTERM, signal.SIGINT}
LOOK_SECONDS = 0.5
STOP_QUERIES = ("SYSTEM FLUSH ASYNC INSERT QUEUE", f"KILL QUERY WHERE startsWith(query, '{SERVE}') ASYNC")
STOP_SECONDS = 25.0


def serve(data: str) -> None:
    """Run the server; returns when its query was killed or couldn't start."""
    import chdb._chdb  # noqa: PLC0415 - loads 500 MB, and only here

    # The format is the server's default output format from then on: it must be what HTTP clients expect.
    chdb._chdb.query(QUERY, "TabSeparated", path=data)


def main() -> int:
    """Serve until SIGTERM or SIGINT; 1 if the server ended by itself."""
    data, http_port = sys.argv[1], int(sys.argv[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    server = threading.Thread(target=serve, args=(data,), daemon=True)
    server.start()
    while signal.sigtimedwait(STOPS, LOOK_SECONDS) is None:
        if not server.is_alive():
            return 1
    user, password = (os.environ.get(name, "") for name in LOGIN_VARIABLES)
    for query in STOP_QUERIES:
        ask(http_port, query, login=(user or "default", password))
    server.join(STOP_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
