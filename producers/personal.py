"""Personal fields of arguments and results, sealed per data subject before anything is hashed or sent.

personal = PersonalFields(FileSubjectKeys(folder), {"email", "name"}, subject=lambda value: value["customer_id"])
with Ledger(agent_id="support-bot", keep_content=True, personal=personal) as ledger: ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from agentledger.producers.content import plain, to_canonical
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.personal import seal
from agentledger.schemas.ports import SubjectKeys

WITHHELD = "[withheld]"  # whose field it is isn't known, or there is no key: it can't be sealed, so it doesn't go out
SubjectOf = Callable[[Any], str | None]


class PersonalFields:
    """Which fields are personal, and whose they are.

    `fields` are keys of mappings, at any depth. `subject` is given the whole arguments or result and says whose data
    that is; None, or an error, means that it isn't known: the fields are withheld, unless the run has an actor, who is
    taken where `subject` is left out.
    """

    def __init__(self, keys: SubjectKeys, fields: Collection[str], *, subject: SubjectOf | None = None) -> None:
        self._keys = keys
        self._fields = frozenset(fields)
        self._subject = subject

    def seal(self, text: str, *, tenant_id: str, subject: str) -> str:
        """A text as a token, for a target, a label or a reason. Raises StoreError."""
        return seal(text, self._keys.key_for(tenant_id, subject))

    def protect(self, value: Any, *, tenant_id: str, actor: str = "") -> Any:
        """The value in terms of JSON with its personal fields sealed. Never raises: what fails is withheld."""
        found = plain(value)
        if not self._has_personal(found):
            return value
        try:
            subject = (actor or None) if self._subject is None else self._subject(value)
            key = None if subject is None else self._keys.key_for(tenant_id, str(subject))
        except Exception:  # noqa: BLE001 - whatever the caller's function or the store met
            key = None
        return self._sealed(found, lambda item: WITHHELD if key is None else seal(_as_text(item), key))

    def _has_personal(self, value: Any) -> bool:
        if isinstance(value, dict):
            return any(name in self._fields or self._has_personal(item) for name, item in value.items())
        return isinstance(value, list) and any(map(self._has_personal, value))

    def _sealed(self, value: Any, seal_one: Callable[[Any], str]) -> Any:
        if isinstance(value, dict):
            return {
                name: _or_withheld(seal_one, item) if name in self._fields else self._sealed(item, seal_one)
                for name, item in value.items()
            }
        return [self._sealed(item, seal_one) for item in value] if isinstance(value, list) else value


def _or_withheld(seal_one: Callable[[Any], str], item: Any) -> str:
    try:
        return seal_one(item)
    except (AgentledgerError, ValueError):
        return WITHHELD


def _as_text(item: Any) -> str:
    return item if isinstance(item, str) else to_canonical(item).decode()
