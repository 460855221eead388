"""/v1/api-keys: a person's own API keys. /v1/workspaces/{workspaceId}/api-keys: all keys of a workspace, for admins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from geko_proxy.accounts.api_keys import MAX_KEYS, KeyRecord, KeyScope, KeyTerms, TooManyKeys
from geko_proxy.admin_api.access import enter, read_uuid
from geko_proxy.client_api.password_changes import notify
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.mail import link_base
from geko_proxy.metering.windows import month_window
from geko_proxy.policy.key_access import PERMISSIONS
from geko_proxy.storage.database import Scope
from geko_proxy.workspaces.config import WorkspaceConfig, find_problems, is_name
from geko_proxy.workspaces.members import Member
from geko_proxy.workspaces.roles import Permission, Role, allowed

if TYPE_CHECKING:
    from geko_proxy.services import Services

Name = Annotated[str, Meta(min_length=1, max_length=120)]
Scopes = Annotated[tuple[KeyScope, ...], Meta(min_length=1, max_length=20)]
Models = tuple[str, ...] | None
Limit = Annotated[int, Meta(ge=0, le=10**18)] | None
Moment = Annotated[datetime, Meta(tz=True)] | None

MADE_SUBJECT: Final = "A new API key"
MADE_TEXT: Final = """Hello {name},

an API key "{key}" was made with the account of {email}. It works until {until}.

If it was not you, delete it, and set a new password at once: {link}
"""

NO_STORE: Final = {"Cache-Control": "no-store"}


class NewKeyBody(Body, frozen=True):
    """POST /v1/api-keys. models: globs "Endpoint/model", null: all of the workspace's; tokenLimit: tokens a month,
    null: only the workspace's quota limits; expiresAt: null: never."""

    name: Name
    scopes: Scopes
    models: Models = None
    token_limit: Limit = None
    expires_at: Moment = None


class KeyChangeBody(Body, frozen=True):
    """PATCH /v1/api-keys/{keyId}. A field left out stays as it is."""

    name: Name | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    models: Models | UnsetType = UNSET
    token_limit: Limit | UnsetType = UNSET
    expires_at: Moment | UnsetType = UNSET


