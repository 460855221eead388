"""The workspaces of a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from pypika import Parameter, PostgreSQLQuery, Table

from geko_proxy.metering.limits import LimitScope, put_base_limit
from geko_proxy.storage.database import Database, Scope
from geko_proxy.workspaces import members
from geko_proxy.workspaces.roles import Role

if TYPE_CHECKING:
    from asyncpg import Record

workspaces: Final = Table("workspaces")
memberships: Final = Table("workspace_members")

GET: Final = str(
    PostgreSQLQuery.from_(workspaces)
    .select("tenant_id", "workspace_id", "name", "archived_at")
    .where(workspaces.tenant_id == Parameter("$1"))
    .where(workspaces.workspace_id == Parameter("$2"))
)

LIST_FOR_USER: Final = str(
    PostgreSQLQuery.from_(memberships)
    .join(workspaces)
    .on(
        (workspaces.tenant_id == memberships.tenant_id)
        & (workspaces.workspace_id == memberships.workspace_id)
    )
    .select(workspaces.tenant_id, workspaces.workspace_id, workspaces.name, workspaces.archived_at)
    .select(memberships.role)
    .where(memberships.tenant_id == Parameter("$1"))
    .where(memberships.user_id == Parameter("$2"))
    .where(workspaces.archived_at.isnull())
    .orderby(workspaces.created_at, workspaces.workspace_id)
)

INSERT: Final = """
insert into workspaces (tenant_id, workspace_id, name) values ($1, $2, $3)
returning tenant_id, workspace_id, name, archived_at"""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A team inside a tenant: own members, configuration and quota. archived_at: None while in use."""

    tenant_id: UUID
    workspace_id: UUID
    name: str
    archived_at: datetime | None

    @classmethod
    def from_row(cls, row: Record) -> Workspace:
        """The workspace of a row of `workspaces`."""
        return cls(row["tenant_id"], row["workspace_id"], row["name"], row["archived_at"])


class WorkspaceStore:
    """SQL for workspaces. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: UUID, workspace_id: UUID) -> Workspace | None:
        """A workspace by id, also an archived one."""
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(GET, workspace_id)
        return None if row is None else Workspace.from_row(row)

    async def list_for_user(self, tenant_id: UUID, user_id: UUID) -> list[tuple[Workspace, Role]]:
        """The workspaces in use that a user is a member of, oldest first, with the role in each."""
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LIST_FOR_USER, user_id)
        return [(Workspace.from_row(row), Role(row["role"])) for row in rows]

    async def create(
        self, tenant_id: UUID, name: str, owner_id: UUID, token_limit: int | None = None
    ) -> Workspace:
        """Creates a workspace with its owner and quota. token_limit: tokens a month, None for no limit."""
        async with self._database.tenant(tenant_id) as scope:
            return await insert_workspace(scope, name, owner_id, token_limit)


async def insert_workspace(scope: Scope, name: str, owner_id: UUID, token_limit: int | None) -> Workspace:
    """Inserts a workspace with its owner and quota."""
    row = await scope.fetch_row(INSERT, uuid4(), name)
    assert row is not None
    workspace = Workspace.from_row(row)
    workspace_id = workspace.workspace_id
    await put_base_limit(scope, workspace_id, workspace_id, LimitScope.WORKSPACE, "", token_limit)
    await scope.execute(members.INSERT, workspace.workspace_id, owner_id, Role.OWNER.value)
    return workspace
