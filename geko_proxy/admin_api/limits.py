"""/v1/workspaces/{workspaceId}/limits: what a workspace, its members, models and keys may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from aiohttp import web

from geko_proxy.admin_api.access import Access, entered, read_uuid, record_in
from geko_proxy.admin_api.limit_bodies import (
    LimitChangeBody,
    NewLimitBody,
    Problems,
    changed,
    filled_shape,
    limit_shape,
    new_limit,
    terms_shape,
)
from geko_proxy.client_api.validation import parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.metering.limit_changes import (
    MAX_LIMITS,
    Filled,
    LimitExists,
    TooManyLimits,
    base_id,
    delete_limit,
    filled_by_member,
    filled_of,
    insert_limit,
    is_seen_by,
    is_shown,
    keys_of,
    lock_limit,
    update_limit,
)
from geko_proxy.metering.limits import EVERY_MEMBER, Hold, Limit, LimitScope, hold_of
from geko_proxy.workspaces.config import is_name
from geko_proxy.workspaces.roles import Permission

if TYPE_CHECKING:
    from geko_proxy.services import Services
    from geko_proxy.storage.database import Scope
    from geko_proxy.workspaces.tenants import Tenant

NO_STORE: Final = {"Cache-Control": "no-store"}


class Limits:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list_all(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the limits of the workspace, oldest first, each with its current window.

        Owners and admins see all; others those of the workspace and its models, their own, and those of their keys.
        """
        access = entered(exchange)
        shapes = await self._shapes(exchange, access, await self._seen(access))
        return Reply.of_json(200, {"limits": shapes}, NO_STORE)

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with one limit; for admins, one for each member comes with what each of them has used."""
        access = entered(exchange)
        limit_id = limit_id_of(exchange)
        limit = next((each for each in await self._seen(access) if each.limit_id == limit_id), None)
        if limit is None:
            raise not_found()
        (shape,) = await self._shapes(exchange, access, [limit])
        if limit.subject == EVERY_MEMBER and access.allows(Permission.READ_ALL_USAGE):
            shape["members"] = await self._members(access, limit, shape["window"]["startsAt"])
        return Reply.of_json(200, shape, NO_STORE)

    async def create(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """201 with a new limit; it starts with what was used before in its time, and holds for running answers.

        409 when the workspace has one for the same, which can be changed, or too many.
        """
        services, access = self._services, entered(exchange)
        body = parse(NewLimitBody, await exchange.request.json())
        limit, problems = new_limit(body, uuid4(), access.workspace_id, datetime.now(UTC))
        async with services.database.tenant(access.tenant_id) as scope:
            limit = replace(limit, subject=await self._checked_subject(scope, access, limit, problems))
            problems.check()
            limit = replace(limit, limit_id=base_id(access.workspace_id, limit) or limit.limit_id)
            await insert(scope, limit)
            await self._audit(scope, exchange, access, "limit.create", None, limit)
        return await self._changed(exchange, access, limit, 201)

    async def change(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the changed limit; answers that run obey it within a second or two."""
        services, access = self._services, entered(exchange)
        body = parse(LimitChangeBody, await exchange.request.json())
        async with services.database.tenant(access.tenant_id) as scope:
            before = await self._locked(scope, access, exchange)
            problems = Problems()
            after = changed(before, body, problems, datetime.now(UTC))
            problems.check()
            await update_limit(scope, after)
            await self._audit(scope, exchange, access, "limit.update", before, after)
        return await self._changed(exchange, access, after, 200)

    async def delete(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; nothing is limited by it any more. Without its own limit a workspace or key is unlimited."""
        services, access = self._services, entered(exchange)
        async with services.database.tenant(access.tenant_id) as scope:
            before = await self._locked(scope, access, exchange)
            await delete_limit(scope, before)
            await self._audit(scope, exchange, access, "limit.delete", before, None)
        services.limits.forget(access.tenant_id, access.workspace_id)
        return Reply(204)

    async def _seen(self, access: Access) -> list[Limit]:
        """The limits that the caller may see."""
        async with self._services.database.tenant(access.tenant_id) as scope:
            keys = await keys_of(scope, access.workspace_id)
        limits = await self._services.limits.list(access.tenant_id, access.workspace_id)
        everything = access.allows(Permission.READ_ALL_USAGE)
        return [
            limit
            for limit in limits
            if is_shown(limit, keys) and (everything or is_seen_by(limit, access.user_id, keys))
        ]

    async def _shapes(
        self, exchange: Exchange, access: Access, limits: Sequence[Limit]
    ) -> list[dict[str, Any]]:
        """The JSON of limits with their windows, which are opened for it: they show what was used before."""
        services, tenant, now = self._services, await self._tenant(exchange, access), datetime.now(UTC)
        holds = {limit.limit_id: own_hold(limit, access.user_id, now, tenant.time_zone) for limit in limits}
        await services.leases.open_windows(access.tenant_id, access.workspace_id, list(holds.values()))
        async with services.database.tenant(access.tenant_id) as scope:
            filled = await filled_of(scope, holds.values())
        currency = services.settings.metering.currency
        return [
            limit_shape(
                limit,
                holds[limit.limit_id],
                filled.get(limit.limit_id, Filled()),
                currency,
                tenant.time_zone,
                now,
            )
            for limit in limits
        ]

    async def _members(self, access: Access, limit: Limit, start: datetime) -> list[dict[str, Any]]:
        async with self._services.database.tenant(access.tenant_id) as scope:
            found: Mapping[UUID, Filled] = await filled_by_member(scope, limit, start)
        now = datetime.now(UTC)
        return [{"userId": user_id, **filled_shape(limit, each, now)} for user_id, each in found.items()]

    async def _tenant(self, exchange: Exchange, access: Access) -> Tenant:
        tenant = exchange.tenant or await self._services.tenants.get(access.tenant_id)
        if tenant is None:
            raise Refused(404, "workspace_not_found", "There is no such workspace.")
        return tenant

    async def _checked_subject(self, scope: Scope, access: Access, limit: Limit, problems: Problems) -> str:
        """Whom or what is limited, as it is stored; what is wrong with it goes into problems."""
        subject, problem = limit.subject, ""
        if limit.scope is LimitScope.WORKSPACE:
            problem = "Must be left out: the limit is for the whole workspace." if subject else ""
        elif limit.scope is LimitScope.MODEL:
            if not all(subject.partition("/")) or not is_name(subject):
                problem = (
                    'Must be "Endpoint/model", where * stands for any text, for example "openAI/gpt-4*".'
                )
        elif limit.scope is LimitScope.KEY:
            key_id = read_uuid(subject)
            if key_id is None or key_id not in await keys_of(scope, access.workspace_id):
                problem = "There is no such API key in this workspace."
            subject = str(key_id)
        elif subject != EVERY_MEMBER:
            user_id = read_uuid(subject)
            members = self._services.members
            if user_id is None or not await members.role(access.tenant_id, access.workspace_id, user_id):
                problem = 'Must be the user id of a member of this workspace, or "*" for each of them.'
            subject = str(user_id)
        if problem:
            problems["subject"] = problem
        return subject

    async def _locked(self, scope: Scope, access: Access, exchange: Exchange) -> Limit:
        found = await lock_limit(scope, access.workspace_id, limit_id_of(exchange))
        if found is None:
            raise not_found()
        return found

    async def _changed(self, exchange: Exchange, access: Access, limit: Limit, status: int) -> Reply:
        self._services.limits.forget(access.tenant_id, access.workspace_id)
        (shape,) = await self._shapes(exchange, access, [limit])
        return Reply.of_json(status, shape, NO_STORE)

    async def _audit(
        self,
        scope: Scope,
        exchange: Exchange,
        access: Access,
        action: str,
        before: Limit | None,
        after: Limit | None,
    ) -> None:
        limit = after or before
        assert limit is not None
        details = {
            "workspaceId": access.workspace_id,
            "before": None if before is None else terms_shape(before),
            "after": None if after is None else terms_shape(after),
        }
        target = f"limit/{limit.limit_id}"
        await record_in(scope, self._services, exchange, access.user_id, action, target, details)


async def insert(scope: Scope, limit: Limit) -> None:
    """Makes a limit. Raises Refused 409."""
    try:
        await insert_limit(scope, limit)
    except LimitExists:
        text = "There is a limit for the same, with the same period and unit, already. Change that one."
        raise Refused(409, "limit_exists", text) from None
    except TooManyLimits:
        text = f"The workspace has {MAX_LIMITS} limits already. Delete one first."
        raise Refused(409, "too_many_limits", text) from None


def own_hold(limit: Limit, caller: UUID, now: datetime, time_zone: str) -> Hold:
    """The window to show: the caller's own of a limit for each member, else the limit's only one."""
    named = limit.scope is LimitScope.MEMBER and limit.subject != EVERY_MEMBER
    return hold_of(limit, UUID(limit.subject) if named else caller, now, time_zone)


def limit_id_of(exchange: Exchange) -> UUID:
    """The limit of the path. Raises Refused 404."""
    limit_id = read_uuid(exchange.params["limitId"])
    if limit_id is None:
        raise not_found()
    return limit_id


def not_found() -> Refused:
    """There is none that the caller may see."""
    return Refused(404, "limit_not_found", "There is no such limit.")
