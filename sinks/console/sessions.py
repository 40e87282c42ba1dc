"""Who looks: recognised by an API key, in a session after signing in with one, or the one local visitor.

A session is a signed cookie with the key's id, its own end, and a token that every form must bring back. What the key
opens is asked for at each request: a key that is revoked ends its sessions at once. Of somebody who came by OIDC the
cookie says who it is and what they may: for an hour.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from agentledger.schemas.api_keys import key_id_of, opens
from agentledger.schemas.ports import ApiKeys
from agentledger.sinks.console.oidc import Identity

COOKIE = "agentledger_session"
OIDC_SESSION_US_MAX = 3_600_000_000  # an hour: then the issuer is asked again what somebody may
SESSION_US_MAX = 12 * 3_600_000_000  # a working day: then one signs in again
LOCAL_NAME = "local"
LOCAL_SCOPES = ("read", "export", "admin")
COOKIE_CHARS_MAX = 2048  # ours have some 200, and up to four times that with names
KEY_CHARS_MAX = 200


@dataclass(frozen=True)
class Visitor:
    """Whose request it is, what it may, and the token of its forms (empty where it sent a key instead of a cookie)."""

    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    form_token: str = ""

    def may(self, scope: str) -> bool:
        """Whether this right was given."""
        return scope in self.scopes

    def sent(self, token: str) -> bool:
        """Whether a form of this visitor's own pages sent this."""
        return not self.form_token or hmac.compare_digest(self.form_token.encode(), token.encode())


class Sessions:
    """Opens sessions and recognises them. `local_tenant_id`: of visitors without a key; empty: they are sent away."""

    def __init__(self, keys: ApiKeys, secret: bytes, local_tenant_id: str = "", *, with_oidc: bool = False) -> None:
        self.with_oidc = with_oidc
        self._keys = keys
        self._local_tenant_id = local_tenant_id
        self._signer = URLSafeSerializer(secret, salt="agentledger.console.session.v1")

    def open_with(self, key_text: str, now_us: int) -> str | None:
        """The cookie of a new session; None where the text is no valid key. Raises StoreError."""
        if self.of_key(key_text, now_us) is None:
            return None
        return self._cookie(key_id_of(key_text.strip()) or "", now_us)

    def open_local(self, now_us: int) -> str | None:
        """The cookie of a new session of the local visitor; None where keys are asked for."""
        return self._cookie("", now_us) if self._local_tenant_id else None

    def of_key(self, key_text: str, now_us: int) -> Visitor | None:
        """The visitor who has this key. Raises StoreError."""
        text = key_text.strip()
        if len(text) > KEY_CHARS_MAX:
            return None
        key_id = key_id_of(text)
        key = self._keys.find(key_id) if key_id else None
        if not opens(text, key, now_us) or key is None:
            return None
        return Visitor(key.tenant_id, key.name, key.scopes)

    def of_cookie(self, cookie: str, now_us: int) -> Visitor | None:
        """The visitor of a session that is still good; None for anything else. Raises StoreError."""
        said = self._read(cookie)
        if said is None or not now_us < said["end_us"]:
            return None
        if "scopes" in said:
            visitor = Visitor(said["tenant_id"], said["name"], tuple(said["scopes"]), said["token"])
            return visitor if self.with_oidc else None
        if not said["key_id"]:
            if not self._local_tenant_id:
                return None
            return Visitor(self._local_tenant_id, LOCAL_NAME, LOCAL_SCOPES, said["token"])
        key = self._keys.find(said["key_id"])
        if key is None or not key.valid_at(now_us):
            return None
        return Visitor(key.tenant_id, key.name, key.scopes, said["token"])

    def open_for(self, who: Identity, now_us: int) -> str:
        """The cookie of a new session of somebody whom the issuer knows."""
        said = {"tenant_id": who.tenant_id, "name": who.name, "scopes": who.scopes,
                "end_us": now_us + OIDC_SESSION_US_MAX, "token": secrets.token_urlsafe(18)}  # fmt: skip
        return str(self._signer.dumps(said))

    def _cookie(self, key_id: str, now_us: int) -> str:
        said = {"key_id": key_id, "end_us": now_us + SESSION_US_MAX, "token": secrets.token_urlsafe(18)}
        return str(self._signer.dumps(said))

    def _read(self, cookie: str) -> Mapping[str, Any] | None:
        if not cookie or len(cookie) > COOKIE_CHARS_MAX:
            return None
        try:
            said: Mapping[str, Any] = self._signer.loads(cookie)
        except BadData:
            return None
        return said
