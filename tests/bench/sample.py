"""The events that the measurements use: a mix of an ordinary day, about 500 bytes each, the same for a seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from agentledger.schemas import Codec, Event, open_registry, uuid7
from agentledger.schemas.events import (
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)

START_US = 1_790_000_000_000_000
CALLS_PER_RUN = 16
RUNS_AT_A_TIME = 50  # as many run side by side, so that a batch holds many runs


def sample_events(count: int, seed: int = 1) -> Iterator[Event]:
    """`count` events of runs side by side, each in its order."""
    rng = random.Random(seed)
    return side_by_side((_run_events(rng, number) for number in itertools.count()), count, rng)


def side_by_side(runs: Iterator[Iterator[Event]], count: int, rng: random.Random) -> Iterator[Event]:
    """`count` events of these runs, RUNS_AT_A_TIME of them at a time, each in its order."""
    open_runs = [next(runs) for _ in range(RUNS_AT_A_TIME)]
    for _ in range(count):
        place = rng.randrange(RUNS_AT_A_TIME)
        event = next(open_runs[place], None)
        if event is None:
            open_runs[place] = next(runs)
            event = next(open_runs[place])
        yield event


def sample_records(count: int, seed: int = 1) -> list[tuple[bytes, bytes]]:
    """Key and value of `sample_events`."""
    codec = Codec(open_registry())
    return [(event.run_id.encode(), codec.encode(event)) for event in sample_events(count, seed)]


def _run_events(rng: random.Random, number: int) -> Iterator[Event]:
    run_id = f"run-{rng.getrandbits(64):016x}"
    seq = 0
    at_us = START_US + number * 1_000_000

    def envelope() -> dict[str, object]:
        nonlocal seq, at_us
        at_us += rng.randrange(50_000, 900_000)
        seq += 1
        return {
            "event_id": uuid7(at_us, rng.randbytes(10)),
            "tenant_id": "acme",
            "producer_id": f"host-7-{run_id}",
            "producer_seq": seq - 1,
            "run_id": run_id,
            "step": seq - 1,
            "trace_id": f"{rng.getrandbits(128):032x}",
            "span_id": f"{rng.getrandbits(64):016x}",
            "agent_id": "support-bot",
            "agent_version": "4.2",
            "workflow": "refund_request",
            "environment": "production",
            "actor": "customer",
            "occurred_at": at_us,
            "labels": {"team": "care", "tier": "plus"},
        }

    yield RunStarted(**envelope(), source="sdk", task="refund", budget_tool_calls=6, policy_version="p-7")  # type: ignore[arg-type]
    for call in range(CALLS_PER_RUN):
        yield _call(rng, call, envelope())
    yield OutcomeRecorded(**envelope(), success=rng.random() < 0.8, verified_by="refund ledger")  # type: ignore[arg-type]
    yield RunFinished(**envelope(), status="succeeded", duration_ms=9_000)  # type: ignore[arg-type]


def _call(rng: random.Random, call: int, envelope: dict[str, object]) -> Event:
    digest = f"sha256:{rng.getrandbits(256):064x}"
    if call % 8 == 7:
        return PolicyDecided(
            **envelope, engine="opa", policy="refunds", policy_version="p-7", rule="amount_cap", verdict="allow",
            enforced="allowed", risk_tier="low", action="create_refund", input_digest=digest,
        )  # type: ignore[arg-type]  # fmt: skip
    if call % 2:
        return ToolCallCompleted(
            **envelope, tool="lookup_order", requestor="assistant", call_id=f"call_{call}", arguments_digest=digest,
            arguments_bytes=120, result_digest=digest, result_bytes=900, effect="read", status="ok",
            latency_ms=rng.random() * 300,
        )  # type: ignore[arg-type]  # fmt: skip
    return ModelCallCompleted(
        **envelope, provider="openai", requested_model="gpt-4.1-mini", answered_model="gpt-4.1-mini-2025-04-14",
        requestor="assistant", input_tokens=rng.randrange(2000), cache_read_tokens=rng.randrange(4000),
        output_tokens=rng.randrange(400), latency_ms=rng.random() * 3000, status="ok", finish_reason="stop",
        response_id=f"resp_{rng.getrandbits(96):024x}", input_digest=digest, output_digest=digest,
    )  # type: ignore[arg-type]  # fmt: skip
