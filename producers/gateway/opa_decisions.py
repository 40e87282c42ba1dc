"""Open Policy Agent's decision logs (its documentation, "Decision Logs", service API) as PolicyDecided.

The inputs and results themselves stay with OPA: kept are the digest of the input and what names the decision. What a
sender can't change (an over-long path, say) is cut and not refused, since OPA would send the same again for ever.
"""

from __future__ import annotations

import hashlib
from typing import Any

from agentledger.producers.bounds import clean_labels, clean_run_id, clean_text
from agentledger.producers.gateway.callers import Caller
from agentledger.producers.gateway.event_fields import time_us
from agentledger.producers.gateway.refusals import RefusedEventError
from agentledger.schemas.events import PolicyDecided
from agentledger.schemas.hashing import canonical_json
from agentledger.schemas.identity import UNCOUNTED, content_id

ENGINE = "opa"
ALLOWS = ("allow", "allowed", "decision")  # members of a result that say yes or no; AuthZEN answers with `decision`
DENIES = ("deny", "violation", "violations")  # members that list what is wrong: empty is a yes
REASONS = ("reason", "reasons", "message", "msg", *DENIES)
NS_PER_MS = 1_000_000


def policy_decision(entry: Any, caller: Caller) -> PolicyDecided:
    """One entry of a decision log. Raises RefusedEventError where it is none."""
    if not isinstance(entry, dict):
        raise RefusedEventError("not_an_object", "", "a decision is a JSON object")
    decision_id = entry.get("decision_id")
    if not isinstance(decision_id, str) or not decision_id:
        raise RefusedEventError("missing_field", "/decision_id", "decision_id is missing: it is the identity")
    try:
        occurred_at = time_us(str(entry.get("timestamp")))  # RFC 3339 alone, as OPA writes it
    except ValueError as error:
        raise RefusedEventError("wrong_value", "/timestamp", f"timestamp: {error}") from None
    asked = _object(entry.get("input"))
    labels = _object(entry.get("labels"))
    event = PolicyDecided(
        event_id=content_id(occurred_at, "opa", caller.tenant_id, hashlib.sha256(_utf8(decision_id)).hexdigest()),
        tenant_id=caller.tenant_id,
        producer_id=f"gateway:{caller.name}",
        producer_seq=UNCOUNTED,
        run_id=clean_run_id(_first(asked, "run_id") or _first(labels, "run_id") or f"{ENGINE}:{decision_id}"),
        trace_id=_hex(entry.get("trace_id"), 32),
        span_id=_hex(entry.get("span_id"), 16),
        agent_id=_name(_first(asked, "agent_id")),
        workflow=_name(_first(asked, "workflow")),
        actor=_name(_first(asked, "actor") or asked.get("subject") or asked.get("user")),
        occurred_at=occurred_at,
        labels=_labels(entry, labels, decision_id),
        engine=ENGINE,
        policy=clean_text(entry.get("path") or entry.get("query") or ""),
        policy_version=_revisions(entry),
        verdict=_verdict(entry),
        reason=_reason(entry),
        action=_name(asked.get("action") or asked.get("tool") or asked.get("method")),
        target=_name(asked.get("resource") or asked.get("target") or asked.get("path")),
        latency_ms=_latency_ms(_object(entry.get("metrics"))),
    )
    if "input" in entry:
        event.input_digest = f"sha256:{hashlib.sha256(_canonical(entry['input'])).hexdigest()}"
    return event


def _verdict(entry: dict[str, Any]) -> str:
    """allow or deny where the result says so in a usual form; error, undefined, or empty where it can't be told."""
    if entry.get("error"):
        return "error"
    if "result" not in entry:
        return "undefined"
    result = entry["result"]
    if isinstance(result, dict):
        said = [result[name] for name in ALLOWS if isinstance(result.get(name), bool)]
        denied = [bool(result[name]) for name in DENIES if isinstance(result.get(name), bool | list | dict)]
        if said or denied:
            return "allow" if all(said) and not any(denied) else "deny"
        result = next((result[name] for name in ("verdict", "decision") if isinstance(result.get(name), str)), None)
    if isinstance(result, bool):
        return "allow" if result else "deny"
    return clean_text(result, 64).lower() if isinstance(result, str) else ""


def _reason(entry: dict[str, Any]) -> str:
    error = entry.get("error")
    if error:
        return clean_text(_object(error).get("message") or error)
    result = _object(entry.get("result"))
    for name in REASONS:
        said = result.get(name)
        if isinstance(said, str):
            return clean_text(said)
        if isinstance(said, list) and said:
            return clean_text("; ".join(clean_text(item, 512) for item in said[:32]))
    return ""


def _revisions(entry: dict[str, Any]) -> str:
    bundles = _object(entry.get("bundles"))
    named = [f"{name}={_object(bundle).get('revision') or ''}" for name, bundle in sorted(bundles.items())]
    return clean_text(",".join(named) or entry.get("revision") or "", 1024)


def _labels(entry: dict[str, Any], labels: dict[str, Any], decision_id: str) -> dict[str, str]:
    """What OPA says of itself and of the request, under names of its own."""
    said = {"opa_decision_id": decision_id}
    said |= {f"opa_{name}": entry[name] for name in ("requested_by", "req_id", "batch_decision_id") if name in entry}
    for name in ("erased", "masked"):
        if isinstance(entry.get(name), list):
            said[f"opa_{name}"] = ", ".join(clean_text(path, 256) for path in entry[name][:16])
    return clean_labels(said | {f"opa_label_{name}": value for name, value in sorted(labels.items())})


def _latency_ms(metrics: dict[str, Any]) -> float | None:
    for name in ("timer_server_handler_ns", "timer_rego_query_eval_ns"):
        ns = metrics.get(name)
        if isinstance(ns, int) and not isinstance(ns, bool) and 0 <= ns < 2**63:
            return ns / NS_PER_MS
    return None


def _name(value: Any) -> str:
    """The name of what a policy was asked about: a text, or an object with an id, a name and a type (AuthZEN)."""
    if isinstance(value, dict):
        kind, id_ = value.get("type"), value.get("id") or value.get("name")
        return clean_text(f"{kind}:{id_}" if kind and id_ else id_ or kind or "", 1024)
    if isinstance(value, list):
        return clean_text("/".join(clean_text(item, 256) for item in value[:16]), 1024)
    return clean_text(value, 1024) if isinstance(value, str | int) else ""


def _first(asked: dict[str, Any], name: str) -> Any:
    """A member of the input, or of the AuthZEN context in it."""
    return asked.get(name) or _object(asked.get("context")).get(name)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _hex(value: Any, digits: int) -> str:
    found = value.lower() if isinstance(value, str) else ""
    return found if len(found) == digits and not set(found) - set("0123456789abcdef") else ""


def _canonical(value: Any) -> bytes:
    try:
        return canonical_json(value)
    except (ValueError, TypeError):  # half a surrogate pair, or a number that JSON has and RFC 8785 has not
        return repr(value).encode("ascii", "backslashreplace")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
