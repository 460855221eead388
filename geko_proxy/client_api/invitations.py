"""/v1/invitations/{token}: what an invitation offers, and accepting it, with an account or without one yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from aiohttp import web
from msgspec import Meta

from geko_proxy.accounts.joining import NotInvited, NotOpen, Origin, OtherAddress, OtherTenant
from geko_proxy.accounts.registration import EmailTaken, InvalidRegistration
from geko_proxy.accounts.tokens import Identity
from geko_proxy.client_api.auth import tokens_shape
from geko_proxy.client_api.cookies import RefreshCookies
from geko_proxy.client_api.pages import INVITATION_PAGE, page_reply, wants_page
from geko_proxy.client_api.shapes import PlaceShape, Shape
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.workspaces.invitations import State
from geko_proxy.workspaces.roles import Role

if TYPE_CHECKING:
    from geko_proxy.services import Services

Text = Annotated[str, Meta(min_length=1, max_length=1024)]

GONE = {
    State.EXPIRED: "This invitation has expired. Ask for a new one.",
    State.USED: "This invitation has been used. Ask for a new one.",
    State.REVOKED: "This invitation was taken back.",
}


class AcceptBody(Body, frozen=True):
    """POST /v1/invitations/{token}/accept. Empty when signed in; else the new account's name and password.

    email: may be left out where the invitation is for one address.
    """

    email: Text | None = None
    name: Text | None = None
    password: Text | None = None


class OfferReply(Shape, frozen=True):
    """What an invitation offers. email: whom it is for; null: whoever has the link."""

    tenant: str
    workspace: str
    invited_by: str
    role: Role
    email: str | None
    expires_at: datetime


class AcceptedReply(Shape, frozen=True):
    """Where the caller is a member now. joined: false for one who was a member before; the role is then as it was."""

    workspace: PlaceShape
    role: Role
    joined: bool


class Invited:
    """The endpoints."""

    def __init__(self, services: Services, sign_ins: SignIns) -> None:
        self._services = services
        self._sign_ins = sign_ins
        self._cookies = RefreshCookies(services.settings.server)

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """What the invitation offers: 404 for an unknown one, 410 for one that can't be used any more.

        Somebody who opens the link in a browser gets a page that shows the same and accepts.
        """
        if wants_page(exchange):
            return page_reply(INVITATION_PAGE)
        with in_words():
            offer = await self._services.invitations.find(exchange.params["token"])
            if offer is None:
                raise NotInvited
            if offer.state is not State.OPEN:
                raise NotOpen(offer.state)
        shape = OfferReply(
            tenant=offer.tenant,
            workspace=offer.workspace,
            invited_by=offer.inviter,
            role=offer.invitation.role,
            email=offer.invitation.email,
            expires_at=offer.invitation.expires_at,
        )
        return Reply.of_json(200, shape, {"Cache-Control": "no-store", "Vary": "Accept"})

    async def accept(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Join: 200 for somebody who is signed in, 201 and tokens for a new account.

        Accounts belong to one organisation: somebody of another one is refused (403).
        """
        identity = await self._sign_ins.caller(exchange)
        empty = not await exchange.request.read()
        body = AcceptBody() if empty else parse(AcceptBody, await exchange.request.json())
        await self._require_host(exchange)
        with in_words():
            if identity is not None:
                return await self._join(exchange, identity, body)
            return await self._register(exchange, body)

    async def _require_host(self, exchange: Exchange) -> None:
        """Raises Refused 403 at the address of another workspace, before there is an account."""
        offer = await self._services.invitations.find(exchange.params["token"])
        if offer is not None:
            await self._services.hosts.require(exchange, offer.invitation.workspace_id)

    async def _join(self, exchange: Exchange, identity: Identity, body: AcceptBody) -> Reply:
        given = {name: getattr(body, name) for name in ("email", "name", "password")}
        if problems := {name: "You have an account." for name, value in given.items() if value is not None}:
            raise invalid(problems)
        joined = await self._services.joining.accept(
            exchange.params["token"], identity.tenant_id, identity.user_id, origin_of(exchange)
        )
        place = joined.offer.invitation
        role = await self._services.members.role(place.tenant_id, place.workspace_id, identity.user_id)
        shape = AcceptedReply(
            workspace=PlaceShape(id=place.workspace_id, name=joined.offer.workspace),
            role=role or place.role,
            joined=joined.new,
        )
        return Reply.of_json(200, shape, {"Cache-Control": "no-store"})

    async def _register(self, exchange: Exchange, body: AcceptBody) -> Reply:
        if missing := [name for name in ("name", "password") if getattr(body, name) is None]:
            raise invalid(dict.fromkeys(missing, "Required, unless you are signed in."))
        await self._sign_ins.begin_registration(exchange)
        user, offer = await self._services.joining.register(
            exchange.params["token"],
            email=body.email,
            password=body.password or "",
            name=body.name or "",
            origin=origin_of(exchange),
        )
        signed_in = await self._sign_ins.by_user(
            exchange, user, offer.invitation.workspace_id, how="invitation"
        )
        reply = Reply.of_json(201, tokens_shape(signed_in, with_refresh_token=True))
        self._cookies.set(exchange, reply, signed_in.refresh_token, signed_in.refresh_expires_at)
        return reply


@contextmanager
def in_words() -> Iterator[None]:
    """What joining refuses, as replies."""
    try:
        yield
    except NotInvited:
        raise Refused(404, "invitation_not_found", "There is no such invitation.") from None
    except NotOpen as error:
        raise Refused(410, f"invitation_{error.state}", GONE[error.state]) from None
    except OtherAddress:
        text = "This invitation is for another e-mail address."
        raise Refused(403, "invitation_for_other_address", text) from None
    except OtherTenant:
        text = (
            "Your account belongs to another organisation. Sign out and accept with another e-mail address."
        )
        raise Refused(403, "other_tenant", text) from None
    except EmailTaken:
        text = "This e-mail address has an account. Sign in, then accept the invitation."
        raise Refused(409, "email_taken", text) from None
    except InvalidRegistration as error:
        raise invalid({field: " ".join(texts) for field, texts in error.problems.items()}) from None


def origin_of(exchange: Exchange) -> Origin:
    """Where the request comes from."""
    return Origin(exchange.request.client_ip or None, exchange.id)
