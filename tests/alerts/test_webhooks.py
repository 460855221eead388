"""Webhooks in the database: sealed, counted, and only in their place."""

from __future__ import annotations

import asyncio

import pytest

from geko_proxy.accounts.sealing import BrokenSeal, Sealer
from geko_proxy.alerts.webhooks import MAX_WEBHOOKS, TooManyWebhooks, WebhookStore
from tests.alerts.conftest import Office


async def test_the_secret_is_sealed_for_its_own_webhook(office: Office) -> None:
    webhook, secret = await office.add("https://1.1.1.1/")
    other, _ = await office.add("https://1.1.1.1/")
    sealed = await office.owner.fetchval(
        "select secret from webhooks where webhook_id = $1", webhook.webhook_id
    )
    assert secret.removeprefix("whsec_") not in sealed
    assert office.webhooks.opened(webhook.webhook_id, sealed) == secret
    with pytest.raises(BrokenSeal):
        office.webhooks.opened(other.webhook_id, sealed)
    with pytest.raises(BrokenSeal):
        WebhookStore(Sealer("t" * 32)).opened(webhook.webhook_id, sealed)


async def test_racing_creations_stop_at_the_limit(office: Office) -> None:
    made = await asyncio.gather(
        *(office.add("https://1.1.1.1/") for _ in range(MAX_WEBHOOKS + 5)), return_exceptions=True
    )
    assert sum(isinstance(each, TooManyWebhooks) for each in made) == 5
    await office.add("https://1.1.1.1/", of_tenant=True)  # counted apart


async def test_a_webhook_is_found_only_in_its_place(office: Office) -> None:
    webhook, _ = await office.add("https://1.1.1.1/")
    place = office.account.workspace_id
    async with office.database.tenant(office.account.tenant_id) as scope:
        assert await office.webhooks.get(scope, None, webhook.webhook_id) is None
        assert not await office.webhooks.delete(scope, None, webhook.webhook_id)
        assert await office.webhooks.get(scope, place, webhook.webhook_id) == webhook
        assert await office.webhooks.delete(scope, place, webhook.webhook_id)
