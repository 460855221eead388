"""The members of a workspace and their roles."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from geko_proxy.errors import GekoError
from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database, Scope
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces.roles import Role

TOPIC: Final = "role"

ROLE: Final = """
select m.role
from workspace_members m
join workspaces w on w.tenant_id = m.tenant_id and w.workspace_id = m.workspace_id
where m.tenant_id = $1 and m.workspace_id = $2 and m.user_id = $3 and w.archived_at is null"""

LIST: Final = """
select m.user_id, u.email, u.name, m.role, m.created_at
from workspace_members m
join users u on u.tenant_id = m.tenant_id and u.user_id = m.user_id
where m.tenant_id = $1 and m.workspace_id = $2
order by m.created_at, m.user_id"""

INSERT: Final = """
insert into workspace_members (tenant_id, workspace_id, user_id, role) values ($1, $2, $3, $4)"""

INSERT_IF_ABSENT: Final = f"{INSERT} on conflict do nothing"

SET_ROLE: Final = """
update workspace_members set role = $4 where tenant_id = $1 and workspace_id = $2 and user_id = $3"""

DELETE: Final = """
delete from workspace_members where tenant_id = $1 and workspace_id = $2 and user_id = $3"""

# Locked in one order, so that two owners who demote each other at once can't leave none.
LOCK_OWNERS: Final = """
select user_id from workspace_members
where tenant_id = $1 and workspace_id = $2 and role = 'owner'
order by user_id for update"""


class LastOwner(GekoError):
    """A workspace must keep at least one owner."""


class NotMember(GekoError):
    """The user is no member of the workspace."""


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a workspace. since: when the user joined it."""

    user_id: UUID
    email: str
    name: str
    role: Role
    since: datetime


class MemberStore:
    """SQL for members; a role is cached for ttl_s seconds, or until a write on any instance.

    Every method raises StoreError when the database is gone.
    """

    def __init__(
        self, database: Database, invalidation: Invalidation | None = None, ttl_s: float = 900
    ) -> None:
        self._database = database
        self._invalidation = invalidation
        self._roles: Cache[Role | None] = Cache(TOPIC, ttl_s=ttl_s, invalidation=invalidation)

    @property
    def generation(self) -> int | None:
        """Changes with each change anywhere; None while changes can't be heard."""
        return self._roles.generation

    async def role(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> Role | None:
        """The user's role; None for one who is no member, and for everybody in an archived workspace."""
        key = cache_key(tenant_id, workspace_id, user_id)
        return await self._roles.get(key, lambda: self._load_role(tenant_id, workspace_id, user_id))

    async def list(self, tenant_id: UUID, workspace_id: UUID) -> list[Member]:
        """All members, in the order they joined."""
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LIST, workspace_id)
        return [Member(r["user_id"], r["email"], r["name"], Role(r["role"]), r["created_at"]) for r in rows]

    async def add(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID, role: Role) -> bool:
        """Makes a user of the tenant a member; False when the user is one already (the role then stays)."""
        async with self._database.tenant(tenant_id) as scope:
            tag = await scope.execute(INSERT_IF_ABSENT, workspace_id, user_id, role.value)
            await self._announce(scope, workspace_id, user_id)
        self._roles.drop(cache_key(tenant_id, workspace_id, user_id))
        return tag == "INSERT 0 1"

    async def set_role(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID, role: Role) -> None:
        """Changes a member's role. Raises LastOwner, NotMember."""
        async with self._database.tenant(tenant_id) as scope:
            if role is not Role.OWNER:
                await keep_an_owner(scope, workspace_id, user_id)
            if await scope.execute(SET_ROLE, workspace_id, user_id, role.value) != "UPDATE 1":
                raise NotMember(str(user_id))
            await self._announce(scope, workspace_id, user_id)
        self._roles.drop(cache_key(tenant_id, workspace_id, user_id))

    async def remove(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> None:
        """Ends a membership. Raises LastOwner, NotMember."""
        async with self._database.tenant(tenant_id) as scope:
            await keep_an_owner(scope, workspace_id, user_id)
            if await scope.execute(DELETE, workspace_id, user_id) != "DELETE 1":
                raise NotMember(str(user_id))
            await self._announce(scope, workspace_id, user_id)
        self._roles.drop(cache_key(tenant_id, workspace_id, user_id))

    async def _load_role(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> Role | None:
        async with self._database.tenant(tenant_id) as scope:
            role = await scope.fetch_value(ROLE, workspace_id, user_id)
        return None if role is None else Role(role)

    async def _announce(self, scope: Scope, workspace_id: UUID, user_id: UUID) -> None:
        if self._invalidation is not None:
            key = cache_key(scope.tenant_id, workspace_id, user_id)
            await self._invalidation.publish(scope, TOPIC, key)


async def keep_an_owner(scope: Scope, workspace_id: UUID, user_id: UUID) -> None:
    """Locks the workspace's owners. Raises LastOwner when this user is the only one."""
    owners = await scope.fetch(LOCK_OWNERS, workspace_id)
    if [row["user_id"] for row in owners] == [user_id]:
        raise LastOwner(str(user_id))


def cache_key(tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> str:
    """The key of a role in the cache and in announcements."""
    return f"{tenant_id}/{workspace_id}/{user_id}"
