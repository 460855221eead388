"""/v1/tenant: the organisation's name, and the time zone in which its days, weeks and months begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from geko_proxy.accounts.locales import is_time_zone
from geko_proxy.accounts.registration import TENANT_NAME_LENGTH, text_problems
from geko_proxy.admin_api.access import record_in
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.workspaces.tenants import Tenant

if TYPE_CHECKING:
    from geko_proxy.services import Services

NO_STORE: Final = {"Cache-Control": "no-store"}


class TenantChangeBody(Body, frozen=True):
    """PATCH /v1/tenant. A field left out stays as it is. timeZone: an IANA name such as "Europe/Berlin"."""

    name: Annotated[str, Meta(min_length=1, max_length=120)] | UnsetType = UNSET
    time_zone: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET


class TenantReply(Shape, frozen=True):
    """An organisation. timeZone: where its days, weeks and months begin."""

    id: UUID
    name: str
    time_zone: str


class Tenants:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the caller's organisation."""
        tenant = await self._services.tenants.get(exchange.signed_in().tenant_id)
        if tenant is None:
            raise Refused(404, "tenant_not_found", "There is no such organisation.")
        return Reply.of_json(200, tenant_shape(tenant), NO_STORE)

    async def change(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the changed organisation.

        In another time zone the current windows of all limits begin and end at its midnights, with what was used
        since then; answers that run count in the old windows and in the new.
        """
        services, identity = self._services, exchange.signed_in()
        body = parse(TenantChangeBody, await exchange.request.json())
        check(body)
        async with services.database.tenant(identity.tenant_id) as scope:
            before = await services.tenants.lock(scope)
            if before is None:
                raise Refused(404, "tenant_not_found", "There is no such organisation.")
            name = before.name if isinstance(body.name, UnsetType) else body.name.strip()
            time_zone = before.time_zone if isinstance(body.time_zone, UnsetType) else body.time_zone
            after = Tenant(before.tenant_id, name, time_zone, before.status)
            await services.tenants.update(scope, after)
            details = {"before": tenant_shape(before), "after": tenant_shape(after)}
            target = f"tenant/{before.tenant_id}"
            await record_in(scope, services, exchange, identity.user_id, "tenant.update", target, details)
        services.tenants.forget(identity.tenant_id)
        return Reply.of_json(200, tenant_shape(after), NO_STORE)


def check(body: TenantChangeBody) -> None:
    """Raises Refused 400 naming every field that can't be."""
    problems: dict[str, str] = {}
    if not isinstance(body.name, UnsetType) and (found := text_problems(body.name, TENANT_NAME_LENGTH)):
        problems["name"] = " ".join(found)
    if not isinstance(body.time_zone, UnsetType) and not is_time_zone(body.time_zone):
        problems["timeZone"] = 'Must be a time zone by its IANA name, such as "Europe/Berlin".'
    if problems:
        raise invalid(problems)


def tenant_shape(tenant: Tenant) -> dict[str, Any]:
    """The JSON of an organisation."""
    return {"id": tenant.tenant_id, "name": tenant.name, "timeZone": tenant.time_zone}
