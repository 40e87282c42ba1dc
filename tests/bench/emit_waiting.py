"""The memory of an agent while a million of its events wait for a broker that is away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EVENTS = 1_000_000
# Its own process, so that nothing else is in the figure. Nobody listens on port 1.
_AGENT = f"""
import sys
from agentledger.producers import Ledger
ledger = Ledger(bootstrap_servers="127.0.0.1:1", control="off", outbox=sys.argv[1], flush_wait_ms_max=0)
with ledger.run("bench") as run:
    for _ in range({EVENTS}):
        run.record_model_call(model="gpt-4.1", provider="openai", status="ok", input_tokens=1420, output_tokens=310)
counters = ledger.counters
assert counters.waiting == counters.emitted > {EVENTS}, counters
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmRSS")))
"""


def waiting_rss_mb(folder: Path) -> float:
    """Resident memory of a process with a million events in its outbox, megabytes."""
    done = subprocess.run(
        [sys.executable, "-c", _AGENT, str(folder)], capture_output=True, text=True, timeout=600, check=True
    )
    return int(done.stdout) / 1000
