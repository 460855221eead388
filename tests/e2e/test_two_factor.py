"""Signing in with a one-time code as second factor, over /v1 and as LibreChat's own page does it."""

from __future__ import annotations

import asyncio
import time
from http.cookies import SimpleCookie
from typing import Any

import aiohttp
import pyotp
import pytest

from tests.e2e.people import PASSWORD, Answer, Person, login, post


def code_of(secret: str, step: int = 0) -> str:
    """The code now, or so many steps later."""
    return pyotp.TOTP(secret).at(int(time.time()) + 30 * step)


async def early_in_a_step() -> None:
    """Wait until "the code now" means one thing for the rest of a test."""
    into = time.time() % 30
    if into > 15:
        await asyncio.sleep(30.1 - into)


def wrong_code(secret: str) -> str:
    """A code that fits none of the steps around now."""
    near = {code_of(secret, step) for step in range(-3, 4)}
    return next(f"{n:06}" for n in range(20) if f"{n:06}" not in near)


async def switch_on(person: Person) -> tuple[str, list[str]]:
    """Enrol and confirm with the code of the step before, so that the present one is still good."""
    await early_in_a_step()
    made = await person.call("POST", "/v1/auth/totp", {"password": PASSWORD})
    assert made.status == 200, made
    secret = made.json["secret"]
    assert f"secret={secret}" in made.json["otpauthUri"]
    done = await person.call("POST", "/v1/auth/totp/confirm", {"code": code_of(secret, -1)})
    assert done.status == 200, done
    return secret, done.json["recoveryCodes"]


async def first_step(client: aiohttp.ClientSession, person: Person) -> str:
    """The ticket of a right password."""
    answer = await post(client, "/v1/auth/login", {"email": person.email, "password": PASSWORD})
    assert answer.status == 200
    assert set(answer.json) == {"twoFactorRequired", "ticket", "expiresIn"}
    assert "Set-Cookie" not in answer.headers
    return str(answer.json["ticket"])


async def second_step(client: aiohttp.ClientSession, ticket: str, **body: Any) -> Answer:
    return await post(client, "/v1/auth/login/totp", {"ticket": ticket, **body})


def error_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


async def test_switching_it_on_needs_password_and_code(alice: Person, client: aiohttp.ClientSession) -> None:
    other = await login(client, alice.email)
    assert error_of(await alice.call("POST", "/v1/auth/totp", {"password": "Wrong-Horse-9"})) == (
        403,
        "wrong_password",
    )
    assert error_of(await alice.call("POST", "/v1/auth/totp/confirm", {"code": "123456"})) == (
        400,
        "not_begun",
    )
    made = (await alice.call("POST", "/v1/auth/totp", {"password": PASSWORD})).json
    assert (await alice.call("GET", "/v1/auth/totp")).json == {"enabled": False, "recoveryCodesLeft": 0}
    assert (await login(client, alice.email)).token  # it does not count before it is confirmed
    wrong = await alice.call("POST", "/v1/auth/totp/confirm", {"code": wrong_code(made["secret"])})
    assert error_of(wrong) == (403, "wrong_code")
    done = await alice.call("POST", "/v1/auth/totp/confirm", {"code": code_of(made["secret"])})
    assert len(set(done.json["recoveryCodes"])) == 10
    assert (await alice.call("GET", "/v1/auth/totp")).json == {"enabled": True, "recoveryCodesLeft": 10}
    assert (await other.call("GET", "/v1/auth/me")).status == 401  # signed in with less
    assert (await alice.call("GET", "/api/user")).json["twoFactorEnabled"] is True
    replaced = await alice.call("POST", "/v1/auth/totp", {"password": PASSWORD})
    assert error_of(replaced) == (400, "code_required")


async def test_a_code_counts_once(alice: Person, client: aiohttp.ClientSession) -> None:
    secret, _ = await switch_on(alice)
    used = await second_step(client, await first_step(client, alice), code=code_of(secret, -1))
    assert error_of(used) == (401, "wrong_code")  # the one that confirmed
    tickets = [await first_step(client, alice) for _ in range(4)]
    code = code_of(secret)
    answers = await asyncio.gather(*(second_step(client, ticket, code=code) for ticket in tickets))
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]
    (done,) = [answer for answer in answers if answer.status == 200]
    assert {"accessToken", "refreshToken", "user"} <= set(done.json)
    # a client whose clock is a step ahead, but not two
    ticket = await first_step(client, alice)
    assert error_of(await second_step(client, ticket, code=code_of(secret, 3))) == (401, "wrong_code")
    assert (await second_step(client, ticket, code=code_of(secret, 1))).status == 200
    assert error_of(await second_step(client, ticket, code=code_of(secret, 1))) == (401, "ticket_over")


