"""Limits: what a workspace, its members, models and API keys may use in a day, week or month, in tokens or in money.

Which windows a turn holds follows from its workspace's limits; how much is left in them only PostgreSQL knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from geko_proxy.metering.windows import Period, Window, current_window
from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database, Scope
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces.config import matches

if TYPE_CHECKING:
    from asyncpg import Record

TOPIC: Final = "limits"  # announced by a trigger of sql/0011_limits.sql
EVERY_MEMBER: Final = "*"
MAX_AMOUNT: Final = 10**18
MAX_KNOWN: Final = 10_000
DEFAULT_ALERTS: Final = (80, 95, 100)


class LimitScope(StrEnum):
    """Whose use a limit counts."""

    WORKSPACE = "workspace"
    MEMBER = "member"
    MODEL = "model"
    KEY = "key"


class Unit(StrEnum):
    """What a limit counts. COST: billionths of the installation's currency."""

    TOKENS = "tokens"
    COST = "cost"


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a workspace.

    subject: a user's id, or "*" for each member alone; a glob "endpoint/model"; a key's id; "" for the workspace.
    start_day: as in `windows.window_of`. amount: None for no limit. grace: what answers that run already may take
    beyond it. raised_by: counts until raised_until. alert_at: percent of the amount at which it is announced.
    """

    limit_id: UUID
    workspace_id: UUID
    scope: LimitScope
    subject: str = ""
    period: Period = Period.MONTH
    start_day: int = 1
    unit: Unit = Unit.TOKENS
    amount: int | None = None
    grace: int = 0
    raised_by: int = 0
    raised_until: datetime | None = None
    alert_at: tuple[int, ...] = DEFAULT_ALERTS

    @classmethod
    def from_row(cls, row: Record) -> Limit:
        """The limit of a row of quota_limits."""
        return cls(
            row["limit_id"],
            row["workspace_id"],
            LimitScope(row["scope"]),
            row["subject"],
            Period(row["period"]),
            row["start_day"],
            Unit(row["unit"]),
            row["amount"],
            row["grace"],
            row["raised_by"],
            row["raised_until"],
            tuple(row["alert_at"]),
        )

    def concerns(self, actor: Actor) -> bool:
        """Whether what this actor does counts."""
        if self.scope is LimitScope.MEMBER:
            return self.subject in (EVERY_MEMBER, str(actor.user_id))
        if self.scope is LimitScope.MODEL:
            return matches(self.subject, actor.endpoint, actor.model)
        if self.scope is LimitScope.KEY:
            return actor.key_id is not None and self.subject == str(actor.key_id)
        return True


class Actor(NamedTuple):
    """Who asks which model."""

    workspace_id: UUID
    user_id: UUID
    key_id: UUID | None
    endpoint: str
    model: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A window in which a turn leases. pattern: what open_windows (sql/0012) finds earlier use by."""

    limit_id: UUID
    subject: str
    window: Window
    unit: Unit
    scope: LimitScope
    pattern: str = ""


def holds_of(limits: Iterable[Limit], actor: Actor, now: datetime, time_zone: str) -> tuple[Hold, ...]:
    """The windows that a turn holds; the workspace's own is the first, also when there is no limit for it.

    now: aware; the turn counts in the windows that hold this instant. Raises ValueError for an unknown time zone.
    """
    month = current_window(Period.MONTH, 1, now, time_zone)
    own = {actor.workspace_id: Hold(actor.workspace_id, "", month, Unit.TOKENS, LimitScope.WORKSPACE)}
    if actor.key_id is not None:
        pattern = str(actor.key_id)
        own[actor.key_id] = Hold(actor.key_id, "", month, Unit.TOKENS, LimitScope.KEY, pattern)
    for limit in limits:
        if limit.concerns(actor):
            window = current_window(limit.period, limit.start_day, now, time_zone)
            subject = str(actor.user_id) if limit.scope is LimitScope.MEMBER else ""
            pattern = _pattern(limit)
            own[limit.limit_id] = Hold(limit.limit_id, subject, window, limit.unit, limit.scope, pattern)
    return tuple(own.values())


