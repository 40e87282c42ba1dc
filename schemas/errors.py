"""One tree of errors: every failure that a user can meet is an `AgentledgerError`.

A message says what happened, where, and the next step. The command line prints it as one line and exits with
`exit_code`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class AgentledgerError(Exception):
    """What happened, where, and what to do next; the base of every error that this project raises."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        self.what = what
        self.where = where
        self.next_step = next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.next_step:
            text += f": {self.next_step}"
        return text


class ConfigurationError(AgentledgerError):
    """A setting is missing or wrong; nothing was started."""

    exit_code = 2


class MissingLibraryError(ConfigurationError, ImportError):
    """A part of agentledger needs a library that isn't installed. An ImportError, too: `try: import …` works."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed", next_step=f"pip install 'agentledger[{extra}]'")


class UsageError(AgentledgerError):
    """A command or a call was given something that it can't work with."""

    exit_code = 2


class SchemaError(AgentledgerError):
    """A schema is unknown, incompatible or not what its lock entry says."""


class UnknownSchemaError(SchemaError):
    """No registry at hand knows this schema id or subject."""


class CodecError(AgentledgerError):
    """Bytes are not a record in the Confluent wire format, or an event doesn't fit its schema."""


class MoneyError(AgentledgerError):
    """An amount can't be held in a signed 64-bit count of nano-dollars."""


class BrokerError(AgentledgerError):
    """Kafka can't be reached or refuses what was asked."""


class StoreError(AgentledgerError):
    """ClickHouse can't be reached or refuses what was asked."""


class LedgerConflictError(StoreError):
    """What is stored differs from what the log says: nothing is written on top of it."""


class ProofError(AgentledgerError):
    """A proof, a signature or a signed file doesn't show what it should."""


class IntegrityError(AgentledgerError):
    """The ledger isn't what was signed: nothing is signed on top of it."""

    exit_code = 3


class StackError(AgentledgerError):
    """The local stack can't start, stop or be found."""


class ImportFormatError(AgentledgerError):
    """A file isn't in the format that it was said to be in."""


class BudgetExceededError(AgentledgerError):
    """A run's own budget doesn't allow the next call; the call was not made."""


class HaltedError(AgentledgerError):
    """Somebody, or a rule, has halted this run or a scope that it falls under; the call was not made.

    `scope` is that of a budget (tenant, team, …, label:NAME) or host; times are microseconds since 1970; without
    `expires_at` it holds until a resume. `via` says how it came: the control topic or the halt file. `on_exceeded` is
    what the budget asks for that halts: ask_human, halt or escalate; empty where it is no budget.
    """

    def __init__(
        self, scope: str, scope_value: str, *, run_id: str = "", reason: str = "", issued_by: str = "",
        issued_at: int | None = None, expires_at: int | None = None, via: str = "control topic", next_step: str = "",
        on_exceeded: str = "",
    ) -> None:  # fmt: skip
        self.on_exceeded = on_exceeded
        self.scope = scope
        self.scope_value = scope_value
        self.run_id = run_id
        self.reason = reason
        self.issued_by = issued_by
        self.issued_at = issued_at
        self.expires_at = expires_at
        self.via = via
        what = f"{scope} {scope_value} is halted" if scope_value else f"everything on this {scope} is halted"
        what += f" by {issued_by}" if issued_by else ""
        what += f" since {_utc(issued_at)}" if issued_at is not None else ""
        what += f" until {_utc(expires_at)}" if expires_at is not None else ""
        what += f", for the reason: {reason}" if reason else ""
        super().__init__(
            what,
            where=f"run {run_id}, by the {via}" if run_id else f"by the {via}",
            next_step=next_step or f"end the run; who may, lifts it with: {_resume(scope, scope_value)}",
        )


class ControlUnreachableError(AgentledgerError):
    """Whether this run is halted can't be known: the broker is silent for too long, and the setting is to refuse."""


class HoldRefusedError(BudgetExceededError):
    """The one that decides on holds refused: the call was not made.

    `reason` is limit, halted, expired or invalid. Where it is limit: the budget, its scope, and `limit`, `used` and
    `held` in the metric's unit (nano-dollars, tokens, calls, ms). `on_exceeded` is what the budget asks for.
    """

    def __init__(
        self, hold_id: str, *, run_id: str = "", reason: str = "limit", budget_id: str = "", scope: str = "",
        scope_value: str = "", metric: str = "", limit: int = 0, used: int = 0, held: int = 0, asked: int = 0,
        on_exceeded: str = "",
    ) -> None:  # fmt: skip
        self.hold_id = hold_id
        self.run_id = run_id
        self.reason = reason
        self.budget_id = budget_id
        self.scope = scope
        self.scope_value = scope_value
        self.metric = metric
        self.limit = limit
        self.used = used
        self.held = held
        self.asked = asked
        self.on_exceeded = on_exceeded
        about = f" by budget {budget_id} of {scope} {scope_value}" if budget_id else ""
        amounts = (
            f": {metric} used {used} + held {held} + asked {asked} of {limit}" if reason == "limit" else f": {reason}"
        )
        super().__init__(
            f"the call got no hold{about}{amounts}",
            where=f"run {run_id}, hold {hold_id}",
            next_step="end the run, ask for less, or raise the budget",
        )


class HoldUnansweredError(AgentledgerError):
    """No decision on a hold came in time, and the setting is to refuse: the call was not made."""


class UnpricedError(AgentledgerError):
    """No price is known for a model at that time."""


def _resume(scope: str, scope_value: str) -> str:
    kind, _, label = scope.partition(":")
    return f"agentledger resume --{kind} {label + '=' if label else ''}{scope_value}"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _utc(time_us: int) -> str:
    """A time for people; one that no calendar holds as its number."""
    try:
        return f"{_EPOCH + timedelta(microseconds=time_us):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return f"{time_us} us"
