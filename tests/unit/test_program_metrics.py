"""What programs show to Prometheus: names, units, and values that follow what happened."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from agentledger.infra.metrics_listener import serve_metrics
from agentledger.infra.settings import load_settings
from agentledger.processors.fold_metrics import FoldMetrics
from agentledger.producers.gateway.metrics import GatewayMetrics
from agentledger.schemas.errors import ConfigurationError
from agentledger.sinks.signer_metrics import SignerMetrics
from agentledger.sinks.writer_metrics import WriterMetrics

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"agentledger_(writer|signer|worker|scopes|holds)_[a-z_]+")


def value(registry: CollectorRegistry, name: str) -> float:
    found = registry.get_sample_value(name)
    assert found is not None, name
    return found


@pytest.mark.parametrize(
    "registry",
    [WriterMetrics().registry, SignerMetrics().registry, *(FoldMetrics(p).registry for p in ("worker", "holds"))],
)
def test_names_follow_the_convention(registry: CollectorRegistry) -> None:
    names = [metric.name for metric in registry.collect()]
    assert len(names) >= 4
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
    registries = [WriterMetrics().registry, SignerMetrics().registry]
    registries += [FoldMetrics(program).registry for program in ("worker", "scopes", "holds")]
    names = {sample.name for registry in registries for metric in registry.collect() for sample in metric.samples}
    gateway = GatewayMetrics()
    gateway.count_events("accepted")
    return names | set(re.findall(r"^(agentledger_\w+)", gateway.text().decode(), re.MULTILINE))


def test_dashboards_and_alert_rules_ask_for_what_is_shown() -> None:
    board = json.loads((ROOT / "infra/grafana/programs.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((ROOT / "infra/prometheus/alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
    queries += [rule["expr"] for rule in rules]
    asked = {name for query in queries for name in re.findall(r"agentledger_\w+", query)}
    assert len(asked) >= 10
    assert asked <= shown_samples()
