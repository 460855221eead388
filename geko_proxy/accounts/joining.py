"""Joining a workspace of a tenant that is there already: by an invitation, or by a verified address of its domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from geko_proxy.accounts.emails import normalise_email
from geko_proxy.accounts.password_policy import MIN_LENGTH
from geko_proxy.accounts.registration import EmailTaken, NewUser, check_fields, insert_user, prepare
from geko_proxy.accounts.users import User
from geko_proxy.errors import GekoError
from geko_proxy.storage.database import Database, Scope
from geko_proxy.workspaces import auto_join, members
from geko_proxy.workspaces.audit import Audit
from geko_proxy.workspaces.auto_join import AutoJoin, AutoJoinStore
from geko_proxy.workspaces.invitations import Invitation, InvitationStore, Offer, State, tenant_of
from geko_proxy.workspaces.members import MemberStore

VERIFY: Final = """
update users set email_verified_at = coalesce(email_verified_at, now()) where tenant_id = $1 and user_id = $2"""
ADDRESS: Final = """
select email from users where tenant_id = $1 and user_id = $2 and disabled_at is null"""
VERIFIED_ADDRESS: Final = f"{ADDRESS} and email_verified_at is not null"


class NotInvited(GekoError):
    """The token is of no invitation."""


class NotOpen(GekoError):
    """The invitation can't be used any more. state: why."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the invitation is {state}")
        self.state = state


class OtherTenant(GekoError):
    """The invitation is of another tenant than the account."""


class OtherAddress(GekoError):
    """The invitation is for another e-mail address."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from, for the audit log."""

    ip: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Joined:
    """A place taken. new: False for somebody who was a member already, in whatever role."""

    offer: Offer
    new: bool


