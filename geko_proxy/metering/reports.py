"""What a workspace has used in a quota window, in total, by member, by model and by API key. Never from the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from uuid import UUID

from geko_proxy.metering.windows import Window
from geko_proxy.storage.database import Database

TOTALS = """
select coalesce(w.used, 0) as used, coalesce(w.leased, 0) as leased, amount_now(l, false) as token_limit
from (select 1) one
left join limit_windows w on w.tenant_id = $1 and w.limit_id = $2 and w.subject = '' and w.starts_at = $3
left join quota_limits l on l.tenant_id = $1 and l.limit_id = $2"""

# A turn counts once: in the row of the model that it was started with.
BY_MEMBER = """
select user_id, sum(tokens)::bigint as tokens, sum(turns)::bigint as turns
from usage_days
where tenant_id = $1 and workspace_id = $2 and day >= $3 and day <= $4
group by user_id order by tokens desc, user_id"""

BY_MODEL = """
select model, sum(tokens)::bigint as tokens, sum(turns)::bigint as turns,
    sum(estimated_tokens)::bigint as estimated_tokens
from usage_days
where tenant_id = $1 and workspace_id = $2 and day >= $3 and day <= $4
group by model order by tokens desc, model"""

BY_KEY = """
select d.key_id, d.user_id, k.name, l.amount, sum(d.tokens)::bigint as tokens, sum(d.turns)::bigint as turns
from usage_days d
left join api_keys k on k.tenant_id = d.tenant_id and k.key_id = d.key_id
left join quota_limits l on l.tenant_id = d.tenant_id and l.limit_id = d.key_id
where d.tenant_id = $1 and d.workspace_id = $2 and d.day >= $3 and d.day <= $4
    and d.key_id <> '00000000-0000-0000-0000-000000000000'
group by d.key_id, d.user_id, k.name, l.amount order by tokens desc, d.key_id"""


@dataclass(frozen=True, slots=True)
class MemberUsage:
    """What one user was charged, in tokens, and in how many turns."""

    user_id: UUID
    tokens: int
    turns: int


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What was charged for one model, in tokens; `estimated_tokens` of them were not reported by a provider."""

    model: str
    tokens: int
    turns: int
    estimated_tokens: int


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What turns with one API key were charged, in tokens; name None: the key is deleted with its user."""

    key_id: UUID
    user_id: UUID
    name: str | None
    limit: int | None
    tokens: int
    turns: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The state of a workspace's quota. All numbers are tokens; limit and remaining None: unlimited.

    leased: held by answers that run now. remaining: limit - used - leased, never below 0.
    """

    used: int
    leased: int
    limit: int | None
    window: Window
    by_member: tuple[MemberUsage, ...]
    by_model: tuple[ModelUsage, ...]
    by_key: tuple[KeyUsage, ...] = ()

    @property
    def remaining(self) -> int | None:
        """What a new turn may still take."""
        return None if self.limit is None else max(0, self.limit - self.used - self.leased)


class Reports:
    """Reads the quota windows and the sums of days."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def usage(
        self, tenant_id: UUID, workspace_id: UUID, window: Window, first: date, last: date
    ) -> UsageReport:
        """The report of one workspace for one window; zeros where nothing was used.

        first, last: the window's days in the tenant's calendar, both included.
        """
        async with self._db.tenant(tenant_id) as scope:
            totals = await scope.fetch_row(TOTALS, workspace_id, window.start)
            members = await scope.fetch(BY_MEMBER, workspace_id, first, last)
            models = await scope.fetch(BY_MODEL, workspace_id, first, last)
            keys = await scope.fetch(BY_KEY, workspace_id, first, last)
        assert totals is not None  # there is one row whatever is missing
        return UsageReport(
            used=totals["used"],
            leased=totals["leased"],
            limit=totals["token_limit"],
            window=window,
            by_member=tuple(MemberUsage(*row) for row in members),
            by_model=tuple(ModelUsage(*row) for row in models),
            by_key=tuple(KeyUsage(*row) for row in keys),
        )
