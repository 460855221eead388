"""/v1/workspaces/{workspaceId}/members: who is in a workspace, as what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from aiohttp import web

from geko_proxy.admin_api.access import Access, entered, read_uuid, record_in
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.workspaces.members import Change, LastOwner, Member, NotMember
from geko_proxy.workspaces.roles import Permission, Role, allowed

if TYPE_CHECKING:
    from geko_proxy.services import Services


class RoleBody(Body, frozen=True):
    """PATCH …/members/{userId}."""

    role: Role


class MemberReply(Shape, frozen=True):
    """A member of a workspace. since: when the person joined it."""

    user_id: UUID
    email: str
    name: str
    role: Role
    since: datetime


class MembersReply(Shape, frozen=True):
    """All members, in the order they joined."""

    members: list[MemberReply]


class Members:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list_all(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """The members of the workspace and their roles."""
        access = entered(exchange)
        found = await self._services.members.list(access.tenant_id, access.workspace_id)
        return Reply.of_json(
            200, MembersReply(members=[member_reply(each) for each in found]), {"Cache-Control": "no-store"}
        )

    async def set_role(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Change a member's role. Only owners make owners or change them; the last owner stays one (409)."""
        access = entered(exchange)
        role = parse(RoleBody, await exchange.request.json()).role
        user_id = named_user(exchange)
        with in_words():
            async with self._services.members.changing(
                access.tenant_id, access.workspace_id, user_id, by=access.user_id
            ) as change:
                require_power(access, change, role)
                if role is not change.role:
                    await change.set_role(role)
                    details = {"userId": user_id, "from": change.role, "to": role}
                    await self._record(exchange, access, change, "member.role", details)
        return await self._shown(access, user_id)

    async def remove(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Take a member out of the workspace, or leave it oneself. Only owners remove owners; the last one stays (409).

        The person's next request is refused on every instance, and a running answer ends at its next event.
        """
        access = entered(exchange)
        user_id = named_user(exchange)
        with in_words():
            async with self._services.members.changing(
                access.tenant_id, access.workspace_id, user_id, by=access.user_id
            ) as change:
                if user_id != access.user_id:
                    require_power(access, change, None)
                await change.remove()
                action = "member.leave" if user_id == access.user_id else "member.remove"
                await self._record(exchange, access, change, action, {"userId": user_id, "role": change.role})
        return Reply(204)

    async def _record(
        self, exchange: Exchange, access: Access, change: Change, action: str, details: dict[str, Any]
    ) -> None:
        target = f"workspace/{access.workspace_id}"
        await record_in(change.scope, self._services, exchange, access.user_id, action, target, details)

    async def _shown(self, access: Access, user_id: UUID) -> Reply:
        for each in await self._services.members.list(access.tenant_id, access.workspace_id):
            if each.user_id == user_id:
                return Reply.of_json(200, member_reply(each), {"Cache-Control": "no-store"})
        raise no_member()


def require_power(access: Access, change: Change, new: Role | None) -> None:
    """Raises Refused 403 unless the caller may change this member, by the roles that are locked in the transaction.

    new: the role to give, None to remove. What the route's rule saw may be old by now.
    """
    mine = change.roles.get(access.user_id)
    touches_owner = Role.OWNER in (change.role, new)
    needed = Permission.WRITE_OWNERS if touches_owner else Permission.WRITE_SETTINGS
    if mine is None or not allowed(mine, needed):
        text = "Only owners may do this with owners." if touches_owner else "Your role does not allow this."
        raise Refused(403, "forbidden", text)


@contextmanager
def in_words() -> Iterator[None]:
    """What the store refuses, as replies."""
    try:
        yield
    except NotMember:
        raise no_member() from None
    except LastOwner:
        raise Refused(409, "last_owner", "A workspace must keep at least one owner.") from None


def named_user(exchange: Exchange) -> UUID:
    """The path's {userId}. Raises Refused 404 where it is none."""
    user_id = read_uuid(exchange.params["userId"])
    if user_id is None:
        raise no_member()
    return user_id


def no_member() -> Refused:
    """404 for somebody who is not in the workspace, whether or not there is such a person."""
    return Refused(404, "member_not_found", "There is no such member in this workspace.")


def member_reply(member: Member) -> MemberReply:
    """The JSON of a member."""
    return MemberReply(
        user_id=member.user_id, email=member.email, name=member.name, role=member.role, since=member.since
    )
