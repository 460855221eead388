"""What a route asks of its caller: declared beside each route, enforced before the endpoint, shown in the API.

LibreChat's own routes follow one rule instead: `needed_in_librechat`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from geko_proxy.workspaces.roles import Permission, Role, allowed

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
READING_OPERATIONS: Final = frozenset(
    {"context_projection", "user/terms/accept"}
)  # POSTs that open the client


class Place(StrEnum):
    """Where a caller must have the permission."""

    NOWHERE = "public"  # nobody need be signed in
    ANYWHERE = "signed_in"  # no permission is asked for
    TOKEN = "token_workspace"  # noqa: S105  # in the workspace that the access token is for
    PATH = "workspace"  # in the workspace that the path names
    TENANT = "tenant"  # in any workspace of the tenant: the owner of one may set up the tenant


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Who may call an endpoint. or_self: a member whom the path names by {userId} needs no permission."""

    place: Place
    permission: Permission | None = None
    or_self: bool = False

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that are enough, the least one first; empty where no role is asked for."""
        if self.permission is None:
            return ()
        return tuple(role for role in reversed(Role) if allowed(role, self.permission))

    def describe(self) -> str:
        """The rule for people."""
        if self.place is Place.NOWHERE:
            return "Anybody."
        if self.permission is None:
            return "Everybody who is signed in."
        where = {
            Place.TOKEN: "in the token's workspace",
            Place.PATH: "in the path's workspace",
            Place.TENANT: "in any workspace of the tenant",
        }[self.place]
        text = f"{', '.join(role.value for role in self.roles)} {where}"
        return f"{text}; every member for oneself." if self.or_self else f"{text}."


PUBLIC: Final = AccessRule(Place.NOWHERE)
SIGNED_IN: Final = AccessRule(Place.ANYWHERE)


def in_workspace(permission: Permission, *, or_self: bool = False) -> AccessRule:
    """Callers whose role in the path's workspace gives a permission."""
    return AccessRule(Place.PATH, permission, or_self)


def in_own_workspace(permission: Permission) -> AccessRule:
    """Callers whose role in the workspace of their token gives a permission."""
    return AccessRule(Place.TOKEN, permission)


def in_tenant(permission: Permission) -> AccessRule:
    """Callers whose role in any workspace of their tenant gives a permission."""
    return AccessRule(Place.TENANT, permission)


def needed_in_librechat(method: str, operation: str) -> Permission:
    """What LibreChat's own routes ask for: a viewer reads the own history and changes nothing."""
    if method in READING or operation in READING_OPERATIONS:
        return Permission.READ_HISTORY
    return Permission.CHAT
