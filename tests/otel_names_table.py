"""The tables of attribute names in OPENTELEMETRY.md, made from the code: `python -m tests.otel_names_table --write`."""

from __future__ import annotations

import sys
from pathlib import Path

from agentledger.producers.otel import names

PAGE = Path(__file__).parents[1] / "infra" / "docs" / "OPENTELEMETRY.md"
HEADING = "## Names that are understood"
FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("provider", names.PROVIDER),
    ("requested_model", names.REQUESTED_MODEL),
    ("answered_model", names.ANSWERED_MODEL),
    ("input tokens, cached ones within", names.INPUT_TOKENS),
    ("input tokens, cached ones not within", names.UNCACHED_INPUT_TOKENS),
    ("cache_read_tokens", names.CACHE_READ_TOKENS),
    ("cache_write_tokens", names.CACHE_WRITE_TOKENS),
    ("output tokens, reasoning within", names.OUTPUT_TOKENS),
    ("reasoning_tokens", names.REASONING_TOKENS),
    ("total, to tell what is within what", names.TOTAL_TOKENS),
    ("reported cost, US dollars", (*names.TOTAL_COST, *(" + ".join(parts) for parts in names.COST_PARTS))),
    ("finish_reason", names.FINISH_REASON),
    ("response_id", names.RESPONSE_ID),
    ("service_tier", names.SERVICE_TIER),
    ("time_to_first_token_ms", tuple(name for name, _ in names.TIME_TO_FIRST_TOKEN)),
    ("input digest", (*names.MODEL_INPUT, *(f"{prefix}*" for prefix in names.MODEL_INPUT_PREFIXES))),
    ("output digest", (*names.MODEL_OUTPUT, *(f"{prefix}*" for prefix in names.MODEL_OUTPUT_PREFIXES))),
    ("messages as span events", (*sorted(names.MODEL_INPUT_EVENTS | names.MODEL_OUTPUT_EVENTS), names.DETAILS_EVENT)),
    ("tool", names.TOOL_NAME),
    ("call_id", names.TOOL_CALL_ID),
    ("arguments digest", names.TOOL_ARGUMENTS),
    ("result digest", names.TOOL_RESULT),
    ("agent_id", (*names.AGENT_NAME, names.SERVICE)),
    ("agent_version", names.AGENT_VERSION),
    ("workflow", (*names.WORKFLOW, names.SERVICE)),
    ("actor", names.ACTOR),
    ("environment", names.ENVIRONMENT),
    ("run_id", names.RUN_ID),
    ("error_type", (names.ERROR_TYPE, names.EXCEPTION_TYPE)),
)


def tables() -> str:
    """Both tables, and the labels."""
    lines = ["| what a span is | attribute | values |", "|---|---|---|"]
    for attribute, roles in names.ROLES:
        for role in sorted(set(roles.values())):
            values = ", ".join(f"`{value}`" for value, given in roles.items() if given == role)
            lines.append(f"| {role} | `{attribute}` | {values} |")
    present = ", ".join(f"with `{name}` is a {role}" for name, role in names.ROLES_BY_PRESENCE)
    lines += ["", f"A span with none of these {present}; one with a model and tokens is a model call.", ""]
    lines += ["| field | attributes |", "|---|---|"]
    lines += [f"| {field} | {', '.join(f'`{name}`' for name in among)} |" for field, among in FIELDS]
    lines += [
        "",
        "Kept as labels: " + ", ".join(f"`{name}` as `{label}`" for name, label in names.LABELS.items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def page_with_tables(page: str) -> str:
    """The page, its last section made anew."""
    head, _, rest = page.partition(HEADING)
    intro = rest.split("\n\n")[1]
    return f"{head}{HEADING}\n\n{intro}\n\n{tables()}"


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page_with_tables(PAGE.read_text("utf-8")), "utf-8")
