"""Guessing is slowed down; somebody else's guessing locks nobody out."""

from __future__ import annotations

import pytest

from geko_proxy.client_api.login_limits import LoginLimits
from geko_proxy.errors import Refused


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> LoginLimits:
    return LoginLimits(failures=3, failures_per_address=5, registrations=2, window_s=300, clock=clock)


def fail(limits: LoginLimits, times: int, ip: str = "192.0.2.1", email: str = "a@x.org") -> None:
    for _ in range(times):
        limits.begin(ip, email)


def test_too_many_failures_of_an_account_from_an_address(limits: LoginLimits, clock: Clock) -> None:
    fail(limits, 3)
    clock.now += 100
    with pytest.raises(Refused, match="try again after 4 minutes") as refused:
        limits.begin("192.0.2.1", " A@X.org")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 200)
    limits.begin("192.0.2.2", "a@x.org")  # the owner, from elsewhere
    limits.begin("192.0.2.1", "b@x.org")  # a colleague behind the same address
    clock.now += 201
    fail(limits, 3)


def test_refused_attempts_do_not_prolong_the_wait(limits: LoginLimits, clock: Clock) -> None:
    fail(limits, 3)
    for _ in range(20):
        with pytest.raises(Refused):
            limits.begin("192.0.2.1", "a@x.org")
    clock.now += 301
    limits.begin("192.0.2.1", "a@x.org")


def test_many_accounts_from_one_address(limits: LoginLimits) -> None:
    for n in range(5):
        limits.begin("2001:db8::1", f"user{n}@x.org")
    with pytest.raises(Refused):
        limits.begin("2001:db8::ffff:2", "user9@x.org")


def test_success_is_not_counted(limits: LoginLimits) -> None:
    for _ in range(50):
        limits.begin("192.0.2.1", "a@x.org")
        limits.succeeded("192.0.2.1", "a@x.org")


def test_registrations(limits: LoginLimits) -> None:
    limits.begin_registration("192.0.2.1")
    limits.begin_registration("192.0.2.1")
    with pytest.raises(Refused, match="accounts created"):
        limits.begin_registration("192.0.2.1")
    limits.begin_registration("192.0.2.2")
