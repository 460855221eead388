"""The outbox: alerts become one delivery for each receiver, which instances claim, attempt and mark."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from geko_proxy.alerts.events import TEST, THRESHOLD, Alert, payload
from geko_proxy.alerts.sender import Attempt
from geko_proxy.alerts.webhooks import GIVE_UP_REST
from geko_proxy.storage.database import Database, Scope

if TYPE_CHECKING:
    from asyncpg import Record

TAKE_ALERTS: Final = "select * from take_alerts($1, $2)"
TAKE: Final = "select * from take_deliveries($1, $2)"
RAISES: Final = "select alert_ended_raises()"
DROP_OLD: Final = "select drop_old_deliveries($1)"
MARK_ALERT: Final = """
update quota_alerts set delivered_at = now()
where tenant_id = $1 and alert_id = $2 and delivered_at is null returning alert_id"""
# By mail only the highest of the thresholds that were passed together: three mails would say one thing.
FAN_OUT: Final = """
insert into webhook_deliveries (tenant_id, delivery_id, webhook_id, alert_id, workspace_id, event, payload)
select $1, gen_random_uuid(), w.webhook_id, $2, $3, $4, $5 from webhooks w
where w.tenant_id = $1 and w.enabled and (w.workspace_id = $3 or w.workspace_id is null) and $4 = any (w.events)
    and (w.channel <> 'mail' or not exists (
        select from quota_alerts a join quota_alerts b on b.tenant_id = $1 and b.limit_id = a.limit_id
            and b.subject = a.subject and b.starts_at = a.starts_at and b.created_at = a.created_at
            and b.threshold > a.threshold
        where a.tenant_id = $1 and a.alert_id = $2))
order by w.created_at
on conflict do nothing"""
ADD_TEST: Final = """
insert into webhook_deliveries (tenant_id, delivery_id, webhook_id, workspace_id, event, payload)
values ($1, $2, $3, $4, $5, $6)"""
RECENT_TESTS: Final = """
select count(*) from webhook_deliveries
where tenant_id = $1 and webhook_id = $2 and event = $3 and created_at > now() - interval '1 minute'"""
LAST: Final = """
select delivery_id, event, state, attempts, last_status, last_error, created_at, last_attempt_at, ended_at,
    case when state = 'pending' then next_attempt_at end as next_attempt_at
from webhook_deliveries where tenant_id = $1 and webhook_id = $2 order by seq desc limit $3"""

DELIVERED: Final = """
update webhook_deliveries set state = 'delivered', ended_at = now(), claimed_until = null, last_status = $3,
    last_error = null
where tenant_id = $1 and delivery_id = $2 and state = 'pending'"""
AGAIN: Final = """
update webhook_deliveries set claimed_until = null, last_status = $3, last_error = $4,
    next_attempt_at = now() + make_interval(secs => $5)
where tenant_id = $1 and delivery_id = $2 and state = 'pending'"""
GIVEN_UP: Final = """
update webhook_deliveries set state = 'failed', ended_at = now(), claimed_until = null, last_status = $3,
    last_error = $4
where tenant_id = $1 and delivery_id = $2 and state = 'pending'"""
WORKS: Final = """
update webhooks set failing_since = null
where tenant_id = $1 and webhook_id = $2 and failing_since is not null"""
FAILS: Final = """
update webhooks set failing_since = coalesce(failing_since, now()) where tenant_id = $1 and webhook_id = $2"""
SWITCH_OFF: Final = """
update webhooks set enabled = false, disabled_reason = $3, updated_at = now()
where tenant_id = $1 and webhook_id = $2 and enabled
    and ($3 = 'gone' or failing_since <= now() - make_interval(secs => $4))
