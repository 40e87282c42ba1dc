"""`agentledger notify run` in a process of its own, and a real Alertmanager beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from agentledger.infra.stack.ports import free_port
from agentledger.sinks.notify.state import read_status
from tests.page_receiver import Got


class Notify:
    """The program, in a process of its own, on a folder of its own."""

    def __init__(self, folder: Path, servers: str, notify_file: str, **env: str) -> None:
        folder.mkdir()
        path = folder / "notify.yaml"
        path.write_text(notify_file, "utf-8")
        self.ready = folder / "ready"
        self.state_path = folder / "notify" / "notify.sqlite"
        self.env = {
            **os.environ, "AGENTLEDGER_DATA_DIR": str(folder), "AGENTLEDGER_NOTIFY_FILE": str(path),
            "AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": servers, "AGENTLEDGER_READY_FILE": str(self.ready), **env,
        }  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, until it works."""
        self.ready.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-m", "agentledger.infra.cli", "notify", "run"], env=self.env)
        wait_for(lambda: self.ready.exists() or process.poll() is not None)
        assert process.poll() is None, "notify ended by itself"
        return process

    def told(self) -> Counter[str]:
        """How many pages stand at what."""
        incidents, _, _ = read_status(self.state_path)
        return Counter(page.told for incident in incidents for page in incident.pages.values())


def wait_for(holds: Callable[[], bool], s_max: float = 60) -> None:
    """Look again and again until it holds."""
    deadline = time.monotonic() + s_max
    while not holds():
        assert time.monotonic() < deadline, "it didn't come to that"
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    """Send the signal and wait."""
    process.send_signal(number)
    process.wait(30)


ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
ALERTMANAGER_FILE = """
route: {{receiver: people, group_by: [tenant], group_wait: 1s, group_interval: 1s, repeat_interval: 1h}}
receivers:
- name: people
  webhook_configs: [{{url: "{url}", send_resolved: true}}]
"""


@contextlib.contextmanager
def alertmanager(folder: Path, people_url: str) -> Iterator[str]:
    """Its address, while the block runs. It tells people at once, at their webhook."""
    assert ALERTMANAGER, "apt-get install prometheus-alertmanager"
    port = free_port()
    config = folder / "alertmanager.yml"
    config.write_text(ALERTMANAGER_FILE.format(url=people_url), "utf-8")
    command = [
        ALERTMANAGER, f"--config.file={config}", f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/-/ready"))
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def answers(url: str) -> bool:
    """Whether somebody is there."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def firing(got: list[Got], status: str) -> set[str]:
    """Names of the alerts that people were told of with this status."""
    told = [alert for one in got if one.path == "/people" for alert in one.json["alerts"]]
    return {alert["labels"]["alertname"] for alert in told if alert["status"] == status}
