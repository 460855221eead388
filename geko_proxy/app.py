"""The only place that wires: settings in, a proxy with all its parts out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from redis.asyncio import Redis

from geko_proxy import admin_api, client_api
from geko_proxy.accounts import passwords as password_hashes
from geko_proxy.accounts.agent_keys import AgentKeys
from geko_proxy.accounts.api_keys import ApiKeys
from geko_proxy.accounts.hashing_pool import HashingPool
from geko_proxy.accounts.joining import Joining
from geko_proxy.accounts.last_seen import LastSeen
from geko_proxy.accounts.oauth_accounts import OAuthAccounts
from geko_proxy.accounts.one_time_tokens import OneTimeTokens
from geko_proxy.accounts.password_policy import common_passwords
from geko_proxy.accounts.registration import Registration
from geko_proxy.accounts.sealing import Sealer
from geko_proxy.accounts.second_factor import SecondFactors
from geko_proxy.accounts.sessions import Sessions
from geko_proxy.accounts.shadow import (
    Credentials,
    LoginCredentials,
    MintedCredentials,
    ShadowAccounts,
    ShadowPasswords,
)
from geko_proxy.accounts.shadow_store import ShadowStore
from geko_proxy.accounts.signing_key_rotation import RotationPlan, SigningKeyRotation
from geko_proxy.accounts.signing_key_store import SigningKeyStore
from geko_proxy.accounts.tokens import AccessTokens
from geko_proxy.accounts.users import UserStore
from geko_proxy.admin_api.access import guarded
from geko_proxy.alerts.deliveries import CLAIM_MARGIN_S, DeliveryStore, Schedule
from geko_proxy.alerts.mails import AlertMails
from geko_proxy.alerts.parts import AlertParts
from geko_proxy.alerts.sender import WebhookSender
from geko_proxy.alerts.targets import Targets
from geko_proxy.alerts.webhooks import WebhookStore
from geko_proxy.alerts.worker import AlertWorker
from geko_proxy.answers import Answers
from geko_proxy.background import Background
from geko_proxy.client_api.openapi import with_document
from geko_proxy.config import Settings
from geko_proxy.door import Door
from geko_proxy.errors import ConfigError
from geko_proxy.exchange import Exchange
from geko_proxy.filters.chain import Chain
from geko_proxy.filters.loader import load_chain
from geko_proxy.librechat import Classifier
from geko_proxy.librechat_client import LibreChatClient
from geko_proxy.llm.attribution import Attribution
from geko_proxy.llm.catalogue import Catalogue
from geko_proxy.llm.gateway import Gateway
from geko_proxy.llm.metrics import LlmMetrics
from geko_proxy.llm.pool import ProviderPool
from geko_proxy.llm.routes import LlmClassifier
from geko_proxy.mail import MailQueue, link_base, open_mailer
from geko_proxy.metering.call_leases import CallLeases
from geko_proxy.metering.journal import Journal
from geko_proxy.metering.leases import Leases
from geko_proxy.metering.limits import LimitStore
from geko_proxy.metering.price_store import PriceStore, price_of
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.metering.upkeep import LedgerUpkeep
from geko_proxy.metering.usage_views import UsageViews
from geko_proxy.oauth.http import ProviderHttp
from geko_proxy.oauth.registry import Providers
from geko_proxy.peers.finder import TurnFinder
from geko_proxy.peers.forwarding import Peers
from geko_proxy.peers.hop import HopSigner
from geko_proxy.peers.instances import Instances
from geko_proxy.proxy import Proxy
from geko_proxy.recovery import Recovery
from geko_proxy.services import Services
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.storage.migrations import MIGRATIONS, pending
from geko_proxy.turn import Turn
from geko_proxy.turns import Turns
from geko_proxy.upstream import Upstream, UpstreamOptions
from geko_proxy.workspaces.audit import Audit
from geko_proxy.workspaces.auto_join import AutoJoinStore
from geko_proxy.workspaces.config import WorkspaceConfigStore
from geko_proxy.workspaces.hosts import WorkspaceHosts
from geko_proxy.workspaces.invitations import InvitationStore
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.shared_links import SharedLinkStore
from geko_proxy.workspaces.tenants import TenantStore
from geko_proxy.workspaces.workspaces import WorkspaceStore

log = logging.getLogger("geko.app")

MAX_CALL_BYTES = 64 * 1024 * 1024  # of a model call, which may hold pictures


class App(NamedTuple):
    """What listens: the public proxy, and the LLM side if there is one."""

    proxy: Proxy
    gateway: Gateway | None


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncIterator[App]:
    """Open everything that GEKO needs, in order; close it in reverse. Raises ConfigError, StoreError."""
    async with AsyncExitStack() as stack:
        services, upstream, peers = await _open_services(settings, stack)
        chain = load_chain(settings.filters, services)

        async def start_chat(parent: Exchange, body: dict[str, Any], request: web.BaseRequest) -> Turn:
            return await proxy.start_chat(parent, body, request)

        endpoints = with_document([*client_api.routes(services, start_chat), *admin_api.routes(services)])
        classifier = Classifier(
            [(methods, path, rule) for methods, path, rule, _ in endpoints],
            pass_unknown=settings.librechat.unknown_api == "pass",
        )
        proxy = Proxy(
            door=Door(classifier, settings.server),
            endpoints={
                rule.operation: guarded(services, path, rule, endpoint)
                for _, path, rule, endpoint in endpoints
            },
            chain=chain,
            upstream=upstream,
            client=services.client,
            shadows=services.shadows,
            agent_keys=services.agent_keys,
            turns=services.turns,
            peers=peers,
            answers=Answers(services.turns, TurnFinder(services.database, peers.instances), peers),
            settings=settings.server,
            on_drain=services.usage.live.end_all,
        )
        stack.push_async_callback(peers.stop)
        await chain.start()
        stack.push_async_callback(chain.stop)
        if any(entry.filter.name == "quota" for entry in chain.entries):
            recovery = Recovery(services, chain)
            await recovery.start()
            stack.push_async_callback(recovery.stop)
        yield App(proxy, await _open_gateway(services, chain, stack))


async def _open_gateway(services: Services, chain: Chain, stack: AsyncExitStack) -> Gateway | None:
    """The LLM side; None without model providers."""
    settings = services.settings
    if not settings.llm_providers:
        return None
    metrics = LlmMetrics()
    pool = ProviderPool(settings.llm, settings.llm_providers, metrics)
    stack.push_async_callback(pool.close)
    gateway = Gateway(
        door=Door(LlmClassifier(), replace(settings.server, max_json_bytes=MAX_CALL_BYTES)),
        chain=chain,
        attribution=Attribution(services.database, services.calls, settings.llm.unknown_accounts),
        pool=pool,
        providers=settings.llm_providers,
        catalogue=Catalogue(pool),
        key=settings.llm.key,
        metrics=metrics.render,
        access_log=settings.server.access_log,
    )
    stack.push_async_callback(gateway.drain)
    return gateway


async def _open_services(settings: Settings, stack: AsyncExitStack) -> tuple[Services, Upstream, Peers]:
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
    mailer = open_mailer(settings)
    if mailer is not None:
        stack.push_async_callback(mailer.stop)
    background = Background()
    stack.push_async_callback(background.stop, settings.server.shutdown_timeout_s)
    await _prepare_hashing(settings, stack)
    services = _services(settings, database, invalidation, redis, client, mailer, background)
    stack.push_async_callback(services.oauth_providers.close)
    upkeep = LedgerUpkeep(database, settings.metering.retention_months)
    for part in (services.signing_keys, services.last_seen, upkeep, services.usage.live):
        await part.start()
        stack.push_async_callback(part.stop)
    alerts = _alert_worker(services)
    await alerts.start(invalidation)
    stack.push_async_callback(alerts.stop)
    return services, upstream, _peers(settings, database, invalidation, services)


def _peers(settings: Settings, database: Database, invalidation: Invalidation, services: Services) -> Peers:
    instances = Instances(database, invalidation, services.leases.instance_id)
    return Peers(instances, HopSigner(settings.auth.encryption_secret), settings.librechat.read_timeout_ms)


def _alert_parts(settings: Settings, database: Database, sealer: Sealer) -> AlertParts:
    targets = Targets(settings.alerts.allowed_networks)
    schedule = Schedule(claim_s=settings.alerts.webhook_timeout_ms / 1000 + CLAIM_MARGIN_S)
    return AlertParts(WebhookStore(sealer), DeliveryStore(database, schedule), targets)


def _alert_worker(services: Services) -> AlertWorker:
    sender = WebhookSender(services.alerts.targets, services.settings.alerts.webhook_timeout_ms / 1000)
    mails = AlertMails(services.database, services.mailer, link_base(services.settings))
    return AlertWorker(services.database, services.alerts, sender, mails)


async def _prepare_hashing(settings: Settings, stack: AsyncExitStack) -> None:
    auth = settings.auth
    pool = HashingPool(
        workers=auth.password_workers, queue=auth.password_queue, cpu_share=auth.password_cpu_share
    )
    stack.callback(pool.close)
    cost = password_hashes.Cost(auth.scrypt_log_n, auth.scrypt_r, auth.scrypt_p)
    stack.callback(password_hashes.configure, *password_hashes.configure(cost, pool))
    await asyncio.to_thread(common_passwords)  # now, and not while answers stream


def _services(
    settings: Settings,
    database: Database,
    invalidation: Invalidation,
    redis: Redis | None,
    client: LibreChatClient,
    mailer: MailQueue | None,
    background: Background,
) -> Services:
    auth, shortest = settings.auth, settings.auth.password_min_length
    sealer = Sealer(auth.encryption_secret)
    tokens = _tokens(settings)
    shadow_store = ShadowStore(database)
    passwords = ShadowPasswords(settings.librechat.shadow_secret, settings.librechat.shadow_email_domain)
    shadows = ShadowAccounts(shadow_store, client, passwords, _credentials(settings, client, passwords))
    members = MemberStore(database, invalidation)
    invitations, auto_joins = InvitationStore(database), AutoJoinStore(database)
    limits, leases = LimitStore(database, invalidation), Leases(database)
    return Services(
        settings=settings,
        database=database,
        redis=redis,
        mailer=mailer,
        sealer=sealer,
        second_factors=SecondFactors(sealer),
        background=background,
        client=client,
        users=UserStore(database),
        registration=Registration(database, min_password=shortest),
        sessions=_sessions(settings, database, invalidation),
        last_seen=LastSeen(database),
        tokens=tokens,
        signing_keys=_signing_keys(settings, database, invalidation, sealer, tokens),
        one_time_tokens=OneTimeTokens(database),
        oauth_accounts=OAuthAccounts(database, sealer),
        oauth_providers=Providers(settings.oauth, ProviderHttp()),
        api_keys=ApiKeys(database, invalidation),
        shadows=shadows,
        shadow_store=shadow_store,
        agent_keys=AgentKeys(shadow_store, shadows, client, sealer, Audit()),
        tenants=TenantStore(database, invalidation),
        workspaces=WorkspaceStore(database),
        members=members,
        invitations=invitations,
        auto_joins=auto_joins,
        joining=Joining(database, members, invitations, auto_joins, Audit(), min_password=shortest),
        hosts=WorkspaceHosts(database, invalidation, settings.server.workspace_hosts),
        configs=WorkspaceConfigStore(database, invalidation),
        shared_links=SharedLinkStore(database),
        audit=Audit(),
        leases=leases,
        calls=CallLeases(database, leases),
        journal=Journal(settings.server.home.expanduser() / "journal"),
        limits=limits,
        alerts=_alert_parts(settings, database, sealer),
        prices=PriceStore(database, invalidation, [price_of(each) for each in settings.prices]),
        usage=UsageViews.build(database, limits),
        counter=TokenCounter(),
        turns=Turns(),
    )


def _sessions(settings: Settings, database: Database, invalidation: Invalidation) -> Sessions:
    auth = settings.auth
    return Sessions(
        database,
        invalidation,
        ttl_s=auth.refresh_token_ttl_s,
        grace_s=auth.refresh_grace_s,
        max_ttl_s=auth.session_max_ttl_s,
    )


def _tokens(settings: Settings) -> AccessTokens:
    auth = settings.auth
    return AccessTokens(
        auth.jwt_secret,
        issuer=auth.issuer,
        audience=auth.audience,
        ttl_s=auth.access_token_ttl_s,
        signing=auth.signing,
    )


def _signing_keys(
    settings: Settings, database: Database, invalidation: Invalidation, sealer: Sealer, tokens: AccessTokens
) -> SigningKeyRotation:
    auth = settings.auth
    plan = RotationPlan(
        algorithm=auth.signing,
        token_ttl_s=auth.access_token_ttl_s,
        rotation_days=auth.signing_key_rotation_days,
        files=Path(auth.signing_keys).expanduser() if auth.signing_keys else None,
    )
    store = SigningKeyStore(database, sealer, invalidation)
    signing_keys = SigningKeyRotation(store, invalidation, plan, tokens.use)
    tokens.refresh_by(signing_keys.refresh)
    return signing_keys


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
