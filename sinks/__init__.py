"""Where events end up: the writer and its tables, and what people ask of them."""

from agentledger.sinks.migrations import migrate
from agentledger.sinks.queries import query
from agentledger.sinks.result_text import print_result
from agentledger.sinks.run_trail import read_trail
from agentledger.sinks.scoreboard import scoreboard, scoreboard_rows
from agentledger.sinks.timeline import timeline
from agentledger.sinks.writer import WriterConfig, run_writer

__all__ = [
    "WriterConfig",
    "migrate",
    "print_result",
    "query",
    "read_trail",
    "run_writer",
    "scoreboard",
    "scoreboard_rows",
    "timeline",
]
