"""Agents with an outbox, in processes of their own, that say each event id once `emit` has returned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

AGENT = """
import json, os, sys, time
from agentledger.producers import Ledger
ledger = Ledger(
    agent_id=sys.argv[5], bootstrap_servers=sys.argv[1], control="off", outbox=json.loads(sys.argv[2]),
    flush_wait_ms_max=int(sys.argv[6]),
)
count, pause_s = int(sys.argv[3]), float(sys.argv[4])
with ledger.run("w", run_id=f"run-{os.getpid()}") as run:
    for _ in range(count):
        print(run.policy_decision(policy="p", verdict="allow"), flush=True)
        time.sleep(pause_s)
"""


def start_agent(
    servers: str,
    outbox: Path,
    count: int,
    pause_s: float = 0,
    *,
    agent_id: str = "a",
    flush_wait_ms_max: int = 0,
    **settings: int,
) -> subprocess.Popen[str]:
    """An agent that emits so many events; `settings` are those of its outbox."""
    kept = json.dumps({"folder": str(outbox), **settings})
    command = [sys.executable, "-c", AGENT, servers, kept, str(count), str(pause_s), agent_id, str(flush_wait_ms_max)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def said_until_killed(process: subprocess.Popen[str], count: int) -> list[str]:
    """The event ids that the agent said before it was killed, after so many."""
    with process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(count)]
        os.kill(process.pid, signal.SIGKILL)
        said += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    return said


def flush_outbox(servers: str, outbox: Path) -> str:
    """`agentledger outbox flush`: send what dead processes left; what it printed."""
    command = [sys.executable, "-m", "agentledger.infra.cli", "outbox", "flush", "--dir", str(outbox)]
    environ = {**os.environ, "AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": servers}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
