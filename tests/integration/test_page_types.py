"""Pages against the types that PagerDuty and Slack publish for their own clients: TypeScript's compiler reads both."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from agentledger.sinks.notify.payloads import Told, pagerduty_body, slack_body
from tests.integration.test_gateway_clients import TYPESCRIPT
from tests.unit.test_notify_channels import told

pytestmark = pytest.mark.integration
PACKAGES = {"pagerduty": "@pagerduty/pdjs@2.2.4", "slack": "@slack/types@3.2.0"}
# PagerDuty's type leaves out two keys that its API description has, and asks for a payload where that doesn't.
HEAD = """
import type { EventPayloadV2 } from "./pagerduty/build/src/events";
import type { KnownBlock } from "./slack/dist/block-kit/blocks";
type Trigger = EventPayloadV2 & { client?: string; client_url?: string };
type Rest = Omit<EventPayloadV2, "payload">;
type Message = { text: string; blocks: KnownBlock[] };
"""


def fetch(folder: Path) -> None:
    """Both packages, unpacked."""
    for name, package in PACKAGES.items():
        packed = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, capture_output=True, text=True, check=True, timeout=120
        )
        (folder / name).mkdir()
        subprocess.run(
            ["tar", "xzf", packed.stdout.strip(), "-C", name, "--strip-components=1"], cwd=folder, check=True
        )


def samples_of(page: Told) -> list[str]:
    """A page as both are sent it, each as a constant of the type that it must have."""
    kind = "Trigger" if page.action in {"trigger", "update"} else "Rest"
    return [
        constant(kind, json.loads(pagerduty_body(page, "k" * 32))),
        constant("Message", json.loads(slack_body(page))),
    ]


def constant(kind: str, value: object) -> str:
    """A line of TypeScript."""
    return f"((_: {kind}) => 0)({json.dumps(value)});"


def test_pages_have_the_types_that_pagerduty_and_slack_publish(tmp_path: Path) -> None:
    fetch(tmp_path)
    pages = [told(action) for action in ("trigger", "update", "acknowledge", "resolve")]
    pages.append(told(summary="</script>\u2028'\"", run_id="", runbook_url=""))
    lines = [line for page in pages for line in samples_of(page)]
    event, message = json.loads(pagerduty_body(told(), "k" * 32)), json.loads(slack_body(told()))
    event["payload"]["severity"] = "dire"
    message["blocks"][0]["texts"] = message["blocks"][0].pop("text")
    for kind, wrong in (("Trigger", event), ("Message", message)):
        lines += ["// @ts-expect-error: the types refuse what is wrong", constant(kind, wrong)]
    (tmp_path / "samples.ts").write_text(HEAD + "\n".join(lines), "utf-8")
    tsc = ["npx", "--yes", "-p", TYPESCRIPT, "tsc", "--strict", "--noEmit", "--skipLibCheck", "--target", "es2022"]
    tsc += ["--lib", "es2022,dom", "--moduleResolution", "bundler", "--module", "esnext", "samples.ts"]
    done = subprocess.run(tsc, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=150)
    assert (done.returncode, done.stdout) == (0, "")
