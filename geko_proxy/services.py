"""What filters and endpoints may use. Plain data, wired in `app`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from geko_proxy.accounts.agent_keys import AgentKeys
    from geko_proxy.accounts.api_keys import ApiKeys
    from geko_proxy.accounts.joining import Joining
    from geko_proxy.accounts.last_seen import LastSeen
    from geko_proxy.accounts.oauth_accounts import OAuthAccounts
    from geko_proxy.accounts.one_time_tokens import OneTimeTokens
    from geko_proxy.accounts.registration import Registration
    from geko_proxy.accounts.sealing import Sealer
    from geko_proxy.accounts.second_factor import SecondFactors
    from geko_proxy.accounts.sessions import Sessions
    from geko_proxy.accounts.shadow import ShadowAccounts
    from geko_proxy.accounts.shadow_store import ShadowStore
    from geko_proxy.accounts.signing_key_rotation import SigningKeyRotation
    from geko_proxy.accounts.tokens import AccessTokens
    from geko_proxy.accounts.users import UserStore
    from geko_proxy.alerts.parts import AlertParts
    from geko_proxy.background import Background
    from geko_proxy.config import Settings
    from geko_proxy.librechat_client import LibreChatClient
    from geko_proxy.mail import Mailer
    from geko_proxy.metering.call_leases import CallLeases
    from geko_proxy.metering.journal import Journal
    from geko_proxy.metering.leases import Leases
    from geko_proxy.metering.limits import LimitStore
    from geko_proxy.metering.price_store import PriceStore
    from geko_proxy.metering.tokens import TokenCounter
    from geko_proxy.metering.usage_views import UsageViews
    from geko_proxy.oauth.registry import Providers
    from geko_proxy.storage.database import Database
    from geko_proxy.turns import Turns
    from geko_proxy.workspaces.audit import Audit
    from geko_proxy.workspaces.auto_join import AutoJoinStore
    from geko_proxy.workspaces.config import WorkspaceConfigStore
    from geko_proxy.workspaces.hosts import WorkspaceHosts
    from geko_proxy.workspaces.invitations import InvitationStore
    from geko_proxy.workspaces.members import MemberStore
    from geko_proxy.workspaces.shared_links import SharedLinkStore
    from geko_proxy.workspaces.tenants import TenantStore
    from geko_proxy.workspaces.workspaces import WorkspaceStore


@dataclass(frozen=True, slots=True)
class Services:
    """The stores and clients of one running GEKO. redis: None without a Redis; mailer: None when mail is off."""

    settings: Settings
    database: Database
    redis: Redis | None
    mailer: Mailer | None
    sealer: Sealer
    second_factors: SecondFactors
    background: Background
    client: LibreChatClient
    users: UserStore
    registration: Registration
    sessions: Sessions
    last_seen: LastSeen
    tokens: AccessTokens
    signing_keys: SigningKeyRotation
    one_time_tokens: OneTimeTokens
    oauth_accounts: OAuthAccounts
    oauth_providers: Providers
    api_keys: ApiKeys
    shadows: ShadowAccounts
    shadow_store: ShadowStore
    agent_keys: AgentKeys
    tenants: TenantStore
    workspaces: WorkspaceStore
    members: MemberStore
    invitations: InvitationStore
    auto_joins: AutoJoinStore
    joining: Joining
    hosts: WorkspaceHosts
    configs: WorkspaceConfigStore
    shared_links: SharedLinkStore
    audit: Audit
    leases: Leases
    calls: CallLeases
    journal: Journal
    limits: LimitStore
    prices: PriceStore
    alerts: AlertParts
    usage: UsageViews
    counter: TokenCounter
    turns: Turns
