"""Records of the ledger as events of the Open Cybersecurity Schema Framework (OCSF) 1.8.0: class API Activity (6003)
with the profiles AI Operation and Trace. What has no place in the class is under `unmapped`, by its own name.

Follows schema.ocsf.io/1.8.0/classes/api_activity. Pure.
"""

from __future__ import annotations

from typing import Any

VERSION = "1.8.0"
CATEGORY_UID, CLASS_UID = 6, 6003
CREATE, READ, UPDATE, OTHER_ACTIVITY = 1, 2, 3, 99
SUCCESS, FAILURE, OTHER_STATUS, UNKNOWN = 1, 2, 99, 0
SHA_256 = 3  # algorithm_id of a fingerprint
UNNAMED = "unknown"  # for names that OCSF asks for and the record has none of

_ACTIVITY_NAMES = {CREATE: "Create", READ: "Read", UPDATE: "Update"}
_ACTIVITIES = {
    "RunStarted": CREATE, "BudgetDeclared": CREATE, "EvidenceRetrieved": READ, "StateChanged": UPDATE,
    "OutcomeRecorded": UPDATE, "RunFinished": UPDATE,
}  # fmt: skip
_EFFECTS = {"read": READ, "write": UPDATE, "irreversible": UPDATE}
_STATUSES = {
    "ok": SUCCESS, "succeeded": SUCCESS, "error": FAILURE, "timeout": FAILURE, "denied": FAILURE, "rejected": FAILURE,
    "failed": FAILURE,
}  # fmt: skip
_STATUS_NAMES = {SUCCESS: "Success", FAILURE: "Failure", UNKNOWN: "Unknown"}
_SEVERITIES = {"warning": (3, "Medium"), "critical": (5, "Critical")}
_ROLES = {
    "ModelCallCompleted": (2, "Assistant"), "ToolCallCompleted": (3, "Tool"), "EvidenceRetrieved": (6, "Retriever"),
}  # fmt: skip
_MAPPED = frozenset([
    "event_id", "tenant_id", "producer_id", "run_id", "trace_id", "span_id", "agent_id", "actor",
    "occurred_at", "provider", "answered_model", "latency_ms", "duration_ms", "status", "severity", "error_type",
    "error_message", "response_id", "call_id", "tool", "tool_version", "resource", "target",
])  # fmt: skip


def ocsf_event(
    name: str, record: dict[str, Any], *, log: str, log_index: int, ledger_time_us: int, value_sha256: str
) -> dict[str, Any]:
    """The event of a record with this name and these fields (times in microseconds), from this place of the ledger."""
    activity = _EFFECTS.get(record.get("effect", ""), _ACTIVITIES.get(name, OTHER_ACTIVITY))
    severity_id, severity = _SEVERITIES.get(record.get("severity", ""), (1, "Informational"))
    status = record.get("status", "")
    status_id = _STATUSES.get(status, OTHER_STATUS if status else UNKNOWN)
    time_ms = record["occurred_at"] // 1000
    duration = record.get("latency_ms", record.get("duration_ms"))
    duration_ms = None if duration is None or not 0 <= duration < 2**53 else round(duration)
    event: dict[str, Any] = {
        "activity_id": activity, "activity_name": _ACTIVITY_NAMES.get(activity, name),
        "category_uid": CATEGORY_UID, "category_name": "Application Activity",
        "class_uid": CLASS_UID, "class_name": "API Activity",
        "type_uid": CLASS_UID * 100 + activity,
        "severity_id": severity_id, "severity": severity,
        "status_id": status_id, "status": _STATUS_NAMES.get(status_id, status), "time": time_ms,
        "message": _message(name, record),
        "metadata": {
            "version": VERSION, "product": {"name": "agentledger", "vendor_name": "agentledger"},
            "profiles": ["ai_operation", "trace"], "uid": record["event_id"], "event_code": name,
            "correlation_uid": record["run_id"] or record["event_id"], "tenant_uid": record["tenant_id"] or UNNAMED,
            "log_name": log, "sequence": log_index, "logged_time": ledger_time_us // 1000,
        },
        "actor": _actor(record),
        "api": _api(name, record),
        "src_endpoint": {"name": record["producer_id"] or UNNAMED, "svc_name": record["agent_id"] or UNNAMED},
        "raw_data_hash": {"algorithm_id": SHA_256, "algorithm": "SHA-256", "value": value_sha256},
    }  # fmt: skip
    if duration_ms is not None:
        event["duration"] = duration_ms
    if record["trace_id"]:
        event["trace"] = _trace(record, time_ms, duration_ms)
    if resource := record.get("resource") or record.get("target"):
        event["resources"] = [{"name": resource, "type": name}]
    event |= _ai_operation(name, record)
    rest = {key: value for key, value in record.items() if key not in _MAPPED and value not in ("", None, [], {})}
    if rest:
        event["unmapped"] = {key: _exact(value) for key, value in rest.items()}
    return event


