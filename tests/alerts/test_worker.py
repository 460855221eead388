"""Deliveries against real receivers: again after failures, once with two instances, after a crash, and given up."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from uuid import uuid4

import pytest

from geko_proxy.alerts.deliveries import Schedule
from geko_proxy.alerts.worker import AlertWorker
from tests.alerts.conftest import FAST, Instances, Mailbox, Office
from tests.alerts.receiver import receiving


async def until(office: Office, *states: str) -> list[tuple[str, int, int | None, str | None]]:
    """The deliveries, once they are in these states."""
    found = await office.states()
    for _ in range(1000):
        if [each[0] for each in found] == list(states):
            return found
        await asyncio.sleep(0.01)
        found = await office.states()
    raise AssertionError(found)


async def test_alerts_arrive_signed_in_their_order(
    office: Office, instance: Instances, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving() as receiver:
        _, secret = await office.add(receiver.url)
        await instance(start=True)
        with caplog.at_level(logging.WARNING, "geko.alerts"):
            await office.alert(80, 95, 100)
            got = await receiver.wait_for(3)
            await until(office, *["delivered"] * 3)
        messages = [each.verified(secret) for each in got]
    assert [each["data"]["threshold"] for each in messages] == [80, 95, 100]
    first = messages[0]
    assert (first["type"], set(first)) == ("quota.threshold", {"type", "timestamp", "data"})
    data = first["data"]
    assert (data["used"], data["amount"], data["remaining"], data["unit"]) == (900, 1000, 100, "tokens")
    assert (data["scope"], data["period"], data["resetsAt"]) == ("workspace", "month", "2026-12-01T00:00:00Z")
    assert data["workspaceId"] == data["limit"] == str(office.account.workspace_id)
    assert data["tenantId"] == str(office.account.tenant_id)
    assert len({each.id for each in got}) == 3
    lines = [each.getMessage() for each in caplog.records if "quota alert" in each.getMessage()]
    assert len(lines) == 3
    assert '"threshold":80' in lines[0]


async def test_an_alert_goes_out_at_once(office: Office, instance: Instances) -> None:
    """Woken by the database, not by looking again and again."""
    async with receiving() as receiver:
        await office.add(receiver.url)
        await instance(start=True, poll_s=60)
        await asyncio.sleep(0.3)
        await office.alert(80)
        await receiver.wait_for(1, seconds=5)


async def test_failures_are_tried_again_with_the_same_id_and_body(
    office: Office, instance: Instances
) -> None:
    async with receiving(500, "hang", "break") as receiver:
        _, secret = await office.add(receiver.url)
        await instance(start=True)
        await office.alert(80)
        got = await receiver.wait_for(4)
        assert await until(office, "delivered") == [("delivered", 4, 200, None)]
        assert len({(each.id, each.body) for each in got}) == 1
        assert all(each.verified(secret) for each in got)
    assert await office.owner.fetchval("select failing_since from webhooks") is None


async def test_two_instances_deliver_each_once(office: Office, instance: Instances) -> None:
    async with receiving() as receiver:
        for _ in range(5):
            await office.add(receiver.url)
        for _ in range(2):
            await instance(start=True)
        for threshold in range(50, 70):
            await office.alert(threshold)
        await until(office, *["delivered"] * 100)
        assert len(receiver.got) == len({each.id for each in receiver.got}) == 100


async def test_after_a_crash_between_sending_and_marking_it_is_sent_again(
    office: Office, instance: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as receiver:
        await office.add(receiver.url)
        crashing: AlertWorker = await instance(Schedule(claim_s=0.5))

        async def crash(*_: Any) -> None:
            raise asyncio.CancelledError

        monkeypatch.setattr(crashing._deliveries, "mark", crash)
        await office.alert(80)
        await crashing.work()
        await crashing.idle()
        assert len(receiver.got) == 1
        other: AlertWorker = await instance(FAST)
        await other.work()
        await other.idle()
        assert len(receiver.got) == 1  # the claim still counts
        await asyncio.sleep(0.6)
        await other.work()
        await other.idle()
        assert await office.states() == [("delivered", 2, 200, None)]
        assert receiver.got[0].id == receiver.got[1].id


async def test_a_crash_before_the_receivers_are_known_loses_nothing(
    office: Office, instance: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as receiver:
        await office.add(receiver.url)
        crashing: AlertWorker = await instance(Schedule(claim_s=0.2))
        await office.alert(80)
        assert len(await crashing._deliveries.take_alerts(10)) == 1
        assert await crashing._deliveries.take_alerts(10) == []
        await asyncio.sleep(0.3)
        await instance(start=True)
        await receiver.wait_for(1)


async def test_a_slow_receiver_holds_up_nobody(office: Office, instance: Instances) -> None:
    async with receiving(*["hang"] * 40) as slow, receiving() as quick:
        await office.add(slow.url)
        await office.add(quick.url)
        await instance(start=True)
        before = time.monotonic()
        for threshold in range(1, 41):
            await office.alert(threshold)
        await quick.wait_for(40)
        assert len(slow.got) <= 1 + (time.monotonic() - before)  # one at a time, each until its time limit


async def test_given_up_and_switched_off_after_a_long_failure(
    office: Office, instance: Instances, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving(*[500] * 99) as receiver:
        webhook, _ = await office.add(receiver.url)
        await instance(start=True)
        await office.alert(80)
        assert await until(office, "failed") == [("failed", 4, 500, "status 500")]
        async with asyncio.timeout(5):
            while "switched off" not in caplog.text:
                await asyncio.sleep(0.01)
        row = await office.owner.fetchrow("select enabled, disabled_reason from webhooks")
        assert tuple(row or ()) == (False, "failing")
        entry = await office.owner.fetchrow("select * from audit_log where action = 'webhook.disable'")
        assert entry is not None
        assert (entry["target"], entry["actor_user_id"]) == (f"webhook/{webhook.webhook_id}", None)
        await office.alert(95)
        await asyncio.sleep(0.3)
        assert len(receiver.got) == 4
    assert "given up" in caplog.text


async def test_a_short_failure_does_not_switch_off(office: Office, instance: Instances) -> None:
    async with receiving(*[500] * 4) as receiver:
        await office.add(receiver.url)
        await instance(Schedule((0.05,) * 3, off_after_s=3600), start=True)
        await office.alert(80)
        await until(office, "failed")
        await office.alert(95)
        await until(office, "failed", "delivered")
    assert await office.owner.fetchval("select enabled from webhooks") is True


async def test_410_switches_off_at_once_and_ends_what_waits(office: Office, instance: Instances) -> None:
    async with receiving(410) as receiver:
        await office.add(receiver.url)
        await instance(start=True)
        await office.alert(80, 95)
        found = await until(office, "failed", "failed")
        assert found == [("failed", 1, 410, "status 410"), ("failed", 0, None, "switched off")]
        assert len(receiver.got) == 1
    assert await office.owner.fetchval("select disabled_reason from webhooks") == "gone"


async def test_only_those_who_want_it_get_it(office: Office, instance: Instances) -> None:
    other = uuid4()
    await office.owner.execute(
        "insert into workspaces (tenant_id, workspace_id, name) values ($1, $2, 'Other')",
        office.account.tenant_id,
        other,
    )
    async with receiving() as own, receiving() as whole, receiving() as off, receiving() as deaf:
        await office.add(own.url)
        await office.add(whole.url, of_tenant=True)
        await office.add(off.url, enabled=False)
        await office.add(deaf.url, events=["something.else"])
        await instance(start=True)
        await office.alert(80)
        await office.alert(95, workspace_id=other)
        await until(office, *["delivered"] * 3)
        assert (len(own.got), len(whole.got), len(off.got), len(deaf.got)) == (1, 2, 0, 0)


async def test_mail_gets_the_highest_of_what_was_passed_together(office: Office, instance: Instances) -> None:
    mailbox = Mailbox()
    await office.add(None)
    await instance(mailer=mailbox, start=True)
    await office.alert(80, 95)
    await until(office, "delivered")
    ((to, subject, text),) = mailbox.got
    assert to == office.account.email
    assert subject.startswith("95 % of the monthly quota of workspace ")
    assert "900 tokens of 1,000 tokens" in text
    assert "2026-12-01 00:00 (UTC)" in text


async def test_a_secret_of_another_key_is_told(office: Office, instance: Instances) -> None:
    async with receiving() as receiver:
        await office.add(receiver.url)
        await office.owner.execute(
            "update webhooks set secret = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'"
        )
        await instance(start=True)
        await office.alert(80)
        ((_, _, _, error),) = await until(office, "failed")
        assert "secret can't be opened" in (error or "")
        assert receiver.got == []


async def test_the_work_goes_on_when_the_database_was_away(
    office: Office, instance: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as receiver:
        await office.add(receiver.url)
        await instance(start=True)
        await asyncio.sleep(0.1)
        await office.owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        await office.alert(80)
        await receiver.wait_for(1)
