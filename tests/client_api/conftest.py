"""The stores on a real database, a LibreChat that knows one account, and requests as the proxy hands them over."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.accounts.one_time_tokens import OneTimeTokens
from geko_proxy.accounts.registration import Registration
from geko_proxy.accounts.sealing import Sealer
from geko_proxy.accounts.second_factor import SecondFactors
from geko_proxy.accounts.sessions import Sessions
from geko_proxy.accounts.tokens import AccessTokens
from geko_proxy.accounts.users import UserStore
from geko_proxy.background import Background
from geko_proxy.config.people_settings import AuthSettings
from geko_proxy.config.settings import ServerSettings, Settings
from geko_proxy.errors import UpstreamUnreachable
from geko_proxy.exchange import Exchange, Request, Route
from geko_proxy.services import Services
from geko_proxy.storage.database import Database
from geko_proxy.workspaces.audit import Audit
from geko_proxy.workspaces.hosts import WorkspaceHosts
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.tenants import TenantStore
from geko_proxy.workspaces.workspaces import WorkspaceStore

LIBRECHAT_ID = "6b032e55267c468b9988490f"
HOST = "geko.example"

Call = Callable[..., tuple[Exchange, web.BaseRequest]]


@dataclass
class MailBox:
    """Keeps what is sent: to, subject, text."""

    mails: list[tuple[str, str, str]] = field(default_factory=list)

    async def send(self, to: str, subject: str, text: str) -> None:
        self.mails.append((to, subject, text))


@dataclass
class FakeLibreChat:
    """Knows every shadow account, unless it is down."""

    down: bool = False
    asked: int = 0
    account: dict[str, Any] = field(
        default_factory=lambda: {"_id": LIBRECHAT_ID, "name": "GEKO user", "role": "USER", "favorites": [{}]}
    )

    async def get(self, *key: object) -> object:
        return key

    async def bearer(self, shadow: object) -> str:
        return "bearer"

    async def user(self, bearer: str) -> dict[str, Any]:
        self.asked += 1
        if self.down:
            raise UpstreamUnreachable("down")
        return self.account


@pytest.fixture
def librechat() -> FakeLibreChat:
    return FakeLibreChat()


@pytest.fixture
async def services(database: Database, librechat: FakeLibreChat) -> AsyncIterator[Services]:
    """What the endpoints of accounts need; the rest is not there."""
    auth = AuthSettings(jwt_secret="s" * 40, encryption_secret="e" * 40, default_token_limit=0)
    sealer = Sealer(auth.encryption_secret)
    parts: dict[str, Any] = dict.fromkeys(Services.__dataclass_fields__)
    parts |= {
        "settings": Settings(server=ServerSettings(public_url="https://public.example"), auth=auth),
        "database": database,
        "users": UserStore(database),
        "registration": Registration(database),
        "sessions": Sessions(database, grace_s=0),
        "tokens": AccessTokens(auth.jwt_secret, issuer="geko", audience="geko"),
        "tenants": TenantStore(database),
        "workspaces": WorkspaceStore(database),
        "members": MemberStore(database),
        "audit": Audit(),
        "hosts": WorkspaceHosts(database, None, ""),
        "sealer": sealer,
        "second_factors": SecondFactors(sealer),
        "one_time_tokens": OneTimeTokens(database),
        "background": Background(),
        "mailer": MailBox(),
        "client": librechat,
        "shadows": librechat,
    }
    made = Services(**parts)
    yield made
    await made.background.stop(5)


@pytest.fixture
def without_registration(services: Services) -> Services:
    auth = replace(services.settings.auth, registration=False)
    return replace(services, settings=replace(services.settings, auth=auth))


@pytest.fixture
def call() -> Call:
    """Makes a request: call(body=…, cookies=…, headers=…, secure=…)."""
    numbers = itertools.count(1)

    def make(
        body: Any = None,
        *,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        secure: bool = False,
    ) -> tuple[Exchange, web.BaseRequest]:
        raw = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        request = Request(
            "POST",
            "/",
            "",
            CIMultiDictProxy(CIMultiDict(headers or {})),
            client_ip="192.0.2.7",
            cookies=cookies,
            secure=secure,
            body=raw,
        )
        exchange = Exchange(f"r{next(numbers)}", request, Route.PUBLIC, "test", {}, 0.0)
        return exchange, cast(web.BaseRequest, SimpleNamespace(host=HOST))

    return make
