"""What every store of API keys does: the fake, and the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentledger.schemas.api_key_file import FileApiKeys
from agentledger.schemas.api_keys import ApiKey, new_api_key
from agentledger.schemas.errors import StoreError
from agentledger.schemas.ports import ApiKeys
from agentledger.schemas.testing.api_keys import FakeApiKeys

Open = Callable[[], ApiKeys]


@pytest.fixture(params=["fake", "file"])
def open_keys(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one and the same store."""
    if request.param == "fake":
        fake = FakeApiKeys()
        return lambda: fake
    return lambda: FileApiKeys(tmp_path / "new folder" / "api_keys.json")


def some_key(now_us: int) -> ApiKey:
    """A key made at that time."""
    return new_api_key("bot", "acme", ["ingest"], now_us=now_us, events_per_s_max=7)[0]


def test_there_is_nothing_at_first(open_keys: Open) -> None:
    assert open_keys().listed() == []
    assert open_keys().find("0" * 12) is None


def test_a_change_is_seen_by_others_at_once(open_keys: Open) -> None:
    watching, changing = open_keys(), open_keys()
    later, sooner = some_key(20), some_key(10)
    for key in (later, sooner):
        changing.change(lambda keys, key=key: keys.update({key.key_id: key}))  # type: ignore[misc]
        assert watching.find(key.key_id) == key
    assert watching.listed() == [sooner, later]
    changing.change(lambda keys: keys.clear())
    assert watching.find(sooner.key_id) is None


def test_a_change_that_fails_changes_nothing(open_keys: Open) -> None:
    key = some_key(10)
    open_keys().change(lambda keys: keys.update({key.key_id: key}))

    def fail(keys: dict[str, ApiKey]) -> None:
        keys.clear()
        raise StoreError("no")

    with pytest.raises(StoreError):
        open_keys().change(fail)
    assert open_keys().listed() == [key]


def test_the_file_is_its_owners_alone_and_opens_nothing_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "api_keys.json"
    key = some_key(10)
    store = FileApiKeys(path)
    store.change(lambda keys: keys.update({key.key_id: key}))
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    path.write_text(path.read_text() + " ")
    with pytest.raises(StoreError, match="chmod 600"):
        FileApiKeys(path).find(key.key_id)
    path.chmod(0o600)
    for damaged in ("", "{", "[]", '{"keys": [{}]}', '{"keys": [3]}', '{"keys": 3}'):
        path.write_text(damaged)
        with pytest.raises(StoreError, match="isn't what agentledger wrote"):
            store.find(key.key_id)
