"""How full each limit of a workspace is now: one look at limit_windows, for reports, live usage and balances."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import msgspec
from cachetools import TTLCache

from geko_proxy.metering.limits import EVERY_MEMBER, Limit, LimitScope, LimitStore, Unit
from geko_proxy.metering.windows import Window, current_window, load_zone
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from datetime import date

LOOK: Final = "select * from usage_now($1, $2)"
KEYS_OF: Final = "select key_id from api_keys where tenant_id = $1 and workspace_id = $2 and user_id = $3"
# For a window that nobody has opened yet; the first turn opens it with what the ledger holds.
EARLIER: Final = """
select coalesce(sum(case $4 when 'cost' then cost else tokens end), 0)::bigint
from usage_days where tenant_id = $1 and workspace_id = $2 and day >= $3
    and case $5 when 'member' then user_id::text = $6 when 'key' then key_id::text = $6
        when 'model' then endpoint || '/' || model like $6 else true end"""
EARLIER_TTL_S: Final = 30.0

Key = tuple[UUID, str, float]


class Look(NamedTuple):
    """What PostgreSQL says of a workspace. windows: used and leased by limit, subject and start (Unix seconds).

    amounts: what limits come to now. turns: that run; consumed: tokens of these until now.
    """

    windows: Mapping[Key, tuple[int, int]]
    amounts: Mapping[UUID, int | None]
    turns: int
    consumed: int


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit, for one person where it is for each member. used, leased, amount: in its unit.

    amount None: no limit.
    """

    limit: Limit
    subject: str
    window: Window
    used: int
    leased: int
    amount: int | None

    @property
    def remaining(self) -> int | None:
        """What a new turn may still take."""
        return None if self.amount is None else max(0, self.amount - self.used - self.leased)


class Viewer(NamedTuple):
    """Who looks. everything: all limits; else the workspace's, models', the own ones and those of the own keys."""

    user_id: UUID
    everything: bool
    key_ids: frozenset[UUID] = frozenset()

    def sees(self, limit: Limit, subject: str) -> bool:
        """Whether a limit's state may be shown."""
        if self.everything:
            return True
        if limit.scope is LimitScope.MEMBER:
            return subject == str(self.user_id)
        return limit.scope is not LimitScope.KEY or limit.subject in {str(key_id) for key_id in self.key_ids}


class LimitStates:
    """Reads the state of limits. Methods raise StoreError when the database is gone."""

    def __init__(self, db: Database, limits: LimitStore) -> None:
        self._db = db
        self._limits = limits
        self._earlier: TTLCache[Key, int] = TTLCache(10_000, EARLIER_TTL_S)

    async def look(self, tenant_id: UUID, workspace_id: UUID) -> Look:
        """One round trip."""
        row = await self._db.call(LOOK, tenant_id, workspace_id)
        assert row is not None
        windows = msgspec.json.decode(row["windows"], type=list[tuple[UUID, str, float, int, int]])
        amounts = msgspec.json.decode(row["amounts"], type=dict[UUID, int | None])
        found = {
            (limit_id, subject, start): (used, leased) for limit_id, subject, start, used, leased in windows
        }
        return Look(found, amounts, row["turns"], row["consumed"])

    async def viewer(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID, *, everything: bool) -> Viewer:
        """Somebody who looks at a workspace."""
        if everything:
            return Viewer(user_id, everything=True)
        async with self._db.tenant(tenant_id) as scope:
            rows = await scope.fetch(KEYS_OF, workspace_id, user_id)
        return Viewer(user_id, everything=False, key_ids=frozenset(row["key_id"] for row in rows))

    async def states(
        self, tenant_id: UUID, workspace_id: UUID, time_zone: str, viewer: Viewer, look: Look | None = None
    ) -> list[LimitState]:
        """Every limit in force that the viewer may see, oldest first. look: as just taken, else one is taken."""
        look = look or await self.look(tenant_id, workspace_id)
        now, found = datetime.now(UTC), []
        for limit in await self._limits.list(tenant_id, workspace_id):
            amount = look.amounts.get(limit.limit_id)
            if amount is None:
                continue
            window = current_window(limit.period, limit.start_day, now, time_zone)
            for subject in subjects(limit, window, look, viewer):
                key = (limit.limit_id, subject, window.start.timestamp())
                used, leased = look.windows.get(key) or (-1, 0)
                if used < 0:
                    first = window.start.astimezone(load_zone(time_zone)).date()
                    used = await self._used_before(tenant_id, limit, key, first)
                found.append(LimitState(limit, subject, window, used, leased, amount))
        return found

    async def _used_before(self, tenant_id: UUID, limit: Limit, key: Key, first: date) -> int:
        """What counts in a window that no turn has opened yet, by the sums of days."""
        known = self._earlier.get(key)
        if known is None:
            pattern = limit.subject
            if limit.scope is LimitScope.MEMBER:
                pattern = key[1]
            elif limit.scope is LimitScope.MODEL:
                pattern = re.sub(r"([\\%_])", r"\\\1", limit.subject).replace("*", "%")
            arguments = (limit.workspace_id, first, limit.unit.value, limit.scope.value, pattern)
            async with self._db.tenant(tenant_id) as scope:
                known = self._earlier[key] = int(await scope.fetch_value(EARLIER, *arguments))
        return known


def subjects(limit: Limit, window: Window, look: Look, viewer: Viewer) -> list[str]:
    """Whose windows of a limit the viewer may see: for one of each member, those who have used it and the viewer."""
    if limit.scope is not LimitScope.MEMBER:
        return [""] if viewer.sees(limit, "") else []
    if limit.subject != EVERY_MEMBER:
        return [limit.subject] if viewer.sees(limit, limit.subject) else []
    start = window.start.timestamp()
    used = {subject for limit_id, subject, at in look.windows if (limit_id, at) == (limit.limit_id, start)}
    return sorted(subject for subject in used | {str(viewer.user_id)} if viewer.sees(limit, subject))


def balance_of(states: Sequence[LimitState]) -> LimitState | None:
    """The limit that stops the viewer first, of those that hold whatever model is asked; None: there is none.

    Tokens and money can't be compared: one that is used up counts, else tokens come before money.
    """
    mine = [each for each in states if each.limit.scope in (LimitScope.WORKSPACE, LimitScope.MEMBER)]
    return min(
        mine,
        key=lambda each: (bool(each.remaining), each.limit.unit is Unit.COST, each.remaining or 0),
        default=None,
    )
