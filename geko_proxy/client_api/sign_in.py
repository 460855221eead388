"""Signing in, staying signed in and signing out, whatever the shape of the request: /v1/auth and LibreChat's page."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from geko_proxy.accounts.login_tickets import (
    TicketToken,
    close_ticket,
    close_tickets,
    open_ticket,
    use_ticket,
)
from geko_proxy.accounts.registration import Registered
from geko_proxy.accounts.second_factor import Verdict
from geko_proxy.accounts.sessions import InvalidSession, OpenedSession, ReusedToken, Rotated
from geko_proxy.accounts.tokens import Identity, InvalidToken
from geko_proxy.accounts.users import Credentials, User
from geko_proxy.client_api.login_limits import LoginLimits, TooManyAttempts
from geko_proxy.client_api.own_audit import record_event, record_own
from geko_proxy.client_api.password_check import PasswordCheck
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
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
    session_id: UUID
    access_token: str
    access_ttl_s: int
    refresh_token: str
    refresh_expires_at: datetime


@dataclass(frozen=True, slots=True)
class CodeWanted:
    """The password was right; a one-time code must follow with this ticket."""

    ticket: str


class SignIns:
    """Opens, renews and ends sessions for people who come with a password or a refresh token."""

    def __init__(self, services: Services, limits: LoginLimits) -> None:
        self._services = services
        self._limits = limits
        self._passwords = PasswordCheck(services, limits)

    async def by_password(
        self,
        exchange: Exchange,
        email: str,
        password: str,
        workspace_id: UUID | None = None,
        *,
        bound_to: str | None = None,
    ) -> SignedIn | CodeWanted | None:
        """Sign in; None when the e-mail or the password is wrong, after the same time in both cases.

        workspace_id: the workspace to enter, the oldest one when None. bound_to: what must be shown again with the
        ticket for a code, the User-Agent when None.
        Raises Refused: 429 after too many failures, 503 when too many sign in, 403 when there is nowhere to go in.
        """
        found = await self._passwords.user_of(exchange, email, password)
        if found is None:
            return None
        user, stored = found
        if not user.two_factor:
            signed_in = await self.by_user(exchange, user, workspace_id, how="password")
            return await self._unless_changed(signed_in, Credentials(stored, two_factor=False))
        wanted = await self.ask_for_code(exchange, user, workspace_id, bound_to=bound_to or _agent(exchange))
        async with self._services.database.tenant(user.tenant_id) as scope:
            if await self._services.users.credentials(scope, user.user_id) != Credentials(stored, True):
                await close_tickets(scope, user.user_id)
                return None
        return wanted

    async def ask_for_code(
        self, exchange: Exchange, user: User, workspace_id: UUID | None = None, *, bound_to: str
    ) -> CodeWanted:
        """A ticket for somebody whose first factor was right. Raises Refused 403 as `by_user`."""
        await self._entrance(exchange, user, workspace_id)
        async with self._services.database.tenant(user.tenant_id) as scope:
            return CodeWanted(await open_ticket(scope, user.user_id, workspace_id, bound_to))

    async def by_code(
        self,
        exchange: Exchange,
        ticket: str,
        code: str | None,
        recovery_code: str | None,
        *,
        bound_to: str | None = None,
    ) -> SignedIn | None:
        """Go on with a ticket and a one-time code or a recovery code; None when the code is wrong.

        Raises Refused: 401 "ticket_over", 429 after too many wrong codes, 403 when there is nowhere to go in.
        """
        token = TicketToken.decode(ticket)
        if token is None:
            raise ticket_over()
        services, verdict, before = self._services, Verdict(passed=False), None
        async with services.database.tenant(token.tenant_id) as scope:
            found = await use_ticket(scope, token, bound_to or _agent(exchange))
            if found is not None:
                # a change of the password waits for this transaction, as it ends the ticket
                before = await services.users.credentials(scope, found.user_id)
                verdict = await services.second_factors.check(scope, found.user_id, code, recovery_code)
            if verdict.passed:
                await close_ticket(scope, token)
            if found is not None and (verdict.blocks or verdict.recovery):
                action = "recovery_code.use" if verdict.recovery else "login.slowed"
                target = f"user/{found.user_id}"
                await record_event(self._services, exchange, scope, target, action, {"factor": "code"})
        if found is None:
            raise ticket_over()
        if verdict.wait_s:
            log.warning("%s: a code was refused, too many were wrong", exchange.id)
            raise TooManyAttempts("wrong codes", verdict.wait_s, "code", begins=False)
        user = await services.users.get(token.tenant_id, found.user_id)
        if not verdict.passed or user is None or user.disabled_at is not None:
            log.info("%s: a one-time code was wrong", exchange.id)
            return None
        return await self._unless_changed(
            await self.by_user(exchange, user, found.workspace_id, how="code"), before
        )

    def remember_device(self, exchange: Exchange, reply: Reply, email: str) -> None:
        """Make the browser known as the account owner's."""
        self._passwords.devices.set(exchange, reply, email)

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
        if await self._services.hosts.of(exchange) is not None:
            raise Refused(403, "other_workspace", "Nobody can register at the address of a workspace.")
        if not settings.registration:
            raise Refused(403, "registration_off", "Registration is not allowed.")
        await self.begin_registration(exchange)
        return await self._services.registration.register(
            email=email,
            password=password,
            name=name,
            username=username,
            tenant_name=tenant_name,
            token_limit=settings.default_token_limit or None,
        )

    async def begin_registration(self, exchange: Exchange) -> None:
        """Count an attempt to make an account, by whatever way. Raises Refused 429."""
        await self._limits.begin_registration(exchange.request.client_ip)

    async def enter(self, exchange: Exchange, registered: Registered, how: str = "registration") -> SignedIn:
        """Sign in somebody who has just registered. how: for the audit log."""
        place = registered.tenant, registered.workspace, Role.OWNER
        return await self._open(exchange, registered.user, *place, how=how)

    async def renew(self, exchange: Exchange, refresh_token: str) -> SignedIn | None:
        """Replace a refresh token; None when the session is over. A token used twice ends its session."""
        ip, agent = _origin(exchange)
        await self._follow_host(exchange, refresh_token)
        try:
            rotated = await self._services.sessions.rotate(refresh_token, ip, agent)
        except InvalidSession:
            return None
        except ReusedToken as reused:
            log.warning("%s: %s; the session was ended", exchange.id, reused)
            await self._audit_reuse(exchange, reused)
            return None
        return await self._renewed(rotated)

    async def switch(self, exchange: Exchange, workspace_id: UUID) -> SignedIn:
        """Move the caller's session to another workspace; its refresh token goes on there (`refresh_token` is empty).

        Raises Refused: 401 when the session is over, 403 for a workspace where the caller is no member.
        """
        identity = exchange.signed_in()
        services = self._services
        tenant = await self._active_tenant(identity.tenant_id)
        user = await services.users.get(identity.tenant_id, identity.user_id)
        if tenant is None or user is None:
            raise Refused(401, "not_signed_in", "This account can't be used any more.")
        await services.hosts.require(exchange, workspace_id)
        workspace, role = await self._choose(user, workspace_id)
        expires_at = await services.sessions.switch(tenant.tenant_id, identity.session_id, workspace_id)
        if expires_at is None:
            raise Refused(401, "session_over", "The session is over. Sign in again.")
        async with services.database.tenant(user.tenant_id) as scope:
            target = f"workspace/{workspace_id}"
            await record_event(services, exchange, scope, target, "session.switch", {}, actor_id=user.user_id)
        session = OpenedSession(identity.session_id, "", expires_at)
        return self._signed_in(user, tenant, workspace, role, session)

    async def caller(self, exchange: Exchange) -> Identity | None:
        """Who calls a public endpoint: None without a bearer. Raises Refused 401 for one that is not valid."""
        if "Authorization" not in exchange.request.headers:
            return None
        identity = self._bearer(exchange)
        if identity is None:
            raise Refused(401, "invalid_token", "The access token is not valid.")
        if not await self._services.sessions.is_active(identity.tenant_id, identity.session_id):
            raise Refused(401, "session_over", "The session is over. Sign in again.")
        if await self._active_tenant(identity.tenant_id) is None:
            raise Refused(403, "tenant_not_active", "Your organisation's access is suspended.")
        return identity

    async def by_user(
        self, exchange: Exchange, user: User, workspace_id: UUID | None = None, *, how: str
    ) -> SignedIn:
        """Sign in somebody who has proven to be this user. workspace_id: as for `by_password`.

        how: what proved it, for the audit log. Raises Refused 403 when the tenant is suspended or there is nowhere to
        go in.
        """
        return await self._open(exchange, user, *await self._entrance(exchange, user, workspace_id), how=how)

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

    async def _follow_host(self, exchange: Exchange, refresh_token: str) -> None:
        """At the address of a workspace, a session acts in that one. Raises Refused 403 for one who is no member."""
        place = await self._services.hosts.of(exchange)
        session = await self._services.sessions.find(refresh_token) if place is not None else None
        if place is None or session is None or session.workspace_id == place.workspace_id:
            return
        user = await self._services.users.get(session.tenant_id, session.user_id)
        if user is not None:
            await self._choose(user, place.workspace_id)
            await self._services.sessions.switch(session.tenant_id, session.session_id, place.workspace_id)

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

    async def _entrance(
        self, exchange: Exchange, user: User, workspace_id: UUID | None
    ) -> tuple[Tenant, Workspace, Role]:
        tenant = await self._active_tenant(user.tenant_id)
        if tenant is None:
            raise Refused(403, "tenant_not_active", "Your organisation's access is suspended.")
        place = await self._services.hosts.of(exchange)
        if place is not None:
            if workspace_id not in (None, place.workspace_id):
                raise Refused(403, "other_workspace", "This address is for another workspace.")
            workspace_id = place.workspace_id
        return tenant, *await self._choose(user, workspace_id)

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
        self, exchange: Exchange, user: User, tenant: Tenant, workspace: Workspace, role: Role, *, how: str
    ) -> SignedIn:
        opened = await self._services.sessions.open(
            user.tenant_id, user.user_id, workspace.workspace_id, *_origin(exchange)
        )
        details = {"sessionId": opened.session_id, "workspaceId": workspace.workspace_id, "by": how}
        async with self._services.database.tenant(user.tenant_id) as scope:
            await record_own(self._services, exchange, scope, user.user_id, "session.open", details)
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
            session.session_id,
            access_token=self._services.tokens.issue(identity, session.session_id),
            access_ttl_s=self._services.settings.auth.access_token_ttl_s,
            refresh_token=session.refresh_token,
            refresh_expires_at=session.expires_at,
        )

    async def _unless_changed(self, signed_in: SignedIn, before: Credentials | None) -> SignedIn | None:
        """None, and no session, when the credentials that opened it are no longer those of the account.

        A password is checked for a while. Whoever changes it meanwhile ends all sessions that there are then; this one
        came after that, and is seen here.
        """
        user = signed_in.user
        async with self._services.database.tenant(user.tenant_id) as scope:
            if await self._services.users.credentials(scope, user.user_id) == before:
                return signed_in
        await self._services.sessions.revoke(user.tenant_id, signed_in.session_id)
        return None

    async def _audit_reuse(self, exchange: Exchange, reused: ReusedToken) -> None:
        async with self._services.database.tenant(reused.tenant_id) as scope:
            target = str(reused.session_id)
            await record_event(self._services, exchange, scope, target, "session.reuse", {})


def ticket_over() -> Refused:
    """The ticket is used, too old, or not this client's."""
    return Refused(401, "ticket_over", "This sign-in has expired. Enter your password again.")


def _agent(exchange: Exchange) -> str:
    return "agent " + exchange.request.headers.get("User-Agent", "")


def _origin(exchange: Exchange) -> tuple[str | None, str | None]:
    """Where a session is used from: address and User-Agent."""
    return exchange.request.client_ip or None, exchange.request.headers.get("User-Agent")
