"""Signing in with OpenID Connect: the authorization code flow with PKCE (RFC 7636), state and nonce.

Authlib speaks to the issuer, joserfc checks the ID token. Whatever isn't as it must be ends the sign-in: nobody
comes in without a role that the settings name.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from agentledger.schemas.errors import AgentledgerError, ConfigurationError
from agentledger.schemas.http_server import LOOPBACK_NAMES

CALLBACK = "/oidc/callback"
HTTP_S_MAX = 5.0  # a person waits for it
FACTS_S_MAX = 3600.0  # after which the issuer's addresses and keys are asked for again
KEYS_AGAIN_S_MIN = 60.0  # an unknown key makes us ask for the keys, but not more often
CLOCK_SKEW_S = 60
NAME_CHARS_MAX = 200
# Signatures by a key that only the issuer has: none that our own client's secret could make.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class RefusedSignInError(AgentledgerError):
    """Who comes from the issuer isn't let in."""


@dataclass(frozen=True, kw_only=True)
class OidcConfig:
    """An issuer, and what its roles may here. `roles`: the rights of each value of the claim `roles_claim`.

    `tenant_claim`: which claim says whose ledger is shown; empty: `tenant_id`'s.
    """

    issuer: str
    client_id: str
    client_secret: str
    redirect_url: str
    roles: Mapping[str, tuple[str, ...]]
    roles_claim: str = "groups"
    tenant_claim: str = ""
    tenant_id: str = ""

    def __post_init__(self) -> None:
        for url in (self.issuer, self.redirect_url):
            parts = urlsplit(url)
            if parts.scheme != "https" and parts.hostname not in LOOPBACK_NAMES:
                raise ConfigurationError(
                    f"{url} isn't https://", next_step="give issuer and public URL as https:// addresses"
                )
        if not self.client_id or not self.roles or not (self.tenant_claim or self.tenant_id):
            raise ConfigurationError(
                "sign-in by OIDC needs a client id, roles and a tenant",
                next_step="set AGENTLEDGER_CONSOLE_OIDC_CLIENT_ID and AGENTLEDGER_CONSOLE_OIDC_ROLES",
            )


class Pending(NamedTuple):
    """What must come back from the issuer: kept with the browser that was sent there."""

    state: str
    nonce: str
    verifier: str


class Identity(NamedTuple):
    """Who signed in, and what they may."""

    name: str
    tenant_id: str
    scopes: tuple[str, ...]


