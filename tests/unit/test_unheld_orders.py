"""What declared budgets say of calls that nobody decides on: from the declaration to the call in the SDK."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from agentledger.producers import HoldSettings, Ledger
from agentledger.producers.unheld_orders import UnheldOrders
from agentledger.schemas.control import (
    ALLOW_UNHELD,
    DEFAULT_UNHELD,
    REFUSE_UNHELD,
    UNHELD_ORDERS,
    control_key,
    control_scope_of,
    order_key,
)
from agentledger.schemas.errors import HoldUnansweredError
from agentledger.schemas.events import ControlIssued
from agentledger.schemas.topics import CONTROL
from tests.hold_logs import CODEC, T0_US, HoldLog, of

When = Literal["allow", "refuse"]
PLACES = [("tenant", "acme"), ("team", "red"), ("team", ""), ("label:tier", "gold"), ("run", "")]
SCOPES = [("tenant", "acme"), ("team", "red"), ("run", "r")]  # of a call: what PLACES hold but for the label
BUDGETS = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(PLACES), st.sampled_from(["allow", "refuse"]),
    st.sampled_from(["hold", "watch"]), st.booleans(),
)  # fmt: skip


def order(command: str, scope: str, value: str) -> ControlIssued:
    return ControlIssued(
        event_id="0" * 36, tenant_id="acme", producer_id="holds:acme", producer_seq=0, run_id="", occurred_at=T0_US,
        command=command, scope=scope, scope_value=value,
    )  # fmt: skip


@given(
    orders=st.lists(st.tuples(st.sampled_from(UNHELD_ORDERS), st.sampled_from(PLACES))),
    default=st.sampled_from(["allow", "refuse"]),
    is_known=st.booleans(),
)
def test_the_strictest_order_that_a_call_falls_under_decides(
    orders: list[tuple[str, tuple[str, str]]], default: When, is_known: bool
) -> None:
    table, newest = UnheldOrders(), {}
    for command, place in orders:
        table.put(order(command, *place))
        newest[place] = command
    said = {command for place, command in newest.items() if place[0] != "label:tier"} - {DEFAULT_UNHELD}
    expected = "refuse" if REFUSE_UNHELD in said else "allow" if said and is_known else default
    assert table.decide(SCOPES, default, is_known=is_known) == expected


def test_a_table_that_is_full_makes_nothing_laxer() -> None:
    table = UnheldOrders(orders_max=1)
    table.put(order(ALLOW_UNHELD, "tenant", "acme"))
    assert table.decide(SCOPES, "refuse", is_known=True) == "allow"
    table.put(order(REFUSE_UNHELD, "team", "red"))
    assert table.decide(SCOPES, "refuse", is_known=True) == "refuse"


@given(declared=st.lists(BUDGETS, max_size=12), crash=st.booleans())
def test_after_any_declarations_each_scope_has_the_order_of_its_strictest_budget(
    declared: list[tuple[str, tuple[str, str], str, str, bool]], crash: bool
) -> None:
    log = HoldLog()
    newest: dict[tuple[str, str], str] = {}
    in_force: dict[str, tuple[tuple[str, str], str]] = {}
    for version, (name, place, when, enforcement, retired) in enumerate(declared):
        derived = log.declare(
            T0_US + version * 1000, budget_id=name, budget_version=version + 1, scope=place[0], scope_value=place[1],
            when_unreachable=when, enforcement=enforcement, retired=retired,
        )  # fmt: skip
        for event in of(ControlIssued, derived):
            newest[event.scope, event.scope_value] = event.command
        in_force[name] = (place, when if enforcement == "hold" and not retired else "")
        if crash:
            log.crash()
    for place in PLACES:
        said = {when for where, when in in_force.values() if where == place} - {""}
        expected = REFUSE_UNHELD if "refuse" in said else ALLOW_UNHELD if said else DEFAULT_UNHELD
        assert newest.get(place, DEFAULT_UNHELD) == expected


def test_an_order_does_not_take_the_place_of_a_halt() -> None:
    assert order_key("acme", "team", "red") != control_key("acme", "team", "red")
    assert control_scope_of(order_key("acme", "team", "red")) is None
    log = HoldLog()
    log.declare(scope="team", scope_value="red")
    [key] = [record.key for record in log.records_of(CONTROL.name)]
    assert key == order_key("acme", "team", "red")


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize(
    ("own", "orders", "is_made"),
    [
        ("refuse", [], False),
        ("allow", [], True),
        ("refuse", [(ALLOW_UNHELD, "tenant", "acme")], True),
        ("allow", [(ALLOW_UNHELD, "tenant", "acme"), (REFUSE_UNHELD, "team", "")], False),
        ("allow", [(REFUSE_UNHELD, "team", "blue")], True),
        ("refuse", [(ALLOW_UNHELD, "team", "red"), (DEFAULT_UNHELD, "team", "red")], False),
    ],
)
def test_the_budgets_of_a_call_say_whether_it_is_made_while_nobody_decides(
    control: Literal["on", "off"], own: When, orders: list[tuple[str, str, str]], is_made: bool
) -> None:
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = host.list_topics(timeout=10).brokers.values()
    servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    sender = Producer({"bootstrap.servers": servers, "linger.ms": 0, "log_level": 0})
    for command, scope, value in orders:
        sender.produce(CONTROL.name, CODEC.encode(order(command, scope, value)), order_key("acme", scope, value))
    assert sender.flush(20) == 0
    settings = HoldSettings(when_unreachable=own, answer_s_max=2.0)
    ledger = Ledger(
        tenant_id="acme", labels={"team": "red"}, bootstrap_servers=servers, holds=settings, control=control,
        flush_wait_ms_max=2000,
    )  # fmt: skip
    made: list[Any] = []
    with ledger, ledger.run("w") as run:
        try:
            with run.tool_call("t"):
                made.append(1)
        except HoldUnansweredError:
            pass
    assert bool(made) == is_made
