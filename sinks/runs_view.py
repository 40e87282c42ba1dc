"""Some rows of the view `runs`, by the view's own SELECT with the condition where it reads the ledger.

ClickHouse takes twice as long to plan the view itself, and longer for that than for reading a run.
"""

from __future__ import annotations

from functools import cache

from agentledger.schemas.errors import SchemaError
from agentledger.sinks.migrations import view_statements

_VIEW = "CREATE OR REPLACE VIEW agentledger.runs\n"
_EVERY_ROW = "run_id != ''"  # the end of the view's own condition


@cache
def runs_where(condition: str) -> str:
    """A SELECT of all columns of the view, from those rows of the ledger alone that meet a condition of ours (SQL).

    The condition must hold for all rows of a run or for none. Raises SchemaError where the view is another.
    """
    [statement] = [text for text in view_statements() if text.startswith(_VIEW)]
    select = statement.partition("\nAS ")[2].rpartition("\nCOMMENT ")[0]
    before, place, after = select.partition(_EVERY_ROW)
    if not place or _EVERY_ROW in after:
        raise SchemaError("the view runs reads the ledger at no place that is known", next_step="see runs_view.py")
    return f"{before}{place} AND {condition}{after}"
