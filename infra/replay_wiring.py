"""What a replay is made of, opened in each of its processes: the ledger, the codec, prices, rules, stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from agentledger.infra.endpoints import clickhouse_url, reader_login
from agentledger.infra.replay_budgets import BudgetedStage, ReplacedBudgets, read_replaced
from agentledger.infra.replay_compare import Expected
from agentledger.infra.replay_parts import PartTask
from agentledger.infra.replay_stages import (
    HOLD_DECISIONS,
    RUNS,
    HoldStage,
    RunStage,
    ScopeStage,
    Stage,
    StagePlan,
)
from agentledger.infra.settings import Settings
from agentledger.processors.rules.loading import rules_or_default
from agentledger.processors.scope_rules import watches_of
from agentledger.schemas.codec import Codec
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.price_books import open_prices
from agentledger.schemas.registry import open_registry
from agentledger.schemas.topics import EVENTS, HOLDS
from agentledger.sinks.column_check import ColumnCheck, WrongColumn
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.queries import store_error
from agentledger.sinks.replay_source import LogSpan, ReplaySource, Window


@dataclass(frozen=True)
class LedgerWiring:
    """The wiring to a real ledger, as the programs have theirs: the same settings give the same folds."""

    clickhouse_url: str
    partitions: int
    clickhouse_user: str = "default"
    clickhouse_password: str = field(default="", repr=False)
    schema_registry_url: str = ""
    schema_registry_auth: str = field(default="", repr=False)
    prices_file: Path | None = None
    rules_file: Path | None = None
    budgets: ReplacedBudgets | None = None

    def with_files(
        self, prices: Path | None = None, budgets: Path | None = None, rules: Path | None = None, *, tenant_id: str = ""
    ) -> LedgerWiring:
        """The same with these files in place of what the programs have. Budgets are those of the tenant.

        Raises ConfigurationError where one is wrong: one line, before anything is read or drawn.
        """
        wiring = self
        if prices is not None:
            open_prices(prices)
            wiring = replace(wiring, prices_file=prices)
        if rules is not None:
            rules_or_default(rules)
            wiring = replace(wiring, rules_file=rules)
        if budgets is not None:
            read_replaced(budgets, tenant_id, 0)
            first_us = self.source().first_us((EVENTS.name, HOLDS.name))
            wiring = replace(wiring, budgets=read_replaced(budgets, tenant_id, first_us))
        return wiring

    def source(self) -> ReplaySource:
        """The ledger. Raises StoreError where ClickHouse can't be reached."""
        try:
            client = clickhouse_connect.get_client(
                dsn=self.clickhouse_url,
                username=self.clickhouse_user,
                password=self.clickhouse_password,
                autogenerate_session_id=False,
            )
        except (ClickHouseError, OSError) as error:
            raise store_error(error) from None
        return ReplaySource(client)

    def codec(self) -> Codec:
        """Events to bytes and back."""
        return Codec(open_registry(self.schema_registry_url, basic_auth=self.schema_registry_auth))

    def stage(self, plan: StagePlan, codec: Codec, partition: int) -> Stage:
        """A stage that has folded nothing yet."""
        stage = self._plain_stage(plan, codec)
        if self.budgets is None:
            return stage
        home = partition_of(self.budgets.tenant_id.encode(), self.partitions)
        return BudgetedStage(stage, plan, codec, self.budgets, is_home=partition == home)

    def _plain_stage(self, plan: StagePlan, codec: Codec) -> Stage:
        if plan == RUNS:
            rules = rules_or_default(self.rules_file)
            return RunStage(codec, open_prices(self.prices_file), self.partitions, rules)
        if plan == HOLD_DECISIONS:
            return HoldStage(codec, self.partitions)
        return ScopeStage(codec, self.partitions, watches_of(rules_or_default(self.rules_file)))

    def wrong_columns(self, spans: Sequence[LogSpan], window: Window) -> list[WrongColumn]:
        """The rows of these logs in that window whose typed columns don't say what their bytes say."""
        reader = ClickHouseLeafReader(self.clickhouse_url, self.clickhouse_user, self.clickhouse_password)
        registry = open_registry(self.schema_registry_url, basic_auth=self.schema_registry_auth)
        return list(ColumnCheck(reader, registry, spans).wrong(window))

    def keep(self, task: PartTask, stage: Stage, left: Iterator[Expected]) -> tuple[int, int]:
        """A replay keeps nothing."""
        return 0, 0


def wiring_of(settings: Settings) -> LedgerWiring:
    """The wiring that these settings say. Raises ConfigurationError where no ClickHouse is known."""
    user, password = reader_login(settings)
    return LedgerWiring(
        clickhouse_url=clickhouse_url(settings),
        partitions=settings.kafka_partitions,
        clickhouse_user=user,
        clickhouse_password=password,
        schema_registry_url=settings.schema_registry_url,
        schema_registry_auth=settings.schema_registry_basic_auth.get_secret_value(),
        prices_file=settings.prices_file,
        rules_file=settings.rules_file,
    )
