"""/v1/workspaces/{workspaceId}/invitations: invite people, see who is invited, take invitations back."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from geko_proxy.accounts.emails import normalise_email
from geko_proxy.admin_api.access import Access, entered, read_uuid, record_in
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.mail import MailError
from geko_proxy.workspaces.invitations import Invitation, TooMany, may_invite
from geko_proxy.workspaces.members import ROLE
from geko_proxy.workspaces.roles import Role

if TYPE_CHECKING:
    from geko_proxy.services import Services
    from geko_proxy.storage.database import Scope

log = logging.getLogger("geko.invitations")


class InviteBody(Body, frozen=True):
    """POST …/invitations. email: who is invited; left out: whoever has the link. maxUses: only without an e-mail."""

    role: Role
    email: Annotated[str, Meta(min_length=3, max_length=254)] | None = None
    expires_in_days: Annotated[int, Meta(ge=1, le=90)] = 7
    max_uses: Annotated[int, Meta(ge=1, le=1000)] = 1


class InvitationReply(Shape, frozen=True):
    """An invitation. link: shown once, to hand over; left out where it was mailed, and ever after."""

    id: UUID
    role: Role
    email: str | None
    mailed: bool
    max_uses: int
    uses: int
    invited_by: UUID
    created_at: datetime
    expires_at: datetime
    link: str | UnsetType = UNSET


class InvitationsReply(Shape, frozen=True):
    """The invitations that can still be used, the newest first."""

    invitations: list[InvitationReply]


class Invitations:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Invite somebody, in a role not above one's own.

        With an e-mail, and where GEKO sends mail, the link goes to that address alone; else it is in the reply.
        """
        access = entered(exchange)
        body = parse(InviteBody, await exchange.request.json())
        email = checked_email(body)
        link_base = self._services.settings.server.public_url
        # a mailed link is never made from the Host header, which a client chooses
        mailed = email is not None and self._services.mailer is not None and bool(link_base)
        async with self._services.database.tenant(access.tenant_id) as scope:
            invitation, token = await self._create(scope, exchange, access, body, email, mailed)
        link = f"{link_base or origin_of(exchange, request)}/v1/invitations/{token}"
        if mailed:
            await self._mail(exchange, access, invitation, link)
        shape = invitation_reply(invitation, None if mailed else link)
        return Reply.of_json(201, shape, {"Cache-Control": "no-store"})

    async def list_open(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """The workspace's invitations that can still be used."""
        access = entered(exchange)
        found = await self._services.invitations.list(access.tenant_id, access.workspace_id)
        shape = InvitationsReply(invitations=[invitation_reply(each) for each in found])
        return Reply.of_json(200, shape, {"Cache-Control": "no-store"})

    async def revoke(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Take an invitation back; its link ends at once. Members who came by it stay."""
        access = entered(exchange)
        invitation_id = read_uuid(exchange.params["invitationId"])
        async with self._services.database.tenant(access.tenant_id) as scope:
            if invitation_id is None or not await self._revoke(scope, exchange, access, invitation_id):
                raise Refused(404, "invitation_not_found", "There is no such invitation.")
        return Reply(204)

    async def _create(
        self,
        scope: Scope,
        exchange: Exchange,
        access: Access,
        body: InviteBody,
        email: str | None,
        mailed: bool,
    ) -> tuple[Invitation, str]:
        mine = await scope.fetch_value(ROLE, access.workspace_id, access.user_id)  # a cached one may be old
        if not may_invite(Role(mine) if mine is not None else None, body.role):
            raise Refused(403, "forbidden", f"Your role does not allow to invite somebody as {body.role}.")
        try:
            invitation, token = await self._services.invitations.create(
                scope,
                access.workspace_id,
                role=body.role,
                invited_by=access.user_id,
                life=timedelta(days=body.expires_in_days),
                email=email,
                mailed=mailed,
                max_uses=body.max_uses,
            )
        except TooMany as error:
            raise too_many(error) from None
        details = {"role": body.role, "email": email, "mailed": mailed, "maxUses": body.max_uses}
        await self._record(scope, exchange, access, "invitation.create", invitation.invitation_id, details)
        return invitation, token

    async def _mail(self, exchange: Exchange, access: Access, invitation: Invitation, link: str) -> None:
        mailer = self._services.mailer
        offer = await self._services.invitations.find(link.rpartition("/")[2])
        assert mailer is not None
        assert offer is not None
        assert invitation.email is not None
        subject = f"{offer.inviter[:80]} invites you to {offer.workspace[:80]}"
        text = mail_text(offer.inviter, offer.workspace, offer.tenant, invitation, link)
        try:
            await mailer.send(invitation.email, subject, text)
        except MailError as error:
            log.warning("%s: an invitation was not mailed: %s", exchange.id, error)
            async with self._services.database.tenant(access.tenant_id) as scope:
                await self._revoke(scope, exchange, access, invitation.invitation_id)
            text = "The mail server did not take the invitation. Try again later."
            raise Refused(502, "mail_failed", text) from None

    async def _revoke(
        self, scope: Scope, exchange: Exchange, access: Access, invitation_id: UUID
    ) -> Invitation | None:
        revoked = await self._services.invitations.revoke(scope, access.workspace_id, invitation_id)
        if revoked is not None:
            await self._record(scope, exchange, access, "invitation.revoke", invitation_id, {})
        return revoked

    async def _record(
        self,
        scope: Scope,
        exchange: Exchange,
        access: Access,
        action: str,
        invitation_id: UUID,
        details: dict[str, Any],
    ) -> None:
        target = f"workspace/{access.workspace_id}"
        details = {"invitationId": invitation_id, **details}
        await record_in(scope, self._services, exchange, access.user_id, action, target, details)


def checked_email(body: InviteBody) -> str | None:
    """The address that is invited. Raises Refused 400 for none, and for several uses by one address."""
    if body.email is None:
        return None
    email = normalise_email(body.email)
    if email is None:
        raise invalid({"email": "Not a valid e-mail address."})
    if body.max_uses != 1:
        raise invalid({"maxUses": "Must be 1 with an e-mail address."})
    return email


def too_many(error: TooMany) -> Refused:
    """The limits of invitations as replies."""
    if error.mailed:
        text = "Your organisation has mailed too many invitations within an hour."
        return Refused(429, "too_many_invitations", text, retry_after_s=3600)
    return Refused(409, "too_many_invitations", "Too many invitations are open. Take some of them back.")


def origin_of(exchange: Exchange, request: web.BaseRequest) -> str:
    """GEKO's address as the caller wrote it; only for replies to that caller."""
    return f"{'https' if exchange.request.secure else 'http'}://{request.host}"


def mail_text(inviter: str, workspace: str, tenant: str, invitation: Invitation, link: str) -> str:
    """What is mailed."""
    until = f"{invitation.expires_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"{inviter} invites you to the workspace {workspace} of {tenant}, as {invitation.role}.\n\n"
        f"Open this link to accept. It works once, until {until}:\n\n{link}\n\n"
        "If you do not know what this is about, ignore this mail: nothing will happen.\n"
    )


def invitation_reply(invitation: Invitation, link: str | None = None) -> InvitationReply:
    """The JSON of an invitation."""
    return InvitationReply(
        id=invitation.invitation_id,
        role=invitation.role,
        email=invitation.email,
        mailed=invitation.mailed,
        max_uses=invitation.max_uses,
        uses=invitation.uses,
        invited_by=invitation.invited_by,
        created_at=invitation.created_at,
        expires_at=invitation.expires_at,
        link=UNSET if link is None else link,
    )
