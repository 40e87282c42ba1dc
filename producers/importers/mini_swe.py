"""`mini-swe`: trajectories of mini-swe-agent, whose only tool is a shell command in a fenced block of the reply.

The outcome of a run stands in another file, `<id>.report.json`, beside the trajectory or in `../reports`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentledger.producers.importers.documents import read_document
from agentledger.producers.importers.records import (
    TIMELESS_START_US,
    ImportOptions,
    Item,
    RunBuilder,
    RunFacts,
    Unmapped,
)
from agentledger.producers.json_values import (
    as_count,
    as_dict,
    as_list,
    as_text,
    cost_nanousd,
    digest_and_size,
    short_text,
)
from agentledger.producers.usage import disjoint_tokens
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import (
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    RunStarted,
    ToolCallCompleted,
)

FAMILY = "mini-swe"
TOOL = "bash"
SECONDS_MAX = 1 << 40  # beyond it the microseconds leave 64 bits
ENDINGS = {"Submitted": "succeeded", "LimitsExceeded": "halted"}
_BLOCK = re.compile(r"```bash\s*\n(.*?)\n```", re.DOTALL)  # as mini-swe-agent itself finds the command
_RETURN_CODE = re.compile(r"\s*<returncode>(-?\d+)</returncode>")
_NAME = re.compile(r"(.+)\.(traj|report)\.json(\.gz)?")


def main_file_of(path: Path) -> Path:
    """The trajectory that a report belongs to; any other file itself."""
    match = _NAME.fullmatch(path.name)
    if match is None or match.group(2) != "report":
        return path
    return _beside(path, "trajs", match.group(1), "traj") or path


def read(path: Path, options: ImportOptions) -> Iterator[Item]:
    """The run of one trajectory, with its outcome if the report is found. Raises ImportFormatError."""
    match = _NAME.fullmatch(path.name)
    report_path = _beside(path, "reports", match.group(1), "report") if match else None
    report = None if report_path is None else read_document(report_path)
    return parse(read_document(path), report, options, str(path))


def _beside(path: Path, folder: str, name: str, kind: str) -> Path | None:
    candidates = (
        parent / f"{name}.{kind}.json{ending}"
        for parent in (path.parent, path.parent.parent / folder)
        for ending in ("", ".gz")
    )
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def parse(document: Any, report: Any, options: ImportOptions, origin: str) -> Iterator[Item]:
    """The run of one trajectory document. Raises ImportFormatError where it isn't one."""
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list) or "info" not in document:
        raise ImportFormatError("not a mini-swe-agent trajectory: it has no `info` and `messages`", where=origin)
    trajectory = _Trajectory(document, options)
    yield from list(trajectory.items(report))


