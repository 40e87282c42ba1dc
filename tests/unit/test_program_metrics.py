"""What programs show to Prometheus: names, units, and values that follow what happened."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from agentledger.infra.console_metrics import ConsoleMetrics, counted
from agentledger.infra.metrics_listener import serve_metrics
from agentledger.infra.reconcile_metrics import ReconcileMetrics
from agentledger.infra.settings import load_settings
from agentledger.processors.fold_metrics import FoldMetrics
from agentledger.processors.packer_metrics import PackerMetrics
from agentledger.processors.ticker_metrics import TickerMetrics
from agentledger.producers.delivery import DeliveryCounters
from agentledger.producers.gateway.metrics import GatewayMetrics
from agentledger.producers.sdk_metrics import LedgerCollector
from agentledger.schemas.errors import BrokerError, ConfigurationError
from agentledger.sinks.console.ports import Command, ConsolePorts, Look
from agentledger.sinks.notify.metrics import NotifyMetrics
from agentledger.sinks.payload_metrics import PayloadMetrics
from agentledger.sinks.queries import Client
from agentledger.sinks.read_event import CountedReads
from agentledger.sinks.reconcile import CheckResult
from agentledger.sinks.signer_metrics import SignerMetrics
from agentledger.sinks.writer_metrics import WriterMetrics

ROOT = Path(__file__).parents[2]
PROGRAMS = "writer|signer|worker|scopes|holds|packer|ticker|payloads|reconcile|notify|console|sdk"
NAME = re.compile(rf"agentledger_({PROGRAMS})_[a-z_]+")


def registries() -> list[CollectorRegistry]:
    """That of every program, where each metric with labels has a sample."""
    ticker, reconcile, notify = TickerMetrics(), ReconcileMetrics(), NotifyMetrics()
    ticker.note_lag("packer", 0.5)
    reconcile.note_pass([result("holds", "acme", 3, 1)])
    notify.count_delivery("oncall", "trigger", "sent")
    notify.note_seconds("oncall", 0.2)
    sdk = CollectorRegistry()
    sdk.register(LedgerCollector(Counted(DeliveryCounters(9, 4, 1, {"too_large": 2}, 2, 1, 0))))
    return [
        WriterMetrics().registry, SignerMetrics().registry, PackerMetrics().registry, PayloadMetrics().registry,
        ConsoleMetrics().registry, ticker.registry, reconcile.registry, notify.registry, sdk,
        *(FoldMetrics(program).registry for program in ("worker", "scopes", "holds")),
    ]  # fmt: skip


def result(check: str, tenant_id: str, compared: int, drifts: int) -> CheckResult:
    """Of a check for one tenant."""
    return CheckResult(check, tenant_id, compared, expected=0, found=0, drifts=drifts, last_us=0)


class Counted(NamedTuple):
    """What has counters, as a Ledger."""

    counters: DeliveryCounters


def value(registry: CollectorRegistry, name: str) -> float:
    found = registry.get_sample_value(name)
    assert found is not None, name
    return found


@pytest.mark.parametrize("registry", registries())
def test_names_follow_the_convention(registry: CollectorRegistry) -> None:
    names = [metric.name for metric in registry.collect()]
    assert len(names) >= 3
    assert all(NAME.fullmatch(name) for name in names)


def test_a_writer_shows_the_age_of_what_is_not_written_yet() -> None:
    metrics = WriterMetrics()
    assert value(metrics.registry, "agentledger_writer_oldest_unflushed_seconds") == 0
    metrics.begin_flush(int((time.time() - 60) * 1000))
    assert value(metrics.registry, "agentledger_writer_oldest_unflushed_seconds") >= 59
    metrics.end_flush(7, 0.5)
    metrics.count_store_error()
    assert value(metrics.registry, "agentledger_writer_oldest_unflushed_seconds") == 0
    assert value(metrics.registry, "agentledger_writer_records_total") == 7
    assert value(metrics.registry, "agentledger_writer_flush_seconds_sum") == 0.5
    assert value(metrics.registry, "agentledger_writer_flush_records_count") == 1
    assert value(metrics.registry, "agentledger_writer_store_errors_total") == 1


def test_a_fold_shows_its_batches_and_what_waits() -> None:
    metrics = FoldMetrics("scopes")
    metrics.watch(lambda: 3, lambda: 11)
    metrics.note_settled(5, 2, 1_000.0)
    metrics.note_batch(5, 0.25)
    found = {
        name: value(metrics.registry, f"agentledger_scopes_{name}")
        for name in ("waiting_messages", "states", "messages_total", "states_written_total",
                     "last_input_timestamp_seconds", "batch_messages_sum", "batch_seconds_sum")
    }  # fmt: skip
    assert list(found.values()) == [3, 11, 5, 2, 1_000.0, 5, 0.25]


def test_a_signer_shows_that_it_refuses_and_that_it_goes_on() -> None:
    metrics = SignerMetrics()
    metrics.note_refusal()
    assert value(metrics.registry, "agentledger_signer_is_refusing") == 1
    metrics.note_step(has_signed=False, signed_us=2_000_000)
    assert value(metrics.registry, "agentledger_signer_is_refusing") == 0
    assert value(metrics.registry, "agentledger_signer_checkpoints_total") == 0
    assert value(metrics.registry, "agentledger_signer_last_checkpoint_timestamp_seconds") == 2
    metrics.note_step(has_signed=True, signed_us=3_000_000)
    assert value(metrics.registry, "agentledger_signer_checkpoints_total") == 1


def test_a_packer_shows_how_full_its_messages_are_and_what_waits() -> None:
    metrics = PackerMetrics()
    metrics.watch(lambda: 7)
    metrics.note_message(3, 1, 1_000.5)
    metrics.note_message(5, 0, 1_001.5)
    found = [
        value(metrics.registry, f"agentledger_packer_{name}")
        for name in ("records_total", "oversized_records_total", "message_records_count", "waiting_messages",
                     "last_input_timestamp_seconds")
    ]  # fmt: skip
    assert found == [8, 1, 2, 7, 1_001.5]


def test_reconciliation_shows_what_differed_in_its_last_pass_alone() -> None:
    metrics = ReconcileMetrics()
    metrics.note_pass([result("holds", "acme", 5, 2), result("holds", "b", 1, 1), result("charges", "b", 4, 0)])
    drifts = {"check": "holds"}
    assert metrics.registry.get_sample_value("agentledger_reconcile_drifts", drifts) == 3
    assert metrics.registry.get_sample_value("agentledger_reconcile_compared", {"check": "charges"}) == 4
    metrics.note_pass([result("charges", "b", 4, 0)])
    metrics.count_failure()
    assert metrics.registry.get_sample_value("agentledger_reconcile_drifts", drifts) is None
    assert value(metrics.registry, "agentledger_reconcile_passes_total") == 2
    assert value(metrics.registry, "agentledger_reconcile_failed_passes_total") == 1


def test_a_ledgers_own_counters_are_there_to_be_collected() -> None:
    registry = CollectorRegistry()
    registry.register(LedgerCollector(Counted(DeliveryCounters(9, 4, 1, {"too_large": 2}, 2, 1, 0))))
    assert value(registry, "agentledger_sdk_emitted_events_total") == 9
    assert value(registry, "agentledger_sdk_waiting_events") == 2
    assert registry.get_sample_value("agentledger_sdk_dropped_events_total", {"reason": "too_large"}) == 2
    assert registry.get_sample_value("agentledger_sdk_gaps_total", {"announced": "yes"}) == 1


def test_the_console_counts_looks_and_commands_that_went_out() -> None:
    seen: list[object] = []
    metrics, reads = ConsoleMetrics(), CountedReads(cast("Client", None))
    bare: Any = dict.fromkeys(ConsolePorts.__dataclass_fields__)
    ports = counted(ConsolePorts(**{**bare, "record": seen.append, "issue": refuse_twice(seen)}), metrics)
    ports.record(Look({"page": "runs"}, "acme", "ann", 0, 12.5, reads))
    ports.record(Look({"page": "runs"}, "acme", "ann", 0, 1.5, reads, "it failed"))
    command = Command("halt", "acme", "agent", "clerk", "why", "ann")
    with pytest.raises(BrokerError):
        ports.issue(command)
    ports.issue(command)
    assert len(seen) == 4
    assert metrics.registry.get_sample_value("agentledger_console_looks_total", {"result": "failed"}) == 1
    assert value(metrics.registry, "agentledger_console_look_seconds_count") == 2
    assert value(metrics.registry, "agentledger_console_commands_total") == 1


def refuse_twice(seen: list[object]) -> Callable[[object], None]:
    """A command that the broker takes the second time alone."""

    def issue(command: object) -> None:
        seen.append(command)
        if seen.count(command) == 1:
            raise BrokerError("no broker")

    return issue


def test_a_listener_answers_and_a_port_in_use_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = load_settings(metrics_port=port)
    serve_metrics(settings, WriterMetrics().registry)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"agentledger_writer_records_total 0.0" in answer.read()
    with pytest.raises(ConfigurationError, match="AGENTLEDGER_METRICS_PORT"):
        serve_metrics(settings, SignerMetrics().registry)


def test_without_a_port_nothing_listens() -> None:
    before = set(threading.enumerate())
    serve_metrics(load_settings(metrics_port=0), WriterMetrics().registry)
    assert set(threading.enumerate()) <= before  # threads of tests before may end meanwhile


def shown_samples() -> set[str]:
    """The name of every sample that the programs show; of a metric with labels that has none yet, those of its kind."""
    names = {sample.name for registry in registries() for metric in registry.collect() for sample in metric.samples}
    gateway = GatewayMetrics()
    gateway.count_events("accepted")
    return names | set(re.findall(r"^(agentledger_\w+)", gateway.text().decode(), re.MULTILINE))


RULES = ROOT / "infra/prometheus/alerts.yaml"
PROMTOOL = shutil.which("promtool")


def panel_queries() -> list[str]:
    """What the dashboard of the programs asks Prometheus."""
    board = json.loads((ROOT / "infra/grafana/programs.json").read_text("utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_dashboards_and_alert_rules_ask_for_what_is_shown() -> None:
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"][0]["rules"]
    queries = [*panel_queries(), *(rule["expr"] for rule in rules)]
    asked = {name for query in queries for name in re.findall(r"agentledger_\w+", query)}
    assert len(asked) >= 20
    assert asked <= shown_samples()


def promtool(*arguments: str, stdin: bytes = b"") -> None:
    """Prometheus' own tool says that it is right. Raises AssertionError with what it says otherwise."""
    assert PROMTOOL, "apt-get install --no-install-recommends prometheus: promtool is in it"
    done = subprocess.run([PROMTOOL, *arguments], input=stdin, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_prometheus_reads_the_alert_rules_and_every_panels_query(tmp_path: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    recorded = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(panel_queries())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}), "utf-8")
    promtool("check", "rules", str(path))


def test_alert_rules_fire_when_they_should() -> None:
    """By series made up: promtool's own tests of rules."""
    promtool("test", "rules", str(ROOT / "tests/golden/prometheus_rules_test.yaml"))


def test_prometheus_finds_nothing_odd_in_names_and_types() -> None:
    shown = b"".join(generate_latest(registry) for registry in registries())
    promtool("check", "metrics", stdin=shown)
