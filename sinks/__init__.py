"""Where events end up: the writer and its tables, and what people ask of them."""

from agentledger.sinks.cost_per_outcome import Selection, attempt_groups, choose_two, compare_groups
from agentledger.sinks.cost_report import comparison_record, comparison_table, cost_table, group_record
from agentledger.sinks.migrations import migrate
from agentledger.sinks.queries import query
from agentledger.sinks.result_text import print_result
from agentledger.sinks.run_trail import read_trail, revealed
from agentledger.sinks.scoreboard import scoreboard, scoreboard_rows
from agentledger.sinks.timeline import timeline
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
    "scoreboard",
    "scoreboard_rows",
    "timeline",
]
