"""Keys of data subjects in memory."""

from __future__ import annotations

import secrets

from agentledger.schemas.errors import StoreError
from agentledger.schemas.ports import SubjectKey


class FakeSubjectKeys:
    """Keeps keys in memory; `is_down` makes every call fail, as a store does that can't be reached."""

    def __init__(self) -> None:
        self.is_down = False
        self._keys: dict[str, bytes] = {}
        self._subjects: dict[tuple[str, str], str] = {}

    def key_for(self, tenant_id: str, subject: str) -> SubjectKey:
        """The subject's key; made where it has none, or none any more."""
        self._reach()
        key_id = self._subjects.setdefault((tenant_id, subject), secrets.token_hex(16))
        return SubjectKey(key_id, self._keys.setdefault(key_id, secrets.token_bytes(32)))

    def key_of(self, key_id: str) -> bytes | None:
        """The key of this id; None where it was destroyed or never was."""
        self._reach()
        return self._keys.get(key_id)

    def key_id_of(self, tenant_id: str, subject: str) -> str | None:
        """The id of the subject's key; None where it has none. Makes none."""
        self._reach()
        return self._subjects.get((tenant_id, subject))

    def erase(self, tenant_id: str, subject: str) -> str | None:
        """Destroy the subject's key for good; its id, or None where there was none."""
        self._reach()
        key_id = self._subjects.pop((tenant_id, subject), None)
        if key_id is not None:
            del self._keys[key_id]
        return key_id

    def _reach(self) -> None:
        if self.is_down:
            raise StoreError("the key store can't be reached", next_step="set is_down to False")
