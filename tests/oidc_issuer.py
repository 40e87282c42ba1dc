"""An OIDC issuer on this machine: signs in whoever it is told, holds to PKCE, and lies where a test wants."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentledger.infra.stack.ports import free_port
from agentledger.schemas.http_server import StoppableServer, open_listener

CLIENT_ID, CLIENT_SECRET = "console", "a secret of the tests"


@dataclass
class Issuer:
    """What it says. `claims` are added to the ID token, or take its claims' places; None leaves one out."""

    url: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "k1"}))
    signing_key: Any = None
    algorithm: str = "RS256"
    now_s: float = 0
    asked: dict[str, dict[str, str]] = field(default_factory=dict)  # what was asked for, by code

    def facts(self, _: Request) -> Response:
        """Where everything is."""
        places = {"issuer": self.url, "authorization_endpoint": f"{self.url}/authorize",
                  "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys"}  # fmt: skip
        return JSONResponse({name: value for name, value in (places | self.discovery).items() if value is not None})

    def keys(self, _: Request) -> Response:
        """The public key."""
        return JSONResponse({"keys": [self.key.as_dict(private=False) | {"use": "sig"}]})

    def authorize(self, request: Request) -> Response:
        """Everybody is signed in already."""
        asked = dict(request.query_params)
        code = secrets.token_urlsafe(12)
        self.asked[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 303)

    async def token(self, request: Request) -> Response:
        """The ID token, once, for who has the code, the client's secret and the verifier."""
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        asked = self.asked.pop(form.get("code", ""), None)
        login = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        is_right = (
            asked is not None
            and request.headers.get("authorization") == f"Basic {login}"
            and asked["code_challenge_method"] == "S256"
            and asked["code_challenge"] == challenge.decode().rstrip("=")
            and asked["redirect_uri"] == form["redirect_uri"]
        )
        if asked is None or not is_right:
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": self._id_token(asked["nonce"])})

    def _id_token(self, nonce: str) -> str:
        claims = {"iss": self.url, "aud": CLIENT_ID, "sub": "u1", "email": "ann@example.com", "nonce": nonce,
                  "iat": int(self.now_s), "exp": int(self.now_s) + 300, "groups": ["operators"]}  # fmt: skip
        given = {name: value for name, value in (claims | self.claims).items() if value is not None}
        key = self.signing_key or self.key
        return jwt.encode({"alg": self.algorithm, "kid": "k1"}, given, key, algorithms=[self.algorithm])


def secret_as_key() -> OctKey:
    """The client's secret, as somebody would use it who knows no better."""
    return OctKey.import_key(CLIENT_SECRET)


@contextmanager
def oidc_issuer(now_s: float | None = None) -> Iterator[Issuer]:
    """An issuer that listens; its tokens are of `now_s`, seconds since 1970."""
    issuer = Issuer(now_s=time.time() if now_s is None else now_s)
    port = free_port()
    issuer.url = f"http://127.0.0.1:{port}"
    app = Starlette(routes=[
        Route("/.well-known/openid-configuration", issuer.facts), Route("/keys", issuer.keys),
        Route("/authorize", issuer.authorize), Route("/token", issuer.token, methods=["POST"]),
    ])  # fmt: skip
    stop, ready = threading.Event(), threading.Event()
    listener = open_listener("issuer", "127.0.0.1", port)
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    thread = threading.Thread(target=StoppableServer(config, stop, ready.set).run, args=([listener],), name="issuer")
    thread.start()
    try:
        assert ready.wait(30)
        yield issuer
    finally:
        stop.set()
        thread.join(30)
        listener.close()
