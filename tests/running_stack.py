"""A local stack for tests, used as a user does: through the command line, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

COMMAND_S_MAX = 240
ROOT = Path(__file__).parents[1]


class RunningStack:
    """One stack on a folder of its own, up inside its `with` block. `up` and `down` may be called again."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("AGENTLEDGER_KAFKA")}
        self.env["AGENTLEDGER_DATA_DIR"] = str(data_dir)

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `agentledger ARGUMENTS`; what it printed."""
        command = [sys.executable, "-m", "agentledger.infra.cli", *arguments]
        done = subprocess.run(
            command, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(arguments)} gave {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `agentledger ARGUMENTS` and leave it running."""
        command = [sys.executable, "-m", "agentledger.infra.cli", *arguments]
        return subprocess.Popen(
            command, env=self.env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def up(self) -> None:
        """Start everything, detached."""
        self.cli("up", "--detach")

    def down(self) -> None:
        """Stop everything."""
        self.cli("down")

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        rows: list[dict[str, Any]] = json.loads(self.cli("query", sql, "--format", "json").stdout)
        return rows

    def one(self, sql: str) -> dict[str, Any]:
        """The only row of a query."""
        [row] = self.query(sql)
        return row

    def login(self, user: str) -> dict[str, str]:
        """What clickhouse-connect needs to sign in as one of the local users, such as `admin`."""
        password = (self.data_dir / "access" / f"{user}.password").read_text("utf-8").strip()
        return {"dsn": self.endpoints()["clickhouse_url"], "username": user, "password": password}

    def pid(self, service: str) -> int:
        """The process id of one service now."""
        state = json.loads((self.data_dir / "stack.json").read_text())
        return next(int(item["pid"]) for item in state["services"] if item["name"] == service)

    def endpoints(self) -> dict[str, str]:
        """`kafka_bootstrap_servers` and `clickhouse_url`."""
        state: dict[str, Any] = json.loads((self.data_dir / "stack.json").read_text())
        found: dict[str, str] = state["endpoints"]
        return found

    def exports(self) -> dict[str, str]:
        """What `eval "$(agentledger env)"` sets."""
        lines = self.cli("env").stdout.splitlines()
        return dict(line.removeprefix("export ").split("=", 1) for line in lines if "=" in line)

    def settle(self, sql: str, is_done: Callable[[dict[str, Any]], bool], wait_s_max: float = 120) -> dict[str, Any]:
        """Ask until the answer is as wanted twice in a row: that answer. Fails after `wait_s_max`.

        Each question is itself an event in the ledger: what counts all events never rests.
        """
        deadline = time.monotonic() + wait_s_max
        before: dict[str, Any] = {}
        while time.monotonic() < deadline:
            done = self.cli("query", sql, "--format", "json", check=False)
            row: dict[str, Any] = json.loads(done.stdout)[0] if done.returncode == 0 else {}
            if row and row == before and is_done(row):
                return row
            before = row
            time.sleep(0.5)
        raise AssertionError(f"it did not settle in {wait_s_max} s: {before or done.stderr}")
