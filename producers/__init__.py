"""The SDK: record what an agent does, and hold the budget of its runs.

with Ledger(agent_id="support-bot") as ledger:
    with ledger.run(workflow="refund_request", budget={"tool_calls": 5}) as run:
        with run.tool_call("lookup_order", arguments={"order_id": "A-10492"}, effect="read") as call:
            call.result(lookup_order("A-10492"))
"""

from typing import TYPE_CHECKING

from agentledger.schemas.lazy_facade import importing

if TYPE_CHECKING:
    from agentledger.producers.budget_guard import RunBudget, RunBudgetExceededError, RunUsage, UnknownUsageError
    from agentledger.producers.calls import ModelCall, ToolCall
    from agentledger.producers.control import ControlSettings
    from agentledger.producers.delivery import DeliveryCounters, EmitProblem
    from agentledger.producers.holds import Estimate, HoldSettings
    from agentledger.producers.outbox import OutboxSettings
    from agentledger.producers.publisher import KafkaRecordProducer, kafka_config_from_env
    from agentledger.producers.recorder import Ledger
    from agentledger.producers.runs import Run, current_run

__all__ = [
    "ControlSettings",
    "DeliveryCounters",
    "EmitProblem",
    "Estimate",
    "HoldSettings",
    "KafkaRecordProducer",
    "Ledger",
    "ModelCall",
    "OutboxSettings",
    "Run",
    "RunBudget",
    "RunBudgetExceededError",
    "RunUsage",
    "ToolCall",
    "UnknownUsageError",
    "current_run",
    "kafka_config_from_env",
]

__getattr__ = importing(
    __name__,
    {
        "ControlSettings": "control",
        "DeliveryCounters": "delivery",
        "EmitProblem": "delivery",
        "Estimate": "holds",
        "HoldSettings": "holds",
        "KafkaRecordProducer": "publisher",
        "Ledger": "recorder",
        "ModelCall": "calls",
        "OutboxSettings": "outbox",
        "Run": "runs",
        "RunBudget": "budget_guard",
        "RunBudgetExceededError": "budget_guard",
        "RunUsage": "budget_guard",
        "ToolCall": "calls",
        "UnknownUsageError": "budget_guard",
        "current_run": "runs",
        "kafka_config_from_env": "publisher",
    },
)
