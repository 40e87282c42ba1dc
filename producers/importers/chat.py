"""`chat`: any JSON or JSON lines whose records hold an OpenAI-style message list, with options that name the fields.

A document may be one record, a list of records, or an object with one list of records somewhere at its top.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from agentledger.producers.importers.documents import read_document, read_lines
from agentledger.producers.importers.messages import calls_of, pair_results, tool_call_fields, turn_digest
from agentledger.producers.importers.records import (
    TIMELESS_START_US,
    ImportOptions,
    Item,
    Rejected,
    RunBuilder,
    RunFacts,
    Unmapped,
    iso_to_us,
)
from agentledger.producers.json_values import as_dict, as_text, cost_nanousd, digest_and_size, parse_json, short_text
from agentledger.producers.usage import disjoint_tokens
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import ModelCallCompleted, OutcomeRecorded, RunFinished, RunStarted, ToolCallCompleted

FAMILY = "chat"
LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
RUN_NAME_CHARS_MAX = 120
_GOOD = {"success", "succeeded", "successful", "pass", "passed", "true", "resolved", "correct", "yes"}
_BAD = {"failure", "failed", "fail", "false", "unresolved", "incorrect", "no", "error"}


def read(path: Path, options: ImportOptions) -> Iterator[Item]:
    """The runs of one file; JSON lines are told by the name. Raises ImportFormatError."""
    if path.name.endswith(LINES_SUFFIXES):
        return parse_lines(read_lines(path), options, str(path))
    return parse(read_document(path), options, str(path))


def parse_lines(lines: Iterable[tuple[int, bytes]], options: ImportOptions, origin: str) -> Iterator[Item]:
    """One run per line; a line that isn't a record is rejected and the rest goes on."""
    for number, line in lines:
        where = f"{origin}:{number}"
        try:
            yield from parse_record(parse_json(line), options)
        except ImportFormatError as error:
            yield Rejected(where, error.what)


def parse(document: Any, options: ImportOptions, origin: str) -> Iterator[Item]:
    """The runs of a document. Raises ImportFormatError where no record is found in it."""
    for name, record in _records_of(document, options, origin):
        try:
            yield from parse_record(record, options)
        except ImportFormatError as error:
            yield Rejected(f"{origin}: {name}", error.what)


def _records_of(document: Any, options: ImportOptions, origin: str) -> Iterator[tuple[str, Any]]:
    if isinstance(document, list):
        return ((f"[{index}]", record) for index, record in enumerate(document))
    if isinstance(field_at(document, options.messages), list):
        return iter([("record", document)])
    for name, value in as_dict(document).items():
        if isinstance(value, list) and any(isinstance(field_at(r, options.messages), list) for r in value):
            return ((f"{name}[{index}]", record) for index, record in enumerate(value))
    raise ImportFormatError(
        f"no record with a list `{options.messages}` in the document",
        where=origin,
        next_step="name the field that holds the messages with --messages",
    )


def field_at(record: Any, path: str) -> Any:
    """The value at a path with dots; a field whose name has the dots in it comes first. None where there is none."""
    if not path or not isinstance(record, dict):
        return None
    if path in record:
        return record[path]
    first, _, rest = path.partition(".")
    return field_at(record.get(first), rest) if rest else None


def parse_record(record: Any, options: ImportOptions) -> Iterator[Item]:
    """The run of one record. Raises ImportFormatError where the record has no message list."""
    messages = field_at(record, options.messages)
    if not isinstance(messages, list):
        raise ImportFormatError(f"the record has no list `{options.messages}`")
    if not any(as_dict(message).get("role") for message in messages):
        raise ImportFormatError(f"no message in `{options.messages}` has a role")
    yield from list(_Conversation(record, [as_dict(message) for message in messages], options).items())


