"""Exports: a range of the tenant's trail that proves itself elsewhere, made in the background, kept, downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import FileResponse, RedirectResponse, Response

from agentledger.schemas.errors import UsageError
from agentledger.sinks.console.jobs import Say
from agentledger.sinks.console.ports import ExportAsked, Exports
from agentledger.sinks.console.visits import Visit

EXPORT = "export"
FORMATS = ("parquet", "jsonl", "csv", "avro", "ocsf")


def start_export(visit: Visit) -> Response:
    """The form of /exports. Raises UsageError where nothing can be exported, or another export is under way."""
    exports, asked = _exports(visit), _asked(visit)

    def work(start: Say, progress: Say) -> Mapping[str, Any]:
        return exports.make(asked, start, progress)

    visit.jobs.start(EXPORT, work, visit.visitor.name, visit.now_us, asked.tenant_id)
    return RedirectResponse("/evidence#exports", 303)


def download_export(visit: Visit) -> Response:
    """The page /exports/file?name=NAME: an export of the tenant as one ZIP file; that it was taken is recorded."""
    name = visit.text("name")
    with visit.recorded("export download", name=name):
        path = _exports(visit).path(visit.visitor.tenant_id, name)
    if path is None:
        raise UsageError("there is no such export", next_step="choose one of the page Evidence")
    return FileResponse(path, filename=path.name, media_type="application/zip")


def _exports(visit: Visit) -> Exports:
    if visit.ports.exports is None:
        raise UsageError("nothing can be exported from here", next_step="run agentledger export")
    return visit.ports.exports


def _asked(visit: Visit) -> ExportAsked:
    file_format, run_id = visit.field("format"), visit.field("run")
    if file_format not in FORMATS:
        raise UsageError("there is no such format", next_step=f"one of {', '.join(FORMATS)}")
    from_us, to_us = _moment_us(visit, "from"), _moment_us(visit, "to")
    if from_us is not None and to_us is not None and from_us >= to_us:
        raise UsageError("the export ends before it begins", next_step="give an earlier first day")
    who = f"console:{visit.visitor.name}"
    return ExportAsked(visit.visitor.tenant_id, file_format, from_us, to_us, run_id, who, visit.now_us)


def _moment_us(visit: Visit, name: str) -> int | None:
    """The beginning of a day, UTC; None where none is given. Raises UsageError."""
    text = visit.field(name)
    if not text:
        return None
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000
    except (ValueError, OverflowError):
        raise UsageError(f"{name} is no day", next_step="give it as 2026-01-31") from None
