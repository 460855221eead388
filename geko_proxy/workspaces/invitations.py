"""Invitations into a workspace: links that a few people, or one, use for a while. Only the secret's hash is kept."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from geko_proxy.errors import GekoError
from geko_proxy.storage.database import Database, Scope
from geko_proxy.workspaces import members
from geko_proxy.workspaces.roles import Permission, Role, allowed

if TYPE_CHECKING:
    from asyncpg import Record

SECRET_BYTES: Final = 32
ENCODED: Final = re.compile(r"[A-Za-z0-9_-]{86}", re.ASCII)  # 16 + 16 + 32 bytes, without padding
MAX_PENDING: Final = 200  # of one workspace
MAX_MAILED_AN_HOUR: Final = 100  # of one tenant: strangers' mailboxes are not for advertising

INSERT: Final = """
insert into invitations
    (tenant_id, invitation_id, workspace_id, token_hash, email, mailed, role, max_uses, invited_by, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + $10::interval)
returning *"""

# One workspace's invitations are made one after the other, so that the limits hold.
LOCK_WORKSPACE: Final = """
select 1 from workspaces where tenant_id = $1 and workspace_id = $2 and archived_at is null for no key update"""

COUNT: Final = """
select
    (select count(*) from invitations where tenant_id = $1 and workspace_id = $2
        and revoked_at is null and expires_at > now() and uses < max_uses) as pending,
    (select count(*) from invitations where tenant_id = $1 and mailed
        and created_at > now() - interval '1 hour') as mailed"""

LIST: Final = """
select i.* from invitations i
where i.tenant_id = $1 and i.workspace_id = $2 and i.revoked_at is null and i.expires_at > now()
    and i.uses < i.max_uses
order by i.created_at desc, i.invitation_id"""

REVOKE: Final = """
update invitations i set revoked_at = now()
where i.tenant_id = $1 and i.workspace_id = $2 and i.invitation_id = $3 and i.revoked_at is null
returning *"""

# The inviter's role is that of now: who lost the right to invite has no links left in a drawer.
FIND: Final = """
select i.*, i.expires_at <= now() as expired, t.name as tenant,
    w.name as workspace, w.archived_at, u.name as inviter, m.role as inviter_role
from invitations i
join tenants t on t.tenant_id = i.tenant_id and t.status = 'active'
join workspaces w on w.tenant_id = i.tenant_id and w.workspace_id = i.workspace_id
join users u on u.tenant_id = i.tenant_id and u.user_id = i.invited_by and u.disabled_at is null
left join workspace_members m on m.tenant_id = i.tenant_id and m.workspace_id = i.workspace_id
    and m.user_id = i.invited_by
