"""Delivers alerts on every instance: woken by the database, at most one delivery at a time for each receiver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from geko_proxy.accounts.sealing import BrokenSeal
from geko_proxy.alerts.deliveries import Delivery, Verdict
from geko_proxy.alerts.mails import AlertMails
from geko_proxy.alerts.parts import AlertParts
from geko_proxy.alerts.sender import Attempt, WebhookSender
from geko_proxy.alerts.signing import message_id
from geko_proxy.errors import StoreError
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces.audit import Audit

log = logging.getLogger("geko.alerts")

TOPIC: Final = "alerts"  # announced by triggers of sql/0019_webhooks.sql
POLL_S: Final = 5.0  # for what is due again
CLEAN_S: Final = 60.0
AT_ONCE: Final = 32
STOP_S: Final = 5.0


class AlertWorker:
    """Takes alerts out of the outbox and delivers them. poll_s: how often is looked without being woken."""

    def __init__(
        self,
        database: Database,
        parts: AlertParts,
        sender: WebhookSender,
        mails: AlertMails,
        *,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._deliveries = parts.deliveries
        self._webhooks = parts.webhooks
        self._sender = sender
        self._mails = mails
        self._poll_s = poll_s
        self._clock = clock
        self._audit = Audit()
        self._woken = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._cleaned = -CLEAN_S

    async def start(self, invalidation: Invalidation | None = None) -> None:
        """Begin; invalidation: what wakes it."""
        if invalidation is not None:
            invalidation.subscribe(TOPIC, lambda _: self._woken.set())
        self._loop = asyncio.create_task(self._run(), name="alerts")

    async def stop(self) -> None:
        """Take nothing more and let attempts end; what does not is sent again, here or elsewhere."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        if self._running:
            _, late = await asyncio.wait(set(self._running), timeout=STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._sender.close()

    async def work(self) -> None:
        """One round: announce, and start what is due. Raises StoreError."""
        now = self._clock()
        if now - self._cleaned >= CLEAN_S:
            self._cleaned = now
            await self._deliveries.clean()
        while alerts := await self._deliveries.take_alerts(AT_ONCE):
            for alert in alerts:
                if await self._deliveries.fan_out(alert):
                    log.warning("quota alert %s", alert.log_line)
        while (free := AT_ONCE - len(self._running)) > 0:
            taken = await self._deliveries.take(free)
            for delivery in taken:
                task = asyncio.create_task(self._deliver(delivery), name=f"delivery {delivery.delivery_id}")
                self._running.add(task)
                task.add_done_callback(self._ended)
            if not taken:
                break

    async def idle(self) -> None:
        """Wait until no attempt runs."""
        while self._running:
            await asyncio.wait(set(self._running))

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self.work()
            except (StoreError, asyncpg.PostgresError) as error:
                log.warning("alerts wait: %s", error)
                await asyncio.sleep(1)  # woken by the reconnection, it would ask at once
            except Exception:
                log.exception("delivering alerts failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._woken.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._woken.set()  # the receiver's next one may go

    async def _deliver(self, delivery: Delivery) -> None:
        """One attempt. Whatever happens, the claim runs out and it is tried again."""
        try:
            attempt = await self._attempt(delivery)
            async with self._database.tenant(delivery.tenant_id) as scope:
                verdict = await self._deliveries.mark(scope, delivery, attempt)
                if verdict.switched_off is not None:
                    await self._audit.record(
                        scope,
                        actor_user_id=None,
                        action="webhook.disable",
                        target=f"webhook/{delivery.webhook_id}",
                        ip=None,
                        request_id=None,
                        details={"reason": verdict.switched_off, "error": attempt.error},
                    )
            note(delivery, attempt, verdict)
        except (StoreError, asyncpg.PostgresError) as error:
            log.warning("delivery %s is not marked, it will be sent again: %s", delivery.delivery_id, error)
        except Exception:
            log.exception("delivery %s failed", delivery.delivery_id)

    async def _attempt(self, delivery: Delivery) -> Attempt:
        if delivery.url is None or delivery.secret is None:
            return await self._mails.send(delivery)
        try:
            secret = self._webhooks.opened(delivery.webhook_id, delivery.secret)
        except BrokenSeal:
            return Attempt(error="the secret can't be opened; give the webhook a new one")
        name = message_id(delivery.delivery_id)
        return await self._sender.send(delivery.url, secret, name, delivery.payload)


def note(delivery: Delivery, attempt: Attempt, verdict: Verdict) -> None:
    """Write an attempt into the log."""
    place = f"delivery {delivery.delivery_id} ({delivery.event}) to webhook {delivery.webhook_id}"
    if attempt.delivered:
        log.info("%s: delivered at attempt %d", place, delivery.attempts)
    elif verdict.retry_s is not None:
        shown = (place, attempt.error, delivery.attempts, verdict.retry_s)
        log.info("%s: %s at attempt %d, tried again in %.0f s", *shown)
    else:
        log.error("%s: %s at attempt %d, given up", place, attempt.error, delivery.attempts)
    if verdict.switched_off is not None:
        log.error("webhook %s is switched off (%s)", delivery.webhook_id, verdict.switched_off)
