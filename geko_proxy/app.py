"""The only place that wires: settings in, a proxy with all its parts out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web
from redis.asyncio import Redis

from geko_proxy import admin_api, client_api
from geko_proxy.accounts.one_time_tokens import OneTimeTokens
from geko_proxy.accounts.registration import Registration
from geko_proxy.accounts.sealing import Sealer
from geko_proxy.accounts.sessions import Sessions
from geko_proxy.accounts.shadow import (
    Credentials,
    LoginCredentials,
    MintedCredentials,
    ShadowAccounts,
    ShadowPasswords,
)
from geko_proxy.accounts.shadow_store import ShadowStore
from geko_proxy.accounts.tokens import AccessTokens
from geko_proxy.accounts.users import UserStore
from geko_proxy.config import Settings
from geko_proxy.door import Door
from geko_proxy.errors import ConfigError
from geko_proxy.exchange import Exchange
from geko_proxy.filters.loader import load_chain
from geko_proxy.librechat import Classifier
from geko_proxy.librechat_client import LibreChatClient
from geko_proxy.mail import open_mailer
from geko_proxy.metering.leases import Leases
from geko_proxy.metering.quotas import QuotaStore
from geko_proxy.metering.reports import Reports
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.proxy import Proxy
from geko_proxy.services import Services
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.storage.migrations import MIGRATIONS, pending
from geko_proxy.turn import Turn
from geko_proxy.turns import Turns
from geko_proxy.upstream import Upstream, UpstreamOptions
from geko_proxy.workspaces.audit import Audit
from geko_proxy.workspaces.config import WorkspaceConfigStore
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.shared_links import SharedLinkStore
from geko_proxy.workspaces.tenants import TenantStore
from geko_proxy.workspaces.workspaces import WorkspaceStore

log = logging.getLogger("geko.app")


@asynccontextmanager
async def open_proxy(settings: Settings) -> AsyncIterator[Proxy]:
    """Open everything that a proxy needs, in order; close it in reverse. Raises ConfigError, StoreError."""
    async with AsyncExitStack() as stack:
        services, upstream = await _open_services(settings, stack)
        chain = load_chain(settings.filters, services)

        async def start_chat(parent: Exchange, body: dict[str, Any], request: web.BaseRequest) -> Turn:
            return await proxy.start_chat(parent, body, request)

        endpoints = [*client_api.routes(services, start_chat), *admin_api.routes(services)]
        classifier = Classifier(
            [(methods, path, rule) for methods, path, rule, _ in endpoints],
            pass_unknown=settings.librechat.unknown_api == "pass",
        )
        proxy = Proxy(
            door=Door(classifier, settings.server),
            endpoints={rule.operation: endpoint for _, _, rule, endpoint in endpoints},
            chain=chain,
            upstream=upstream,
            client=services.client,
            shadows=services.shadows,
            turns=services.turns,
            settings=settings.server,
        )
        await chain.start()
        stack.push_async_callback(chain.stop)
        yield proxy


async def _open_services(settings: Settings, stack: AsyncExitStack) -> tuple[Services, Upstream]:
    missing = await pending(settings.database.reaches_server, MIGRATIONS)
    if missing:
        raise ConfigError([f"database: not migrated ({', '.join(missing)}); run `geko migrate`"])
    database = await Database.open(
        settings.database.url,
        min_size=settings.database.pool_min,
        max_size=settings.database.pool_max,
        statement_cache_size=settings.database.statement_cache_size,
        direct_dsn=settings.database.direct_url,
    )
    stack.push_async_callback(database.close)
    invalidation = Invalidation(settings.database.reaches_server)
    await invalidation.start()
    stack.push_async_callback(invalidation.stop)
    redis = Redis.from_url(settings.redis.url, socket_timeout=1.0) if settings.redis.url else None
    if redis is not None:
        stack.push_async_callback(redis.aclose)
    upstream = Upstream(settings.librechat.url, _upstream_options(settings))
    stack.push_async_callback(upstream.close)
    client = LibreChatClient(upstream, settings.librechat.stream_idle_timeout_ms)
    return _services(settings, database, invalidation, redis, client), upstream


def _services(
    settings: Settings,
    database: Database,
    invalidation: Invalidation,
    redis: Redis | None,
    client: LibreChatClient,
) -> Services:
    auth = settings.auth
    shadow_store = ShadowStore(database)
    passwords = ShadowPasswords(settings.librechat.shadow_secret, settings.librechat.shadow_email_domain)
    return Services(
        settings=settings,
        database=database,
        redis=redis,
        mailer=open_mailer(settings),
        sealer=Sealer(auth.encryption_secret),
        client=client,
        users=UserStore(database),
        registration=Registration(database),
        sessions=Sessions(
            database, invalidation, ttl_s=auth.refresh_token_ttl_s, grace_s=auth.refresh_grace_s
        ),
        tokens=AccessTokens(
            auth.jwt_secret, issuer=auth.issuer, audience=auth.audience, ttl_s=auth.access_token_ttl_s
        ),
        one_time_tokens=OneTimeTokens(database),
        shadows=ShadowAccounts(shadow_store, client, passwords, _credentials(settings, client, passwords)),
        shadow_store=shadow_store,
        tenants=TenantStore(database, invalidation),
        workspaces=WorkspaceStore(database),
        members=MemberStore(database, invalidation),
        configs=WorkspaceConfigStore(database, invalidation),
        shared_links=SharedLinkStore(database),
        audit=Audit(),
        leases=Leases(database),
        quotas=QuotaStore(database),
        reports=Reports(database),
        counter=TokenCounter(),
        turns=Turns(),
    )


def _credentials(settings: Settings, client: LibreChatClient, passwords: ShadowPasswords) -> Credentials:
    if settings.librechat.identity == "login":
        return LoginCredentials(client, passwords)
    return MintedCredentials(settings.librechat.jwt_secret, settings.librechat.jwt_refresh_secret or None)


def _upstream_options(settings: Settings) -> UpstreamOptions:
    given = settings.librechat
    return UpstreamOptions(
        connect_timeout_ms=given.connect_timeout_ms,
        read_timeout_ms=given.read_timeout_ms,
        max_connections=given.max_connections,
        keepalive_timeout_ms=given.keepalive_timeout_ms,
    )
