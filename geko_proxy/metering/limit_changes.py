"""Makes, changes and deletes limits inside the caller's transaction. A trigger tells every instance of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from geko_proxy.errors import GekoError
from geko_proxy.metering.limits import COLUMNS, EVERY_MEMBER, Hold, Limit, LimitScope, Unit
from geko_proxy.metering.windows import Period
from geko_proxy.storage.database import Scope

MAX_LIMITS: Final = 200  # of a workspace, beside those of its keys: each turn looks at all of them

# so that racing calls can't pass MAX_LIMITS together
LOCK: Final = "select from workspaces where tenant_id = $1 and workspace_id = $2 for no key update"
COUNT: Final = """
select count(*) from quota_limits where tenant_id = $1 and workspace_id = $2 and scope <> 'key'"""

GET: Final = f"""
select {COLUMNS} from quota_limits
where tenant_id = $1 and workspace_id = $2 and limit_id = $3 for no key update"""  # noqa: S608

# The workspace's own limit and a key's may be there without an amount, which is no limit: that one is taken.
INSERT: Final = """
insert into quota_limits as l (tenant_id, limit_id, workspace_id, scope, subject, period, start_day, unit, amount,
    grace, raised_by, raised_until, alert_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
on conflict (tenant_id, limit_id) do update
set amount = excluded.amount, grace = excluded.grace, raised_by = excluded.raised_by,
    raised_until = excluded.raised_until, alert_at = excluded.alert_at, updated_at = now()
where l.amount is null and l.workspace_id = excluded.workspace_id
returning limit_id"""

UPDATE: Final = """
update quota_limits
set amount = $4, grace = $5, raised_by = $6, raised_until = $7, alert_at = $8, updated_at = now()
where tenant_id = $1 and workspace_id = $2 and limit_id = $3"""

DELETE: Final = "delete from quota_limits where tenant_id = $1 and workspace_id = $2 and limit_id = $3"

KEYS: Final = """
select key_id, user_id, name from api_keys
where tenant_id = $1 and workspace_id = $2 and revoked_at is null"""

WINDOWS: Final = """
select w.limit_id, w.subject, w.starts_at, w.used, w.leased from limit_windows w
where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (
    select * from unnest($2::uuid[], $3::text[], $4::timestamptz[]))"""

MEMBER_WINDOWS: Final = """
select subject, used, leased from limit_windows
where tenant_id = $1 and limit_id = $2 and starts_at = $3 order by used desc, subject"""


class LimitExists(GekoError):
    """The workspace has a limit for the same already."""


class TooManyLimits(GekoError):
    """The workspace has MAX_LIMITS limits."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What is used, and held by answers that run, in a window; in the limit's unit."""

    used: int = 0
    leased: int = 0


def base_id(workspace_id: UUID, limit: Limit) -> UUID | None:
    """The id of a limit that is the workspace's own, or a key's: tokens a calendar month. None for any other."""
    if (limit.unit, limit.period, limit.start_day) != (Unit.TOKENS, Period.MONTH, 1):
        return None
    if limit.scope is LimitScope.WORKSPACE:
        return workspace_id
    return UUID(limit.subject) if limit.scope is LimitScope.KEY else None


async def insert_limit(scope: Scope, limit: Limit) -> None:
    """Makes a limit. Raises LimitExists, TooManyLimits."""
    await scope.execute(LOCK, limit.workspace_id)
    if limit.scope is not LimitScope.KEY and await scope.fetch_value(COUNT, limit.workspace_id) >= MAX_LIMITS:
        raise TooManyLimits(str(limit.workspace_id))
    kind = (limit.scope.value, limit.subject, limit.period.value, limit.start_day, limit.unit.value)
    try:
        made = await scope.fetch_value(INSERT, limit.limit_id, limit.workspace_id, *kind, *terms(limit))
    except asyncpg.UniqueViolationError:
        made = None
    if made is None:
        raise LimitExists(str(limit.limit_id))


async def lock_limit(scope: Scope, workspace_id: UUID, limit_id: UUID) -> Limit | None:
    """A limit that is about to be changed."""
    row = await scope.fetch_row(GET, workspace_id, limit_id)
    return None if row is None else Limit.from_row(row)


async def update_limit(scope: Scope, limit: Limit) -> None:
    """Writes a limit that is locked: its amount, grace, raise and alerts. What it limits stays as it is."""
    await scope.execute(UPDATE, limit.workspace_id, limit.limit_id, *terms(limit))


async def delete_limit(scope: Scope, limit: Limit) -> None:
    """Deletes a limit: there is none any more. Its windows stay, for answers that count in them."""
    await scope.execute(DELETE, limit.workspace_id, limit.limit_id)


def terms(limit: Limit) -> tuple[int | None, int, int, datetime | None, list[int]]:
    """What may change in a limit, as the statements take it."""
    return limit.amount, limit.grace, limit.raised_by, limit.raised_until, list(limit.alert_at)


async def keys_of(scope: Scope, workspace_id: UUID) -> Mapping[UUID, UUID]:
    """Whose each of a workspace's API keys is."""
    return {row["key_id"]: row["user_id"] for row in await scope.fetch(KEYS, workspace_id)}


async def filled_of(scope: Scope, holds: Iterable[Hold]) -> Mapping[UUID, Filled]:
    """How full windows are, by limit; those that are not open are missing."""
    wanted = list(holds)
    keys = ([h.limit_id for h in wanted], [h.subject for h in wanted], [h.window.start for h in wanted])
    rows = await scope.fetch(WINDOWS, *keys)
    return {row["limit_id"]: Filled(row["used"], max(0, row["leased"])) for row in rows}


async def filled_by_member(scope: Scope, limit: Limit, start: datetime) -> Mapping[UUID, Filled]:
    """How full the windows of members are that have used anything, those that used most first."""
    rows = await scope.fetch(MEMBER_WINDOWS, limit.limit_id, start)
    return {UUID(row["subject"]): Filled(row["used"], max(0, row["leased"])) for row in rows}


def is_shown(limit: Limit, keys: Mapping[UUID, UUID]) -> bool:
    """Whether a row is a limit to people: not those of keys that are gone, or have none."""
    if limit.scope is not LimitScope.KEY:
        return True
    key_id = UUID(limit.subject)
    return key_id in keys and (limit.limit_id != key_id or limit.amount is not None)


def is_seen_by(limit: Limit, user_id: UUID, keys: Mapping[UUID, UUID]) -> bool:
    """Whether a limit concerns a member: the workspace's, a model's, the own ones, and those of the own keys."""
    if limit.scope is LimitScope.MEMBER:
        return limit.subject in (EVERY_MEMBER, str(user_id))
    if limit.scope is LimitScope.KEY:
        return keys.get(UUID(limit.subject)) == user_id
    return True