async def test_recovery_codes(alice: Person, client: aiohttp.ClientSession) -> None:
    secret, codes = await switch_on(alice)
    tickets = [await first_step(client, alice) for _ in range(3)]
    answers = await asyncio.gather(
        *(second_step(client, ticket, recoveryCode=f" {codes[0].upper()} ") for ticket in tickets)
    )
    assert sorted(answer.status for answer in answers) == [200, 401, 401]
    assert (await alice.call("GET", "/v1/auth/totp")).json["recoveryCodesLeft"] == 9
    proof = {"password": PASSWORD, "code": code_of(secret)}
    renewed = await alice.call("POST", "/v1/auth/totp/recovery-codes", proof)
    assert renewed.status == 200
    assert not set(renewed.json["recoveryCodes"]) & set(codes)
    ticket = await first_step(client, alice)
    assert error_of(await second_step(client, ticket, recoveryCode=codes[1])) == (401, "wrong_code")
    new = renewed.json["recoveryCodes"]
    assert (await second_step(client, ticket, recoveryCode=new[0])).status == 200
    off = await alice.call("DELETE", "/v1/auth/totp", {"password": PASSWORD, "recoveryCode": new[1]})
    assert off.status == 204
    assert (await login(client, alice.email)).token


async def test_wrong_codes_are_limited_for_the_account(alice: Person, client: aiohttp.ClientSession) -> None:
    secret, _ = await switch_on(alice)
    ticket = await first_step(client, alice)
    statuses = [(await second_step(client, ticket, code=wrong_code(secret))).status for _ in range(6)]
    assert statuses == [401] * 6
    fresh = await first_step(client, alice)
    blocked = await second_step(client, fresh, code=code_of(secret))
    assert error_of(blocked) == (429, "too_many_attempts")
    assert 1 <= int(blocked.headers["Retry-After"]) <= 30
    # also in the settings, where no ticket is asked for
    off = await alice.call("DELETE", "/v1/auth/totp", {"password": PASSWORD, "code": code_of(secret)})
    assert off.status == 429


@pytest.mark.parametrize("ticket", ["", "x", "A" * 86, "é" * 86])
async def test_tickets_that_are_none(client: aiohttp.ClientSession, ticket: str) -> None:
    answer = await second_step(client, ticket, code="123456")
    assert answer.status in (400, 401)


async def test_a_ticket_is_its_clients_and_ends_with_the_password(
    alice: Person, client: aiohttp.ClientSession
) -> None:
    secret, _ = await switch_on(alice)
    ticket = await first_step(client, alice)
    body = {"ticket": ticket, "code": code_of(secret)}
    stolen = await post(client, "/v1/auth/login/totp", body, User_Agent="another")
    assert error_of(stolen) == (401, "ticket_over")
    neither = await second_step(client, ticket)
    assert error_of(neither) == (400, "invalid_request")
    new = {"currentPassword": PASSWORD, "newPassword": "Purple-Giraffe-44"}
    assert (await alice.call("POST", "/v1/auth/password", new)).status == 204
    assert error_of(await second_step(client, ticket, code=code_of(secret))) == (401, "ticket_over")


