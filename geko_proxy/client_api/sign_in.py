"""Signing in, staying signed in and signing out, whatever the shape of the request: /v1/auth and LibreChat's page."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from geko_proxy.accounts.passwords import hash_password, needs_rehash, verify_password
from geko_proxy.accounts.registration import Registered
from geko_proxy.accounts.sessions import InvalidSession, OpenedSession, ReusedToken, Rotated
from geko_proxy.accounts.tokens import Identity, InvalidToken
from geko_proxy.accounts.users import User
from geko_proxy.client_api.login_limits import LoginLimits
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange
from geko_proxy.workspaces.roles import Role
from geko_proxy.workspaces.tenants import Tenant, TenantStatus
from geko_proxy.workspaces.workspaces import Workspace

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.sign_in")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who is signed in where, and the tokens that say so. access_ttl_s: life of the access token in seconds."""

    user: User
    tenant: Tenant
    workspace: Workspace
    role: Role
    access_token: str
    access_ttl_s: int
    refresh_token: str
    refresh_expires_at: datetime


class SignIns:
    """Opens, renews and ends sessions for people who come with a password or a refresh token."""

    def __init__(self, services: Services, limits: LoginLimits) -> None:
        self._services = services
        self._limits = limits

    async def by_password(
        self, exchange: Exchange, email: str, password: str, workspace_id: UUID | None = None
    ) -> SignedIn | None:
        """Sign in; None when the e-mail or the password is wrong, after the same time in both cases.

        workspace_id: the workspace to enter, the oldest one when None.
        Raises Refused: 429 after too many failures, 403 when there is nowhere to go in.
        """
        ip = exchange.request.client_ip
        self._limits.begin(ip, email)
        found = await self._services.users.find_login(email)
        user, stored = found if found is not None else (None, None)
        if not await verify_password(password, stored) or user is None:
            log.info("%s: a sign-in failed", exchange.id)
            return None
        self._limits.succeeded(ip, email)
        if stored is not None and needs_rehash(stored):
            new = await hash_password(password)
            await self._services.users.set_password(user.tenant_id, user.user_id, new)
        return await self.by_user(exchange, user, workspace_id)

    async def by_user(self, exchange: Exchange, user: User, workspace_id: UUID | None = None) -> SignedIn:
        """Sign in somebody who has proved who they are.

        workspace_id: the workspace to enter, the oldest one when None.
        Raises Refused 403 when there is nowhere to go in.
        """
        tenant = await self._active_tenant(user.tenant_id)
        if tenant is None:
            raise Refused(403, "tenant_not_active", "Your organisation's access is suspended.")
        workspace, role = await self._choose(user, workspace_id)
        return await self._open(exchange, user, tenant, workspace, role)

    async def register(
        self,
        exchange: Exchange,
        *,
        email: str,
        password: str,
        name: str,
        username: str | None = None,
        tenant_name: str | None = None,
    ) -> Registered:
        """Create a tenant with its owner and first workspace; does not sign in.

        Raises Refused 403 when registration is off, 429; InvalidRegistration, EmailTaken.
        """
        settings = self._services.settings.auth
        if not settings.registration:
            raise Refused(403, "registration_off", "Registration is not allowed.")
        self._limits.begin_registration(exchange.request.client_ip)
        return await self._services.registration.register(
            email=email,
            password=password,
            name=name,
            username=username,
            tenant_name=tenant_name,
            token_limit=settings.default_token_limit or None,
        )

    def begin_registration(self, exchange: Exchange) -> None:
        """Count an account that is made without a password. Raises Refused 429."""
        self._limits.begin_registration(exchange.request.client_ip)

    async def enter(self, exchange: Exchange, registered: Registered) -> SignedIn:
        """Sign in somebody who has just registered."""
        return await self._open(
            exchange, registered.user, registered.tenant, registered.workspace, Role.OWNER
        )

    async def renew(self, exchange: Exchange, refresh_token: str) -> SignedIn | None:
        """Replace a refresh token; None when the session is over. A token used twice ends its session."""
        ip, agent = _origin(exchange)
        try:
            rotated = await self._services.sessions.rotate(refresh_token, ip, agent)
        except InvalidSession:
            return None
        except ReusedToken as reused:
            log.warning("%s: %s; the session was ended", exchange.id, reused)
            await self._audit_reuse(exchange, reused)
            return None
        return await self._renewed(rotated)

    async def end(self, exchange: Exchange, refresh_token: str | None) -> None:
        """End the sessions of the refresh token and of the bearer, as far as they name one."""
        ended: set[tuple[UUID, UUID]] = set()
        session = await self._services.sessions.find(refresh_token) if refresh_token else None
        if session is not None:
            ended.add((session.tenant_id, session.session_id))
        identity = self._bearer(exchange)
        if identity is not None:
            ended.add((identity.tenant_id, identity.session_id))
        for tenant_id, session_id in ended:
            await self._services.sessions.revoke(tenant_id, session_id)

    def _bearer(self, exchange: Exchange) -> Identity | None:
        scheme, _, token = exchange.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            return self._services.tokens.verify(token.strip(), time.time())
        except InvalidToken:
            return None

    async def _renewed(self, rotated: Rotated) -> SignedIn | None:
        services = self._services
        tenant = await self._active_tenant(rotated.tenant_id)
        user = await services.users.get(rotated.tenant_id, rotated.user_id)
        workspace = await services.workspaces.get(rotated.tenant_id, rotated.workspace_id)
        role = await services.members.role(rotated.tenant_id, rotated.workspace_id, rotated.user_id)
        if tenant is None or user is None or workspace is None or role is None:
            await services.sessions.revoke(rotated.tenant_id, rotated.session_id)
            return None
        return self._signed_in(user, tenant, workspace, role, rotated)

    async def _active_tenant(self, tenant_id: UUID) -> Tenant | None:
        tenant = await self._services.tenants.get(tenant_id)
        return tenant if tenant is not None and tenant.status is TenantStatus.ACTIVE else None

    async def _choose(self, user: User, workspace_id: UUID | None) -> tuple[Workspace, Role]:
        for workspace, role in await self._services.workspaces.list_for_user(user.tenant_id, user.user_id):
            if workspace_id in (None, workspace.workspace_id):
                return workspace, role
        if workspace_id is None:
            raise Refused(403, "no_workspace", "You are not a member of any workspace.")
        raise Refused(403, "not_a_member", "You are not a member of this workspace.")

    async def _open(
        self, exchange: Exchange, user: User, tenant: Tenant, workspace: Workspace, role: Role
    ) -> SignedIn:
        opened = await self._services.sessions.open(
            user.tenant_id, user.user_id, workspace.workspace_id, *_origin(exchange)
        )
        return self._signed_in(user, tenant, workspace, role, opened)

    def _signed_in(
        self, user: User, tenant: Tenant, workspace: Workspace, role: Role, session: OpenedSession | Rotated
    ) -> SignedIn:
        identity = Identity(user.user_id, user.tenant_id, workspace.workspace_id, role, session.session_id)
        return SignedIn(
            user,
            tenant,
            workspace,
            role,
            access_token=self._services.tokens.issue(identity, session.session_id),
            access_ttl_s=self._services.settings.auth.access_token_ttl_s,
            refresh_token=session.refresh_token,
            refresh_expires_at=session.expires_at,
        )

    async def _audit_reuse(self, exchange: Exchange, reused: ReusedToken) -> None:
        async with self._services.database.tenant(reused.tenant_id) as scope:
            await self._services.audit.record(
                scope,
                actor_user_id=None,
                action="session.reuse",
                target=str(reused.session_id),
                ip=exchange.request.client_ip,
                request_id=exchange.id,
                details={},
            )


def _origin(exchange: Exchange) -> tuple[str | None, str | None]:
    """Where a session is used from: address and User-Agent."""
    return exchange.request.client_ip or None, exchange.request.headers.get("User-Agent")
