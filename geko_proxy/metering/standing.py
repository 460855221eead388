"""How far the limits of a turn are used up, for a warning before they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from asyncpg import Record

# The windows that the turn holds; that of them which is nearest to its end comes first.
TIGHTEST: Final = """
select l.scope, l.unit, w.used, amount_now(l, false) as amount, w.ends_at,
    (select max(a.threshold) from unnest(l.alert_at) as a (threshold)
        where w.used::numeric * 100 >= amount_now(l, false)::numeric * a.threshold) as threshold
from turns t
cross join lateral unnest(t.limit_ids, t.subjects, t.window_starts) as h (limit_id, subject, starts_at)
join limit_windows w on w.tenant_id = $1 and w.limit_id = h.limit_id and w.subject = h.subject
    and w.starts_at = h.starts_at
join quota_limits l on l.tenant_id = $1 and l.limit_id = h.limit_id
where t.tenant_id = $1 and t.turn_id = $2 and amount_now(l, false) is not null
order by w.used::numeric / greatest(amount_now(l, false), 1) desc, w.ends_at desc
limit 1"""


@dataclass(frozen=True, slots=True)
class Standing:
    """The limit that is nearest to its end. threshold: the highest one passed, None below the first.

    used, amount: what is settled and the limit, in its unit.
    """

    scope: str
    unit: str
    used: int
    amount: int
    resets_at: datetime
    threshold: int | None

    @classmethod
    def from_row(cls, row: Record) -> Standing:
        """The standing of a row of TIGHTEST."""
        names = ("scope", "unit", "used", "amount", "threshold")
        return cls(**{name: row[name] for name in names}, resets_at=row["ends_at"])

    @property
    def percent(self) -> int:
        """Of the limit that is used, rounded down: 100 means all."""
        return self.used * 100 // self.amount if self.amount else 100


class Standings:
    """Asks the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_turn(self, tenant_id: UUID, turn_id: UUID) -> Standing | None:
        """The tightest limit of a turn, running or ended; None where nothing limits it. Raises StoreError."""
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(TIGHTEST, turn_id)
        return Standing.from_row(row) if row is not None else None
