"""API keys in memory."""

from __future__ import annotations

from collections.abc import Callable

from agentledger.schemas.api_keys import ApiKey
from agentledger.schemas.errors import StoreError


class FakeApiKeys:
    """Keeps keys in memory; `is_down` makes every call fail, as a file does that can't be read."""

    def __init__(self, *keys: ApiKey) -> None:
        self.is_down = False
        self._keys = {key.key_id: key for key in keys}

    def find(self, key_id: str) -> ApiKey | None:
        """The key of this id."""
        self._reach()
        return self._keys.get(key_id)

    def listed(self) -> list[ApiKey]:
        """Every key, oldest first."""
        self._reach()
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.key_id))

    def change(self, edit: Callable[[dict[str, ApiKey]], None]) -> None:
        """Let `edit` change the keys by id, and keep the result; nothing is kept where it raises."""
        self._reach()
        keys = dict(self._keys)
        edit(keys)
        self._keys = keys

    def _reach(self) -> None:
        if self.is_down:
            raise StoreError("the API keys can't be read", next_step="set is_down to False")
