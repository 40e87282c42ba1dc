"""Holds: a part of every budget that a call falls under, reserved before it and settled after. Pure rules.

One hold goes asked → granted → settled (or released, where the call was not made), or asked → refused. Where no answer
comes in time it is *unanswered*: the settings say whether the call is made all the same (then it is settled like a
granted one: what was spent must be counted) or not (then it is released, in case the grant is still on its way).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from agentledger.schemas.errors import (
    HoldRefusedError,
    HoldUnansweredError,
    MoneyError,
    UnpricedError,
    UsageError,
)
from agentledger.schemas.events import HoldDecided
from agentledger.schemas.money import usd_to_nanousd
from agentledger.schemas.ports import Charge, PriceBook, TokenUsage

State = Literal["asked", "granted", "refused", "unanswered", "settled", "released"]
INPUT_BYTES_PER_TOKEN = 3  # English prose has four or more, code and other languages about three
TOKENS_ASSUMED = 4096
ANSWER_S_MAX = 2.0
TTL_S = 300.0  # longer than nearly every call; a dead agent's money is back after five minutes
TTL_S_MAX = 600.0  # the writer that decides lets nobody hold for longer without a word
RENEWED_S_MAX = 3600.0  # longer than any call should take: one that hangs must not hold a budget for good


class Amounts(NamedTuple):
    """What is asked for, or was used: nano-dollars, tokens, calls."""

    cost_nanousd: int = 0
    tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The most that a call may use, as far as the caller knows; the rest is worked out. Raises UsageError.

    `cost_usd` and `tokens` go as they are. Else `input_tokens` and `output_tokens_max` give the tokens, and the price
    book the dollars.
    """

    cost_usd: Decimal | float | str | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens_max: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "input_tokens", "output_tokens_max"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53):
                raise UsageError(f"{name}={value!r} is no estimate", next_step="give a whole number of 0 or more")
        try:
            cost = self.cost_nanousd
        except MoneyError as error:
            raise UsageError(f"cost_usd is no estimate: {error}") from None
        if cost is not None and cost < 0:
            raise UsageError(f"cost_usd={self.cost_usd} is no estimate", next_step="give 0 or more dollars")

    @property
    def cost_nanousd(self) -> int | None:
        """The dollars in nano-dollars."""
        return None if self.cost_usd is None else usd_to_nanousd(self.cost_usd)


NO_ESTIMATE = Estimate()


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldSettings:
    """How a ledger asks for holds. Raises UsageError for what makes no sense.

    - `when_unreachable`: what happens to a call when no decision comes within `answer_s_max`: `allow` (budgets fail
      open) or `refuse` (they fail closed). What the budgets of the call were declared with (`fail`) comes first, where
      it is known. It has no default: this has to be said.
    - `ttl_s`: after how many seconds of ledger time without a word a hold lapses, at most 600. The hold of a call
      under way is renewed three times in that time, so it lapses only when its process has died.
    - `renewed_s_max`: a call that takes longer than this (and `ttl_s`) spends money that is held no more.
    - `calls`: `all` calls ask for a hold, only those of a `model`, or only those `asked` for with `hold=…`.
    - `unpriced`: a model call whose cost can't be estimated is refused (UnpricedError), or asks for no dollars (allow).
    - `input_tokens_assumed`, `output_tokens_assumed`: where neither call nor estimate says more.
    """

    when_unreachable: Literal["allow", "refuse"]
    answer_s_max: float = ANSWER_S_MAX
    ttl_s: float = TTL_S
    renewed_s_max: float = RENEWED_S_MAX
    calls: Literal["all", "model", "asked"] = "all"
    unpriced: Literal["refuse", "allow"] = "refuse"
    input_tokens_assumed: int = TOKENS_ASSUMED
    output_tokens_assumed: int = TOKENS_ASSUMED

    def __post_init__(self) -> None:
        words = {self.when_unreachable, self.unpriced} <= {"allow", "refuse"}
        if not words or self.calls not in {"all", "model", "asked"}:
            raise UsageError(
                f"holds can't do when_unreachable={self.when_unreachable!r}, unpriced={self.unpriced!r}, "
                f"calls={self.calls!r}",
                next_step="use allow or refuse for the first two; all, model or asked for the third",
            )
        assumed = self.input_tokens_assumed, self.output_tokens_assumed
        seconds_fit = 0 < self.answer_s_max <= self.ttl_s <= TTL_S_MAX and self.renewed_s_max >= 0
        if not seconds_fit or min(assumed) < 0:
            raise UsageError(
                f"holds can't work with answer_s_max={self.answer_s_max}, ttl_s={self.ttl_s}, "
                f"renewed_s_max={self.renewed_s_max}, assumed tokens {assumed}",
                next_step=f"give positive seconds, ttl_s the longer (at most {TTL_S_MAX:g}), and no negative counts",
            )


