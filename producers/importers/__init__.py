"""Importers: recordings in other formats to the events of the ledger, each run the same bytes on every import."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

from agentledger.producers.importers import chat, mini_swe, otel_json, run_log, tau2, tau2_events
from agentledger.producers.importers.records import (
    ImportedRun,
    ImportOptions,
    Item,
    Read,
    Rejected,
    Unmapped,
)
from agentledger.schemas import digest_bytes
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import Event

__all__ = [
    "FORMATS",
    "Format",
    "FoundFiles",
    "ImportOptions",
    "ImportReport",
    "ImportedRun",
    "Progress",
    "Rejected",
    "Unmapped",
    "UnmappedCount",
    "expand_paths",
    "find_files",
    "import_files",
    "read_file",
]

KINDS_MAX = 200  # of what has no event: names of fields and roles come from the files
REJECTED_LISTED_MAX = 1000  # a report stays readable; the count goes on
LEFT_OUT_NAMES = {"MANIFEST.json"}  # beside the recorded data, in JSON, and never a recording
RUNS_REMEMBERED_MAX = 1_000_000  # run ids of one import, to tell repeated and clashing runs: about 200 bytes each
_JSON = ("*.json", "*.json.gz")
_LINES = ("*.jsonl", "*.jsonl.gz", "*.ndjson", "*.ndjson.gz")


def _same_file(path: Path) -> Path:
    return path


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format: which files of a folder are read, and how; `main_file_of` leads from a companion to its main file.

    `splits_runs`: parts of one run may stand in several files, and fit together.
    """

    name: str
    description: str
    patterns: tuple[str, ...]
    read: Read
    main_file_of: Callable[[Path], Path] = _same_file
    splits_runs: bool = False


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            name="tau2",
            description="tau2-bench batches: one JSON document with simulations[]",
            patterns=_JSON,
            read=tau2.read,
        ),
        Format(
            name="tau2-events",
            description="tau2-bench batches with an event log: folders with results.json and runtime_events.jsonl",
            patterns=(tau2_events.RESULTS, f"{tau2_events.RESULTS}.gz"),
            read=tau2_events.read,
            main_file_of=tau2_events.main_file_of,
        ),
        Format(
            name="mini-swe",
            description="mini-swe-agent trajectories (*.traj.json), outcomes from their *.report.json",
            patterns=("*.traj.json", "*.traj.json.gz"),
            read=mini_swe.read,
            main_file_of=mini_swe.main_file_of,
        ),
        Format(
            name="otel-json",
            description="OpenTelemetry spans as JSON, GenAI or OpenInference conventions",
            patterns=_JSON,
            read=otel_json.read,
        ),
        Format(
            name="run-log",
            description="JSON lines, one per step of a run, with a closing line",
            patterns=_LINES,
            read=run_log.read,
            splits_runs=True,
        ),
        Format(
            name="chat",
            description="JSON or JSON lines whose records hold an OpenAI-style message list; options name the fields",
            patterns=_JSON + _LINES,
            read=chat.read,
        ),
    )
}


@dataclass(frozen=True)
class FoundFiles:
    """The files to read, in order, and those in the given folders that were left out."""

    files: list[Path]
    left_out: list[Path]


@dataclass
class UnmappedCount:
    """How often one kind of thing had no event, an example, and what it cost in all."""

    count: int = 0
    example: str = ""
    amount_nanousd: int = 0


@dataclass
class ImportReport:
    """What was read, published and rejected. `rejected` lists the first thousand; `rejected_count` counts all."""

    format: str
    source: str
    files: int = 0
    runs: int = 0
    repeated_runs: int = 0
    events: Counter[str] = field(default_factory=Counter)
    unmapped: dict[str, UnmappedCount] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    rejected_count: int = 0

    @property
    def event_count(self) -> int:
        return sum(self.events.values())

    @property
    def exit_code(self) -> int:
        """1 where anything was rejected, else 0."""
        return 1 if self.rejected_count else 0

    def note(self, item: Unmapped) -> None:
        kind = item.kind if item.kind in self.unmapped or len(self.unmapped) < KINDS_MAX else "anything else"
        entry = self.unmapped.setdefault(kind, UnmappedCount(example=item.example))
        entry.count += item.count
        entry.amount_nanousd += item.amount_nanousd

    def reject(self, item: Rejected) -> None:
        self.rejected_count += 1
        if len(self.rejected) < REJECTED_LISTED_MAX:
            self.rejected.append(item)


