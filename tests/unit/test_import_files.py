"""Which files an import reads, what its report says, and what stops it from reading on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from agentledger.producers import importers
from agentledger.producers.importers import FORMATS, ImportOptions, Progress, expand_paths, find_files, import_files
from agentledger.producers.importers import documents as documents_module
from agentledger.producers.importers.documents import read_document, read_lines
from agentledger.producers.importers.records import iso_to_us
from agentledger.producers.json_values import digest_and_size, parse_json, parse_json_text, short_text
from agentledger.producers.usage import disjoint_tokens
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import Event, RunStarted

LINE = '{"run_id": "%s", "final": "success", "cost_usd": 0.000000001}\n'


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_folders_globs_and_files_are_read_once_each(tmp_path: Path) -> None:
    one = write(tmp_path / "a" / "one.jsonl", LINE % "1")
    two = write(tmp_path / "a" / "deep" / "two.jsonl.gz", LINE % "2")
    odd = write(tmp_path / "a" / "odd.log", LINE % "3")
    found = find_files([tmp_path / "a", str(tmp_path / "**" / "*.jsonl"), one], "run-log")
    assert (found.files, found.left_out) == ([two, one], [odd])
    assert expand_paths([odd], "run-log") == [odd]


@pytest.mark.parametrize("path", ["nothing.jsonl", "*.jsonl", "empty"])
def test_a_path_without_files_is_an_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportFormatError, match="no file to import as run-log"):
        find_files([tmp_path / path], "run-log")


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ImportFormatError, match="tau2, tau2-events, mini-swe, otel-json, run-log, chat"):
        import_files("csv", ["x"], lambda event: None)


def test_the_report_says_what_was_read_published_and_rejected(tmp_path: Path) -> None:
    write(tmp_path / "good.jsonl", LINE % "1" + "{oops\n" + LINE % "2")
    write(tmp_path / "same.jsonl", LINE % "1")
    # Torn after its last line: what was whole counts, and the file is still listed.
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress((LINE % "3").encode())[:-9])
    events: list[Event] = []
    seen: list[Progress] = []
    report = import_files("run-log", [tmp_path], events.append, on_progress=seen.append)
    assert (report.files, report.runs, report.repeated_runs, report.source) == (3, 3, 1, "run-log")
    assert report.events == {"RunStarted": 3, "RunFinished": 3, "OutcomeRecorded": 3}
    assert [event.source for event in events if isinstance(event, RunStarted)] == ["run-log"] * 3
    assert [item.where for item in report.rejected] == [f"{tmp_path}/good.jsonl:2", f"{tmp_path}/torn.jsonl.gz"]
    assert (report.rejected_count, report.exit_code) == (2, 1)
    assert all("\n" not in item.reason for item in report.rejected)
    assert report.unmapped["run that was read before in this import"].count == 1
    assert (seen[0].files_done, seen[-1].files_done, seen[-1].files_total, seen[-1].events) == (0, 3, 3, 9)


def test_the_rejected_are_all_counted_but_not_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importers, "REJECTED_LISTED_MAX", 2)
    write(tmp_path / "x.jsonl", "{\n" * 5)
    report = import_files("run-log", [tmp_path], lambda event: None)
    assert (len(report.rejected), report.rejected_count) == (2, 5)


def test_what_emit_raises_ends_the_import(tmp_path: Path) -> None:
    def refuse(event: Event) -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        import_files("run-log", [write(tmp_path / "x.jsonl", LINE % "1")], refuse)


def test_one_run_id_with_two_contents_is_rejected_not_mixed(tmp_path: Path) -> None:
    def batch(task: str) -> str:
        return json.dumps({"info": {}, "simulations": [{"id": "u-1", "task_id": task, "messages": []}]})

    write(tmp_path / "a.json", batch("a"))
    write(tmp_path / "b.json", batch("b"))
    events: list[Event] = []
    report = import_files("tau2", [tmp_path], events.append)
    assert [event.task for event in events if isinstance(event, RunStarted)] == ["a"]
    assert [item.where for item in report.rejected] == ["run u-1"]


def test_the_name_of_the_file_changes_nothing(tmp_path: Path) -> None:
    first: list[Event] = []
    second: list[Event] = []
    import_files("run-log", [write(tmp_path / "a.jsonl", LINE % "1")], first.append)
    import_files("run-log", [write(tmp_path / "b.jsonl.gz", LINE % "1")], second.append)
    assert first == second


def test_options_label_the_run(tmp_path: Path) -> None:
    options = ImportOptions(
        source="pilot", agent_id="clerk", workflow="refunds", environment="staging", tenant_id="acme"
    )
    events: list[Event] = []
    import_files("run-log", [write(tmp_path / "a.jsonl", LINE % "1")], events.append, options)
    event = events[0]
    assert isinstance(event, RunStarted)
    assert (event.source, event.agent_id, event.workflow, event.environment, event.tenant_id, event.run_id) == (
        "pilot",
        "clerk",
        "refunds",
        "staging",
        "acme",
        "acme/1",
    )


def test_a_document_or_a_line_over_its_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "DOCUMENT_BYTES_MAX", 100)
    monkeypatch.setattr(documents_module, "LINE_BYTES_MAX", 100)
    bomb = write(tmp_path / "bomb.json.gz", '"' + "0" * 100_000 + '"')
    with pytest.raises(ImportFormatError, match="1 GiB"):
        read_document(bomb)
    with pytest.raises(ImportFormatError, match="64 MiB"):
        list(read_lines(bomb))


def test_json_nested_too_deeply_is_rejected(tmp_path: Path) -> None:
    for depth in (900, 100_000):
        write(
            tmp_path / "deep.json",
            '{"messages": [{"role": "assistant", "content": ' + "[" * depth + "]" * depth + "}]}",
        )
        report = import_files("chat", [tmp_path / "deep.json"], lambda event: None)
        assert report.runs + report.rejected_count == 1


@pytest.mark.parametrize("text", ["", "{", "NaN", "1e99999999999999999999", "\ufeff{}", "[1]]"])
def test_what_is_not_json_says_so_in_one_line(text: str) -> None:
    with pytest.raises(ImportFormatError) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


def test_numbers_keep_every_digit() -> None:
    value = parse_json("[181173846854566416410198575114694940022, 0.00011519999999999999]")
    assert [str(number) for number in value] == ["181173846854566416410198575114694940022", "0.00011519999999999999"]


def test_equal_values_have_equal_digests() -> None:
    texts = ['{"a": 38.50, "b": [1]}', '{ "b": [1.0], "a": 3.85e1 }']
    assert len({digest_and_size(parse_json(text)) for text in texts}) == 1
    assert digest_and_size(parse_json('"\\ud800"')) == digest_and_size("?")


def test_json_in_text_is_unwrapped_as_far_as_it_goes() -> None:
    wrapped: Any = {"a": 1}
    for _ in range(2):
        wrapped = json.dumps(wrapped)
    assert parse_json_text(wrapped) == {"a": 1}
    assert parse_json_text("plain words") == "plain words"


def test_login_names_and_long_texts_stay_out() -> None:
    assert short_text("see /Users/jane/x and C:\\Users\\joe\\y or /home/kim") == (
        "see /Users/…/x and C:\\Users\\…\\y or /home/…"
    )
    assert len(short_text("x" * 10_000)) == 300


def test_times() -> None:
    assert iso_to_us("1970-01-01T00:00:01.5") == iso_to_us("1970-01-01T02:00:01.500+02:00") == 1_500_000
    assert [iso_to_us(value) for value in ("soon", None, 5)] == [None] * 3


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, (None, None, None, None, None)),
        ({"prompt_tokens": 10, "completion_tokens": 0}, (10, None, None, 0, None)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            (6, 4, None, 7, 2),
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 9,
                "cache_read_input_tokens": 400,
                "cache_creation_input_tokens": 30,
            },
            (10, 400, 30, 9, None),
        ),
        (
            {"input_tokens": 10, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 99}},
            (0, 99, None, 9, None),
        ),
        ({"prompt_tokens": -1, "completion_tokens": "9"}, (None, None, None, None, None)),
    ],
)
def test_token_counts_become_disjoint(usage: Any, expected: tuple[int | None, ...]) -> None:
    assert tuple(disjoint_tokens(usage).values()) == expected


def test_the_facade_is_sorted_and_every_format_says_what_it_reads() -> None:
    assert set(importers.__all__) <= set(dir(importers))
    assert all(entry.description and entry.patterns and entry.name == name for name, entry in FORMATS.items())