def _message(name: str, record: dict[str, Any]) -> str:
    about = record.get("tool") or record.get("answered_model") or record.get("resource") or record.get("rule") or ""
    return " ".join(filter(None, (name, about, record.get("status", ""), record.get("reason", ""))))


def _actor(record: dict[str, Any]) -> dict[str, Any]:
    """Who acted, and by which application: the agent."""
    agent = {"app_uid": record["agent_id"], "app_name": record["agent_id"]} if record["agent_id"] else {}
    return {"user": _user(record), **agent}


def _user(record: dict[str, Any]) -> dict[str, Any]:
    """On whose behalf; an agent that acts for itself is a service."""
    if record["actor"]:
        return {"name": record["actor"], "type_id": 1, "type": "User"}
    return {"name": record["agent_id"] or record["producer_id"] or UNNAMED, "type_id": 4, "type": "Service"}


def _api(name: str, record: dict[str, Any]) -> dict[str, Any]:
    api: dict[str, Any] = {"operation": record.get("tool") or name}
    if record.get("tool_version"):
        api["version"] = record["tool_version"]
    if record.get("provider"):
        api["service"] = {"name": record["provider"]}
    if request := record.get("call_id") or record.get("response_id"):
        api["request"] = {"uid": request}
    response = {"error": record.get("error_type"), "error_message": record.get("error_message")}
    if any(response.values()):
        api["response"] = {key: text for key, text in response.items() if text}
    return api


def _trace(record: dict[str, Any], time_ms: int, duration_ms: int | None) -> dict[str, Any]:
    trace: dict[str, Any] = {"uid": record["trace_id"]}
    if record["span_id"] and duration_ms is not None:  # OCSF has no span without both ends
        trace["span"] = {"uid": record["span_id"], "start_time": time_ms - duration_ms, "end_time": time_ms}
    return trace


def _ai_operation(name: str, record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if model_name := record.get("answered_model") or record.get("requested_model"):
        found["ai_model"] = {"name": model_name, "ai_provider": record.get("provider") or UNNAMED}
    if name in _ROLES:
        role_id, role = _ROLES[name]
        service = record.get("provider") or record.get("tool") or record.get("source") or UNNAMED
        found["message_context"] = {
            "ai_role_id": role_id, "ai_role": role, "service": {"name": service}, "uid": record["run_id"] or UNNAMED,
            **_tokens(record),
        }  # fmt: skip
    return found


def _tokens(record: dict[str, Any]) -> dict[str, int]:
    """Tokens as OCSF sums them up; our counts, which tell cached ones apart, are under `unmapped`."""
    prompt = [record.get(key) for key in ("input_tokens", "cache_read_tokens", "cache_write_tokens")]
    completion = [record.get(key) for key in ("output_tokens", "reasoning_tokens")]
    known = {
        "prompt_tokens": sum(one for one in prompt if one) if prompt[0] is not None else None,
        "completion_tokens": sum(one for one in completion if one) if completion[0] is not None else None,
    }
    if None not in known.values():
        known["total_tokens"] = sum(count or 0 for count in known.values())
    return {key: count for key, count in known.items() if count is not None and abs(count) < 2**53}


def _exact(value: Any) -> Any:
    """A value that JSON holds exactly everywhere: larger integers and what is no number are text."""
    if isinstance(value, int) and abs(value) >= 2**53:
        return str(value)
    if isinstance(value, float) and not abs(value) < float("inf"):
        return repr(value)
    return value
