"""Redaction: what no rule keeps doesn't leave, whatever the value looks like."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agentledger.infra.cli.redaction import redaction as command
from agentledger.producers import Ledger
from agentledger.producers.personal import WITHHELD
from agentledger.producers.redaction import FIELDS_MAX, MASK, Redaction, RedactionPolicy, covers
from agentledger.producers.redaction_file import load_redaction
from agentledger.schemas.errors import ConfigurationError, UsageError
from agentledger.schemas.events import ModelCallCompleted, PolicyDecided, RunStarted, ToolCallCompleted
from agentledger.schemas.personal import reveal
from agentledger.schemas.testing.subject_keys import FakeSubjectKeys

KEY = b"a key of more than 16 bytes"
NAMES = st.sampled_from(["a", "b", "card", "note"])
LEAVES = st.integers(0, 10**6).map(lambda number: f"leaf-{number}")


def values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
    )


def policy(*fields: dict[str, str], **rest: Any) -> RedactionPolicy:
    return RedactionPolicy.model_validate({"fields": fields, **rest})


def shown(given_policy: RedactionPolicy, value: Any, *, tool: str = "t", actor: str = "", **keys: Any) -> Any:
    rules = Redaction(given_policy, key=KEY, **keys)
    return rules.show(value, tool=tool, part="arguments", tenant_id="acme", actor=actor).value


def leaves_of(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in leaves_of(item, (*path, name))]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves_of(item, path)]
    return [(path, value)]


ACTIONS = st.sampled_from(["keep", "drop", "mask", "hash", "encrypt"])
PATTERNS = st.lists(st.sampled_from(["a", "b", "card", "*", "**", "n*"]), min_size=1, max_size=3).map(".".join)
RULES = st.lists(st.builds(lambda pattern, action: {"field": pattern, "action": action}, PATTERNS, ACTIONS), max_size=5)


@given(values(LEAVES), RULES, ACTIONS)
def test_only_what_a_rule_keeps_leaves_as_it_was(value: Any, rules: list[dict[str, str]], default: str) -> None:
    found = shown(policy(*rules, default=default), value)
    kept = [
        leaf
        for path, leaf in leaves_of(value)
        if next((rule["action"] for rule in rules if covers(rule["field"].split("."), path)), default) == "keep"
    ]
    left = [] if found is None else [leaf for _, leaf in leaves_of(found) if str(leaf).startswith("leaf-")]
    assert left == kept


def test_the_first_rule_that_names_a_field_or_what_is_around_it_decides() -> None:
    rules = policy(
        {"tool": "refund*", "field": "order.id", "action": "keep"},
        {"field": "order", "action": "hash"},
        {"field": "**.card", "action": "mask"},
        {"field": "note", "action": "keep"},
    )
    value = {"order": {"id": "A-1", "by": "ann"}, "cards": [{"card": 1}, {"card": 2}], "note": 5, "rest": {"x": [1]}}
    found = shown(rules, value, tool="refund_order")
    assert found["order"]["id"] == "A-1"
    assert found["order"]["by"].startswith("hmac-sha256:")
    assert found["cards"] == [{"card": MASK}, {"card": MASK}]
    assert found["note"] == 5
    assert "rest" not in found
    assert shown(rules, value, tool="lookup")["order"]["id"].startswith("hmac-sha256:")


def test_without_a_policy_for_it_nothing_leaves() -> None:
    assert shown(policy(), {"a": 1}) is None
    assert shown(policy(), "text") is None
    assert shown(policy({"field": "**", "action": "keep"}), "text") == "text"


def test_a_hash_is_the_same_for_the_same_value_and_another_under_another_key() -> None:
    rules = policy(default="hash")
    one, same, other = (shown(rules, {"a": item})["a"] for item in ("x", "x", "y"))
    assert one == same != other
    assert Redaction(rules, key=b"another key of 16").show(
        {"a": "x"}, tool="", part="result", tenant_id="", actor=""
    ).value != {"a": one}


def test_encrypted_fields_open_with_the_subjects_key_alone() -> None:
    keys = FakeSubjectKeys()
    token = shown(policy(default="encrypt"), {"mail": "ann@example.com"}, actor="ann", subject_keys=keys)["mail"]
    assert reveal(token, keys.key_of) == "ann@example.com"
    keys.erase("acme", "ann")
    assert "example" not in reveal(token, keys.key_of)
    assert shown(policy(default="encrypt"), {"mail": "x"}, subject_keys=keys) == {"mail": WITHHELD}  # of nobody known
    assert shown(policy(default="encrypt"), {"mail": "x"}, actor="ann") == {"mail": WITHHELD}  # no key store


def test_a_value_with_very_many_fields_is_cut_and_not_passed() -> None:
    found = shown(policy(default="keep"), list(range(FIELDS_MAX + 5)))
    assert len(found) == FIELDS_MAX


class Unreadable:
    def model_dump(self, **_: object) -> object:
        raise RuntimeError("no")


def test_a_value_that_cannot_be_looked_at_does_not_leave() -> None:
    assert shown(policy(default="keep"), {"a": Unreadable()}) is None


SECRETS = {
    "AWS key": "AKIAIOSFODNN7EXAMPLE",
    "provider's key": "sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789",
    "GitHub token": "ghp_abcdefghijklmnopqrstuvwxyzABCDEFGHIJ12",
    "bearer": "Bearer abcdefgh.ijklmnop.qrstuvwx",
    "password in an address": "postgres://user:hunter2secret@db/x",
    "password said": "password=hunter2secret",
    "private key": "-----BEGIN RSA PRIVATE KEY-----",
}
PERSONAL = ["ann@example.com", "+1 415 555 2671", "4111 1111 1111 1111", "DE89370400440532013000", "536-90-4399"]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_secrets_are_found_in_kept_text(secret: str) -> None:
    found = shown(policy(default="keep", detect=["secrets"]), {"note": f"it is {secret} indeed"})["note"]
    hidden = secret.removeprefix("Bearer ").removeprefix("password=").removeprefix("postgres://user:")
    assert hidden.removesuffix("@db/x") not in found
    assert "[secret]" in found
    assert found.startswith("it is ")


@pytest.mark.parametrize("text", PERSONAL)
def test_personal_data_is_found_in_kept_text(text: str) -> None:
    found = shown(policy(default="keep", detect=["personal"]), [f"it is {text} indeed"])
    assert found == ["it is [personal] indeed"]


@pytest.mark.parametrize(
    "text", ["order A-10492 for 38.50", "sha256:" + "0f" * 32, "0198f2c4-7d3a-7f00-8000-1234567890ab"]
)
def test_ordinary_texts_stay(text: str) -> None:
    assert shown(policy(default="keep", detect=["secrets"]), [text]) == [text]


def test_no_free_text_of_an_event_carries_a_secret_past_the_detectors() -> None:
    secret = SECRETS["provider's key"]
    with Ledger.for_testing(redaction={"default": "keep", "detect": ["secrets"]}, labels={"k": secret}) as ledger:
        with ledger.run(task=secret, labels={"h": f"x-api-key: {secret}"}) as run:
            with contextlib.suppress(ValueError), run.tool_call("t", arguments={"a": [secret]}) as call:
                call.result(secret)
                raise ValueError(f"401 for {secret}")
            run.policy_decision(policy="p", verdict="deny", reason=secret, input={"x": secret})
            with run.model_call(model="m") as model:
                model.reject(secret)
        events = ledger.events
        sent = b"".join(record.value for record in ledger._producer.records)  # type: ignore[attr-defined]
    assert secret.encode() not in sent
    assert {type(event) for event in events} >= {RunStarted, ToolCallCompleted, PolicyDecided, ModelCallCompleted}
    assert next(event for event in events if isinstance(event, ToolCallCompleted)).error_message == "401 for [secret]"


def test_keyed_digests_cannot_be_guessed_at() -> None:
    rules = Redaction(policy(digests="keyed"), key=KEY)
    with Ledger.for_testing(redaction=rules) as ledger, ledger.run() as run, run.tool_call("t", arguments=[1]):
        pass
    call = next(event for event in ledger.events if isinstance(event, ToolCallCompleted))
    assert call.arguments_digest.startswith("hmac-sha256:")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fields: 3", "policy.yaml:1: fields: input should be a valid"),
        ("fields: [{field: a, action: shred}]", "fields[0].action"),
        ("fileds: []", "fileds: there is no such key"),
        ("a: [", "no YAML"),
        ("digests: keyed", "AGENTLEDGER_REDACTION_KEY_FILE"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_redaction(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_environment_names_policy_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy.yaml").write_text("fields: [{field: id, action: hash}]")
    (tmp_path / "key").write_bytes(KEY + b"\n")
    monkeypatch.setenv("AGENTLEDGER_REDACTION_FILE", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("AGENTLEDGER_REDACTION_KEY_FILE", str(tmp_path / "key"))
    with Ledger.for_testing() as ledger, ledger.run() as run, run.tool_call("t", arguments={"id": 1, "x": 2}):
        pass
    call = next(event for event in ledger.events if isinstance(event, ToolCallCompleted))
    assert list(json.loads(call.arguments_redacted or "")) == ["id"]
    with pytest.raises(UsageError, match="one of"):
        Ledger.for_testing(redaction={}, keep_content=True)


def test_a_policy_is_tried_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("fields: [{tool: refund, field: order_id, action: keep}, {field: '**.card', action: mask}]")
    value = json.dumps({"order_id": "A-1", "pay": {"card": "4111"}, "note": "x"})
    done = CliRunner().invoke(command, ["try", str(path), "--tool", "refund", "--value", value])
    assert done.exit_code == 0
    assert "keep     order_id\nmask     pay.card\ndrop     note\n" in done.output
    assert "4111" not in done.output
    assert CliRunner().invoke(command, ["try", str(path), "--value", "{"]).exit_code != 0