@dataclass(frozen=True)
class Progress:
    """Where an import is: files done of all, and the counts so far."""

    files_done: int
    files_total: int
    file: str
    runs: int
    events: int


def find_files(paths: Sequence[str | Path], format_name: str) -> FoundFiles:
    """The files behind files, folders (searched in depth, by the format's patterns) and globs, each once, sorted.

    Raises ImportFormatError where a path leads to no file of the format, or the format is unknown.
    """
    entry = _format(format_name)
    files: dict[Path, None] = {}
    left_out: dict[Path, None] = {}
    for path in paths:
        found = _expand_one(Path(path), entry, left_out)
        if not found:
            raise ImportFormatError(
                f"no file to import as {entry.name}",
                where=str(path),
                next_step=f"give a file, a folder with {' or '.join(entry.patterns[:2])}, or a glob",
            )
        files.update(dict.fromkeys(found))
    return FoundFiles(list(files), [path for path in left_out if path not in files])


def expand_paths(paths: Sequence[str | Path], format_name: str) -> list[Path]:
    """The files of `find_files` alone."""
    return find_files(paths, format_name).files


def read_file(format_name: str, path: Path, options: ImportOptions | None = None) -> list[Item]:
    """All that one file holds. Raises ImportFormatError where the file isn't in the format."""
    options = options or ImportOptions()
    return list(_format(format_name).read(path, replace(options, source=options.source or format_name)))


def import_files(
    format_name: str,
    paths: Sequence[str | Path],
    emit: Callable[[Event], None],
    options: ImportOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Reads the files and hands each event to `emit`, run by run, in order.

    A file, line or record that can't be read is listed as rejected and the rest goes on. Raises ImportFormatError where
    a path leads to no file; what `emit` raises ends the import.
    """
    entry = _format(format_name)
    found = find_files(paths, format_name)
    options = options or ImportOptions()
    options = replace(options, source=options.source or entry.name)
    report = ImportReport(entry.name, options.source)
    for path in found.left_out:
        report.note(Unmapped("file of the folder left out", example=str(path)))
    seen: dict[str, str] = {}
    for index, path in enumerate(found.files):
        if on_progress is not None:
            on_progress(Progress(index, len(found.files), str(path), report.runs, report.event_count))
        report.files += 1
        try:
            for item in entry.read(path, options):
                _take(item, report, emit, seen)
                if on_progress is not None and isinstance(item, ImportedRun):
                    on_progress(Progress(index, len(found.files), str(path), report.runs, report.event_count))
        except ImportFormatError as error:
            report.reject(Rejected(error.where or str(path), error.what))
        except RecursionError:
            report.reject(Rejected(str(path), "the JSON is nested too deeply"))
    if on_progress is not None:
        on_progress(Progress(len(found.files), len(found.files), "", report.runs, report.event_count))
    return report


def _take(item: Item, report: ImportReport, emit: Callable[[Event], None], seen: dict[str, str]) -> None:
    if isinstance(item, Unmapped):
        report.note(item)
        return
    if isinstance(item, Rejected):
        report.reject(item)
        return
    digest = digest_bytes(repr(item.events).encode("utf-8", "replace"))[-32:]
    if seen.get(item.run_id) == digest:
        report.repeated_runs += 1
        report.note(Unmapped("run that was read before in this import", example=item.run_id))
        return
    if item.run_id in seen:
        if not FORMATS[report.format].splits_runs:
            reason = "the same run id was read before in this import, with other content"
            report.reject(Rejected(f"run {item.run_id}", reason))
            return
        report.note(Unmapped("run that goes on in another part", example=item.run_id))
    if len(seen) < RUNS_REMEMBERED_MAX:
        seen[item.run_id] = digest
    for event in item.events:
        emit(event)
        report.events[type(event).__name__] += 1
    report.runs += 1


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ImportFormatError(f"the format {name!r} is unknown", next_step=f"use one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _expand_one(path: Path, entry: Format, left_out: dict[Path, None]) -> list[Path]:
    if path.is_dir():
        found = []
        for candidate in sorted(path.rglob("*")):
            if not candidate.is_file():
                continue
            if candidate.name not in LEFT_OUT_NAMES and any(fnmatch(candidate.name, p) for p in entry.patterns):
                found.append(candidate)
            elif entry.main_file_of(candidate) == candidate:
                left_out[candidate] = None
        return found
    if path.is_file():
        return [entry.main_file_of(path)]
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 (patterns may be absolute)
    return [file for match in matches for file in _expand_one(match, entry, left_out)]
