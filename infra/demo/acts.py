"""What all agents of the demo do: ask a model, use a tool; both fail now and then and are tried again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentledger.producers import Run

if TYPE_CHECKING:
    from agentledger.infra.demo.workload import StoryClock

TRIES_MAX = 3


class RateLimitedError(Exception):
    """The provider asks to come back later."""


class ToolFailedError(Exception):
    """The tool's backend did not answer."""


def ask_model(
    run: Run, clock: StoryClock, rng: random.Random, model: str, provider: str, *,
    input_tokens: int, cached_tokens: int, output_tokens: int, cache_write_tokens: int = 0, reasoning: int = 0,
    error_rate: float = 0.02,
) -> None:  # fmt: skip
    """One answer of a model; a rate limit is tried again at most twice."""
    for attempt in range(1, TRIES_MAX + 1):
        try:
            with run.model_call(model=model, provider=provider, attempt=attempt) as call:
                clock.pass_ms(rng.lognormvariate(6.6, 0.5))
                if attempt < TRIES_MAX and rng.random() < error_rate:
                    call.usage(input_tokens=0, output_tokens=0)  # a refused request is not billed
                    raise RateLimitedError("429: too many requests")
                call.usage(
                    input_tokens=int(input_tokens * rng.uniform(0.7, 1.4)),
                    cache_read_tokens=cached_tokens,
                    cache_write_tokens=cache_write_tokens,
                    output_tokens=int(output_tokens * rng.uniform(0.6, 1.7)),
                    reasoning_tokens=int(reasoning * rng.uniform(0.3, 2)),
                )
                return
        except RateLimitedError:
            clock.pass_ms(1000 * 2**attempt)


def use_tool(
    run: Run, clock: StoryClock, rng: random.Random, tool: str, arguments: Mapping[str, object], *,
    effect: str, target: str = "", policy_decision_id: str | None = None, idempotency_key: str = "",
    fail_rate: float = 0.02,
) -> None:  # fmt: skip
    """One use of a tool; a failure is tried once more."""
    for attempt in (1, 2):
        try:
            with run.tool_call(
                tool, arguments=arguments, effect=effect, target=target, attempt=attempt,
                policy_decision_id=policy_decision_id, idempotency_key=idempotency_key,
            ) as call:  # fmt: skip
                clock.pass_ms(rng.lognormvariate(5, 0.7))
                if rng.random() < fail_rate:
                    raise ToolFailedError("the backend did not answer")
                call.result({"ok": True})
                return
        except ToolFailedError:
            clock.pass_ms(500)
