"""One tree of errors: every failure that a user can meet is an `AgentledgerError`.

A message says what happened, where, and the next step. The command line prints it as one line and exits with
`exit_code`.
"""

from __future__ import annotations


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


class StackError(AgentledgerError):
    """The local stack can't start, stop or be found."""


class ImportFormatError(AgentledgerError):
    """A file isn't in the format that it was said to be in."""


class BudgetExceededError(AgentledgerError):
    """A run's own budget doesn't allow the next call; the call was not made."""


class UnpricedError(AgentledgerError):
    """No price is known for a model at that time."""
