"""Evidence: the latest signed checkpoints, verifying now with its progress, and how to hand the trail to others."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from agentledger.schemas.errors import UsageError
from agentledger.sinks.console.pages.exports import EXPORT, FORMATS
from agentledger.sinks.console.visits import Visit

CHECKPOINTS_MAX = 20
DAY_US = 86_400_000_000
VERIFY = "verify"

# Of the whole ledger: a checkpoint signs the heads of all logs, and names no record.
_CHECKPOINTS = f"""
SELECT ledger_time, origin, tree_size, root_hash, key_id FROM agentledger.ledger
WHERE event_type = 'CheckpointSigned' AND occurrence = 'first'
    AND ledger_time >= fromUnixTimestamp64Micro({{since_us:Int64}}, 'UTC')
ORDER BY ledger_time DESC LIMIT {CHECKPOINTS_MAX}"""
_LOOKS = """
SELECT ledger_time, actor, labels['command'] AS command, labels['result'] AS result, labels['rows_read'] AS rows_read
FROM agentledger.ledger
WHERE tenant_id = {tenant_id:String} AND event_type = 'EvidenceRetrieved' AND occurrence = 'first' AND workflow = 'read'
    AND ledger_time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
ORDER BY ledger_time DESC LIMIT 50"""


def show_evidence(visit: Visit) -> Response:
    """The page /evidence."""
    since_us = visit.now_us - 30 * DAY_US
    exports, tenant_id = visit.ports.exports, visit.visitor.tenant_id
    return visit.page(
        "evidence.html", checkpoints=visit.rows(_CHECKPOINTS, since_us=since_us),
        looks=visit.rows(_LOOKS, since_us=visit.now_us - DAY_US), job=visit.jobs.state(VERIFY),
        exports=exports.listed(tenant_id) if exports else None, exporting=visit.jobs.state(EXPORT, tenant_id),
        formats=FORMATS, can_verify=visit.ports.verify is not None,
    )  # fmt: skip


def start_verify(visit: Visit) -> Response:
    """The form of /verify: one at a time, as each reads the whole ledger."""
    if visit.ports.verify is None:
        raise UsageError("the ledger can't be verified from here", next_step="run agentledger verify --all")
    visit.jobs.start(VERIFY, visit.ports.verify, visit.visitor.name, visit.now_us)
    return RedirectResponse("/evidence", 303)
