"""A real OpenID Connect provider, built with authlib's server side, and GitHub's few endpoints, on a loopback port.

It runs in a thread of its own with its own loop, so that tests of any kind can use it and change what it says.
Whoever comes to its authorization endpoint is signed in there already: as `person`. Not a test.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from authlib.common.security import generate_token  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749 import (  # type: ignore[import-untyped]
    AuthorizationServer,
    OAuth2Error,
    OAuth2Payload,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant  # type: ignore[import-untyped]
from authlib.oauth2.rfc6750 import BearerTokenGenerator  # type: ignore[import-untyped]
from authlib.oauth2.rfc7636 import CodeChallenge  # type: ignore[import-untyped]
from authlib.oidc.core import UserInfo  # type: ignore[import-untyped]
from authlib.oidc.core.grants import OpenIDCode  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.jwk import RSAKey
from yarl import URL

CLIENT_ID, CLIENT_SECRET = "geko-client", "geko-client-secret-of-40-characters-000"
PERSON = {"sub": "sub-1", "email": "pat@acme.test", "email_verified": True, "name": "Pat Doe"}

Handler = Callable[[web.Request], Any]
Sign = Callable[[dict[str, Any], "ProviderState"], str]


@dataclass
class ProviderState:
    """What a test may change. person: who is signed in at the provider; None: they say no.

    claims: members of the ID token to replace (... takes one out); sign: makes the ID token itself;
    faults: a path → what answers there instead; in_id_token: whether it holds the e-mail, or only userinfo;
    emails: GitHub's list, made from `person` when None. requests: what was asked, as "METHOD /path".
    """

    url: str = ""
    person: dict[str, Any] | None = field(default_factory=lambda: dict(PERSON))
    claims: dict[str, Any] = field(default_factory=dict)
    sign: Sign | None = None
    faults: dict[str, Handler] = field(default_factory=dict)
    in_id_token: bool = True
    emails: list[Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    callback: dict[str, str] = field(default_factory=dict)
    keys: list[RSAKey] = field(default_factory=list)
    codes: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def reset(self) -> None:
        """As it was at first, with the same address and keys."""
        fresh = ProviderState()
        for name in ProviderState.__dataclass_fields__:
            if name not in ("url", "keys"):
                setattr(self, name, getattr(fresh, name))

    def rotate_keys(self) -> None:
        """Sign with a new key; the old one is not published any more."""
        self.keys = [new_key(f"key-{generate_token(6)}")]


class Payload(OAuth2Payload):  # type: ignore[misc]
    """The parameters of a request."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._data = dict(pairs)
        self._datalist: defaultdict[str, list[str]] = defaultdict(list)
        for key, value in pairs:
            self._datalist[key].append(value)

    @property
    def data(self) -> dict[str, str]:
        return self._data

    @property
    def datalist(self) -> defaultdict[str, list[str]]:
        return self._datalist


class Request(OAuth2Request):  # type: ignore[misc]
    """An aiohttp request as authlib wants it. It insists on https, which a loopback server has not."""

    def __init__(self, request: web.Request, body: str) -> None:
        super().__init__(
            request.method, "https://" + str(request.url).partition("://")[2], None, request.headers
        )
        self.args_ = dict(request.query)
        self.form_ = dict(parse_qsl(body))
        self.payload = Payload([*request.query.items(), *parse_qsl(body)])

    @property
    def args(self) -> dict[str, str]:
        return self.args_

    @property
    def form(self) -> dict[str, str]:
        return self.form_


class Client:
    """GEKO, as it is registered at the provider."""

    client_id = CLIENT_ID

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri.startswith("https://chat.test/v1/auth/oauth/") and redirect_uri.endswith(
            "/callback"
        )

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in ("client_secret_basic", "client_secret_post")

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("authorization_code", "refresh_token")