class HoldCache:
    """As `holds_of`, in a tenth of the time when the same actor has asked before in the same windows."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[
            tuple[Actor, str], tuple[Sequence[Limit], datetime, datetime, tuple[Hold, ...]]
        ] = {}

    def holds_of(
        self, limits: Sequence[Limit], actor: Actor, now: datetime, time_zone: str
    ) -> tuple[Hold, ...]:
        """The windows that a turn holds. limits: the same object as long as they are the same."""
        key = (actor, time_zone)
        known = self._known.get(key)
        if known is not None and known[0] is limits and known[1] <= now < known[2]:
            return known[3]
        holds = holds_of(limits, actor, now, time_zone)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        first = max(hold.window.start for hold in holds)
        self._known[key] = (limits, first, min(hold.window.end for hold in holds), holds)
        return holds


def _pattern(limit: Limit) -> str:
    """The glob of a model as a LIKE pattern; the id of a key."""
    if limit.scope is LimitScope.MODEL:
        return re.sub(r"([\\%_])", r"\\\1", limit.subject).replace("*", "%")
    return limit.subject if limit.scope is LimitScope.KEY else ""


class LimitStore:
    """SQL for limits; a workspace's are cached for ttl_s seconds, or until a write on any instance."""

    def __init__(
        self, database: Database, invalidation: Invalidation | None = None, ttl_s: float = 3600
    ) -> None:
        self._database = database
        self._cache: Cache[tuple[Limit, ...]] = Cache(TOPIC, ttl_s=ttl_s, invalidation=invalidation)

    @property
    def generation(self) -> int | None:
        """Changes with each change anywhere; None while changes can't be heard."""
        return self._cache.generation

    async def list(self, tenant_id: UUID, workspace_id: UUID) -> tuple[Limit, ...]:
        """The limits of a workspace, oldest first. Raises StoreError."""
        key = f"{tenant_id}/{workspace_id}"
        return await self._cache.get(key, lambda: self._load(tenant_id, workspace_id))

    async def _load(self, tenant_id: UUID, workspace_id: UUID) -> tuple[Limit, ...]:
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LIST, workspace_id)
        return tuple(Limit.from_row(row) for row in rows)

    async def get_own(self, tenant_id: UUID, workspace_id: UUID) -> int | None:
        """The workspace's own limit in tokens a month; None: unlimited."""
        own = [limit for limit in await self.list(tenant_id, workspace_id) if limit.limit_id == workspace_id]
        return own[0].amount if own else None

    async def put_own(self, tenant_id: UUID, workspace_id: UUID, amount: int | None) -> None:
        """Sets the workspace's own limit in tokens a month (None: unlimited); the next lease or top-up obeys it.

        Raises ValueError for a number that is no limit.
        """
        async with self._database.tenant(tenant_id) as scope:
            await put_base_limit(scope, workspace_id, workspace_id, LimitScope.WORKSPACE, "", amount)
        self._cache.drop(f"{tenant_id}/{workspace_id}")


LIST: Final = """
select limit_id, workspace_id, scope, subject, period, start_day, unit, amount, grace, raised_by, raised_until, alert_at
from quota_limits where tenant_id = $1 and workspace_id = $2 order by created_at, limit_id"""

PUT_BASE: Final = """
insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, amount) values ($1, $2, $3, $4, $5, $6)
on conflict (tenant_id, limit_id) do update set amount = excluded.amount, updated_at = now()"""


async def put_base_limit(
    scope: Scope, limit_id: UUID, workspace_id: UUID, kind: LimitScope, subject: str, amount: int | None
) -> None:
    """Sets a limit that has the id of what it limits: a workspace, an API key. Raises ValueError for no limit."""
    if amount is not None and not 0 <= amount <= MAX_AMOUNT:
        raise ValueError("a token limit is a number of tokens from 0 on, or null for none")
    await scope.execute(PUT_BASE, limit_id, workspace_id, kind.value, subject, amount)


def arrays(holds: Sequence[Hold]) -> tuple[list[UUID], list[str], list[datetime]]:
    """The keys of the windows, as the functions of sql/0012 take them."""
    return [h.limit_id for h in holds], [h.subject for h in holds], [h.window.start for h in holds]