class Joining:
    """Lets people into workspaces, each in one transaction that also writes the audit log.

    min_password: shortest password of a new account.
    """

    def __init__(
        self,
        database: Database,
        members: MemberStore,
        invitations: InvitationStore,
        auto_joins: AutoJoinStore,
        audit: Audit,
        *,
        min_password: int = MIN_LENGTH,
    ) -> None:
        self._min_password = min_password
        self._database = database
        self._members = members
        self._invitations = invitations
        self._auto_joins = auto_joins
        self._audit = audit

    async def accept(self, token: str, tenant_id: UUID, user_id: UUID, origin: Origin) -> Joined:
        """A user joins by an invitation. Raises NotInvited, NotOpen, OtherTenant, OtherAddress."""
        found = await self._invitations.find(token)
        if found is None:
            raise NotInvited
        if found.invitation.tenant_id != tenant_id:
            raise OtherTenant
        async with self._database.tenant(tenant_id) as scope:
            offer = await self._open_offer(scope, token)
            address = await scope.fetch_value(ADDRESS, user_id)
            if offer.invitation.email not in (None, address):
                raise OtherAddress
            new = await self._take(scope, offer, user_id, origin)
        self._members.forget(tenant_id, offer.invitation.workspace_id, user_id)
        return Joined(offer, new)

    async def register(
        self, token: str, *, email: str | None, password: str, name: str, origin: Origin
    ) -> tuple[User, Offer]:
        """Somebody new gets an account by an invitation. email: may be left out where the invitation names one.

        Raises NotInvited, NotOpen, OtherAddress, InvalidRegistration, EmailTaken.
        """
        found = await self._invitations.find(token)
        if found is None:
            raise NotInvited
        if found.state is not State.OPEN:  # before the slow hash
            raise NotOpen(found.state)
        given = found.invitation.email if email is None else email
        check_fields(given or "", password, name, min_password=self._min_password)
        if found.invitation.email not in (None, normalise_email(given or "")):
            raise OtherAddress
        new = await prepare(given or "", password, name, None)
        tenant_id = tenant_of(token)
        assert tenant_id is not None
        try:
            async with self._database.tenant(tenant_id) as scope:
                offer = await self._open_offer(scope, token)
                user = await insert_user(scope, new)
                await self._take(scope, offer, user.user_id, origin)
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken(new.email) from error
        return user, offer

    async def register_verified(
        self, *, email: str, name: str, username: str | None, password_hash: str | None, origin: Origin
    ) -> User | None:
        """An account for somebody new whose address is VERIFIED, in the tenant that has its domain.

        None where no tenant has: register with a tenant of its own then. The caller has checked the fields and
        proven the address (OAuth with a verified e-mail, or a link sent to it). Raises EmailTaken.
        """
        address = normalise_email(email)
        tenant_id = await self._auto_joins.find_tenant(address) if address is not None else None
        if address is None or tenant_id is None:
            return None
        try:
            async with self._database.tenant(tenant_id) as scope:
                setting = await auto_join.read(scope)
                if setting is None or auto_join.domain_of(address) not in setting.domains:
                    return None
                user = await insert_user(scope, NewUser(address, name.strip(), username, password_hash))
                await scope.execute(VERIFY, user.user_id)
                await self._auto_join(scope, setting, user.user_id, origin)
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken(address) from error
        return user

    async def after_verification(self, tenant_id: UUID, user_id: UUID, origin: Origin) -> bool:
        """Call when a user's address has been verified: joins the workspace that its tenant has for the domain.

        Nobody is moved out of another tenant: an account belongs to one.
        """
        async with self._database.tenant(tenant_id) as scope:
            return await self._after_verification(scope, user_id, origin)

    async def _open_offer(self, scope: Scope, token: str) -> Offer:
        offer = await self._invitations.lock(scope, token)
        if offer is None:
            raise NotInvited
        if offer.state is not State.OPEN:
            raise NotOpen(offer.state)
        return offer

    async def _take(self, scope: Scope, offer: Offer, user_id: UUID, origin: Origin) -> bool:
        new = await self._use(scope, offer.invitation, user_id, origin)
        if offer.invitation.mailed:  # whoever has the link reads that mailbox
            await scope.execute(VERIFY, user_id)
            await self._after_verification(scope, user_id, origin)
        return new

    async def _use(self, scope: Scope, invitation: Invitation, user_id: UUID, origin: Origin) -> bool:
        if not await self._invitations.use(scope, invitation, user_id):
            return False
        await self._members.announce(scope, invitation.workspace_id, user_id)
        details = {
            "invitationId": invitation.invitation_id,
            "role": invitation.role,
            "by": invitation.invited_by,
        }
        await self._record(scope, user_id, "invitation.accept", invitation.workspace_id, details, origin)
        return True

    async def _after_verification(self, scope: Scope, user_id: UUID, origin: Origin) -> bool:
        setting = await auto_join.read(scope)
        address = await scope.fetch_value(VERIFIED_ADDRESS, user_id)
        if setting is None or address is None or auto_join.domain_of(address) not in setting.domains:
            return False
        return await self._auto_join(scope, setting, user_id, origin)

    async def _auto_join(self, scope: Scope, setting: AutoJoin, user_id: UUID, origin: Origin) -> bool:
        tag = await scope.execute(members.INSERT_IF_ABSENT, setting.workspace_id, user_id, setting.role.value)
        if tag != "INSERT 0 1":
            return False
        await self._members.announce(scope, setting.workspace_id, user_id)
        await self._record(
            scope, user_id, "member.auto_join", setting.workspace_id, {"role": setting.role}, origin
        )
        return True

    async def _record(
        self,
        scope: Scope,
        user_id: UUID,
        action: str,
        workspace_id: UUID,
        details: Mapping[str, Any],
        origin: Origin,
    ) -> None:
        await self._audit.record(
            scope,
            actor_user_id=user_id,
            action=action,
            target=f"workspace/{workspace_id}",
            ip=origin.ip,
            request_id=origin.request_id,
            details={"userId": user_id, **details},
        )
