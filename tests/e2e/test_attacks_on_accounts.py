"""Attacks on accounts against the running server: ways back in that outlive what should have ended them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from multidict import CIMultiDict

from tests.e2e.people import PASSWORD, Person, call, post, register
from tests.e2e.processes import Running, geko_environment, running

EMAIL = "/v1/auth/profile/email"
NEW = "Purple-Giraffe-44"
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def mailing(e2e_dsn: str, stand_in: Running, home: Path) -> Iterator[Running]:
    """A GEKO that writes mails into a folder, behind a proxy that tells the clients' addresses."""
    settings = {"GEKO_MAIL_TRANSPORT": "folder", "GEKO_SERVER_HOME": str(home)}
    settings["GEKO_SERVER_PUBLIC_URL"] = "http://geko.example"
    settings["GEKO_SERVER_TRUSTED_PROXIES"] = "127.0.0.0/8"
    environ = geko_environment(e2e_dsn, stand_in.url, **settings)
    with running(["geko_proxy", "serve"], environ, home / "log") as server:
        yield server


@pytest.fixture
async def victim(mailing: Running) -> AsyncIterator[Person]:
    async with aiohttp.ClientSession(mailing.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"victim{os.getpid()}n{next(numbers)}@example.org", "Victoria")


async def found_in_mail(home: Path, address: str, pattern: str) -> str:
    """What a pattern's group matches in a mail to somebody, once that is there."""
    async with asyncio.timeout(20):
        while True:
            for file in (home / "mail").glob("*.eml"):
                mail: Any = message_from_bytes(file.read_bytes(), policy=policy.default)
                found = re.search(pattern, mail.get_content())
                if mail["To"] == address and found:
                    return found[1]
            await asyncio.sleep(0.05)


async def token_for(home: Path, address: str, link: str) -> str:
    """The token of the link in a mail to somebody."""
    return await found_in_mail(home, address, rf"{link}\?token=([^\s&]+)")


async def reset(victim: Person, home: Path) -> None:
    """The mailbox's owner sets a new password with a link."""
    asked = await post(victim.client, "/v1/auth/password/forgot", {"email": victim.email})
    assert asked.status == 202
    token = await token_for(home, victim.email, "/reset-password")
    done = await post(victim.client, "/v1/auth/password/reset", {"token": token, "newPassword": NEW})
    assert done.status == 204, done


@pytest.mark.parametrize("way", ["change", "reset"])
async def test_a_link_for_another_address_ends_with_the_password(
    victim: Person, home: Path, way: str
) -> None:
    """Who had the account for a moment asks for another address, waits until the owner has it back, then clicks."""
    evil = f"evil-{victim.email}"
    assert (await victim.call("POST", EMAIL, {"email": evil, "password": PASSWORD})).status == 202
    token = await token_for(home, evil, "/email/confirm")
    if way == "change":
        body = {"currentPassword": PASSWORD, "newPassword": NEW}
        assert (await victim.call("POST", "/v1/auth/password", body)).status == 204
    else:
        await reset(victim, home)
    late = await post(victim.client, f"{EMAIL}/confirm", {"token": token})
    assert (late.status, late.json["error"]["code"]) == (400, "link_over")
    assert (
        await post(victim.client, "/v1/auth/login", {"email": victim.email, "password": NEW})
    ).status == 200


async def test_who_registered_with_a_strangers_address_loses_every_way_in_to_its_owner(
    victim: Person, home: Path
) -> None:
    """The attacker registered first and made a key; the mailbox's owner, proven by a reset, gets the account alone."""
    made = await victim.call("POST", "/v1/api-keys", {"name": "back door", "scopes": ["workspace:read"]})
    key = {"Authorization": f"Bearer {made.json['key']}"}
    assert (await victim.call("GET", "/v1/auth/me", **key)).status == 200
    await reset(victim, home)
    assert (await victim.call("GET", "/v1/auth/me", **key)).status == 401
    answer = await post(victim.client, "/v1/auth/login", {"email": victim.email, "password": NEW})
    victim.token = answer.json["accessToken"]
    assert (await victim.call("GET", "/v1/auth/profile")).json["emailVerified"] is True

    # from now on a reset proves nothing new, and the owner's own keys stay
    made = await victim.call("POST", "/v1/api-keys", {"name": "mine", "scopes": ["workspace:read"]})
    key = {"Authorization": f"Bearer {made.json['key']}"}
    for file in (home / "mail").glob("*.eml"):
        file.unlink()
    asked = await post(victim.client, "/v1/auth/password/forgot", {"email": victim.email})
    token = await token_for(home, victim.email, "/reset-password")
    again = {"token": token, "newPassword": f"{NEW}-b"}
    assert (asked.status, (await post(victim.client, "/v1/auth/password/reset", again)).status) == (202, 204)
    assert (await victim.call("GET", "/v1/auth/me", **key)).status == 200


