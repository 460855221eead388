"""Alerts in a database, and instances that deliver them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.alerts.deliveries import DeliveryStore, Schedule
from geko_proxy.alerts.mails import AlertMails
from geko_proxy.alerts.parts import AlertParts
from geko_proxy.alerts.sender import WebhookSender
from geko_proxy.alerts.targets import Targets
from geko_proxy.alerts.webhooks import Webhook, WebhookStore
from geko_proxy.alerts.worker import AlertWorker
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from tests.conftest import Account

FAST = Schedule((0.05, 0.05, 0.05), off_after_s=0, claim_s=60)
START = datetime(2026, 11, 1, tzinfo=UTC)


class Mailbox:
    """A mailer that keeps what it is given."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, str]] = []

    async def send(self, to: str, subject: str, text: str) -> None:
        self.got.append((to, subject, text))


@dataclass
class Office:
    """A workspace whose quota is announced. owner: an unrestricted connection."""

    account: Account
    database: Database
    owner: asyncpg.Connection[asyncpg.Record]
    webhooks: WebhookStore

    async def alert(self, *thresholds: int, used: int = 900, workspace_id: UUID | None = None) -> None:
        """Put alerts that were passed together into the outbox."""
        async with self.owner.transaction():
            for threshold in thresholds:
                await self.owner.execute(
                    "insert into quota_alerts (tenant_id, workspace_id, limit_id, subject, starts_at, ends_at,"
                    " threshold, unit, used, amount) values ($1, $2, $2, '', $3, $4, $5, 'tokens', $6, 1000)",
                    self.account.tenant_id,
                    workspace_id or self.account.workspace_id,
                    START,
                    START + timedelta(days=30),
                    threshold,
                    used,
                )

    async def add(self, url: str | None, *, of_tenant: bool = False, **given: Any) -> tuple[Webhook, str]:
        """A webhook, or mail without an url; with its secret."""
        place = None if of_tenant else self.account.workspace_id
        async with self.database.tenant(self.account.tenant_id) as scope:
            webhook, secret = await self.webhooks.create(
                scope,
                place,
                "mail" if url is None else "webhook",
                url,
                "",
                given.get("events", ["quota.threshold"]),
                enabled=given.get("enabled", True),
            )
        return webhook, secret or ""

    async def states(self) -> list[tuple[str, int, int | None, str | None]]:
        """State, attempts, status and error of each delivery, in order."""
        rows = await self.owner.fetch(
            "select state, attempts, last_status, last_error from webhook_deliveries order by seq"
        )
        return [tuple(row) for row in rows]


@pytest.fixture
async def office(database: Database, account: Account, dsn: str) -> AsyncIterator[Office]:
    owner = await asyncpg.connect(dsn)
    yield Office(account, database, owner, WebhookStore(Sealer("s" * 32)))
    await owner.close()


Instances = Callable[..., Any]


@pytest.fixture
async def instance(office: Office, dsn: str) -> AsyncIterator[Instances]:
    """Makes workers as those of several GEKOs, each with its own connections."""
    async with AsyncExitStack() as stack:

        async def make(
            schedule: Schedule = FAST,
            mailer: Mailbox | None = None,
            *,
            start: bool = False,
            poll_s: float = 0.02,
        ) -> AlertWorker:
            database = await Database.open(dsn)
            stack.push_async_callback(database.close)
            targets = Targets([ip_network("127.0.0.0/8")])
            parts = AlertParts(office.webhooks, DeliveryStore(database, schedule), targets)
            mails = AlertMails(database, mailer, "https://chat.example.org")
            worker = AlertWorker(database, parts, WebhookSender(targets, 1.0), mails, poll_s=poll_s)
            stack.push_async_callback(worker.stop)
            if start:
                invalidation = Invalidation(dsn)
                await invalidation.start()
                stack.push_async_callback(invalidation.stop)
                await worker.start(invalidation)
            return worker

        yield make