class _Conversation:
    """One record on its way to events."""

    def __init__(self, record: dict[str, Any], messages: list[dict[str, Any]], options: ImportOptions) -> None:
        self.record, self.messages, self.options = record, messages, options
        self.calls = calls_of(messages)
        self.answers, self.strays = pair_results(messages, self.calls)
        self.any_usage = any(message.get("usage") is not None for message in messages)
        self.left_over: list[Unmapped] = []
        times = [at for message in messages if (at := _time_of(message)) is not None]
        self.timed = bool(times)
        self.started_us = min(times, default=TIMELESS_START_US)
        self.ended_us = max(times, default=self.started_us + 1000 * len(messages))
        names = [short_text(value) for name in options.run_id if (value := field_at(record, name)) is not None]
        # Two batches may number their tasks and trials alike, so the content is always part of the run's id.
        digest = digest_and_size(record)[0].removeprefix("sha256:")[:16]
        natural_id = f"{'/'.join(names)[:RUN_NAME_CHARS_MAX] or FAMILY}-{digest}"
        labels = {"times": "of the messages, naive taken as utc" if times else "none"}
        facts = RunFacts(family=FAMILY, natural_id=natural_id, agent_id=FAMILY, workflow=FAMILY, labels=labels)
        self.run = RunBuilder(facts, options)
        self.missing = [name for name in options.run_id if field_at(record, name) is None]

    def items(self) -> Iterator[Item]:
        task = field_at(self.record, self.options.task)
        self.run.add(RunStarted, self.started_us, source=self.run.source, task="" if task is None else short_text(task))
        for name in self.missing:
            self.left_over.append(Unmapped(f"record without the field {name} of the run id", example=self.run.run_id))
        first_call = 0
        for place, message in enumerate(self.messages):
            parent = self._turn(place, message)
            while first_call < len(self.calls) and self.calls[first_call].message == place:
                self._tool_call(first_call, parent)
                first_call += 1
        self._end()
        yield self.run.finish()
        yield from self.left_over

    def _turn(self, place: int, message: dict[str, Any]) -> str | None:
        role = as_text(message.get("role"))
        if role == "assistant":
            if message.get("usage") is None and "usage" in message and self.any_usage:
                self.left_over.append(
                    Unmapped("assistant message without usage, unlike others", example=self.run.run_id)
                )
                return None
            return self._model_call(place, message)
        if place in self.strays:
            self.left_over.append(Unmapped("tool result without a call", example=self.run.run_id))
        elif role not in {"user", "system", "developer", "tool", "function"}:
            self.left_over.append(Unmapped(f"message of role {role}", example=self.run.run_id))
        elif role == "user" and message.get("cost"):
            paid = cost_nanousd(message["cost"]) or 0
            self.left_over.append(Unmapped("user message with a cost of its own", amount_nanousd=paid))
        return None

    def _model_call(self, place: int, message: dict[str, Any]) -> str:
        model = as_text(message.get("model")) or as_text(field_at(self.record, self.options.model))
        digest, size = turn_digest(message)
        return self.run.add(
            ModelCallCompleted,
            self._at(place),
            provider=model.partition("/")[0] if "/" in model else "",
            requested_model=model,
            requestor="assistant",
            **disjoint_tokens(message.get("usage")),
            status="ok",
            finish_reason=as_text(message.get("finish_reason")),
            reported_cost_nanousd=cost_nanousd(message.get("cost", as_dict(message.get("usage")).get("cost"))),
            output_digest=digest,
            output_bytes=size,
        ).event_id

    def _tool_call(self, index: int, parent: str | None) -> None:
        call = self.calls[index]
        place = self.answers.get(index)
        result = None if place is None else self.messages[place]
        fields = tool_call_fields(call, result)
        if result is not None and fields["status"] != "ok":
            fields["error_message"] = short_text(result.get("content"))
        self.run.add(
            ToolCallCompleted, self._at(call.message if place is None else place), parent_event_id=parent, **fields
        )

    def _end(self) -> None:
        outcome = field_at(self.record, self.options.outcome)
        success, score = read_outcome(outcome)
        self.run.add(
            RunFinished,
            self.ended_us,
            status="failed" if success is False else "succeeded",
            reason="end of the message list",
            duration_ms=(self.ended_us - self.started_us) // 1000 if self.timed else None,
            reported_cost_nanousd=cost_nanousd(field_at(self.record, self.options.cost)),
        )
        if success is None:
            if self.options.outcome:
                kind = "record without an outcome" if outcome is None else "outcome that is neither success nor failure"
                self.left_over.append(Unmapped(kind, example=f"{short_text(outcome, 40)} of {self.run.run_id}"))
            return
        self.run.add(
            OutcomeRecorded,
            self.ended_us,
            success=success,
            score=score,
            verified_by=f"field {self.options.outcome}",
        )

    def _at(self, place: int) -> int:
        at_us = _time_of(self.messages[place])
        return self.started_us + place * 1000 if at_us is None else at_us


def read_outcome(value: Any) -> tuple[bool | None, float | None]:
    """Success and score of a truth value, a number (1 or more is success) or a word; None where it can't be said."""
    if isinstance(value, bool):
        return value, None
    if isinstance(value, int | Decimal):
        score = float(value)
        return value >= 1, score if isfinite(score) else None
    word = as_text(value).strip().lower()
    return (True if word in _GOOD else False if word in _BAD else None), None


def _time_of(message: dict[str, Any]) -> int | None:
    return iso_to_us(message.get("timestamp"))
