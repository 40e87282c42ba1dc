"""API keys: their form, who they are for, and how they are replaced."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas.api_keys import ApiKey, key_id_of, new_api_key, opens, rotated
from agentledger.schemas.errors import UsageError

NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000


def test_a_key_opens_with_its_text_alone() -> None:
    key, text = new_api_key("bot", "acme", ["read", "ingest"], now_us=NOW_US)
    other, other_text = new_api_key("bot", "acme", ["ingest"], now_us=NOW_US)
    assert (key.scopes, key_id_of(text), len(text)) == (("ingest", "read"), key.key_id, 60)
    assert opens(text, key, NOW_US)
    assert not opens(other_text, key, NOW_US)
    assert not opens(text, other, NOW_US)
    assert not opens(text, None, NOW_US)
    assert not opens(text, replace(key, key_id=other.key_id), NOW_US)
    assert text[-43:] not in str(key.as_fields())
    assert ApiKey.from_fields(key.as_fields()) == key


@given(st.text(max_size=80))
def test_no_other_text_opens(text: str) -> None:
    key, _ = new_api_key("bot", "acme", ["ingest"], now_us=NOW_US)
    assert not opens(text, key, NOW_US)


def test_equal_secrets_of_two_keys_are_kept_as_different_hashes() -> None:
    key, text = new_api_key("bot", "acme", ["ingest"], now_us=NOW_US)
    other, _ = new_api_key("bot", "acme", ["ingest"], now_us=NOW_US)
    assert not opens(text.replace(key.key_id, other.key_id), replace(other, secret_sha256=key.secret_sha256), NOW_US)


def test_an_expired_or_revoked_key_opens_nothing() -> None:
    key, text = new_api_key("bot", "acme", ["ingest"], now_us=NOW_US, expires_at=NOW_US + 1)
    assert (opens(text, key, NOW_US), key.state(NOW_US)) == (True, "active")
    assert (opens(text, key, NOW_US + 1), key.state(NOW_US + 1)) == (False, "expired")
    revoked = replace(key, revoked_at=NOW_US)
    assert (opens(text, revoked, NOW_US), revoked.state(NOW_US)) == (False, "revoked")


def test_rotation_leaves_no_gap_and_keeps_the_name() -> None:
    key, text = new_api_key("bot", "acme", ["ingest"], now_us=NOW_US, events_per_s_max=9)
    old, new, new_text = rotated(key, now_us=NOW_US + 5, overlap_us=DAY_US)
    both = NOW_US + 5 + DAY_US - 1
    assert opens(text, old, both)
    assert opens(new_text, new, both)
    assert not opens(text, old, both + 1)
    assert opens(new_text, new, both + 1)
    assert (new.name, new.tenant_id, new.scopes, new.events_per_s_max) == ("bot", "acme", ("ingest",), 9)
    with pytest.raises(UsageError, match="is expired"):
        rotated(old, now_us=both + 1, overlap_us=DAY_US)


def test_rotation_never_lengthens_a_key_and_gives_the_new_one_the_same_time() -> None:
    key, _ = new_api_key("bot", "acme", ["ingest"], now_us=NOW_US, expires_at=NOW_US + DAY_US)
    old, new, _ = rotated(key, now_us=NOW_US + DAY_US // 2, overlap_us=30 * DAY_US)
    assert (old.expires_at, new.expires_at) == (key.expires_at, NOW_US + DAY_US // 2 + DAY_US)


@pytest.mark.parametrize(
    ("name", "tenant", "scopes", "expires_at"),
    [
        ("Big", "t", ["read"], None),
        ("", "t", ["read"], None),
        ("a b", "t", ["read"], None),
        ("x" * 65, "t", ["read"], None),
        ("a", "", ["read"], None),
        ("a", "t", [], None),
        ("a", "t", ["write"], None),
        ("a", "t", ["read"], NOW_US),
    ],
)
def test_what_makes_no_key_is_refused(name: str, tenant: str, scopes: list[str], expires_at: int | None) -> None:
    with pytest.raises(UsageError):
        new_api_key(name, tenant, scopes, now_us=NOW_US, expires_at=expires_at)
