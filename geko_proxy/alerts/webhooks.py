"""Who is told: the webhooks and mail channels of workspaces and tenants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.alerts.signing import new_secret
from geko_proxy.errors import GekoError
from geko_proxy.storage.database import Scope

if TYPE_CHECKING:
    from asyncpg import Record

WEBHOOK: Final = "webhook"
MAIL: Final = "mail"
MAX_WEBHOOKS: Final = 20  # of a workspace, and of a tenant beside its workspaces

COLUMNS: Final = """webhook_id, workspace_id, channel, url, description, events, enabled, disabled_reason,
failing_since, created_at, updated_at"""
LIST: Final = f"""
select {COLUMNS} from webhooks where tenant_id = $1 and workspace_id is not distinct from $2
order by created_at, webhook_id"""  # noqa: S608  # the columns are ours
GET: Final = f"""
select {COLUMNS} from webhooks
where tenant_id = $1 and workspace_id is not distinct from $2 and webhook_id = $3 for no key update"""  # noqa: S608
INSERT: Final = f"""
insert into webhooks (tenant_id, webhook_id, workspace_id, channel, url, secret, description, events, enabled)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning {COLUMNS}"""  # noqa: S608
UPDATE: Final = f"""
update webhooks set url = $3, description = $4, events = $5, enabled = $6, updated_at = now(),
    disabled_reason = case when $6 then null else disabled_reason end,
    failing_since = case when $6 and not enabled then null else failing_since end
where tenant_id = $1 and webhook_id = $2 returning {COLUMNS}"""  # noqa: S608
RENEW: Final = "update webhooks set secret = $3 where tenant_id = $1 and webhook_id = $2"
DELETE: Final = """
delete from webhooks
where tenant_id = $1 and workspace_id is not distinct from $2 and webhook_id = $3 returning webhook_id"""
GIVE_UP_REST: Final = """
update webhook_deliveries set state = 'failed', ended_at = now(), last_error = coalesce(last_error, 'switched off')
where tenant_id = $1 and webhook_id = $2 and state = 'pending'"""
# two who add at once both count before either is there
LOCK: Final = (
    "select pg_advisory_xact_lock(hashtextextended($1::uuid::text || coalesce($2::uuid::text, ''), 19))"
)


class TooManyWebhooks(GekoError):
    """A place has MAX_WEBHOOKS already."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """One receiver. workspace_id: None for all workspaces of the tenant. url: None for mail to owners and admins.

    disabled_reason: why GEKO switched it off, None while it is on or when a person did it. failing_since: the first
    failure since the last success.
    """

    webhook_id: UUID
    workspace_id: UUID | None
    channel: str
    url: str | None
    description: str
    events: tuple[str, ...]
    enabled: bool
    disabled_reason: str | None = None
    failing_since: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Record) -> Webhook:
        """The receiver of a row of webhooks."""
        return replace(cls(**dict(row)), events=tuple(row["events"]))


class WebhookStore:
    """SQL for webhooks, inside a transaction of the caller."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def list(self, scope: Scope, workspace_id: UUID | None) -> list[Webhook]:
        """The receivers of a workspace, or of the tenant (None), oldest first."""
        return [Webhook.from_row(row) for row in await scope.fetch(LIST, workspace_id)]

    async def get(self, scope: Scope, workspace_id: UUID | None, webhook_id: UUID) -> Webhook | None:
        """One of them, locked; None where there is none."""
        row = await scope.fetch_row(GET, workspace_id, webhook_id)
        return Webhook.from_row(row) if row is not None else None

    async def create(
        self,
        scope: Scope,
        workspace_id: UUID | None,
        channel: str,
        url: str | None,
        description: str,
        events: Sequence[str],
        *,
        enabled: bool,
    ) -> tuple[Webhook, str | None]:
        """A new one with its secret, None for mail; the database keeps it sealed. Raises TooManyWebhooks."""
        await scope.execute(LOCK, workspace_id)
        if len(await scope.fetch(LIST, workspace_id)) >= MAX_WEBHOOKS:
            raise TooManyWebhooks
        webhook_id = uuid4()
        secret = new_secret() if url is not None else None
        sealed = self._sealer.seal(secret, place(webhook_id)) if secret is not None else None
        row = await scope.fetch_row(
            INSERT, webhook_id, workspace_id, channel, url, sealed, description, list(events), enabled
        )
        assert row is not None
        return Webhook.from_row(row), secret

    async def update(self, scope: Scope, webhook: Webhook) -> Webhook:
        """Write what a person decides. Switched off, what still waits is given up."""
        row = await scope.fetch_row(
            UPDATE,
            webhook.webhook_id,
            webhook.url,
            webhook.description,
            list(webhook.events),
            webhook.enabled,
        )
        assert row is not None
        if not webhook.enabled:
            await scope.execute(GIVE_UP_REST, webhook.webhook_id)
        return Webhook.from_row(row)

    async def renew_secret(self, scope: Scope, webhook_id: UUID) -> str:
        """Another secret; the old one signs nothing any more."""
        secret = new_secret()
        await scope.execute(RENEW, webhook_id, self._sealer.seal(secret, place(webhook_id)))
        return secret

    async def delete(self, scope: Scope, workspace_id: UUID | None, webhook_id: UUID) -> bool:
        """Remove one with its deliveries; False where there is none."""
        return await scope.fetch_row(DELETE, workspace_id, webhook_id) is not None

    def opened(self, webhook_id: UUID, sealed: str) -> str:
        """The secret of a row. Raises BrokenSeal."""
        return self._sealer.open(sealed, place(webhook_id))


def place(webhook_id: UUID) -> str:
    """Where the secret belongs (`Sealer`)."""
    return f"webhooks/{webhook_id}"