async def test_no_sign_in_with_the_old_password_outlives_its_change(victim: Person) -> None:
    """Sign-ins that wait for their turn to be checked while the password is changed: they end with it."""

    async def guess(number: int) -> Any:
        await asyncio.sleep(number * 0.05)
        body = {"email": victim.email, "password": PASSWORD}
        return await post(victim.client, "/v1/auth/login", body, X_Forwarded_For=f"198.51.100.{number + 1}")

    change = {"currentPassword": PASSWORD, "newPassword": NEW}
    changed, *answers = await asyncio.gather(
        victim.call("POST", "/v1/auth/password", change), *(guess(number) for number in range(24))
    )
    assert changed.status == 204
    assert {answer.status for answer in answers} <= {200, 401}
    for answer in answers:
        if answer.status == 200:
            bearer = {"Authorization": f"Bearer {answer.json['accessToken']}"}
            assert (await victim.call("GET", "/v1/auth/me", **bearer)).status == 401
            body = {"refreshToken": answer.json["refreshToken"]}
            assert (await post(victim.client, "/v1/auth/refresh", body)).status == 401


async def test_every_sign_in_is_in_the_audit_log(victim: Person, e2e_dsn: str) -> None:
    connection = await asyncpg.connect(e2e_dsn)
    try:
        rows = await connection.fetch(
            "select details::text from audit_log where tenant_id = $1::uuid and action = 'session.open'"
            " order by occurred_at",
            victim.tenant_id,
        )
    finally:
        await connection.close()
    assert [json.loads(row[0])["by"] for row in rows] == ["registration", "password"]


async def test_a_flood_of_parameters_is_no_error_of_the_server(victim: Person) -> None:
    answer = await call(victim.client, "GET", f"{EMAIL}/confirm?" + "a=1&" * 50)
    assert answer.status == 200


async def test_somebody_new_signs_in_during_a_flood_of_guesses(
    e2e_dsn: str, stand_in: Running, log_dir: Path
) -> None:
    """The queue is full of guesses from a few networks; who comes from elsewhere with an unknown browser gets in."""
    settings = {"GEKO_AUTH_PASSWORD_QUEUE": "4", "GEKO_AUTH_PASSWORD_WORKERS": "1"}
    settings |= {"GEKO_AUTH_PASSWORD_CPU_SHARE": "1", "GEKO_SERVER_TRUSTED_PROXIES": "127.0.0.0/8"}
    environ = geko_environment(e2e_dsn, stand_in.url, **settings)
    with running(["geko_proxy", "serve"], environ, log_dir / "log") as server:
        async with aiohttp.ClientSession(server.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
            honest = await register(client, f"honest{os.getpid()}n{next(numbers)}@example.org", "Hope")
            over = asyncio.Event()
            statuses: list[int] = []

            async def flood(network: int) -> None:
                for number in itertools.count():
                    if over.is_set():
                        return
                    guess = {"email": f"n{number}@example.org", "password": "Wrong-Horse-9"}
                    address = f"203.0.113.{network}"
                    answer = await post(client, "/v1/auth/login", guess, X_Forwarded_For=address)
                    statuses.append(answer.status)
                    await asyncio.sleep(0.02)

            floods = [asyncio.create_task(flood(network)) for network in range(12)]
            try:
                async with asyncio.timeout(40):
                    # the first guess of each network is not yet told from an honest one
                    while statuses.count(503) < 20 or statuses.count(401) < 8:
                        await asyncio.sleep(0.05)
                    for number in range(3):
                        body = {"email": honest.email, "password": PASSWORD}
                        address = f"198.51.100.{number}"
                        came = await post(client, "/v1/auth/login", body, X_Forwarded_For=address)
                        assert came.status == 200, came
            finally:
                over.set()
                await asyncio.gather(*floods)
            assert set(statuses) <= {401, 429, 503}


async def test_a_new_key_is_told_to_its_owner_by_mail(victim: Person, home: Path) -> None:
    """It outlives the session that made it, which may have been stolen."""
    body = {"name": "of {email}", "scopes": ["chat"], "expiresAt": "2099-05-06T00:00:00Z"}
    made = await victim.call("POST", "/v1/api-keys", body)
    text = await found_in_mail(home, victim.email, r"(?s)(an API key .*)")
    assert '"of {email}"' in text
    assert "until 2099-05-06" in text
    assert made.json["key"] not in text


async def test_two_credentials_are_none(victim: Person) -> None:
    """A proxy before GEKO may have looked at the other one."""
    bearer = f"Bearer {victim.token}"
    both = CIMultiDict([("Authorization", bearer), ("Authorization", "Bearer other")])
    for path in ("/v1/auth/me", "/api/user"):
        async with victim.client.get(path, headers=both) as reply:
            assert reply.status == 400
