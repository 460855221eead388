"""Trying passwords: the same work for known and unknown addresses, rehash, reports, and known devices."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from geko_proxy.accounts import passwords
from geko_proxy.accounts.passwords import Cost
from geko_proxy.accounts.registration import Registered
from geko_proxy.client_api.backoff import Rule
from geko_proxy.client_api.devices import COOKIE
from geko_proxy.client_api.login_limits import LoginLimits, TooManyAttempts
from geko_proxy.client_api.password_changes import PasswordChanges
from geko_proxy.client_api.password_check import PasswordCheck
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.exchange import Reply
from geko_proxy.services import Services
from tests.client_api.conftest import Call, MailBox

EMAIL, PASSWORD = "ann@example.org", "Correct-Horse-9"


@pytest.fixture
def limits() -> LoginLimits:
    return LoginLimits(account=Rule(3, 300, 900, 600))


@pytest.fixture
def check(services: Services, limits: LoginLimits) -> PasswordCheck:
    return PasswordCheck(services, limits)


@pytest.fixture
async def ann(services: Services) -> Registered:
    return await services.registration.register(email=EMAIL, password=PASSWORD, name="Ann", token_limit=None)


async def actions(services: Services, ann: Registered) -> list[str]:
    async with services.database.tenant(ann.tenant.tenant_id) as scope:
        rows = await scope.fetch("select action from audit_log where tenant_id = $1 order by occurred_at")
    return [row["action"] for row in rows]


async def guess(check: PasswordCheck, call: Call, email: str, times: int) -> list[bool]:
    """Wrong passwords; True: slowed down."""
    slowed = []
    for _ in range(times):
        try:
            assert await check.user_of(call()[0], email, "Wrong-Horse-9") is None
            slowed.append(False)
        except TooManyAttempts:
            slowed.append(True)
    return slowed


async def test_the_password_decides(check: PasswordCheck, call: Call, ann: Registered) -> None:
    found = await check.user_of(call()[0], " ANN@example.org", PASSWORD)
    assert found is not None
    assert found[0] == ann.user
    assert found[1].startswith("$scrypt$")
    assert await check.user_of(call()[0], EMAIL, PASSWORD + "x") is None
    assert await check.user_of(call()[0], "nobody@example.org", PASSWORD) is None


async def test_each_slowed_attempt_is_logged_and_one_a_burst_is_audited(
    check: PasswordCheck, call: Call, services: Services, ann: Registered, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "geko.sign_in")
    for email in (EMAIL, "nobody@example.org"):
        caplog.clear()
        assert await guess(check, call, email, 8) == [False] * 3 + [True] * 5
        slowed = [record for record in caplog.records if "slowed a sign-in" in record.message]
        assert [record.levelname for record in slowed] == ["WARNING"] + ["INFO"] * 4
        assert email not in caplog.text
    await services.background.idle()
    assert await actions(services, ann) == ["login.slowed"]


async def test_a_known_device_is_let_in_while_others_guess(
    check: PasswordCheck, call: Call, ann: Registered
) -> None:
    reply = Reply(200)
    check.devices.set(call()[0], reply, EMAIL)
    value = reply.headers["Set-Cookie"].partition(";")[0].removeprefix(f"{COOKIE}=")
    assert (await guess(check, call, EMAIL, 5))[-1]  # from the same network
    found = await check.user_of(call(cookies={COOKIE: value})[0], EMAIL, PASSWORD)
    assert found is not None
    assert found[0] == ann.user


async def test_a_hash_of_other_parameters_is_replaced(
    check: PasswordCheck, call: Call, services: Services, ann: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ann.tenant.tenant_id, ann.user.user_id
    before = await services.users.password_hash(*key)
    assert await check.user_of(call()[0], EMAIL, PASSWORD)
    assert await services.users.password_hash(*key) == before
    monkeypatch.setattr(passwords, "COST", Cost(log_n=5, r=8, p=1))
    assert await check.user_of(call()[0], EMAIL, PASSWORD)
    after = await services.users.password_hash(*key)
    assert after is not None
    assert after.startswith("$scrypt$ln=5,r=8,p=1$")
    await services.users.replace_hash(*key, before or "", "$old")  # changed meanwhile: stays
    assert await services.users.password_hash(*key) == after


async def test_a_reset_is_asked_for_without_looking_for_the_account(
    call: Call,
    services: Services,
    limits: LoginLimits,
    ann: Registered,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []
    real = services.users.find_login

    async def find(email: str) -> Any:
        looked.append(email)
        return await real(email)

    monkeypatch.setattr(services.users, "find_login", find)
    changes = PasswordChanges(services, SignIns(services, limits), limits)
    for email in (EMAIL, "nobody@example.org"):
        await changes.request_reset(call()[0], email)
    assert looked == []
    await asyncio.sleep(0)
    await services.background.idle()
    assert looked == [EMAIL, "nobody@example.org"]
    assert isinstance(services.mailer, MailBox)
    ((to, subject, text),) = services.mailer.mails
    assert (to, subject) == (EMAIL, "Set a new password")
    assert "https://public.example/reset-password?token=" in text
    assert str(ann.user.user_id) in text