class Oidc:
    """Signs in with one issuer; for several threads. `monotonic` says how old what the issuer said is, seconds."""

    def __init__(self, config: OidcConfig, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._facts: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._facts_at_s = self._keys_at_s = float("-inf")

    def begin(self) -> tuple[str, Pending]:
        """Where to send the browser, and what to keep with it. Raises RefusedSignInError where the issuer is away."""
        pending = Pending(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48))
        with self._client() as client:
            url, _ = client.create_authorization_url(
                self._issuer_facts()["authorization_endpoint"], state=pending.state, nonce=pending.nonce,
                code_verifier=pending.verifier,
            )  # fmt: skip
        return str(url), pending

    def finish(self, pending: Pending, answer: Mapping[str, str], now_us: int) -> Identity:
        """Who comes back with this answer. Raises RefusedSignInError."""
        if not secrets.compare_digest(answer.get("state", "").encode(), pending.state.encode()):
            raise RefusedSignInError("this sign-in wasn't begun here", next_step="sign in again")
        if "code" not in answer:
            raise RefusedSignInError("the issuer refused the sign-in", next_step="ask whoever runs it")
        facts = self._issuer_facts()
        try:
            with self._client() as client:
                token = client.fetch_token(
                    facts["token_endpoint"], code=answer["code"], code_verifier=pending.verifier
                )  # fmt: skip
        except (OAuthError, httpx.HTTPError, ValueError) as error:
            raise RefusedSignInError(f"the issuer gave no token ({type(error).__name__})", next_step=_AGAIN) from None
        return self._identity(self._claims(str(token.get("id_token", "")), pending.nonce, now_us))

    def _client(self) -> OAuth2Client:
        config = self._config
        return OAuth2Client(
            config.client_id, config.client_secret or None, scope="openid profile email",
            redirect_uri=config.redirect_url, code_challenge_method="S256", timeout=HTTP_S_MAX,
            token_endpoint_auth_method="client_secret_basic" if config.client_secret else "none",
        )  # fmt: skip

    def _claims(self, id_token: str, nonce: str, now_us: int) -> Mapping[str, Any]:
        """What the issuer says of a person. Raises RefusedSignInError where it isn't said to us, now, for this."""
        config = self._config
        rules = jwt.JWTClaimsRegistry(
            now=now_us // 1_000_000, leeway=CLOCK_SKEW_S,
            iss={"essential": True, "value": self._issuer_facts()["issuer"]},
            aud={"essential": True, "value": config.client_id}, exp={"essential": True}, iat={"essential": True},
            sub={"essential": True}, nonce={"essential": True, "value": nonce},
        )  # fmt: skip
        try:
            try:
                said = jwt.decode(id_token, self._issuer_keys(), algorithms=list(ALGORITHMS))
            except (JoseError, ValueError):  # a key that is newer than those we know, perhaps
                said = jwt.decode(id_token, self._issuer_keys(anew=True), algorithms=list(ALGORITHMS))
            rules.validate(said.claims)
        except (JoseError, ValueError) as error:
            raise RefusedSignInError(f"the ID token doesn't hold ({type(error).__name__})", next_step=_AGAIN) from None
        if said.claims.get("azp", config.client_id) != config.client_id:
            raise RefusedSignInError("the ID token was made for another program", next_step=_AGAIN)
        return said.claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        config = self._config
        given = claims.get(config.roles_claim, [])
        roles = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        scopes = sorted({scope for role in roles if isinstance(role, str) for scope in config.roles.get(role, ())})
        tenant_id = claims.get(config.tenant_claim) if config.tenant_claim else config.tenant_id
        name = next((claims[claim] for claim in ("email", "preferred_username", "sub") if claims.get(claim)), "")
        texts = (tenant_id, name)
        if not all(isinstance(text, str) and 0 < len(text) <= NAME_CHARS_MAX and text.isprintable() for text in texts):
            raise RefusedSignInError("the ID token names no tenant or no person", next_step="ask who runs the issuer")
        if not scopes:
            raise RefusedSignInError(
                "none of your roles opens the console", next_step="ask for one, or see AGENTLEDGER_CONSOLE_OIDC_ROLES"
            )
        return Identity(str(name), str(tenant_id), tuple(scopes))

    def _issuer_facts(self) -> dict[str, Any]:
        """The issuer's addresses, as it publishes them (OpenID Connect Discovery). Raises RefusedSignInError."""
        with self._lock:
            if self._monotonic() - self._facts_at_s > FACTS_S_MAX:
                wanted = self._config.issuer.rstrip("/")
                facts = _get_json(f"{wanted}/.well-known/openid-configuration")
                if str(facts.get("issuer", "")).rstrip("/") != wanted:
                    raise RefusedSignInError("the issuer says it is another", next_step=_AGAIN)
                missing = [
                    name for name in ("authorization_endpoint", "token_endpoint", "jwks_uri") if name not in facts
                ]
                if missing:
                    raise RefusedSignInError(f"the issuer names no {missing[0]}", next_step=_AGAIN)
                self._facts, self._facts_at_s = facts, self._monotonic()
            return self._facts

    def _issuer_keys(self, *, anew: bool = False) -> KeySet:
        facts = self._issuer_facts()
        with self._lock:
            age_s = self._monotonic() - self._keys_at_s
            if self._keys is None or age_s > FACTS_S_MAX or (anew and age_s > KEYS_AGAIN_S_MIN):
                self._keys = KeySet.import_key_set(_get_json(facts["jwks_uri"]))  # type: ignore[arg-type]
                self._keys_at_s = self._monotonic()
            return self._keys


_AGAIN = "try again; if it stays so, ask whoever runs the issuer"


def _get_json(url: str) -> dict[str, Any]:
    try:
        answer = httpx.get(url, timeout=HTTP_S_MAX)
        answer.raise_for_status()
        found = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise RefusedSignInError(f"the issuer can't be asked ({type(error).__name__})", next_step=_AGAIN) from None
    if not isinstance(found, dict):
        raise RefusedSignInError("the issuer's answer can't be read", next_step=_AGAIN)
    return found