where i.tenant_id = $1 and i.invitation_id = $2 and i.token_hash = $3"""

FIND_LOCKED: Final = f"{FIND} for update of i"

USE: Final = "update invitations set uses = uses + 1 where tenant_id = $1 and invitation_id = $2"


class TooMany(GekoError):
    """The workspace has too many open invitations, or the tenant has mailed too many within an hour (`mailed`)."""

    def __init__(self, *, mailed: bool) -> None:
        super().__init__("too many invitations")
        self.mailed = mailed


class State(StrEnum):
    """Why an invitation can or can't be used."""

    OPEN = "open"
    EXPIRED = "expired"
    USED = "used"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A place in a workspace for whoever has the link. email: for this address; mailed: the link went only there."""

    tenant_id: UUID
    invitation_id: UUID
    workspace_id: UUID
    email: str | None
    mailed: bool
    role: Role
    max_uses: int
    uses: int
    invited_by: UUID
    created_at: datetime
    expires_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> Invitation:
        """The invitation of a row of `invitations`."""
        fields = {name: row[name] for name in cls.__slots__}
        return cls(**{**fields, "role": Role(row["role"])})


@dataclass(frozen=True, slots=True)
class Offer:
    """An invitation as the invited see it."""

    invitation: Invitation
    tenant: str
    workspace: str
    inviter: str
    state: State


class InvitationStore:
    """SQL for invitations. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        scope: Scope,
        workspace_id: UUID,
        *,
        role: Role,
        invited_by: UUID,
        life: timedelta,
        email: str | None = None,
        mailed: bool = False,
        max_uses: int = 1,
    ) -> tuple[Invitation, str]:
        """A new invitation and its token, which is never shown again. Raises TooMany; LookupError: no workspace."""
        if await scope.fetch_value(LOCK_WORKSPACE, workspace_id) is None:
            raise LookupError(f"no workspace {workspace_id}")
        counts = await scope.fetch_row(COUNT, workspace_id)
        assert counts is not None
        if counts["pending"] >= MAX_PENDING:
            raise TooMany(mailed=False)
        if mailed and counts["mailed"] >= MAX_MAILED_AN_HOUR:
            raise TooMany(mailed=True)
        invitation_id, secret = uuid4(), secrets.token_bytes(SECRET_BYTES)
        row = await scope.fetch_row(
            INSERT, invitation_id, workspace_id, hashed(secret), email, mailed, role.value, max_uses, invited_by,
            life,
        )  # fmt: skip
        assert row is not None
        content = scope.tenant_id.bytes + invitation_id.bytes + secret
        token = base64.urlsafe_b64encode(content).decode().rstrip("=")
        return Invitation.from_row(row), token

    async def list(self, tenant_id: UUID, workspace_id: UUID) -> list[Invitation]:
        """The invitations that can still be used, the newest first."""
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LIST, workspace_id)
        return [Invitation.from_row(row) for row in rows]

    async def revoke(self, scope: Scope, workspace_id: UUID, invitation_id: UUID) -> Invitation | None:
        """Ends an invitation; None where there is none that was not ended so before."""
        row = await scope.fetch_row(REVOKE, workspace_id, invitation_id)
        return None if row is None else Invitation.from_row(row)

    async def find(self, token: str) -> Offer | None:
        """What a token offers, whatever its state; None for one that never was."""
        parts = decode(token)
        if parts is None:
            return None
        async with self._database.tenant(parts[0]) as scope:
            row = await scope.fetch_row(FIND, *parts[1:])
        return None if row is None else offer_of(row)

    async def lock(self, scope: Scope, token: str) -> Offer | None:
        """The same in a transaction in the token's tenant; others who want to use the invitation wait for its end."""
        parts = decode(token)
        if parts is None or parts[0] != scope.tenant_id:
            return None
        row = await scope.fetch_row(FIND_LOCKED, *parts[1:])
        return None if row is None else offer_of(row)

    async def use(self, scope: Scope, invitation: Invitation, user_id: UUID) -> bool:
        """Makes a user of the tenant a member by a locked, open invitation.

        False for one who is a member already: the role stays as it is, and the invitation is not used up.
        """
        tag = await scope.execute(
            members.INSERT_IF_ABSENT, invitation.workspace_id, user_id, invitation.role.value
        )
        if tag != "INSERT 0 1":
            return False
        await scope.execute(USE, invitation.invitation_id)
        return True


def tenant_of(token: str) -> UUID | None:
    """The tenant that a token names, which proves nothing yet."""
    parts = decode(token)
    return None if parts is None else parts[0]


def decode(token: str) -> tuple[UUID, UUID, bytes] | None:
    """Tenant, invitation and the secret's hash; None when it is no token."""
    if ENCODED.fullmatch(token) is None:
        return None
    content = base64.urlsafe_b64decode(token + "==")
    return UUID(bytes=content[:16]), UUID(bytes=content[16:32]), hashed(content[32:])


def hashed(secret: bytes) -> bytes:
    """SHA-256 of a secret, which is random: no slow hash is needed."""
    return hashlib.sha256(secret).digest()


def may_invite(inviter: Role | None, role: Role) -> bool:
    """Whether somebody may give a role: admins all but owner, owners every one."""
    if inviter is None or not allowed(inviter, Permission.WRITE_SETTINGS):
        return False
    return role is not Role.OWNER or allowed(inviter, Permission.WRITE_OWNERS)


def offer_of(row: Record) -> Offer:
    """The offer of a row of FIND."""
    invitation = Invitation.from_row(row)
    inviter = Role(row["inviter_role"]) if row["inviter_role"] is not None else None
    if (
        row["revoked_at"] is not None
        or row["archived_at"] is not None
        or not may_invite(inviter, invitation.role)
    ):
        state = State.REVOKED
    elif invitation.uses >= invitation.max_uses:
        state = State.USED
    else:
        state = State.EXPIRED if row["expired"] else State.OPEN
    return Offer(invitation, row["tenant"], row["workspace"], row["inviter"], state)