class ApiKeyEndpoints:
    """The endpoints. None of them can be called with an API key."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """201 with the new key for the caller's workspace; its text is shown this once."""
        identity = exchange.signed_in()
        body = parse(NewKeyBody, await exchange.request.json())
        terms = KeyTerms(
            body.name.strip(),
            tuple(dict.fromkeys(body.scopes)),
            body.models,
            body.token_limit,
            body.expires_at,
        )
        check_terms(terms, datetime.now(UTC), new_expiry=True)
        check_role(terms, exchange.role)
        async with self._services.database.tenant(identity.tenant_id) as scope:
            try:
                key_id, text = await self._services.api_keys.create(
                    scope, identity.workspace_id, identity.user_id, terms
                )
            except TooManyKeys:
                message = f"You have {MAX_KEYS} keys in this workspace already. Delete one first."
                raise Refused(409, "too_many_keys", message) from None
            record = await self._services.api_keys.get(scope, identity.user_id, key_id, month_of(exchange))
            await self._audit(scope, exchange, "api_key.create", key_id, terms_shape(terms))
        assert record is not None
        await self._tell_owner(exchange, terms)
        return Reply.of_json(201, {"key": text, **key_shape(record)}, NO_STORE)

    async def _tell_owner(self, exchange: Exchange, terms: KeyTerms) -> None:
        """By mail: a key outlives the session in which it was made, which somebody else may have had."""
        identity = exchange.signed_in()
        user = await self._services.users.get(identity.tenant_id, identity.user_id)
        if user is not None:
            until = f"{terms.expires_at:%Y-%m-%d}" if terms.expires_at is not None else "it is deleted"
            link = f"{link_base(self._services.settings)}/forgot-password"
            values = {"name": user.name, "email": user.email, "key": terms.name, "until": until, "link": link}
            await notify(self._services, user.email, MADE_SUBJECT, MADE_TEXT, values)

    async def list_mine(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the caller's keys in all workspaces, expired ones too, without their texts."""
        identity = exchange.signed_in()
        found = await self._services.api_keys.list_of_user(
            identity.tenant_id, identity.user_id, month_of(exchange)
        )
        return Reply.of_json(200, {"apiKeys": [key_shape(record) for record in found]}, NO_STORE)

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with one key of the caller."""
        identity = exchange.signed_in()
        async with self._services.database.tenant(identity.tenant_id) as scope:
            record = await self._own(scope, exchange)
        return Reply.of_json(200, key_shape(record), NO_STORE)

    async def change(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the changed key; a new budget also holds for answers that are running."""
        services, identity = self._services, exchange.signed_in()
        body = parse(KeyChangeBody, await exchange.request.json())
        async with services.database.tenant(identity.tenant_id) as scope:
            record = await self._own(scope, exchange, lock=True)
            terms = changed(record.terms, body)
            check_terms(terms, datetime.now(UTC), new_expiry=not isinstance(body.expires_at, UnsetType))
            role = await services.members.role(identity.tenant_id, record.workspace_id, identity.user_id)
            if not isinstance(body.scopes, UnsetType):
                check_role(terms, role)
            if not await services.api_keys.update(scope, identity.user_id, record.key_id, terms):
                raise not_found()
            await self._audit(scope, exchange, "api_key.update", record.key_id, terms_shape(terms))
        services.api_keys.forget(record.key_id)
        return Reply.of_json(200, key_shape(replace(record, terms=terms)), NO_STORE)

    async def delete(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; a key of the caller ends at once, on every instance."""
        return await self._revoke(exchange, user_id=exchange.signed_in().user_id)

    async def list_of_workspace(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with everybody's keys in the workspace, for admins."""
        services = self._services
        access = await enter(services, exchange, Permission.WRITE_SETTINGS)
        found = await services.api_keys.list_of_workspace(
            access.tenant_id, access.workspace_id, month_of(exchange)
        )
        members = {
            member.user_id: member
            for member in await services.members.list(access.tenant_id, access.workspace_id)
        }
        shapes = [{**key_shape(record), "user": owner_shape(record, members)} for record in found]
        return Reply.of_json(200, {"apiKeys": shapes}, NO_STORE)

    async def delete_of_workspace(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; anybody's key in the workspace ends at once, for admins."""
        access = await enter(self._services, exchange, Permission.WRITE_SETTINGS)
        return await self._revoke(exchange, workspace_id=access.workspace_id)

    async def _revoke(self, exchange: Exchange, **whose: UUID) -> Reply:
        services, identity = self._services, exchange.signed_in()
        key_id = read_uuid(exchange.params["keyId"])
        if key_id is None:
            raise not_found()
        async with services.database.tenant(identity.tenant_id) as scope:
            revoked = await services.api_keys.revoke(scope, key_id, **whose)
            if revoked is None:
                raise not_found()
            await self._audit(scope, exchange, "api_key.revoke", key_id, revoked)
        services.api_keys.forget(key_id)
        return Reply(204)

    async def _own(self, scope: Scope, exchange: Exchange, *, lock: bool = False) -> KeyRecord:
        key_id = read_uuid(exchange.params["keyId"])
        record = None
        if key_id is not None:
            user_id = exchange.signed_in().user_id
            month = month_of(exchange)
            record = await self._services.api_keys.get(scope, user_id, key_id, month, lock=lock)
        if record is None:
            raise not_found()
        return record

    async def _audit(
        self, scope: Scope, exchange: Exchange, action: str, key_id: UUID, details: Mapping[str, Any]
    ) -> None:
        await self._services.audit.record(
            scope,
            actor_user_id=exchange.signed_in().user_id,
            action=action,
            target=f"api_key/{key_id}",
            ip=exchange.request.client_ip,
            request_id=exchange.id,
            details=details,
        )


def month_of(exchange: Exchange) -> datetime:
    """When the current quota window of the caller's tenant began."""
    zone = exchange.tenant.time_zone if exchange.tenant is not None else "UTC"
    return month_window(datetime.now(UTC), zone).start


def check_terms(terms: KeyTerms, now: datetime, *, new_expiry: bool) -> None:
    """Raises Refused 400 naming every field that can't be. new_expiry: the expiry is to be set now."""
    problems: dict[str, str] = {}
    if not is_name(terms.name):
        problems["name"] = "Must be readable text."
    for problem in find_problems(WorkspaceConfig(models=terms.models)):
        field, _, text = problem.partition(": ")
        problems.setdefault(field, text)
    if new_expiry and terms.expires_at is not None and terms.expires_at <= now:
        problems["expiresAt"] = "Must be in the future."
    if problems:
        raise invalid(problems)


def check_role(terms: KeyTerms, role: Role | None) -> None:
    """Raises Refused 403 for a scope that would be of no use: the role does not allow it."""
    for scope in terms.scopes:
        if role is None or not allowed(role, PERMISSIONS[scope]):
            message = f"Your role in this workspace ({role or 'none'}) does not allow the scope {scope}."
            raise Refused(403, "scope_not_allowed", message)


def changed(terms: KeyTerms, body: KeyChangeBody) -> KeyTerms:
    """The terms with the fields of the body."""
    given: dict[str, Any] = {
        name: getattr(body, name)
        for name in body.__struct_fields__
        if not isinstance(getattr(body, name), UnsetType)
    }
    if "name" in given:
        given["name"] = given["name"].strip()
    if "scopes" in given:
        given["scopes"] = tuple(dict.fromkeys(given["scopes"]))
    return replace(terms, **given)


def not_found() -> Refused:
    """No such key, or somebody else's."""
    return Refused(404, "api_key_not_found", "There is no such API key.")


def terms_shape(terms: KeyTerms) -> dict[str, Any]:
    """The JSON of what the owner decided."""
    return {
        "name": terms.name,
        "scopes": terms.scopes,
        "models": terms.models,
        "tokenLimit": terms.token_limit,
        "expiresAt": terms.expires_at,
    }


def key_shape(record: KeyRecord) -> dict[str, Any]:
    """The JSON of a key, without its text. used, leased: tokens of this month."""
    return {
        "id": record.key_id,
        "workspaceId": record.workspace_id,
        **terms_shape(record.terms),
        "used": record.used,
        "leased": record.leased,
        "createdAt": record.created_at,
        "lastUsedAt": record.last_used_at,
    }


def owner_shape(record: KeyRecord, members: Mapping[UUID, Member]) -> dict[str, Any]:
    """The JSON of whose key it is; one who has left the workspace has no name any more."""
    member = members.get(record.user_id)
    return {
        "id": record.user_id,
        "email": member.email if member is not None else None,
        "name": member.name if member is not None else None,
    }
