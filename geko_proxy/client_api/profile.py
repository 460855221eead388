"""/v1/auth/profile: name, picture, language and time zone of the caller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from geko_proxy.accounts.avatars import avatar_problem
from geko_proxy.accounts.locales import is_time_zone, normalise_language
from geko_proxy.accounts.registration import NAME_LENGTH, text_problems
from geko_proxy.accounts.users import User
from geko_proxy.client_api.own_audit import record_own
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply

if TYPE_CHECKING:
    from geko_proxy.services import Services

Text = Annotated[str, Meta(max_length=1024)]
Picture = Annotated[str, Meta(max_length=65_536)]


class ProfileBody(Body, frozen=True):
    """PATCH /v1/auth/profile. A field left out stays; null takes it away.

    avatar: an https address, or a data: URL of a PNG, JPEG, GIF or WebP image of at most 32 KiB. language: BCP 47.
    timeZone: IANA.
    """

    name: Text | UnsetType = UNSET
    avatar: Picture | UnsetType | None = UNSET
    language: Text | UnsetType | None = UNSET
    time_zone: Text | UnsetType | None = UNSET


class Profile:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the caller's profile."""
        return profile_reply(await active_user(self._services, exchange))

    async def patch(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the changed profile; 400 names every field that is wrong."""
        services, identity = self._services, exchange.signed_in()
        body = parse(ProfileBody, await exchange.request.json())
        user = await active_user(services, exchange)
        # reads the names of all time zones once: many small files
        changes = await asyncio.to_thread(checked, body)
        if not changes:
            return profile_reply(user)
        async with services.database.tenant(identity.tenant_id) as scope:
            user = await services.users.update_profile(scope, identity.user_id, changes)
            details = {"fields": sorted(changes)}
            await record_own(services, exchange, scope, identity.user_id, "profile.change", details)
        return profile_reply(user)


async def active_user(services: Services, exchange: Exchange) -> User:
    """The caller. Raises Refused 401 for an account that can't be used any more."""
    identity = exchange.signed_in()
    user = await services.users.get(identity.tenant_id, identity.user_id)
    if user is None or user.disabled_at is not None:
        raise Refused(401, "not_signed_in", "This account can't be used any more.")
    return user


def checked(body: ProfileBody) -> dict[str, str | None]:
    """The columns to change. Raises Refused 400."""
    problems: dict[str, str] = {}
    changes: dict[str, str | None] = {}
    if not isinstance(body.name, UnsetType):
        changes["name"] = body.name.strip()
        problems["name"] = " ".join(text_problems(body.name, NAME_LENGTH))
    if not isinstance(body.avatar, UnsetType):
        changes["avatar"] = body.avatar
        problems["avatar"] = (body.avatar is not None and avatar_problem(body.avatar)) or ""
    if not isinstance(body.language, UnsetType):
        changes["language"] = None if body.language is None else normalise_language(body.language)
        if changes["language"] is None and body.language is not None:
            problems["language"] = "Must be a language tag, such as en or pt-BR."
    if not isinstance(body.time_zone, UnsetType):
        changes["time_zone"] = body.time_zone
        if body.time_zone is not None and not is_time_zone(body.time_zone):
            problems["timeZone"] = "Must be a time zone, such as Europe/Berlin."
    if found := {field: problem for field, problem in problems.items() if problem}:
        raise invalid(found)
    return changes


def profile_reply(user: User) -> Reply:
    """200 with a profile."""
    return Reply.of_json(200, profile_shape(user), {"Cache-Control": "no-store"})


def profile_shape(user: User) -> dict[str, Any]:
    """The JSON of a profile."""
    return {
        "id": user.user_id,
        "email": user.email,
        "emailVerified": user.email_verified_at is not None,
        "name": user.name,
        "username": user.username,
        "avatar": user.avatar,
        "language": user.language,
        "timeZone": user.time_zone,
        "createdAt": user.created_at,
    }
