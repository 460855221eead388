"""The members of a workspace and their roles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
join users u on u.tenant_id = m.tenant_id and u.user_id = m.user_id
where m.tenant_id = $1 and m.workspace_id = $2 and m.user_id = $3 and w.archived_at is null
    and u.disabled_at is null"""

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
LOCK: Final = """
select user_id, role from workspace_members
where tenant_id = $1 and workspace_id = $2 and (role = 'owner' or user_id = any($3))
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


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one member in a transaction. roles: of the locked members, as they are in the database now."""

    scope: Scope
    workspace_id: UUID
    user_id: UUID
    roles: Mapping[UUID, Role]

    @property
    def role(self) -> Role:
        """What the member is before the change."""
        return self.roles[self.user_id]

    async def set_role(self, role: Role) -> None:
        """Changes the role. Raises LastOwner."""
        if role is not Role.OWNER:
            self._keep_an_owner()
        await self.scope.execute(SET_ROLE, self.workspace_id, self.user_id, role.value)

    async def remove(self) -> None:
        """Ends the membership. Raises LastOwner."""
        self._keep_an_owner()
        await self.scope.execute(DELETE, self.workspace_id, self.user_id)

    def _keep_an_owner(self) -> None:
        if [user_id for user_id, role in self.roles.items() if role is Role.OWNER] == [self.user_id]:
            raise LastOwner(str(self.user_id))


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
        """The user's role; None for one who is no member or disabled, and for everybody in an archived workspace."""
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
            await self.announce(scope, workspace_id, user_id)
        self._roles.drop(cache_key(tenant_id, workspace_id, user_id))
        return tag == "INSERT 0 1"

    async def set_role(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID, role: Role) -> None:
        """Changes a member's role. Raises LastOwner, NotMember."""
        async with self.changing(tenant_id, workspace_id, user_id) as change:
            await change.set_role(role)

    async def remove(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> None:
        """Ends a membership. Raises LastOwner, NotMember."""
        async with self.changing(tenant_id, workspace_id, user_id) as change:
            await change.remove()

    @asynccontextmanager
    async def changing(
        self, tenant_id: UUID, workspace_id: UUID, user_id: UUID, by: UUID | None = None
    ) -> AsyncIterator[Change]:
        """One transaction on one member, whose row is locked with the owners' and that of the one who changes it.

        All instances hear of it when it ends. by: who makes the change. Raises NotMember.
        """
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LOCK, workspace_id, [user_id] if by is None else [user_id, by])
            roles = {row["user_id"]: Role(row["role"]) for row in rows}
            if user_id not in roles:
                raise NotMember(str(user_id))
            yield Change(scope, workspace_id, user_id, roles)
            await self.announce(scope, workspace_id, user_id)
        self._roles.drop(cache_key(tenant_id, workspace_id, user_id))

    async def _load_role(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> Role | None:
        async with self._database.tenant(tenant_id) as scope:
            role = await scope.fetch_value(ROLE, workspace_id, user_id)
        return None if role is None else Role(role)

    def forget(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> None:
        """Drops what this process knows of a role, before the announcement comes back."""
        self._roles.drop(cache_key(tenant_id, workspace_id, user_id))

    async def announce(self, scope: Scope, workspace_id: UUID, user_id: UUID) -> None:
        """Tells all instances, when the transaction ends, that a role has changed."""
        if self._invalidation is not None:
            key = cache_key(scope.tenant_id, workspace_id, user_id)
            await self._invalidation.publish(scope, TOPIC, key)


def cache_key(tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> str:
    """The key of a role in the cache and in announcements."""
    return f"{tenant_id}/{workspace_id}/{user_id}"
