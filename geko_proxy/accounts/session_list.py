"""A person's sessions as they are shown: where, since when, and last used when."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from geko_proxy.storage.database import Database

LIST: Final = """
select session_id, workspace_id, ip, user_agent, created_at, last_seen_at,
    least(expires_at, created_at + $3::interval) as expires_at
from sessions
where tenant_id = $1 and user_id = $2
    and revoked_at is null and expires_at > now() and created_at + $3::interval > now()
order by last_seen_at desc, session_id"""

AGE: Final = """
select now() - created_at from sessions where tenant_id = $1 and session_id = $2 and revoked_at is null"""


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A session that goes on."""

    session_id: UUID
    workspace_id: UUID
    ip: str | None
    user_agent: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


class SessionList:
    """Reads sessions. max_ttl_s: as in `Sessions`. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database, max_ttl_s: float) -> None:
        self._database = database
        self._max_ttl = timedelta(seconds=max_ttl_s)

    async def of_user(self, tenant_id: UUID, user_id: UUID) -> list[SessionEntry]:
        """A user's sessions, the last used first."""
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LIST, user_id, self._max_ttl)
        return [SessionEntry(*(row[field.name] for field in fields(SessionEntry))) for row in rows]

    async def age(self, tenant_id: UUID, session_id: UUID) -> timedelta | None:
        """How long ago somebody signed in; None for a session that was revoked."""
        async with self._database.tenant(tenant_id) as scope:
            age: timedelta | None = await scope.fetch_value(AGE, session_id)
        return age
