"""Guessing is slowed down; somebody else's guessing locks nobody out."""

from __future__ import annotations

from uuid import uuid4

import pytest

from geko_proxy.client_api.backoff import Rule
from geko_proxy.client_api.login_limits import (
    ACCOUNT,
    EVERYWHERE,
    MAILS,
    RESET_NETWORK,
    RESETS,
    TRIED_S,
    LoginLimits,
    TooManyAttempts,
    account_of,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> LoginLimits:
    return LoginLimits(
        account=Rule(3, 100, 400, 600),
        network=Rule(5, 10, 100, 60),
        everywhere=Rule(8, 1, 60, 600),
        registrations=Rule(2, 60, 60, 60),
        clock=clock,
    )


async def fail(limits: LoginLimits, times: int, ip: str = "192.0.2.1", email: str = "a@x.org") -> None:
    for _ in range(times):
        await limits.begin(ip, email)


async def test_an_account_from_one_address(limits: LoginLimits, clock: Clock) -> None:
    await fail(limits, 3)
    clock.now += 20
    with pytest.raises(TooManyAttempts, match="try again after 2 minutes") as refused:
        await limits.begin("192.0.2.1", " A@X.org")
    assert (refused.value.status, refused.value.retry_after_s, refused.value.rule) == (429, 80, "account")
    await limits.begin("192.0.2.2", "a@x.org")  # the owner, from elsewhere
    await limits.begin("192.0.2.1", "b@x.org")  # a colleague behind the same address
    clock.now += 81
    await fail(limits, 1)
    with pytest.raises(TooManyAttempts) as refused:
        await limits.begin("192.0.2.1", "a@x.org")
    assert 100 < (refused.value.retry_after_s or 0) <= 200  # twice as long


async def test_only_the_first_refusal_of_a_burst_is_reported(limits: LoginLimits, clock: Clock) -> None:
    await fail(limits, 3)
    begins = []
    for _ in range(20):
        with pytest.raises(TooManyAttempts) as refused:
            await limits.begin("192.0.2.1", "a@x.org")
        begins.append(refused.value.begins)
    assert begins == [True] + [False] * 19
    clock.now += 101  # and refused attempts do not prolong the wait
    await limits.begin("192.0.2.1", "a@x.org")


async def test_many_accounts_from_one_address(limits: LoginLimits) -> None:
    for n in range(5):
        await limits.begin("2001:db8::1", f"user{n}@x.org")
    with pytest.raises(TooManyAttempts) as refused:
        await limits.begin("2001:db8::ffff:2", "user9@x.org")
    assert refused.value.rule == "network"


async def test_one_account_from_many_addresses_and_its_owners_own_device(
    limits: LoginLimits, clock: Clock
) -> None:
    for n in range(8):
        await limits.begin(f"192.0.2.{n}", "a@x.org")
    with pytest.raises(TooManyAttempts) as refused:
        await limits.begin("192.0.2.99", "a@x.org")
    assert (refused.value.rule, refused.value.retry_after_s) == ("everywhere", 1)
    for n in range(20):  # they go on, from ever new addresses, whenever it is allowed
        clock.now += 61
        await limits.begin(f"203.0.113.{n}", "a@x.org")
    await limits.begin("192.0.2.99", "a@x.org", "a known device")
    with pytest.raises(TooManyAttempts) as refused:
        await limits.begin("198.51.100.1", "a@x.org")
    assert refused.value.retry_after_s == 60  # nobody waits longer for what others do


async def test_success_is_not_counted(limits: LoginLimits) -> None:
    for _ in range(50):
        await limits.begin("192.0.2.1", "a@x.org")
        await limits.succeeded("192.0.2.1", "a@x.org")
        await limits.begin("192.0.2.1", "a@x.org", "device")
        await limits.succeeded("192.0.2.1", "a@x.org", "device")


async def test_registrations(limits: LoginLimits, clock: Clock) -> None:
    await limits.begin_registration("192.0.2.1")
    await limits.begin_registration("192.0.2.1")
    with pytest.raises(TooManyAttempts, match="accounts created"):
        await limits.begin_registration("192.0.2.1")
    await limits.begin_registration("192.0.2.2")
    clock.now += 61
    await limits.begin_registration("192.0.2.1")


async def test_mails_of_one_person(limits: LoginLimits, clock: Clock) -> None:
    one, other = uuid4(), uuid4()
    for _ in range(MAILS.free):
        await limits.begin_mail(one)
    with pytest.raises(TooManyAttempts, match="mails"):
        await limits.begin_mail(one)
    await limits.begin_mail(other)
    clock.now += MAILS.leak_s
    await limits.begin_mail(one)


async def test_who_has_not_tried_yet_is_told_apart_from_a_flood(limits: LoginLimits, clock: Clock) -> None:
    ranks = [await limits.begin("192.0.2.1", f"u{n}@x.org") for n in range(3)]
    assert ranks == [0, 1, 2]
    assert await limits.begin("198.51.100.7", "a@x.org") == 0
    await limits.succeeded("198.51.100.7", "a@x.org")
    assert await limits.begin("198.51.100.7", "a@x.org") == 0  # an office that signs in is no flood
    clock.now += TRIED_S + 1
    assert await limits.begin("192.0.2.1", "u9@x.org") == 0


async def test_mails_to_one_address_end_in_silence_and_one_network_is_refused(limits: LoginLimits) -> None:
    sent = [await limits.begin_reset(f"192.0.2.{n}", "a@x.org") for n in range(RESETS.free + 3)]
    assert sent == [True] * RESETS.free + [False] * 3
    for n in range(RESET_NETWORK.free):
        assert await limits.begin_reset("198.51.100.1", f"user{n}@x.org")
    with pytest.raises(TooManyAttempts) as refused:
        await limits.begin_reset("198.51.100.1", "other@x.org")
    assert refused.value.retry_after_s == RESET_NETWORK.base_s


def test_the_pace_that_can_be_kept_up() -> None:
    assert (
        EVERYWHERE.cap_s <= 60
    )  # decision 0027: strangers can delay an unknown device so long, and no longer
    assert 3600 / ACCOUNT.leak_s <= 6


def test_keys_show_no_address() -> None:
    assert account_of(" A@X.org") == account_of("a@x.org") != account_of("b@x.org")
    assert "x.org" not in account_of("a@x.org")
    assert account_of("\ud800")
