"""What /v1 answers, as far as it has types: for the API's document, which the tests hold the real answers against."""

from __future__ import annotations

from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from geko_proxy.workspaces.roles import Role


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of replies: snake_case here, camelCase in the JSON."""


class UserShape(Shape, frozen=True):
    """Somebody who signs in."""

    id: UUID
    email: str
    name: str


class TenantShape(Shape, frozen=True):
    """An organisation."""

    id: UUID
    name: str


class PlaceShape(Shape, frozen=True):
    """A workspace."""

    id: UUID
    name: str


class TokensReply(Shape, frozen=True):
    """Signed in. Times to live in seconds. refreshToken: left out where a browser keeps it as a cookie, and after a
    switch, where the one at hand goes on."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_expires_in: int
    user: UserShape
    tenant: TenantShape
    workspace: PlaceShape
    role: Role
    refresh_token: str | UnsetType = UNSET


class MeReply(Shape, frozen=True):
    """The caller. workspace, role: null for somebody who is no longer a member of the token's workspace."""

    user: UserShape
    tenant: TenantShape
    workspace: PlaceShape | None
    role: Role | None


class ErrorShape(Shape, frozen=True):
    """What went wrong. code: stable, for programs; message: for people; details: field to problem."""

    code: str
    message: str
    request_id: str
    details: dict[str, str] | UnsetType = UNSET


class ErrorReply(Shape, frozen=True):
    """Every error of /v1. The requestId stands in GEKO's log."""

    error: ErrorShape
