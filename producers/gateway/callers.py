"""Who sends a request: recognised by an API key, or the one local caller where the gateway asks for none."""

from __future__ import annotations

from typing import NamedTuple

from agentledger.producers.gateway.refusals import RefusedRequestError
from agentledger.schemas.api_keys import key_id_of, opens
from agentledger.schemas.errors import StoreError
from agentledger.schemas.ports import ApiKeys

LOCAL_NAME = "local"
_SCHEME = "bearer "
_KEY_CHARS_MAX = 200


class Caller(NamedTuple):
    """Whose request it is. `name` is the client's, the same before and after its key was rotated."""

    tenant_id: str
    name: str
    key_id: str
    scopes: tuple[str, ...]
    events_per_s_max: int | None = None


def recognise(authorization: str | None, keys: ApiKeys, local: Caller | None, now_us: int) -> Caller:
    """The caller of a request with this Authorization header; `local` for one without. Raises RefusedRequestError."""
    if not authorization:
        if local is not None:
            return local
        raise _unauthorised("no API key was sent")
    text = authorization.strip()[:_KEY_CHARS_MAX]
    if text[: len(_SCHEME)].lower() != _SCHEME:
        raise _unauthorised("the Authorization header is not of the scheme Bearer")
    text = text[len(_SCHEME) :].strip()
    key_id = key_id_of(text)
    try:
        key = keys.find(key_id) if key_id else None
    except StoreError:
        raise RefusedRequestError(
            503, "keys_unreadable", "the API keys can't be read at the moment", retry_after_s=10
        ) from None
    if not opens(text, key, now_us) or key is None:
        raise _unauthorised("the API key is unknown, expired or revoked")
    return Caller(key.tenant_id, key.name, key.key_id, key.scopes, key.events_per_s_max)


def require(caller: Caller, scope: str) -> None:
    """Refuse a caller whose key hasn't this scope. Raises RefusedRequestError."""
    if scope not in caller.scopes:
        raise RefusedRequestError(
            403,
            "scope_missing",
            f"this API key has not the scope {scope}",
            next_step=f"use one made with --scope {scope}",
        )


def _unauthorised(what: str) -> RefusedRequestError:
    return RefusedRequestError(401, "unauthorised", what, next_step="send Authorization: Bearer alk_…")