class Server(AuthorizationServer):  # type: ignore[misc]
    """authlib's server over aiohttp. It gets requests whose body is read already."""

    def __init__(self, state: ProviderState) -> None:
        super().__init__()
        self.state = state
        tokens = BearerTokenGenerator(lambda **_: generate_token(42), lambda **_: generate_token(48))
        self.register_token_generator("default", tokens)
        self.register_grant(code_grant(state), [CodeChallenge(required=True), id_tokens(state)])

    def query_client(self, client_id: str) -> Client | None:
        return Client() if client_id == CLIENT_ID else None

    def save_token(self, token: dict[str, Any], request: Request) -> None:
        self.state.tokens[token["access_token"]] = request.user.claims

    def create_oauth2_request(self, request: Any) -> Request:
        return request if isinstance(request, Request) else Request(*request)

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def handle_response(self, status: int, body: Any, headers: Any) -> web.Response:
        text = json.dumps(body) if isinstance(body, dict) else body
        return web.Response(status=status, text=text, headers=dict(headers))


def code_grant(state: ProviderState) -> type[Any]:
    class Grant(AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

        def save_authorization_code(self, code: str, request: Request) -> None:
            data = request.payload.data
            assert data.get("code_challenge_method") == "S256", "GEKO must use PKCE with S256"
            state.codes[code] = SimpleNamespace(
                code=code,
                user=request.user,
                code_challenge=data["code_challenge"],
                code_challenge_method="S256",
                get_redirect_uri=lambda: data["redirect_uri"],
                get_scope=lambda: data.get("scope", ""),
                get_nonce=lambda: data.get("nonce"),
                get_auth_time=lambda: None,
                get_acr=lambda: None,
                get_amr=lambda: None,
            )

        def query_authorization_code(self, code: str, client: Client) -> Any:
            return state.codes.get(code)

        def delete_authorization_code(self, authorization_code: Any) -> None:
            del state.codes[authorization_code.code]

        def authenticate_user(self, authorization_code: Any) -> Any:
            return authorization_code.user

    return Grant


def id_tokens(state: ProviderState) -> Any:
    class IdTokens(OpenIDCode):  # type: ignore[misc]
        def exists_nonce(self, nonce: str, request: Request) -> bool:
            return False

        def resolve_client_private_key(self, client: Client) -> RSAKey:
            return state.keys[0]

        def get_client_claims(self, client: Client) -> dict[str, Any]:
            return {"iss": state.url, "aud": [CLIENT_ID]}

        def get_encode_header(self, client: Client) -> dict[str, Any]:
            return {"alg": "RS256", "kid": state.keys[0].kid}

        def generate_user_info(self, user: Any, scope: str) -> UserInfo:
            shown = user.claims if state.in_id_token else {"sub": user.claims["sub"]}
            return UserInfo(**shown)

        def encode_id_token(self, token: dict[str, Any], request: Request) -> str:
            made = super().encode_id_token(token, request)
            if not state.claims and state.sign is None:
                return str(made)
            claims = {**jwt.decode(made, state.keys[0]).claims, **state.claims}
            claims = {name: value for name, value in claims.items() if value is not ...}
            if state.sign is not None:
                return state.sign(claims, state)
            return jwt.encode(self.get_encode_header(request.client), claims, state.keys[0])

    return IdTokens()


class Endpoints:
    """HTTP in front of the server; OpenID Connect under /, GitHub's shapes under /login/oauth and /api."""

    def __init__(self, state: ProviderState) -> None:
        self.state = state
        self.server = Server(state)

    def app(self) -> web.Application:
        """All routes."""
        app = web.Application(middlewares=[self.faults])
        app.router.add_get("/.well-known/openid-configuration", self.discovery)
        app.router.add_get("/authorize", self.authorize)
        app.router.add_post("/token", self.token)
        app.router.add_get("/keys", self.keys)
        app.router.add_get("/userinfo", self.userinfo)
        app.router.add_get("/login/oauth/authorize", self.authorize)
        app.router.add_post("/login/oauth/access_token", self.token)
        app.router.add_get("/api/user", self.github_user)
        app.router.add_get("/api/user/emails", self.github_emails)
        return app

    @web.middleware
    async def faults(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.state.requests.append(f"{request.method} {request.path}")
        fault = self.state.faults.get(request.path)
        if fault is not None:
            answer = fault(request)
            return await answer if asyncio.iscoroutine(answer) else answer  # type: ignore[no-any-return]
        return await handler(request)  # type: ignore[no-any-return]

    async def discovery(self, request: web.Request) -> web.Response:
        url = self.state.url
        document = {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "jwks_uri": f"{url}/keys",
            "userinfo_endpoint": f"{url}/userinfo",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            **self.state.metadata,
        }
        return web.json_response(document)

    async def authorize(self, request: web.Request) -> web.Response:
        state, server = self.state, self.server
        if state.person is None:
            query = {"error": "access_denied", "state": request.query["state"], **state.callback}
            raise web.HTTPFound(str(URL(request.query["redirect_uri"]).update_query(query)))
        user = SimpleNamespace(claims=dict(state.person), id=state.person["sub"])
        asked = Request(request, "")
        try:
            grant = server.get_consent_grant(asked, end_user=user)
        except OAuth2Error as error:
            return web.Response(status=400, text=str(error))
        reply: web.Response = server.create_authorization_response(asked, grant_user=user, grant=grant)
        if state.callback:
            reply.headers["Location"] = str(URL(reply.headers["Location"]).update_query(state.callback))
        return reply

    async def token(self, request: web.Request) -> web.Response:
        asked = (request, await request.text())
        reply: web.Response = self.server.create_token_response(asked)
        return reply

    async def keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [key.as_dict(private=False) for key in self.state.keys]})

    async def userinfo(self, request: web.Request) -> web.Response:
        return web.json_response(self.claims(request))

    async def github_user(self, request: web.Request) -> web.Response:
        claims = self.claims(request)
        user = {"id": int(claims["sub"].removeprefix("sub-")), "login": "pat", "name": claims["name"]}
        return web.json_response({**user, "email": "public@elsewhere.test"})

    async def github_emails(self, request: web.Request) -> web.Response:
        claims = self.claims(request)
        listed = self.state.emails
        if listed is None:
            other = {"email": "other@elsewhere.test", "primary": False, "verified": True}
            verified = claims["email_verified"]
            listed = [other, {"email": claims["email"], "primary": True, "verified": verified}]
        return web.json_response(listed)

    def claims(self, request: web.Request) -> dict[str, Any]:
        claims = self.state.tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if claims is None:
            raise web.HTTPUnauthorized
        return claims


def new_key(kid: str) -> RSAKey:
    """A key pair for signing."""
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}, private=True)


@contextmanager
def running_provider() -> Iterator[ProviderState]:
    """A provider that listens; ends with the block."""
    state = ProviderState(keys=[new_key("key-1")])
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(Endpoints(state).app(), shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        state.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def oauth_toml(state: ProviderState, **more: Mapping[str, Any]) -> str:
    """[[oauth]] entries for all three kinds, pointed at the provider. more: members by the entry's name."""
    urls = {
        "authorize_url": f"{state.url}/login/oauth/authorize",
        "token_url": f"{state.url}/login/oauth/access_token",
        "api_url": f"{state.url}/api",
    }
    entries: dict[str, dict[str, Any]] = {
        "google": {"kind": "google", "issuer": state.url},
        "github": {"kind": "github", **urls},
        "acme": {"kind": "oidc", "issuer": state.url, "display_name": "Acme SSO"},
    }
    text = ""
    for name, entry in entries.items():
        members = {"name": name, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, **entry}
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**members, **more.get(name, {})}.items()]
        text += "\n".join(["[[oauth]]", *lines, ""])
    return text