async def test_librechats_settings_dialog_and_login_screen(
    alice: Person, client: aiohttp.ClientSession
) -> None:
    """As client/src/components/Nav/SettingsTabs/Account/TwoFactorAuthentication.tsx and TwoFactorScreen.tsx do it."""
    await early_in_a_step()
    enabled = await alice.call("POST", "/api/auth/2fa/enable")
    assert set(enabled.json) == {"otpauthUrl", "backupCodes"}
    secret = enabled.json["otpauthUrl"].split("secret=")[1].split("&")[0]
    assert [len(code) for code in enabled.json["backupCodes"]] == [8] * 10
    wrong = await alice.call("POST", "/api/auth/2fa/verify", {"token": wrong_code(secret)})
    assert (wrong.status, wrong.json) == (400, {"message": "Invalid token or backup code."})
    token = {"token": code_of(secret, -1)}
    assert (await alice.call("POST", "/api/auth/2fa/verify", token)).status == 200
    assert (await alice.call("POST", "/api/auth/2fa/confirm", token)).status == 200
    assert (await alice.call("GET", "/api/user")).json["twoFactorEnabled"] is True

    pending = await post(client, "/api/auth/login", {"email": alice.email, "password": PASSWORD})
    assert (pending.status, set(pending.json)) == (200, {"twoFAPending", "tempToken"})
    cookies = SimpleCookie(pending.headers["Set-Cookie"])
    assert cookies["geko_2fa"]["httponly"]
    cookie = f"geko_2fa={cookies['geko_2fa'].value}"
    body = {"tempToken": pending.json["tempToken"], "token": code_of(secret)}
    path = "/api/auth/2fa/verify-temp"
    assert (await post(client, path, body)).status == 401  # another browser that saw the address
    wrong = await post(client, path, {**body, "token": wrong_code(secret)}, Cookie=cookie)
    assert (wrong.status, wrong.json) == (401, {"message": "Invalid 2FA code or backup code"})
    done = await post(client, path, body, Cookie=cookie)
    assert done.status == 200
    assert done.json["token"].count(".") == 2
    assert done.json["user"]["twoFactorEnabled"] is True
    assert (await post(client, path, body, Cookie=cookie)).status == 401

    pending = await post(client, "/api/auth/login", {"email": alice.email, "password": PASSWORD})
    cookie = f"geko_2fa={SimpleCookie(pending.headers['Set-Cookie'])['geko_2fa'].value}"
    backup = {"tempToken": pending.json["tempToken"], "backupCode": enabled.json["backupCodes"][0]}
    assert (await post(client, path, backup, Cookie=cookie)).status == 200

    missing = await alice.call("POST", "/api/auth/2fa/backup/regenerate", {})
    assert missing.status == 400
    codes = {"backupCode": enabled.json["backupCodes"][1]}
    renewed = await alice.call("POST", "/api/auth/2fa/backup/regenerate", codes)
    assert len(renewed.json["backupCodes"]) == 10
    old = await alice.call("POST", "/api/auth/2fa/disable", {"backupCode": enabled.json["backupCodes"][2]})
    assert (old.status, old.json) == (401, {"message": "Invalid token or backup code"})
    last = {"backupCode": renewed.json["backupCodes"][0]}
    assert (await alice.call("POST", "/api/auth/2fa/disable", last)).status == 200
    assert (await alice.call("GET", "/api/user")).json["twoFactorEnabled"] is False
    assert (await login(client, alice.email)).token


@pytest.mark.parametrize(
    "body", [{}, {"tempToken": 1}, {"tempToken": "x", "token": {"$ne": 1}}, {"tempToken": "x"}]
)
async def test_odd_bodies_of_the_login_screen(client: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    answer = await post(client, "/api/auth/2fa/verify-temp", body)
    assert answer.status in (400, 401)
    assert set(answer.json) == {"message"}


@pytest.mark.parametrize("action", ["enable", "verify", "confirm", "disable", "backup/regenerate"])
async def test_the_dialog_needs_a_session(client: aiohttp.ClientSession, action: str) -> None:
    assert (await post(client, f"/api/auth/2fa/{action}", {"token": "123456"})).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v1/auth/login/totp",
        "/v1/auth/password",
        "/v1/auth/password/forgot",
        "/v1/auth/password/reset",
        "/v1/auth/totp",
        "/v1/auth/totp/confirm",
        "/v1/auth/totp/recovery-codes",
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": 1, "email": [], "password": {}, "currentPassword": None, "token": 2, "ticket": True},
        {"code": "\0", "ticket": "\0" * 86, "email": "a\0@x.org", "password": "\0", "token": "\0" * 86,
         "currentPassword": "\0", "newPassword": "\0" * 9, "recoveryCode": "\0"},
        {"password": "x" * 2000, "code": "1" * 2000, "newPassword": "y" * 2000, "ticket": "t" * 2000},
    ],
)  # fmt: skip
async def test_bad_bodies_are_named(alice: Person, path: str, body: dict[str, Any]) -> None:
    answer = await alice.call("POST", path, body)
    assert answer.status == 400, answer
    error = answer.json["error"]
    assert error["code"] == "invalid_request"
    assert error["details"]
