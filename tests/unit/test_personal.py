"""Personal fields: sealed before anything is hashed, readable with the key alone, and gone with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.producers import Ledger
from agentledger.producers.personal import WITHHELD, PersonalFields
from agentledger.schemas.errors import StoreError
from agentledger.schemas.events import ApprovalRequested, ModelCallCompleted, ToolCallCompleted
from agentledger.schemas.personal import ERASED, UNREADABLE, has_sealed, reveal, seal
from agentledger.schemas.ports import SubjectKey
from agentledger.schemas.subject_keys import FileSubjectKeys
from agentledger.schemas.testing.subject_keys import FakeSubjectKeys

KEY = SubjectKey("0" * 32, b"k" * 32)


def opened(text: str, key: bytes | None = KEY.key) -> str:
    return reveal(text, lambda _: key)


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="{}")))
def test_a_sealed_text_opens_with_its_key_and_no_other(text: str, around: str) -> None:
    token = seal(text, KEY)
    assert opened(around + token + around) == around + text + around
    assert seal(text, KEY) == token
    assert opened(token, b"x" * 32) == UNREADABLE
    assert opened(token, None) == ERASED
    assert has_sealed(token)
    assert len(text) < 4 or text not in token


@given(st.data())
def test_a_changed_token_is_damaged_and_never_another_text(data: st.DataObject) -> None:
    token = seal("ann@example.com", KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.sampled_from("AZaz09-_{}:"))
    edited = token[:at] + char + token[at + 1 :]
    found = opened(edited)
    assert found.startswith((UNREADABLE, edited[:1])) or found == "ann@example.com"
    assert found != "ann@example.com" or edited == token or at == len(token) - 2  # the last letter has spare bits


def test_one_text_under_two_keys_is_two_tokens() -> None:
    assert seal("a", KEY) != seal("a", SubjectKey(KEY.key_id, b"l" * 32))
    with pytest.raises(StoreError):
        seal("a", SubjectKey(KEY.key_id, b"short"))


def record(personal: PersonalFields, arguments: Any, *, actor: str = "", **settings: Any) -> ToolCallCompleted:
    with Ledger.for_testing(personal=personal, keep_content=True, tenant_id="acme", **settings) as ledger:
        with ledger.run(workflow="w", actor=actor) as run, run.tool_call("t", arguments=arguments) as call:
            call.result(arguments)
        [found] = [event for event in ledger.events if isinstance(event, ToolCallCompleted)]
    return found


CUSTOMER = {"customer": 7, "order": "A-1", "contact": [{"email": "ann@example.com", "phones": [1, 2]}]}


def test_the_events_of_a_run_hold_no_personal_field_in_the_open() -> None:
    keys = FakeSubjectKeys()
    personal = PersonalFields(keys, {"email", "phones"}, subject=lambda value: str(value["customer"]))
    call = record(personal, CUSTOMER)
    kept = call.arguments_redacted
    assert kept is not None
    assert "ann@" not in kept
    assert json.loads(reveal(kept, keys.key_of)) == {
        **CUSTOMER,
        "contact": [{"email": "ann@example.com", "phones": "[1,2]"}],
    }
    again = record(personal, CUSTOMER)
    assert again.arguments_digest == call.arguments_digest == call.result_digest  # a repeated call still shows
    plain = record(PersonalFields(keys, ()), CUSTOMER)
    assert plain.arguments_digest != call.arguments_digest  # a digest of the open text could be guessed at

    keys.erase("acme", "7")
    assert json.loads(reveal(kept, keys.key_of))["contact"] == [{"email": ERASED, "phones": ERASED}]
    assert record(personal, CUSTOMER).arguments_digest != call.arguments_digest


def test_what_a_model_was_told_and_what_a_person_is_asked_are_sealed_too() -> None:
    keys = FakeSubjectKeys()
    personal = PersonalFields(keys, {"email"})
    messages = [{"role": "user", "email": "ann@example.com"}]
    with Ledger.for_testing(personal=personal, keep_content=True) as ledger:
        with ledger.run(actor="ann") as run:
            with run.model_call(model="m", provider="p") as call:
                call.input(messages)
            run.approval_requested(approval_id="1", action="a", change=messages)
        events = ledger.events
    with Ledger.for_testing(keep_content=True) as ledger, ledger.run() as run:
        with run.model_call(model="m", provider="p") as call:
            call.input(messages)
        plain = ledger.events
    sealed, unsealed = (
        next(event for event in found if isinstance(event, ModelCallCompleted)) for found in (events, plain)
    )
    assert sealed.input_digest != unsealed.input_digest
    asked = next(event for event in events if isinstance(event, ApprovalRequested))
    assert asked.change_redacted is not None
    assert has_sealed(asked.change_redacted)


@pytest.mark.parametrize("subject", [lambda _: None, lambda value: value["nobody"]])
def test_a_field_of_nobody_known_is_withheld(subject: Any) -> None:
    call = record(PersonalFields(FakeSubjectKeys(), {"email"}, subject=subject), {"email": "ann@example.com", "n": 1})
    assert call.arguments_redacted == json.dumps({"email": WITHHELD, "n": 1}, separators=(",", ":"))


def test_a_store_that_is_away_withholds_and_the_agent_goes_on() -> None:
    keys = FakeSubjectKeys()
    keys.is_down = True
    call = record(PersonalFields(keys, {"email"}), {"email": "ann@example.com"}, actor="ann")
    assert call.arguments_redacted == json.dumps({"email": WITHHELD}, separators=(",", ":"))


def test_the_folder_is_private_and_names_nobody(tmp_path: Path) -> None:
    keys = FileSubjectKeys(tmp_path / "subjects")
    key = keys.key_for("acme", "ann@example.com")
    files = [path for path in (tmp_path / "subjects").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in [tmp_path / "subjects", *files])
    assert not any(b"ann" in path.read_bytes() or "ann" in path.name for path in files)
    keys.erase("acme", "ann@example.com")
    assert [path.name for path in (tmp_path / "subjects").rglob("*") if path.is_file()] == ["secret"]
    assert keys.key_of(key.key_id) is None


def test_an_erasure_that_was_killed_halfway_is_an_erasure(tmp_path: Path) -> None:
    keys = FileSubjectKeys(tmp_path)
    for left in ("", "0" * 64):
        key = keys.key_for("acme", "ann")
        path = tmp_path / "keys" / key.key_id[:2] / key.key_id
        path.write_text(left) if left else path.unlink()
        assert keys.key_of(key.key_id) is None
        assert keys.key_id_of("acme", "ann") is None
        assert keys.key_for("acme", "ann").key_id != key.key_id


def test_a_folder_that_cannot_be_used_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="data subjects"):
        FileSubjectKeys(tmp_path / "file").key_for("acme", "ann")


def test_a_folder_may_be_given_as_text(tmp_path: Path) -> None:
    """What can't be opened would withhold every field, and nobody would be told."""
    personal = PersonalFields(FileSubjectKeys(str(tmp_path / "subjects")), {"email"}, subject=lambda value: value["id"])
    sealed = personal.protect({"id": "ann", "email": "ann@example.com"}, tenant_id="acme")
    key_of = FileSubjectKeys(tmp_path / "subjects").key_of
    assert reveal(sealed["email"], key_of) == "ann@example.com"