class _Trajectory:
    """One trajectory on its way to events."""

    def __init__(self, document: dict[str, Any], options: ImportOptions) -> None:
        self.info = as_dict(document.get("info"))
        self.config = as_dict(self.info.get("config"))
        self.agent = as_dict(self.config.get("agent"))
        self.messages = [as_dict(message) for message in document["messages"]]
        self.task = as_text(document.get("instance_id"))
        # The task's id names the task, not the attempt: many runs share it, so the content tells them apart.
        digest = digest_and_size(document)[0].removeprefix("sha256:")[:16]
        times = [created for message in self.messages if (created := _created_us(message)) is not None]
        self.started_us = min(times, default=TIMELESS_START_US)
        self.ended_us = max(times, default=TIMELESS_START_US)
        self.refusal = _opening(self.agent.get("format_error_template"), "Please always provide EXACTLY ONE action")
        self.timeout = _opening(self.agent.get("timeout_template"), "The last command ")
        self.left_over: list[Unmapped] = []
        facts = RunFacts(
            family=FAMILY,
            natural_id=f"{self.task or 'run'}-{digest}",
            agent_id="mini-swe-agent",
            agent_version=as_text(self.info.get("mini_version")),
            workflow="swe-bench",
            labels={"times": "of the replies, whole seconds" if times else "none"},
        )
        self.run = RunBuilder(facts, options)

    def items(self, report: Any) -> Iterator[Item]:
        self._start()
        now_us = self.started_us
        for place, message in enumerate(self.messages):
            role = as_text(message.get("role"))
            if role == "assistant":
                created = _created_us(message)
                now_us = now_us if created is None else created
                self._reply(place, message, now_us)
            elif role not in {"system", "user"}:
                self.left_over.append(Unmapped(f"message of role {role}", example=self.run.run_id))
        self._end(report)
        yield self.run.finish()
        yield from self.left_over

    def _start(self) -> None:
        limit, cost_limit = as_count(self.agent.get("step_limit")), cost_nanousd(self.agent.get("cost_limit"))
        templates = [self.agent.get(name) for name in ("system_template", "instance_template")]
        self.run.add(
            RunStarted,
            self.started_us,
            source=self.run.source,
            task=short_text(self.task),
            budget_cost_nanousd=cost_limit or None,  # 0 means no limit
            budget_model_calls=limit or None,
            on_budget_exceeded="halt" if cost_limit or limit else "",
            prompt_version=digest_and_size(templates)[0] if any(templates) else "",
        )

    def _reply(self, place: int, message: dict[str, Any], now_us: int) -> None:
        text = as_text(message.get("content"))
        commands = _BLOCK.findall(text)
        seen = self._seen_after(place)
        refused = seen.startswith(self.refusal) or len(commands) != 1
        call_id = self._model_call(message, text, now_us, refused)
        if refused:
            self.run.add(
                PolicyDecided,
                now_us,
                parent_event_id=call_id,
                engine="mini-swe-agent",
                policy="reply format",
                rule="exactly one command per reply",
                verdict="deny",
                enforced="blocked",
                reason=short_text(seen.partition("\n")[0] or f"found {len(commands)} actions"),
                action=TOOL,
                input_digest=digest_and_size(commands)[0],
            )
            return
        self._command(place, commands[0], call_id, now_us)

    def _model_call(self, message: dict[str, Any], text: str, now_us: int, refused: bool) -> str:
        extra = as_dict(message.get("extra"))
        response = as_dict(extra.get("response"))
        usage = as_dict(response.get("usage"))
        priced_in_usage = usage.get("cost") is not None
        cost = cost_nanousd(usage.get("cost") if priced_in_usage else extra.get("cost"))
        model = as_text(as_dict(self.config.get("model")).get("model_name")).lstrip("@")
        digest, size = digest_and_size({"content": text})
        tier = as_text(response.get("service_tier"))
        choice = as_dict(next(iter(as_list(response.get("choices"))), None))
        return self.run.add(
            ModelCallCompleted,
            now_us,
            labels={"answered_by": as_text(response.get("provider"))} if response.get("provider") else None,
            provider=model.partition("/")[0] if "/" in model else as_text(response.get("provider")).lower(),
            requested_model=model,
            answered_model=as_text(response.get("model")),
            requestor="assistant",
            service_tier="" if tier == "default" else tier,
            # The gateway that puts no cost into usage counts reasoning beside the completion, the other within.
            **disjoint_tokens(usage, reasoning_apart=not priced_in_usage and cost is not None),
            status="rejected" if refused else "ok",
            error_type="reply_format" if refused else "",
            finish_reason=as_text(choice.get("finish_reason")).lower(),
            reported_cost_nanousd=cost,
            response_id=as_text(response.get("id")),
            output_digest=digest,
            output_bytes=size,
        ).event_id

    def _seen_after(self, place: int) -> str:
        """What the agent saw after its reply; empty where nothing follows."""
        following = next((m for m in self.messages[place + 1 : place + 2] if m.get("role") == "user"), {})
        return as_text(following.get("content"))

    def _command(self, place: int, command: str, parent: str, now_us: int) -> None:
        seen = self._seen_after(place)
        arguments_digest, arguments_bytes = digest_and_size({"command": command})
        result_digest, result_bytes = digest_and_size(seen) if seen else ("", None)
        status, error_type, error_message = self._verdict(seen, place)
        self.run.add(
            ToolCallCompleted,
            now_us,
            parent_event_id=parent,
            tool=TOOL,
            requestor="assistant",
            arguments_digest=arguments_digest,
            arguments_bytes=arguments_bytes,
            result_digest=result_digest,
            result_bytes=result_bytes,
            status=status,
            error_type=error_type,
            error_message=error_message,
        )

    def _verdict(self, seen: str, place: int) -> tuple[str, str, str]:
        """Status, error type and message of a command, from what the agent saw next."""
        code = _RETURN_CODE.match(seen)
        if code is not None:
            number = int(code.group(1))
            return ("ok", "", "") if number == 0 else ("error", "return_code", f"return code {number}")
        if seen.startswith(self.timeout):
            return "timeout", "timeout", "the command was killed at its time limit"
        if seen and place + 2 == len(self.messages) and self.info.get("exit_status") == "Submitted":
            return "ok", "", ""  # the command that submits ends the run and prints the diff, without a return code
        self.left_over.append(Unmapped("command whose result can't be read", example=self.run.run_id))
        return "error", "no_result", "the recording has no result that says how the command ended"

    def _end(self, report: Any) -> None:
        ending = as_text(self.info.get("exit_status"))
        if ending:
            self.run.add(
                RunFinished,
                self.ended_us,
                status=ENDINGS.get(ending, "failed"),
                reason=short_text(ending),
                duration_ms=(self.ended_us - self.started_us) // 1000,
                reported_cost_nanousd=cost_nanousd(as_dict(self.info.get("model_stats")).get("instance_cost")),
            )
        else:
            self.left_over.append(Unmapped("run without an exit status", example=self.run.run_id))
        report = as_dict(as_dict(report).get(self.task) or report)
        if not isinstance(report.get("resolved"), bool):
            self.left_over.append(Unmapped("run without a report of its outcome", example=self.run.run_id))
            return
        self.run.add(
            OutcomeRecorded,
            self.ended_us,
            success=report["resolved"],
            verified_by="SWE-bench tests",
            reason=_tests_passed(report),
        )


def _tests_passed(report: dict[str, Any]) -> str:
    parts = []
    for name, tests in sorted(as_dict(report.get("tests_status")).items()):
        passed, failed = (len(as_list(as_dict(tests).get(key))) for key in ("success", "failure"))
        if passed + failed:
            parts.append(f"{name} {passed}/{passed + failed}")
    return ", ".join(parts)


def _created_us(message: dict[str, Any]) -> int | None:
    created = as_dict(as_dict(message.get("extra")).get("response")).get("created")
    seconds = as_count(created)
    return None if seconds is None or seconds > SECONDS_MAX else seconds * 1_000_000


def _opening(template: Any, fallback: str) -> str:
    """The fixed words that a message made from this template begins with."""
    return re.split(r"\{\{|\{%|<command>", as_text(template), maxsplit=1)[0].strip() or fallback