def to_holds(given: HoldSettings | Mapping[str, Any] | None) -> HoldSettings | None:
    """The settings from what a caller gave; None: no holds. Raises UsageError."""
    if given is None or isinstance(given, HoldSettings):
        return given
    try:
        return HoldSettings(**given)
    except TypeError as error:
        raise UsageError(
            f"these are no hold settings: {error}", next_step="say at least when_unreachable='allow' or 'refuse'"
        ) from None


class Report(NamedTuple):
    """What is to be reported of a hold: settle, release or renew."""

    action: Literal["settle", "release", "renew"]
    used: Amounts = Amounts()
    reason: str = ""


@dataclass(slots=True, weakref_slot=True)
class Hold:
    """One hold and what became of it. Each step gives what has to be reported, once."""

    hold_id: str
    asked: Amounts
    owner: int = 0  # the process that asked: a forked child must not settle what its parent holds
    when_unreachable: Literal["allow", "refuse"] = "refuse"  # whether the call is made where nobody decides
    state: State = "asked"
    decision: HoldDecided | None = None

    def decide(self, decision: HoldDecided) -> bool:
        """Take in the decision; whether somebody may be waiting for it. A second one changes nothing."""
        if self.decision is not None:
            return False
        self.decision = decision
        if self.state != "asked":
            return False  # too late
        self.state = "granted" if decision.verdict == "granted" else "refused"
        return True

    def give_up(self) -> Report | None:
        """No answer came in time."""
        if self.state != "asked":
            return None
        if self.when_unreachable == "refuse":
            return self.release("unanswered")
        self.state = "unanswered"
        return None

    def settle(self, used: Amounts) -> Report | None:
        """The call was made and used this."""
        if self.state not in {"granted", "unanswered"}:
            return None
        self.state = "settled"
        return Report("settle", used)

    def release(self, reason: str) -> Report | None:
        """The call was not made."""
        if self.state not in {"asked", "granted", "unanswered"}:
            return None
        self.state = "released"
        return Report("release", reason=reason)

    def renew(self) -> Report | None:
        """The call is still under way."""
        return Report("renew") if self.state in {"granted", "unanswered"} else None


def refusal_of(hold: Hold, run_id: str) -> HoldRefusedError:
    """The error for a refused hold."""
    decision = hold.decision
    if decision is None:
        return HoldRefusedError(hold.hold_id, run_id=run_id, reason="invalid")
    asked = hold.asked._asdict().get(decision.metric, 0)
    return HoldRefusedError(
        hold.hold_id, run_id=run_id, reason=decision.reason or "limit", budget_id=decision.budget_id,
        scope=decision.scope, scope_value=decision.scope_value, metric=decision.metric, limit=decision.limit_amount,
        used=decision.used_amount, held=decision.held_amount, asked=asked, on_exceeded=decision.on_exceeded,
    )  # fmt: skip


def no_answer(hold: Hold, run_id: str, waited_s: float) -> HoldUnansweredError:
    """The error for a hold that nobody decided on in time."""
    return HoldUnansweredError(
        f"no decision on the hold came within {waited_s:g} s",
        where=f"run {run_id}, hold {hold.hold_id}",
        next_step="see whether broker and hold worker are up; such calls are made where the budgets say fail: open, or "
        "none is known and the setting is when_unreachable='allow'",
    )


def ask_for_model_call(
    estimate: Estimate,
    settings: HoldSettings,
    prices: PriceBook,
    *,
    provider: str,
    model: str,
    service_tier: str,
    input_bytes: int | None,
    max_tokens: int | None,
    at_us: int,
) -> Amounts:
    """What to ask for before a model call. Raises UnpricedError where the cost can't be estimated and has to be."""
    guessed = settings.input_tokens_assumed if input_bytes is None else -(-input_bytes // INPUT_BYTES_PER_TOKEN)
    tokens_in = guessed if estimate.input_tokens is None else estimate.input_tokens
    tokens_out = next(
        (count for count in (estimate.output_tokens_max, max_tokens) if count is not None),
        settings.output_tokens_assumed,
    )
    tokens = tokens_in + tokens_out if estimate.tokens is None else estimate.tokens
    cost = estimate.cost_nanousd
    if cost is None:
        usage = TokenUsage(input_tokens=tokens_in, output_tokens=tokens_out)
        rated = prices.rate(provider, model, usage, at_us=at_us, service_tier=service_tier)
        if isinstance(rated, Charge):
            cost = rated.cost_nanousd
        elif settings.unpriced == "refuse":
            raise UnpricedError(
                f"what a call of {model} may cost can't be estimated: {rated.reason}",
                next_step="give hold=Estimate(cost_usd=…), or set unpriced='allow' in HoldSettings",
            )
    return Amounts(cost or 0, tokens, 1, 0)


def ask_for_tool_call(estimate: Estimate, prices: PriceBook, *, tool: str, at_us: int) -> Amounts:
    """What to ask for before a tool call: dollars as estimated, else the price book's for this tool, else none."""
    cost = estimate.cost_nanousd
    if cost is None:
        cost = prices.tool_cost(tool, at_us=at_us)
    return Amounts(cost or 0, estimate.tokens or 0, 0, 1)
