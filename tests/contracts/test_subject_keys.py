"""What every store of data subjects' keys does: the fake, and the folder."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentledger.schemas.personal import ERASED, reveal, seal
from agentledger.schemas.ports import SubjectKeys
from agentledger.schemas.subject_keys import FileSubjectKeys
from agentledger.schemas.testing.subject_keys import FakeSubjectKeys

Open = Callable[[], SubjectKeys]
ODD = "ann@example.com/../../x\x00\n é \ud800"


@pytest.fixture(params=["fake", "folder"])
def open_keys(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one and the same store."""
    if request.param == "fake":
        fake = FakeSubjectKeys()
        return lambda: fake
    return lambda: FileSubjectKeys(tmp_path / "subjects")


def test_a_subject_has_one_key_and_others_have_others(open_keys: Open) -> None:
    key = open_keys().key_for("acme", ODD)
    assert open_keys().key_for("acme", ODD) == key
    assert (len(key.key), len(key.key_id)) == (32, 32)
    assert open_keys().key_of(key.key_id) == key.key
    others = [open_keys().key_for(*names) for names in (("acm", "e" + ODD), ("other", ODD), ("acme", "bob"))]
    assert len({key, *others}) == 4
    assert open_keys().key_id_of("acme", ODD) == key.key_id


def test_an_erased_key_is_gone_for_good(open_keys: Open) -> None:
    key, bob = open_keys().key_for("acme", "ann"), open_keys().key_for("acme", "bob")
    text = f"mail {seal('ann@example.com', key)} to {seal('b', bob)}"
    assert reveal(text, open_keys().key_of) == "mail ann@example.com to b"
    assert open_keys().erase("acme", "ann") == key.key_id
    assert open_keys().key_of(key.key_id) is None
    assert open_keys().key_id_of("acme", "ann") is None
    assert reveal(text, open_keys().key_of) == f"mail {ERASED} to b"
    assert open_keys().erase("acme", "ann") is None
    later = open_keys().key_for("acme", "ann")  # a person may come back
    assert later.key_id != key.key_id
    assert later.key != key.key
    assert reveal(text, open_keys().key_of) == f"mail {ERASED} to b"


@pytest.mark.parametrize("key_id", ["", "x", "..", "0" * 32, "../../../etc/passwd", "é" * 32])
def test_an_unknown_id_has_no_key(open_keys: Open, key_id: str) -> None:
    open_keys().key_for("acme", "ann")
    assert open_keys().key_of(key_id) is None
    assert open_keys().key_id_of("acme", key_id) is None


def test_all_who_ask_at_once_get_the_same_key(open_keys: Open) -> None:
    for subject in map(str, range(10)):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _, who=subject: open_keys().key_for("acme", who), range(16)))
        assert len(set(found)) == 1
        assert open_keys().key_of(found[0].key_id) == found[0].key