returning webhook_id, workspace_id"""

CLAIM_MARGIN_S: Final = 15.0  # beyond an attempt's time limit, to write down how it ended
MAX_TESTS: Final = 10  # of one receiver in a minute
KEPT_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Schedule:
    """When is tried again. retry_after_s: the waits, to which up to a fifth is added by chance (Standard Webhooks asks
    for jitter); off_after_s: how long nothing was delivered when a receiver is switched off; claim_s: after which
    another instance sends what this one has not marked."""

    retry_after_s: tuple[float, ...] = (5, 300, 1800, 7200, 18_000, 36_000, 36_000)
    off_after_s: float = 86_400
    claim_s: float = 25

    def wait_s(self, attempts: int, wanted_s: float | None) -> float | None:
        """The wait after so many attempts; None: there are no more. wanted_s: the least, as the receiver asked."""
        if attempts > len(self.retry_after_s):
            return None
        wait = self.retry_after_s[attempts - 1] * random.uniform(1.0, 1.2)  # noqa: S311  # no secret
        return max(wait, wanted_s or 0)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One that this instance has claimed. url, secret (sealed): None for mail. attempts: with the one to come."""

    tenant_id: UUID
    delivery_id: UUID
    webhook_id: UUID
    workspace_id: UUID | None
    event: str
    payload: str
    attempts: int
    created_at: datetime
    channel: str
    url: str | None
    secret: str | None

    @classmethod
    def from_row(cls, row: Record) -> Delivery:
        """A row of take_deliveries."""
        return cls(**dict(row))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery after an attempt. retry_s: None when it is over. switched_off: why the receiver is."""

    retry_s: float | None = None
    switched_off: str | None = None


class DeliveryStore:
    """SQL for deliveries. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database, schedule: Schedule | None = None) -> None:
        self._database = database
        self.schedule = schedule or Schedule()

    async def take_alerts(self, most: int) -> list[Alert]:
        """Alerts of all tenants that nobody was told of; they come again unless `fan_out` is done soon."""
        async with self._database.system() as system:
            rows = await system.fetch(TAKE_ALERTS, most, self.schedule.claim_s)
        return [Alert.from_row(row) for row in rows]

    async def fan_out(self, alert: Alert) -> bool:
        """Make a delivery for each receiver that wants an alert; False when another instance has."""
        async with self._database.tenant(alert.tenant_id) as scope:
            if await scope.fetch_row(MARK_ALERT, alert.alert_id) is None:
                return False
            text = payload(THRESHOLD, alert.created_at, alert.data)
            await scope.execute(FAN_OUT, alert.alert_id, alert.workspace_id, THRESHOLD, text)
        return True

    async def take(self, most: int) -> list[Delivery]:
        """Claim what is due, of all tenants, at most one for each receiver."""
        async with self._database.system() as system:
            rows = await system.fetch(TAKE, most, self.schedule.claim_s)
        return [Delivery.from_row(row) for row in rows]

    async def mark(self, scope: Scope, delivery: Delivery, attempt: Attempt) -> Verdict:
        """Write down how an attempt ended. The receiver's row comes first, as for those who switch it off meanwhile."""
        if attempt.delivered:
            await scope.execute(WORKS, delivery.webhook_id)
            await scope.execute(DELIVERED, delivery.delivery_id, attempt.status)
            return Verdict()
        wait_s = None
        if delivery.event != TEST:
            await scope.execute(FAILS, delivery.webhook_id)
            if not attempt.gone:
                wait_s = self.schedule.wait_s(delivery.attempts, attempt.retry_after_s)
        if wait_s is not None:
            await scope.execute(AGAIN, delivery.delivery_id, attempt.status, attempt.error, wait_s)
            return Verdict(wait_s)
        await scope.execute(GIVEN_UP, delivery.delivery_id, attempt.status, attempt.error)
        return Verdict(switched_off=await self._switch_off(scope, delivery, attempt))

    async def _switch_off(self, scope: Scope, delivery: Delivery, attempt: Attempt) -> str | None:
        if delivery.event == TEST or delivery.url is None:
            return None
        reason = "gone" if attempt.gone else "failing"
        row = await scope.fetch_row(SWITCH_OFF, delivery.webhook_id, reason, self.schedule.off_after_s)
        if row is None:
            return None
        await scope.execute(GIVE_UP_REST, delivery.webhook_id)
        return reason

    async def add_test(
        self, scope: Scope, webhook_id: UUID, workspace_id: UUID | None, text: str
    ) -> UUID | None:
        """A message that is sent at once and tried once; None when there were too many in this minute."""
        if await scope.fetch_value(RECENT_TESTS, webhook_id, TEST) >= MAX_TESTS:
            return None
        delivery_id = uuid4()
        await scope.execute(ADD_TEST, delivery_id, webhook_id, workspace_id, TEST, text)
        return delivery_id

    async def last(self, scope: Scope, webhook_id: UUID, most: int) -> list[Record]:
        """The newest deliveries of a receiver."""
        return await scope.fetch(LAST, webhook_id, most)

    async def clean(self) -> None:
        """Announce what ended raises have brought about, and forget old deliveries."""
        async with self._database.system() as system:
            await system.execute(RAISES)
            await system.execute(DROP_OLD, KEPT_DAYS)
