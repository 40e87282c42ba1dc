"""Where events end up: the writer and its tables, and what people ask of them."""

from typing import TYPE_CHECKING

from agentledger.schemas.lazy_facade import importing

if TYPE_CHECKING:
    from agentledger.sinks.cost_per_outcome import Selection, attempt_groups, choose_two, compare_groups
    from agentledger.sinks.cost_report import comparison_record, comparison_table, cost_table, group_record
    from agentledger.sinks.migrations import migrate
    from agentledger.sinks.queries import query
    from agentledger.sinks.result_text import print_result
    from agentledger.sinks.run_trail import read_trail, revealed
    from agentledger.sinks.writer import WriterConfig, run_writer

__all__ = [
    "Selection",
    "WriterConfig",
    "attempt_groups",
    "choose_two",
    "compare_groups",
    "comparison_record",
    "comparison_table",
    "cost_table",
    "group_record",
    "migrate",
    "print_result",
    "query",
    "read_trail",
    "revealed",
    "run_writer",
]

__getattr__ = importing(
    __name__,
    {
        "Selection": "cost_per_outcome",
        "WriterConfig": "writer",
        "attempt_groups": "cost_per_outcome",
        "choose_two": "cost_per_outcome",
        "compare_groups": "cost_per_outcome",
        "comparison_record": "cost_report",
        "comparison_table": "cost_report",
        "cost_table": "cost_report",
        "group_record": "cost_report",
        "migrate": "migrations",
        "print_result": "result_text",
        "query": "queries",
        "read_trail": "run_trail",
        "revealed": "run_trail",
        "run_writer": "writer",
    },
)
