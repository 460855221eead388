"""The roles in a workspace and what each may do (design §6)."""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import Final
from uuid import UUID

SYSTEM_USER: Final = UUID(int=0)
"""Who makes model calls without a known account; nobody signs in as it."""


class Role(StrEnum):
    """What a user is in one workspace."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class Permission(Enum):
    """What a role may allow."""

    READ_HISTORY = auto()  # one's own conversations
    CHAT = auto()
    READ_USAGE = auto()  # one's own and the workspace's total
    READ_ALL_USAGE = auto()  # of each member
    READ_SETTINGS = auto()  # members, configuration, quota
    WRITE_SETTINGS = auto()  # the same, but not who is an owner
    WRITE_OWNERS = auto()
    DELETE_WORKSPACE = auto()
    TRANSFER_WORKSPACE = auto()
    WRITE_TENANT = auto()


VIEWER: Final = frozenset({Permission.READ_HISTORY, Permission.READ_USAGE, Permission.READ_SETTINGS})
MEMBER: Final = VIEWER | {Permission.CHAT}
ADMIN: Final = MEMBER | {Permission.READ_ALL_USAGE, Permission.WRITE_SETTINGS}
OWNER: Final = frozenset(Permission)

ALLOWED: Final = {Role.VIEWER: VIEWER, Role.MEMBER: MEMBER, Role.ADMIN: ADMIN, Role.OWNER: OWNER}


def allowed(role: Role, permission: Permission) -> bool:
    """Whether a role gives a permission."""
    return permission in ALLOWED[role]
