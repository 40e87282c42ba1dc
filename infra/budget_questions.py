"""Questions of budgets that ask a person for more: those that are open, and a person's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentledger.processors.budget_declarations import Change, Key, Limit, changes_of, limit_of
from agentledger.producers.halts import Command
from agentledger.schemas import uuid7
from agentledger.schemas.budget_questions import ACTION, OWN_PREFIX, Raise, raise_of
from agentledger.schemas.errors import CodecError, UsageError
from agentledger.schemas.events import ApprovalDecided, BudgetDeclared
from agentledger.schemas.topics import BUDGETS
from agentledger.sinks.queries import query

QUESTIONS_MAX = 1000
DENIED = "rejected"

# Of a run's own budget only its agent can make more: run.extend_budget answers, and no command.
_ASKED = f"""
SELECT approval_id, anyIf(target, action = '{ACTION}') AS target, anyIf(change_redacted, action = '{ACTION}') AS change,
    anyIf(run_id, action = '{ACTION}') AS run_id,
    minIf(toUnixTimestamp64Micro(ledger_time), action = '{ACTION}') AS asked_us,
    argMinIf(verdict, (ledger_time, log_index), event_type = 'ApprovalDecided') AS answer,
    argMinIf(decided_by, (ledger_time, log_index), event_type = 'ApprovalDecided') AS answered_by
FROM agentledger.ledger
WHERE (event_type = 'ApprovalDecided' OR event_type = 'ApprovalRequested' AND topic = '{BUDGETS.name}')
    AND occurrence = 'first' AND tenant_id = {{tenant:String}} AND NOT startsWith(approval_id, '{OWN_PREFIX}')
    AND ({{id:String}} = '' OR approval_id = {{id:String}})
GROUP BY approval_id HAVING countIf(action = '{ACTION}') > 0 AND ({{id:String}} != '' OR answer = '')
ORDER BY asked_us DESC LIMIT {QUESTIONS_MAX}"""

_OTHERS_EXCEEDED = """
SELECT count() FROM agentledger.ledger
WHERE event_type = 'BudgetExceeded' AND occurrence = 'first' AND tenant_id = {tenant:String} AND scope = 'run'
    AND scope_value = {run:String} AND (budget_id != {budget:String} OR metric != {metric:String})"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A budget's question, and the first answer to it, if any. `asked_us` is ledger time, microseconds since 1970."""

    approval_id: str
    target: str
    change: Raise
    run_id: str
    asked_us: int
    answer: str
    answered_by: str


def open_questions(client: Any, tenant_id: str) -> list[Question]:
    """Those that nobody has answered, the latest first. Raises StoreError."""
    rows = query(client, _ASKED, parameters={"tenant": tenant_id, "id": ""}).records()
    return [_question(row) for row in rows if _is_readable(row)]


def open_question(client: Any, tenant_id: str, approval_id: str) -> Question:
    """The open question of this id. Raises UsageError where there is none, or it is answered; StoreError."""
    lists = "agentledger budgets show lists those that are open"
    if approval_id.startswith(OWN_PREFIX):
        raise UsageError("a run's own budget asks its agent", next_step="its agent answers with run.extend_budget")
    rows = query(client, _ASKED, parameters={"tenant": tenant_id, "id": approval_id}).records()
    if not rows:
        raise UsageError(f"no budget of tenant {tenant_id} has asked {approval_id!r}", next_step=lists)
    question = _question(rows[0])
    if question.answer:
        by = f" by {question.answered_by}" if question.answered_by else ""
        raise UsageError(f"the question is answered: {question.answer}{by}", where=approval_id, next_step=lists)
    return question


def raised(
    question: Question,
    known: Mapping[Key, BudgetDeclared],
    *,
    limit: int | None,
    reason: str,
    decided_by: str,
    producer_id: str,
    now_us: int,
) -> list[Change]:
    """What declares more of the limit that is asked about: `limit`, or as much again.

    Raises UsageError where the budget has ended, or `limit` isn't more than what it has.
    """
    asked = question.change
    current = known.get((asked.budget_id, asked.metric))
    if current is None or current.retired:
        raise UsageError(f"budget {asked.budget_id} has ended", next_step="agentledger budgets list --all shows it")
    wanted = max(current.limit_amount, asked.used) + current.limit_amount if limit is None else limit
    if wanted <= current.limit_amount:
        raise UsageError(
            f"a limit of {wanted} is not more than the {current.limit_amount} that budget {asked.budget_id} has",
            next_step="give --limit",
        )
    limits: list[Limit] = []
    for (budget_id, metric), event in known.items():
        if budget_id == asked.budget_id and not event.retired:
            own = limit_of(event)
            limits.append(replace(own, limit_amount=wanted) if metric == asked.metric else own)
    return changes_of(
        limits, known, tenant_id=current.tenant_id, now_us=now_us, declared_by=decided_by, producer_id=producer_id,
        reason=reason,
    )  # fmt: skip


def lifting(client: Any, question: Question, tenant_id: str, *, reason: str, decided_by: str) -> Command | None:
    """What lifts the halt of a run that was given more: its fold lifts it with the run's next event, and a run that is
    halted may send none. None where it is another scope's question, or the run is over another limit as well.
    """
    asked = question.change
    if asked.scope != "run":
        return None
    parameters = {"tenant": tenant_id, "run": asked.scope_value, "budget": asked.budget_id, "metric": asked.metric}
    if query(client, _OTHERS_EXCEEDED, parameters=parameters).rows[0][0]:
        return None
    return Command("resume", tenant_id, "run", asked.scope_value, reason, decided_by)


def denial(
    question: Question, tenant_id: str, *, reason: str, decided_by: str, producer_id: str, now_us: int
) -> ApprovalDecided:
    """The answer that leaves everything as it is."""
    return ApprovalDecided(
        event_id=uuid7(now_us),
        tenant_id=tenant_id,
        producer_id=producer_id,
        producer_seq=0,
        run_id=question.run_id,
        actor=decided_by,
        occurred_at=now_us,
        approval_id=question.approval_id,
        verdict=DENIED,
        decided_by=decided_by,
        reason=reason,
    )


def declared_anew(changes: Sequence[Change]) -> BudgetDeclared:
    """The one declaration among them."""
    return next(change.event for change in changes if change.event is not None)


def _is_readable(row: Mapping[str, Any]) -> bool:
    """False for a question of a release that didn't say which limit it is about."""
    try:
        raise_of(row["change"] or "")
    except CodecError:
        return False
    return True


def _question(row: Mapping[str, Any]) -> Question:
    return Question(
        approval_id=row["approval_id"],
        target=row["target"],
        change=raise_of(row["change"] or ""),
        run_id=row["run_id"],
        asked_us=int(row["asked_us"]),
        answer=row["answer"],
        answered_by=row["answered_by"],
    )
