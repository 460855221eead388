"""The schedule of attempts, and what an attempt makes of a delivery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.alerts.deliveries import KEPT_DAYS, DeliveryStore, Schedule
from geko_proxy.alerts.sender import Attempt
from tests.alerts.conftest import FAST, Office

DAY_S = 86_400


def test_a_message_is_tried_for_about_a_day() -> None:
    waits = [Schedule().wait_s(attempt, None) for attempt in range(1, 9)]
    assert waits[-1] is None
    total = sum(wait for wait in waits if wait is not None)
    assert DAY_S < total < 1.5 * DAY_S
    assert Schedule().off_after_s < sum(Schedule().retry_after_s)  # who never answers is switched off


@given(st.integers(1, 7), st.none() | st.floats(0, DAY_S))
def test_each_wait_has_its_chance_and_what_the_receiver_asks(attempt: int, asked: float | None) -> None:
    wait = Schedule().wait_s(attempt, asked)
    base = Schedule().retry_after_s[attempt - 1]
    assert wait is not None
    assert max(base, asked or 0) <= wait <= max(1.2 * base, asked or 0)


async def test_retry_after_is_waited_for(office: Office) -> None:
    store = DeliveryStore(office.database, FAST)
    await office.add("https://1.1.1.1/")
    await office.alert(80)
    (alert,) = await store.take_alerts(10)
    assert await store.fan_out(alert)
    assert not await store.fan_out(alert)  # another instance did
    (delivery,) = await store.take(10)
    async with office.database.tenant(delivery.tenant_id) as scope:
        await store.mark(scope, delivery, Attempt(429, "status 429", retry_after_s=3600))
    wait = await office.owner.fetchval(
        "select extract(epoch from next_attempt_at - now())::float from webhook_deliveries"
    )
    assert 3590 < wait <= 3600
    assert await store.take(10) == []


async def test_one_delivery_of_a_receiver_is_claimed_at_a_time(office: Office) -> None:
    store = DeliveryStore(office.database, FAST)
    for _ in range(2):
        await office.add("https://1.1.1.1/")
    await office.alert(80, 95)
    for alert in await store.take_alerts(10):
        await store.fan_out(alert)
    first = await store.take(10)
    assert len({each.webhook_id for each in first}) == len(first) == 2
    assert await store.take(10) == []
    for each in first:
        async with office.database.tenant(each.tenant_id) as scope:
            await store.mark(scope, each, Attempt(200))
    second = await store.take(1)
    assert len(second) == 1
    assert '"threshold":95' in second[0].payload


async def test_a_late_mark_changes_nothing_that_has_ended(office: Office) -> None:
    """Two instances have sent one message: the second result doesn't bring it back."""
    store = DeliveryStore(office.database, FAST)
    await office.add("https://1.1.1.1/")
    await office.alert(80)
    (alert,) = await store.take_alerts(1)
    await store.fan_out(alert)
    (delivery,) = await store.take(1)
    async with office.database.tenant(delivery.tenant_id) as scope:
        await store.mark(scope, delivery, Attempt(200))
        await store.mark(scope, delivery, Attempt(500, "status 500"))
    assert await office.states() == [("delivered", 1, 200, None)]


@pytest.mark.parametrize(("age_days", "left"), [(KEPT_DAYS - 1, 1), (KEPT_DAYS + 1, 0)])
async def test_old_deliveries_are_forgotten(office: Office, age_days: int, left: int) -> None:
    store = DeliveryStore(office.database, FAST)
    await office.add("https://1.1.1.1/")
    await office.alert(80)
    (alert,) = await store.take_alerts(1)
    await store.fan_out(alert)
    await office.owner.execute(
        "update webhook_deliveries set state = 'delivered', ended_at = now() - make_interval(days => $1)",
        age_days,
    )
    await store.clean()
    assert len(await office.states()) == left
